"""Translation of the keys for rotary positions and attention windows, shared by many families."""

from collections.abc import Mapping, Sequence
from typing import Any

from tlx.base.errors import ConfigError, one_of
from tlx.models.config import ModelConfig
from tlx.models.families.family import MappedField
from tlx.nn.config import RotaryScaling

KINDS = ("default", "linear", "llama3")


def scaling_of(parameters: Mapping[str, Any]) -> RotaryScaling:
    """Convert `rope_parameters` (or `rope_scaling`) to a scaling. Raises ConfigError for an unknown kind."""
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind not in KINDS:
        raise ConfigError("config.json: " + one_of("rope_parameters.rope_type", kind, KINDS))
    if kind == "default":
        return RotaryScaling()
    if kind == "linear":
        return RotaryScaling(kind, float(parameters["factor"]))
    return RotaryScaling(
        kind,
        float(parameters["factor"]),
        float(parameters["low_freq_factor"]),
        float(parameters["high_freq_factor"]),
        int(parameters["original_max_position_embeddings"]),
    )


def parameters_of(theta: float, scaling: RotaryScaling) -> dict[str, Any]:
    """Convert theta and a scaling to `rope_parameters`."""
    values: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    if scaling.kind != "none":
        values |= {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "llama3":
        values |= {
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_length,
        }
    return values


def rope(default_theta: float, theta_key: str = "rope_theta") -> MappedField:
    """Return the field of theta and scaling: `rope_parameters`, or the older keys for each."""

    def read(values: Mapping[str, Any]) -> dict[str, Any]:
        parameters = dict(values.get("rope_scaling") or {}) | dict(values.get("rope_parameters") or {})
        theta = parameters.get("rope_theta", values.get(theta_key, default_theta))
        return {"position.theta": float(theta), "position.scaling": scaling_of(parameters)}

    def write(config: ModelConfig) -> dict[str, Any]:
        parameters = parameters_of(config.position.theta, config.position.scaling)
        scaling = None
        if config.position.scaling.kind != "none":
            scaling = {name: value for name, value in parameters.items() if name != "rope_theta"}
        return {
            "rope_parameters": parameters,
            theta_key: config.position.theta,
            "rope_scaling": scaling,
        }

    return MappedField(("rope_parameters", "rope_scaling", theta_key), read, write)


def windows_of(kinds: Sequence[str], window: int) -> dict[str, Any]:
    """Convert `layer_types` to the window of each layer, as the shortest repeating pattern."""
    known = ("sliding_attention", "full_attention")
    for kind in kinds:
        if kind not in known:
            raise ConfigError("config.json: " + one_of("layer_types", kind, known))
    sizes = [window if kind == "sliding_attention" else 0 for kind in kinds]
    period = next(
        period
        for period in range(1, len(sizes) + 1)
        if all(size == sizes[i % period] for i, size in enumerate(sizes))
    )
    if period == 1:
        return {"attention.window": sizes[0], "attention.window_pattern": ()}
    return {"attention.window": 0, "attention.window_pattern": tuple(sizes[:period])}


def kinds_of(config: ModelConfig) -> list[str]:
    """Return the `layer_types` of a model."""
    windows = config.attention.window_pattern or (config.attention.window,)
    return [
        "sliding_attention" if windows[i % len(windows)] else "full_attention"
        for i in range(config.num_layers)
    ]
