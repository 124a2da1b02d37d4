"""Real processes meet, split a batch between them, and name the one that is missing or doubled."""

import contextlib
import json
import os
import pathlib
import resource
import selectors
import socket
import subprocess
import sys
import time
from concurrent import futures

import pytest

from tlx.base import errors
from tlx.base.errors import ConfigError
from tlx.parallel import rendezvous
from tlx.parallel.process import ProcessSettings, first_host, process_settings, start_process
from tlx.parallel.rendezvous import meet

WORKER = pathlib.Path(__file__).with_name("process_worker.py")


def start(port, count, index, *axes, timeout=60):
    env = os.environ | {
        "JAX_NUM_CPU_DEVICES": "2",
        "TLX_COORDINATOR": f"127.0.0.1:{port}",
        "TLX_NUM_PROCESSES": str(count),
        "TLX_PROCESS_ID": str(index),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, str(WORKER), str(timeout), *axes]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(processes):
    try:
        results = [(process.communicate(timeout=180)[0], process.returncode) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return results


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "axes, rows",
    [
        (["data=4"], [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (["data=1", "tensor=4"], [list(range(8))] * 2),
    ],
)
def test_two_processes_each_build_the_rows_that_they_hold(port, axes, rows):
    results = finish([start(port, 2, index, *axes) for index in range(2)])
    total = sum(value * (value + 1) for value in range(48))
    for index, (output, code) in enumerate(results):
        assert code == 0, output
        assert output.strip().splitlines()[-1] == f"{index} 2 {rows[index]} {total}"


@pytest.mark.slow
def test_a_missing_process_is_named(port):
    results = finish([start(port, 3, index, timeout=4) for index in range(2)])
    for output, code in results:
        assert code == errors.WATCHDOG and "waited 4 s for 3 processes; seen: 0 (" in output, output
        assert f"1 ({socket.gethostname()} pid" in output and "missing: 2" in output


@pytest.mark.slow
def test_a_missing_coordinator_is_named(port):
    [(output, code)] = finish([start(port, 2, 1, timeout=1)])
    assert code == errors.WATCHDOG and f"for process 0 at 127.0.0.1:{port}" in output, output


@pytest.mark.slow
@pytest.mark.parametrize("ids", [(0, 0), (0, 1, 1)])
def test_two_processes_of_one_id_are_both_named(port, ids):
    doubled, processes = ids[-1], [start(port, 3, index, timeout=20) for index in ids]
    results = finish(processes)
    told = [output for output, code in results if code == errors.CONFIG]
    assert told, results
    for output in told:
        assert f"two processes have the id {doubled}" in output
        assert all(str(process.pid) in output for process in processes[-2:])


def test_a_process_that_died_waiting_can_come_again(port):
    address = f"127.0.0.1:{port}"
    with futures.ThreadPoolExecutor() as pool:
        host = pool.submit(meet, address, 3, 0, 10.0)
        for _ in range(100):
            try:
                with socket.create_connection(("127.0.0.1", port)) as first:
                    first.sendall(b'{"id": 1, "host": "gone", "pid": 1, "count": 3}\n')
                    time.sleep(0.2)
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        others = [pool.submit(meet, address, 3, index, 10.0) for index in (1, 2)]
        for joined in (host, *others):
            joined.result()


@pytest.mark.slow
def test_different_counts_are_named(port):
    """By both; process 0 waits on, for it cannot know whose process that was."""
    results = finish([start(port, 2, 0, timeout=8), start(port, 3, 1, timeout=20)])
    assert all("was told of 3 processes" in output for output, _ in results), results
    assert [code for _, code in results] == [errors.WATCHDOG, errors.CONFIG]


STRANGERS = {
    "brackets": b"[" * 4096,
    "nothing": b"",
    "another run's process": b'{"id": 1, "host": "other", "pid": 7, "count": 64}\n',
    "an id too high": b'{"id": 7, "host": "other", "pid": 7, "count": 2}\n',
    "a huge number": b'{"id": 1e999, "host": "other", "pid": 7, "count": 2}\n',
    "a name with an escape": b'{"id": 1, "host": "\\u001b[2J", "pid": 7, "count": 2}\n',
    "a web browser": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
}


def test_strangers_are_turned_away_and_named(port, monkeypatch, caplog):
    monkeypatch.setattr(rendezvous, "_LINE_SECONDS", 0.2)
    with futures.ThreadPoolExecutor() as pool:
        host = pool.submit(meet, f"127.0.0.1:{port}", 2, 0, 20.0)
        for line in STRANGERS.values():
            for _ in range(100):
                try:
                    with socket.create_connection(("127.0.0.1", port)) as stranger:
                        stranger.sendall(line)
                        stranger.settimeout(5)
                        with contextlib.suppress(ConnectionResetError):
                            stranger.recv(4096)  # answered, or closed
                    break
                except ConnectionRefusedError:
                    time.sleep(0.05)
        assert not host.done()
        pool.submit(meet, f"127.0.0.1:{port}", 2, 1, 20.0).result()
        host.result()
    assert len(caplog.messages) == len(STRANGERS)
    assert caplog.text.count("127.0.0.1 sent no line of tlx") == 5
    assert "process 1 (other pid 7) was told of 64 processes" in caplog.text
    assert "process id 7 (other pid 7) must be 0 to 1" in caplog.text


# The module alone, without its package's jax: that would be most of the test's time.
HOST = """
import importlib.util, logging, resource, sys
logging.basicConfig(level=logging.INFO)
port, count, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
spec = importlib.util.spec_from_file_location("rendezvous", path)
module = sys.modules["rendezvous"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
module.meet(f"127.0.0.1:{port}", count, 0, 60.0)
"""


def start_host(port, count):
    command = [sys.executable, "-c", HOST, str(port), str(count), rendezvous.__file__]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for _ in range(600):
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            break
        if process.poll() is not None:
            break
        time.sleep(0.05)
    return process


def test_4096_processes_meet_while_strangers_are_silent(port):
    """Each simulated process is a socket; every 40th connection says nothing, or its line a byte at a time."""
    count = 4096
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < count + 1024:
        pytest.skip(f"this system allows {hard} open files a process")
    process = start_host(port, count)
    answered = 0
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        stack.callback(process.kill)
        slow = []
        began = time.monotonic()
        for index in range(1, count):
            line = json.dumps({"id": index, "host": f"host-{index}", "pid": index, "count": count}).encode()
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            if index % 80 == 0:
                stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            if index % 80 == 40:
                connection.sendall(line)
                slow.append(connection)
            else:
                connection.sendall(line + b"\n")
            selector.register(connection, selectors.EVENT_READ)
        for connection in slow:
            connection.sendall(b"\n")
        while answered < count - 1 and time.monotonic() < began + 30:
            for key, _ in selector.select(1.0):
                assert key.fileobj.recv(4096) == b"{}\n"
                selector.unregister(key.fileobj)
                key.fileobj.close()
                answered += 1
        seconds = time.monotonic() - began
        output, _ = process.communicate(timeout=20)
    assert process.returncode == 0 and answered == count - 1, output
    # Read one after the other, the silent ones alone would hold the others up for 50 times 5 s.
    assert seconds < 20
    assert "process 0 of 4096 raised its limit of open files from 256 to 4608" in output


def test_too_low_a_limit_of_open_files_is_one_message(port, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda number: (256, 1024))
    with pytest.raises(ConfigError, match=r"needs 4608 open files; this system allows 1024 \(ulimit -Hn\)"):
        meet(f"127.0.0.1:{port}", 4096, 0, 1.0)


def test_a_message_lists_many_processes_as_ranges():
    guests = {
        i: rendezvous._Guest(i, f"host-{i}", i) for i in range(4096) if i % 1000 != 7 and not 50 < i < 60
    }
    message = str(rendezvous._missing(guests, 4096, 5.0, []))
    assert message.startswith("waited 5 s for 4096 processes; seen: 0 (host-0 pid 0), 1 (host-1 pid 1), ")
    assert message.endswith(
        "15 (host-15 pid 15), 16 (host-16 pid 16) and 4066 more; missing: 7, 51-59, 1007, 2007, 3007, 4007"
    )
    assert len(message) < 1000


def test_one_process_has_nothing_to_start(monkeypatch):
    for name in ("TLX_COORDINATOR", "TLX_NUM_PROCESSES", "TLX_PROCESS_ID", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    assert start_process() == ProcessSettings()
    assert process_settings({}, None, 1, 0) == ProcessSettings()


@pytest.mark.parametrize(
    "environ, message",
    [
        ({"TLX_COORDINATOR": "a:1"}, "need TLX_NUM_PROCESSES, TLX_PROCESS_ID too"),
        ({"TLX_PROCESS_ID": "1", "TLX_NUM_PROCESSES": "two"}, "TLX_NUM_PROCESSES = 'two'"),
        ({"TLX_COORDINATOR": "a:1", "TLX_NUM_PROCESSES": "2", "TLX_PROCESS_ID": "2"}, "must be 0 to 1"),
        ({"TLX_COORDINATOR": "a", "TLX_NUM_PROCESSES": "2", "TLX_PROCESS_ID": "1"}, "must be host:port"),
    ],
)
def test_incomplete_settings_are_refused(environ, message):
    with pytest.raises(ConfigError, match=message):
        process_settings(environ)


def test_slurm_and_tpu_are_found():
    slurm = {
        "SLURM_JOB_ID": "4097",
        "SLURM_STEP_NODELIST": "gpu-[03-07,11],login1",
        "SLURM_NTASKS": "8",
        "SLURM_STEP_NUM_NODES": "4",
        "SLURM_PROCID": "5",
        "SLURM_LOCALID": "1",
    }
    assert process_settings(slurm) == ProcessSettings("gpu-03:61441", 8, 5, 1)
    assert process_settings(slurm | {"SLURM_NTASKS": "4"}).local_device is None
    assert process_settings(slurm | {"SLURM_NTASKS": "1"}) == ProcessSettings()
    assert process_settings({"TPU_WORKER_HOSTNAMES": "a,b"}).coordinator == "auto"
    assert process_settings({"TPU_WORKER_HOSTNAMES": "localhost"}) == ProcessSettings()


@pytest.mark.parametrize(
    "nodelist, host",
    [
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("n[1-3]", "n1"),
        ("n[001,007-9].cluster,m1", "n001.cluster"),
        ("login,n[1-3]", "login"),
    ],
)
def test_first_host_of_a_node_list(nodelist, host):
    assert first_host(nodelist) == host
