"""Translation of the keys for rotary positions and attention windows, shared by many families."""

import dataclasses
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
    "yarn": (
        "factor",
        "beta_fast",
        "beta_slow",
        "truncate",
        "attention_factor",
        "mscale",
        "mscale_all_dim",
    ),
    "dynamic": ("factor",),
    "longrope": ("factor", "short_factor", "long_factor", "attention_factor"),
}
# Kinds by the names of older releases.
_OLD_KINDS = {"su": "longrope"}
_COMMON = ("rope_type", "type", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings")


def scaling_of(
    parameters: Mapping[str, Any], partial: bool = False, values: Mapping[str, Any] | None = None
) -> RotaryScaling:
    """Convert `rope_parameters` (or `rope_scaling`) to a scaling.

    Args:
        parameters: The group of config.json.
        partial: Whether the family reads partial_rotary_factor.
        values: The parsed config.json, of which some kinds read lengths; None where they are not allowed.

    Returns:
        The scaling.

    Raises:
        ConfigError: If the kind or a key is unknown, so that another function might be meant.
    """
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    kind = _OLD_KINDS.get(kind, kind)
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
    if kind != "llama3":
        return _scaling_by_length(kind, parameters, values or {})
    return RotaryScaling(
        kind,
        float(parameters["factor"]),
        float(parameters["low_freq_factor"]),
        float(parameters["high_freq_factor"]),
        int(parameters["original_max_position_embeddings"]),
    )


def _scaling_by_length(kind: Any, parameters: Mapping[str, Any], values: Mapping[str, Any]) -> RotaryScaling:
    """Convert the parameters of YaRN, dynamic NTK scaling and LongRoPE, which need an original length."""
    longest = values.get("max_position_embeddings", 0)
    original = values.get("original_max_position_embeddings") or parameters.get(
        "original_max_position_embeddings", longest
    )
    if kind == "dynamic":
        # Its class reads no other length.
        original = longest
    if not original:
        raise ConfigError(
            f"config.json: rope_parameters.rope_type = {kind!r} needs original_max_position_embeddings, "
            "the length of the first training"
        )
    factor = parameters.get("factor")
    if factor is None:
        factor = longest / original
    scaling = RotaryScaling(kind, float(factor), original_length=int(original))
    names = {"attention_factor": "attention_factor"}
    if kind == "yarn":
        names |= {name: name for name in ("beta_fast", "beta_slow", "mscale", "mscale_all_dim")}
        scaling = dataclasses.replace(scaling, truncate=parameters.get("truncate", True))
    changes: dict[str, Any] = {
        field: float(parameters[key]) for key, field in names.items() if parameters.get(key)
    }
    if kind == "longrope":
        changes["short_factors"] = tuple(map(float, parameters["short_factor"]))
        changes["long_factors"] = tuple(map(float, parameters["long_factor"]))
    return dataclasses.replace(scaling, **changes)


def parameters_of(theta: float, scaling: RotaryScaling) -> dict[str, Any]:
    """Convert theta and a scaling to `rope_parameters`."""
    values: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    if scaling.kind != "none":
        values |= {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "proportional":
        # Its class knows no factor of 1.
        factor = {} if scaling.factor == 1 else {"factor": scaling.factor}
        values = {"rope_type": scaling.kind, "rope_theta": theta} | factor
        values["partial_rotary_factor"] = scaling.rotated_fraction
    if scaling.kind == "llama3":
        values |= {
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_length,
        }
    if scaling.kind == "yarn":
        values |= {
            "beta_fast": scaling.beta_fast,
            "beta_slow": scaling.beta_slow,
            "truncate": scaling.truncate,
            "original_max_position_embeddings": scaling.original_length,
        }
        values |= {
            key: getattr(scaling, key) for key in ("mscale", "mscale_all_dim") if getattr(scaling, key)
        }
    if scaling.kind == "longrope":
        values |= {
            "short_factor": list(scaling.short_factors),
            "long_factor": list(scaling.long_factors),
            "original_max_position_embeddings": scaling.original_length,
        }
    if scaling.attention_factor:
        values["attention_factor"] = scaling.attention_factor
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


def rope(default_theta: float, theta_key: str = "rope_theta", default_fraction: float = 0.0) -> MappedField:
    """Return the field of theta and scaling: `rope_parameters`, or the older keys for each.

    Args:
        default_theta: theta where no key gives it.
        theta_key: Older key of theta.
        default_fraction: Fraction of each head that is rotated where no key gives it; 0: the family always rotates
            the whole head.

    Returns:
        The field.
    """
    fraction_key = "partial_rotary_factor"

    def read(values: Mapping[str, Any]) -> dict[str, Any]:
        parameters = dict(values.get("rope_scaling") or {}) | dict(values.get("rope_parameters") or {})
        theta = parameters.get("rope_theta", values.get(theta_key, default_theta))
        changes: dict[str, Any] = {
            "position.theta": float(theta),
            "position.scaling": scaling_of(parameters, bool(default_fraction), values),
        }
        if default_fraction:
            fraction = parameters.get(fraction_key, values.get(fraction_key, default_fraction))
            changes["position.rotary_fraction"] = float(fraction)
        return changes

    def write(config: ModelConfig) -> dict[str, Any]:
        parameters = parameters_of(config.position.theta, config.position.scaling)
        fraction = {fraction_key: config.position.rotary_fraction} if default_fraction else {}
        parameters |= fraction
        scaling = None
        if config.position.scaling.kind != "none":
            scaling = {name: value for name, value in parameters.items() if name != "rope_theta"}
        return {
            "rope_parameters": parameters,
            theta_key: config.position.theta,
            "rope_scaling": scaling,
            **fraction,
        }

    keys = ("rope_parameters", "rope_scaling", theta_key)
    return MappedField((*keys, fraction_key) if default_fraction else keys, read, write)


def windows_of(kinds: Sequence[str], window: int) -> dict[str, Any]:
    """Convert `layer_types` to the window of each layer, as the shortest repeating pattern."""
    known = ("sliding_attention", "full_attention")
    for kind in kinds:
        if kind not in known:
            raise ConfigError("config.json: " + one_of("layer_types", kind, known))
    sizes = shortest_pattern([window if kind == "sliding_attention" else 0 for kind in kinds])
    if len(sizes) == 1:
        return {"attention.window": sizes[0], "attention.window_pattern": ()}
    return {"attention.window": 0, "attention.window_pattern": sizes}


def shortest_pattern(values: Sequence[Any]) -> tuple[Any, ...]:
    """Return the shortest pattern of which the values of all layers are repetitions, the last one perhaps cut."""
    period = next(
        period
        for period in range(1, len(values) + 1)
        if all(value == values[i % period] for i, value in enumerate(values))
    )
    return tuple(values[:period])


def kinds_of(config: ModelConfig) -> list[str]:
    """Return the `layer_types` of a model."""
    windows = config.attention.windows
    return [
        "sliding_attention" if windows[i % len(windows)] else "full_attention"
        for i in range(config.num_layers)
    ]
