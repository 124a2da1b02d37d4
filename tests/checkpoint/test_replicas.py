"""Restore with replicas: each byte is read by one replica, and all have the same bits."""

import json
import os
import socket
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tlx.checkpoint import replicas

BITS = np.random.default_rng(0).integers(0, 256, (16, 1024), np.uint8)
DTYPES = ("float32", "bfloat16", "int8", "uint32", "float8_e4m3fn", "bool")


def test_leaves_are_dealt_out_evenly_and_the_small_ones_left():
    sizes = {"a": 8, "b": 5, "c": 4, "d": 3, "e": 3}
    assert replicas.readers_of(sizes, 2) == {"a": 0, "b": 1, "c": 1, "d": 0, "e": 1}
    # In one process nobody is sent anything.
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    leaf = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("fsdp")))
    assert replicas.num_replicas(leaf) == 4 and replicas.replicated_leaves({"a": leaf, "b": leaf}) == []
    carry = leaf.update(sharding=NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))
    assert replicas.num_replicas(carry) == 1


@pytest.mark.slow
def test_every_bit_arrives_from_whichever_replica():
    """All bit patterns: -0.0, infinities, NaNs with their payloads."""
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    leaves = []
    values = []
    for number, name in enumerate(DTYPES):
        value = BITS > 127 if name == "bool" else BITS.view(jnp.dtype(name))
        sharding = NamedSharding(mesh, PartitionSpec("fsdp"))
        abstract = jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding)
        leaves.append(replicas.ReplicatedLeaf(name, abstract, number % 4))
        values.append(value)
    read = [jax.device_put(value, leaf.read_sharding) for leaf, value in zip(leaves, values, strict=True)]
    for leaf, value, array in zip(leaves, values, replicas.send(leaves, read), strict=True):
        assert array.sharding == leaf.sharding and array.dtype == value.dtype
        for shard in array.addressable_shards:
            held = np.ascontiguousarray(np.asarray(shard.data))
            assert held.tobytes() == value[shard.index].tobytes(), (leaf.path, shard.device)


WORKER = """
    import json, sys
    import jax
    process, port, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, process, initialization_timeout=60)
    import jax.numpy as jnp
    import numpy as np
    import tensorstore
    from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
    from tests.checkpoint.test_replicas import BITS
    from tlx.checkpoint import CheckpointConfig, Checkpoints, manifest, replicas, store, trees

    mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)

    def put(value, *spec):
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    many = np.tile(BITS, (16, 4))
    # Without NaNs, of which Orbax's slicing on CPUs changes payloads while it saves.
    finite = np.where(np.arange(many.size).reshape(many.shape) % 2, many & 0x8F, many)
    state = {
        "params": {"a": put(many.view(np.float32), "fsdp"), "b": put(finite.view(jnp.bfloat16), None, "fsdp")},
        "opt": {"a": put(many.view(np.float32)[::-1], "fsdp"), "b": put(many[::-1].view(np.int8), "fsdp")},
        "carry": put(many[:64], "data"),
        "step": put(np.int32(7)),
    }

    def bytes_read():
        metrics = tensorstore.experimental_collect_matching_metrics("/tensorstore/kvstore/file/bytes_read")
        return metrics[0]["values"][0]["value"] if metrics else 0

    def same(left, right):
        for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
            assert a.sharding == b.sharding and a.dtype == b.dtype
            for x, y in zip(a.addressable_shards, b.addressable_shards, strict=True):
                assert np.asarray(x.data).tobytes() == np.asarray(y.data).tobytes()

    checkpoints = Checkpoints(folder, CheckpointConfig(verify="size"))
    checkpoints.prepare()
    assert checkpoints.save(1, state) and checkpoints.wait()
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    before = bytes_read()
    same(checkpoints.restore(abstract).tree, state)
    shared = bytes_read() - before
    store.load(checkpoints.folder / "1", trees.split(abstract))
    own = bytes_read() - before - shared
    readers = {leaf.path: leaf.replica for leaf in replicas.replicated_leaves(trees.flat(abstract))}
    print(json.dumps({"shared": shared, "own": own, "readers": readers}), flush=True)

    # One process cannot read: both say so, and neither waits for what the other would send.
    if process == 1:
        def broken(*_, **__):
            raise OSError("its network is down")
        loads = store.load
        def fails(*args, **kwargs):
            loads(*args, **kwargs)
            broken()
        store.load = fails
    try:
        replicas.load(checkpoints.folder / "1", trees.split(abstract))
    except OSError as error:
        print(error, flush=True)
"""


@pytest.mark.slow
def test_two_processes_read_each_byte_once(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WORKER), str(process), port, str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "JAX_NUM_CPU_DEVICES": "2"},
            text=True,
        )
        for process in range(2)
    ]
    try:
        results = [worker.communicate(timeout=120) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], results
    outputs = [[line for line in out.splitlines() if "[Gloo]" not in line] for out, _ in results]
    first, second = (json.loads(lines[0]) for lines in outputs)
    size = 16 * BITS.size * 4
    carry = size // 4
    replicated = 4 * size
    # Each reads two of the four replicated leaves, and its half of the carry; beside them only Orbax's metadata.
    assert sorted(first["readers"].values()) == [0, 0, 1, 1] and first["readers"] == second["readers"]
    for process in (first, second):
        assert process["shared"] == pytest.approx((replicated + carry) / 2, rel=0.01)
        assert process["own"] == pytest.approx(replicated + carry / 2, rel=0.01)
    assert outputs[0][1] == "another process could not read its share of the checkpoint"
    assert outputs[1][1] == "its network is down"
