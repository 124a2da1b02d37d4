"""Checks before the first compile: whether all hosts see the same program, config, directory and devices.

With several processes only. Each tells the others what it sees, and all come to the same verdict: what would
go wrong in an hour is refused in seconds, with the host's name.
"""

import collections
import json
import logging
import os
import pathlib
import socket
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tlx.base import place as places
from tlx.base.errors import ConfigError, ReplicaMismatch, StorageError, UserError
from tlx.base.memory import size_text
from tlx.base.place import BucketPath, Place
from tlx.checkpoint.checkpoints import FREE_SPACE_FACTOR
from tlx.parallel import consensus

# Clocks further apart make leases and logs hard to trust.
SKEW_SECONDS = 5.0
# Largest message of a process, in bytes of JSON.
_BYTES = 8192
_TOKEN = ".preflight"

log = logging.getLogger("tlx")

HostFacts = Mapping[str, Any]


def preflight(workdir: Place, config_hash: str, versions: Mapping[str, str]) -> list[str]:
    """Check that all processes can train one run together.

    Called by all, after start_process and before the lease.

    Args:
        workdir: run directory; it need not exist yet.
        config_hash: sha256 of the config that this process was started with.
        versions: versions of Python and of the packages that compute.

    Returns:
        The host name of each process, in order.

    Raises:
        ConfigError: versions or devices differ. Errors are raised on all processes alike, naming processes
            and hosts.
        ReplicaMismatch: configs, or sums over all devices, differ.
        StorageError: a host cannot write to the directory, or sees another one.
    """
    # One process agrees with itself, and must not wait for collectives.
    if jax.process_count() == 1:
        return [socket.gethostname()]
    problem = ""
    is_new = not workdir.exists()
    token = uuid.uuid4().hex
    if jax.process_index() == 0:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            # A random word that only this start knows: a folder of the same name on a local disk has another
            # or none.
            (workdir / _TOKEN).write_text(token)
        except OSError as error:
            problem = str(error)
    # A barrier too: the clocks are read at about one moment.
    token = gather({"token": token})[0]["token"]
    now = time.time()
    facts = gather(
        {
            "host": socket.gethostname(),
            "config": config_hash,
            "versions": dict(versions),
            "devices": f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}",
            "directory": problem[:200] or _directory_problem(workdir, token),
            "time": now,
        }
    )
    if jax.process_index() == 0:
        _clean(workdir, is_new)
    # From the same facts on all processes: each raises the same error, and none is left in a collective.
    error = verdict(facts, workdir)
    if error is not None:
        raise error
    _check_sum()
    _check_clocks(facts)
    return [fact["host"] for fact in facts]


def verdict(facts: Sequence[HostFacts], workdir: Place) -> UserError | None:
    """Return what is wrong with the facts of all processes, in their order; None where nothing is."""
    lines = [
        f"process {i} ({fact['host']}): {fact['directory']}"
        for i, fact in enumerate(facts)
        if fact["directory"]
    ]
    if lines:
        return StorageError(f"not every host can use the run directory {workdir}:\n  " + "\n  ".join(lines))
    names = sorted({name for fact in facts for name in fact["versions"]})
    odd = [_compare(facts, name, [fact["versions"].get(name) for fact in facts]) for name in names]
    odd.append(_compare(facts, "devices", [fact["devices"] for fact in facts]))
    if any(odd):
        return ConfigError("the hosts are not alike:\n  " + "\n  ".join(filter(None, odd)))
    line = _compare(facts, "config", [fact["config"][:12] for fact in facts])
    if line:
        return ReplicaMismatch(f"the processes were started with different configs (sha256):\n  {line}")
    return None


def check_alike(hosts: Sequence[str], facts: Mapping[str, str]) -> None:
    """Raise ReplicaMismatch on all processes where facts differ between them. Called by all.

    Args:
        hosts: Host name of each process, from `preflight`.
        facts: Hashes by name, such as that of the data which this process has read.
    """
    if len(hosts) == 1:
        return
    gathered = gather({name: value[:64] for name, value in facts.items()})
    named = [{"host": host} for host in hosts]
    odd = [_compare(named, name, [fact[name][:12] for fact in gathered]) for name in facts]
    if any(odd):
        lines = "\n  ".join(filter(None, odd))
        raise ReplicaMismatch(f"the hosts read other data (sha256); nothing was trained:\n  {lines}")


