"""Processes compare what must agree, so that a host which drifts apart is found within steps and named.

Compared are: shards of the state that are copies of each other (replicated scalars among them), by a checksum
made on each device; the config and the data each process works with; and the batch, by asking a neighbour to
build one row of it again. What is compared is sent with one step and read `LAG` steps later: nobody waits.
"""

import collections
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tlx.base import tree
from tlx.base.errors import ReplicaMismatch
from tlx.training.hooks import saved_part
from tlx.training.preemption import LAG

Rows = dict[str, np.ndarray]
Values = Mapping[int, Any]  # by process


class BatchSource(NamedTuple):
    """Who makes which rows of a batch, and how any process makes any row."""

    rows: Mapping[int, np.ndarray]  # of the global batch, by process, ascending
    build: Callable[[int, Sequence[int]], Rows]  # (batch number, rows) -> arrays [rows, ...]


class ReplicaCheck:
    """A hook of the loop, called by all processes after every step; compares every `every` steps.

    abstract: what a checkpoint holds (hooks.saved_part of the state), with shardings.
    facts: by name, what must be the same text on all processes ("config", "data").
    hosts: name of each process' machine, for the message.
    Raises ReplicaMismatch (exit 77) on all processes alike.
    """

    def __init__(
        self,
        every: int,
        mesh: Mesh,
        abstract: Any,
        facts: Mapping[str, str],
        batches: BatchSource,
        hosts: Sequence[str],
    ):
        self._every, self._mesh, self._batches, self._hosts = every, mesh, batches, hosts
        self._facts = {name: _hash(text.encode()) for name, text in facts.items()}
        self._devices = list(mesh.devices.flat)
        self._copies = copies(abstract, self._devices)
        self._checksums = checksums(mesh, abstract, list(self._copies))
        self._sent: collections.deque[tuple[int, jax.Array]] = collections.deque()
        self._local: Rows = {}
        self._me = jax.process_index()
        whole = NamedSharding(mesh, PartitionSpec())
        self._spread = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._gather = jax.jit(lambda *parts: jnp.concatenate(parts, 1), out_shardings=whole)

    def see(self, local: Rows) -> Rows:
        """Takes note of this process' rows of the next batch, and passes them on."""
        self._local = local
        return local

    def __call__(self, step: int, state: Any, metrics: Any) -> None:
        if self._every and step % self._every == 0:
            claims = self._claims(step)
            shape = (len(self._devices), claims.size)
            spread = jax.make_array_from_callback(
                shape, self._spread, lambda index: np.broadcast_to(claims, shape)[index]
            )
            self._sent.append((step, self._gather(spread, self._checksums(saved_part(state)))))
        while self._sent and self._sent[0][0] + LAG <= step:
            self._read(*self._sent.popleft())

    def finish(self) -> None:
        """Reads what is still on its way."""
        while self._sent:
            self._read(*self._sent.popleft())

    def _claims(self, step: int) -> np.ndarray:
        """uint32 [2 * names]: hashes of the facts, of a row used here, of the neighbour's as expected."""
        ids = list(self._batches.rows)
        neighbour = ids[(ids.index(self._me) + 1) % len(ids)]
        mine, place = self._sample(self._me, step)
        other, _ = self._sample(neighbour, step)
        used = {name: values[place : place + 1] for name, values in self._local.items()}
        expected = self._batches.build(step - 1, [other])
        numbers = [*self._facts.values(), step, hash_rows(used), hash_rows(expected)]
        return np.array(numbers, np.uint64).view(np.uint32)

    def _sample(self, process: int, step: int) -> tuple[int, int]:
        """A row of a process' share of the batch, another each time, and its place in the share."""
        rows = self._batches.rows[process]
        place = step // self._every % len(rows)
        return int(rows[place]), place

    def _read(self, step: int, sent: jax.Array) -> None:
        table = np.asarray(sent.addressable_data(0))
        names = [*self._facts, "step"]
        width = 2 * (len(names) + 2)
        claims = {
            device.process_index: np.ascontiguousarray(row[:width]).view(np.uint64)
            for device, row in zip(self._devices, table, strict=True)
        }
        found = []
        for place, name in enumerate(names):
            odd = outliers({process: row[place] for process, row in claims.items()})
            if odd:
                found.append(f"{name}: {self._name(odd)}")
        used = {process: row[-2] for process, row in claims.items()}
        expected = {process: row[-1] for process, row in claims.items()}
        if odd := wrong_in_ring(used, expected):
            found.append(f"rows of the batch: {self._name(odd)}")
        found += self._differing_copies(table[:, width:])
        if found:
            shown = "\n  ".join(found[:8]) + ("\n  ..." if len(found) > 8 else "")
            raise ReplicaMismatch(f"processes do not agree at step {step}; not like the others:\n  {shown}")

    def _differing_copies(self, sums: np.ndarray) -> list[str]:
        """Leaves of the state of which not all copies are equal. sums: [devices, leaves]"""
        found = []
        for (path, groups), column in zip(self._copies.items(), sums.T, strict=True):
            for group in groups:
                odd = outliers({place: int(column[place]) for place in group})
                if odd:
                    processes = sorted({self._devices[place].process_index for place in odd})
                    devices = ", ".join(str(self._devices[place]) for place in odd)
                    found.append(f"{path}: {self._name(processes)}, on {devices}")
        return found

    def _name(self, processes: Sequence[int]) -> str:
        """ "process 1 (host-b)"; two that differ are both named, for nobody can tell which is right."""
        word = "process" if len(processes) == 1 else "processes"
        return f"{word} " + ", ".join(f"{process} ({self._hosts[process]})" for process in processes)


