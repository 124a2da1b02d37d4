"""Real faults on real files: damage is noticed, set aside and survived; nothing starts over in silence."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import jax
import numpy as np
import pytest

from tests.checkpoint.example import abstract, assert_same, state_on
from tests.tiers import tiers
from tlx.base.errors import CheckpointError, DeviceMemoryError, LeaseError, StorageError
from tlx.checkpoint import CheckpointConfig, Checkpoints, load_params
from tlx.checkpoint import manifest as manifests


@pytest.fixture
def saved(tmp_path):
    """A folder with steps 1, 2, 3, each with its own weights."""
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.prepare()
        for step in (1, 2, 3):
            checkpoints.save(step, state_on(8, seed=step))
        assert checkpoints.wait()
    return tmp_path / "c"


def restore(folder, **kwargs):
    return Checkpoints(folder, **kwargs).restore(abstract(state_on(8)))


def data_file(step_folder):
    """The file that holds the weights."""
    return max((p for p in step_folder.glob("params/**/d/*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip_bit(path, at=None):
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 1
    path.write_bytes(content)


def flip(step_folder):
    flip_bit(data_file(step_folder))


def truncate(step_folder):
    os.truncate(data_file(step_folder), 100)


def delete(step_folder):
    data_file(step_folder).unlink()


def empty(step_folder):
    shutil.rmtree(step_folder)
    step_folder.mkdir()


def link_out(step_folder):
    path = data_file(step_folder)
    outside = step_folder.parent.parent / "outside"
    shutil.move(path, outside)
    path.symlink_to(outside)


@pytest.mark.parametrize("damage", [flip, truncate, delete, link_out])
def test_damage_in_the_newest_is_noticed_and_the_older_one_is_used(saved, damage, caplog):
    damage(saved / "3")
    loaded = restore(saved)
    assert loaded.step == 2
    assert_same(loaded.tree, state_on(8, seed=2))
    assert len(caplog.messages) == 1 and "checkpoint at step 3 set aside as 3.corrupt-" in caplog.text
    assert sorted(p.name.split(".")[0] for p in saved.iterdir()) == ["1", "2", "3"]
    assert not (saved / "3").exists()
    again = Checkpoints(saved)
    assert again.save(3, loaded.tree) and again.wait() and again.latest == 3


def test_one_flipped_bit_in_any_file_is_noticed(saved):
    """Also in the manifest itself, and in the files nobody reads."""
    files = [p for p in (saved / "3").rglob("*") if p.is_file() and p.stat().st_size]
    assert len(files) > 8
    for path in files:
        whole = path.read_bytes()
        flip_bit(path)
        with pytest.raises(manifests.Damaged):
            manifests.verify(saved / "3", manifests.read(saved / "3"), "hash")
        path.write_bytes(whole)
    manifests.verify(saved / "3", manifests.read(saved / "3"), "hash")


def test_the_manifest_vouches_for_what_only_it_holds(saved):
    """Shapes and the caller's JSON are in no other file."""
    path = saved / "3" / "tlx_manifest.json"
    text = path.read_text()
    assert text.count("64,") > 1
    path.write_text(text.replace("64,", "65,", 1))
    with pytest.raises(manifests.Damaged, match="does not have the hash it states"):
        manifests.read(saved / "3")
    for broken in ("", "{}", "[]", text[:-20], "[" * 100_000):
        path.write_text(broken)
        with pytest.raises(manifests.Damaged, match="cannot be read"):
            manifests.read(saved / "3")


def test_size_alone_misses_a_bit_but_not_a_truncation(saved):
    flip(saved / "3")
    assert restore(saved, config=CheckpointConfig(verify="size")).step == 3
    truncate(saved / "3")
    with pytest.raises(manifests.Damaged, match="has 100 bytes, [0-9]+ were saved"):
        manifests.verify(saved / "3", manifests.read(saved / "3"), "size")
    assert restore(saved, config=CheckpointConfig(verify="size")).step == 2


