"""Hugging Face directories that come from anybody: each fault is one line, found before anything is used."""

import json
import shutil
import struct
import time

import numpy as np
import pytest

import tlx
from tests.hub import folders
from tlx.base.errors import DataError, UserError
from tlx.base.files import write_json
from tlx.hub import safetensors
from tlx.hub.validation import check_links
from tlx.hub.weights import lazy_tensor
from tlx.text import load_tokenizer

MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A GPT-2 of one layer with its tokenizer."""
    folder = tmp_path_factory.mktemp("gpt2")
    folders.small_gpt2(folder)
    return folder


def changed(gpt2, folder, **files):
    """A copy of the directory with other contents of some files."""
    shutil.copytree(gpt2, folder)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def with_header(data, change):
    """The bytes of a safetensors file, its header changed in place by a function."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    text = change(header)
    text = json.dumps(header if text is None else text).encode() if not isinstance(text, bytes) else text
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def refused(folder, match):
    """The directory is refused in one line, within seconds."""
    began = time.monotonic()
    with pytest.raises(UserError, match=match) as error:
        tlx.load(folder)
    assert error.value.code in (64, 74)
    assert time.monotonic() - began < 20
    return str(error.value)


def _overlap(header):
    first, second = [name for name in header if name != "__metadata__"][:2]
    header[second]["data_offsets"] = header[first]["data_offsets"]
    header[second]["shape"] = header[first]["shape"]


def _entry(**changes):
    def change(header):
        header[next(name for name in header if name != "__metadata__")] |= changes

    return change


def _twice(header):
    text = json.dumps(header)
    name, entry = next((name, entry) for name, entry in header.items() if name != "__metadata__")
    return (text[:-1] + f", {json.dumps(name)}: {json.dumps(entry)}}}").encode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: [header], "must hold an object"),
        (lambda header: 7, "must hold an object"),
        (lambda header: b"[" * 100_000, "not usable JSON: RecursionError"),
        (lambda header: b"\xff\xfe", "not usable JSON"),
        (_entry(shape=[-1, 4]), "is malformed"),
        (_entry(shape=[1] * 70), "is malformed"),
        (_entry(shape=[2**62, 2**62]), "does not lie within the file"),
        (_entry(shape="4"), "is malformed"),
        (_entry(shape=[True]), "is malformed"),
        (_entry(data_offsets=[0]), "is malformed"),
        (_entry(data_offsets=[8, 0]), "does not lie within the file"),
        (_entry(dtype=None), "is malformed"),
        (_overlap, "overlaps another tensor"),
        (_twice, "stands twice"),
    ],
)
def test_a_header_is_checked_before_it_is_used(gpt2, tmp_path, change, message):
    data = with_header((gpt2 / "model.safetensors").read_bytes(), change)
    refused(changed(gpt2, tmp_path / "model", **{"model.safetensors": data}), message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"null", "must hold an object"),
        (b"[]", "must hold an object"),
        (b"{" + b'"a":{' * 50_000, "RecursionError"),
        (b'{"model_type": "gpt2", "model_type": "bert"}', "stands twice"),
        (b'{"model_type": null}', "has no model_type"),
        (b'{"model_type": ["gpt2"]}', "has no model_type"),
    ],
)
def test_a_config_is_one_object(gpt2, tmp_path, content, message):
    refused(changed(gpt2, tmp_path / "model", **{"config.json": content}), message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layer": 2**62}, "more than its files can hold"),
        ({"n_layer": -(2**62)}, "n_layer|num_layers"),
        ({"n_embd": 2**62}, "more than its files can hold"),
        ({"vocab_size": 2**62}, "more than its files can hold"),
        ({"n_positions": 2**62}, "more than its files can hold"),
        ({"layer_norm_epsilon": -1e20}, "eps = -1e.20 must be at least 0 and less than 1"),
        ({"layer_norm_epsilon": None}, "eps"),
        ({"n_head": 0}, "num_heads = 0"),
        ({"n_head": [1]}, "num_heads"),
        ({"architectures": 5}, "config.json"),
        ({"architectures": [[]]}, "config.json"),
    ],
)
def test_a_config_is_no_larger_than_its_files_and_of_the_right_types(gpt2, tmp_path, changes, message):
    values = json.loads((gpt2 / "config.json").read_text()) | changes
    refused(changed(gpt2, tmp_path / "model", **{"config.json": json.dumps(values).encode()}), message)


