"""Tables from a name to the code behind it, imported only when asked for."""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from tlx.base.errors import ConfigError, one_of


class Table(Mapping[str, str]):
    """Names to "module:attr" strings. What a config says is looked up here and nowhere else.

    A name of the form "package.module:attr" reaches code outside tlx; `load` refuses it unless its
    top-level package is in `allow`, so that a config read from a checkpoint cannot execute anything.
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
        """The object called `name`. `allow=None` trusts any package (a config the user named)."""
        target = self._entries.get(name)
        if target is None:
            if ":" not in name:
                raise ConfigError(one_of(self.kind, name, self._entries))
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