def test_damage_that_only_loading_notices_is_looked_into(saved):
    """With "size" the loader fails on a damaged index; the hashes then tell damage from a passing error."""
    index = saved / "3" / "params" / "manifest.ocdbt"
    index.write_bytes(bytes(index.stat().st_size))
    assert restore(saved, config=CheckpointConfig(verify="size")).step == 2
    assert not (saved / "3").exists()


def test_a_loader_that_fails_on_sound_content_renames_nothing(saved, monkeypatch, caplog):
    def fail(*_):
        raise OSError("the network is down")

    monkeypatch.setattr("tlx.checkpoint.store.load", fail)
    with pytest.raises(CheckpointError, match="step 1: cannot be loaded: OSError: the network is down"):
        restore(saved)
    assert sorted(p.name for p in saved.iterdir()) == ["1", "2", "3"]


def test_files_that_are_hashed_while_they_are_loaded(saved, monkeypatch, caplog):
    """Damage decides, whether it was loaded without a complaint or with the error of a device that is full."""
    monkeypatch.setattr(manifests, "LARGE_FILE", 0)
    flip(saved / "3")
    assert load_params(saved).step == 2
    loaded = restore(saved)
    assert loaded.step == 2 and "set aside as 3.corrupt-" in caplog.text
    assert_same(loaded.tree, state_on(8, seed=2))
    flip(saved / "2")

    def fail(*_):
        raise RuntimeError("RESOURCE_EXHAUSTED: 9 GB of 8")

    monkeypatch.setattr("tlx.checkpoint.store.load", fail)
    with pytest.raises(DeviceMemoryError, match="/c/1 "):
        restore(saved)


