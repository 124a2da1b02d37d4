"""Saving, restoring and keeping checkpoints when nothing goes wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from tests.checkpoint.example import abstract, assert_same, mesh_of, state_on
from tlx.base.errors import CheckpointError, ConfigError
from tlx.checkpoint import CheckpointConfig, Checkpoints
from tlx.checkpoint import manifest as manifests

pytestmark = pytest.mark.jax_versions


@pytest.mark.parametrize("count", [8, 4, 1])
def test_restores_bit_for_bit_on_other_devices(tmp_path, count):
    saved = state_on(8, seed=3)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.prepare()
        assert checkpoints.restore(abstract(saved)) is None, "nothing there: a fresh run"
        assert checkpoints.save(3, saved, {"note": "hi", "at": {2: 1.5, 10: [1, (2,)]}})
        assert checkpoints.wait()
    wanted = abstract(state_on(count))
    loaded = Checkpoints(tmp_path / "c").restore(wanted)
    assert loaded.step == 3
    assert loaded.extra == {"note": "hi", "at": {"2": 1.5, "10": [1, [2]]}}
    assert_same(loaded.tree, saved)
    for leaf, like in zip(jax.tree.leaves(loaded.tree), jax.tree.leaves(wanted), strict=True):
        assert leaf.sharding == like.sharding


def test_a_leaf_without_sharding_comes_back_as_numpy(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"a": np.arange(3), "b": jnp.ones(2)})
        checkpoints.wait()
        wanted = {"a": jax.ShapeDtypeStruct((3,), np.int64), "b": jax.ShapeDtypeStruct((2,), jnp.float32)}
        tree = checkpoints.restore(wanted).tree
    assert {type(leaf) for leaf in tree.values()} == {np.ndarray}
    np.testing.assert_array_equal(tree["a"], np.arange(3))


def test_an_optional_entry_may_be_a_leaf(tmp_path):
    """Restored where it is wanted alike, else left out."""
    saved = {"extra": {"beta": np.float32(0.5), "window": {"count": np.int32(3)}}}
    optional = ("extra/beta", "extra/gamma")
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, saved)
        checkpoints.wait()
        assert checkpoints.restore(saved, optional=optional).tree == saved
        rest = {"extra": {"window": saved["extra"]["window"]}}
        for wanted in (rest, {"extra": rest["extra"] | {"beta": np.zeros(2), "gamma": np.float32(1)}}):
            assert checkpoints.restore(wanted, optional=optional).tree == rest


def test_arrays_may_be_donated_as_soon_as_save_returns(tmp_path):
    overwrite = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    for count in (1, 8):
        state = state_on(count, seed=1, width=4096)
        before, like = jax.tree.map(np.array, state), abstract(state)
        overwrite(state_on(count, width=4096).params["model"]["embed"])  # compiled
        with Checkpoints(tmp_path / str(count)) as checkpoints:
            checkpoints.prepare()
            checkpoints.save(1, state)
            jax.block_until_ready(jax.tree.map(overwrite, state.params))
            checkpoints.wait()
            assert_same(checkpoints.restore(like).tree, before)


def test_keeps_the_newest_and_the_permanent(tmp_path):
    events = []
    config = CheckpointConfig(every=10, keep=2, keep_every=30, keep_at=(5, 20))
    with Checkpoints(tmp_path, config, on_event=lambda kind, **f: events.append((kind, f["step"]))) as kept:
        for step in range(1, 81):
            if kept.due(step):
                assert kept.save(step, {"w": np.full(3, step)})
        assert kept.wait()
        assert kept.complete_steps() == [5, 20, 30, 60, 70, 80]
        assert kept.latest == 80
        assert not kept.save(80, {"w": np.full(3, 80)}), "a saved step is not saved again"
    assert [step for kind, step in events if kind == "checkpoint_saved"] == [5, *range(10, 81, 10)]
    assert [step for kind, step in events if kind == "checkpoint_deleted"] == [10, 40, 50]


def test_the_last_sound_step_is_never_deleted(tmp_path, caplog):
    """The newer step is cut short before the older one would go: the older one stays."""
    with Checkpoints(tmp_path, CheckpointConfig(keep=1)) as checkpoints:
        checkpoints.save(1, {"w": np.arange(1000)})
        checkpoints.wait()
        real_seal = manifests.seal

        def seal_then_truncate(folder, manifest):
            real_seal(folder, manifest)
            largest = max(manifest.files, key=lambda path: manifest.files[path]["size"])
            with open(folder / largest, "r+b") as handle:
                handle.truncate(5)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(manifests, "seal", seal_then_truncate)
            checkpoints.save(2, {"w": np.arange(1000)})
            checkpoints.wait()
        assert checkpoints.complete_steps() == [1, 2]
        assert "none of [2] that would stay is known to be sound" in caplog.text
        checkpoints.save(3, {"w": np.arange(1000)})
        checkpoints.wait()
        assert checkpoints.complete_steps() == [3]


def test_a_step_counts_only_once_it_is_sealed(tmp_path, monkeypatch):
    seen = []
    real_seal = manifests.seal

    def seal(folder, manifest):
        assert (folder / "commit_success.txt").exists()
        seen.append(checkpoints.latest)
        real_seal(folder, manifest)
        seen.append(checkpoints.latest)

    monkeypatch.setattr(manifests, "seal", seal)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"w": np.arange(3)})
        assert checkpoints.wait()
    assert seen == [None, 1]


def test_mismatch_is_a_table_before_anything_is_loaded(tmp_path, monkeypatch):
    state = state_on(8)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        checkpoints.wait()
        wanted = abstract(state)
        model = dict(wanted.params["model"], scale=jax.ShapeDtypeStruct((3,), jnp.float32))
        embed = model.pop("embed")
        model["embedding"] = jax.ShapeDtypeStruct((64, 32), embed.dtype, sharding=embed.sharding)
        monkeypatch.setattr("tlx.checkpoint.store.load", lambda *_: pytest.fail("loaded"))
        with pytest.raises(CheckpointError) as caught:
            checkpoints.restore(wanted._replace(params={"model": model}))
    text = str(caught.value)
    assert caught.value.code == 74
    assert "params/model/scale      checkpoint bfloat16, model float32" in text
    assert "params/model/embedding  not in the checkpoint; nearest there: params/model/embed" in text
    assert "params/model/embed      only in the checkpoint" in text
    assert checkpoints.complete_steps() == [1], "a mismatch is not a damaged checkpoint"


def test_shape_and_divisibility_are_in_the_table(tmp_path):
    state = state_on(8)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        checkpoints.wait()
    six = abstract(state_on(1))
    split = state_on(4).params["model"]["embed"].sharding
    over_six = jax.ShapeDtypeStruct((64, 128), jnp.float32, sharding=NamedSharding(mesh_of(6), split.spec))
    six.params["model"]["embed"] = over_six
    with pytest.raises(CheckpointError, match=r"params/model/embed +\(64,128\) does not divide"):
        Checkpoints(tmp_path).restore(six)
    six.params["model"]["embed"] = jax.ShapeDtypeStruct((32, 128), jnp.float32)
    with pytest.raises(CheckpointError, match=r"params/model/embed +checkpoint \(64,128\), model \(32,128\)"):
        Checkpoints(tmp_path).restore(six)


def test_an_explicit_step(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"w": np.full(3, step)})
        checkpoints.wait()
        like = {"w": np.empty(3, np.int64)}
        assert checkpoints.restore(like, step=1).tree["w"][0] == 1
        with pytest.raises(CheckpointError, match="no complete checkpoint at step 3 .*complete: 1, 2"):
            checkpoints.restore(like, step=3)


def test_refuses_what_it_cannot_store(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(TypeError, match="key_data"):
            checkpoints.save(1, {"key": jax.random.key(0)})
        with pytest.raises(TypeError, match="a/b: int is not an array"):
            checkpoints.save(1, {"a": {"b": 3}})
        with pytest.raises(TypeError, match="JSON"):
            checkpoints.save(1, {"w": np.ones(1)}, {"bad": object()})
    assert not any(tmp_path.iterdir())


def test_config_names_field_value_and_legal_values():
    CheckpointConfig().validate()
    with pytest.raises(ConfigError, match=r"config.checkpoint.keep = 0 must be 1 or more"):
        CheckpointConfig(keep=0).validate()
