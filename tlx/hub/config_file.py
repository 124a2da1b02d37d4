"""Conversion between config.json and ModelConfig, by the fields of a family.

What one side cannot represent is an error, never a silent approximation.
"""

import dataclasses
import difflib
import json
from collections.abc import Collection, Mapping
from typing import Any

from tlx.base import config as configs
from tlx.base.errors import ConfigError, one_of
from tlx.hub import dead_keys, fp8, stacks
from tlx.models.config import ModelConfig
from tlx.models.families.family import Family, FixedField, MappedField, SameField, replaced
from tlx.nn.config import AttentionConfig, FeedForwardConfig, StateSpaceConfig

# Parts of ModelConfig that are not in the function computed, or that the user chooses.
NOT_COMPARED = ("execution", "dtype", "param_dtype", "vocab_multiple", "init")


class NotRepresentable(ConfigError):
    """A model config that a family's config.json cannot hold.

    `required` maps dotted keys of the run's config to the values with which it could.
    """

    def __init__(self, message: str, required: Mapping[str, Any]):
        super().__init__(message)
        self.required = dict(required)


def named_class(values: Mapping[str, Any]) -> str:
    """Return the class that config.json names; "" if it names none."""
    return (values.get("architectures") or [""])[0]


def read(family: Family, values: Mapping[str, Any], ignore: Collection[str] = ()) -> ModelConfig:
    """Convert the contents of a config.json to a model config.

    Args:
        family: The family whose fields translate the keys.
        values: The parsed config.json.
        ignore: Keys that are skipped even if the family does not know them.

    Returns:
        The validated model config. Absent keys take the defaults of the Hugging Face class.

    Raises:
        ConfigError: If keys or values cannot be represented. One message names all keys that neither the
            family nor the table of dead keys knows; else it names the first value.
    """
    for key in ("quantization_config", "quantization"):
        quantization = values.get(key)
        if not quantization or key in ignore:
            continue
        if not isinstance(quantization, Mapping):
            raise ConfigError(f"config.json: {key} = {_short(quantization)}: must be an object")
        fp8.check_config(quantization, key)
        ignore = (*ignore, key)
    if family.nested:
        values = values.get(family.nested, values)
    if family.stacks:
        values = stacks.joined(values)
    _check_keys(family, values, ignore)
    changes: dict[str, Any] = {}
    for field in family.fields:
        if isinstance(field, SameField):
            changes[field.path] = _to_tlx(field, values.get(field.key, field.default))
        elif isinstance(field, FixedField):
            value = values.get(field.key, field.values[0])
            if value not in field.values:
                raise ConfigError("config.json: " + one_of(field.key, value, field.values))
        else:
            changes |= field.read(values)
    config = replaced(family.base, changes)
    # The round trip through a dict checks the types of what came from JSON.
    config = configs.from_dict(ModelConfig, configs.to_dict(config), "config.json: model")
    config.validate()
    _check_rotated(config)
    return config


def write(family: Family, config: ModelConfig) -> dict[str, Any]:
    """Convert a model config to the keys of a family's config.json.

    Raises NotRepresentable naming the fields that the family's format cannot represent.
    """
    values: dict[str, Any] = {}
    config = _explicit(config)
    for field in family.fields:
        if isinstance(field, SameField):
            values[field.key] = _to_hugging_face(field, _get_field(config, field.path))
        elif isinstance(field, FixedField):
            values[field.key] = field.values[0]
        else:
            values |= field.write(config)
    # Reading back shows every field that was lost on the way.
    restored = configs.flatten(configs.to_dict(_comparable(read(family, values))))
    expected = configs.flatten(configs.to_dict(_comparable(config)))
    lost = {}
    for path, value in expected.items():
        if path.split(".")[0] not in NOT_COMPARED and restored[path] != value:
            lost[f"model.{path}"] = restored[path]
    if lost:
        path = next(iter(lost))
        more = f"; {len(lost) - 1} more: {', '.join(list(lost)[1:])}" if len(lost) > 1 else ""
        raise NotRepresentable(
            f"{path} = {expected[path.removeprefix('model.')]!r} cannot be represented in a "
            f"{family.model_type} config.json, where it is {lost[path]!r}{more}",
            lost,
        )
    return stacks.split(values) if family.stacks else values


