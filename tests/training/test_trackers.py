"""Trackers never stop or slow training."""

import importlib.machinery
import sys
import threading
import time
import types

import pytest

import tlx
from tlx.base.errors import ConfigError
from tlx.training.config import LogConfig
from tlx.training.trackers import _QUEUE_SIZE, Trackers, check_installed, start_trackers


def test_one_that_fails_is_reported_once_and_the_others_go_on():
    seen, reports = [], []

    def broken(step, values):
        raise ConnectionError("server down")

    trackers = Trackers({"bad": broken, "good": lambda *item: seen.append(item)}, reports.append)
    for step in range(3):
        trackers.metrics(step, {"loss": 1.0})
    trackers.close()
    assert seen == [(step, {"train/loss": 1.0}) for step in range(3)]
    assert len(reports) == 1 and "bad failed" in reports[0] and "server down" in reports[0]


def test_one_that_hangs_costs_nothing():
    never = threading.Event()
    trackers = Trackers({"slow": lambda *item: never.wait()})
    start = time.perf_counter()
    for step in range(3 * _QUEUE_SIZE):
        trackers.metrics(step, {"loss": 1.0})
    trackers.close(seconds=0.1)
    assert time.perf_counter() - start < 5
    never.set()


def test_wandb_that_cannot_start_is_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    trackers = start_trackers(LogConfig(wandb_project="p", tensorboard=False), tmp_path, "run", {})
    trackers.metrics(1, {"loss": 1.0})
    trackers.close()
    assert "Weights & Biases cannot be used" in capsys.readouterr().err


def test_tensorboard_is_used_where_a_writer_is_installed(tmp_path, monkeypatch):
    written = []

    class SummaryWriter:
        def __init__(self, folder):
            assert folder == str(tmp_path / "tensorboard")

        def add_scalar(self, *item):
            written.append(item)

        def add_text(self, *item):
            written.append(item)

        def flush(self):
            pass

    module = types.ModuleType("tensorboardX")
    module.SummaryWriter, module.__spec__ = (
        SummaryWriter,
        importlib.machinery.ModuleSpec("tensorboardX", None),
    )
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    trackers = start_trackers(LogConfig(), tmp_path, "run", {})
    trackers.metrics(3, {"loss": 1.0}, kind="validation")
    trackers.samples(3, [{"text": "b"}])
    trackers.close()
    assert written == [("validation/loss", 1.0, 3), ("samples/0", "text: b", 3)]


@pytest.fixture
def nothing_installed(monkeypatch):
    for package in ("tensorboardX", "wandb"):
        monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (
            {"tensorboard": True},
            "log.tensorboard = True needs the package tensorboardX, which is not installed",
        ),
        ({"wandb_project": "p"}, "log.wandb_project = 'p' needs the package wandb, which is not installed"),
        ({"tensorboard": True, "wandb_project": "p"}, "tensorboardX; log.wandb_project = 'p' needs"),
    ],
)
def test_one_that_is_asked_for_and_not_installed_is_an_error_with_its_cure(nothing_installed, log, message):
    with pytest.raises(ConfigError, match=message) as error:
        check_installed(LogConfig(**log))
    assert "pip install 'tlx-lm[tracking]'" in str(error.value)


@pytest.mark.parametrize("tensorboard", [None, False])
def test_one_that_is_not_asked_for_may_be_missing(nothing_installed, tmp_path, tensorboard):
    config = LogConfig(tensorboard=tensorboard)
    check_installed(config)
    trackers = start_trackers(config, tmp_path, "run", {})
    trackers.metrics(1, {"loss": 1.0})
    trackers.close()
    assert not list(tmp_path.iterdir())


def test_a_training_is_refused_before_anything_is_written(nothing_installed, tmp_path):
    overrides = {"log.tensorboard": True, "tokenizer.kind": "bytes"}
    with pytest.raises(ConfigError, match="tensorboardX"):
        tlx.train("quickstart:tiny", workdir=tmp_path / "run", overrides=overrides)
    assert not (tmp_path / "run").exists()


def test_samples_reach_the_trackers_as_texts():
    written = []
    trackers = Trackers({"all": lambda *item: written.append(item)})
    trackers.samples(7, [{"prompt": "def", "text": " main"}, {"prompt": "a", "text": "b", "truth": "c"}])
    trackers.close()
    texts = {"samples/0": "prompt: def\n\ntext:  main", "samples/1": "prompt: a\n\ntext: b\n\ntruth: c"}
    assert written == [(7, texts)]


def test_wandb_gets_numbers_by_name_and_samples_as_a_table(tmp_path, monkeypatch):
    logged = []
    run = types.SimpleNamespace(log=lambda values, step: logged.append((step, values)))
    wandb = types.SimpleNamespace(init=lambda **_: run, Table=lambda columns, data: (columns, data))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    check_installed(LogConfig(wandb_project="p"))
    trackers = start_trackers(LogConfig(wandb_project="p", tensorboard=False), tmp_path, "run", {})
    trackers.metrics(3, {"loss": 1.0})
    trackers.samples(3, [{"prompt": "a", "text": "b"}])
    trackers.close()
    table = (["sample", "text"], [["samples/0", "prompt: a\n\ntext: b"]])
    assert logged == [(3, {"train/loss": 1.0}), (3, {"samples": table})]
