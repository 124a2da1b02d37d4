"""`tlx.load` and what it returns, on run directories written as the trainer writes them."""

import copy
import dataclasses
import functools
import math
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import tlx
from tests.run_directory import write_run
from tests.tiers import tiers
from tlx import parallel
from tlx.api.core import ModelCore
from tlx.base.config import to_dict
from tlx.base.errors import CheckpointError, ConfigError, DataError
from tlx.base.files import read_json, write_json
from tlx.run.checks import resolve
from tlx.text import Vocabulary

OBJECTIVES = ("clm", "mlm", "span_corruption", "plm", "bilm")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return functools.cache(lambda objective: write_run(folder / objective, objective))


@pytest.fixture(scope="module")
def loaded(runs):
    return functools.cache(lambda objective: tlx.load(runs(objective)))


@pytest.mark.parametrize("objective", tiers(OBJECTIVES, quick=("clm",)))
def test_every_shape_loads_and_scores(objective, loaded):
    lm = loaded(objective)
    assert lm.step == 3 and lm.config.objective.name == objective
    prompts = {"prompts": ["a <extra_id_0> b", "c"]} if objective == "span_corruption" else {}
    first, second = lm.score(["ab", "Käse " * 9], **prompts)
    assert (first.num_tokens, second.num_bytes) == (2, 54)
    assert second.log_likelihood < first.log_likelihood < 0
    assert second.bits_per_byte == pytest.approx(-second.log_likelihood / math.log(2) / 54)
    assert str(lm).startswith(f"LoadedModel at step 3: {objective}, {lm.kind}\n")
    assert len(str(lm)) < 400 and f"{lm.num_params:,} parameters (float32)" in repr(lm)


def test_scores_are_those_of_the_logits(loaded):
    lm = loaded("clm")
    ids = lm.tokenizer.encode("hello")
    log_probs = jax.nn.log_softmax(lm.logits([lm.tokenizer.vocab.bos, *ids])[0, :-1])
    assert lm.score("hello").log_likelihood == pytest.approx(
        float(log_probs[np.arange(5), ids].sum()), rel=1e-5
    )
    lm = loaded("plm")
    log_probs = jax.nn.log_softmax(lm.logits(ids)[0])
    assert lm.score("hello").log_likelihood == pytest.approx(
        float(log_probs[np.arange(5), ids].sum()), rel=1e-5
    )


@pytest.mark.parametrize("objective", tiers(OBJECTIVES, quick=("clm", "span_corruption")))
def test_logits_have_a_row_for_every_token(objective, loaded):
    lm = loaded(objective)
    given = {"encoder_tokens": [[10, 11, 12]] * 2} if objective == "span_corruption" else {}
    pad = lm.tokenizer.vocab.pad
    logits = lm.logits([[20, 21, 22, 23], [20, 21, pad, pad]], **given)
    assert logits.shape == (2, 4, lm.tokenizer.vocab.size) and logits.dtype == np.float32
    if objective in ("clm", "span_corruption"):
        np.testing.assert_allclose(logits[0, :2], logits[1, :2], atol=1e-5)
    with pytest.raises(ConfigError, match="encoder_tokens"):
        lm.logits([[20]], **({} if given else {"encoder_tokens": [[1]]}))


def rows(vocab, tokens, lengths=None):
    lm = SimpleNamespace(tokenizer=SimpleNamespace(vocab=vocab))
    padded, counts = ModelCore._rows(lm, tokens, lengths, "lengths")
    return padded.tolist(), counts.tolist()


def test_padding_comes_from_lengths_and_not_from_ids():
    """In many vocabularies pad is eos and bos too: within a text, and at its end, it is text."""
    shared, alone = Vocabulary(300, pad=3, eos=3, bos=3), Vocabulary(300)
    assert rows(shared, [20, 3, 21, 3]) == ([[20, 3, 21, 3]], [4])
    assert rows(shared, np.array([[20, 3], [3, 3]])) == ([[20, 3], [3, 3]], [2, 2])
    assert rows(shared, [[20, 3, 21], [22]]) == ([[20, 3, 21], [22, 3, 3]], [3, 1])
    assert rows(shared, [[20, 3, 21], [22, 3, 3]], [3, 2]) == ([[20, 3, 21], [22, 3, 3]], [3, 2])
    assert rows(alone, [[20, 0, 21, 0, 0], [0, 0, 0, 0, 0]])[1] == [3, 1]
    assert rows(alone, [20, 21, 0], 3)[1] == [3]
    for lengths in ([3], [4, 1], [0, 1]):
        with pytest.raises(
            ConfigError, match="one number for each of the 2 rows, from 1 to its length .3, 1"
        ):
            rows(shared, [[20, 3, 21], [22]], lengths)


