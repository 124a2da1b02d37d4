"""The learning rate that a resumed run states."""

import pytest

from tlx.base.config import to_dict
from tlx.run import base_config
from tlx.run.checks import resolve
from tlx.trainer.banner import schedule_note


def config(steps=40, rate=0.01, name="cosine"):
    values = base_config("clm")
    values.train.steps = steps
    values.optimizer.learning_rate = rate
    values.optimizer.schedule.name = name
    values.optimizer.schedule.final_fraction = 0.0
    return resolve(values)


def test_a_schedule_that_is_stretched_is_explained():
    note = schedule_note(to_dict(config()), config(steps=80), 40)
    assert "learning rate 0.0052 from here on, it would have been 0 " in note
    assert "cosine with the peak 0.01 over 80 steps instead of 40: a schedule spans the whole run" in note


@pytest.mark.parametrize(("now", "step"), [({}, 20), ({"rate": 0.01}, 0)])
def test_nothing_is_said_where_the_rate_goes_on(now, step):
    assert schedule_note(to_dict(config()), config(**now), step) == ""


def test_a_constant_rate_does_not_depend_on_the_length():
    assert schedule_note(to_dict(config(name="constant")), config(80, name="constant"), 40) == ""


def test_a_new_peak_is_told():
    assert "0.001 over 40 steps" in schedule_note(to_dict(config()), config(rate=0.001), 20)
