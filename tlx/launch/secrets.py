"""Secrets reach a run by environment or mount only: never in a command, config, file or log."""

import re
from collections.abc import Callable, Iterable, Mapping

from tlx.base.errors import ConfigError

_WORDS = "secret|password|passwd|api_?key|access_?key|private_?key|access_?token|auth_?token"
_VARIABLE = re.compile(rf"(?i)(^|_)({_WORDS}|token|credentials?)(_|$)")
_KEY = re.compile(rf"(?i)(^|_)({_WORDS})$")
_SHORTEST = 8  # a shorter value is likely to be an ordinary word too


def secret_values(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that hold secrets, by their names."""
    return {
        name: value for name, value in environ.items() if _VARIABLE.search(name) and len(value) >= _SHORTEST
    }


def refuse_secrets(words: Iterable[str], environ: Mapping[str, str]) -> None:
    """ConfigError where a word of a command holds a secret; the message does not."""
    values = secret_values(environ)
    for word in words:
        key = word.partition("=")[0]
        named = "=" in word and _KEY.search(key.rpartition(".")[2])
        held = next((name for name, value in values.items() if value in word), None)
        if named or held:
            raise ConfigError(
                f"{key} would put a secret{f' (${held})' if held else ''} where everybody can read it; "
                "leave it in the environment of the run (launch/README.md, Secrets)"
            )


def hider(environ: Mapping[str, str]) -> Callable[[str], str]:
    """A function that replaces the values of secret variables in a line by ***."""
    values = sorted(secret_values(environ).values(), key=len, reverse=True)
    if not values:
        return lambda line: line
    pattern = re.compile("|".join(map(re.escape, values)))
    return lambda line: pattern.sub("***", line)