def test_a_pad_inside_a_text_is_read(loaded):
    lm = loaded("mlm")
    pad = lm.tokenizer.vocab.pad
    text = [20, pad, 21]
    read, other, both = (lm.logits(tokens)[0] for tokens in (text, [20, 22, 21], [text, [20, 22]]))
    assert np.abs(read[0] - other[0]).max() > 1e-3
    np.testing.assert_allclose(both[:3], read, atol=1e-5)
    vocab = lm.tokenizer.vocab
    shared = copy.copy(lm.tokenizer)
    shared.vocab = dataclasses.replace(vocab, eos=pad)
    same_ids = dataclasses.replace(lm, tokenizer=shared)
    np.testing.assert_allclose(
        same_ids.logits([*text, pad])[0], lm.logits([*text, pad], lengths=4)[0], atol=1e-5
    )
    assert np.abs(lm.logits([*text, pad])[0, :3] - lm.logits([*text, pad], lengths=4)[0, :3]).max() > 1e-3


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_embeddings_are_of_each_text_alone(objective, loaded):
    lm = loaded(objective)
    texts = ["ab", "a longer one", "ab c"]
    found = lm.embed(texts)
    width = lm.config.model.width * (2 if objective == "bilm" else 1)
    assert found.shape == (3, width) and found.dtype == np.float32
    for text, vector in zip(texts, found, strict=True):
        np.testing.assert_allclose(lm.embed(text), vector, atol=1e-5)
    assert np.abs(found[0] - found[2]).max() > 1e-3
    assert np.isfinite(lm.embed("")).all()


def test_a_bilstm_does_not_continue_texts(loaded):
    with pytest.raises(ConfigError, match="not to continue texts; use score"):
        loaded("bilm").generate("ab")


@pytest.mark.parametrize(
    "objective",
    tiers(
        ["clm", "plm", "span_corruption", "recurrent_lm"],
        quick=["clm"],
    ),
)
def test_generation_takes_prompts_of_any_lengths(objective, loaded):
    lm = loaded(objective)
    prompts = ["ab", "a longer one", ""]
    texts = lm.generate(prompts, max_tokens=5, temperature=0.0)
    assert len(texts) == 3 and all(isinstance(text, str) for text in texts)
    assert lm.generate("ab", max_tokens=5, temperature=0.0) == texts[0]
    assert lm.generate(prompts, max_tokens=5, seed=1) != lm.generate(prompts, max_tokens=5, seed=2)


@pytest.mark.parametrize("objective", tiers(("clm", "span_corruption"), quick=("clm",)))
def test_an_answer_ends_before_its_stop_string(objective, loaded):
    lm = loaded(objective)
    whole = lm.generate(["ab", "c"], max_tokens=12, temperature=0.0)
    stop = (whole[0][3:5], "never said")
    found = lm.generate(["ab", "c"], max_tokens=12, temperature=0.0, stop=stop)
    assert found[0] == whole[0][: whole[0].index(stop[0])]
    assert found[1] == (whole[1][: whole[1].index(stop[0])] if stop[0] in whole[1] else whole[1])
    with pytest.raises(ConfigError, match="sequence of texts"):
        lm.generate("ab", stop="x")
    with pytest.raises(ConfigError, match="num_beams = 2 searches"):
        lm.generate("ab", num_beams=2, repetition_penalty=1.2)