def test_weights_are_numbers_that_a_model_can_have(gpt2, tmp_path):
    stored = safetensors.Tensors(gpt2)
    tensors = {name: np.array(stored[name]) for name in stored}
    name = next(name for name in tensors if name.endswith("wte.weight"))
    for number, (values, message) in enumerate(
        [
            (np.zeros(tensors[name].shape, np.int32), "has dtype int32, and weights are no integers"),
            (np.full(tensors[name].shape, np.nan, np.float32), "holds nothing but NaN"),
        ]
    ):
        folder = changed(gpt2, tmp_path / str(number))
        pairs = [(key, lazy_tensor(values if key == name else value)) for key, value in tensors.items()]
        safetensors.write_file(folder / "model.safetensors", pairs)
        refused(folder, message)


@pytest.mark.parametrize(
    "content",
    [b"{}", b'{"weight_map": 3}', b'{"weight_map": {"a": 1}}', b'{"weight_map": {}}', b"[]", b'{"w'],
)
def test_an_index_names_files(gpt2, tmp_path, content):
    folder = changed(gpt2, tmp_path / "model", **{"model.safetensors.index.json": content})
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    refused(folder, "index.json")


def test_a_tensor_in_two_files_is_refused(gpt2, tmp_path):
    folder = changed(gpt2, tmp_path / "model")
    shutil.copy(folder / "model.safetensors", folder / "b.safetensors")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    write_json(
        folder / "model.safetensors.index.json", {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    )
    refused(folder, "is in a.safetensors too")


def test_a_tokenizer_has_ids_that_its_file_can_hold(gpt2, tmp_path):
    values = json.loads((gpt2 / "tokenizer.json").read_text())
    vocabulary = values["model"]["vocab"]
    for number, (token_id, message) in enumerate(
        [(4_000_000_000, "has an id of 4,000,000,000"), (2**40, "tokenizer")]
    ):
        values["model"]["vocab"] = vocabulary | {"zzz": token_id}
        content = json.dumps(values).encode()
        refused(changed(gpt2, tmp_path / str(number), **{"tokenizer.json": content}), message)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("content", [b"null", b"[]", b"\xff", b"[" * 100_000, b'{"model": null}'])
def test_a_broken_tokenizer_is_one_line(gpt2, tmp_path, name, content):
    folder = changed(gpt2, tmp_path / "model", **{name: content})
    if name != "tokenizer.json" and content == b'{"model": null}':
        assert tlx.load(folder).num_params
    else:
        assert "\n" not in refused(folder, "tokenizer")


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"]
)
def test_a_key_that_stands_twice_in_a_file_of_the_tokenizer_is_refused(gpt2, tmp_path, name):
    """At any depth: programs differ in which of the two counts. A run that was imported before loads."""
    values = json.loads((gpt2 / name).read_text()) if (gpt2 / name).exists() else {"x": 0}
    content = json.dumps(values)[:-1] + ', "extra": {"a": [{"b": 1, "b": 2}]}}'
    folder = changed(gpt2, tmp_path / "model", **{name: content.encode()})
    assert "\n" not in refused(folder, f"{name} is not usable JSON: the key 'b' stands twice")
    if name == "tokenizer_config.json":
        sound = tlx.load(gpt2).tokenizer
        files = {**sound.files, name: content.encode()}
        type(sound)(files, start=sound.start, flags=sound.flags).save(tmp_path / "tokenizer")
        assert load_tokenizer(tmp_path / "tokenizer").encode("a b") == sound.encode("a b")


def test_a_key_that_stands_twice_in_a_file_of_sentence_transformers_is_refused(gpt2, tmp_path):
    path = "1_Pooling/config.json"
    folder = changed(gpt2, tmp_path / "model", **{"modules.json": json.dumps(MODULES).encode()})
    (folder / "1_Pooling").mkdir()
    (folder / path).write_text('{"pooling_mode_mean_tokens": true, "pooling_mode_mean_tokens": false}')
    assert path in refused(folder, "the key 'pooling_mode_mean_tokens' stands twice")


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
