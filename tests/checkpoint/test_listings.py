"""Listings of folders by a process of a save and of a check do not grow with the number of processes."""

import os
import threading

import pytest

from tlx.base.files import sha256_file
from tlx.checkpoint import manifest as manifests

PARTS = ("params", "rest")


def write_step(folder, count):
    """Files as Orbax lays them out for so many processes."""
    names = ["commit_success.txt", "_CHECKPOINT_METADATA"]
    for part in PARTS:
        names += [f"{part}/manifest.ocdbt", f"{part}/_METADATA", f"{part}/d/merged"]
        for process in range(count):
            own = f"{part}/ocdbt.process_{process}"
            names += [f"{own}/manifest.ocdbt", f"{own}/d/data", f"{part}/array_metadatas/process_{process}"]
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return names


@pytest.fixture
def listed(monkeypatch):
    """Folders that were listed."""
    folders = []
    scandir = os.scandir

    def counted(path):
        folders.append(os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counted)
    return folders


def test_each_process_lists_as_many_folders_of_64_hosts_as_of_4(tmp_path, listed):
    lengths = {}
    for count in (4, 64):
        folder = tmp_path / str(count)
        names = write_step(folder, count)
        files = {}
        for process in (0, 1, count - 1):
            listed.clear()
            own = manifests.own_files(folder, process, count, PARTS)
            lengths[count, "save", min(process, 2)] = len(listed)
            files |= own
        for process in range(count):
            files |= manifests.own_files(folder, process, count, PARTS)
        assert set(files) == set(names), "of all files each is of one process"
        assert all(files[name]["sha256"] == sha256_file(folder / name) for name in names)
        sealed = manifests.Manifest(1, files, {}, {})
        worst = 0
        for process in range(count):
            listed.clear()
            manifests.verify(folder, sealed, "size", sorted(files)[process::count])
            worst = max(worst, len(listed))
        lengths[count, "verify", 0] = worst
    for (count, what, process), length in lengths.items():
        assert length <= 16, (count, what, process, length)
        if what == "save":
            assert length == lengths[4, what, process]


def test_a_link_is_refused_beside_a_file_and_on_the_way_to_one(tmp_path):
    folder = tmp_path / "step"
    names = write_step(folder, 2)
    files = {name: {"size": len(name), "sha256": ""} for name in names}
    sealed = manifests.Manifest(1, files, {}, {})
    manifests.verify(folder, sealed, "size")
    (folder / "params/d/other").symlink_to(tmp_path)
    with pytest.raises(manifests.Damaged, match="params/d/other is a link"):
        manifests.verify(folder, sealed, "size", ["params/d/merged"])
    (folder / "params/d/other").unlink()
    for moved in ("rest", "rest/ocdbt.process_1", "rest/ocdbt.process_1/d/data"):
        (folder / moved).rename(tmp_path / "elsewhere")
        (folder / moved).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(manifests.Damaged, match=f"{moved} is a link"):
            manifests.verify(folder, sealed, "size", ["rest/ocdbt.process_1/d/data"])
        (folder / moved).unlink()
        (tmp_path / "elsewhere").rename(folder / moved)


def test_files_are_hashed_at_once_and_the_first_that_differs_is_named(tmp_path, monkeypatch):
    """Each of two files waits until the other one is being hashed too."""
    names = write_step(tmp_path, 1)
    monkeypatch.setattr(manifests, "HASHING_THREADS", 2)
    both = threading.Barrier(2, timeout=30)
    large = [name for name in names if name.endswith("/d/data")]
    assert len(large) == 2

    def hashed(path):
        if path.name == "data":
            both.wait()
        return sha256_file(path)

    monkeypatch.setattr(manifests.files, "sha256_file", hashed)
    found = {name: manifests.own_files(tmp_path, 0, 1, PARTS)[name] for name in large}
    sealed = manifests.Manifest(1, found, {}, {})
    manifests.verify(tmp_path, sealed, "hash")
    for name in large:
        (tmp_path / name).write_text((tmp_path / name).read_text()[::-1])
    with pytest.raises(manifests.Damaged, match="^params/ocdbt.process_0/d/data is not what was saved"):
        manifests.verify(tmp_path, sealed, "hash")