@pytest.mark.parametrize("error", [MemoryError("host"), RuntimeError("RESOURCE_EXHAUSTED: 9 GB of 8")])
def test_what_does_not_fit_is_not_damage(saved, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("tlx.checkpoint.store.load", fail)
    with pytest.raises(DeviceMemoryError, match="bytes of arrays. does not fit") as caught:
        restore(saved)
    assert caught.value.code == 78
    assert sorted(p.name for p in saved.iterdir()) == ["1", "2", "3"]


def test_garbage_is_ignored_with_one_line(saved, caplog):
    (saved / "9").mkdir()
    (saved / "10").mkdir()
    (saved / "10" / "junk").write_text("x")
    (saved / "notes.txt").write_text("x")
    (saved / "12").symlink_to(saved / "3")
    (saved / "007").mkdir()
    loaded = restore(saved)
    assert loaded.step == 3
    assert len(caplog.messages) == 1
    for name in ("9 (not complete)", "10 (not complete)", "notes.txt", "12", "007"):
        assert name in caplog.messages[0]
    checkpoints = Checkpoints(saved)
    assert checkpoints.save(10, loaded.tree) and checkpoints.wait()
    assert checkpoints.save(12, loaded.tree) and checkpoints.wait()
    assert checkpoints.latest == 12 and not (saved / "12").is_symlink()
    assert restore(saved).step == 12


@pytest.mark.parametrize("damage", [flip, truncate, delete, empty])
def test_with_none_left_the_run_stops_and_starts_nothing(saved, damage):
    for step in (1, 2, 3):
        damage(saved / str(step))
    for _ in range(2):  # the second time the steps are already set aside
        with pytest.raises(CheckpointError) as caught:
            restore(saved)
        assert caught.value.code == 74
        for step in (1, 2, 3):
            assert f"step {step}: " in str(caught.value) or f"{step}.corrupt-" in str(caught.value)


def test_only_garbage_is_a_fresh_start(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "tmp").mkdir()
    assert restore(tmp_path) is None


def test_a_manifest_that_leads_out_is_refused(saved):
    secret = saved.parent / "secret"
    secret.write_text("x")
    found = manifests.read(saved / "3")
    for path in ("../../secret", str(secret)):
        files = {path: {"size": 1, "sha256": manifests.files.sha256_file(secret)}}
        manifests.seal(saved / "3", found._replace(files={**found.files, **files}))
        with pytest.raises(manifests.Damaged, match="leads out of the checkpoint"):
            manifests.verify(saved / "3", manifests.read(saved / "3"), "hash")


def test_no_pickle_on_any_path():
    folder = os.path.dirname(manifests.__file__)
    for name in os.listdir(folder):
        if name.endswith(".py"):
            with open(os.path.join(folder, name)) as handle:
                text = handle.read()
            assert not any(
                word in text for word in ("pickle", "eval(", "exec(", "yaml", "marshal", "allow_pickle")
            )


CHILD = """
    import os, signal, sys
    import jax
    from tests.checkpoint.example import state_on
    from tlx.checkpoint import CheckpointConfig, Checkpoints, manifest as manifests
    folder, fault, width = sys.argv[1], sys.argv[2], int(sys.argv[3])

    def die(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    checkpoints = Checkpoints(folder, CheckpointConfig(keep=1 if fault == "delete" else 9))
    checkpoints.prepare()
    for step in range(1, 100):
        state = jax.block_until_ready(state_on(8, seed=step, width=width))
        if step == 3 and fault == "before seal":
            manifests.seal = die
        if step == 3 and fault == "delete":
            import shutil
            shutil.rmtree = die
        if fault == "delay":
            print("saving", step, flush=True)
        checkpoints.save(step, state)
        checkpoints.wait()
        print("saved", step, flush=True)
"""


def run_child(folder, fault, width=128):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD), str(folder), fault, str(width)],
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("fault, expected", [("before seal", 2), ("delete", 3)])
def test_killed_between_commit_and_seal_and_during_deletion(tmp_path, fault, expected, caplog):
    child = run_child(tmp_path, fault)
    assert child.wait(timeout=60) == -signal.SIGKILL
    left = {"before seal": 3, "delete": 2}[fault]
    assert (tmp_path / str(left)).is_dir(), "the fault left something half done"
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest == expected
    checkpoints.prepare()
    assert not (tmp_path / str(left)).exists()
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    loaded = checkpoints.restore(abstract(state_on(8)))
    assert loaded.step == expected
    assert_same(loaded.tree, state_on(8, seed=expected))


DELAYS = ["first file", 0.0, 0.02, 0.1, 0.3, 0.6]


@pytest.mark.parametrize("delay", tiers(DELAYS, slow=["first file", 0.0, 0.1]))
def test_kill_9_during_an_asynchronous_save(tmp_path, delay):
    """30 MB a step, killed `delay` seconds after the third save began, or when its first file appears."""
    width = 40_000
    child = run_child(tmp_path, "delay", width)
    assert "saving 3\n" in iter(child.stdout.readline, "")
    while delay == "first file" and not any(path.is_file() for path in tmp_path.glob("3/**/*")):
        pass
    time.sleep(0.0 if delay == "first file" else delay)
    child.kill()
    last = max(
        [2, *(int(line.split()[1]) for line in child.communicate()[0].splitlines() if "saved" in line)]
    )
    checkpoints = Checkpoints(tmp_path)
    latest = checkpoints.latest
    if delay == "first file":
        assert latest == 2 and (tmp_path / "3").is_dir(), "something half done was left"
    assert latest >= last, "what was reported as saved is there"
    checkpoints.prepare()
    assert checkpoints.complete_steps() == list(range(1, latest + 1))
    assert set(os.listdir(tmp_path)) == {str(step) for step in range(1, latest + 1)}
    loaded = checkpoints.restore(abstract(state_on(8, width=width)))
    assert loaded.step == latest
    assert_same(loaded.tree, state_on(8, seed=latest, width=width))


def visible(folder):
    """Names in a folder, without the marks of unfinished steps."""
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


