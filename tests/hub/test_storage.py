"""Ways in which one model's tensors are stored: tied ones once, in one file or several, with computed tables."""

import json
import logging
import struct

import numpy as np
import pytest

from tests.hub.folders import byte_pairs, write
from tlx.api import load
from tlx.base.errors import DataError
from tlx.hub import config_file, folder, safetensors, weights
from tlx.hub.folder import open_folder
from tlx.hub.weights import lazy_tensor
from tlx.models.families import MODEL_TYPES, TABLE
from tlx.models.families.family import resized
from tlx.trainer import base_model


def small(family, **changes):
    changes = {"attention__head_dim": 0, "attention__num_kv_heads": 0} | changes
    base = TABLE.load(family).base
    return resized(base, width=8, num_layers=1, attention__num_heads=2, feedforward__ff_dim=12, **changes)


def tensors_of(path):
    stored = safetensors.Tensors(path)
    return {name: np.array(stored[name]) for name in stored}


def store(path, tensors, metadata=None):
    """Write model.safetensors with entries in its __metadata__."""
    path = path / safetensors.SINGLE
    safetensors.write_file(path, [(name, lazy_tensor(value)) for name, value in tensors.items()])
    if metadata is None:
        return
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] |= metadata
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def test_names_without_a_tensor_are_read_as_the_metadata_says(tmp_path):
    table = np.arange(6, dtype=np.float32).reshape(2, 3)
    store(tmp_path, {"lm_head.weight": table}, {"model.embed_tokens.weight": "lm_head.weight", "x": "y"})
    stored = safetensors.Tensors(tmp_path)
    assert set(stored) == {"lm_head.weight", "model.embed_tokens.weight"}
    np.testing.assert_array_equal(stored["model.embed_tokens.weight"], table)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_tied_tensors_stored_once_under_the_name_of_any_copy(model_type):
    family = MODEL_TYPES.load(model_type)
    rows = list(family.rows(resized(family.base, head__tied=True)))
    names = {row.name for row in rows}
    for copy, original in family.copies.items():
        if original not in names:
            continue
        tensors = dict.fromkeys(names - {original}, np.zeros(1)) | {copy: np.ones(1)}
        renamed = weights.with_tied_names(family, rows, tensors)
        assert set(renamed) == names
        assert renamed[original] is tensors[copy]
    untied = list(family.rows(resized(family.base, head__tied=False)))
    kernel = {row.path: row.name for row in untied}.get("model/output/kernel")
    if kernel is not None:  # a kernel of its own does not stand for the table
        assert set(weights.with_tied_names(family, untied, {kernel: np.ones(1)})) == {kernel}


def test_a_folder_of_tied_tensors_stored_once(tmp_path):
    write(tmp_path, "llama", small("llama", vocab_size=20, head__tied=True))
    tensors = tensors_of(tmp_path)
    table = tensors.pop("model.embed_tokens.weight")
    store(tmp_path, tensors | {"lm_head.weight": table})
    read = open_folder(tmp_path).params["model/embedding/table"].read()
    np.testing.assert_array_equal(read[:20], table)


@pytest.mark.parametrize("model_type", ["t5", "mt5", "umt5"])
def test_tensors_say_whether_a_t5_is_tied(model_type):
    """Current classes write tie_word_embeddings = true for every model, and the kernel where it has one."""
    family = MODEL_TYPES.load(model_type)
    table = np.zeros((4, 2))
    values = {"tie_word_embeddings": True, "scale_decoder_outputs": False}
    config = config_file.read(family, values)
    assert config.head.tied and not config.head.scale
    both = {"shared.weight": table, "lm_head.weight": table + 1}
    assert not folder.tied_as_stored(family, config, both).head.tied
    assert folder.tied_as_stored(family, config, both | {"lm_head.weight": table}).head.tied
    untied = config_file.read(family, values | {"tie_word_embeddings": False})
    assert not untied.head.tied
    assert folder.tied_as_stored(family, untied, {"shared.weight": table}).head.tied
    assert not folder.tied_as_stored(family, untied, both | {"lm_head.weight": table}).head.tied


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
def test_stored_sinusoids_of_marian_are_checked(dtype):
    family = MODEL_TYPES.load("marian")
    config = small("marian")
    angles = np.arange(16)[:, None] / 10_000.0 ** (np.arange(0, 8, 2) / 8)
    table = np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(dtype)
    name = "model.encoder.embed_positions.weight"
    weights.check_sinusoids(family, config, {name: table, "model.shared.weight": table + 1})
    trained = table.copy()
    trained[3, 2] += dtype(0.5)
    with pytest.raises(DataError, match="differs by up to 0.5 from the sinusoids"):
        weights.check_sinusoids(family, config, {name: trained})
    with pytest.raises(DataError, match=r"shape \(16, 6\)"):
        weights.check_sinusoids(family, config, {name: table[:, :6]})


def test_ids_that_a_tokenizer_adds_do_not_double_the_table(tmp_path, monkeypatch):
    tokenizer = byte_pairs(tmp_path)
    assert tokenizer.get_vocab_size() == 300
    write(tmp_path, "llama", small("llama", vocab_size=300, head__tied=True))
    monkeypatch.setattr(load, "VOCAB_MULTIPLE", 50)  # the tokenizer's roles make it 304 ids: 7 x 50 rows
    opened = load.open_hub_checkpoint(tmp_path)
    assert opened.config.model.vocab_size == 300
    assert opened.checkpoint.params["model/embedding/table"].shape == (350, 8)
    # Runs that were begun with more rows keep them.
    assert load.open_hub_checkpoint(tmp_path, vocab_multiple=400).config.model.padded_vocab == 400
    assert load.open_hub_checkpoint(tmp_path, vocab_multiple=300).config.model.padded_vocab == 350
    saved = {"config": {"model": {"vocab_multiple": 400}}}
    monkeypatch.setattr(base_model, "read_run", lambda workdir: saved if workdir.name == "begun" else None)
    assert base_model.load_base(tmp_path, workdir="begun").config.model.padded_vocab == 400
    assert base_model.load_base(tmp_path, workdir="new").config.model.padded_vocab == 350
