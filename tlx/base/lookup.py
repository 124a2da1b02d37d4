"""Tables from names in configs to code, imported only when it is used."""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from tlx.base.errors import ConfigError
from tlx.base.synonyms import unknown_value


class Table(Mapping[str, str]):
    """Mapping from names to "module:attr" strings; the only way in which names in configs become code.

    A name of the form "package.module:attr" refers to code outside tlx. `load` refuses it unless its
    top-level package is in `allow`, so that a config read from a checkpoint cannot execute other code.
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

    def load(self, name: str, *, allow: tuple[str, ...] | None = None) -> Any:
        """Import the object of a name.

        `allow` lists the trusted packages outside tlx; None trusts every package, for a config that the user
        named. Raises ConfigError where the name is unknown, not allowed, or cannot be imported.
        """
        target = self._entries.get(name)
        if target is None:
            if ":" not in name:
                raise unknown_value(self.kind, name, self._entries)
            package = name.split(".")[0].split(":")[0]
            if allow is not None and package not in allow:
                raise ConfigError(
                    f"{self.kind} = {name!r} is code outside tlx; pass allow=({package!r},) if you trust it"
                )
            target = name
        module, _, attr = target.partition(":")
        try:
            return getattr(importlib.import_module(module), attr)
        except (ModuleNotFoundError, AttributeError, ValueError, TypeError) as error:
            if target in self._entries.values():
                raise
            raise ConfigError(f"{self.kind} = {name!r} cannot be imported: {error}") from error