def _check_keys(family: Family, values: Mapping[str, Any], ignore: Collection[str]) -> None:
    """Raise ConfigError with every key that the family does not know and that may change the function."""
    known = {key for field in family.fields for key in _keys(field)}
    problems = []
    for key, value in values.items():
        if key in known or key in ignore or value is None:
            continue
        dead = dead_keys.find(family.model_type, key)
        if dead is None:
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.85)
            hint = f" (did you mean {nearest[0]}?)" if nearest else ""
            problems.append((key, f"{key} = {_short(value)}: unknown{hint}"))
        elif dead.values and value not in dead.values:
            legal = " or ".join(json.dumps(legal_value) for legal_value in dead.values)
            problems.append((key, f"{key} = {_short(value)}: must be {legal} ({dead.reason})"))
    if not problems:
        return
    lines = "\n".join(f"  {problem}" for _, problem in problems)
    keys = [key for key, _ in problems]
    raise ConfigError(
        f"config.json: the family {family.name} does not know what to do with {len(keys)} "
        f"key{'s' if len(keys) > 1 else ''}, so that the model might be another one:\n{lines}\n"
        f"Pass ignore={tuple(keys)!r} ({' '.join(f'--ignore={key}' for key in keys)}) for those that do not matter"
    )


def _check_rotated(config: ModelConfig) -> None:
    """Raise ConfigError for an odd number of rotated dims, which Hugging Face's classes round up and tlx down."""
    if config.position.kind != "rotary":
        return
    head_dim = config.block("encoder").head_dim
    rotated = int(head_dim * config.position.rotary_fraction)
    if rotated % 2:
        raise ConfigError(
            f"config.json: {config.position.rotary_fraction} of a head of {head_dim} dims is {rotated} rotated dims: "
            "tlx rotates an even number (rotary_pct, partial_rotary_factor)"
        )


def _short(value: Any) -> str:
    """Show a value of config.json in at most 60 characters."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _explicit(config: ModelConfig) -> ModelConfig:
    """Replace sizes of 0 by the sizes that they stand for."""
    block = config.block("encoder")
    decoder = config.block("decoder")
    has_same_heads = config.num_decoder_heads in (0, config.attention.num_heads)
    return replaced(
        config,
        {
            # With unlike numbers of heads a size of 0 stands for another one in each stack.
            "attention.head_dim": block.head_dim if has_same_heads else config.attention.head_dim,
            "num_decoder_heads": 0 if has_same_heads else config.num_decoder_heads,
            "decoder_ff_dim": 0 if decoder.ff_dim == block.ff_dim else decoder.ff_dim,
            "attention.num_kv_heads": block.num_kv_heads,
            "attention.global_kv_heads": config.attention.global_head_dim
            and (config.attention.global_kv_heads or block.num_kv_heads),
            "feedforward.ff_dim": block.ff_dim,
            "num_decoder_layers": config.decoder_layers,
            "mixer": () if block.mixers == ("attention",) else _shortest(config.mixer),
            "state_space.num_heads": block.state_heads,
        },
    )


def _shortest(pattern: tuple[str, ...]) -> tuple[str, ...]:
    """Return a pattern of one kind as that kind alone."""
    return pattern[:1] if len(set(pattern)) == 1 else pattern


def _comparable(config: ModelConfig) -> ModelConfig:
    """Make sizes explicit and reset fields that have no effect on this model."""
    config = _explicit(config)
    if config.position.kind in ("none", "relative_bias", "relative_sinusoidal", "alibi") and (
        not config.position.absolute
    ):
        config = replaced(config, {"position.max_length": 0})
    mixers = config.block("encoder").mixers
    unread = {}
    if "attention" not in mixers:
        unread["attention"] = AttentionConfig()
    if "state_space" not in mixers:
        unread["state_space"] = StateSpaceConfig()
    if config.feedforward.absent:
        unread["feedforward"] = FeedForwardConfig(absent=True)
    return dataclasses.replace(config, **unread)


def _keys(field: SameField | FixedField | MappedField) -> tuple[str, ...]:
    if isinstance(field, MappedField):
        return tuple(field.keys)
    return (field.key,)


def _to_tlx(field: SameField, value: Any) -> Any:
    """Translate a value of config.json."""
    if field.names is None:
        return value
    if value not in field.names:
        raise ConfigError("config.json: " + one_of(field.key, value, field.names))
    return field.names[value]


def _to_hugging_face(field: SameField, value: Any) -> Any:
    """Translate a value of ModelConfig; of several names for it, the first."""
    if field.names is None:
        return value
    for hugging_face_value, tlx_value in field.names.items():
        if tlx_value == value:
            return hugging_face_value
    raise ConfigError(one_of(f"model.{field.path}", value, set(field.names.values())))


def _get_field(config: ModelConfig, path: str) -> Any:
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return value
