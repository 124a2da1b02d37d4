"""Places: one meaning of reads, listings and conditional writes on disks, in memory, on s3:// and gs://."""

import concurrent.futures
import os
import pathlib
import pickle

import pytest

from tests import stores
from tlx.base import place as places
from tlx.base.errors import ConfigError
from tlx.base.place import BucketPath


@pytest.fixture(params=["folder", "memory", "gs", pytest.param("s3", marks=pytest.mark.slow)])
def place(request, tmp_path):
    """An empty place of each kind."""
    return stores.place(request.param, tmp_path)


def test_whole_objects_and_ranges(place):
    target = place / "a" / "b.bin"
    assert not target.exists() and not target.is_file() and not place.is_dir()
    with pytest.raises(FileNotFoundError):
        target.read_bytes()
    with pytest.raises(FileNotFoundError):
        places.read_range(target, 1, 2)
    places.write(target, b"0123456789")
    places.write(target, b"abcdefghij")
    assert target.read_bytes() == b"abcdefghij"
    assert [places.read_range(target, *ends) for ends in ((2, 5), (7, None), (0, 0))] == [b"cde", b"hij", b""]
    with pytest.raises(OSError):
        places.read_range(target, 5, 50)
    assert target.is_file() and target.exists() and (place / "a").is_dir() and not (place / "a").is_file()
    assert (target.name, target.suffix, target.parent) == ("b.bin", ".bin", place / "a")
    places.write(place / "empty", b"")
    assert (place / "empty").read_bytes() == b"" and (place / "empty").is_file()
    target.unlink()
    target.unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        target.unlink()


def test_listings(place):
    names = ["a", "b/c", "b/d/e", "b.x", "é ü%20+?"]
    for name in names:
        places.write(place / name, name.encode())
    (place.parent / (place.name + "-beside")).write_bytes(b"")
    found = places.list_files(place)
    assert list(found) == sorted(names)
    assert {name: stated.size for name, stated in found.items()} == {n: len(n.encode()) for n in names}
    assert {path.name for path in place.iterdir()} == {"a", "b", "b.x", "é ü%20+?"}
    assert list(places.list_files(place / "b")) == ["c", "d/e"]
    if isinstance(place, BucketPath):
        before = found["a"]
        places.write(place / "a", b"z")
        after = places.list_files(place)["a"]
        assert before.size == after.size and before != after, "a replaced object of the same size is seen"
    places.remove_tree(place / "b")
    places.remove_tree(place / "nothing")
    assert list(places.list_files(place)) == sorted({*names} - {"b/c", "b/d/e"})
    assert not places.list_files(place / "nothing")


def test_writes_by_generation(place):
    target = place / "lease"
    assert places.read_versioned(target) is None
    first = places.write_if(target, b"1", None)
    assert first and places.write_if(target, b"2", None) is None
    assert places.read_versioned(target) == (b"1", first)
    second = places.write_if(target, b"3", first)
    assert second and second != first
    assert places.write_if(target, b"4", first) is None, "somebody else has written since"
    assert target.read_bytes() == b"3"
    target.unlink()
    assert places.write_if(target, b"5", second) is None and not target.exists()


@pytest.mark.parametrize("kind", ["create", "replace"])
def test_one_of_eight_racers_wins(place, kind):
    """On each store only one of eight conditional writes holds."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for number in range(2):
            target = place / f"{kind}-{number}"
            generation = places.write_if(target, b"begin", None) if kind == "replace" else None
            writes = [pool.submit(places.write_if, target, b"%d" % i, generation) for i in range(8)]
            winners = [i for i, write in enumerate(writes) if write.result() is not None]
            assert len(winners) == 1 and target.read_bytes() == b"%d" % winners[0]


def test_texts_are_places(monkeypatch, tmp_path):
    monkeypatch.setattr(places, "check_installed", lambda scheme: None)
    monkeypatch.chdir(tmp_path)
    assert places.parse("runs/x") == tmp_path / "runs" / "x"
    assert places.parse(f"file://{tmp_path}/x") == tmp_path / "x"
    bucket = places.parse("memory://bkt/run/")
    assert str(bucket) == "memory://bkt/run" and str(bucket / "a//b" / "./c") == "memory://bkt/run/a/b/c"
    assert bucket.parent == places.parse("memory://bkt") and str(bucket.parent) == "memory://bkt"
    assert pickle.loads(pickle.dumps(bucket)) == bucket and places.parse(bucket) is bucket
    assert str(places.parse(pathlib.Path("s3://bkt/x"))) == "s3://bkt/x", "pathlib has joined the slashes"
    assert places.is_bucket("memory://bkt/x") and not places.is_bucket("x") and not places.is_bucket(tmp_path)
    with pytest.raises(TypeError):
        open(bucket / "a")  # and no folder "memory:" is made
    assert not os.listdir(tmp_path)
    with pytest.raises(ValueError, match="no name below"):
        bucket / "/etc"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gcs://b/run", "'gcs://' is not one of: gs://, s3://, a folder; did you mean 'gs://'?"),
        ("http://b/run", "is not one of: gs://, s3://, a folder"),
        ("s3:///run", "names no bucket"),
        ("s3://Upper/run", "names no bucket"),
        ("memory://bkt/../x", "'..'"),
    ],
)
def test_other_texts_are_refused(text, message):
    with pytest.raises(ConfigError) as caught:
        places.parse(text)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr(places.check_installed.__globals__["importlib"].util, "find_spec", lambda name: None)
    for text, extra in (("gs://bkt/x", "gcs"), ("s3://bkt/x", "s3")):
        with pytest.raises(ConfigError, match=rf"pip install 'tlx-lm\[{extra}\]'"):
            places.parse(text)


def test_a_link_out_of_a_folder_is_listed_and_not_followed(tmp_path):
    (tmp_path / "away").symlink_to(pathlib.Path("/etc"))
    assert list(places.list_files(tmp_path)) == []
