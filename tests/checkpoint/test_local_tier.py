"""The emergency tier: four real processes, each with a disk of its own, lose processes and disks."""

import json
import multiprocessing
import os
import re
import shutil
import threading
import time

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tests.checkpoint.example import abstract, assert_same, state_on
from tests.cli import tiny
from tests.forked import Forks
from tlx.base.errors import ConfigError, StorageError
from tlx.checkpoint import CheckpointConfig, local_files, local_tier
from tlx.checkpoint.local_exchange import Peer, ShardServer
from tlx.checkpoint.local_tier import LocalTier
from tlx.checkpoint.manifest import Damaged
from tlx.launch.local import free_port
from tlx.training.journal import read_lines

STEPS = 24


@pytest.fixture
def tier(tmp_path):
    """Opens a tier of this process over four devices, whose events are in `tier.events`."""
    opened = []

    def make(**config):
        config = CheckpointConfig(local_every=2, local_folder=str(tmp_path / "disk"), **config)
        events = []
        made = LocalTier(
            config, abstract(state_on(4)), lambda kind, **fields: events.append({"kind": kind, **fields})
        )
        made.events = events
        opened.append(made)
        return made

    yield make
    for made in opened:
        made.__exit__()


def saved_files(tmp_path):
    return sorted((tmp_path / "disk").glob("*/*-*-*/*"))


def test_the_newest_step_comes_back_bit_for_bit(tier, tmp_path):
    first = tier()
    assert first.restore("run", (), None) is None
    first.begin("run", "a" * 16, 0)
    for step in (2, 4, 6):
        assert first.due(step) and not first.due(step + 1)
        first.save(step, state_on(4, seed=step), {"step": step})
    first._settle()
    # The newest, and the one before: a process may be killed while the newest is written.
    assert [path.parent.name for path in saved_files(tmp_path)] == [f"{n}-{'a' * 16}-0" for n in (4, 6)]
    loaded = tier().restore("run", ("a" * 16,), 5)
    assert loaded.step == 6 and loaded.extra == {"step": 6}
    assert_same(loaded.tree, state_on(4, seed=6))
    # Newer checkpoints, other starts (a copy of the run directory) and other runs do not count.
    assert tier().restore("run", ("a" * 16,), 7) is None
    assert tier().restore("run", ("b" * 16,), None) is None
    assert tier().restore("other", ("a" * 16,), None) is None
    first.finish()
    assert saved_files(tmp_path) == []


def test_a_run_goes_on_with_a_replica_less_and_on_other_slices_it_does_not(tmp_path, caplog):
    """What counts is which slices a process' devices hold, not how often the run has them."""

    def state(replicas, shards):
        mesh = Mesh(np.array(jax.devices()[: replicas * shards]).reshape(replicas, shards), ("data", "fsdp"))
        values = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
        return {"weights": jax.device_put(values, NamedSharding(mesh, PartitionSpec("fsdp")))}

    config = CheckpointConfig(local_every=1, local_folder=str(tmp_path))
    saved = state(2, 4)
    with LocalTier(config, abstract(saved), lambda *_, **__: None) as tier:
        tier.begin("run", "a" * 16, 0)
        tier.save(1, saved, {})
        tier._settle()
    for replicas, shards, step in ((1, 4, 1), (2, 2, None)):
        wanted = state(replicas, shards)
        with LocalTier(config, abstract(wanted), lambda *_, **__: None) as tier:
            loaded = tier.restore("run", ("a" * 16,), None)
        assert (None if loaded is None else loaded.step) == step
        if loaded is not None:
            assert_same(loaded.tree, wanted)
            assert loaded.tree["weights"].sharding == wanted["weights"].sharding
    assert "step 1: the shards of processes 0 are on no host" in caplog.text


def test_damage_is_noticed_and_the_step_before_is_used(tier, tmp_path, caplog):
    first = tier()
    first.begin("run", "a" * 16, 0)
    for step in (2, 4):
        first.save(step, state_on(4, seed=step), {})
    first._settle()
    newest = saved_files(tmp_path)[-1]
    whole = newest.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(20):
        bit = int(rng.integers(8 * len(whole)))
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        newest.write_bytes(damaged)
        with pytest.raises(Damaged):
            local_files.read(newest, local_files.pieces_of(abstract(state_on(4))))
    for damaged in (whole[:-1], whole + b"x", b""):
        newest.write_bytes(damaged)
        assert tier().restore("run", ("a" * 16,), None).step == 2
    shutil.copy(saved_files(tmp_path)[0], newest)
    assert tier().restore("run", ("a" * 16,), None).step == 2, "a file of another step"
    assert tier().restore("run", ("a" * 16,), 3) is None
    assert "the copies on the hosts are not used: step 4: its files are damaged" in caplog.text