def test_the_best_choice_is_the_likeliest(loaded):
    lm = loaded("clm")
    choices = [" yes", " no, never", " perhaps"]
    found = lm.choose("is it ", choices)
    totals = [lm.score("is it " + text).log_likelihood - lm.score("is it").log_likelihood for text in choices]
    np.testing.assert_allclose([score.log_likelihood for score in found.scores], totals, rtol=1e-4)
    assert found.best_index == int(np.argmax(totals)) and found.text == choices[found.best_index]
    by = lm.choose(["is it "] * 2, [choices, choices[:2]], by="bytes")
    sizes = [len(" " + text) for text in choices]
    assert by[0].best_index == int(np.argmax(np.array(totals) / sizes)) and len(by[1].scores) == 2
    assert [score.num_bytes for score in found.scores] == sizes
    with pytest.raises(ConfigError, match="by 'byte'.*did you mean 'bytes'|by = 'byte'"):
        lm.choose("a", choices, by="byte")
    with pytest.raises(ConfigError, match="decoders and encoder-decoders, this is encoder"):
        loaded("mlm").choose("a", choices)


@pytest.mark.slow
def test_an_encoder_decoder_chooses_what_fills_its_gap(loaded):
    lm = loaded("span_corruption")
    found = lm.choose("a b", ["xyz", "qu"])
    first = lm.tokenizer.piece(lm.tokenizer.vocab.sentinel(0))
    empty = lm.score(first, "a b").log_likelihood
    for text, score in zip(("xyz", "qu"), found.scores, strict=True):
        whole = lm.score(first + text, "a b").log_likelihood
        assert score.log_likelihood == pytest.approx(whole - empty, rel=1e-4)


def test_sentinels_mark_the_gaps_of_a_prompt(loaded):
    lm = loaded("span_corruption")
    vocab = lm.tokenizer.vocab
    assert lm._encode_source("a<extra_id_0>b<extra_id_1>") == [
        *lm.tokenizer.encode("a"),
        vocab.sentinel(0),
        *lm.tokenizer.encode("b"),
        vocab.sentinel(1),
        vocab.eos,
    ]
    assert lm._encode_source("ab") == [*lm.tokenizer.encode("ab"), vocab.sentinel(0), vocab.eos]
    ids = [vocab.sentinel(0), *lm.tokenizer.encode("x"), vocab.sentinel(1), *lm.tokenizer.encode("y")]
    assert lm._decode_answer("a<extra_id_0>b<extra_id_1>", ids) == "<extra_id_0>x<extra_id_1>y"
    assert lm._decode_answer("ab", ids) == "x"


def test_a_prompt_is_read_as_it_is_where_no_gaps_are_filled(loaded):
    config = to_dict(loaded("span_corruption").config) | {"objective": {"name": "text_to_text"}}
    lm = dataclasses.replace(loaded("span_corruption"), config=resolve(config))
    vocab, tokenizer = lm.tokenizer.vocab, lm.tokenizer
    assert lm._encode_source("ab[MASK]") == [*tokenizer.encode("ab"), vocab.mask, vocab.eos]
    assert (
        lm._decode_answer("ab", [*tokenizer.encode("x"), vocab.sentinel(1), *tokenizer.encode("y")]) == "xy"
    )


def test_special_names_in_other_models_are_plain_text(loaded):
    lm = loaded("clm")
    assert lm.score("<mask><extra_id_0>").num_bytes == 18


@pytest.mark.parametrize("objective", ["mlm", "plm"])
def test_filling_a_gap(objective, loaded):
    lm = loaded(objective)
    gaps = lm.fill("a [MASK] b<mask>", top=3)
    assert [len(candidates) for candidates in gaps] == [3, 3]
    probabilities = [candidate.probability for candidate in gaps[0]]
    assert probabilities == sorted(probabilities, reverse=True) and 0 < sum(probabilities) < 1
    everything = lm.fill("a [MASK] b", top=lm.tokenizer.vocab.size)[0]
    assert sum(candidate.probability for candidate in everything) == pytest.approx(1, abs=1e-5)
    with pytest.raises(ConfigError, match=r"has no \[MASK\]"):
        lm.fill("nothing")
    with pytest.raises(ConfigError, match="the model reads 32"):
        lm.fill("[MASK]" + "x" * 40)


