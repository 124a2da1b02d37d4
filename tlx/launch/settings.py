"""Environment of a run's processes: settings of XLA, libtpu and NCCL, for every launcher.

base/compiler_settings.py is the only table of them. `--flag` and `--env` of `tlx launch` add to it or replace an
entry, `--drop` removes one. What the user's own environment says is never overwritten by the table.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from tlx.base.compiler_settings import FLAG_VARIABLES, Hardware, setting_names, settings_of
from tlx.base.errors import ConfigError, one_of
from tlx.launch.secrets import is_secret_name

CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
_FLAG = re.compile(r"--[a-z][a-z0-9_]*(=\S*)?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Variables that the launchers set themselves.
_OWN = ("TLX_COORDINATOR", "TLX_NUM_PROCESSES", "TLX_PROCESS_ID", "TLX_GRACE_SECONDS")


class RunSettings(NamedTuple):
    """Settings that the user adds to the table or drops from it, as given to `tlx launch`."""

    flags: tuple[str, ...] = ()
    """Flags of XLA or libtpu, "--xla_name=value"."""
    env: tuple[str, ...] = ()
    """Variables, "NAME=VALUE"."""
    drop: tuple[str, ...] = ()
    """Names of settings of the table that are left out."""
    compilation_cache: str = ""
    """Directory of compiled programs, which a restart reads instead of compiling; empty: compilation-cache in the
    run's directory; "none": there is none."""


class Variable(NamedTuple):
    """An environment variable of a run's processes."""

    name: str
    """Its name."""
    value: str
    """Its value; of flags, all of them."""
    kind: Literal["flags", "default", "set"]
    """flags: put before what the process' environment has; default: only where that has none; set: always."""


def variables(hardware: Hardware, settings: RunSettings, workdir: str, chip: str = "") -> list[Variable]:
    """Return the environment variables of a run on a kind of hardware.

    Args:
        hardware: The kind of hardware.
        settings: What the user adds and drops.
        workdir: Directory of the run as its hosts see it.
        chip: Name of the chip in base/chips.json; "": not known before the run starts.

    Returns:
        The variables, flags first.

    Raises:
        ConfigError: A flag or variable is malformed, secret, or the launcher's own; or no setting has a dropped name.
    """
    table = {setting.name: setting.value for setting in settings_of(hardware, chip)}
    for name in settings.drop:
        if name not in (known := setting_names()):
            raise ConfigError(one_of("--drop", name, sorted(known)))
        # A setting of other hardware is dropped already: one command serves several clusters.
        table.pop(name, None)
    for word in settings.flags:
        if not _FLAG.fullmatch(word):
            raise ConfigError(f"--flag={word!r} must be a flag as in --flag=--xla_name=true, without spaces")
        name, _, value = word.partition("=")
        table[name] = value or "true"
    flags = [f"{name}={value}" for name, value in table.items() if name.startswith("--")]
    result = [Variable(FLAG_VARIABLES[hardware], " ".join(flags), "flags")] if flags else []
    chosen = _parsed_env(settings.env)
    for name, value in table.items():
        if not name.startswith("--") and name not in chosen:
            result.append(Variable(name, value, "default"))
    if settings.compilation_cache != "none" and CACHE_VARIABLE not in chosen:
        place = settings.compilation_cache or f"{workdir.rstrip('/')}/compilation-cache"
        result.append(Variable(CACHE_VARIABLE, place, "set" if settings.compilation_cache else "default"))
    return result + [Variable(name, value, "set") for name, value in chosen.items()]


def merged(chosen: Sequence[Variable], environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment with the variables added.

    Args:
        chosen: From `variables`.
        environ: The process' environment, whose flags come last and so win.
    """
    result = dict(environ)
    for variable in chosen:
        before = environ.get(variable.name, "")
        if variable.kind == "flags":
            result[variable.name] = f"{variable.value} {before}".strip()
        elif variable.kind == "set" or not before:
            result[variable.name] = variable.value
    return result


def exports(chosen: Sequence[Variable]) -> str:
    """Return lines of a shell script that do what `merged` does."""
    lines = []
    for variable in chosen:
        value = shlex.quote(variable.value)
        if variable.kind == "flags":
            lines.append(f'export {variable.name}={value}" ${{{variable.name}:-}}"')
        elif variable.kind == "set":
            lines.append(f"export {variable.name}={value}")
        else:
            lines.append(f'if [ -z "${{{variable.name}:-}}" ]; then export {variable.name}={value}; fi')
    return "\n".join(lines)


def _parsed_env(words: Sequence[str]) -> dict[str, str]:
    chosen = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not _VARIABLE.fullmatch(name):
            raise ConfigError(f"--env={name!r} must be NAME=VALUE, as in --env=NCCL_SOCKET_IFNAME=eth0")
        if name in _OWN:
            raise ConfigError(f"--env={name}: the launcher sets {', '.join(_OWN)} itself")
        if is_secret_name(name):
            raise ConfigError(
                f"--env={name} would put a secret into files that others can read; leave it in the environment of "
                "the run (launch/README.md, Secrets)"
            )
        chosen[name] = value
    return chosen
