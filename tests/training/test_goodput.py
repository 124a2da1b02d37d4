"""Lines of goodput.jsonl: when they are written, and that their seconds are those of the life."""

import time

import pytest

from tlx.training import goodput
from tlx.training.clock import Clock, process_age
from tlx.training.goodput import Goodput
from tlx.training.journal import Journal, read_lines


def lines(folder):
    return read_lines(folder / "goodput.jsonl")


def test_lines_at_the_beginning_at_log_lines_and_at_the_end(tmp_path):
    clock = Clock(age=7.0)
    with Goodput(clock, Journal(tmp_path), ["a"]) as written:
        assert [line["begin"] for line in lines(tmp_path)] == [None], (
            "a kill while it starts leaves a life too"
        )
        written.begin(4, every=3)
        for step in range(5, 11):
            with clock("step"):
                time.sleep(0.002)
            written(step, None, None)
    found = lines(tmp_path)
    assert [(line["begin"], line["step"]) for line in found] == [
        (None, None),
        (4, 4),
        (4, 6),
        (4, 9),
        (4, 10),
    ]
    for line in found:
        # Every second since the process was started, and no other.
        assert sum(line["seconds"].values()) == pytest.approx(line["time"] - line["life"], abs=0.02)
    assert found[-1]["seconds"]["step"] >= 0.012 and found[-1]["seconds"]["start"] >= 7.0


def test_a_long_phase_is_written_while_it_lasts(tmp_path, monkeypatch):
    monkeypatch.setattr(goodput, "BEAT_SECONDS", 0.04)
    clock = Clock()
    with Goodput(clock, Journal(tmp_path), ["a"]), clock("compile"):
        time.sleep(0.3)
        during = lines(tmp_path)
    assert len(during) >= 3 and during[-1]["seconds"]["compile"] > 0.1


@pytest.mark.parametrize("silent, lost", [(True, False), (False, True)])
def test_nothing_is_written_by_other_processes_or_without_the_lease(tmp_path, silent, lost):
    with Goodput(Clock(), Journal(tmp_path, silent), ["a"], is_lost=lambda: lost) as written:
        written.begin(0, every=1)
        written(1, None, None)
    assert not (tmp_path / "goodput.jsonl").exists()


def test_the_age_of_this_process_grows():
    before = process_age()
    time.sleep(0.05)
    assert 0 < before < process_age() < 24 * 3600
