"""Packages that a fine-tuning needs at its end are looked for before it begins."""

import sys

import pytest

from tlx.base.errors import ConfigError
from tlx.run import finetune_config
from tlx.tasks.multitask import Multitask, TaskComponent
from tlx.tasks.shared.text_metrics import check_libraries
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