@pytest.fixture
def file_size_limit():
    """As good as a full disk for any file beyond 64 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(on):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16 if on else before[0], before[1]))

    yield limit
    limit(False)


def test_a_failed_write_costs_one_line_and_the_next_save_works(tmp_path, file_size_limit, caplog, capfd):
    events = []
    with Checkpoints(tmp_path, on_event=lambda kind, **f: events.append(kind)) as checkpoints:
        checkpoints.prepare()
        state = state_on(8, seed=1, width=2000)
        checkpoints.save(1, state)
        assert checkpoints.wait()
        file_size_limit(True)
        assert checkpoints.save(2, state)
        deadline = time.monotonic() + 10
        while visible(tmp_path) != ["1"] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert visible(tmp_path) == ["1"], "the space is given back at once"
        assert not checkpoints.wait()
        file_size_limit(False)
        assert len(caplog.messages) == 1
        assert "checkpoint at step 2 not saved (" in caplog.text and "File too large" in caplog.text
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        assert f"{tmp_path}: {size} bytes needed" in caplog.text
        assert "Traceback" not in capfd.readouterr().err
        assert checkpoints.save(3, state) and checkpoints.wait()
        assert checkpoints.complete_steps() == [1, 3]
    assert events == ["checkpoint_saved", "checkpoint_failed", "checkpoint_saved"]


@pytest.mark.parametrize("times", [1, 3])
def test_a_failed_save_is_removed_while_its_other_files_are_still_written(
    tmp_path, file_size_limit, monkeypatch, times
):
    attempts = []

    def remove(folder, rmtree=shutil.rmtree):
        attempts.append(folder)
        rmtree(folder)
        if len(attempts) <= times:
            folder.mkdir()
            (folder / "late").write_text("a writer that had not heard of the failure")
            raise OSError("Directory not empty")

    monkeypatch.setattr(shutil, "rmtree", remove)
    with Checkpoints(tmp_path) as checkpoints:
        file_size_limit(True)
        assert checkpoints.save(1, state_on(1, width=2000))
        assert not checkpoints.wait()
    assert visible(tmp_path) == [] and len(attempts) == times + 1


def test_what_writers_of_a_failed_save_create_later_is_removed_too(tmp_path, file_size_limit):
    """At the next save, at the end, and at the next start; never once another run has the directory."""
    lost = []

    def guard():
        if lost:
            raise LeaseError("lost to other:1")

    def write_late():
        (tmp_path / "1" / "params").mkdir(parents=True)
        (tmp_path / "1" / "params" / "late").write_text("a writer that had not heard of the failure")

    with Checkpoints(tmp_path, guard=guard) as checkpoints:
        file_size_limit(True)
        assert checkpoints.save(1, state_on(1, width=2000))
        assert not checkpoints.wait() and visible(tmp_path) == []
        file_size_limit(False)
        write_late()
        assert checkpoints.save(2, state_on(1)) and checkpoints.wait() and visible(tmp_path) == ["2"]
        write_late()
    assert visible(tmp_path) == ["2"]
    write_late()
    lost.append(1)
    checkpoints.__exit__()
    assert visible(tmp_path) == ["1", "2"]
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.prepare()
        assert visible(tmp_path) == ["2"]
        assert checkpoints.save(1, state_on(1)) and checkpoints.wait() and visible(tmp_path) == ["1", "2"]


def test_failures_in_a_row_end_the_run(tmp_path, file_size_limit):
    with Checkpoints(tmp_path, CheckpointConfig(max_failures=2)) as checkpoints:
        state = state_on(1, width=2000)
        file_size_limit(True)
        assert checkpoints.save(1, state)
        assert checkpoints.save(2, state), "the first failure is not the end"
        with pytest.raises(StorageError, match="2 checkpoints in a row") as caught:
            checkpoints.save(3, state)
        assert caught.value.code == 73


def test_too_little_room_is_seen_before_writing(tmp_path, monkeypatch, caplog):
    real = shutil.disk_usage(tmp_path)
    with Checkpoints(tmp_path, CheckpointConfig(max_failures=2)) as checkpoints:
        state = state_on(1)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=int(2.1 * size)))
        assert not checkpoints.save(1, state)
        assert "too little room" in caplog.text and not os.listdir(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=int(2.3 * size)))
        assert checkpoints.save(2, state) and checkpoints.wait()


def test_a_disk_that_is_really_full(tmp_path):
    """A 3 MB file system of its own, filled while training goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount a file system here")
    try:
        with Checkpoints(disk / "c") as checkpoints:
            checkpoints.prepare()
            state = state_on(8, seed=1, width=1000)  # .77 MB
            assert checkpoints.save(1, state) and checkpoints.wait()
            with pytest.MonkeyPatch.context() as patch:  # the space goes between the look and the writing
                patch.setattr(shutil, "disk_usage", lambda _: FakeUsage)
                with open(disk / "hog", "wb") as hog:
                    hog.write(bytes(1_900_000))
                assert checkpoints.save(2, state)
                assert not checkpoints.wait()
            (disk / "hog").unlink()
            assert checkpoints.complete_steps() == [1]
            assert checkpoints.save(3, state) and checkpoints.wait()
            assert_same(checkpoints.restore(abstract(state)).tree, state)
    finally:
        subprocess.run(["umount", disk], check=True)


