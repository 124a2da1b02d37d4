"""Loss spikes: which steps are skipped is what numpy says of the accepted losses before them."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from scipy.stats import median_abs_deviation

from tests.training.toy import Toy, batch_at
from tlx.base.errors import ConfigError
from tlx.training.config import SpikeConfig, TrainConfig
from tlx.training.spikes import initial_window
from tlx.training.state import init_state
from tlx.training.step import make_step

NAN = (3, 21, 22)
SPIKES = (5, 18, 30, 31)


@pytest.mark.parametrize("cap", [None, 2.9])
def test_the_accepted_losses_decide(cap):
    """NaN in the warm-up and after it too: no later limit is NaN."""
    config = SpikeConfig(window=8, threshold=4.0, warmup_cap=cap)
    schedule = optax.constant_schedule(3e-2)
    optimizer = optax.adamw(schedule)
    state = init_state(Toy(memory=False), optimizer, batch_at(0), 8, seed=1)
    state = state._replace(extra=initial_window(config))
    step = jax.jit(make_step(Toy(memory=False), optimizer, schedule, TrainConfig(spike=config)))
    accepted = []
    skipped = []
    in_a_row = 0
    for k in range(40):
        batch = batch_at(k)
        if k in NAN:
            batch["tokens"][0, 0] = 99
        if k in SPIKES:
            batch["targets"] = (batch["targets"] + 5) % 16
        state, metrics = step(state, batch)
        loss = np.float32(metrics["total_loss"])
        limit = np.inf if cap is None else cap
        if len(accepted) >= 8:
            last = np.array(accepted[-8:])
            deviation = max(median_abs_deviation(last, scale=1 / 1.4826), 1e-3 * np.median(last))
            limit = np.median(last) + 4.0 * deviation
        np.testing.assert_allclose(metrics["loss_limit"], limit, rtol=1e-5)
        is_good = bool(loss <= limit)  # False of NaN
        in_a_row = 0 if is_good else in_a_row + 1
        assert int(metrics["skipped_in_a_row"]) == in_a_row, k
        if is_good:
            accepted.append(loss)
        else:
            skipped.append(k)
    assert {*NAN, 18, 30, 31} <= set(skipped) and len(accepted) > 25
    assert (5 in skipped) == (cap is not None)
    assert np.isfinite(state.extra["spike"]["losses"]).all()


def test_values_that_no_run_can_have():
    for values in ({"window": 3}, {"window": -1}, {"threshold": 0.0}, {"warmup_cap": 0.0}):
        with pytest.raises(ConfigError, match=f"train.spike.{next(iter(values))}"):
            TrainConfig(spike=dataclasses.replace(SpikeConfig(), **values)).validate()
    TrainConfig().validate()
    assert initial_window(SpikeConfig()) == {}
