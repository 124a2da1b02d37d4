"""Protection of secrets: they reach a run by environment or mount, never by command, config, file or log."""

import re
from collections.abc import Callable, Iterable, Mapping

from tlx.base.errors import ConfigError

_WORDS = "secret|password|passwd|api_?key|access_?key|private_?key|access_?token|auth_?token"
_VARIABLE = re.compile(rf"(?i)(^|_)({_WORDS}|token|credentials?)(_|$)")
_KEY = re.compile(rf"(?i)(^|_)({_WORDS})$")
# A shorter value is likely to be an ordinary word too.
_SHORTEST = 8


def secret_values(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that hold secrets, judged by their names."""
    return {
        name: value for name, value in environ.items() if _VARIABLE.search(name) and len(value) >= _SHORTEST
    }


def refuse_secrets(words: Iterable[str], environ: Mapping[str, str]) -> None:
    """Raise ConfigError if a word of a command contains a secret, without the secret in the message."""
    values = secret_values(environ)
    for word in words:
        key = word.partition("=")[0]
        is_secret_key = "=" in word and _KEY.search(key.rpartition(".")[2])
        variable = next((name for name, value in values.items() if value in word), None)
        if is_secret_key or variable:
            raise ConfigError(
                f"{key} would put a secret{f' (${variable})' if variable else ''} where everybody can read it; "
                "leave it in the environment of the run (launch/README.md, Secrets)"
            )


def hider(environ: Mapping[str, str]) -> Callable[[str], str]:
    """Return a function that replaces the values of secret variables in a line by ***."""
    values = sorted(secret_values(environ).values(), key=len, reverse=True)
    if not values:
        return lambda line: line
    pattern = re.compile("|".join(map(re.escape, values)))
    return lambda line: pattern.sub("***", line)
