"""How much memory this machine has, and how this process keeps what it frees of it."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterator

# Parameters of glibc's mallopt(3).
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3

# What glibc's own adjustment of the thresholds comes to in a program with large arrays
# (DEFAULT_MMAP_THRESHOLD_MAX and twice that). Once they were set, it adjusts them no more, and their values
# before cannot be read.
_USUAL_MMAP_THRESHOLD = 2**25
_USUAL_TRIM_THRESHOLD = 2**26


def machine_bytes() -> int:
    """Main memory of this machine, in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let glibc keep freed blocks for the next step while the context lasts, not return them to the system.

    A training step on CPU frees and asks for the same large buffers again each time; with the default
    thresholds a seventh of its time goes into page faults. Afterwards what is free is returned. Does nothing
    where there is no glibc.
    """
    mallopt = _c_function("mallopt")
    if mallopt is None:
        yield
        return
    mallopt(_MMAP_THRESHOLD, 2**30)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        mallopt(_MMAP_THRESHOLD, _USUAL_MMAP_THRESHOLD)
        mallopt(_TRIM_THRESHOLD, _USUAL_TRIM_THRESHOLD)
        trim = _c_function("malloc_trim")
        if trim is not None:
            trim(0)


def _c_function(name: str) -> Callable[..., int] | None:
    """A function of this process' C library on Linux; None where it has no such function."""
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), name, None)
