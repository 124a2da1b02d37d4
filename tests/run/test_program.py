"""The state of a program: trees beside the parameters, and checkpoints from before there were any."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.cli import tiny
from tests.make_golden_run import FOLDER, unpack
from tests.tiers import tiers
from tlx.base import tree
from tlx.checkpoint import Checkpoints
from tlx.cli import flags
from tlx.run.assemble import assemble
from tlx.run.checks import resolve
from tlx.run.program import state_shardings
from tlx.text import load_tokenizer
from tlx.training.directory import read_run
from tlx.training.state import State, saved_part


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tiny.write_config(tmp_path_factory.mktemp("config"))
    config = flags.load_config(f"{path}:clm")
    config.mesh.data = 2
    config.mesh.fsdp = 4
    return assemble(resolve(config))


def with_extra(state):
    average = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), state.params)
    return state._replace(extra={"average": average, "decay": jnp.full((), 0.9)})


def test_trees_beside_the_parameters_are_sharded_like_them(run):
    abstract = jax.eval_shape(with_extra, run.state)
    shardings = state_shardings(abstract, run.program.boxed, {}, run.module, run.mesh, run.rules)
    assert tree.flatten(shardings.extra["average"]) == tree.flatten(shardings.params)
    assert any(leaf.spec != jax.P() for leaf in jax.tree.leaves(shardings.extra["average"]))
    assert shardings.extra["decay"].is_fully_replicated


@pytest.mark.slow
def test_trees_beside_the_parameters_pass_through_a_step_and_a_checkpoint(run, tmp_path):
    with run.use():
        state = with_extra(run.init())
        before = jax.device_get(state.extra)
        after, _ = jax.jit(run.step.__wrapped__, donate_argnums=0)(
            state, run.to_devices(run.train.batch(0, run.local_row_indices))
        )
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(after.extra), before)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.prepare()
        checkpoints.save(1, saved_part(after))
        checkpoints.wait()
        loaded = checkpoints.restore(saved_part(after))
    assert "extra/decay" in tree.flatten(loaded.tree) and set(loaded.tree["extra"]) == {"average", "decay"}
    jax.tree.map(
        np.testing.assert_array_equal, jax.device_get(loaded.tree), jax.device_get(saved_part(after))
    )


def test_no_path_is_stored_where_there_is_nothing_beside(run):
    assert run.state.extra == {} and saved_part(run.state)["extra"] == {}
    assert not any(path.startswith("extra") for path in tree.flatten(saved_part(run.state)))


@pytest.mark.parametrize("objective", tiers(["clm", "plm"], slow=["plm"]))
def test_a_checkpoint_from_before_fits(objective, tmp_path):
    """Runs of format 1 were saved when the state had no `extra`."""
    folder = unpack(FOLDER / "format_1" / f"{objective}.tar.xz", tmp_path)
    config = resolve(read_run(folder)["config"])
    run = assemble(config, load_tokenizer(folder / "tokenizer"))
    with run.use(), Checkpoints(folder / "checkpoints", config.checkpoint) as checkpoints:
        loaded = checkpoints.restore(saved_part(run.state))
        state = State(**loaded.tree, frozen=run.frozen())
        assert state.extra == {} and int(state.step) == loaded.step == config.train.steps
        state, metrics = run.step(state, run.to_devices(run.train.batch(loaded.step, run.local_row_indices)))
    assert np.isfinite(metrics["loss"]) and int(state.step) == loaded.step + 1
