"""What a compiled step sends is what its layout needs: a careless sharding shows at once."""

import jax
import numpy as np
import pytest

from tests.plan import tiny
from tests.tiers import tiers
from tlx import parallel
from tlx.plan.compiled import read
from tlx.plan.footprint import step_flops
from tlx.plan.traffic import least_traffic, total
from tlx.run.program import build_program
from tlx.run.spec import spec_before_tokenizer


def compiled(config):
    """(the step's program, what its optimised module says) on the eight devices."""
    made = build_program(config, spec_before_tokenizer(config), parallel.make_mesh(config.mesh))
    with made.use():
        step = made.step.lower(made.state, made.batch).compile()
    return made, read(step, dict(made.mesh.shape), "cpu")


def as_reductions(traffic):
    """XLA's CPU compiler has no reduce-scatter: whole gradients are reduced, which sends twice as much."""
    gradients = traffic.pop("reduce-scatter", {})
    for axis, size in gradients.items():
        traffic.setdefault("all-reduce", {})
        traffic["all-reduce"][axis] = traffic["all-reduce"].get(axis, 0) + 2 * size
    return traffic


@pytest.mark.slow
@pytest.mark.parametrize("mesh", tiers(tiny.MESHES, quick=list(tiny.MESHES)[:1]))
def test_within_a_tenth_of_the_theory(mesh):
    config = tiny.config("clm", mesh, num_layers=4)
    made, facts = compiled(config)
    least = as_reductions(least_traffic(config, made))
    assert total(facts.collectives) == pytest.approx(total(least), rel=0.1)
    for kind, axes in least.items():
        for axis, size in axes.items():
            assert facts.collectives[kind][axis] == pytest.approx(size, rel=0.15), (kind, axis)
    # Nothing else to speak of: no kind and axis that the theory does not have.
    for kind, axes in facts.collectives.items():
        for axis, size in axes.items():
            if axis not in least.get(kind, {}):
                assert size < 0.1 * total(least), (kind, axis)


@pytest.mark.slow
def test_bytes_of_the_module_are_those_of_the_arrays():
    config = tiny.config("clm", "both")
    made, facts = compiled(config)
    with made.use():
        state = made.init({}, np.uint32(0))
    (device, *_) = jax.devices()
    held = sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves(state)
        for shard in leaf.addressable_shards
        if shard.device == device
    )
    rows = sum(leaf.size * leaf.dtype.itemsize for leaf in made.batch.values()) // 4
    assert facts.argument_bytes == held + rows
    out = jax.tree.leaves(jax.eval_shape(made.step, made.state, made.batch))
    metrics = len(out) - len(jax.tree.leaves(state))
    assert facts.output_bytes == held + 4 * metrics + 8 * len(out)  # a number each, and the tuple's pointers
    assert facts.alias_bytes > 0.99 * held  # the new state lies where the old one was


@pytest.mark.slow
def test_flops_of_the_module_are_those_of_the_model():
    """Nothing is recomputed, so the step's products are three times the forward pass'."""
    config = tiny.config("clm", "fsdp", num_layers=4)
    _, facts = compiled(config)
    assert facts.matmul_flops * 8 == pytest.approx(step_flops(config).model_flops, rel=0.02)
