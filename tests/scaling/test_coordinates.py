"""The coordinate check, and what it is for: one learning rate that is best at every width."""

import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.cli.tiny import ROOT
from tests.tiers import tiers
from tlx import cli
from tlx.base.config import from_dict
from tlx.base.errors import ConfigError
from tlx.models import parametrization
from tlx.optim import make_optimizer
from tlx.run.spec import make_module, spec_before_tokenizer
from tlx.scaling import coordinate_checks
from tlx.scaling.coordinate_checks import STEADY, Coordinates, coordinate_check
from tlx.scaling.ladder import LadderConfig
from tlx.training.state import boxed_params, init_state
from tlx.training.step import make_step


def config(optimizer="adamw", **model):
    found = runpy.run_path(str(ROOT / "configs/scaling/quickstart.py"))["get_config"]("tiny")
    found.run.optimizer.name, found.run.model.num_layers = optimizer, 2
    for name, value in model.items():
        setattr(found.run.model, name, value)
    return from_dict(LadderConfig, found.ladder.to_dict(), "ladder"), found.run


@pytest.mark.parametrize("optimizer", tiers(["adamw", "muon"], slow=["muon"]))
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


@pytest.mark.long
def test_the_best_learning_rate_stays_under_mup_and_moves_in_the_standard_one():
    """Loss of memorising 8 rows for 40 updates of AdamW at widths 32 and 128."""
    rates = 2.0 ** np.arange(-11, -3)
    best = {}
    for name in ("standard", "mup"):
        for width in (32, 128):
            losses = [final_loss(name, width)(rate) for rate in rates]
            best[name, width] = float(np.log2(rates[int(np.nanargmin(losses))]))
    assert abs(best["mup", 128] - best["mup", 32]) <= 1
    assert best["standard", 128] < best["standard", 32]


_COMPILED = {}


def final_loss(name, width):
    """Learning rate -> loss after 40 updates; one compiled program for all rates."""
    if (name, width) in _COMPILED:
        return _COMPILED[name, width]
    ladder, run = config()
    values = run.to_dict()
    values["train"] |= {"batch_size": 8, "steps": 40}
    values["optimizer"]["weight_decay"] = 0.0
    base = {"name": name, "base_width": 32, "base_layers": 2}
    values["model"] |= {"parametrization": base}
    cfg = coordinate_checks._sized(ladder, values, width)
    spec = spec_before_tokenizer(cfg)
    module, batch = make_module(cfg, spec.vocab), coordinate_checks._batch(cfg, spec)
    abstract = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}
    boxed = boxed_params(module, abstract)
    factors = parametrization.lr_multipliers(module.model, cfg.optimizer, boxed)

    @jax.jit
    def train(rate):
        def schedule(count):
            return jnp.asarray(rate, jnp.float32)

        optimizer = make_optimizer(cfg.optimizer, schedule, boxed, factors)
        step = make_step(module, optimizer, schedule, cfg.train)
        state = init_state(module, optimizer, abstract, 8, 0)
        _, losses = jax.lax.scan(
            lambda state, _: (lambda s, m: (s, m["loss"]))(*step(state, batch)), state, length=40
        )
        return losses[-1]

    _COMPILED[name, width] = lambda rate: float(train(rate))
    return _COMPILED[name, width]
