"""Tables from names in configs to code, imported only when it is used."""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from tlx.base.errors import ConfigError
from tlx.base.synonyms import unknown_value

# Trusted packages outside tlx; None: every package.
Allowed: TypeAlias = tuple[str, ...] | None


class Table(Mapping[str, str]):
    """Mapping from names to "module:attr" strings; the only way in which names in configs become code.

    A name of the form "package.module:attr" refers to code outside tlx. It is refused unless its top-level
    package is in `allow`, so that a name read from a file cannot execute other code. Fields of configs that hold
    such names are annotated with their table, which `from_dict` checks.
    """

    def __init__(self, kind: str, entries: Mapping[str, str]):
        self.kind = kind
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> str:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def check(self, name: str, allow: Allowed = ()) -> None:
        """Raise ConfigError where a name is of code outside tlx that is not allowed. Imports nothing."""
        package = outside_package(name)
        if name in self._entries or package is None or allow is None or package in allow:
            return
        raise ConfigError(
            f"{self.kind} = {name!r} is code outside tlx; pass allow=({package!r},) (--allow={package}) if you "
            "trust it"
        )

    def load(self, name: str, *, allow: Allowed = ()) -> Any:
        """Import the object of a name.

        Args:
            name: A name of the table, or "package.module:attr".
            allow: Trusted packages outside tlx. None trusts every package: for a name that the user wrote, and for
                one of a config that `from_dict` has checked.

        Returns:
            The object.

        Raises:
            ConfigError: The name is unknown, not allowed, or cannot be imported.
        """
        self.check(name, allow)
        target = self._entries.get(name)
        if target is None:
            if ":" not in name:
                raise unknown_value(self.kind, name, self._entries)
            target = name
        module, _, attr = target.partition(":")
        try:
            return getattr(importlib.import_module(module), attr)
        except (ModuleNotFoundError, AttributeError, ValueError, TypeError) as error:
            if target in self._entries.values():
                raise
            raise ConfigError(f"{self.kind} = {name!r} cannot be imported: {error}") from error


def outside_package(name: Any) -> str | None:
    """Return the top-level package of a name of the form "package.module:attr"; None for any other value."""
    if not isinstance(name, str) or ":" not in name:
        return None
    return name.split(".")[0].split(":")[0]
