"""Main memory of the host, and the allocator of this process."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterator

# Parameters of glibc's mallopt(3).
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3

# The values that glibc's dynamic adjustment reaches in a program with large arrays
# (DEFAULT_MMAP_THRESHOLD_MAX and twice that). Setting a threshold ends the adjustment, and earlier values
# cannot be read, so these are restored instead.
_USUAL_MMAP_THRESHOLD = 2**25
_USUAL_TRIM_THRESHOLD = 2**26


def machine_bytes() -> int:
    """Return the main memory of this host, in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def available_bytes() -> int | None:
    """Return the main memory that a program can have, in bytes; None where the system does not say.

    On Linux this counts the page cache, which is given back: files that have just been read or written fill what
    is free otherwise.
    """
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return 1024 * int(line.split()[1])
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def size_text(num_bytes: float) -> str:
    """Return a size with three digits and the unit that fits it: "151 kB", "2.07 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(num_bytes) < 999.5:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.3g} TB" if num_bytes < 999.5 else f"{num_bytes:,.0f} TB"


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Make glibc reuse freed blocks instead of returning them to the system, inside the context.

    A training step on CPU frees and allocates the same large buffers each time; with the default thresholds
    a seventh of its time goes into page faults. Free blocks are returned at the end of the context. Does
    nothing without glibc.
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
    """Function of the C library on Linux; None where there is no such function."""
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), name, None)
