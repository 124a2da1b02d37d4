"""Reading a model out of a run: parameters only, on any machine, whatever wrote it."""

import asyncio
import os
import subprocess
import sys
import textwrap

import jax.numpy as jnp
import numpy as np
import pytest

from tests.checkpoint.example import assert_same, state_on
from tlx.base.errors import CheckpointError
from tlx.checkpoint import Checkpoints, load_params
from tlx.checkpoint import manifest as manifests


@pytest.fixture
def run(tmp_path):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.prepare()
        for step in (1, 2):
            checkpoints.save(step, state_on(8, seed=step), {"step": step})
        assert checkpoints.wait()
    return tmp_path


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_run_directory_checkpoints_folder_and_step_folder_name_the_same(run):
    for path in (run, run / "checkpoints", run / "checkpoints" / "2"):
        loaded = load_params(path)
        assert (loaded.step, loaded.extra) == (2, {"step": 2})
        assert_same(loaded.tree, state_on(1, seed=2).params)
        assert type(loaded.tree["model"]["embed"]) is np.ndarray
    assert load_params(run, step=1).step == load_params(run / "checkpoints" / "1").step == 1


def test_reads_nothing_of_the_optimizer(run):
    """Its files may be gone: they are not looked at."""
    for path in (run / "checkpoints" / "2" / "rest").rglob("*"):
        if path.is_file():
            path.unlink()
    assert_same(load_params(run).tree, state_on(1, seed=2).params)


def test_dtype_casts_floats(run):
    tree = load_params(run, dtype="bfloat16").tree["model"]
    assert tree["embed"].dtype == tree["scale"].dtype == jnp.bfloat16
    whole = state_on(1, seed=2).params["model"]["embed"]
    np.testing.assert_array_equal(tree["embed"], np.asarray(whole).astype(jnp.bfloat16))


def test_damage_is_noticed_skipped_and_left_in_place(run, caplog):
    flip(largest(run / "checkpoints" / "2" / "params"))
    before = sorted(os.listdir(run / "checkpoints"))
    assert load_params(run).step == 1
    assert len(caplog.messages) == 1 and "step 2 skipped" in caplog.text
    with pytest.raises(CheckpointError, match=r"(?s)can be read:\n  step 2: params/.*sha256 differs"):
        load_params(run, step=2)
    flip(largest(run / "checkpoints" / "1" / "params"))
    with pytest.raises(CheckpointError, match=r"(?s)step 2: .*step 1: "):
        load_params(run)
    assert sorted(os.listdir(run / "checkpoints")) == before


def test_no_such_place_or_step(run, tmp_path):
    with pytest.raises(CheckpointError, match="no complete checkpoint at step 7 .*complete: 1, 2"):
        load_params(run, step=7)
    with pytest.raises(CheckpointError, match="is not a directory"):
        load_params(tmp_path / "nowhere")
    (tmp_path / "new").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint is there"):
        load_params(tmp_path / "new")


def test_a_manifest_that_asks_for_more_than_the_machine_has(run):
    folder = run / "checkpoints" / "2"
    found = manifests.read(folder)
    huge = {**found.leaves, "params/model/embed": manifests.LeafInfo((1 << 40, 1 << 20), "float32")}
    manifests.seal(folder, found._replace(leaves=huge))
    with pytest.raises(CheckpointError, match="need [0-9]+ bytes, this machine has"):
        load_params(run, step=2)


def test_a_manifest_whose_leaves_are_not_those_of_the_data(run):
    folder = run / "checkpoints" / "2"
    found = manifests.read(folder)
    other = {"params/model/embed": manifests.LeafInfo((64, 64), "float32")}
    manifests.seal(folder, found._replace(leaves={**found.leaves, **other}))
    with pytest.raises(CheckpointError, match=r"params/model/embed is float32\(64, 128\)"):
        load_params(run, step=2)


def test_inside_a_running_event_loop(run):
    """As in a notebook."""

    async def cell():
        return load_params(run)

    assert asyncio.run(cell()).step == 2


@pytest.mark.slow
def test_saved_on_eight_devices_read_by_a_process_with_one(run):
    code = f"""
        import jax
        from tlx.checkpoint import load_params
        assert jax.device_count() == 1
        print(float(jax.numpy.asarray(load_params({str(run)!r}).tree["model"]["embed"]).sum()))
    """
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert float(printed.stdout) == float(jnp.asarray(state_on(1, seed=2).params["model"]["embed"]).sum())
    assert printed.stderr == ""