@pytest.mark.slow
def test_a_gap_is_filled_from_all_but_the_gaps(loaded):
    """Two streams: what stands in the gap's place is nobody's business, what stands beside it is."""
    lm = loaded("plm")
    vocab, text = lm.tokenizer.vocab, lm.tokenizer.encode("abcde")
    found = {candidate.piece: candidate.probability for candidate in lm.fill("ab[MASK]de", top=400)[0]}

    def judge(row, place):
        rank = np.where(np.arange(len(row)) == place, 0, -1)[None]
        order = np.arange(len(row))[None]
        batch = {"tokens": np.array([row]), "positions": order, "segments": np.ones_like(order)}
        ranks = {"rank": rank, "query_rank": np.zeros_like(order), "target_positions": np.array([[place]])}
        logits = lm.module.apply({"params": lm.params}, batch | ranks, method="logits")[0, 0]
        probs = np.asarray(jax.nn.softmax(np.where(vocab.special, -np.inf, logits)))
        return [probs[lm.tokenizer.encode(piece)[0]] for piece in "xyz"]

    expected = [found[piece] for piece in "xyz"]
    np.testing.assert_allclose(judge([vocab.eos, *text], 3), expected, rtol=1e-4)
    assert not np.allclose(judge([vocab.eos, *text[::-1]], 3), expected, rtol=1e-2)


def test_what_a_shape_cannot_do_says_what_it_can(loaded):
    with pytest.raises(ConfigError, match="does not continue texts; use fill"):
        loaded("mlm").generate("a")
    with pytest.raises(ConfigError, match="use generate"):
        loaded("clm").fill("[MASK]")
    with pytest.raises(ConfigError, match="extra_id_0"):
        loaded("span_corruption").fill("[MASK]")


@pytest.mark.slow
def test_steps_dtypes_and_checkpoint_directories(tmp_path):
    folder = write_run(tmp_path / "run", "clm", steps=(3, 5))
    assert tlx.load(folder).step == 5
    assert tlx.load(folder, step=3).step == 3
    lm = tlx.load(folder / "checkpoints" / "3", dtype="bfloat16")
    assert lm.step == 3
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(lm.params)} == {"bfloat16"}
    full = tlx.load(folder, step=3)
    np.testing.assert_allclose(lm.logits([20, 21]), full.logits([20, 21]), atol=0.3)
    with pytest.raises(CheckpointError, match="step 4.*complete: 3, 5"):
        tlx.load(folder, step=4)


def test_what_is_wrong_with_a_directory_is_said(tmp_path):
    with pytest.raises(DataError, match="is not there"):
        tlx.load(tmp_path / "absent")
    with pytest.raises(DataError, match="neither a run directory"):
        tlx.load(tmp_path)
    folder = write_run(tmp_path / "run", "clm")
    saved = read_json(folder / "run.json")

    def changed(**values):
        write_json(folder / "run.json", saved | values)
        return folder

    with pytest.raises(DataError, match="format 99"):
        tlx.load(changed(format=99))
    with pytest.raises(DataError, match="not the tokenizer"):
        tlx.load(changed(tokenizer_hash="0"))
    wide = saved["config"] | {"model": saved["config"]["model"] | {"width": 24}}
    with pytest.raises(
        CheckpointError, match=r"model/embedding/table: checkpoint \(\d+, 16\), model \(\d+, 24\)"
    ):
        tlx.load(changed(config=wide))
    foreign = saved["config"] | {"objective": {"name": "os:system"}}
    with pytest.raises(ConfigError, match=r"code outside tlx; pass allow=\('os',\)"):
        tlx.load(changed(config=foreign))


@pytest.mark.slow
def test_a_run_is_self_contained_and_loads_without_its_devices(tmp_path):
    """Written over 8 devices, moved elsewhere, tokenizer path and kernel of another machine in the config."""
    mesh = parallel.make_mesh(parallel.MeshConfig(data=1, fsdp=-1, rules="fsdp"))
    folder = write_run(tmp_path / "run", "clm", mesh=mesh)
    saved = read_json(folder / "run.json")
    saved["config"]["tokenizer"]["path"] = "/nowhere/tokenizer"
    saved["config"]["model"]["execution"]["attention"] = "splash"
    write_json(folder / "run.json", saved)
    expected = tlx.load(folder).score("some text").log_likelihood
    moved = shutil.move(folder, tmp_path / "elsewhere")
    program = (
        f"lm = tlx.load({str(moved)!r}); print(jax.device_count(), lm.score('some text').log_likelihood)"
    )
    done = subprocess.run(
        [sys.executable, "-c", "import jax, tlx; " + program],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": os.getcwd()},
        capture_output=True, text=True, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    devices, found = done.stdout.split()
    assert devices == "1" and float(found) == pytest.approx(expected, rel=1e-5)