def test_a_rollback_forgets_what_came_after_and_a_later_start_counts_more(tier, tmp_path):
    first = tier()
    first.begin("run", "a" * 16, 0)
    for step in (2, 4):
        first.save(step, state_on(4, seed=step), {})
    first.go_back(2)
    assert [path.parent.name for path in saved_files(tmp_path)] == [f"2-{'a' * 16}-0"]
    first.save(4, state_on(4, seed=14), {})
    first._settle()
    assert_same(tier().restore("run", ("a" * 16,), None).tree, state_on(4, seed=14))
    second = tier()
    assert second.restore("run", ("a" * 16,), None).step == 4
    second.begin("run", "b" * 16, 4)
    second.save(5, state_on(4, seed=5), {})
    # The one restored stays until the next one is whole on all processes.
    assert f"4-{'a' * 16}-1" in {path.parent.name for path in saved_files(tmp_path)}
    second._settle()
    # A process of the first start that was stopped and woke up.
    late = saved_files(tmp_path)[0].parent.parent / f"8-{'a' * 16}-1" / saved_files(tmp_path)[0].name
    shutil.copytree(saved_files(tmp_path)[0].parent, late.parent)
    assert tier().restore("run", ("a" * 16, "b" * 16), None).step == 5


def test_a_full_disk_costs_a_step_and_nothing_else(tier, tmp_path, caplog, monkeypatch):
    first = tier()
    first.begin("run", "a" * 16, 0)
    first.save(2, state_on(4, seed=2), {})
    write = local_files.write

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(local_files, "write", full)
    first.save(4, state_on(4, seed=4), {})
    monkeypatch.setattr(local_files, "write", write)
    first.save(6, state_on(4, seed=6), {})
    assert "step 4 not saved to the hosts by process 0 ([Errno 28] No space left" in caplog.text
    assert [event["kind"] for event in first.events] == ["local_failed"]
    first._settle()
    assert tier().restore("run", ("a" * 16,), None).step == 6


def test_what_cannot_be_used_is_refused(tier, tmp_path, monkeypatch):
    for folder in ("", "gs://bucket/run"):
        with pytest.raises(ConfigError, match="config.checkpoint.local_folder = .* a folder of each host"):
            CheckpointConfig(local_folder=folder).validate()
    with pytest.raises(ConfigError, match="config.checkpoint.local_every = -1 must be 0 or more"):
        CheckpointConfig(local_every=-1).validate()
    with pytest.raises(ConfigError, match="'\\$NO_SUCH/tlx': the environment lacks a variable"):
        local_tier.folder_of("$NO_SUCH/tlx", "run")
    monkeypatch.setenv("SCRATCH_OF_THIS_HOST", str(tmp_path))
    assert local_tier.folder_of("$SCRATCH_OF_THIS_HOST/tlx", "run") == tmp_path / "tlx" / "run"
    (tmp_path / "disk").write_text("a file")
    with pytest.raises(StorageError, match="checkpoint.local_folder cannot be used:\n  process 0: .*disk"):
        tier().begin("run", "a" * 16, 0)
    (tmp_path / "disk").unlink()
    monkeypatch.setattr(local_tier.places, "free_bytes", lambda folder: 1000)
    with pytest.raises(StorageError, match="process 0: .* has 1 kB free; two steps and a margin take"):
        tier().begin("run", "a" * 16, 0)


def process(key, disk):
    return local_tier._Process(key, 10, disk, "10.0.0.1", 1, frozenset())


def test_each_shard_is_on_two_disks_and_no_disk_has_more_than_its_share():
    rng = np.random.default_rng(0)
    for _ in range(200):
        hosts = int(rng.integers(1, 7))
        a_host = int(rng.integers(1, 4))
        replicas = int(rng.integers(1, 4))
        count = hosts * a_host
        order = rng.permutation(count)
        processes = [
            process(f"k{i % max(1, count // replicas)}", f"d{order[i] // a_host}") for i in range(count)
        ]
        writers = local_tier._writers(processes)
        receivers = local_tier._receivers(processes)
        on = {}
        for i, (other, writes, receiver) in enumerate(zip(processes, writers, receivers, strict=True)):
            if writes:
                on.setdefault(other.key, set()).add(other.disk)
                if receiver is not None:
                    assert receiver != i and processes[receiver].disk != other.disk
                    on[other.key].add(processes[receiver].disk)
        assert on.keys() == {other.key for other in processes}
        assert all(len(disks) >= min(2, hosts) for disks in on.values())
        if replicas == 1 and hosts > 1:
            share = {local_tier._bytes_on_disk(processes, i) for i in range(count)}
            assert share == {2 * 10 * a_host}
    # Nothing is sent where replicas hold the same.
    assert local_tier._receivers([process("k", "d0"), process("k", "d1")]) == [None, None]


