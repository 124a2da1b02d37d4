"""The first signal asks to stop, the second leaves, the timer leaves, and several processes stop together."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from tlx.training import preemption
from tlx.training.preemption import Preemption


@pytest.fixture
def left(monkeypatch):
    """Exit statuses that would have ended the process; no waiting for echoes."""
    monkeypatch.setattr(preemption, "ECHO_SECONDS", 0.0)
    return []


def soon(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_first_signal_asks_second_leaves(left, number):
    before = signal.getsignal(number)
    with Preemption(leave=left.append) as stop:
        assert not stop.agreed()
        os.kill(os.getpid(), number)
        assert soon(lambda: stop.why is not None)
        assert stop.agreed() and stop.why == number.name and not left
        time.sleep(0.01)
        os.kill(os.getpid(), number)
        assert soon(lambda: left)
    assert left == [128 + number]
    assert signal.getsignal(number) == before


def test_an_echo_of_the_first_signal_is_not_the_second():
    left = []
    with Preemption(leave=left.append) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert soon(lambda: stop.why is not None)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
    assert not left


def test_timer_leaves_when_the_save_is_late(left):
    with Preemption(grace_seconds=0.3, margin_seconds=0.2, leave=left.append):
        began = time.monotonic()
        os.kill(os.getpid(), signal.SIGTERM)
        assert soon(lambda: left)
        assert 0.08 < time.monotonic() - began < 3.0
    assert left == [143]


def test_timer_is_off_once_the_context_is_left(left):
    with Preemption(grace_seconds=0.1, margin_seconds=0.0, leave=left.append) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert soon(lambda: stop.why is not None)
    time.sleep(0.2)
    assert not left


def test_request_from_inside_and_then_a_first_signal(left):
    with Preemption(leave=left.append) as stop:
        stop.request("lease lost")
        assert stop.agreed()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
        assert not left and stop.why == "lease lost"


def test_in_a_notebook_the_second_signal_interrupts_the_main_thread(left):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Preemption(leave=None) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert soon(lambda: stop.why is not None)
        time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(20)
    assert signal.getsignal(signal.SIGINT) == before


def test_on_another_thread_signals_are_left_alone():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def enter():
        with Preemption(leave=None) as stop:
            seen.append(signal.getsignal(signal.SIGINT))
            stop.request("the test")
            seen.append(stop.agreed())
            try:
                threading.Thread(target=stop.raise_in_caller, args=(TimeoutError(),)).start()
                while True:
                    time.sleep(0.01)
            except TimeoutError as error:
                seen.append(type(error))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join(20)
    assert seen == [before, True, TimeoutError]


def test_second_signal_leaves_while_the_main_thread_is_in_c():
    """Inside a compilation Python's own handlers do not run; the watching thread does."""
    code = """
        import hashlib
        from tlx.training import preemption
        preemption.ECHO_SECONDS = 0.0
        with preemption.Preemption():
            print("ready", flush=True)
            hashlib.pbkdf2_hmac("sha256", b"", b"", 1 << 30)  # minutes in C, without the interpreter's lock
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        child.send_signal(signal.SIGTERM)
        _, errors = child.communicate(timeout=20)
    finally:
        child.kill()
    assert child.returncode == 143
    assert "leaving now" in errors


WORKER = """
    import sys, time
    import jax
    process, port = int(sys.argv[1]), sys.argv[2]
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, process, initialization_timeout=60)
    from tlx.training.preemption import Preemption
    saved = []
    with Preemption() as stop:
        # The second process' own clock would never ask; nor may it.
        stop.start_save_timer(0.004 if process == 0 else 0.0)
        for step in range(1, 400):
            time.sleep(0.01 * (1 + process))
            if stop.save_due:
                saved.append(step)
                stop.saved()
            agreed = stop.agreed()
            if len(saved) == 3:
                print("ready", flush=True)
            if agreed:
                break
    print(f"saved {saved} stopped {step} {stop.why}", flush=True)
"""


@pytest.mark.slow
def test_two_processes_stop_at_the_same_step(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free_port = probe.getsockname()[1]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WORKER), str(process), str(free_port)],
            stdout=subprocess.PIPE,
            stderr=open(tmp_path / f"{process}.log", "w"),
            env=environment,
            text=True,
        )
        for process in range(2)
    ]
    try:
        for worker in workers:
            assert "ready\n" in iter(worker.stdout.readline, "")
        workers[1].send_signal(signal.SIGTERM)
        texts = [worker.communicate(timeout=180)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    lines = [text.partition("stopped ")[2].split(maxsplit=1) for text in texts]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert lines[0][0] == lines[1][0] and int(lines[0][0]) < 200
    assert lines[1][1].startswith("SIGTERM") and "another process" in lines[0][1]
    # Saves by the first process' clock, at the same steps; none of a request that the save before has met.
    saved = [json.loads(text.partition("saved ")[2].partition(" stopped")[0]) for text in texts]
    assert saved[0] == saved[1] and len(saved[0]) >= 3
    assert all(later - earlier > preemption.LAG + 1 for earlier, later in itertools.pairwise(saved[0]))


def test_saves_by_time_are_due_once_per_interval(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(preemption.time, "monotonic", lambda: now[0])
    stop = Preemption()
    stop.start_save_timer(0.0)
    now[0] += 1e6
    assert not stop.agreed() and not stop.save_due, "0 is never"
    stop.start_save_timer(2.0)
    due = []
    for _ in range(7):
        now[0] += 50.0
        stop.agreed()
        due.append(stop.save_due)
        if stop.save_due:
            stop.saved()
    assert due == [False, False, True, False, False, True, False]
