"""Comparison of replicas across processes: a host that goes wrong is found within steps and named.

Compared are replicated shards of the state (scalars among them), by a checksum computed on each device; the
config and data of each process; and the batch, of which a neighbour builds one row again. Values are sent
with one step and read `LAG` steps later, so that no process waits. Before a checkpoint is saved they are sent and
read at once (`confirm`): no step is sealed that the processes did not agree on.
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
from tlx.training.preemption import LAG
from tlx.training.state import saved_part

Rows = dict[str, np.ndarray]
Values = Mapping[int, Any]  # by process


class BatchSource(NamedTuple):
    """Which process loads which rows of a batch, and how any process builds any row."""

    rows: Mapping[int, np.ndarray]
    """Indices of global batch rows by process, ascending."""
    build: Callable[[int, Sequence[int]], Rows]
    """(batch number, row indices) -> arrays [rows, ...] by name."""


class ReplicaCheck:
    """Hook of the training loop that compares the processes' replicas after the first step and every few steps.

    All processes call it after every step. Raises ReplicaMismatch (exit code 77) on all of them alike.
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
        """Prepare the checksums of a state.

        Args:
            every: Number of steps between comparisons; 0 never compares.
            mesh: Mesh of all processes.
            abstract: Saved part of the state (training.state.saved_part), abstract, with shardings.
            facts: Texts by name that must be equal on all processes ("config", "data").
            batches: Rows of each process, and how to build them.
            hosts: Host name of each process, for the message.
        """
        self._every = every
        self._mesh = mesh
        self._batches = batches
        self._hosts = hosts
        self._facts = {name: _hash(text.encode()) for name, text in facts.items()}
        self._devices = list(mesh.devices.flat)
        self._replicas = replicas(abstract, self._devices)
        self._checksums = checksums(mesh, abstract, list(self._replicas))
        self._sent: collections.deque[tuple[int, jax.Array]] = collections.deque()
        self._local: Rows = {}
        self._last: int | None = None
        self._process = jax.process_index()
        replicated = NamedSharding(mesh, PartitionSpec())
        # One row a device: the values of each process are gathered by the same collective as the checksums.
        self._by_device = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._gather = jax.jit(lambda *parts: jnp.concatenate(parts, 1), out_shardings=replicated)

    def see(self, local: Rows) -> Rows:
        """Remember this process' rows of the next batch, and return them."""
        self._local = local
        return local

    def __call__(self, step: int, state: Any, metrics: Any) -> None:
        """Send the values of this step where it is time, and read those of an earlier one.

        Args:
            step: Number of the step.
            state: Train state after it.
            metrics: Not used.

        Raises:
            ReplicaMismatch: Where processes differ, on all of them.
        """
        if self._every and (self._last is None or step % self._every == 0):
            self._send(step, state)
        # Read when the devices have long finished it, so that the loop never waits for the comparison.
        while self._sent and self._sent[0][0] + LAG <= step:
            self._read(*self._sent.popleft())

    def confirm(self, step: int, state: Any) -> None:
        """Compare after this step and wait for the result; called by all before they save it.

        Nothing is compared where train.compare_every is 0, or before a batch was seen.

        Args:
            step: Number of the step.
            state: Train state after it.

        Raises:
            ReplicaMismatch: Where processes differ, on all of them.
        """
        if self._every and self._local and self._last != step:
            self._send(step, state)
        self._read_all()

    def finish(self) -> None:
        """Read the values that were sent and not yet read, at the end of the loop: the same steps may come again."""
        self._read_all()
        self._last = None

    def _read_all(self) -> None:
        while self._sent:
            self._read(*self._sent.popleft())

    def _send(self, step: int, state: Any) -> None:
        """Dispatch the comparison of this step."""
        self._last = step
        # All processes reach this at the same step, so that the collective below is entered by all.
        claims = self._claims(step)
        shape = (len(self._devices), claims.size)
        rows = jax.make_array_from_callback(
            shape, self._by_device, lambda index: np.broadcast_to(claims, shape)[index]
        )
        self._sent.append((step, self._gather(rows, self._checksums(saved_part(state)))))

    def _claims(self, step: int) -> np.ndarray:
        """Return uint32 [2 * names]: hashes of the facts, of a row used here, of a neighbour's row."""
        ids = list(self._batches.rows)
        neighbour = ids[(ids.index(self._process) + 1) % len(ids)]
        _, index = self._sample(self._process, step)
        # Built from the seed alone: a process whose data or code differs builds another row.
        neighbours_row, _ = self._sample(neighbour, step)
        used = {name: values[index : index + 1] for name, values in self._local.items()}
        expected = self._batches.build(step - 1, [neighbours_row])
        numbers = [*self._facts.values(), step, hash_rows(used), hash_rows(expected)]
        return np.array(numbers, np.uint64).view(np.uint32)

    def _sample(self, process: int, step: int) -> tuple[int, int]:
        """Return a row that a process loads, another one each time, and its index among its rows."""
        rows = self._batches.rows[process]
        index = step // self._every % len(rows)
        return int(rows[index]), index

    def _read(self, step: int, sent: jax.Array) -> None:
        """Raise ReplicaMismatch where the values of a step differ between processes or replicas."""
        table = np.asarray(sent.addressable_data(0))
        names = [*self._facts, "step"]
        width = 2 * (len(names) + 2)
        claims = {
            device.process_index: np.ascontiguousarray(row[:width]).view(np.uint64)
            for device, row in zip(self._devices, table, strict=True)
        }
        differences = []
        for column, name in enumerate(names):
            odd = outliers({process: row[column] for process, row in claims.items()})
            if odd:
                differences.append(f"{name}: {self._name(odd)}")
        # Rows are compared in a ring: each process builds one row of its neighbour, which costs one example a
        # check.
        used = {process: row[-2] for process, row in claims.items()}
        expected = {process: row[-1] for process, row in claims.items()}
        if odd := wrong_in_ring(used, expected):
            differences.append(f"rows of the batch: {self._name(odd)}")
        differences += self._differing_replicas(table[:, width:])
        if differences:
            shown = "\n  ".join(differences[:8]) + ("\n  ..." if len(differences) > 8 else "")
            raise ReplicaMismatch(f"processes do not agree at step {step}; not like the others:\n  {shown}")

    def _differing_replicas(self, sums: np.ndarray) -> list[str]:
        """Describe the leaves whose replicas are not all equal. sums: uint32 [devices, leaves]."""
        differences = []
        for (path, groups), column in zip(self._replicas.items(), sums.T, strict=True):
            for group in groups:
                odd = outliers({index: int(column[index]) for index in group})
                if odd:
                    processes = sorted({self._devices[index].process_index for index in odd})
                    devices = ", ".join(str(self._devices[index]) for index in odd)
                    differences.append(f"{path}: {self._name(processes)}, on {devices}")
        return differences

    def _name(self, processes: Sequence[int]) -> str:
        """Return "process 1 (host-b)"; of two that differ both are named: which is right cannot be known."""
        word = "process" if len(processes) == 1 else "processes"
        return f"{word} " + ", ".join(f"{process} ({self._hosts[process]})" for process in processes)


