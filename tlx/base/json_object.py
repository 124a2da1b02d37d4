"""JSON objects of files that come from anybody: a key that stands twice is an error."""

import json
from typing import Any

# Longest key of an object that `parse_object` reads, in characters; names of tensors are keys.
_LONGEST_KEY = 500


class RepeatedKey(ValueError):
    """An object names a key twice, of which programs read one or the other."""


def parse_object(data: bytes) -> Any:
    """Parse JSON, in whose objects no key stands twice or is very long; ValueError or RecursionError otherwise."""
    return json.loads(data, object_pairs_hook=_without_long_keys)


def check_keys(data: bytes) -> None:
    """Raise RepeatedKey where JSON names a key of an object twice; what is no JSON is left to its reader."""
    try:
        json.loads(data, object_pairs_hook=_without_repeated_keys)
    except RepeatedKey:
        raise
    except (ValueError, RecursionError):
        return


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise RepeatedKey(f"the key {name!r} stands twice")
            seen.add(name)
    return values


def _without_long_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = _without_repeated_keys(pairs)
    longest = max(map(len, values), default=0)
    if longest > _LONGEST_KEY:
        raise ValueError(f"a key has {longest} characters")
    return values
