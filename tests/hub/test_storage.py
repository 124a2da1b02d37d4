"""Ways in which one model's tensors are stored: tied ones once, in one file or several, with computed tables."""

import json
import logging
import struct

import numpy as np
import pytest

from tests.hub.folders import byte_pairs, write
from tlx.api.load import open_hub_checkpoint
from tlx.base.errors import DataError
from tlx.hub import safetensors
from tlx.hub.folder import open_folder
from tlx.hub.weights import lazy_tensor
from tlx.models.families import TABLE
from tlx.models.families.family import resized


def small(family, **changes):
    changes = {"attention__head_dim": 0, "attention__num_kv_heads": 0} | changes
    base = TABLE.load(family).base
    return resized(base, width=8, num_layers=1, attention__num_heads=2, feedforward__ff_dim=12, **changes)


def tensors_of(folder):
    stored = safetensors.Tensors(folder)
    return {name: np.array(stored[name]) for name in stored}


def store(folder, tensors, metadata=None):
    """Write model.safetensors with entries in its __metadata__."""
    path = folder / safetensors.SINGLE
    safetensors.write_file(path, [(name, lazy_tensor(value)) for name, value in tensors.items()])
    if metadata is None:
        return
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] |= metadata
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


COPIES = {
    "llama": ("model.embed_tokens.weight", "lm_head.weight"),
    "gpt2": ("transformer.wte.weight", "lm_head.weight"),
    "t5": ("shared.weight", "decoder.embed_tokens.weight"),
    "bart": ("model.shared.weight", "lm_head.weight"),
}


@pytest.mark.parametrize("has_metadata", [True, False])
@pytest.mark.parametrize("family", COPIES)
def test_tied_tensors_stored_once_under_the_name_of_the_copy(family, has_metadata, tmp_path):
    original, copy = COPIES[family]
    write(tmp_path, family, small(family, vocab_size=20, head__tied=True))
    tensors = tensors_of(tmp_path)
    table = tensors.pop(original)
    store(tmp_path, tensors | {copy: table}, {original: copy} if has_metadata else None)
    found = open_folder(tmp_path).params["model/embedding/table"].read()
    np.testing.assert_array_equal(found[:20], table)


def test_an_output_kernel_of_its_own_does_not_stand_for_the_token_table(tmp_path):
    write(tmp_path, "llama", small("llama", vocab_size=20, head__tied=False))
    tensors = tensors_of(tmp_path)
    del tensors["model.embed_tokens.weight"]
    store(tmp_path, tensors)
    with pytest.raises(DataError, match="model.embed_tokens.weight is missing"):
        open_folder(tmp_path)


@pytest.mark.parametrize("family", ["t5", "mt5", "umt5"])
def test_tensors_say_whether_a_t5_is_tied(family, tmp_path):
    """Current classes write tie_word_embeddings = true for every model, and the kernel where it has one."""
    write(tmp_path, family, small(family, vocab_size=20, head__tied=False, head__scale=False))
    path = tmp_path / "config.json"
    values = json.loads(path.read_text()) | {"tie_word_embeddings": True}
    if family != "mt5":
        values["scale_decoder_outputs"] = False
    path.write_text(json.dumps(values))
    checkpoint = open_folder(tmp_path)
    assert not checkpoint.config.head.tied and not checkpoint.config.head.scale
    kernel = checkpoint.params["model/output/kernel"].read()[:20]
    np.testing.assert_array_equal(kernel, tensors_of(tmp_path)["lm_head.weight"])
    tensors = tensors_of(tmp_path)
    del tensors["lm_head.weight"]
    store(tmp_path, tensors)
    path.write_text(json.dumps(values | {"tie_word_embeddings": False}))
    tied = open_folder(tmp_path)
    assert tied.config.head.tied and not tied.config.head.scale


def arrays(value):
    return [(f"tensor{i}", lazy_tensor(np.full(4, value + i, np.float32))) for i in range(2)]


def test_a_single_file_wins_over_an_index(tmp_path, caplog):
    safetensors.write(tmp_path, arrays(10), shard_bytes=16)
    safetensors.write(tmp_path / "new", arrays(20))
    (tmp_path / "new" / safetensors.SINGLE).rename(tmp_path / safetensors.SINGLE)
    with caplog.at_level(logging.WARNING):
        assert [value[0] for value in tensors_of(tmp_path).values()] == [20, 21]
    assert safetensors.SINGLE in caplog.text and safetensors.INDEX in caplog.text


@pytest.mark.parametrize(("first", "second"), [(16, 1000), (1000, 16)])
def test_writing_again_leaves_one_form_of_the_weights(first, second, tmp_path):
    (tmp_path / "notes.safetensors").write_text("not of the model")
    safetensors.write(tmp_path, arrays(10), first)
    safetensors.write(tmp_path, arrays(20), second)
    assert [value[0] for value in tensors_of(tmp_path).values()] == [20, 21]
    names = {path.name for path in tmp_path.iterdir()} - {"notes.safetensors"}
    shards = {f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}
    assert names == ({safetensors.SINGLE} if second > 100 else shards | {safetensors.INDEX})


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_stored_sinusoids_of_marian_are_checked(dtype, tmp_path):
    write(tmp_path, "marian", small("marian", vocab_size=20, position__max_length=16))
    tensors = tensors_of(tmp_path)
    angles = np.arange(16)[:, None] / 10_000.0 ** (np.arange(0, 8, 2) / 8)
    table = np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(dtype)
    name = "model.encoder.embed_positions.weight"
    store(tmp_path, tensors | {name: table})
    open_folder(tmp_path)
    trained = table.copy()
    trained[3, 2] += dtype(0.5)
    store(tmp_path, tensors | {name: trained})
    with pytest.raises(DataError, match="differs by up to 0.5 from the sinusoids"):
        open_folder(tmp_path)
    store(tmp_path, tensors | {name: table[:, :6]})
    with pytest.raises(DataError, match=name):
        open_folder(tmp_path)


def test_ids_that_a_tokenizer_adds_do_not_double_the_table(tmp_path):
    tokenizer = byte_pairs(tmp_path)
    assert 256 < tokenizer.get_vocab_size() <= 300
    write(tmp_path, "llama", small("llama", vocab_size=256, head__tied=True))
    opened = open_hub_checkpoint(tmp_path)
    assert opened.config.model.vocab_size == 256
    assert opened.checkpoint.params["model/embedding/table"].shape == (384, 8)
    # Runs that were begun with more rows keep them.
    assert open_hub_checkpoint(tmp_path, vocab_multiple=512).config.model.padded_vocab == 512
    assert open_hub_checkpoint(tmp_path, vocab_multiple=128).config.model.padded_vocab == 384
