"""metrics.jsonl and events.jsonl after kills and resumes."""

from tlx.training.journal import Journal, read_lines


def test_resume_forgets_later_metrics_and_mends_cut_lines(tmp_path):
    journal = Journal(tmp_path)
    journal.event("start", step=0)
    for step in (10, 20, 30):
        journal.metrics(step, {"loss": 1.0 / step})
    for name in ("metrics.jsonl", "events.jsonl"):
        with open(tmp_path / name, "a") as handle:
            handle.write('{"step": 4')  # killed while writing
    again = Journal(tmp_path)
    again.resume(20)
    again.metrics(30, {"loss": 0.5})
    again.event("resume", step=20)
    assert [(line["step"], line["loss"]) for line in read_lines(tmp_path / "metrics.jsonl")] == [
        (10, 0.1),
        (20, 0.05),
        (30, 0.5),
    ]
    assert [line["event"] for line in read_lines(tmp_path / "events.jsonl")] == ["start", "resume"]


def test_not_finite_is_null(tmp_path):
    journal = Journal(tmp_path)
    journal.metrics(1, {"loss": float("nan"), "grad_norm": float("inf"), "skipped": 1})
    line = read_lines(tmp_path / "metrics.jsonl")[0]
    assert (line["loss"], line["grad_norm"], line["skipped"]) == (None, None, 1)


def test_a_silent_journal_writes_nothing(tmp_path):
    journal = Journal(tmp_path, silent=True)
    journal.metrics(1, {"loss": 1.0})
    journal.event("start")
    journal.resume(0)
    assert list(tmp_path.iterdir()) == []
