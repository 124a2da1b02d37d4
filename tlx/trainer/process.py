"""Services of a process while it trains: signals, clock and watchdog; and how it joins other processes."""

import contextlib
import hashlib
import os
import pathlib
import platform
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from tlx import parallel
from tlx.base.errors import ConfigError
from tlx.base.files import cache_folder
from tlx.training.clock import Clock, process_age
from tlx.training.preemption import Preemption
from tlx.training.watchdog import Watchdog

# Seconds of compiling from which a program is kept for the next start.
_LEAST_COMPILE_SECONDS = 0.3
# Line of /proc/cpuinfo that names the instructions of a processor: of x86, of ARM.
_INSTRUCTIONS = re.compile(r"^(?:flags|Features)\s*:(.*)$", re.MULTILINE)

# Not empty once a run of this process has counted the time since the process was started.
_counted: list[bool] = []


class ProcessServices(NamedTuple):
    """Services that watch a process while it trains."""

    preemption: Preemption
    """Requests to stop, entered."""
    clock: Clock
    """Seconds by phase."""
    watchdog: Watchdog
    """To be entered once training is prepared."""


def initialize_distributed() -> None:
    """Join the processes of the run, where a launcher's variables name them; before any use of a device.

    Does nothing for a single process, so that it may be called where JAX runs already. Raises ConfigError
    where it must join others and JAX runs already.
    """
    try:
        parallel.start_process()
    except RuntimeError as error:
        if "must be called before" not in str(error):
            raise
        raise ConfigError(
            "this process is one of several (a launcher's variables say so), but JAX runs in it already; "
            f"train before anything else uses a device ({error})"
        ) from error


def keep_compiled_programs() -> None:
    """Let JAX read compiled programs from the cache folder, and store those that it compiles there.

    Does nothing where JAX has a folder already (JAX_COMPILATION_CACHE_DIR), nor for one of several processes, of
    which some would read what others compile: launchers give these a folder.
    """
    config: Any = jax.config  # its attributes are made when it is loaded
    if config.jax_compilation_cache_dir is not None or jax.process_count() > 1:
        return
    # XLA compiles for the instructions of this processor, and JAX does not look whether another one has them.
    folder = cache_folder() / "programs" / _processor()
    config.update("jax_compilation_cache_dir", str(folder))
    config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_COMPILE_SECONDS)


def _processor() -> str:
    """Return a hash of the processor's instructions, or its architecture where the system does not name them."""
    try:
        instructions = _INSTRUCTIONS.search(pathlib.Path("/proc/cpuinfo").read_text())
    except OSError:
        instructions = None
    if instructions is None:
        return platform.machine()
    return hashlib.sha256(" ".join(sorted(instructions[1].split())).encode()).hexdigest()[:16]


@contextlib.contextmanager
def process_services(
    stall_seconds: float | None, ends_process: bool, note: Callable[[str], None] | None = None
) -> Iterator[ProcessServices]:
    """Catch signals and make the clock and the watchdog of a training; handlers are restored on exit.

    Args:
        stall_seconds: seconds without progress after which the watchdog acts; None: never.
        ends_process: whether a second signal and the watchdog end the process at once (the command line);
            else they raise KeyboardInterrupt and StallError in the calling thread.
        note: called with one line by the watchdog before the process ends.
    """
    # A process of its own begins with the interpreter and its imports, a run in a notebook with this call; of several
    # runs in one process (--seeds) the first has counted that.
    clock = Clock(age=_uncounted_age() if ends_process else 0.0)
    leave = os._exit if ends_process else None
    with Preemption(grace_seconds=_grace_seconds(), leave=leave) as preemption:
        raise_error = None if ends_process else preemption.raise_in_caller
        process = jax.process_index()
        watchdog = Watchdog(clock, stall_seconds, process, note=note, raise_error=raise_error)
        yield ProcessServices(preemption, clock, watchdog)


def _uncounted_age() -> float:
    """Return the seconds since this process was started, at the first call; 0 later."""
    if _counted:
        return 0.0
    _counted.append(True)
    return process_age()


def _grace_seconds() -> float | None:
    """Seconds between the first signal and SIGKILL, where a launcher has set them."""
    value = os.environ.get("TLX_GRACE_SECONDS")
    return float(value) if value else None
