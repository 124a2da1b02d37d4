"""The lease of a run directory, which allows one run at a time: `lease.json` names the holder.

The holder renews it every 30 s. It is gone when its process is provably dead (on the same machine) or its last
heartbeat is 90 s old. Ages come from one clock: the machine's monotonic clock where holder and reader share a boot,
else the file server's, by comparing the modification times of the lease and of a new file.
"""

import contextlib
import fcntl
import json
import logging
import math
import os
import pathlib
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import jax

from tlx.base import files
from tlx.base import place as places
from tlx.base.errors import LeaseError, StorageError
from tlx.base.place import BucketPath, Place
from tlx.parallel import consensus

FILE = "lease.json"
BEAT_SECONDS = 30.0
STALE_SECONDS = 90.0
_BOOT_ID = "/proc/sys/kernel/random/boot_id"

log = logging.getLogger("tlx")


class Lease:
    """A context that holds a run directory. All processes enter it; process 0 takes and renews the lease.

    That of a bucket is checkpoint/bucket_lease.py's; `open_lease` chooses.

    Entering raises LeaseError (exit code 75) on all processes where another run holds the directory, and
    StorageError (exit code 73) where it cannot be written. `check()`, before every write, and `lost`, for the
    loop, detect that another run took over while this process was stopped.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike | BucketPath,
        *,
        beat: float = BEAT_SECONDS,
        stale: float = STALE_SECONDS,
    ):
        self.folder: Place = places.parse(run_dir)
        self._path = self.folder / FILE
        self._beat = beat
        self._stale = stale
        # Host and pid may come again after a restart; the id never does.
        self._me = {"id": uuid.uuid4().hex, **_here()}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.lost = False

    def __enter__(self) -> "Lease":
        problem: Exception | None = None
        if jax.process_index() == 0:
            try:
                self._take()
            except (LeaseError, OSError) as error:
                problem = error
        # All processes raise the same error, or none: a single one would leave the others in a collective.
        verdict = consensus.broadcast_from_first(
            0 if problem is None else 1 if isinstance(problem, LeaseError) else 2
        )
        if verdict == 1:
            raise problem or LeaseError(f"process 0 was refused the lease of {self.folder}")
        if verdict == 2:
            raise StorageError(f"cannot write to the run directory {self.folder}: {problem}") from problem
        if jax.process_index() == 0:
            self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is None:
            return
        self._thread.join()
        # On the way out the disk may be gone; a lease that stays becomes stale by itself.
        with contextlib.suppress(OSError):
            self._release()

    def check(self) -> None:
        """Read the lease; LeaseError where it is no longer this run's. Process 0 only."""
        # Read from the disk and not from memory: this process may have been stopped for longer than the lease
        # lasts.
        if not self.lost and not self._is_mine():
            self.lost = True
        if self.lost:
            raise LeaseError(
                f"lease of {self.folder} lost to {holder_name(self._read())}: this run stops writing"
            )

    def _take(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            holder = self._read()
            if holder is not None and not is_provably_dead(holder):
                age = self._age(holder)
                if age < self._stale:
                    raise self._refused(holder, age)
            if holder is not None:
                log.warning("lease of %s taken over from %s, which is gone", self.folder, holder_name(holder))
            self._write()

    def _refused(self, holder: dict[str, Any] | None, age: float) -> LeaseError:
        return LeaseError(
            f"{self.folder}: lease held by {holder_name(holder)}, beat {age:.0f} s ago; "
            f"two runs cannot share a directory; free {self._stale:.0f} s after the last beat"
        )

    def _keep(self) -> None:
        """Renew the lease until another run holds it; a failing disk is tried again."""
        while not self._stop.wait(self._beat):
            try:
                if not self._renew():
                    self.lost = True
                    log.error("lease of %s lost to %s", self.folder, holder_name(self._read()))
                    return
            except OSError as error:
                log.warning("lease of %s not renewed: %s", self.folder, error)

    def _renew(self) -> bool:
        """Write a beat; return whether the lease is still this run's."""
        with self._locked():
            if not self._is_mine():
                return False
            self._write()
            return True

    def _release(self) -> None:
        with self._locked():
            if self._is_mine():
                self._path.unlink()

    def _content(self) -> dict[str, Any]:
        return {**self._me, "monotonic": time.monotonic(), "time": time.time()}

    def _write(self) -> None:
        files.write_json(self._path, self._content())

    def _read(self) -> dict[str, Any] | None:
        """Read the lease on disk; None without one, {} where it is none."""
        try:
            return parse(self._path.read_bytes())
        except FileNotFoundError:
            return None

    def _is_mine(self) -> bool:
        holder = self._read()
        return holder is not None and holder.get("id") == self._me["id"]

    def _age(self, holder: dict[str, Any]) -> float:
        """Return the seconds since the holder's last heartbeat."""
        if self._shares_clock(holder):
            return max(0.0, time.monotonic() - holder["monotonic"])
        assert isinstance(self.folder, pathlib.Path) and isinstance(self._path, pathlib.Path)
        # Both times come from the file server, so that the hosts' clocks may differ.
        with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".clock-") as probe:
            age = os.fstat(probe.fileno()).st_mtime - self._path.stat().st_mtime
        # A time that is still to come is no heartbeat: such a file would hold the directory for ever.
        return max(0.0, age) if age > -self._stale else math.inf

    def _shares_clock(self, holder: dict[str, Any]) -> bool:
        """Return whether the holder runs on this machine, whose monotonic clock its beats state."""
        return bool(holder.get("boot")) and holder.get("boot") == self._me["boot"]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Make reading and writing the lease atomic on one machine, and on NFS with locks."""
        assert isinstance(self.folder, pathlib.Path)
        with open(self.folder / ".lease.lock", "w") as handle:
            # Without locks of the file system, a second holder is found at the next heartbeat.
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def parse(data: bytes) -> dict[str, Any]:
    """Return the holder that the bytes of a lease name; {} where they are not what a lease holds.

    Such a lease (cut, empty, with odd values) is held by somebody unknown, and so only age frees it.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(value, dict) or any(not is_legal(value.get(key)) for key, is_legal in _LEGAL.items()):
        return {}
    # A beat in the future of this boot's clock would never be stale.
    boot = value.get("boot")
    is_same_boot = boot is not None and boot == _read_text(_BOOT_ID)
    return {} if is_same_boot and value["monotonic"] > time.monotonic() else value


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_pid(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**31


def _is_time(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 1e12


# What a lease holds, and which values are possible.
_LEGAL: dict[str, Callable[[Any], bool]] = {
    "id": _is_text,
    "host": _is_text,
    "boot": _is_text_or_none,
    "namespace": _is_text_or_none,
    "pid": _is_pid,
    "started": _is_text_or_none,
    "monotonic": _is_time,
}


def _here() -> dict[str, Any]:
    """Identify this process by what another one on the same machine can check."""
    return {
        "host": socket.gethostname(),
        "boot": _read_text(_BOOT_ID),
        "namespace": _read_link("/proc/self/ns/pid"),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
    }


def is_provably_dead(holder: dict[str, Any]) -> bool:
    """Return whether the holder is known to be dead, which takes the same host, boot and pid namespace."""
    here = _here()
    if any(holder.get(key) != here[key] for key in ("host", "boot", "namespace")):
        return False
    pid = holder["pid"]
    # A pid in use again has another start time, and a zombie has none.
    if here["started"] is not None:
        return _started(pid) != holder.get("started")
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _started(pid: int) -> str | None:
    """Return the start time of a living process, in clock ticks since boot (Linux); else None."""
    text = _read_text(f"/proc/{pid}/stat")
    if text is None:
        return None
    # The fields of proc(5) after the command: the state, and the start time 19 fields later.
    fields = text.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return None
    return fields[19]


def _read_text(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as handle:
            return handle.read().strip()
    except OSError:
        return None


def _read_link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


def holder_name(holder: dict[str, Any] | None) -> str:
    """Return host and pid of a holder, for messages."""
    if not holder:
        return "an unknown run"
    return f"{holder.get('host', '?')}:{holder.get('pid', '?')}"
