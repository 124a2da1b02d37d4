"""The config of a fine-tuning: packages that it needs at its end, and the frame that it has from its base model."""

import json
import sys

import pytest

from tests.run_directory import run_file, write_run
from tlx.base.config import to_dict
from tlx.base.errors import ConfigError
from tlx.run import finetune_config
from tlx.run.spec import frame_of, spec_of
from tlx.tasks.multitask import Multitask, TaskComponent
from tlx.tasks.shared.text_metrics import check_libraries
from tlx.text.frames import Frame
from tlx.trainer.base_model import load_base
from tlx.trainer.config_input import as_resumed
from tlx.trainer.task_config import complete_task_config


@pytest.mark.parametrize(
    ("metric", "module"), [("chrf", "sacrebleu"), ("rougeL", "rouge_score.rouge_scorer")]
)
def test_a_metric_whose_package_is_missing_is_told_before_records_are_read(monkeypatch, metric, module):
    monkeypatch.setitem(sys.modules, module, None)
    config = finetune_config("generation")
    config.objective.metrics = ("exact_match", metric)
    config.data.records.train = ("nowhere.tsv",)
    with pytest.raises(ConfigError, match=r"needs the package .*tlx-lm\[finetune\]"):
        complete_task_config(config.to_dict(), None)
    with pytest.raises(ConfigError, match="needs the package"):
        check_libraries(Multitask(parts=(TaskComponent(name="a", metrics=(metric,)),)))


def task_values(tmp_path):
    (tmp_path / "train.tsv").write_text("text\tlabel\na\tx\nb\ty\n")
    config = finetune_config("classification")
    config.data.records.train = (str(tmp_path / "train.tsv"),)
    config.data.sequence_length = 16
    return config.to_dict()


@pytest.mark.slow
def test_a_run_keeps_the_frame_of_its_base_model(tmp_path):
    """A new run has its base's; one that began before there were frames goes on in tlx's rows."""
    base = load_base(write_run(tmp_path / "bart", "bart"))
    values = task_values(tmp_path)
    config = complete_task_config(values, base)
    vocab = base.tokenizer.vocab
    assert config.frame == frame_of(base.config, base.tokenizer)
    assert config.frame.before == (vocab.bos,) and config.frame.start == (vocab.eos,)
    assert spec_of(config, base.tokenizer).frame == config.frame
    assert complete_task_config(values, base, scratch=True).frame is None
    assert complete_task_config(values, None).frame is None

    # run.json as it was before: without the key, and with the rows of tlx.
    old = json.loads(json.dumps(to_dict(config)))
    del old["frame"]
    old["objective"]["frame"] = "tlx"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps(run_file(old)))
    resumed = complete_task_config(as_resumed(values, tmp_path / "run"), base, workdir=tmp_path / "run")
    assert resumed.frame is None and resumed.objective.frame == "tlx"
    frame = frame_of(resumed, base.tokenizer)
    assert frame == Frame(
        between=(vocab.sep,), after=(vocab.eos,), start=(vocab.bos,), end=(vocab.eos,), place=-1
    )

    # And one that has begun with a frame keeps it, whatever its base is called now.
    (tmp_path / "run" / "run.json").write_text(json.dumps(run_file(to_dict(config))))
    other = load_base(write_run(tmp_path / "t5", "span_corruption"))
    assert complete_task_config(values, other, workdir=tmp_path / "run").frame == config.frame
