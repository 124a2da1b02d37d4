"""Nested frozen dataclasses from plain mappings and back; unknown keys and wrong types are errors."""

import dataclasses
import types
import typing
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from tlx.base import renamed_keys
from tlx.base.errors import ConfigError, one_of

T = TypeVar("T")


def from_dict(cls: type[T], values: Mapping[str, Any], path: str = "config") -> T:
    """Builds the dataclass `cls` from `values`, nested dataclasses included.

    Raises ConfigError naming the key (`path.key`), the legal keys or the expected type.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise unknown_key(path, key, fields)
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ConfigError(f"{path}.{name} is missing")
    built = {key: _convert(hints[key], value, f"{path}.{key}") for key, value in values.items()}
    return cls(**built)


def unknown_key(path: str, key: str, legal: Collection[str]) -> ConfigError:
    """The error for a key that the group at `path` does not have: names its new name, or the nearest key."""
    new = renamed_keys.new_name(path, key, legal)
    if new is not None:
        return ConfigError(f"{path}.{key} is now called {path}.{new}")
    return ConfigError("unknown key: " + one_of(path, key, legal))


def to_dict(config: Any) -> Any:
    """Plain dicts, lists and scalars (what JSON and ConfigDict hold) from nested dataclasses."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_dict(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {key: to_dict(value) for key, value in config.items()}
    if isinstance(config, tuple | list):
        return [to_dict(value) for value in config]
    return config


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a.b": value} from nested mappings, for printing and comparing configs."""
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
    return ConfigError(one_of(path, value, legal))


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path} = {value!r} must be a group of {hint.__name__}'s keys")
        return from_dict(hint, value, path)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(hint, value, path)
    if origin is tuple:
        return _convert_tuple(hint, value, path)
    if origin is typing.Literal:
        if value not in typing.get_args(hint):
            raise _unknown_value(path, value, typing.get_args(hint))
        return value
    if origin in (dict, Mapping) or hint is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path} = {value!r} must be a group of keys")
        return {key: to_dict(item) for key, item in value.items()}
    return _convert_scalar(hint, value, path)


def _convert_union(hint: Any, value: Any, path: str) -> Any:
    options = [option for option in typing.get_args(hint) if option is not type(None)]
    if value is None:
        if len(options) == len(typing.get_args(hint)):
            raise ConfigError(f"{path} must not be None")
        return None
    errors = []
    for option in options:
        try:
            return _convert(option, value, path)
        except ConfigError as error:
            errors.append(error)
    raise errors[0]


def _convert_tuple(hint: Any, value: Any, path: str) -> tuple:
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise ConfigError(f"{path} = {value!r} must be a list")
    items = list(value)
    inner = typing.get_args(hint)
    if len(inner) == 2 and inner[1] is Ellipsis:
        return tuple(_convert(inner[0], item, f"{path}[{i}]") for i, item in enumerate(items))
    if inner and len(inner) != len(items):
        raise ConfigError(f"{path} = {value!r} must have {len(inner)} items")
    return tuple(
        _convert(kind, item, f"{path}[{i}]") for i, (kind, item) in enumerate(zip(inner, items, strict=True))
    )


def _convert_scalar(hint: Any, value: Any, path: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) and hint is not bool or not isinstance(value, hint):
        raise ConfigError(f"{path} = {value!r} must be {hint.__name__}, not {type(value).__name__}")
    return value