def test_the_exchange_takes_files_of_this_run_only(tmp_path):
    sent = tmp_path / "a" / f"2-{'a' * 16}-0" / ("b" * 32)
    sent.parent.mkdir(parents=True)
    sent.write_bytes(os.urandom(10_000_000))
    server = ShardServer("127.0.0.1", tmp_path / "b", "word")
    try:
        peer = Peer("127.0.0.1", server.port, "word")
        threads = [threading.Thread(target=peer.send, args=(sent,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        there = tmp_path / "b" / sent.parent.name / sent.name
        assert there.read_bytes() == sent.read_bytes()
        fetched = tmp_path / "c" / sent.parent.name / sent.name
        peer.fetch(fetched)
        assert fetched.read_bytes() == sent.read_bytes()
        with pytest.raises(OSError, match="403: no token of this run"):
            Peer("127.0.0.1", server.port, "other").fetch(fetched)
        with pytest.raises(OSError, match="404"):
            peer.fetch(fetched.with_name("c" * 32))
        for path in (sent.with_name("passwd"), tmp_path / "a" / ".." / sent.name, tmp_path / "x" / sent.name):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"x")
            with pytest.raises(OSError, match="400|403"):
                peer.send(path)
        assert [path.name for path in (tmp_path / "b").glob("*/*")] == [sent.name]
    finally:
        server.close()
    with pytest.raises(OSError):
        peer.send(sent)


def worker(task, i, port, folder):
    """Process `i` of four with one device and a disk of its own: saves steps 2 and 4, or restores."""
    jax.config.update("jax_num_cpu_devices", 1)
    jax.distributed.initialize(f"127.0.0.1:{port}", 4, i, initialization_timeout=60)
    config = CheckpointConfig(local_every=2, local_folder=f"{folder}/disk{i}")
    with LocalTier(config, abstract(state_on(4)), lambda *_, **__: None) as tier:
        if task == "save":
            tier.begin("run", "a" * 16, 0)
            for step in (2, 4):
                tier.save(step, state_on(4, seed=step), {"step": step})
            tier._settle()
            (folder / f"saved{i}").touch()
            time.sleep(600)
        loaded = tier.restore("run", ("a" * 16,), 1)
        same = None
        if loaded is not None:
            wanted = jax.tree.leaves(state_on(4, seed=loaded.step))
            same = all(
                left.sharding == right.sharding
                and np.array_equal(left.addressable_data(0), right.addressable_data(0))
                for left, right in zip(jax.tree.leaves(loaded.tree), wanted, strict=True)
            )
        step = None if loaded is None else loaded.step
        (folder / f"restored{i}").write_text(json.dumps([step, same]))
        # None leaves while another fetches from it, and the first leaves last.
        jax.distributed.shutdown()
    os._exit(0)


def start_workers(task, folder):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    port = free_port()
    workers = [context.Process(target=worker, args=(task, i, port, folder)) for i in range(4)]
    for each in workers:
        each.start()
    return workers


def restored_by_all(folder):
    workers = start_workers("restore", folder)
    for each in workers:
        each.join(120)
    assert [each.exitcode for each in workers] == [0] * 4
    return [json.loads((folder / f"restored{i}").read_text()) for i in range(4)]


@pytest.mark.slow
def test_a_lost_host_gets_its_shards_from_its_neighbour_and_two_neighbours_are_too_many(tmp_path):
    workers = start_workers("save", tmp_path)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("saved*"))) < 4:
        assert time.monotonic() < deadline and all(each.is_alive() for each in workers)
        time.sleep(0.05)
    for each in workers:
        each.kill()
        each.join()
    shutil.rmtree(tmp_path / "disk2")
    assert restored_by_all(tmp_path) == [[4, True]] * 4
    # It has its shards again, and no other host's: those of its neighbour before are on that one alone.
    shutil.rmtree(tmp_path / "disk2")
    shutil.rmtree(tmp_path / "disk3")
    assert restored_by_all(tmp_path) == [[None, None]] * 4


