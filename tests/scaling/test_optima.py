"""The check of the optimum: the best learning rate over widths and depths."""

import runpy

import numpy as np
import pytest

from tests.cli.tiny import ROOT
from tlx import cli
from tlx.base.config import from_dict
from tlx.base.errors import NOT_IDENTIFIED, ConfigError
from tlx.scaling import optimum_checks
from tlx.scaling.ladder import LadderConfig
from tlx.scaling.optimum_checks import (
    OptimumCheck,
    OptimumSettings,
    SizeOptimum,
    best_rates,
    movement,
    optimum_check,
    search,
)

RATES = 2.0 ** np.arange(-12.0, -3.0)


def bowl(best, seeds=3, noise=0.0):
    """Losses [seed, rate] with a minimum at 2^best, moved by up to `noise` octaves from seed to seed."""
    octaves = np.log2(RATES)[None] - best - noise * np.linspace(-1, 1, seeds)[:, None]
    return 2.0 + 0.05 * octaves**2


def known(ladder, run, name, settings):
    """A check whose best rate falls with the width in the standard parametrisation and stays in the other."""
    power = -1.0 if name == "standard" else 0.0
    models = []
    for width in settings.widths:
        losses = bowl(-8.0 + power * np.log2(width / 16), noise=0.1)
        best = best_rates(np.log(RATES), losses)
        models.append(SizeOptimum(width, 2, RATES, losses, best))
    by_depth = [models[0]._replace(depth=depth) for depth in settings.depths]
    return OptimumCheck(name, models, by_depth)


def test_the_minimum_of_a_bowl_is_found_and_none_at_an_end():
    best = best_rates(np.log(RATES), bowl(-8.3, noise=0.4))
    # Without the first, the second and the third seed.
    assert best == pytest.approx(np.log(2) * np.array([-8.1, -8.3, -8.5]))
    assert np.isnan(best_rates(np.log(RATES), bowl(-12.4))).all()
    diverged = np.where(RATES > 2.0**-8, np.nan, bowl(-8.3))
    assert np.isnan(best_rates(np.log(RATES), diverged)).all()


def test_rates_are_added_until_the_best_one_has_neighbours_or_one_beyond_it_diverges():
    tried = []

    def train(rate):
        tried.append(rate)
        return 2.0 + (np.log2(rate) - np.array([-1.9, -2.1])) ** 2

    rates, losses = search(train, 2.0**-8)
    assert len(set(tried)) == len(tried) == len(rates) and losses.shape == (2, len(rates))
    best = best_rates(np.log(rates), losses)
    assert np.log2(rates[-1]) == 0 and best == pytest.approx(np.log(2) * np.array([-2.1, -1.9]))
    rates, losses = search(lambda rate: np.full(2, np.nan if rate > 2.0**-7 else 3 - rate), 2.0**-8)
    assert np.log2(rates[-1]) == -6 and np.isnan(best_rates(np.log(rates), losses)).all()


def test_a_verdict_needs_an_interval_that_tells():
    base = np.log(2) * np.array([-0.1, 0.0, 0.1])
    assert movement([16, 32, 64], [base, base, base]).verdict == "stays"
    moving = movement([16, 32, 64], [base * (1 + i) - i * np.log(2) for i in range(3)])
    assert moving.verdict == "moves" and moving.power == pytest.approx(-1) and moving.low < -1 < moving.high
    noisy = movement([16, 64], [base, base + 8 * base[::-1]])
    assert noisy.low < 0 < noisy.high and "more seeds" in noisy.verdict
    assert "no minimum" in movement([16, 64], [base, base * np.nan]).verdict


def test_the_check_of_the_optimum_is_a_verb_with_a_plot(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(optimum_checks, "optimum_check", known)
    words = [f"--config={ROOT / 'configs/scaling/quickstart.py'}:tiny", f"--folder={tmp_path}"]
    assert cli.main(["scale", "hparams", "--optimum-check", "--widths=16,64", *words]) == 0
    printed = capsys.readouterr().out
    assert "standard: best rate ~ width^-1.00 (-1.00 to -1.00): moves" in printed
    assert printed.count(": stays") == 3 and "completep: best rate ~ width^" in printed
    assert (tmp_path / "report" / "optima.png").stat().st_size > 10_000
    words.append("--config.run.model.parametrization.name=mup")
    monkeypatch.setattr(optimum_checks, "optimum_check", lambda *a: known(*a[:2], "standard", a[3]))
    assert cli.main(["scale", "hparams", "--optimum-check", *words]) == NOT_IDENTIFIED
    with pytest.raises(ConfigError, match="seeds = 1 must be 2 or more"):
        OptimumSettings(seeds=1).validate()


@pytest.mark.long
def test_the_best_rate_moves_in_the_standard_parametrisation_and_not_so_far_under_completep():
    """AdamW on the standard library: the figures of configs/scaling/README.md."""
    config = runpy.run_path(str(ROOT / "configs/scaling/quickstart.py"))["get_config"]("")
    config.run.optimizer.name = "adamw"
    config.run.data.sequence_length = 32
    ladder = from_dict(LadderConfig, config.ladder.to_dict() | {"learning_rate": 1.6e-2}, "ladder")
    settings = OptimumSettings(widths=(16, 64), depths=(2, 8))
    standard = optimum_check(ladder, config.run, "standard", settings)
    completep = optimum_check(ladder, config.run, "completep", settings)
    assert standard.over_width.verdict == "moves" and standard.over_width.power < -0.4
    for best in (completep.over_width, completep.over_depth):
        assert abs(best.power) < 0.3 and best.low < 0 < best.high
