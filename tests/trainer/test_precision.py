"""Dtypes of runs that start from a base model stored in bfloat16."""

import dataclasses
import json

import jax
import ml_dtypes
import numpy as np
import pytest

from tests.hub import folders
from tests.run_directory import run_file, tiny_config
from tlx import cli, parallel
from tlx.adapt.merge import merge
from tlx.base import tree
from tlx.base.config import to_dict
from tlx.base.files import write_json
from tlx.models.families import TABLE
from tlx.models.families.family import resized
from tlx.nn.config import AdapterConfig
from tlx.run import finetune_config
from tlx.run.program import build_program
from tlx.run.spec import spec_of
from tlx.text import make_tokenizer
from tlx.trainer.base_model import BaseModel, parameter_dtypes
from tlx.trainer.task_config import complete_task_config
from tlx.training.config import BaseConfig


@pytest.fixture
def base():
    """A base model stored in bfloat16, without its parameters."""
    config = tiny_config("mlm")
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, param_dtype="bfloat16"))
    return BaseModel(config, make_tokenizer(config.tokenizer, ()), {}, BaseConfig("base", "0"))


def task(tmp_path, **adapt):
    """Return the values of a classification's config with records."""
    rows = [{"text": "ab", "label": "yes"}, {"text": "cd", "label": "no"}] * 8
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    config = finetune_config("classification")
    config.data.records.train = (str(path),)
    config.data.sequence_length = 16
    config.train.batch_size = 8
    config.adapt.update(adapt)
    return config.to_dict()


def test_what_is_trained_is_float32_unless_told_otherwise(base, tmp_path):
    config = complete_task_config(task(tmp_path), base)
    assert (config.model.param_dtype, config.base.param_dtype) == ("float32", "")
    values = task(tmp_path)
    values["model"]["param_dtype"] = "bfloat16"
    assert complete_task_config(values, base).model.param_dtype == "bfloat16"


def saved_run(tmp_path, **base):
    """Write run.json of a run that began in an earlier version, in bfloat16."""
    config = to_dict(tiny_config("mlm"))
    config["model"]["param_dtype"] = "bfloat16"
    config["base"] = {"path": "base", "hash": "0", **base}
    write_json(tmp_path / "run.json", run_file(config))


def test_a_run_that_has_begun_keeps_its_dtypes(base, tmp_path):
    saved_run(tmp_path)
    config = complete_task_config(task(tmp_path, method="lora"), base, workdir=tmp_path)
    assert (config.model.param_dtype, config.base.param_dtype) == ("bfloat16", "")
    assert parameter_dtypes(base, None, tmp_path / "other") == ("float32", "bfloat16")
    assert parameter_dtypes(base, "float32", tmp_path) == ("float32", "bfloat16")
    saved_run(tmp_path, param_dtype="float32")
    assert parameter_dtypes(base, None, tmp_path) == ("bfloat16", "float32")


def test_frozen_parameters_stay_as_they_are_stored(base, tmp_path):
    """Under LoRA the base keeps its two bytes a weight, and what is trained has four."""
    config = complete_task_config(task(tmp_path, method="lora"), base)
    assert (config.model.param_dtype, config.base.param_dtype) == ("float32", "bfloat16")
    spec = spec_of(config, base.tokenizer)
    program = build_program(config, spec, parallel.abstract_mesh(config.mesh, 1))
    dtypes = {
        name: {str(leaf.dtype) for leaf in jax.tree.leaves(part)}
        for name, part in (("trained", program.state.params), ("frozen", program.state.frozen))
    }
    assert dtypes == {"trained": {"float32"}, "frozen": {"bfloat16"}}


def test_a_merged_update_is_not_rounded_to_the_base():
    """1 + 1/512 is between two numbers of bfloat16."""
    config = dataclasses.replace(
        tiny_config("clm").model, adapters=AdapterConfig(lora_rank=1, lora_alpha=1.0)
    )
    params = {
        "kernel": np.ones((2, 2), ml_dtypes.bfloat16),
        "lora_a": np.full((2, 1), 1 / 512, np.float32),
        "lora_b": np.ones((1, 2), np.float32),
    }
    _, merged = merge(config, {"model": {"dense": params}})
    np.testing.assert_array_equal(merged["model"]["dense"]["kernel"], np.float32(1 + 1 / 512))


@pytest.mark.slow
def test_a_small_rate_moves_a_base_in_bfloat16(tmp_path):
    """Of the weights of an imported bfloat16 model nearly all change at 2e-5; in bfloat16 an eighth did."""
    pytest.importorskip("tokenizers")
    import tlx

    size = folders.word_pieces(tmp_path / "hf").get_vocab_size()
    shape = {"width": 16, "num_layers": 1, "attention__num_heads": 2, "feedforward__ff_dim": 32}
    folders.write(tmp_path / "hf", "bert", resized(TABLE.load("bert").base, vocab_size=size, **shape))
    command = ["convert", "import", str(tmp_path / "hf"), str(tmp_path / "base"), "--dtype=bfloat16"]
    assert cli.main(command) == 0
    rows = [{"text": "the cat sat", "label": "yes"}, {"text": "import os", "label": "no"}] * 16
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "task.py").write_text(
        "from tlx.run import finetune_config\n\n\ndef get_config(arg=''):\n"
        "    config = finetune_config('classification')\n"
        f"    config.data.records.train = ({str(tmp_path / 'r.jsonl')!r},)\n"
        "    config.data.sequence_length = 16\n    config.train.batch_size = 8\n"
        "    config.eval.final = False\n    return config\n"
    )
    words = [
        f"--config={tmp_path / 'task.py'}",
        f"--from={tmp_path / 'base'}",
        f"--workdir={tmp_path / 'run'}",
    ]
    assert cli.main(["finetune", *words, "--config.log.tensorboard=False"]) == 0
    before, after = (tree.flatten(tlx.load(tmp_path / name).params) for name in ("base", "run"))
    layers = [path for path in before if path.startswith("model/encoder/blocks/feedforward")]
    assert {str(leaf.dtype) for leaf in after.values()} == {"float32"}
    for path in layers:
        old, new = (np.asarray(leaf, np.float32) for leaf in (before[path], after[path]))
        if path.endswith("kernel"):
            assert np.mean(old != new) > 0.9, path
