"""A teacher's parameters: read from a run or a Hugging Face directory, split, never trained, never saved."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

import tlx
from tests.cli import tiny
from tests.hub import folders
from tests.run_directory import write_run
from tlx import cli
from tlx.base import tree
from tlx.base.errors import ConfigError, DataError
from tlx.checkpoint import load_params
from tlx.cli import flags
from tlx.models.families import TABLE
from tlx.models.families.family import resized
from tlx.run.assemble import assemble
from tlx.run.checks import resolve
from tlx.training import teacher
from tlx.training.directory import read_run
from tlx.training.state import State, saved_part

# The teacher of write_run has 16 units, 2 heads, 1 layer and learned positions.
WORDS = (
    "--config.model.width=16 --config.model.num_layers=1 --config.model.attention.num_heads=2 "
    "--config.model.position.kind=learned --config.model.position.max_length=40 --config.model.dropout=0.0"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("taught")
    tiny.write_config(folder)
    write_run(folder / "teacher", "mlm", steps=(3, 5))
    return folder


def configured(folder, *words):
    config = flags.load_config(f"{folder}/tiny.py:distillation")
    for word in (*WORDS, f"--config.objective.teacher={folder}/teacher", *words):
        flags.override(config, word)
    return resolve(config)


def test_what_a_teacher_is_becomes_part_of_the_config(folder):
    config = configured(folder)
    assert config.objective.teacher_model.num_layers == 1 and config.objective.teacher_model.vocab_size == 363
    assert resolve(json.loads(json.dumps(tlx.base.config.to_dict(config)))) == config
    other = configured(folder, f"--config.objective.teacher={folder}/teacher/checkpoints/3")
    assert other.objective.teacher_model == config.objective.teacher_model
    assert other.objective.teacher_hash != config.objective.teacher_hash


@pytest.mark.slow
def test_it_is_split_over_the_mesh_and_stays_as_it_was(folder):
    """Also: the student begins as its layer, and a state that is saved and read again goes on alike."""
    words = ("--config.mesh.data=1", "--config.mesh.fsdp=8", "--config.objective.init_layers=(0,)")
    run = assemble(configured(folder, *words))
    saved = tree.flatten(load_params(folder / "teacher").tree)
    with run.use():
        state = run.init()
        before = jax.device_get(tree.flatten(state.frozen["teacher"]))
        split = [leaf for leaf in jax.tree.leaves(state.frozen) if leaf.size >= 1024]
        assert split and all(leaf.addressable_shards[0].data.nbytes == leaf.nbytes / 8 for leaf in split)
        begun = jax.device_get(tree.flatten(state.params))
        kept = jax.device_get(saved_part(state))
        state, metrics = run.step(state, run.to_devices(run.train.batch(0, run.local_row_indices)))
        after, trained = jax.device_get((tree.flatten(state.frozen["teacher"]), state.params))
        again = jax.device_put(State(**kept, frozen={})._replace(frozen=run.frozen()), _shardings(run.state))
        resumed, _ = run.step(again, run.to_devices(run.train.batch(0, run.local_row_indices)))
    assert {path for path in before} == {path for path in saved if path in before} and len(before) > 10
    for path, leaf in before.items():
        np.testing.assert_array_equal(leaf, saved[path])
        np.testing.assert_array_equal(leaf, after[path])
        np.testing.assert_array_equal(leaf, begun[path])
    assert not any("teacher" in path for path in tree.flatten(saved_part(state)))
    assert all(np.isfinite(metrics[name]) for name in ("loss", "soft_loss", "cosine_loss"))
    assert abs(metrics["soft_loss"]) < 1e-3  # the student is still what its teacher is
    for a, b in zip(jax.tree.leaves(trained), jax.tree.leaves(resumed.params), strict=True):
        np.testing.assert_array_equal(a, b)


def _shardings(state):
    return jax.tree.map(lambda leaf: leaf.sharding, state)


def test_a_hugging_face_directory_teaches_too(tmp_path):
    size = folders.word_pieces(tmp_path / "bert").get_vocab_size()
    small = {"width": 16, "num_layers": 2, "attention__num_heads": 2, "feedforward__ff_dim": 24}
    model = resized(TABLE.load("bert").base, vocab_size=size, **small)
    folders.write(tmp_path / "bert", "bert", model, ("heads/mlm", "heads/nsp"))
    found, value, *_ = teacher.open_teacher(str(tmp_path / "bert"))
    assert found.num_layers == 2 and found.vocab_size == size
    shutil.copytree(tmp_path / "bert", tmp_path / "copy")
    assert teacher.open_teacher(str(tmp_path / "copy")).hash == value
    path = tmp_path / "copy" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert teacher.open_teacher(str(tmp_path / "copy")).hash != value


def test_another_teacher_is_not_taken_in_its_place(folder):
    objective = configured(folder).objective
    changed = dataclasses.replace(objective, teacher_hash="0" * 64)
    with pytest.raises(ConfigError, match="has other weights than when this run started"):
        teacher.read_frozen(changed, {"teacher": {}})
    teacher.check_tokenizer(objective, read_run(folder / "teacher")["tokenizer_hash"])
    with pytest.raises(ConfigError, match="has another tokenizer than this run; take its own with"):
        teacher.check_tokenizer(objective, "0" * 64)
    with pytest.raises(DataError, match="is neither a run directory"):
        configured(folder, f"--config.objective.teacher={folder}/text")


@pytest.mark.long
def test_a_run_in_two_halves_is_the_run_in_one(folder, tmp_path, capsys):
    """The second half finds its teacher again; the student is loaded without it, wherever that went."""

    def train(workdir, *words):
        given = (
            f"--workdir={workdir}",
            f"--config.objective.teacher={folder}/teacher",
            "--config.eval.every=0",
        )
        return cli.main(["train", f"--config={folder}/tiny.py:distillation", *given, *WORDS, *words])

    assert train(tmp_path / "one", "--config.train.steps=20") == 0
    assert train(tmp_path / "two", "--config.train.steps=10") == 0
    assert train(tmp_path / "two", "--config.train.steps=20") == 0
    one, two = (tree.flatten(load_params(tmp_path / name).tree) for name in ("one", "two"))
    assert one.keys() == two.keys() and not any("teacher" in path for path in one)
    assert all(np.array_equal(one[path], two[path]) for path in one)
    assert "soft_loss" in (tmp_path / "one" / "metrics.jsonl").read_text()
    write_run(folder / "other", "mlm", steps=(1,))
    assert train(tmp_path / "two", f"--config.objective.teacher={folder}/other") == 64
    assert "objective.teacher_hash" in capsys.readouterr().err
    shutil.move(folder / "teacher", tmp_path / "gone")
    lm = tlx.load(tmp_path / "one")
    assert len(lm.fill("the [MASK] reads")) > 0
