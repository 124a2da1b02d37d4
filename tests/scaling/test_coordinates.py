"""The coordinate check; test_optima.py has what it is for, one learning rate that is best at every size."""

import runpy

import numpy as np
import pytest

from tests.cli.tiny import ROOT
from tests.tiers import tiers
from tlx import cli
from tlx.base.config import from_dict
from tlx.base.errors import ConfigError
from tlx.scaling import coordinate_checks
from tlx.scaling.coordinate_checks import STEADY, Coordinates, coordinate_check
from tlx.scaling.ladder import LadderConfig


def config(optimizer="adamw", **model):
    found = runpy.run_path(str(ROOT / "configs/scaling/quickstart.py"))["get_config"]("tiny")
    found.run.optimizer.name, found.run.model.num_layers = optimizer, 2
    for name, value in model.items():
        setattr(found.run.model, name, value)
    return from_dict(LadderConfig, found.ladder.to_dict(), "ladder"), found.run


@pytest.mark.parametrize("optimizer", tiers(["adamw", "muon"], slow=()))
def test_activations_change_alike_at_every_width_under_mup_and_more_with_it_in_the_standard_one(optimizer):
    ladder, run = config(optimizer)
    mup = coordinate_check(ladder, run, "mup", widths=(32, 128), updates=3)
    assert mup.steady and all(abs(power) < STEADY for power in mup.powers.values())
    standard = coordinate_check(ladder, run, "standard", widths=(32, 128), updates=3)
    assert not standard.steady and standard.powers["layer 2"] > 0.4 and standard.powers["logits"] > 0.2
    assert mup.size["layer 2"].shape == (2, 4) and mup.change["layer 2"].shape == (2, 3)


def test_the_check_is_a_verb_with_a_plot(tmp_path, monkeypatch, capsys):
    def known(ladder, run, name):
        growth = np.array([[1.0], [4.0 if name == "standard" else 1.1]])
        return Coordinates(name, (32, 128), {"logits": growth}, {"logits": growth})

    monkeypatch.setattr(coordinate_checks, "coordinate_check", known)
    words = [f"--config={ROOT / 'configs/scaling/quickstart.py'}:tiny", f"--folder={tmp_path}"]
    assert cli.main(["scale", "hparams", "--coordinate-check", *words]) == 0
    said = capsys.readouterr().out
    assert "standard: grows with the width; mup: steady" in said and "+1.00" in said
    assert (tmp_path / "report" / "coordinates.png").stat().st_size > 10_000
    ladder, run = config(kind="encoder_decoder")
    with pytest.raises(ConfigError, match="for decoders and encoders"):
        coordinate_check(ladder, run)
