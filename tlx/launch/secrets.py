"""Protection of secrets: they reach a run by environment or mount, never by command, config, file or log."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tlx.base.errors import ConfigError

_WORDS = "secret|password|passwd|api_?key|access_?key|private_?key|access_?token|auth_?token"
_VARIABLE = re.compile(rf"(?i)(^|_)({_WORDS}|token|credentials?)(_|$)")
# experts_per_token and its like are numbers.
_KEY = re.compile(rf"(?i)(^|_)({_WORDS}|(?<!per_)token|credentials?)$")
# A key in a value that is a mapping: {"api_key": ...}.
_INNER_KEY = re.compile(rf"(?i)['\"](\w*_)?({_WORDS}|token|credentials?)['\"]\s*:")
# The password of a URL, or its user where there is no password (https://TOKEN@host); ssh://git@host has none.
_URL_PASSWORD = re.compile(r"(?i)(\b[a-z][a-z0-9+.-]*://[^\s/?#@:'\"]*:)[^\s/?#@'\"]+(?=@)")
_URL_USER = re.compile(r"(?i)(\bhttps?://)[^\s/?#@:'\"]+(?=@)")
# A parameter of a URL that holds a secret, and the signatures of links to objects in buckets.
_URL_PARAMETER = re.compile(
    rf"(?i)([?&;](?:[\w.-]*[_.-])?(?:{_WORDS}|token|credentials?|sig|signature)=)[^\s&;#'\"]+"
)
_HIDDEN = "***"
# A shorter value is likely to be an ordinary word too.
_SHORTEST = 8


def is_secret_name(name: str) -> bool:
    """Return whether an environment variable of this name holds a secret."""
    return bool(_VARIABLE.search(name))


def secret_values(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that hold secrets, judged by their names."""
    return {
        name: value for name, value in environ.items() if _VARIABLE.search(name) and len(value) >= _SHORTEST
    }


def refuse_secrets(words: Iterable[str], environ: Mapping[str, str]) -> None:
    """Raise ConfigError if a word of a command contains a secret, without the secret in the message."""
    values = secret_values(environ)
    for word in words:
        without = _without_url_secrets(word)
        key, equals, value = without.partition("=")
        # `--secret` of a cluster names an object that holds one.
        names = key.removeprefix("--config.").split(".")
        is_secret_key = equals and (any(map(_KEY.search, names)) or _INNER_KEY.search(value))
        variable = next((name for name, secret in values.items() if secret in word), None)
        if is_secret_key or variable or without != word:
            whose = f" (${variable})" if variable else ""
            raise ConfigError(
                f"{key} would put a secret{whose} where everybody can read it; "
                "leave it in the environment of the run (launch/README.md, Secrets)"
            )


def hider(environ: Mapping[str, str]) -> Callable[[str], str]:
    """Return a function that replaces secrets in URLs, and the values of secret variables, in a line by ***."""
    values = sorted(secret_values(environ).values(), key=len, reverse=True)
    if not values:
        return _without_url_secrets
    pattern = re.compile("|".join(map(re.escape, values)))
    return lambda line: _without_url_secrets(pattern.sub(_HIDDEN, line))


def _without_url_secrets(text: str) -> str:
    """Return a text with *** for passwords, tokens and signatures in its URLs."""
    for pattern in (_URL_PASSWORD, _URL_USER, _URL_PARAMETER):
        text = pattern.sub(rf"\g<1>{_HIDDEN}", text)
    return text


def redacted(values: Any, environ: Mapping[str, str]) -> Any:
    """Return nested values with *** for texts under the key of a secret, values of secret variables and in URLs."""
    hide = hider(environ)

    def redact(value: Any, is_secret: bool) -> Any:
        if isinstance(value, Mapping):
            return {
                key: redact(item, is_secret or bool(_KEY.search(str(key)))) for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [redact(item, is_secret) for item in value]
        if isinstance(value, str) and value:
            return _HIDDEN if is_secret else hide(value)
        return value

    return redact(values, False)
