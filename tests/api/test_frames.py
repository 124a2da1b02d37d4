"""Every use of a model feeds it texts in the form that it was trained in, row for row.

The reference is the objective's own example with its noise off (`clean_example`). The programs that would run the
model are replaced by ones that keep what they are given, so that nothing is compiled.
"""

import dataclasses
import functools
import json
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from tests.tiers import tiers
from tlx import parallel
from tlx.api import embedding, export, generation, loaded_model
from tlx.api import scoring as api_scoring
from tlx.base.config import from_dict, to_dict
from tlx.base.errors import ConfigError, DataError
from tlx.data.readers import Record
from tlx.evaluation import few_shot, scoring
from tlx.nn.losses import token_losses
from tlx.objectives import TABLE
from tlx.run import base_config
from tlx.run.checks import resolve
from tlx.run.spec import abstract_batch, make_module, spec_of
from tlx.tasks import TABLE as TASKS
from tlx.tasks.shared.inputs import input_row
from tlx.text import TokenizerConfig, make_tokenizer
from tlx.text.frames import Frame
from tlx.training.state import boxed_params

TOKENIZER = make_tokenizer(TokenizerConfig(kind="bytes"), ())
VOCAB = TOKENIZER.vocab
TEXT = "abcdefg"
OTHER = "uvwxyz"
LENGTH = 64

# What each use is not defined for, by kind of model or by objective, and why.
UNDEFINED = {
    ("generate", "encoder"): "a masked model does not continue texts",
    ("generate", "bilstm"): "a bilstm is read by tasks",
    ("choose", "encoder"): "choices are scored by models that write",
    ("choose", "bilstm"): "choices are scored by models that write",
    ("choose", "two_stream"): "choices are scored by models with a cache",
    ("few_shot", "encoder"): "it scores choices",
    ("few_shot", "bilstm"): "it scores choices",
    ("few_shot", "two_stream"): "it scores choices",
    ("fill", "decoder"): "a gap is filled from both sides",
    ("fill", "encoder_decoder"): "a gap is filled by writing: generate",
    ("fill", "bilstm"): "a gap is filled from both sides",
    ("harness", "encoder"): "the harness asks models that write",
    ("harness", "two_stream"): "the harness asks models that write",
    ("harness", "bilstm"): "the harness asks models that write",
    ("export", "bilstm"): "no class of Hugging Face computes it",
    ("task", "bilstm"): "no task has a head on it",
    ("generation", "encoder"): "a masked model writes no texts",
    ("generation", "two_stream"): "the task has no cache for two streams",
    ("generation", "bilstm"): "a bilstm writes no texts",
    ("harness", "dialogue"): "it joins a context and its continuation; a mark stands between them",
    ("chat", "all"): "a template frames a conversation: tests/tasks/test_chat.py",
}
USES = ("generate", "score", "choose", "few_shot", "embed", "fill", "task", "generation", "export", "harness")
# An objective whose form is the nearest to another's, of the same kind of model.
NEAREST = {
    "bart": "span_corruption",
    "bilm": "clm",
    "clm": "recurrent_lm",
    "ctrl": "clm",
    "denoising": "bart",
    "deshuffling": "bart",
    "dialogue": "clm",
    "distillation": "xlm",
    "layer_distillation": "xlm",
    "mass": "bart",
    "mbart": "bart",
    "mixture": "recurrent_lm",
    "mlm": "xlm",
    "multi_token": "recurrent_lm",
    "nsp": "mlm",
    "plm": "clm",
    "prefix_lm": "ctrl",
    "recurrent_lm": "clm",
    "rtd": "mlm",
    "seq2seq_dialogue": "mass",
    "sop": "mlm",
    "span_boundary": "nsp",
    "span_corruption": "mass",
    "text_to_text": "mbart",
    "ul2": "span_corruption",
    "xlm": "mlm",
}
# Uses in which the nearest wrong frame is the same as the right one, because only rows of two texts differ.
PAIRS_ONLY = {"nsp", "sop", "rtd", "span_boundary"}