class Pod:
    """Four processes of one run, each with one device and a disk of its own."""

    def __init__(self, forks, config, folder):
        self.forks = forks
        self.config = config
        self.folder = folder
        self.workdir = folder / "run"

    def disk(self, i):
        return self.folder / f"disk{i}"

    def start(self):
        words = ("train", f"--config={self.config}", f"--workdir={self.workdir}", *WORDS)
        meeting = {"TLX_COORDINATOR": f"127.0.0.1:{free_port()}", "TLX_NUM_PROCESSES": "4"}
        return [
            self.forks.tlx(
                *words,
                output=self.folder / f"p{i}.log",
                TLX_PROCESS_ID=str(i),
                HOST_DISK=str(self.disk(i)),
                **meeting,
            )
            for i in range(4)
        ]

    def kill(self, processes, victims, step):
        """Kill processes once the first says that `step` is done; the others end by themselves."""
        deadline = time.monotonic() + 240
        while f"step {step}/" not in processes[0].output:
            assert processes[0].poll() is None and time.monotonic() < deadline, processes[0].output
            time.sleep(0.02)
        for i in victims:
            processes[i].kill()
        for process in processes:
            process.wait(120)
        assert all(process.returncode for process in processes)

    def finish(self, processes):
        """What the first process said."""
        for process in processes:
            process.wait(240)
        assert [process.returncode for process in processes] == [0] * 4, processes[0].output
        return processes[0].output


WORDS = (
    "--config.mesh.fsdp=4",
    f"--config.train.steps={STEPS}",
    "--config.log.print_every=1",
    "--config.eval.every=0",
    "--config.checkpoint.every=10",
    "--config.checkpoint.local_every=2",
    "--config.checkpoint.local_folder=$HOST_DISK/tlx",
)


@pytest.fixture
def forks():
    with Forks() as server:
        yield server


def losses(workdir):
    return [line["loss"] for line in read_lines(workdir / "metrics.jsonl") if "loss" in line]


def resumed_from(out):
    return re.search(r"resuming   from (.*?): ", out)[1]


@pytest.mark.long
def test_one_of_four_is_killed_with_its_disk_and_the_newest_step_comes_back(tmp_path, forks):
    pod = Pod(forks, tiny.write_config(tmp_path), tmp_path)
    pod.kill(pod.start(), [2], 17)
    shutil.rmtree(pod.disk(2))
    out = pod.finish(pod.start())
    step = int(
        re.fullmatch(r"the hosts' copies of step (\d+) \(checkpoint.local_every\)", resumed_from(out))[1]
    )
    # The last persistent one is of step 10.
    assert 14 <= step <= 18
    events = [line for line in read_lines(pod.workdir / "events.jsonl") if line["event"] == "local_restored"]
    assert [(line["step"], line["checkpoint"]) for line in events] == [(step, 10)]
    assert not list(tmp_path.glob("disk*/tlx/*")), "nothing is left on the hosts of a run that has ended"
    assert len(losses(pod.workdir)) == STEPS


@pytest.mark.long
def test_what_comes_back_is_what_was_trained_and_two_neighbours_are_too_many(tmp_path, forks):
    """Beside a run that was not killed: every loss, and every bit of the last state."""
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    config = tiny.write_config(tmp_path)
    whole = Pod(forks, config, tmp_path / "whole")
    whole.finish(whole.start())
    pod = Pod(forks, config, tmp_path / "killed")
    pod.kill(pod.start(), [1], 8)
    shutil.rmtree(pod.disk(1))
    # Before there is any checkpoint.
    pod.kill(pod.start(), [1, 2], 17)
    for i in (1, 2):
        shutil.rmtree(pod.disk(i))
    # The shards of the first of the two were on its own disk and on the second's.
    pod.kill(pod.start(), [3], 19)
    out = pod.finish(pod.start())
    assert resumed_from(out).startswith("the hosts' copies of step 1")
    starts = [line for line in read_lines(pod.workdir / "events.jsonl") if line["event"] == "resume"]
    restored = [
        line for line in read_lines(pod.workdir / "events.jsonl") if line["event"] == "local_restored"
    ]
    assert len(restored) == 2 and restored[0]["checkpoint"] is None
    assert [line["step"] for line in starts] == [restored[0]["step"], 10, restored[1]["step"]]
    assert losses(pod.workdir) == losses(whole.workdir)
    assert tiny.digests(pod.workdir, STEPS) == tiny.digests(whole.workdir, STEPS)
