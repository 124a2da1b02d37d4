"""Documentation of the fields of dataclasses: the string literal below each, read from the source."""

import ast
import dataclasses
import functools
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

from tlx.base.lookup import Table

_SCALARS = {int: "integer", float: "number", str: "text", bool: "True or False", type(None): "None"}

_LONGEST_DEFAULT = 160


class KeyDoc(NamedTuple):
    """A key of a config, or a group of keys."""

    key: str
    """Dotted key; "[]" stands for each item of a list of groups."""
    meaning: str
    """The documentation of its field."""
    type: str
    """Type in words, with the legal values where they are listed in code."""
    default: str
    """Default as Python writes it; "required" where there is none, empty for a group."""
    is_group: bool
    """Whether it is a group of keys."""


def field_docs(kind: type) -> dict[str, str]:
    """Return {field: the string literal below it} of a dataclass, fields of its base classes included."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if dataclasses.is_dataclass(base):
            docs |= _docs_in_source(base)
    return docs


def key_docs(kind: type, prefix: str, values: Any = None) -> Iterator[KeyDoc]:
    """Yield the documentation of every key of a config dataclass, each group before its keys.

    Args:
        kind: the dataclass.
        prefix: dotted key of the group, with a dot at its end; "" for a whole config.
        values: an instance, whose values are the defaults; None takes the fields' own.
    """
    docs = field_docs(kind)
    hints = typing.get_type_hints(kind, include_extras=True)
    fields: Any = dataclasses.fields(typing.cast(Any, kind))
    for field in fields:
        default = _default(field) if values is None else getattr(values, field.name)
        key = prefix + field.name
        group, is_list = _group_of(hints[field.name])
        is_group = hints[field.name] is Any or group is not None and not is_list
        shown = "" if is_group else _shown(default)
        yield KeyDoc(key, docs.get(field.name, ""), type_in_words(hints[field.name]), shown, is_group)
        if group is not None:
            inner = default if dataclasses.is_dataclass(default) else None
            yield from key_docs(group, f"{key}[]." if is_list else f"{key}.", inner)


def type_in_words(hint: Any) -> str:
    """Return a type hint in words, with all values of a Literal or a lookup table."""
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin is typing.Annotated:
        tables = [note for note in arguments[1:] if isinstance(note, Table)]
        if tables:
            return f'one of: {", ".join(tables[0])}; or "package.module:attr"'
        return type_in_words(arguments[0])
    if origin is typing.Literal:
        return f"one of: {', '.join(map(repr, arguments))}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_in_words(one) for one in arguments)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return f"list of {type_in_words(arguments[0])}"
    if origin is tuple:
        return f"({', '.join(type_in_words(one) for one in arguments)})"
    return _SCALARS.get(hint, "group of keys")


@functools.cache
def _docs_in_source(kind: type) -> dict[str, str]:
    """Return {field: documentation} of the fields that stand in a class's own body."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    docs = {}
    for statement, below in itertools.pairwise(definition.body):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            docs[statement.target.id] = " ".join(str(below.value.value).split())
    return docs


def _group_of(hint: Any) -> tuple[type | None, bool]:
    """Return the dataclass that a hint holds, and whether it holds a list of them; (None, False) without one."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return hint, False
    is_list = typing.get_origin(hint) is tuple
    for argument in typing.get_args(hint):
        group, inside = _group_of(argument)
        if group is not None:
            return group, is_list or inside
    return None, False


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _shown(value: Any) -> str:
    shown = "required" if value is dataclasses.MISSING else repr(value)
    return shown if len(shown) <= _LONGEST_DEFAULT else shown[: _LONGEST_DEFAULT - 4] + " ..."
