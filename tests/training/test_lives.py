"""Sums over the lives of a run: lost work, the time in which it was down, and why each life ended."""

import json

import pytest

from tlx.base.errors import DataError
from tlx.cli import main
from tlx.training.lives import lost_work, read_lives, total_seconds


def line(time, life, at, begin, **seconds):
    return {"time": time, "life": life, "begin": begin, "step": at, "processes": 1, "seconds": seconds}


def train(life, begin, *steps):
    """Lines of a life that trains from `begin` on: a step takes 2 s, its data 1 s, the start 5 s."""
    lines = []
    for n in (begin, *steps):
        done = n - begin
        lines.append(line(life + 5.0 + 3 * done, life, n, begin, start=5.0, step=2.0 * done, data=1.0 * done))
    return lines


ROLLED_BACK = [line(45, 0, 4, 0, step=16.0, data=8.0), line(57, 0, 8, 0, step=24.0, data=12.0)]


@pytest.mark.parametrize(
    "lives, expected",
    [
        ([train(0, 0, 4, 8), train(100, 8, 12)], [0, 0]),
        ([train(0, 0, 4, 8), train(100, 5, 12)], [3, 0]),
        # Twice from the same step; then from before the beginning of the life before.
        ([train(0, 0, 8), train(100, 4, 7), train(200, 4, 6), train(300, 2, 9)], [6, 3, 2, 0]),
        # A rollback from step 8 to 4 within a life, whose clock goes on.
        (
            [
                train(0, 0, 4, 8)
                + [line(45, 0, 4, 0, step=16.0, data=8.0), line(57, 0, 8, 0, step=24.0, data=12.0)]
            ],
            [4],
        ),
        # A life that came to no step.
        ([train(0, 0, 8), [line(100, 100, None, None, start=9.0)], train(200, 6, 9)], [2, 0, 0]),
    ],
)
def test_steps_that_are_trained_again_are_lost(lives, expected):
    assert lost_work(lives) == [{"data": 1.0 * steps, "step": 2.0 * steps} for steps in expected]


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    lines = [*train(1000, 0, 4, 8), line(1109.0, 1100, None, None, start=9.0), *train(1200, 6, 10)]
    lines[-1] |= {
        "processes": 4,
        "mean": {"start": 5.0, "step": 10.0, "data": 2.0},
        "slowest": {"process": 3, "host": "c", "seconds_per_step": 0.5, "median": 0.1},
    }
    (tmp_path / "goodput.jsonl").write_text("".join(json.dumps(value) + "\n" for value in lines))
    events = [
        {"time": 1000.5, "event": "start"},
        {"time": 1010.0, "event": "stall", "what": "no progress for 9 s, phase data"},
        {"time": 1110.0, "event": "error", "exit": 73, "what": "disk full"},
        {"time": 1230.0, "event": "preempt", "step": 10, "why": "SIGTERM"},
        {"time": 1231.0, "event": "error", "exit": 42, "what": "preempted at step 10"},
    ]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(value) + "\n" for value in events))
    return tmp_path


def test_every_second_between_the_first_start_and_the_last_line_has_a_kind(run):
    lives = read_lives(run)
    assert [life.total for life in lives] == [100.0, 100.0, 17.0]
    assert lives[0].seconds["down"] == 71.0 and lives[0].seconds["lost work"] == 6.0
    assert lives[0].seconds["step"] == 12.0 and lives[0].seconds["data wait"] == 6.0
    assert [life.reason.split(" (")[0].split(":")[0] for life in lives] == [
        "watchdog",
        "error, exit 73",
        "asked to stop",
    ]
    # The mean of four processes, who all lived as long as the first.
    assert lives[2].seconds["step"] == 10.0 and total_seconds(lives)["step"] == 12.0 + 4 * 10.0


def test_the_report_shows_a_table_and_a_picture(run, capsys):
    assert main(["report", str(run), "--goodput", f"--plot={run / 'goodput.png'}"]) == 0
    out = capsys.readouterr().out
    assert "| lost work | 6.0 | 0.0 | 0.0 | 6.0 | 2.2% |" in out
    assert "start 1  " in out and "1 process, steps 0 to 8: watchdog: no progress for 9 s, phase data" in out
    assert "slowest host  process 3 (c): 500.0 ms of its own a step, the median is 100.0 ms" in out
    assert (run / "goodput.png").stat().st_size > 5000
    assert main(["report", str(run), "--goodput", "--json"]) == 0
    [values] = json.loads(capsys.readouterr().out).values()
    assert values["goodput"] == pytest.approx(52 / 268)


def test_a_run_that_recorded_none_is_refused(tmp_path):
    with pytest.raises(DataError, match="has no goodput.jsonl"):
        read_lives(tmp_path)
