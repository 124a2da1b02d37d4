"""Translation of the keys for rotary positions and attention windows, shared by many families."""

from collections.abc import Mapping, Sequence
from typing import Any

from tlx.base.errors import ConfigError, one_of
from tlx.models.config import ModelConfig
from tlx.models.families.family import MappedField
from tlx.nn.config import RotaryScaling

# {rope_type: keys that its class reads}. Those of the first line stand beside any of them.
KINDS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
_COMMON = ("rope_type", "type", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings")


def scaling_of(parameters: Mapping[str, Any], partial: bool = False) -> RotaryScaling:
    """Convert `rope_parameters` (or `rope_scaling`) to a scaling.

    Args:
        parameters: The group of config.json.
        partial: Whether the family reads partial_rotary_factor.

    Returns:
        The scaling.

    Raises:
        ConfigError: If the kind or a key is unknown, so that another function might be meant.
    """
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind not in KINDS:
        raise ConfigError("config.json: " + one_of("rope_parameters.rope_type", kind, KINDS))
    for key, value in parameters.items():
        # A factor of 1 is no scaling.
        is_known = key in KINDS[kind] or key in _COMMON or (key == "factor" and value == 1)
        if value is not None and not is_known:
            raise ConfigError(
                f"config.json: rope_parameters.{key} = {value!r} is unknown for rope_type = {kind!r}: the positions "
                "might be others"
            )
    if not partial and parameters.get("partial_rotary_factor", 1) != 1:
        raise ConfigError(
            f"config.json: rope_parameters.partial_rotary_factor = {parameters['partial_rotary_factor']!r} must be 1"
        )
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


def by_layer_type(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the rotary parameters of layers without and with a window.

    Args:
        values: The parsed config.json, whose `rope_parameters` has a group for each of the two.

    Returns:
        (those of full_attention, of sliding_attention); empty groups where there are none.

    Raises:
        ConfigError: If `rope_parameters` has other keys.
    """
    groups = values.get("rope_parameters") or {}
    for key in groups:
        if key not in ("full_attention", "sliding_attention"):
            raise ConfigError(
                "config.json: "
                + one_of("a key of rope_parameters", key, ("full_attention", "sliding_attention"))
            )
    return dict(groups.get("full_attention") or {}), dict(groups.get("sliding_attention") or {})


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
