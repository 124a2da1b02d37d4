"""The loss curve."""

import numpy as np

from tlx.training.journal import Journal
from tlx.training.plot import moving_mean, plot_loss


def test_a_png_is_drawn(tmp_path):
    journal = Journal(tmp_path)
    for step in range(1, 50):
        journal.metrics(step, {"loss": 5.0 / step if step != 7 else float("nan")})
    journal.metrics(49, {"loss": 0.2}, kind="validation")
    path = plot_loss(tmp_path, "run", {"unigram": 4.0, "trigram": 2.0})
    assert path.read_bytes()[:4] == b"\x89PNG" and path.stat().st_size > 10_000


def test_moving_mean():
    values = np.arange(90.0)
    mean = moving_mean(values)
    assert mean[0] == 0 and mean[1] == 0.5 and mean[50] == 49.0
