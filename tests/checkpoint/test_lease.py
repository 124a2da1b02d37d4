"""One run per directory: refusal, release, takeover of the dead and the stale, loss noticed."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from tlx.base.errors import LeaseError, StorageError
from tlx.checkpoint import lease as leases
from tlx.checkpoint.lease import Lease


def edit(run, **changes):
    """Rewrites fields of the lease, as another machine or another time would have left them."""
    path = run / leases.FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def age(run, seconds):
    """The last beat was so long ago, by both clocks."""
    edit(run, monotonic=time.monotonic() - seconds)
    then = time.time() - seconds
    os.utime(run / leases.FILE, (then, then))


HOLDER = """
    import sys, time
    from tlx.checkpoint.lease import Lease
    with Lease(sys.argv[1]):
        print("held", flush=True)
        time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lease of tmp_path."""
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "held\n"
    yield child
    child.kill()
    child.wait()


def test_a_second_run_is_refused_and_a_killed_one_replaced_at_once(tmp_path, holder, caplog):
    with pytest.raises(LeaseError, match=rf"lease held by .+:{holder.pid}, beat \d+ s ago") as caught:
        Lease(tmp_path).__enter__()
    assert caught.value.code == 75
    holder.send_signal(signal.SIGKILL)
    while os.path.exists(f"/proc/{holder.pid}") and open(f"/proc/{holder.pid}/stat").read().split()[2] != "Z":
        time.sleep(0.01)
    began = time.monotonic()
    with Lease(tmp_path) as lease:
        lease.check()
        assert time.monotonic() - began < 2.0
    assert f"taken over from {os.uname().nodename}:{holder.pid}, which is gone" in caplog.text


def test_released_on_leaving_even_by_an_error(tmp_path):
    with pytest.raises(RuntimeError), Lease(tmp_path):
        raise RuntimeError
    assert not (tmp_path / leases.FILE).exists()
    with Lease(tmp_path):
        pass


@pytest.mark.parametrize("local", [True, False])
def test_stale_is_taken_over_and_fresh_is_not(tmp_path, local):
    """Of a process that lives on this machine (stuck), or on another of which nothing else is known."""
    (tmp_path / leases.FILE).write_text(json.dumps({"id": "other", **leases._here()}))
    if not local:
        edit(tmp_path, host="elsewhere", boot="another", pid=1)
    age(tmp_path, leases.STALE_SECONDS - 5)
    with pytest.raises(LeaseError, match="beat 8[5-9] s ago"):
        Lease(tmp_path).__enter__()
    age(tmp_path, leases.STALE_SECONDS + 1)
    with Lease(tmp_path) as lease:
        lease.check()


def test_a_process_number_in_use_again_is_not_the_holder(tmp_path):
    (tmp_path / leases.FILE).write_text(json.dumps({"id": "other", **leases._here()}))
    age(tmp_path, 1)
    edit(tmp_path, started="1")
    with Lease(tmp_path):
        pass


def test_the_wall_clock_of_the_holder_does_not_matter(tmp_path):
    """A holder on another machine whose clock is an hour behind, with a beat just now."""
    (tmp_path / leases.FILE).write_text(json.dumps({"id": "other", "host": "elsewhere", "pid": 1}))
    edit(tmp_path, time=time.time() - 3600)
    with pytest.raises(LeaseError, match="beat 0 s ago"):
        Lease(tmp_path).__enter__()


def test_the_heart_beats(tmp_path):
    with Lease(tmp_path, beat=0.05):
        first = json.loads((tmp_path / leases.FILE).read_text())["monotonic"]
        time.sleep(0.3)
        assert json.loads((tmp_path / leases.FILE).read_text())["monotonic"] > first


def test_a_lost_lease_is_noticed_by_check_and_by_the_heart(tmp_path, caplog):
    with Lease(tmp_path, beat=0.05) as lease, Lease(tmp_path / "b") as quiet:
        assert not lease.lost
        for run in (tmp_path, tmp_path / "b"):
            edit(run, id="another", host="other", pid=12)
        with pytest.raises(LeaseError, match="lost to other:12"):
            quiet.check()
        deadline = time.monotonic() + 5
        while not lease.lost and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lease.lost
        with pytest.raises(LeaseError):
            lease.check()
    assert json.loads((tmp_path / leases.FILE).read_text())["id"] == "another", "not ours to remove"


STOPPED = """
    import sys, time
    from tlx.base.errors import LeaseError
    from tlx.checkpoint.lease import Lease
    with Lease(sys.argv[1], beat=0.1) as lease:
        print("held", flush=True)
        sys.stdin.readline()
        try:
            lease.check()
        except LeaseError as error:
            print(error, flush=True)
"""


@pytest.mark.slow
def test_a_stopped_process_that_wakes_writes_nothing(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(STOPPED), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(LeaseError):
            Lease(tmp_path, stale=1.0).__enter__()
        child.send_signal(signal.SIGSTOP)
        time.sleep(1.2)
        with Lease(tmp_path, stale=1.0) as lease:
            child.send_signal(signal.SIGCONT)
            printed, _ = child.communicate("go on\n", timeout=30)
            assert f"lost to {os.uname().nodename}:{os.getpid()}: this run stops writing" in printed
            lease.check()
    finally:
        child.kill()


def test_of_many_that_come_at_once_one_gets_a_stale_lease(tmp_path):
    (tmp_path / leases.FILE).write_text(json.dumps({"id": "other", "host": "elsewhere", "pid": 1}))
    age(tmp_path, 1000)
    held, refused, barrier = [], [], threading.Barrier(8)

    def come():
        lease = Lease(tmp_path)
        barrier.wait()
        try:
            held.append(lease.__enter__())
        except LeaseError:
            refused.append(lease)

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 7)
    held[0].__exit__()


def test_an_unreadable_lease_counts_by_its_age(tmp_path):
    (tmp_path / leases.FILE).write_text("{")
    with pytest.raises(LeaseError, match="an unknown run"):
        Lease(tmp_path).__enter__()
    old = time.time() - 100
    os.utime(tmp_path / leases.FILE, (old, old))
    with Lease(tmp_path):
        pass


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot write to the run directory .*Errno") as caught:
        Lease(tmp_path / "file" / "run").__enter__()
    assert caught.value.code == 73


@pytest.mark.parametrize(
    "odd",
    [
        {"monotonic": "soon"},
        {"monotonic": None},
        {"monotonic": float("nan")},
        {"monotonic": 1e300},
        {"pid": 2**70},
        {"pid": -1},
        {"pid": True},
        {"host": {"a": 1}},
        {"id": ["x"]},
        {"boot": 7},
    ],
)
def test_a_lease_with_odd_values_is_unreadable(tmp_path, odd):
    """Held by somebody unknown until the file is old, whatever it says."""
    with Lease(tmp_path):
        path = tmp_path / leases.FILE
        content = json.loads(path.read_text()) | odd
    for data in (json.dumps(content), "[" * 100_000, "[]", "7", '{"id"', "\0\0"):
        path.write_text(data)
        with pytest.raises(LeaseError, match="lease held by an unknown run, beat 0 s ago"):
            Lease(tmp_path).__enter__()
    path.write_bytes(b"\xff\xfe")
    os.utime(path, (1, 1))
    with Lease(tmp_path):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_heartbeat_that_is_still_to_come_holds_nothing(tmp_path):
    path = tmp_path / leases.FILE
    path.write_text("{}")
    os.utime(path, (time.time() + 1e9, time.time() + 1e9))
    with Lease(tmp_path):
        assert json.loads(path.read_text())["pid"] == os.getpid()
