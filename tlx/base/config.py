"""Converts plain mappings to nested frozen dataclasses and back, with type checks."""

import dataclasses
import sys
import types
import typing
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from tlx.base import renamed_keys
from tlx.base.errors import ConfigError, one_of, shown
from tlx.base.lookup import Allowed
from tlx.base.synonyms import canonical, unknown_value

T = TypeVar("T")

# Bounds of the numbers of a config: those of int64 and of float64.
_LARGEST_INT = 2**63
_LARGEST_FLOAT = sys.float_info.max


def from_dict(cls: type[T], values: Mapping[str, Any], path: str = "config", allow: Allowed = ()) -> T:
    """Build a dataclass from a mapping, with nested dataclasses.

    Args:
        cls: Type of the dataclass.
        values: Values by field; fields with a default may be missing.
        path: Dotted key of `values`, for messages.
        allow: Packages outside tlx that fields annotated with a lookup table may name code of; None: every one, for
            what the user wrote.

    Returns:
        An instance of `cls`.

    Raises:
        ConfigError: A key is unknown or missing, a value has the wrong type, or a name is not allowed.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    dataclass_type: Any = cls  # T has no bound: there is no public type of all dataclasses
    fields = {field.name: field for field in dataclasses.fields(dataclass_type)}
    for key in values:
        if key not in fields:
            raise unknown_key(path, key, fields)
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ConfigError(f"{path}.{name} is missing")
    built = {key: _convert(hints[key], value, f"{path}.{key}", allow) for key, value in values.items()}
    return cls(**built)


def unknown_key(path: str, key: str, legal: Collection[str]) -> ConfigError:
    """Make the error for an unknown key, with its new name or the nearest legal key.

    Args:
        path: Dotted key of the group.
        key: The unknown key.
        legal: Keys of the group.

    Returns:
        The error, to be raised.
    """
    new = renamed_keys.new_name(path, key, legal)
    if new is not None:
        return ConfigError(f"{path}.{key} is now called {path}.{new}")
    return ConfigError("unknown key: " + one_of(path, key, legal))


def to_dict(config: Any) -> Any:
    """Convert nested dataclasses to plain dicts, lists and scalars, as JSON and ConfigDict hold."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_dict(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {key: to_dict(value) for key, value in config.items()}
    if isinstance(config, tuple | list):
        return [to_dict(value) for value in config]
    return config


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to {"a.b": value}, for printing and comparing configs."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _unknown_value(path: str, value: Any, legal: Collection[Any]) -> ConfigError:
    new = renamed_keys.new_value(path, value)
    if new in legal:
        return ConfigError(f"{path} = {value!r} is now called {new!r}")
    return unknown_value(path, value, legal)


def _convert(hint: Any, value: Any, path: str, allow: Allowed) -> Any:
    """Check a value against a type hint and convert it; `path` is its dotted key."""
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin is typing.Annotated:
        inner, *tables = typing.get_args(hint)
        name = _convert(inner, value, path, allow)
        for table in tables:
            table.check(name, allow)
        return name
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path} = {shown(value)} must be a group of {hint.__name__}'s keys")
        return from_dict(hint, value, path, allow)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(hint, value, path, allow)
    if origin is tuple:
        return _convert_tuple(hint, value, path, allow)
    if origin is typing.Literal:
        legal = typing.get_args(hint)
        return _convert_literal(legal, canonical(path, value, legal), path)
    if origin in (dict, Mapping) or hint is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path} = {shown(value)} must be a group of keys")
        return {key: to_dict(item) for key, item in value.items()}
    return _convert_scalar(hint, value, path)


def _convert_union(hint: Any, value: Any, path: str, allow: Allowed) -> Any:
    """Convert to the first option of a union that fits; reports the error of the first option."""
    options = [option for option in typing.get_args(hint) if option is not type(None)]
    if value is None:
        if len(options) == len(typing.get_args(hint)):
            raise ConfigError(f"{path} must not be None")
        return None
    errors = []
    for option in options:
        try:
            return _convert(option, value, path, allow)
        except ConfigError as error:
            errors.append(error)
    raise errors[0]


def _convert_literal(legal: tuple[Any, ...], value: Any, path: str) -> Any:
    """Return the legal value that equals `value`; True is not 1, though Python says so."""
    for item in legal:
        if item == value and isinstance(item, bool) == isinstance(value, bool):
            return item
    raise _unknown_value(path, value, legal)


def _convert_tuple(hint: Any, value: Any, path: str, allow: Allowed) -> tuple:
    if isinstance(value, str) and _takes_texts(hint):
        return (value,)
    # bytes would be a list of numbers, a mapping one of its keys, and a set has no order.
    if isinstance(value, str | bytes | Mapping | set | frozenset) or not hasattr(value, "__iter__"):
        raise ConfigError(f"{path} = {shown(value)} must be a list")
    items = list(value)
    inner = typing.get_args(hint)
    if len(inner) == 2 and inner[1] is Ellipsis:
        return tuple(_convert(inner[0], item, f"{path}[{i}]", allow) for i, item in enumerate(items))
    if inner and len(inner) != len(items):
        raise ConfigError(f"{path} = {shown(value)} must have {len(inner)} items")
    converted = []
    for i, (item_hint, item) in enumerate(zip(inner, items, strict=True)):
        converted.append(_convert(item_hint, item, f"{path}[{i}]", allow))
    return tuple(converted)


def _takes_texts(hint: Any) -> bool:
    """Whether a hint is of a tuple of any number of texts, for which one text may stand."""
    inner = typing.get_args(hint)
    if len(inner) != 2 or inner[1] is not Ellipsis:
        return False
    item = inner[0]
    if typing.get_origin(item) is typing.Annotated:
        item = typing.get_args(item)[0]
    # The items of a pair (pattern, factor) are no alternatives, as those of a union are.
    is_union = typing.get_origin(item) in (typing.Union, types.UnionType)
    return item is str or (is_union and str in typing.get_args(item))


def _convert_scalar(hint: Any, value: Any, path: str) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    # NaN, infinity, and integers that no array holds: never meant, and they surface far from here.
    if number and hint in (int, float) and not abs(value) < _LARGEST_FLOAT:
        raise ConfigError(f"{path} = {shown(value)} must be finite")
    if number and hint is int and not abs(value) < _LARGEST_INT:
        raise ConfigError(f"{path} = {shown(value)} must be smaller than 2**63")
    if number and hint is float:
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    # bool is a subclass of int, but no number.
    if isinstance(value, bool) and hint is not bool or not isinstance(value, hint):
        raise ConfigError(f"{path} = {shown(value)} must be {hint.__name__}, not {type(value).__name__}")
    return canonical(path, value) if hint is str else value
