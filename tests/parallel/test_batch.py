"""Each process builds the rows that its devices hold, and only those."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tlx.base.errors import ConfigError
from tlx.parallel import PRESETS, MeshConfig, abstract_mesh, batch_sharding, local_rows, make_mesh, to_global

pytestmark = pytest.mark.jax_versions

RULES = PRESETS["fsdp_tp_cp"]


def batch_of(size):
    rng = np.random.default_rng(0)
    return {"tokens": rng.integers(0, 99, (size, 6), dtype=np.int32), "weights": np.ones(size, np.float32)}


@pytest.mark.parametrize(
    "config", [MeshConfig(), MeshConfig(data=2, fsdp=2, tensor=2), MeshConfig(context=4)]
)
def test_global_arrays_hold_the_rows_and_are_split(config):
    mesh, batch = make_mesh(config), batch_of(16)
    shardings = batch_sharding(mesh, RULES, batch)
    assert list(local_rows(shardings["tokens"], 16)) == list(range(16))
    arrays = to_global(batch, shardings)
    ways = 8 // (mesh.shape["tensor"] * mesh.shape["context"])
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, batch[name])
        assert array.dtype == batch[name].dtype
        assert {shard.data.shape[0] for shard in array.addressable_shards} == {16 // ways}
    assert float(jax.jit(jnp.sum)(arrays["weights"])) == 16


def test_one_sharding_serves_for_all_arrays():
    mesh, batch = make_mesh(MeshConfig()), batch_of(8)
    arrays = to_global(batch, NamedSharding(mesh, PartitionSpec("data")))
    np.testing.assert_array_equal(arrays["tokens"], batch["tokens"])


def test_indivisible_batch_is_refused_with_the_legal_values():
    with pytest.raises(ConfigError, match="batch of 12 rows.*data=8.*multiple of 8.*1, 2, 3, 4, 6, 12"):
        batch_sharding(abstract_mesh(MeshConfig(), 8), RULES, batch_of(12))


def test_wrong_number_of_rows_is_refused():
    mesh = make_mesh(MeshConfig())
    with pytest.raises(ValueError, match="12 rows do not divide into the 8 shards"):
        to_global(batch_of(12), NamedSharding(mesh, PartitionSpec("data")))
