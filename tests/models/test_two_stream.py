"""Who sees whom in XLNet's two streams."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx.models.config import AttentionConfig, ExecutionConfig, ModelConfig, PositionConfig
from tlx.models.two_stream import Memory, TwoStream, empty_memory
from tlx.parallel import unbox

pytestmark = pytest.mark.jax_versions

LENGTH, MEMORY = 8, 4


def setup(seed=0, types=True):
    cfg = ModelConfig(
        kind="two_stream",
        vocab_size=31,
        width=16,
        num_layers=2,
        block_layout="post",
        attention=AttentionConfig(num_heads=2, qkv_bias=False, out_bias=False),
        position=PositionConfig(kind="relative_sinusoidal", segment_relative=types),
        execution=ExecutionConfig(unroll=1),
    )
    order = np.random.default_rng(seed).permutation(LENGTH)
    rank = jnp.asarray(order)[None]
    batch = {
        "tokens": jnp.arange(1, LENGTH + 1)[None],
        "segments": jnp.ones((1, LENGTH), jnp.int32),
        "types": jnp.asarray([[0, 0, 0, 0, 1, 1, 1, 1]]),
        "rank": rank,
        "query_rank": rank,
        "target_positions": jnp.arange(LENGTH)[None],
    }
    if not types:
        del batch["types"]
    model = TwoStream(cfg)
    init = jax.jit(lambda key: model.init(key, batch, empty_memory(cfg, 1, MEMORY), 0))
    params = unbox(init(jax.random.key(0)))["params"]
    params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape), params)
    hidden = jax.random.normal(jax.random.key(2), (1, 2, MEMORY, 16))
    memory = Memory(hidden, jnp.ones((1, MEMORY), jnp.int32))
    return model, params, batch, memory, order


@pytest.mark.slow
def test_each_target_sees_exactly_its_predecessors_and_the_memory():
    model, params, batch, memory, order = setup()

    def streams(vectors, hidden):
        table = params["embedding"]["table"].at[batch["tokens"][0]].set(vectors)
        changed = {**params, "embedding": {"table": table}}
        return model.apply({"params": changed}, batch, memory._replace(hidden=hidden), 0).query[0]

    vectors = params["embedding"]["table"][batch["tokens"][0]]
    by_vector = jax.jit(jax.jacrev(streams, 0))(vectors, memory.hidden)
    seen = np.abs(np.asarray(by_vector)).max(axis=(1, 3)) > 1e-7
    np.testing.assert_array_equal(seen, order[:, None] > order[None, :])


@pytest.mark.slow
def test_the_memory_is_seen_within_its_segment_and_has_no_gradient():
    model, params, batch, memory, _ = setup()

    @jax.jit
    def out(memory):
        return model.apply({"params": params}, batch, memory, 0).query

    moved = memory._replace(hidden=memory.hidden.at[:, :, 1].add(1.0))
    assert np.abs(out(moved) - out(memory)).max() > 1e-3
    other = memory._replace(segments=jnp.full((1, MEMORY), 9))
    moved = moved._replace(segments=other.segments)
    np.testing.assert_allclose(out(moved), out(other), atol=1e-6)
    grads = jax.grad(lambda h: jnp.sum(out(memory._replace(hidden=h)) ** 2))(memory.hidden)
    assert np.abs(grads).max() == 0


@pytest.mark.slow
@pytest.mark.parametrize("reuse", [2, 6])
def test_the_memory_keeps_the_last_places_before_the_reuse_length(reuse):
    model, params, batch, memory, _ = setup()
    _, _, after = model.apply({"params": params}, batch, memory, reuse)
    assert after.hidden.shape == memory.hidden.shape
    kept = min(reuse, MEMORY)
    if reuse < MEMORY:
        np.testing.assert_array_equal(after.hidden[:, :, : MEMORY - reuse], memory.hidden[:, :, reuse:])
    embedded = params["embedding"]["table"][batch["tokens"][0]]
    np.testing.assert_allclose(after.hidden[0, 0, MEMORY - kept :], embedded[reuse - kept : reuse], atol=1e-6)


@pytest.mark.slow
def test_a_target_in_part_of_the_row_equals_the_same_target_in_all_of_it():
    model, params, batch, memory, _ = setup()
    full = model.apply({"params": params}, batch, memory, 0).query
    some = {**batch, "target_positions": jnp.asarray([[5, 2]])}
    part = model.apply({"params": params}, some, memory, 0).query
    np.testing.assert_allclose(part[0], full[0, jnp.asarray([5, 2])], atol=1e-5)


@pytest.mark.slow
def test_a_row_in_reverse_is_the_row_as_it_was():
    """Both streams of the reversed row, told that it is, are those of the row; and only if it is told."""
    model, params, batch, _, _ = setup()
    memory = empty_memory(model.cfg, 1, 0)
    row = {**batch, "target_positions": jnp.asarray([[5, 2, 7]])}
    back = {key: row[key][:, ::-1] for key in ("tokens", "segments", "types", "rank", "query_rank")}
    back["target_positions"] = LENGTH - 1 - row["target_positions"]

    @jax.jit
    def streams(batch, backwards):
        return model.apply({"params": params}, {**batch, "backwards": backwards[None]}, memory, 0)

    plain, told, untold = streams(row, jnp.int32(0)), streams(back, jnp.int32(1)), streams(back, jnp.int32(0))
    np.testing.assert_allclose(told.query, plain.query, atol=1e-5)
    np.testing.assert_allclose(told.content[:, ::-1], plain.content, atol=1e-5)
    assert np.abs(untold.query - plain.query).max() > 1e-2