class Reference(NamedTuple):
    """What the objective's own example says."""

    source: list[int]
    """Row of the text that is read whole."""
    prompt: list[int]
    """Ids before what is written: of a decoder, the text too."""
    arrays: dict[str, np.ndarray]
    """Arrays of the row that is read whole."""


@functools.cache
def config_of(name: str) -> Any:
    config = base_config(name)
    config.tokenizer.kind = "bytes"
    config.data.sequence_length = LENGTH
    config.data.language = "en"
    config.data.target_language = "ko"
    config.model.width, config.model.num_layers, config.model.attention.num_heads = 16, 1, 2
    if name == "plm":
        config.model.position.kind = "relative_sinusoidal"
        config.model.block_layout = "post"
    if name == "recurrent_lm":
        config.model.position.kind = "relative_sinusoidal"
        config.model.block_layout = "post"
    if name == "text_to_text":
        config.objective.mark_target = True
    return resolve(config)


def loaded(name: str, frame: Frame | None = None) -> Any:
    """A model without parameters; its programs are replaced."""
    config = dataclasses.replace(config_of(name), frame=frame)
    lm = loaded_model.LoadedModel(config, {"model": {}}, TOKENIZER, make_module(config, VOCAB), 0)
    lm.__dict__["_missing_heads"] = []
    return lm


def marks_of(name: str) -> dict[str, str]:
    """The second name of each kind, so that a default would not do."""
    kinds = {"ctrl": {"code": "ko"}, "ul2": {"mode": "X"}}
    languages = {"language": "ko"} if name in ("mbart", "xlm", "text_to_text") else {}
    return kinds.get(name, languages)


def ids(text: str) -> np.ndarray:
    return np.array(TOKENIZER.encode(text), np.int32)


def clean(name: str, *texts: np.ndarray) -> dict[str, np.ndarray]:
    return TABLE.load(name).clean_example(texts, spec_of(config_of(name), TOKENIZER), (1, 1))


def real(row: dict[str, np.ndarray], side: str = "") -> dict[str, np.ndarray]:
    """The arrays of a side without padding and without an earlier document."""
    segments = row[side + "segments"]
    begin = int(np.argmax(segments == segments.max()))
    end = int(np.count_nonzero(segments))
    names = [name for name in ("tokens", "positions", "types", "langs") if side + name in row]
    return {name: row[side + name][begin:end] for name in names}


def reference(name: str) -> Reference:
    text, other = ids(TEXT), ids(OTHER)
    kind = config_of(name).model.kind
    ended = np.append(text, VOCAB.eos)
    if name == "dialogue":
        row = clean(name, text, other)
        before = row["tokens"][: int(np.argmax(row["weights"] > 0)) + 1].tolist()
        return Reference(before[:-1], before, {"tokens": np.array(before[:-1])})
    if kind == "encoder_decoder":
        one = text if name == "seq2seq_dialogue" else ended
        row = clean(name, one if name in ("text_to_text", "seq2seq_dialogue") else text, ended)
        written = row["decoder_tokens"].tolist()
        arrays = real(row, "encoder_")
        return Reference(arrays["tokens"].tolist(), written[: written.index(text[0])], arrays)
    if name in ("nsp", "sop"):
        pair = real(clean(name, text, other))
        size = len(text) + 2
        arrays = {key: value[:size] for key, value in pair.items()}
        return Reference(arrays["tokens"].tolist(), [], arrays)
    arrays = real(clean(name, ended if kind in ("decoder", "bilstm") or name == "xlm" else text))
    tokens = arrays["tokens"].tolist()
    if kind in ("decoder", "bilstm", "two_stream"):
        end = tokens.index(text[-1]) + 1
        arrays = {key: value[:end] - (value[0] if key == "positions" else 0) for key, value in arrays.items()}
        return Reference(tokens[:end], tokens[:end], arrays)
    return Reference(tokens, [], arrays)


class Kept(Exception):
    """What a program was given."""


def keep(*arguments: Any, **keywords: Any) -> Any:
    raise Kept(arguments, keywords)


