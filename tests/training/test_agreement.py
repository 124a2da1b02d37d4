"""What processes compare: copies on devices, claims of each process, and whom a difference is blamed on."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tlx.base.errors import ReplicaMismatch
from tlx.training import replica_check
from tlx.training.replica_check import BatchSource, ReplicaCheck, outliers, wrong_in_ring


class Leaves(NamedTuple):
    """Stands for the state of a run."""

    weights: Any
    scalar: Any
    split: Any


@pytest.fixture(scope="module")
def mesh():
    return Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "fsdp"))


def test_outliers():
    assert outliers({0: "a", 1: "a", 2: "a"}) == []
    assert outliers({0: "a", 1: "b", 2: "a"}) == [1]
    assert outliers({0: "a", 1: "b"}) == [0, 1]
    assert outliers({0: "a"}) == []
    assert outliers({0: "a", 1: "a", 2: "b", 3: "b"}) == [0, 1, 2, 3]


def test_who_is_wrong_in_a_ring():
    right = {i: 10 * i for i in range(4)}  # the row that each should have used
    honest = {i: right[(i + 1) % 4] for i in range(4)}  # what each expects of the next
    assert wrong_in_ring(right, honest) == []
    assert wrong_in_ring(right | {2: 99}, honest | {2: 98}) == [2]  # astray in what it makes and expects
    assert wrong_in_ring({0: 1, 1: 2}, {0: 3, 1: 4}) == [0, 1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint32", "bool", "int8"])
def test_a_checksum_sees_every_word(dtype):
    x = np.asarray(jnp.zeros((3, 5), dtype))
    sums = {int(replica_check.checksum(jnp.asarray(x)))}
    for place in range(x.size):
        other = x.copy()
        other.flat[place] = 1
        sums.add(int(replica_check.checksum(jnp.asarray(other))))
    assert len(sums) == x.size + 1
    assert replica_check.checksum(jnp.ones((), jnp.float32)) != replica_check.checksum(
        jnp.zeros((), jnp.float32)
    )


def tree_on(mesh, broken=None):
    """weights split over fsdp (copied over data), a scalar everywhere, and a leaf without copies.

    broken: (leaf, device number) whose copy has one other bit.
    """
    specs = {"weights": ("fsdp", (4, 6)), "scalar": (None, ()), "split": (("data", "fsdp"), (8, 3))}
    tree = {}
    for name, (axes, shape) in specs.items():
        sharding = NamedSharding(mesh, PartitionSpec(axes) if shape else PartitionSpec())
        whole = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        parts = []
        for number, (device, index) in enumerate(sharding.devices_indices_map(shape).items()):
            part = np.array(whole[index])
            if broken == (name, number):
                part.reshape(-1).view(np.uint32)[-1] ^= 1
            parts.append(jax.device_put(part, device))
        tree[name] = jax.make_array_from_single_device_arrays(shape, sharding, parts)
    return tree


def compare(mesh, state, batch=lambda step, rows: {"tokens": np.arange(8)[list(rows)] + step}):
    """One comparison at step 2 in this one process, which is its own neighbour."""
    state = Leaves(**state)
    abstract = replica_check.saved_part(state)
    batches = BatchSource(
        {0: np.arange(8)}, lambda number, rows: {"tokens": np.arange(8)[list(rows)] + number}
    )
    found = ReplicaCheck(2, mesh, abstract, {"config": "c", "data": "d"}, batches, ["host-a"])
    for step in range(1, 5):
        local = {"tokens": np.arange(8) + step - 1}
        if batch is not None and step == 2:
            local = batch(step - 1, range(8))
        found.see(local)
        found(step, state, None)
    found.finish()


def test_equal_copies_agree(mesh):
    compare(mesh, tree_on(mesh))


def test_only_copies_are_compared(mesh):
    abstract = tree_on(mesh)
    found = replica_check.replicas(abstract, list(mesh.devices.flat))
    assert found == {"weights": [[0, 2, 4, 6], [1, 3, 5, 7]], "scalar": [list(range(8))]}


@pytest.mark.parametrize("leaf, device", [("weights", 3), ("scalar", 5)])
def test_a_flipped_bit_of_one_copy_is_found_and_placed(mesh, leaf, device):
    name = str(jax.devices()[device])
    with pytest.raises(ReplicaMismatch, match=rf"step 1; .*\n  {leaf}: process 0 \(host-a\), on {name}"):
        compare(mesh, tree_on(mesh, broken=(leaf, device)))


def test_the_first_step_and_each_save_are_compared_too(mesh):
    state = Leaves(**tree_on(mesh))
    other = Leaves(**tree_on(mesh, broken=("scalar", 5)))
    batches = BatchSource(
        {0: np.arange(8)}, lambda number, rows: {"tokens": np.arange(8)[list(rows)] + number}
    )
    arguments = (mesh, replica_check.saved_part(state), {}, batches, ["host-a"])
    check = ReplicaCheck(100, *arguments)
    check.confirm(6, other)  # nothing was trained yet
    check.see({"tokens": np.arange(8) + 6})
    check(7, other, None)
    with pytest.raises(ReplicaMismatch, match="step 7"):
        check.confirm(7, other)
    check.see({"tokens": np.arange(8) + 7})
    check(8, other, None)
    with pytest.raises(ReplicaMismatch, match="step 8"):
        check.confirm(8, other)
    check.confirm(8, state)  # compared already
    never = ReplicaCheck(0, *arguments)
    never.see({"tokens": np.arange(8)})
    never(1, other, None)
    never.confirm(1, other)


def test_another_batch_is_found(mesh):
    with pytest.raises(ReplicaMismatch, match=r"rows of the batch: process 0 \(host-a\)"):
        compare(mesh, tree_on(mesh), batch=lambda number, rows: {"tokens": np.arange(8)[list(rows)] + 7})