def check_room(folder: Place, state_bytes: int) -> None:
    """Raise StorageError where `folder` has no room for two checkpoints of the state. Called by all."""
    wanted = FREE_SPACE_FACTOR * state_bytes
    free = places.free_bytes(folder)
    if consensus.broadcast_from_first(int(free < wanted)):
        raise StorageError(
            f"{folder} has {size_text(free)} free; a checkpoint takes {size_text(state_bytes)}, and "
            f"{size_text(wanted)} ({FREE_SPACE_FACTOR} times as much) must be free"
        )


def gather(facts: HostFacts) -> list[HostFacts]:
    """Return the facts of each process, on all of them; at most 8 kB of JSON each."""
    data = json.dumps(facts).encode()
    if len(data) > _BYTES:
        raise ValueError(f"{len(data)} bytes are more than the {_BYTES} of a process' message")
    # Arrays of one shape, as an all-gather needs; JSON does not mind the spaces.
    padded = np.frombuffer(data.ljust(_BYTES), np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [json.loads(row.tobytes()) for row in rows]


def _directory_problem(workdir: Place, token: str) -> str:
    """Why this process cannot use the run directory, which process 0 must see too; else empty."""
    try:
        if (workdir / _TOKEN).read_text() != token:
            return "is not the directory that process 0 sees"
        if isinstance(workdir, BucketPath):
            places.check_writable(workdir)
            return ""
        with tempfile.NamedTemporaryFile(dir=workdir, prefix=f"{_TOKEN}-") as probe:
            probe.write(b"x")
            probe.flush()
            # A full disk or a quota often shows only when the data is forced out.
            os.fsync(probe.fileno())
    except FileNotFoundError:
        return "is not the directory that process 0 sees; it must be on a file system that all hosts share"
    except OSError as error:
        return str(error)[:200]
    return ""


def _clean(workdir: Place, is_new: bool) -> None:
    """Remove what the check left, so that a refused run leaves no directory behind."""
    try:
        (workdir / _TOKEN).unlink(missing_ok=True)
        if is_new and isinstance(workdir, pathlib.Path):
            workdir.rmdir()
    except OSError:
        pass


def _check_clocks(facts: Sequence[HostFacts]) -> None:
    """Warn, on process 0, where the hosts' clocks differ."""
    clocks = [fact["time"] for fact in facts]
    if max(clocks) - min(clocks) > SKEW_SECONDS and jax.process_index() == 0:
        apart = ", ".join(f"{fact['host']} {fact['time'] - min(clocks):+.0f} s" for fact in facts)
        log.warning("the hosts' clocks differ: %s; is NTP running?", apart)


def _compare(facts: Sequence[HostFacts], name: str, values: Sequence[Any]) -> str:
    """Empty, or `name: VALUE on processes ..., VALUE on ...`, the most common value first."""
    groups = collections.defaultdict(list)
    for i, value in enumerate(values):
        groups[str(value)].append(f"{i} ({facts[i]['host']})")
    if len(groups) == 1:
        return ""
    # The rarest value last: it is usually the wrong one.
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    return f"{name}: " + "; ".join(f"{value} on process {', '.join(who)}" for value, who in ordered)


def _check_sum() -> None:
    """Sum ones over all devices: the network works, and every device takes part."""
    count = jax.device_count()
    mesh = Mesh(np.array(jax.devices()), ("all",))
    spread = NamedSharding(mesh, PartitionSpec("all"))
    ones = jax.make_array_from_callback((count,), spread, lambda index: np.ones(count, np.int32)[index])
    total = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, PartitionSpec()))(ones)
    summed = int(total.addressable_data(0))
    if summed != count:
        raise ReplicaMismatch(f"a sum of ones over {count} devices is {summed}")
