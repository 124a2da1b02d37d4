"""Journals on full disks and after kills: training goes on, and a broken line costs itself alone."""

import json
import logging
import os
import subprocess
import sys
import textwrap

import pytest

from tlx.base import json_lines
from tlx.base.errors import StorageError
from tlx.cli import report
from tlx.scaling.ledger import Ledger
from tlx.scaling.outcome import ended, result_of
from tlx.scaling.runs import load_runs
from tlx.training.journal import Journal, read_lines

BROKEN = [
    b'{"step": 4, "kind": "tra',
    b"\0\0\0\0",
    b"",
    b"\xff\xfe{}",
    b"[1]",
    b"[" * 100_000,
    b'{"step": "4", "kind": "train"}',
    b'{"step": 4, "kind": "train", "loss": "low"}',
    b'{"step": 1' + b"0" * 5000 + b', "kind": "train"}',
]


def write_broken(path, lines):
    """The lines, and each of the broken ones before one of them."""
    with open(path, "wb") as handle:
        for i in range(max(len(lines), len(BROKEN))):
            handle.write(BROKEN[i] + b"\n" if i < len(BROKEN) else b"")
            handle.write(json.dumps(lines[i]).encode() + b"\n" if i < len(lines) else b"")


def metrics(steps):
    return [{"step": step, "kind": "train", "loss": 1.0 / step} for step in range(1, steps + 1)]


def test_broken_lines_are_skipped_and_counted_once(tmp_path, caplog):
    lines = [
        *metrics(20),
        {"step": 20, "kind": "validation", "loss": 2.0},
        {"step": 20, "kind": "final", "loss": 2.0},
    ]
    write_broken(tmp_path / "metrics.jsonl", lines)
    write_broken(tmp_path / "events.jsonl", [{"time": 1.0, "event": "end"}])
    (tmp_path / "run.json").write_text('{"data": {"train_tokens": 5}}')
    for _ in range(3):
        assert read_lines(tmp_path / "metrics.jsonl") == lines
        assert ended(tmp_path)
        assert result_of(tmp_path, 20) == {"loss": 2.0, "bits_per_byte": None, "D_unique": 5}
        assert report._read_splits(tmp_path) == {"validation": lines[-1]}
    said = [record.getMessage() for record in caplog.records]
    assert [line.split(": ")[1] for line in said] == ["9 lines are broken and skipped (the first"] * 2
    Journal(tmp_path).resume(10)
    assert read_lines(tmp_path / "metrics.jsonl") == lines[:10]
    assert len((tmp_path / "metrics.jsonl").read_bytes().splitlines()) == 10


def test_a_ledger_with_broken_lines_is_a_table_and_goes_on(tmp_path, caplog):
    rows = [
        {
            "run": f"{i}",
            "N": 10.0**i,
            "D": 2e6 + i,
            "loss": 3.0 - i / 10,
            "status": "done",
            "lr": 0.1,
            "config": {},
        }
        for i in range(6, 9)
    ]
    ledger = Ledger(tmp_path)
    for row in rows:
        row["config"] = {"optimizer": {"learning_rate": 0.1}}
    ledger.start({"runs": rows})
    lines = [{name: value for name, value in row.items() if name != "config"} for row in rows]
    write_broken(tmp_path / "ledger.jsonl", lines)
    assert ledger.lines() == lines
    assert list(load_runs(tmp_path)["loss"]) == [2.4, 2.3, 2.2]
    assert sum("9 lines are broken" in record.getMessage() for record in caplog.records) == 1
    ledger.record(rows[0], "done", {"loss": 1.0})
    assert [line["loss"] for line in ledger.lines()] == [1.0, 2.3, 2.2]
    assert len((tmp_path / "ledger.jsonl").read_bytes().splitlines()) == 3


def test_half_a_line_at_the_end_takes_no_other_with_it(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "kind": "train"}\n{"step": 2, "ki')
    assert [line["step"] for line in read_lines(path)] == [1] and not caplog.records
    Journal(tmp_path).metrics(3, {"loss": 1.0})
    assert [line["step"] for line in read_lines(path)] == [1, 3]


# A process whose files may not grow beyond some bytes, as on a full disk. Lines are larger than what is left.
_FULL = """
    import json, logging, resource, signal, sys
    from tlx.training.journal import Journal, read_lines
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    journal = Journal(sys.argv[1])
    journal.metrics(1, {"loss": 1.0})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60, hard))
    for step in (2, 3, 4):
        journal.metrics(step, {"loss": 1.0})
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    journal.metrics(5, {"loss": 1.0})
    print([line["step"] for line in read_lines(sys.argv[1] + "/metrics.jsonl")])
"""


def test_a_full_disk_leaves_no_half_line_and_training_goes_on(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_FULL), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    error, steps = done.stdout.splitlines()
    assert error.endswith("(File too large): its lines are lost until it can; training goes on")
    assert steps == "[1, 5]"
    assert (tmp_path / "metrics.jsonl").read_bytes().count(b"\n") == 2


def test_a_folder_that_is_gone_costs_lines_and_not_the_run(tmp_path, caplog):
    journal = Journal(tmp_path / "gone")
    for step in (1, 2):
        journal.metrics(step, {"loss": 1.0})
        journal.event("skip", step=step)
    journal.error(StorageError("cannot write"))
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    os.mkdir(tmp_path / "gone")
    journal.metrics(3, {"loss": 1.0})
    assert [line["step"] for line in read_lines(tmp_path / "gone" / "metrics.jsonl")] == [3]


@pytest.mark.parametrize("value", [True, 2**63, -(2**63), "1", None, [1]])
def test_what_is_no_number(value):
    assert not json_lines.is_number(value)
    assert json_lines.is_number(1.5) and json_lines.is_number(2**62)