def outliers(values: Values) -> list[int]:
    """Return the keys whose value is not the majority's; all keys where values differ without a majority."""
    counts = collections.Counter(values.values())
    (value, count), *others = counts.most_common()
    if not others:
        return []
    # Without a majority nobody can be called right.
    return sorted(key for key in values if 2 * count <= len(values) or values[key] != value)


def wrong_in_ring(used: Values, expected: Values) -> list[int]:
    """Return the processes that are wrong, where each says what the next one in order should have.

    A wrong process disagrees with both neighbours; of two processes both are returned.
    """
    ids = sorted(used)
    pairs = [(process, ids[(i + 1) % len(ids)]) for i, process in enumerate(ids)]
    differ = [pair for pair in pairs if expected[pair[0]] != used[pair[1]]]
    votes = collections.Counter(process for pair in differ for process in set(pair))
    return sorted(process for process, count in votes.items() if count == max(votes.values()))


def replicas(abstract: Any, devices: Sequence[Any]) -> dict[str, list[list[int]]]:
    """Return, for each leaf with replicas, groups of indices of devices that hold the same shard."""
    replicated = {}
    for path, leaf in tree.flatten(abstract).items():
        shards = leaf.sharding.devices_indices_map(leaf.shape)
        groups = collections.defaultdict(list)
        for index, device in enumerate(devices):
            bounds = zip(shards[device], leaf.shape, strict=True)
            groups[tuple(part.indices(size) for part, size in bounds)].append(index)
        # A shard that one device holds alone has nothing to be compared with.
        shared = [group for group in groups.values() if len(group) > 1]
        if shared:
            replicated[path] = shared
    return replicated


def checksums(mesh: Mesh, abstract: Any, paths: Sequence[str]) -> Callable[[Any], jax.Array | np.ndarray]:
    """Return a function that computes the checksum of each device's shard of some leaves.

    Args:
        mesh: Mesh of all processes.
        abstract: Abstract tree with shardings.
        paths: Paths of the leaves.

    Returns:
        Jitted tree -> uint32 [devices, paths], devices in mesh order.
    """
    flat = tree.flatten(abstract)
    specs = tuple(flat[path].sharding.spec for path in paths)

    def on_device(*parts: jax.Array) -> jax.Array:
        return jnp.stack([checksum(part) for part in parts])[None]

    # On each device by itself: a global sum would be taken of one replica, and see no difference.
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
    """Return a uint32 [] of all bits; words have odd weights, so that a change of any one shows."""
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    # Bits and not values: NaN differs from itself, and 0 equals -0.
    bits = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}").astype(jnp.uint32).reshape(-1)
    return (bits * (2 * jax.lax.iota(jnp.uint32, bits.size) + 1)).sum(dtype=jnp.uint32)


def hash_rows(rows: Rows) -> int:
    """Return a 64-bit hash of arrays by name."""
    return _hash(
        b"".join(name.encode() + np.ascontiguousarray(rows[name]).tobytes() for name in sorted(rows))
    )


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
