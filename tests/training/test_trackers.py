"""Trackers never stop or slow training."""

import importlib.machinery
import sys
import threading
import time
import types

from tlx.training.config import LogConfig
from tlx.training.trackers import _QUEUE_SIZE, Trackers, start_trackers


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
    trackers.close()
    assert written == [("validation/loss", 1.0, 3)]
