"""The top of the Hessian's spectrum against eigenvalues of whole Hessians, and bits that follow from it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from tests.training.shapes import examples, make
from tlx.base import tree
from tlx.evaluation.curvature import (
    LayerCurvature,
    curvature,
    mixed_bits,
    module_loss,
    power_iterations,
    stacks_of,
)
from tlx.nn.config import ExecutionConfig
from tlx.parallel import unbox
from tlx.training.state import boxed_params


def quadratic(seed, layers=3, size=6):
    """A loss whose Hessian is known, with terms between layers that no layer's block has."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(layers * size, layers * size))
    hessian = root + root.T

    def loss(params, batch):
        x = jnp.concatenate([params["model"]["blocks"]["w"].reshape(layers, -1)], axis=1).reshape(-1)
        return 0.5 * batch["scale"].mean() * x @ hessian @ x + params["model"]["bias"].sum()

    params = {"model": {"blocks": {"w": jnp.asarray(rng.normal(size=(layers, 2, 3)))}, "bias": jnp.ones(2)}}
    blocks = [hessian[i : i + size, i : i + size] for i in range(0, layers * size, size)]
    return loss, params, blocks


def largest(block):
    values = np.linalg.eigvalsh(block)
    return values[np.abs(values).argmax()]


def test_a_quadratic_loss_has_the_eigenvalues_of_its_blocks():
    loss, params, blocks = quadratic(1)
    parts = [[{"scale": np.full(2, scale)} for scale in pair] for pair in ((1.0, 3.0), (1.0, 1.0))]
    rows = curvature(loss, params, parts, 300)
    assert [(row.stack, row.layer) for row in rows] == [("model/blocks", i) for i in range(3)]
    for row, block in zip(rows, blocks, strict=True):
        # The mean of the scales of a part's two batches is 2, and 1.
        np.testing.assert_allclose(row.eigenvalues, [2 * largest(block), largest(block)], rtol=1e-3)
        assert row.mean == pytest.approx(1.5 * largest(block), rel=1e-3)
        assert row.sensitivity == pytest.approx(2 * abs(largest(block)), rel=1e-3)


@pytest.mark.slow
def test_a_transformers_layers_against_their_whole_hessians():
    """Scanned and rematerialised, by the last of the power iterations."""
    module, spec = make("clm", execution=ExecutionConfig(unroll=1, remat="full"))
    small = dataclasses.replace(
        module.model,
        width=4,
        num_layers=2,
        attention=dataclasses.replace(module.model.attention, num_heads=2, num_kv_heads=0, head_dim=0),
        feedforward=dataclasses.replace(module.model.feedforward, ff_dim=4),
    )
    module = module.clone(model=small)
    batch = examples("clm", spec, 0)
    shapes = unbox(boxed_params(module, batch))
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.8, leaf.shape).astype(np.float32), shapes)
    loss = module_loss(module)
    (stack,) = stacks_of(params)
    batches = {name: np.asarray(array)[None] for name, array in batch.items()}
    found = np.asarray(power_iterations(loss, params, batches, jax.random.key(0), stack, 50))
    flat = tree.flatten(params)
    blocks = {path: leaf for path, leaf in flat.items() if path.startswith(stack)}
    vector, unravel = ravel_pytree(blocks)
    layers, _ = ravel_pytree({path: np.stack([0 * x[0], 0 * x[1] + 1]) for path, x in blocks.items()})
    gradient = jax.grad(lambda vector: loss(tree.unflatten({**flat, **unravel(vector)}), batch))

    # Column by column from differences of gradients.
    def column(i):
        step = jnp.zeros_like(vector).at[i].set(1e-2)
        return (gradient(vector + step) - gradient(vector - step)) / 2e-2

    hessian = np.asarray(jax.jit(lambda: jax.lax.map(column, jnp.arange(len(vector))))())
    for layer in range(2):
        chosen = np.asarray(layers) == layer
        block = hessian[np.ix_(chosen, chosen)]
        assert found[layer, -1] == pytest.approx(largest((block + block.T) / 2), rel=0.01)


def test_the_more_sensitive_half_gets_more_bits():
    values = [(1.0, 1.2), (-3.0, -3.1), (0.1, 0.1), (2.0, 2.0), (0.2, 0.3)]
    rows = [LayerCurvature("blocks", i, pair) for i, pair in enumerate(values)]
    assert mixed_bits(rows, 2, 4) == (4, 4, 2, 4, 2)
    assert mixed_bits(rows[:4], 3, 3) == (3, 3, 3, 3)
