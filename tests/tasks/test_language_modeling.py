"""Language modelling on records: every token once, packed as alone, nats by numpy."""

import dataclasses
import math

import numpy as np
import pytest

from tests.tasks import small
from tests.tasks.test_generation import logits_of
from tlx.data.config import DataConfig
from tlx.data.readers import RecordsConfig
from tlx.data.records import RecordPipeline, build_records
from tlx.evaluation.answers import evaluate_task, make_predictor
from tlx.tasks import TABLE
from tlx.tasks.language_modeling import LanguageModeling
from tlx.tasks.shared.base import TaskSpec

TASK, V = TABLE.load("language_modeling"), small.TOKENIZER.vocab
TEXTS = ("abc", "", "a text that is longer than a row of it", "가나", "short one", "ab")
RECORDS = small.records_of(*({"text": text} for text in TEXTS))
SPEC = TaskSpec(LanguageModeling(), small.LENGTH, V, "decoder", tokenizer=small.TOKENIZER)


def items_of(spec=SPEC):
    return TASK.prepare(RECORDS, small.TOKENIZER, spec)


def rows_of(items, spec=SPEC):
    rows = [TASK.example(np.random.default_rng(0), item, spec) for item in items]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("prompt", [(), (500, 501)])
def test_every_token_is_asked_for_once(prompt):
    spec = dataclasses.replace(SPEC, prompt=prompt)
    items = items_of(spec)
    for number, text in enumerate(TEXTS):
        asked = [
            piece.tokens[piece.predicted] for item in items if item.record == number for piece in item.pieces
        ]
        assert np.concatenate(asked).tolist() == [*small.TOKENIZER.encode(text), V.eos]
    batch = rows_of(items, spec)
    assert batch["tokens"][0, : 4 + len(prompt)].tolist() == [V.bos, *prompt, *small.TOKENIZER.encode("abc")]
    assert batch["targets"][0, len(prompt) : 4 + len(prompt)].tolist() == [
        *small.TOKENIZER.encode("abc"),
        V.eos,
    ]
    assert all(TASK.example_size(item, SPEC) <= small.LENGTH for item in items)


def packed(tmp_path, **config):
    path = tmp_path / "texts.jsonl"
    if not path.exists():
        path.write_text("\n".join('{"text": "%s"}' % text for text in TEXTS))  # noqa: UP031
    records = RecordsConfig(train=(str(path),), validation=(str(path),))
    spec = dataclasses.replace(SPEC, config=LanguageModeling(**config))
    rest = {"batch_size": 2, "seed": 0}
    return build_records(DataConfig(records=records), small.TOKENIZER, TASK, spec, **rest)


def test_packed_is_as_alone(tmp_path):
    """Loss terms and gradients; rows are fewer, and hold every piece once."""
    import jax

    alone, together = items_of(), packed(tmp_path).items
    assert len(together) < len(alone) == len(packed(tmp_path, packing=False).items)
    pieces = sorted(piece.tokens.tolist() for item in together for piece in item.pieces)
    assert pieces == sorted(piece.tokens.tolist() for item in alone for piece in item.pieces)
    module = small.module_of("language_modeling", "decoder", SPEC.config)
    params = small.init(module, rows_of(alone))

    @jax.jit
    def graded(params, batch):
        def loss(params):
            terms = module.apply({"params": params}, batch)[0]
            return terms["loss"].sum, terms

        return jax.value_and_grad(loss, has_aux=True)(params)

    (one, terms), gradient = graded(params, rows_of(alone))
    (other, others), gradients = graded(params, rows_of(together))
    assert float(one) == pytest.approx(float(other), rel=1e-5)
    assert float(terms["loss"].weight) == float(others["loss"].weight) == sum(map(len, map(encoded, TEXTS)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-3), gradient, gradients)


def encoded(text):
    return [*small.TOKENIZER.encode(text), V.eos]


@pytest.mark.slow
def test_nats_and_bits_per_byte_by_numpy():
    module, items = small.module_of("language_modeling", "decoder", SPEC.config), items_of()
    params = small.init(module, rows_of(items))
    pipeline = RecordPipeline(DataConfig(), RECORDS, items, TASK, SPEC, 4, 0, "validation")
    found = evaluate_task(make_predictor(module), params, TASK, SPEC, pipeline)
    nats = np.zeros(len(TEXTS))
    for item in items:
        (piece,) = item.pieces
        y = logits_of(module, params, piece.tokens[:-1], [], "decoder")
        log_p = y - np.log(np.exp(y).sum(axis=-1, keepdims=True))
        nats[item.record] -= log_p[np.arange(len(y)), piece.tokens[1:]].sum()
    np.testing.assert_allclose([answer["nats"] for answer in found.answers], nats, rtol=1e-4)
    assert [answer["bytes"] for answer in found.answers] == [len(text.encode()) for text in TEXTS]
    tokens, size = sum(len(encoded(text)) for text in TEXTS), sum(len(text.encode()) for text in TEXTS)
    assert found.figures["bits_per_byte"] == pytest.approx(nats.sum() / math.log(2) / size, rel=1e-4)
    assert found.figures["perplexity"] == pytest.approx(math.exp(nats.sum() / tokens), rel=1e-4)
    assert found.figures["loss"] == pytest.approx(nats.sum() / tokens, rel=1e-4)
    assert found.scores.statistic(np.array([2, 2])) == pytest.approx(nats[2] / math.log(2) / 38, rel=1e-4)


def test_batches_of_packed_rows_are_functions_of_their_number(tmp_path):
    one, other = packed(tmp_path), packed(tmp_path)
    for k in (5, 0, 5):
        for name, array in one.batch(k).items():
            np.testing.assert_array_equal(array, other.batch(k)[name])
    twice = np.concatenate([one.batch(k)["tokens"] for k in range(len(one.items))])
    assert np.unique(twice, axis=0, return_counts=True)[1].tolist() == [2] * len(one.items)
    assert one.fingerprint != packed(tmp_path, packing=False).fingerprint
