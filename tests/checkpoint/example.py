"""A small training state with every dtype that runs have, on any number of devices."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


class State(NamedTuple):
    params: Any
    opt_state: Any
    carry: Any
    counters: Any


def mesh_of(count: int) -> Mesh:
    return Mesh(np.array(jax.devices()[:count]), ("data",), axis_types=(AxisType.Auto,))


def state_on(count: int, seed: int = 0, width: int = 128) -> State:
    """Parameters (one split over `count` devices), Adam's state, a carry with a None in it, counters."""
    mesh = mesh_of(count)
    split, whole = (NamedSharding(mesh, spec) for spec in (PartitionSpec("data"), PartitionSpec()))
    rng = np.random.default_rng(seed)

    def put(value: Any, sharding: NamedSharding) -> jax.Array:
        value = np.asarray(value)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    def weights() -> dict[str, Any]:
        embed = put(rng.normal(size=(64, width)).astype(np.float32), split)
        return {"model": {"embed": embed, "scale": put(rng.normal(size=3).astype(jnp.bfloat16), whole)}}

    params = weights()
    adam = optax.ScaleByAdamState(count=put(np.int32(seed), whole), mu=weights(), nu=weights())
    carry = {"memory": put(rng.normal(size=(8, 4)).astype(np.float32), split), "none": None}
    counters = {"step": put(np.int32(seed), whole), "words": put(np.array([seed, 7], np.uint32), whole)}
    return State(params, (adam, optax.EmptyState()), carry, counters)


def abstract(state: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def assert_same(left: Any, right: Any) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
