"""Seconds by phase, with an injected clock."""

from tlx.training.clock import Clock


def test_phases_add_up_and_interrupt_each_other():
    now = iter(float(n) for n in range(100))
    clock = Clock(lambda: next(now))
    with clock("data"):
        pass
    with clock("step"):
        assert clock.current == "step"
        with clock("evaluate"):
            assert clock.current == "evaluate"
    assert clock.current == "start"
    assert clock.seconds["evaluate"] == 1.0
    assert clock.training() == 1.0 + 2.0
