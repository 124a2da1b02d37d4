"""A process that makes no progress reports phase, step and stacks, and leaves with 170."""

import subprocess
import sys
import textwrap
import time

import pytest

from tlx.base.errors import StallError
from tlx.training.clock import Clock
from tlx.training.preemption import Preemption
from tlx.training.watchdog import Watchdog


@pytest.fixture
def report(tmp_path):
    with open(tmp_path / "report", "w+") as handle:
        yield handle


def read(handle):
    handle.seek(0)
    return handle.read()


def wait_in_the_data_phase(watchdog, clock, seconds):
    with watchdog, clock("data"):
        time.sleep(seconds)


def test_a_stuck_process_reports_where(report):
    clock, left = Clock(), []
    watchdog = Watchdog(clock, 0.2, process=3, stream=report, leave=left.append)
    watchdog(17, None, None)
    began = time.monotonic()
    with watchdog, clock("data"):
        while not left and time.monotonic() < began + 10:
            time.sleep(0.01)
    assert left == [170]
    text = read(report)
    assert "process 3 (" in text and "phase data, last step 17" in text
    assert "test_a_stuck_process_reports_where" in text and "Thread" in text  # this thread's stack


def test_changes_of_phase_are_signs_of_life(report):
    clock, left = Clock(), []
    with Watchdog(clock, 0.4, stream=report, leave=left.append):
        for _ in range(12):
            with clock("step"):
                time.sleep(0.05)
    assert not left and not read(report)


@pytest.mark.parametrize("phase", ["compile", "checkpoint", "prepare"])
def test_phases_that_take_long_may(report, phase):
    clock, left = Clock(), []
    with clock(phase), Watchdog(clock, 0.2, stream=report, leave=left.append):
        time.sleep(0.6)
    assert not left


def test_it_can_be_switched_off(report):
    left = []
    wait_in_the_data_phase(Watchdog(clock := Clock(), None, stream=report, leave=left.append), clock, 0.2)
    assert not left


def test_in_a_notebook_it_raises_in_the_main_thread(report):
    began = time.monotonic()
    clock = Clock()
    with pytest.raises(StallError, match="phase data, last step 17"), Preemption(leave=None) as stop:
        watchdog = Watchdog(clock, 0.2, stream=report, raise_error=stop.raise_in_caller)
        watchdog(17, None, None)
        wait_in_the_data_phase(watchdog, clock, 30)
    assert time.monotonic() - began < 20
    assert "raising StallError" in read(report)


def test_the_process_really_leaves():
    code = """
        import time
        from tlx.training.clock import Clock
        from tlx.training.watchdog import Watchdog
        with Watchdog(Clock(), 0.3):
            time.sleep(60)
    """
    began = time.monotonic()
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=50
    )
    assert child.returncode == 170 and time.monotonic() - began < 40
    assert "phase start, last step 0" in child.stderr and "time.sleep" not in child.stdout