class FakeUsage:
    free = 1 << 40


def test_a_folder_that_cannot_be_written_is_refused_with_its_reason(tmp_path):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file" / "c", "/proc/tlx"):
        with pytest.raises(StorageError, match=f"cannot write checkpoints to {folder}: .*Errno") as caught:
            Checkpoints(folder).prepare()
        assert caught.value.code == 73


def test_a_relative_folder_means_the_one_it_meant_at_the_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints = Checkpoints("c")
    checkpoints.prepare()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert checkpoints.save(1, {"w": np.ones(2)}) and checkpoints.wait()
    assert (tmp_path / "c" / "1").is_dir()


def test_nothing_is_written_once_the_lease_is_lost(tmp_path):
    lost = []

    def guard():
        if lost:
            raise LeaseError("lost to other:1")

    checkpoints = Checkpoints(tmp_path, CheckpointConfig(keep=1), guard=guard)
    assert checkpoints.save(1, {"w": np.ones(2)}) and checkpoints.wait()
    real_own = manifests.own_files
    with pytest.MonkeyPatch.context() as patch:  # lost while the save is in flight
        patch.setattr(manifests, "own_files", lambda *a: lost.append(1) or real_own(*a))
        checkpoints.save(2, {"w": np.ones(2)})
        with pytest.raises(LeaseError, match="lost to other:1"):
            checkpoints.wait()
    with pytest.raises(LeaseError, match="lost to other:1"):
        checkpoints.save(3, {"w": np.ones(2)})
    assert checkpoints.complete_steps() == [1]
    assert not (tmp_path / "3").exists()


def test_a_step_under_another_number_is_refused(saved, caplog):
    (saved / "3").rename(saved / "7")
    with pytest.raises(CheckpointError, match="step 7: it is step 3 under the number 7"):
        load_params(saved / "7")
    assert restore(saved).step == 2
    assert "set aside as 7.corrupt-" in caplog.text and "it is step 3 under the number 7" in caplog.text


def test_a_step_of_another_run_is_refused(saved, tmp_path):
    other = tmp_path / "other"
    with Checkpoints(other, run_id="other") as checkpoints:
        checkpoints.prepare()
        checkpoints.save(9, state_on(8, seed=9))
        assert checkpoints.wait()
    own = manifests.read(saved / "3").run
    shutil.copytree(other / "9", saved / "9")
    assert restore(saved, run_id=own).step == 3
    assert "it is a step of another run (other)" in next(saved.glob("9.corrupt-*/tlx_reason.txt")).read_text()
    shutil.copytree(other / "9", saved / "9")
    with pytest.raises(CheckpointError, match=r"step of another run \(other\)"):
        load_params(saved, step=9, run=own)
    assert load_params(saved, step=9).step == 9


