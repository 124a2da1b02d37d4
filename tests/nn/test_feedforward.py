"""A choice among experts against the formula, token by token; capacity, balance, and the expert axis."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.test_transformer import build, config, rows, run
from tlx import parallel
from tlx.models.config import FeedForwardConfig
from tlx.models.transformer import Transformer
from tlx.nn.feedforward import Experts
from tlx.parallel.config import MeshConfig

PART = FeedForwardConfig(ff_dim=24, activation="silu", gated=True, bias=False, num_experts=4)


def experts(**changes):
    layer = Experts(config(feedforward=dataclasses.replace(PART, **changes)).block("decoder"))
    x = jax.random.normal(jax.random.key(0), (2, 6, 32))
    params = parallel.unbox(layer.init(jax.random.key(1), x)["params"])
    params = jax.tree.map(lambda p: 0.4 * jax.random.normal(jax.random.key(p.size), p.shape), params)
    (y, routing) = jax.jit(lambda params: layer.apply({"params": params}, x))(params)
    return x, jax.tree.map(np.asarray, params), np.asarray(y), routing


def one(p, x, e):
    gate = x @ p["gate"][e]
    return (gate / (1 + np.exp(-gate)) * (x @ p["in"][e])) @ p["out"][e]


def test_a_token_is_read_by_its_likeliest_experts():
    x, p, y, routing = experts()
    for row, place in np.ndindex(2, 6):
        token = np.asarray(x[row, place])
        logits = token @ p["router"]["kernel"]
        best = np.argsort(-logits)[:2]
        gates = np.exp(logits[best]) / np.exp(logits[best]).sum()
        expected = sum(g * one(p, token, e) for g, e in zip(gates, best, strict=True))
        np.testing.assert_allclose(y[row, place], expected, atol=1e-4)
        assert set(np.flatnonzero(routing.chosen_BTX[row, place])) == set(best)


def test_room_for_all_changes_nothing_and_a_full_expert_is_passed_by():
    _, _, exact, _ = experts()
    _, _, roomy, _ = experts(capacity_factor=2.0)
    np.testing.assert_allclose(roomy, exact, atol=1e-4)
    x, p, tight, routing = experts(
        capacity_factor=0.3, experts_per_token=1
    )  # one token of each expert in a row
    chosen = np.asarray(routing.chosen_BTX).argmax(-1)
    for row in range(2):
        for place in range(6):
            first = chosen[row, place] not in chosen[row, :place]
            expected = one(p, np.asarray(x[row, place]), chosen[row, place]) if first else 0
            np.testing.assert_allclose(tight[row, place], expected, atol=1e-4)


@pytest.mark.slow
def test_the_balance_of_a_batch_leaves_padding_out():
    cfg = config(feedforward=PART)
    batch = rows(padding=4)
    model, params = build(cfg, batch)
    hidden, term = run(model, params, batch, method=Transformer.with_balance)
    np.testing.assert_allclose(hidden, run(model, params, batch), atol=1e-6)
    assert term.weight == 20 and term.loss_weight == PART.router_aux_weight
    even = jax.tree.map(lambda leaf: leaf, params)
    even["decoder"]["blocks"]["feedforward"]["router"]["kernel"] *= 0
    _, flat = run(model, even, batch, method=Transformer.with_balance)
    # All probabilities alike: sum_e f_e = k whatever is chosen, and so E sum_e f_e / E = k.
    np.testing.assert_allclose(flat.sum / flat.weight, 2.0, rtol=1e-5)
    assert abs(term.sum / term.weight - 2.0) > 1e-3
    other = {**batch, "tokens": batch["tokens"].at[1, :4].set(9)}
    _, same = run(model, params, other, method=Transformer.with_balance)
    np.testing.assert_allclose(same.sum, term.sum, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("capacity", [0.0, 1.0])
def test_experts_over_devices_equal_experts_on_one(capacity):
    cfg = config(feedforward=dataclasses.replace(PART, capacity_factor=capacity))
    batch = rows(batch=4)
    model, params = build(cfg, batch)
    expected = run(model, params, batch)
    mesh_config = MeshConfig(data=1, fsdp=2, expert=2, tensor=2)
    mesh, rules = parallel.make_mesh(mesh_config, jax.devices()), parallel.rules(mesh_config)
    boxed = jax.eval_shape(model.init, jax.random.key(0), batch)["params"]
    placed = jax.device_put(params, parallel.param_shardings(boxed, mesh, rules))
    kernel = placed["decoder"]["blocks"]["feedforward"]["in"]
    assert kernel.addressable_shards[0].data.shape == (2, 2, 16, 12)
    with parallel.use(mesh, rules):
        got = jax.jit(lambda params: model.apply({"params": params}, batch))(placed)
    np.testing.assert_allclose(got, expected, atol=2e-5)
    assert jnp.abs(expected).max() > 0.5
