"""The loss curve."""

import numpy as np

from tlx.training.journal import Journal
from tlx.training.plot import moving_mean, plot_loss, resumed_steps


def test_a_png_is_drawn(tmp_path):
    journal = Journal(tmp_path)
    for step in range(1, 50):
        journal.metrics(step, {"loss": 5.0 / step if step != 7 else float("nan")})
    journal.metrics(49, {"loss": 0.2}, kind="validation")
    path = plot_loss(tmp_path, "run", {"unigram": 4.0, "trigram": 2.0})
    assert path.read_bytes()[:4] == b"\x89PNG" and path.stat().st_size > 10_000


def test_a_resume_is_marked_and_two_kinds_of_evaluation_are_not_joined(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda figure, *args, **kwargs: figures.append(figure)
    )
    journal = Journal(tmp_path)
    for step in (10, 20, 30):
        journal.metrics(step, {"loss": 1 / step})
        journal.metrics(step, {"loss": 2 / step}, kind="validation")
    journal.metrics(30, {"loss": 0.5}, kind="final")
    for step in (0, 20, 20):
        journal.event("resume", step=step)
    plot_loss(tmp_path, "run")
    lines = {line.get_label(): line for line in figures[0].axes[0].get_lines()}
    assert list(lines["validation, first batches"].get_xdata()) == [10, 20, 30]
    assert list(lines["validation at the end"].get_ydata()) == [0.5]
    assert list(lines["resumed"].get_xdata()) == [20, 20] and resumed_steps(tmp_path) == [20]


def test_moving_mean():
    values = np.arange(90.0)
    mean = moving_mean(values)
    assert mean[0] == 0 and mean[1] == 0.5 and mean[50] == 49.0