def outliers(values: Values) -> list[int]:
    """Keys whose value is not that of the majority; all keys where the values differ without a majority."""
    counts = collections.Counter(values.values())
    (value, count), *others = counts.most_common()
    if not others:
        return []
    return sorted(key for key in values if 2 * count <= len(values) or values[key] != value)


def wrong_in_ring(used: Values, expected: Values) -> list[int]:
    """Who is wrong, where each process says what its neighbour (the next in order) should have.

    One that has gone astray disagrees on both sides; of two alone both are named.
    """
    ids = sorted(used)
    pairs = [(a, ids[(i + 1) % len(ids)]) for i, a in enumerate(ids)]
    differ = [pair for pair in pairs if expected[pair[0]] != used[pair[1]]]
    votes = collections.Counter(process for pair in differ for process in set(pair))
    return sorted(process for process, count in votes.items() if count == max(votes.values()))


def copies(abstract: Any, devices: Sequence[jax.Device]) -> dict[str, list[list[int]]]:
    """For each leaf with copies, by path: groups of places in `devices` that hold the same part of it."""
    found = {}
    for path, leaf in tree.flatten(abstract).items():
        where = leaf.sharding.devices_indices_map(leaf.shape)
        groups = collections.defaultdict(list)
        for place, device in enumerate(devices):
            bounds = zip(where[device], leaf.shape, strict=True)
            groups[tuple(part.indices(size) for part, size in bounds)].append(place)
        several = [group for group in groups.values() if len(group) > 1]
        if several:
            found[path] = several
    return found


def checksums(mesh: Mesh, abstract: Any, paths: Sequence[str]) -> Callable[[Any], jax.Array]:
    """tree -> uint32 [devices, paths]: what each device holds of each of these leaves, in mesh order."""
    flat = tree.flatten(abstract)
    specs = tuple(flat[path].sharding.spec for path in paths)

    def on_device(*parts: jax.Array) -> jax.Array:
        return jnp.stack([checksum(part) for part in parts])[None]

    summed = jax.shard_map(
        on_device, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(mesh.axis_names), check_vma=False
    )
    if not paths:
        none = np.zeros((mesh.size, 0), np.uint32)
        return lambda state: none
    jitted = jax.jit(summed)

    def call(state: Any) -> jax.Array:
        leaves = tree.flatten(state)
        return jitted(*(leaves[path] for path in paths))

    return call


def checksum(x: jax.Array) -> jax.Array:
    """uint32 of all bits, each word weighted by an odd number of its place: a change of any word shows."""
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}").astype(jnp.uint32).reshape(-1)
    return (bits * (2 * jax.lax.iota(jnp.uint32, bits.size) + 1)).sum(dtype=jnp.uint32)


def hash_rows(rows: Rows) -> int:
    """64 bits of arrays by name."""
    return _hash(
        b"".join(name.encode() + np.ascontiguousarray(rows[name]).tobytes() for name in sorted(rows))
    )


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
