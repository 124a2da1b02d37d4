"""The ConfigDict of a run, in which one text may stand for a list of texts."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict


class RunConfigDict(ConfigDict):
    """A ConfigDict in which `config.data.text.files = "input.txt"` means ("input.txt",).

    A ConfigDict takes a value of another type than the first for an error. Any text in place of a tuple becomes a
    tuple of one text; its type is checked where the config is converted to its dataclass.
    """

    def __setitem__(self, key: str, value: Any) -> None:
        """Set a key; a text replaces a tuple, a group another class of group, and no bool a float."""
        old = vars(self).get("_fields", {}).get(key)
        text_for_tuple = isinstance(value, str) and isinstance(old, tuple)
        group_for_group = isinstance(value, ConfigDict) and isinstance(old, ConfigDict)
        if isinstance(value, bool) and isinstance(old, float):
            # A ConfigDict would make 0.0 of False.
            raise TypeError(f"{key} = {value} must be float, not bool")
        if text_for_tuple or group_for_group:
            with self.ignore_type():
                super().__setitem__(key, (value,) if text_for_tuple else value)
        else:
            super().__setitem__(key, value)


def nested_config_dict(values: Mapping[str, Any]) -> RunConfigDict:
    """Return nested mappings as RunConfigDicts at every level."""
    config = RunConfigDict()
    for key, value in values.items():
        config[key] = nested_config_dict(value) if isinstance(value, Mapping) else value
    # As ConfigDict(values) is: a misspelt key is an error and not a new key.
    config.lock()
    return config
