"""Hugging Face directories that come from anybody: each fault is one line, found before anything is used."""

import pytest

import tlx
from tests.hub.folders import byte_pairs, write
from tlx.base.errors import DataError
from tlx.hub.validation import check_links
from tlx.models.families import TABLE
from tlx.models.families.family import resized


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A GPT-2 of one layer with its tokenizer."""
    folder = tmp_path_factory.mktemp("gpt2")
    byte_pairs(folder)
    base = TABLE.load("gpt2").base
    sizes = {
        "vocab_size": 300,
        "position__max_length": 16,
        "attention__num_heads": 2,
        "feedforward__ff_dim": 12,
    }
    sizes |= {"attention__head_dim": 0, "attention__num_kv_heads": 0}
    write(folder, "gpt2", resized(base, width=8, num_layers=1, **sizes))
    return folder


def test_links_out_of_the_directory_are_refused(gpt2, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in gpt2.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "again.json").symlink_to("config.json")
    assert tlx.load(folder).num_params
    (tmp_path / "host").write_text("a file of this machine")
    (folder / "1_Pooling").mkdir()
    for name in ("tokenizer_extra.json", "1_Pooling/config.json", "chat_template.jinja"):
        (folder / name).symlink_to(tmp_path / "host")
        with pytest.raises(DataError, match=f"{name} is a link that leads out of the directory"):
            tlx.load(folder)
        (folder / name).unlink()
    (folder / "deep").symlink_to("/etc")
    with pytest.raises(DataError, match="is a link that leads out"):
        tlx.load(folder)


def test_a_snapshot_of_the_hub_cache_links_to_its_own_blobs(gpt2, tmp_path):
    repository = tmp_path / "models--me--gpt2"
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for path in gpt2.iterdir():
        (repository / "blobs" / path.name).write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    assert tlx.load(snapshot).num_params
    (snapshot / "extra.json").symlink_to("../../refs")
    with pytest.raises(DataError, match="leads out"):
        check_links(snapshot)
