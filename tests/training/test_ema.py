"""The moving average of the parameters is what numpy says of the parameters of every accepted step."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tlx
from tests.cli.tiny import write_config
from tests.training.toy import Toy, batch_at
from tlx.base import tree
from tlx.base.errors import CheckpointError, ConfigError
from tlx.checkpoint import load_params
from tlx.cli import main
from tlx.training.config import EmaConfig, TrainConfig
from tlx.training.ema import averaged, initial_extra
from tlx.training.journal import read_lines
from tlx.training.state import init_state
from tlx.training.step import make_step

DECAY = 0.7


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_numpy_averages_the_same_and_a_skipped_step_changes_no_bit(dtype):
    config = TrainConfig(ema=EmaConfig(DECAY))
    schedule = optax.constant_schedule(3e-2)
    optimizer = optax.sgd(schedule)
    state = init_state(Toy(memory=False), optimizer, batch_at(0), 8, seed=1)
    params = jax.tree.map(lambda param: param.astype(dtype), state.params)
    state = state._replace(params=params, extra=initial_extra(config, params))
    step = jax.jit(make_step(Toy(memory=False), optimizer, schedule, config), donate_argnums=0)
    expected = {path: np.float64(leaf) for path, leaf in tree.flatten(params).items()}
    accepted = 0
    for k in range(12):
        batch = batch_at(k)
        if k == 4:
            batch["tokens"][0, 0] = 99  # NaN
        before = jax.device_get(state.extra["ema"])
        state, metrics = step(state, batch)
        after = jax.device_get(state.extra["ema"])
        if k == 4:
            assert int(metrics["skipped"]) == 1
            jax.tree.map(np.testing.assert_array_equal, before, after)
            continue
        decay = min(DECAY, (accepted + 1) / (accepted + 10))
        accepted += 1
        for path, leaf in tree.flatten(state.params).items():
            expected[path] = decay * expected[path] + (1 - decay) * np.float64(leaf)
            average = tree.flatten(after)[path]
            assert average.dtype == np.float32, "1 - decay is below the resolution of bfloat16"
            np.testing.assert_allclose(average, expected[path], rtol=2e-6, atol=2e-6)
    assert averaged(state).params["kernel"].dtype == dtype


def test_without_an_average_the_state_has_no_path_for_it():
    assert initial_extra(TrainConfig(), {"w": jnp.ones(3)}) == {}
    for decay in (-0.1, 1.0):
        with pytest.raises(ConfigError, match=r"train\.ema\.decay"):
            EmaConfig(decay).validate()


def saved(run, step, part):
    return tree.flatten(load_params(run, step, params=part).tree)


@pytest.mark.long
def test_a_run_saves_resumes_evaluates_and_loads_it(tmp_path, capsys):
    """A run without an average goes on with one; resumed once more, it has the bits of one that was not."""
    config = write_config(tmp_path)
    plain = ["train", f"--config={config}", "--config.eval.every=0", "--config.checkpoint.every=2"]
    assert main([*plain, f"--workdir={tmp_path / 'whole'}", "--config.train.steps=2"]) == 0
    with pytest.raises(CheckpointError, match=r"no moving average .* train\.ema\.decay"):
        tlx.load(tmp_path / "whole", params="ema")
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    # All 8 devices shard the parameters, and the average as they are.
    train = [*plain, "--config.train.ema.decay=0.9", "--allow-change=train.ema"]
    evaluated = ["--config.eval.every=4", "--config.eval.batches=1", "--config.eval.params=ema"]
    words = [*train, *evaluated, "--config.mesh.fsdp=8", "--config.mesh.data=1", "--config.train.steps=6"]
    assert main([*plain, *evaluated, f"--workdir={tmp_path / 'whole'}"]) == 64
    assert "eval.params = 'ema'" in capsys.readouterr().err
    assert main([*words, f"--workdir={tmp_path / 'whole'}"]) == 0
    for steps in (4, 6):
        assert main([*words, f"--workdir={tmp_path / 'parts'}", f"--config.train.steps={steps}"]) == 0
    for part in ("params", "ema"):
        whole = saved(tmp_path / "whole", 6, part)
        parts = saved(tmp_path / "parts", 6, part)
        assert whole.keys() == parts.keys()
        for path, leaf in whole.items():
            np.testing.assert_array_equal(leaf, parts[path])
    # It began with the parameters that the run had at step 2.
    table = "model/embedding/table"
    expected = saved(tmp_path / "whole", 2, "params")[table]
    assert np.abs(saved(tmp_path / "whole", 4, "ema")[table] - expected).max() < 4 * 3e-3
    trained = tree.flatten(tlx.load(tmp_path / "whole").params)[table]
    average = tree.flatten(tlx.load(tmp_path / "whole", params="ema").params)[table]
    np.testing.assert_array_equal(average, saved(tmp_path / "whole", 6, "ema")[table])
    assert not np.array_equal(trained, average)
    lines = read_lines(tmp_path / "whole" / "metrics.jsonl")
    [validation] = [line["loss"] for line in lines if line["kind"] == "validation"]
    losses = {
        params: tlx.evaluate(tlx.load(tmp_path / "whole", step=4, params=params), batches=1).metrics["loss"]
        for params in ("trained", "ema")
    }
    np.testing.assert_allclose(validation, losses["ema"], rtol=1e-5)
    assert abs(losses["trained"] - losses["ema"]) > 1e-4
    mean = tree.flatten(tlx.load(tmp_path / "whole", params="mean:2").params)[table]
    both = np.float64([saved(tmp_path / "whole", step, "params")[table] for step in (4, 6)])
    np.testing.assert_array_equal(mean, both.mean(axis=0).astype(np.float32))
    with pytest.raises(CheckpointError, match="has 3 complete checkpoints up to step 6; keep more"):
        tlx.load(tmp_path / "whole", params="mean:4")
    with pytest.raises(ConfigError, match="params = 'best' must be 'trained', 'ema', or 'mean:N'"):
        tlx.load(tmp_path / "whole", params="best")