def given(call) -> tuple[tuple, dict]:
    with pytest.raises(Kept) as raised:
        call()
    return raised.value.args


def without_gap(tokens) -> list[int]:
    return [token for token in tokens if token != VOCAB.sentinel(0)]


def rows_of(use: str, name: str, frame: Frame | None, monkeypatch) -> list[Any]:
    """What a use feeds the model, in the form of `wanted`."""
    lm = loaded(name, frame)
    marks = marks_of(name)
    if use == "generate":
        monkeypatch.setattr(generation.decoding, "generate", keep)
        (_, _, rows, *_), keywords = given(lambda: lm.generate(TEXT, **marks))
        sources = keywords["sources"]
        return [rows[0]] if sources is None else [without_gap(sources[0]), rows[0]]
    if use == "score":
        monkeypatch.setattr(scoring, "_score", keep)
        prompts = TEXT if lm.kind == "encoder_decoder" else None
        (_, _, batch), _ = given(lambda: lm.score(TEXT, prompts, **marks))
        side = "decoder_" if lm.kind == "encoder_decoder" else ""
        size = int(batch[side + "segments"][0].sum())
        row = {key: value[0, :size] for key, value in batch.items() if value.shape[1] >= size}
        if lm.kind != "encoder_decoder":
            return [row["tokens"].tolist(), row["positions"].tolist(), row.get("langs", []).copy()]
        source = batch["encoder_tokens"][0, : int(batch["encoder_segments"][0].sum())]
        return [without_gap(source), batch["decoder_tokens"][0, :size].tolist()]
    if use in ("choose", "few_shot"):
        monkeypatch.setattr(api_scoring, "score_choices", keep)
        if use == "choose":
            arguments, keywords = given(lambda: lm.choose(TEXT, ["h", "i"], **marks))
        else:
            question = few_shot.Question(TEXT, 0, ("h", "i"))
            monkeypatch.setattr(few_shot, "_unconditional", lambda *_: {})
            arguments, keywords = given(lambda: few_shot._choice_values(lm, few_shot.FewShot(), [question]))
        rows, sources = arguments[2][0], keywords["sources"]
        return [rows] if sources is None else [without_gap(sources[0]), without_gap(rows)]
    if use == "embed":
        monkeypatch.setattr(embedding, "forward_hidden", keep)
        (_, _, batch), _ = given(lambda: lm.embed(TEXT, **marks))
        size = int(batch["segments"][0].sum())
        return [{key: value[0, :size] for key, value in batch.items() if key in KEYS}]
    if use == "fill":
        monkeypatch.setattr(generation, "forward_logits", keep)
        language = marks.get("language")
        (_, _, batch), _ = given(lambda: lm.fill(TEXT[:-1] + "[MASK]", language=language))
        size = int(batch["segments"][0].sum())
        row = {key: value[0, :size].copy() for key, value in batch.items() if key in KEYS}
        row["tokens"][row["tokens"] == VOCAB.mask] = ids(TEXT)[-1]
        return [row]
    raise AssertionError(use)


KEYS = ("tokens", "positions", "types", "langs")


def wanted(use: str, name: str) -> list[Any]:
    source, prompt, arrays = reference(name)
    kind = config_of(name).model.kind
    if use == "generate":
        return [source, prompt] if kind == "encoder_decoder" else [prompt]
    if use == "score":
        if kind == "encoder_decoder":
            return [source, [*prompt, *ids(TEXT)[:-1]]]
        tokens = arrays["tokens"].tolist()
        if name == "dialogue":
            tokens = [tokens[0], *prompt[-1:], *tokens[1:]]
        positions = list(range(len(tokens)))
        langs = arrays.get("langs", np.zeros(0))
        if kind == "encoder":
            masked = np.where(np.arange(len(tokens)) == 1, VOCAB.mask, tokens).tolist()
            return [masked, positions, langs]
        # The last token of the text is predicted only.
        cut = slice(None) if kind == "two_stream" else slice(-1)
        return [tokens[cut], positions[cut], langs]
    if use in ("choose", "few_shot"):
        return [source, prompt] if kind == "encoder_decoder" else [prompt]
    return [arrays]