def test_a_step_of_another_copy_of_the_run_is_refused(saved, tmp_path):
    """Two copies of a run directory that go on have one run id; their starts tell their steps apart."""
    run = manifests.read(saved / "3").run
    begun = (manifests.read(saved / "3").start,)
    copy = shutil.copytree(saved, tmp_path / "copy")
    starts = {}
    for folder, seed in ((saved, 4), (copy, 5)):
        with Checkpoints(folder, run_id=run, starts=begun) as checkpoints:
            checkpoints.prepare()
            assert checkpoints.restore(abstract(state_on(8))).step == 3
            checkpoints.save(4, state_on(8, seed=seed))
            assert checkpoints.wait()
            starts[folder] = checkpoints.starts
    assert len(set(starts[saved])) == 2 and starts[saved][0] == starts[copy][0] == begun[0]
    for folder in (saved, copy):
        assert restore(folder, run_id=run, starts=starts[folder]).step == 4
    shutil.rmtree(saved / "4")
    shutil.copytree(copy / "4", saved / "4")
    with pytest.raises(CheckpointError, match="another copy of this run's directory has saved it"):
        load_params(saved, step=4, run=run, starts=starts[saved])
    # With the copy's run.json it is a step like any other.
    assert load_params(saved, step=4, run=run, starts=starts[copy]).step == 4
    assert restore(saved, run_id=run, starts=starts[saved]).step == 3
    assert "another copy" in next(saved.glob("4.corrupt-*/tlx_reason.txt")).read_text()


def test_copies_branches_and_steps_from_before_runs_had_ids_are_read(saved, tmp_path):
    own = manifests.read(saved / "3").run
    assert own and {manifests.read(saved / str(step)).run for step in (1, 2)} == {own}
    copy = shutil.copytree(saved, tmp_path / "copy")
    assert restore(copy, run_id=own).step == 3
    # A branch begins with a trunk's step and goes on under its id.
    branch = tmp_path / "branch"
    branch.mkdir()
    shutil.copytree(saved / "2", branch / "2")
    with Checkpoints(branch) as checkpoints:
        checkpoints.prepare()
        assert checkpoints.restore(abstract(state_on(8))).step == 2
        checkpoints.save(5, state_on(8, seed=5))
        assert checkpoints.wait() and checkpoints.run_id == own
        starts = checkpoints.starts
    assert starts[0] == manifests.read(saved / "2").start
    assert restore(branch, run_id=own, starts=starts).step == 5
    assert load_params(branch, step=2, run=own, starts=starts).step == 2
    # Manifests had no run.
    old = manifests.read(saved / "3")
    manifests.seal(saved / "3", old._replace(run=None, start=None))
    assert {"run", "start"}.isdisjoint(json.loads((saved / "3" / "tlx_manifest.json").read_text()))
    assert restore(saved, run_id="any", starts=("any",)).step == 3


@pytest.mark.parametrize(
    "changes",
    tiers(
        [
            {"step": -3},
            {"step": True},
            {"extra": []},
            {"run": 7},
            {"start": []},
            {"leaves": {"params/a": ((-1,), "float32")}},
            {"leaves": {"params/a": ((1,) * 70, "float32")}},
            {"leaves": {"params/a": ((2**70,), "float32")}},
            {"files": {"a": {"size": "1", "sha256": ""}}},
            {"files": {"a": {"size": 1}}},
        ],
        quick=[{"step": -3}, {"leaves": {"params/a": ((2**70,), "float32")}}, {"files": {"a": {"size": 1}}}],
    ),
)
def test_a_manifest_with_the_right_hash_and_impossible_values_is_refused(saved, changes):
    manifests.seal(saved / "3", manifests.read(saved / "3")._replace(**changes))
    with pytest.raises(manifests.Damaged, match="values that none has"):
        manifests.read(saved / "3")
