"""The wheel of tlx that machines without it install: built from the checkout that launches, or given as a file.

Machines never install tlx by its name from the public index, where whoever has registered it decides what would run.
"""

import pathlib
import shlex
import sys

import tlx
from tlx.base import place as places
from tlx.base.errors import ConfigError
from tlx.base.object_store import EXTRAS


def wheel_name(given: str) -> str:
    """Return the file name of the wheel: of the file that was given, or of the one that the checkout builds.

    Raises ConfigError where a file was given that is no wheel of tlx, and where none was and there is no checkout.
    """
    if given:
        path = pathlib.Path(given)
        if not path.is_file() or not path.name.startswith("tlx_lm-") or path.suffix != ".whl":
            raise ConfigError(f"--wheel={given} must be a file tlx_lm-VERSION-py3-none-any.whl")
        return path.name
    if not (_checkout() / "pyproject.toml").is_file():
        raise ConfigError(
            "this tlx is installed and no checkout, so that it cannot build the wheel that the machines install; "
            "give one with --wheel=FILE, or a command that installs tlx with --setup"
        )
    return f"tlx_lm-{tlx.__version__}-py3-none-any.whl"


def build_command(folder: pathlib.Path) -> list[str]:
    """Return the command that builds the checkout's wheel into a folder."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    return [*pip, "--wheel-dir", str(folder), str(_checkout())]


def extras(workdir: str, *hardware: str) -> str:
    """Return the extras of tlx that a run needs: those of its hardware, and the clients of its bucket."""
    client = EXTRAS[workdir.partition("://")[0]] if places.is_bucket(workdir) else None
    return ",".join([*hardware, *([client[0]] if client else [])])


def install_command(name: str, extra: str) -> str:
    """Return a shell command that installs a wheel of the working directory.

    Args:
        name: File name of the wheel.
        extra: Extras of tlx that the machines need, such as "tpu" or "tpu,gcs".
    """
    wheel = shlex.quote(f"./{name}")
    with_extra = shlex.quote(f"./{name}[{extra}]")
    # The second time for the wheel alone: another one of the same version may be there from an earlier launch.
    return f"python3 -m pip install -q {with_extra} && python3 -m pip install -q --no-deps --force-reinstall {wheel}"


def _checkout() -> pathlib.Path:
    return pathlib.Path(tlx.__file__).parents[1]