def same(found: list[Any], expected: list[Any]) -> bool:
    """Whether rows are equal; types that are not given are 0 everywhere, as the model reads them."""
    if len(found) != len(expected):
        return False
    for one, other in zip(found, expected, strict=True):
        if not isinstance(other, dict):
            one, other = {"tokens": one}, {"tokens": other}
        zeros = {"types": np.zeros(len(other["tokens"]), np.int32)}
        compared = {"tokens", "types", *(set(other) & set(KEYS))} | ({"langs"} & set(one))
        pairs = [((zeros | one).get(name), (zeros | other).get(name)) for name in compared]
        if any(a is None or b is None or not np.array_equal(a, b) for a, b in pairs):
            return False
    return True


DEFINED = [
    (use, name)
    for use in ("generate", "score", "choose", "few_shot", "embed", "fill")
    for name in TABLE
    if (use, TABLE.load(name).kinds[0]) not in UNDEFINED
]


@pytest.mark.parametrize("use", ["generate", "score", "choose", "few_shot", "embed", "fill"])
def test_the_rows_of_a_use_are_the_objectives_own(use, monkeypatch):
    for name in [name for other, name in DEFINED if other == use]:
        found, expected = rows_of(use, name, None, monkeypatch), wanted(use, name)
        if use == "few_shot" and marks_of(name):
            # Nobody names a mark: the first, and of modes the one that continues texts.
            default = VOCAB.mark(2 if name == "ul2" else 0)
            expected = [[default if token == VOCAB.mark(1) else token for token in row] for row in expected]
        assert same(found, expected), (name, found, expected)


@pytest.mark.parametrize("name", TABLE)
def test_the_nearest_wrong_frame_fails(name, monkeypatch):
    other = NEAREST[name]
    spec = dataclasses.replace(spec_of(config_of(name), TOKENIZER), config=config_of(other).objective)
    wrong = TABLE.load(other).frame(spec)
    if wrong.marks and not marks_of(name):
        wrong = wrong.named("ko")
    kind = config_of(name).model.kind
    differ = []
    for use in [use for use, one in DEFINED if one == name]:
        if use == "few_shot" and marks_of(name):
            continue
        try:
            found = rows_of(use, name, wrong, monkeypatch)
        except ConfigError:
            differ.append(use)  # it has no such names
            continue
        if not same(found, wanted(use, name)):
            differ.append(use)
    if name not in PAIRS_ONLY:
        assert differ, other
    pair = (ids(TEXT), ids(OTHER))
    if kind == "encoder" and name in PAIRS_ONLY:
        assert not np.array_equal(*(task_row(name, frame, pair)["types"] for frame in (None, wrong)))


