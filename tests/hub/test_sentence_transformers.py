"""Directories of sentence-transformers: read, kept with the run, written again, and embedded as published."""

import json

import numpy as np
import pytest

import tlx
from tests.hub import folders
from tlx.base.errors import ConfigError, DataError
from tlx.cli import main
from tlx.hub import sentence_transformers
from tlx.hub.folder import is_hugging_face
from tlx.models.families import TABLE
from tlx.models.families.family import resized
from tlx.models.pooling import SentenceConfig, pool

KINDS = ("Transformer", "Pooling", "Normalize")


def write(folder, kinds=KINDS, modes=("pooling_mode_mean_tokens",), path="", **files):
    """Write the files beside a model: modules of these kinds, pooling by these modes."""
    paths = [path, *(f"{number}_{kind}" for number, kind in enumerate(kinds) if number)]
    modules = [
        {"idx": i, "name": str(i), "path": paths[i], "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "modules.json").write_text(json.dumps(modules))
    pooling = {"word_embedding_dimension": 16, "pooling_mode_cls_token": False} | dict.fromkeys(modes, True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / path).mkdir(exist_ok=True)
    if not (folder / path / "config.json").exists():
        (folder / path / "config.json").write_text(json.dumps({"max_position_embeddings": 40}))
    for name, values in files.items():
        (folder / path / f"{name}.json").write_text(json.dumps(values))


def test_modules_and_settings_are_read_and_written_again(tmp_path):
    write(
        tmp_path / "in",
        sentence_bert_config={"max_seq_length": 12, "do_lower_case": True},
        config_sentence_transformers={"prompts": {"query": "find: "}, "default_prompt_name": "query"},
    )
    config = sentence_transformers.read(tmp_path / "in")
    assert config == SentenceConfig(("mean",), True, True, 12, True, True, (("query", "find: "),), "query")
    (tmp_path / "out").mkdir()
    sentence_transformers.write(tmp_path / "out", config, 16)
    assert sentence_transformers.read(tmp_path / "out") == config
    modules = json.loads((tmp_path / "out" / "modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Normalize"]
    assert (tmp_path / "out" / "2_Normalize").is_dir()


def test_defaults_are_those_of_sentence_transformers(tmp_path):
    """Without files of its own the limit is the smaller of the model's and the tokenizer's."""
    write(tmp_path / "a", KINDS[:2], ("pooling_mode_cls_token", "pooling_mode_max_tokens"), path="0_T")
    config = sentence_transformers.read(tmp_path / "a")
    assert (config.pooling, config.normalize, config.max_tokens) == (("cls", "max"), False, 40)
    assert sentence_transformers.transformer_folder(tmp_path / "a") == tmp_path / "a" / "0_T"
    assert is_hugging_face(tmp_path / "a")
    write(tmp_path / "b", tokenizer_config={"model_max_length": 30})
    assert sentence_transformers.read(tmp_path / "b").max_tokens == 30
    write(tmp_path / "old", sentence_roberta_config={"max_seq_length": 9})
    assert sentence_transformers.read(tmp_path / "old").max_tokens == 9
    (tmp_path / "c").mkdir()
    assert sentence_transformers.read(tmp_path / "c") == SentenceConfig()


def test_what_tlx_does_not_have_is_named(tmp_path):
    write(tmp_path / "dense", (*KINDS[:2], "Dense"))
    with pytest.raises(ConfigError, match=r"module 2 is 'sentence_transformers.models.Dense'; tlx reads"):
        sentence_transformers.read(tmp_path / "dense")
    assert sentence_transformers.read(tmp_path / "dense", ignore=("modules.json",)) == SentenceConfig()
    write(tmp_path / "mode", modes=("pooling_mode_other",))
    with pytest.raises(ConfigError, match="pooling_mode_other; tlx knows: pooling_mode_cls_token"):
        sentence_transformers.read(tmp_path / "mode")
    write(tmp_path / "out", path="../elsewhere")
    with pytest.raises(DataError, match="lies outside the directory"):
        sentence_transformers.read(tmp_path / "out")
    write(tmp_path / "none", ("Transformer",))
    with pytest.raises(ConfigError, match="has no Pooling"):
        sentence_transformers.read(tmp_path / "none")


def test_ways_of_pooling():
    hidden = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    counted = np.array([[1, 1, 1, 0], [0, 1, 0, 0]], bool)
    expected = {
        "cls": [hidden[0, 0], hidden[1, 1]],
        "lasttoken": [hidden[0, 2], hidden[1, 1]],
        "mean": [hidden[0, :3].mean(0), hidden[1, 1]],
        "max": [hidden[0, :3].max(0), hidden[1, 1]],
        "mean_sqrt_len": [hidden[0, :3].sum(0) / 3**0.5, hidden[1, 1]],
        "weightedmean": [(hidden[0, 0] + 2 * hidden[0, 1] + 3 * hidden[0, 2]) / 6, hidden[1, 1]],
    }
    for way, vectors in expected.items():
        np.testing.assert_allclose(pool(hidden, counted, SentenceConfig((way,))), vectors, rtol=1e-6)
        assert np.isfinite(pool(hidden, np.zeros_like(counted), SentenceConfig((way,)))).all()
    both = pool(hidden, counted, SentenceConfig(("cls", "mean"), normalize=True))
    assert both.shape == (2, 6)
    np.testing.assert_allclose(np.linalg.norm(both, axis=1), 1, rtol=1e-6)
    with pytest.raises(ConfigError, match="prompt = 'x' is not one of the model's prompts: query"):
        SentenceConfig(prompts=(("query", "q"),)).prompt("x")


@pytest.mark.slow
def test_a_run_embeds_as_the_directory_says(tmp_path):
    """Special tokens count, long texts are cut off, vectors are normalised; a run and its export keep that."""
    pytest.importorskip("tokenizers")
    size = folders.word_pieces(tmp_path / "in").get_vocab_size()
    base = TABLE.load("bert").base
    config = resized(
        base, vocab_size=size, width=16, num_layers=1, attention__num_heads=2, feedforward__ff_dim=24
    )
    folders.write(tmp_path / "in", "bert", config, ("heads/nsp/pooler",))
    plain = tlx.load(tmp_path / "in")
    write(tmp_path / "in", sentence_bert_config={"max_seq_length": 6})
    lm = tlx.load(tmp_path / "in")
    text = "the cat sat on the mat and the cat sat"
    vector = lm.embed(text)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    tokens = lm.tokenizer.encode(text)
    prefix, suffix = lm.tokenizer.frame
    row = np.array([[*prefix, *tokens[: 6 - len(prefix) - len(suffix)], *suffix]])
    arrays = {"tokens": row, "segments": np.ones_like(row), "positions": np.arange(row.shape[1])[None]}
    hidden = plain.network.apply({"params": plain.params["model"]}, arrays)[0]
    mean = np.asarray(hidden).mean(axis=0)
    np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-6)
    assert not np.allclose(plain.embed(text), vector, atol=1e-2)
    assert main(["convert", "import", str(tmp_path / "in"), str(tmp_path / "run")]) == 0
    run = tlx.load(tmp_path / "run")
    assert run.config.embed == lm.config.embed
    np.testing.assert_array_equal(run.embed(text), vector)
    assert main(["convert", "export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    np.testing.assert_allclose(tlx.load(tmp_path / "out").embed(text), vector, atol=1e-6)