def task_row(name: str, frame: Frame | None, texts: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
    """The row of a task whose base model was trained with an objective."""
    task = TASKS.load("pair_classification" if len(texts) > 1 else "classification")
    trained = frame or TABLE.load(name).frame(spec_of(config_of(name), TOKENIZER))
    model = config_of(name).model
    spec = task.make_spec(task.config_class(labels=("a", "b")), model, LENGTH, ("",), TOKENIZER, trained)
    mark = next(iter(marks_of(name).values()), None)
    return input_row(texts, spec, (mark, None))


@pytest.mark.parametrize("name", [name for name in TABLE if TABLE.load(name).kinds[0] != "bilstm"])
def test_the_rows_of_a_task_are_the_objectives_own(name):
    kind = config_of(name).model.kind
    row = task_row(name, None, (ids(TEXT),))
    source, prompt, arrays = reference(name)
    if kind == "encoder_decoder":
        assert real(row, "encoder_")["tokens"].tolist() == source
        start = [prompt[0]]
        assert real(row, "decoder_")["tokens"].tolist() == [*start, *source[:-1]]
        # mBART's row is read at eos, which its language follows.
        ends = {"mbart": -2}
        assert row["place"] == len(source) + ends.get(name, -1)
        return
    found = real(row)
    if kind == "encoder" or name == "plm":
        size = len(arrays["tokens"])
        assert same([{key: value[:size] for key, value in found.items()}], [arrays]), (found, arrays)
    else:
        # A decoder was trained without an end of a row: fine-tuning trains cls there.
        assert found["tokens"].tolist() == [*arrays["tokens"], VOCAB.cls]
    assert row["place"] == (0 if kind == "encoder" else len(found["tokens"]) - 1)


@pytest.mark.parametrize("name", ["mlm", "rtd", "nsp", "sop", "xlm", "span_boundary"])
def test_the_rows_of_two_texts_have_only_types_that_were_trained(name):
    """What the objective gives a second text: a type (nsp, rtd, sop), positions and a language (xlm), or nothing."""
    found = real(task_row(name, None, (ids(TEXT), ids(OTHER))))
    if name in ("nsp", "rtd", "sop", "xlm"):
        spec = spec_of(config_of(name), TOKENIZER)
        expected = real(TABLE.load(name).clean_example((ids(TEXT), ids(OTHER)), spec, (1, 1)))
        assert same([found], [expected]), (found, expected)
    else:
        assert found["tokens"].tolist() == [VOCAB.cls, *ids(TEXT), VOCAB.sep, *ids(OTHER), VOCAB.sep]
        assert not found["types"].any()


def test_a_row_of_two_texts_of_two_streams():
    """XLNet's with pairs: A sep B sep cls, with a type for each text and one for cls."""
    spec = spec_of(config_of("plm"), TOKENIZER)
    spec = dataclasses.replace(spec, config=dataclasses.replace(spec.config, pairs=True))
    frame = TABLE.load("plm").frame(spec)
    expected = real(TABLE.load("plm").clean_example((ids(TEXT), ids(OTHER)), spec))
    found = real(task_row("plm", frame, (ids(TEXT), ids(OTHER))))
    assert same([found], [expected]), (found, expected)
    assert found["types"].tolist() == [0] * (len(TEXT) + 1) + [1] * (len(OTHER) + 1) + [2]
    # Alone, the first text keeps what stands around it there.
    alone = real(task_row("plm", frame, (ids(TEXT),)))
    assert alone["tokens"].tolist() == [*ids(TEXT), VOCAB.sep, VOCAB.cls]
    assert alone["types"].tolist() == [0] * (len(TEXT) + 1) + [2]


def test_a_row_of_two_languages_has_both():
    frame = TABLE.load("xlm").frame(spec_of(config_of("xlm"), TOKENIZER))
    task = TASKS.load("pair_classification")
    config = task.config_class(labels=("a", "b"))
    spec = task.make_spec(config, config_of("xlm").model, LENGTH, ("",), TOKENIZER, frame)
    row = real(input_row((ids(TEXT), ids(OTHER)), spec, ("en", "ko")))
    expected = TABLE.load("xlm").clean_example(
        (ids(TEXT), ids(OTHER)), spec_of(config_of("xlm"), TOKENIZER), (0, 1)
    )
    assert same([row], [real(expected)])
    assert row["langs"].tolist() == [0] * (len(TEXT) + 2) + [1] * (len(OTHER) + 2)


@pytest.mark.parametrize(
    "name", [n for n in TABLE if TABLE.load(n).kinds[0] in ("decoder", "encoder_decoder")]
)
def test_the_rows_of_the_task_of_generation(name):
    """Sources and targets in the form of the objective; a decoder that continues texts gets sep between them."""
    task = TASKS.load("generation")
    trained = TABLE.load(name).frame(spec_of(config_of(name), TOKENIZER))
    model = config_of(name).model
    config = task.config_class(target_length=12)
    spec = task.make_spec(config, model, LENGTH, ("",), TOKENIZER, trained)
    mark = next(iter(marks_of(name).values()), None)
    if mark is not None:
        spec = dataclasses.replace(spec, config=task.config_class(target_length=12, language="lang"))
    records = [Record("one", {"source": TEXT, "target": OTHER, "lang": mark})]
    (item,) = task.prepare(records, TOKENIZER, spec)
    row = task.example(np.random.default_rng(0), item, spec)
    request = task.generation_requests([item], spec)
    source, prompt, _ = reference(name)
    written = [*ids(OTHER), VOCAB.eos] + ([VOCAB.mark(1)] if name == "mbart" else [])
    begin = [VOCAB.bos] if name == "bart" else []
    targets = row["targets"][row["weights"] > 0].tolist()
    assert targets == [*begin, *written]
    if config_of(name).model.kind == "encoder_decoder":
        assert real(row, "encoder_")["tokens"].tolist() == source
        assert real(row, "decoder_")["tokens"].tolist() == [*prompt, *written[:-1]]
        assert (request.prompts, request.sources) == ([prompt], [source])
    else:
        cue = [] if name == "dialogue" else [VOCAB.sep]
        assert real(row)["tokens"].tolist() == [*prompt, *cue, *written[:-1]]
        assert request.prompts == [[*prompt, *cue]]


@pytest.mark.parametrize("name", [n for n in TABLE if TABLE.load(n).kinds[0] != "bilstm"])
def test_an_export_frames_texts_as_the_objective_did(name):
    """The ids that the exported tokenizer adds, and the id that the exported decoder starts from."""
    lm = loaded(name)
    before, after = export.exported_frame(lm)
    source, prompt, _ = reference(name)
    mark = VOCAB.mark(0)  # of the default name, which is the first
    source = [mark if token == VOCAB.mark(1) else token for token in source]
    if lm.kind == "decoder":
        assert [*before, *ids(TEXT)] == source and not after
    elif name == "plm":
        assert [*before, *ids(TEXT), *after] == source
    else:
        assert [*before, *ids(TEXT), *after] == source
    special = export.special_ids(lm)
    if lm.kind == "encoder_decoder":
        prompt = [mark if token == VOCAB.mark(1) else token for token in prompt]
        assert special["decoder_start_token_id"] == prompt[0]
        assert special.get("forced_bos_token_id") == (prompt[1] if len(prompt) > 1 else None)


@pytest.mark.parametrize(
    "name", [n for n in TABLE if TABLE.load(n).kinds[0] in ("decoder", "encoder_decoder") and n != "dialogue"]
)
def test_the_harness_frames_texts_as_the_objective_did(name):
    """Of a dialogue it is undefined: the harness joins a context and its continuation, and a mark stands between."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'tlx-lm[harness]'")
    from tlx.api.harness import HarnessModel

    model = HarnessModel(loaded(name), max_length=32)
    prompts, sources = model._decoder_inputs([model.tok_encode(TEXT)])
    source, prompt, _ = reference(name)
    frame = model.lm.frame
    default = {VOCAB.mark(1): VOCAB.mark(0)} if frame.marks else {}
    source, prompt = ([default.get(token, token) for token in tokens] for tokens in (source, prompt))
    assert (prompts, sources) == (([prompt], [source]) if model.backend == "seq2seq" else ([prompt], None))


LOSSES = ("clm", "ctrl", "recurrent_lm", "bart", "mbart", "mass", "deshuffling", "text_to_text")


@pytest.mark.parametrize("name", tiers(LOSSES, slow=("bart", "ctrl")))
def test_a_score_is_the_loss_of_the_objectives_own_row(name):
    """And the nearest wrong frame has another."""
    config = config_of(name)
    module = make_module(config, VOCAB)
    spec = spec_of(config, TOKENIZER)
    boxed = boxed_params(module, abstract_batch(config, spec))
    rng = np.random.default_rng(5)
    params = jax.tree.map(
        lambda leaf: (0.4 * rng.normal(size=leaf.shape)).astype(np.float32), parallel.unbox(boxed)
    )
    text = ids(TEXT)
    ended = np.append(text, VOCAB.eos)
    if name == "text_to_text":
        row = clean(name, ended, ended)
    else:
        row = clean(name, text if config.model.kind == "encoder_decoder" else ended)
    batch = {key: value[None] for key, value in row.items()}
    (hidden, unembedding), _ = module.apply({"params": params}, batch, None, None, method="predictions")
    losses = np.asarray(token_losses(hidden, unembedding, batch["targets"])[0])[0]
    wanted = -losses[np.isin(row["targets"], text) & (row["weights"] > 0)].sum()
    lm = dataclasses.replace(loaded(name), params=params)
    prompts = TEXT if lm.kind == "encoder_decoder" else None
    assert lm.score(TEXT, prompts, **marks_of(name)).log_likelihood == pytest.approx(wanted, rel=1e-5)
    other = NEAREST[name]
    wrong = TABLE.load(other).frame(dataclasses.replace(spec, config=config_of(other).objective)).named()
    found = dataclasses.replace(loaded(name, wrong), params=params).score(TEXT, prompts)
    assert abs(found.log_likelihood / wanted - 1) > 1e-4


def test_a_name_that_was_not_trained_is_refused():
    lm = loaded("mbart")
    with pytest.raises(ConfigError, match="language = 'kr' is not one of: en, ko"):
        lm.generate(TEXT, language="kr")
    with pytest.raises(ConfigError, match=r"code = 'ko': this model was trained with a language \(en, ko\)"):
        lm.generate(TEXT, code="ko")
    with pytest.raises(ConfigError, match="language = 'ko': this model was trained without"):
        loaded("clm").generate(TEXT, language="ko")


def test_languages_of_records_are_checked():
    task = TASKS.load("classification")
    trained = TABLE.load("xlm").frame(spec_of(config_of("xlm"), TOKENIZER))
    config = task.config_class(labels=("a", "b"), language="lang")
    model = config_of("xlm").model
    spec = task.make_spec(config, model, LENGTH, ("",), TOKENIZER, trained)
    records = [Record("file:1", {"text": TEXT, "label": "a", "lang": "ko"})]
    (item,) = task.prepare(records, TOKENIZER, spec)
    row = real(task.example(np.random.default_rng(0), item, spec))
    assert same([row], [reference("xlm").arrays])
    wrong = [Record("file:1", {"text": TEXT, "label": "a", "lang": "kr"})]
    with pytest.raises(DataError, match="file:1: language = 'kr' is not one of: en, ko"):
        task.prepare(wrong, TOKENIZER, spec)
    plain = task.make_spec(config, config_of("mlm").model, LENGTH, ("",), TOKENIZER, None)
    with pytest.raises(ConfigError, match="objective.language = 'lang': the base model was trained without"):
        task.prepare(records, TOKENIZER, plain)
    packed = dataclasses.replace(spec, config=dataclasses.replace(config, packing=True))
    (item,) = task.prepare(records, TOKENIZER, packed)
    joined = task.example(np.random.default_rng(0), task.join([item, item]), packed)
    size = len(row["langs"])
    assert joined["langs"][: 2 * size].tolist() == [*row["langs"], *row["langs"]]


def test_a_frame_is_saved_with_a_config():
    for name in TABLE:
        frame = TABLE.load(name).frame(spec_of(config_of(name), TOKENIZER))
        assert from_dict(Frame, json.loads(json.dumps(to_dict(frame)))) == frame
    values = to_dict(dataclasses.replace(config_of("bart"), frame=frame))
    assert resolve(values).frame == frame


def test_what_is_undefined_is_listed_with_its_reason():
    kinds = {TABLE.load(name).kinds[0] for name in TABLE}
    assert {kind for _, kind in UNDEFINED} <= kinds | {"all", "dialogue"}
    assert all(UNDEFINED.values()) and {use for use, _ in UNDEFINED} <= {*USES, "chat"}
    for (use, kind), _ in UNDEFINED.items():
        name = next((name for name in TABLE if TABLE.load(name).kinds[0] == kind), None)
        calls = {
            "generate": lambda lm: lm.generate(TEXT),
            "choose": lambda lm: lm.choose(TEXT, ["h"]),
            "fill": lambda lm: lm.fill("[MASK]"),
        }
        if name is not None and use in calls:
            with pytest.raises(ConfigError):
                calls[use](loaded(name))
