"""Several examples in one row: loss and gradient are those of the same examples in rows of their own."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.tasks import small
from tests.tiers import tiers
from tlx.data.config import DataConfig
from tlx.data.readers import RecordsConfig
from tlx.data.records import build_records
from tlx.tasks import TABLE
from tlx.tasks.classification import Classification
from tlx.tasks.pair_classification import PairClassification
from tlx.tasks.shared.heads import mean_over
from tlx.tasks.shared.packed_examples import JoinedItems

LENGTH = 32  # room for four
TEXTS = small.records_of(
    {"text": "abc", "label": "no"},
    {"text": "defgh", "label": "yes"},
    {"text": "", "label": "yes"},
    {"text": "a much longer text than a row has places for", "label": "no"},
    {"text": "ijkl mnop", "label": "no"},
)
PAIRS = small.records_of(
    {"premise": "ab", "hypothesis": "c", "label": "e"}, {"premise": "defgh", "hypothesis": "", "label": "n"}
)
CASES = [("classification", shape, "place") for shape in small.SHAPES]
CASES += [("classification", "encoder_decoder", "mean"), ("pair_classification", "encoder", "mean")]
CASES += [("classification", "bilstm", "token")]


def spec_of(task, shape, **config):
    known = {"classification": Classification, "pair_classification": PairClassification}
    settings = TABLE.load(task).infer_labels(
        known[task](**config), TEXTS if task == "classification" else PAIRS
    )
    return dataclasses.replace(
        small.spec_of(task, shape, PAIRS if "pair" in task else TEXTS), config=settings
    )


def rows_of(task, items, spec):
    rows = [TABLE.load(task).example(None, item, spec) for item in items]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def both(task, shape, **config):
    """(spec, batch) of the records alone, and two or so in a row."""
    parts, records = TABLE.load(task), PAIRS if "pair" in task else TEXTS
    found = []
    for packing in (False, True):
        spec = dataclasses.replace(spec_of(task, shape, packing=packing, **config), length=LENGTH)
        items = parts.prepare(records, small.TOKENIZER, spec)
        if packing and task == "classification":
            items = [TABLE.load(task).join([items[2], items[1], items[0]]), items[3], items[4]]
        elif packing:
            items = [TABLE.load(task).join(items)]
        found.append((spec, rows_of(task, items, spec)))
    return found


def graded(module, params, batch):
    @jax.jit
    def run(params, batch):
        def loss(params):
            terms = module.apply({"params": params}, batch)[0]
            return sum(term.sum * term.loss_weight for term in terms.values() if term.loss_weight), terms

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, terms), gradient = run(params, batch)
    return terms, gradient


@pytest.mark.slow
@pytest.mark.parametrize(("task", "shape", "pooling"), tiers(CASES, quick=[CASES[0], CASES[1], CASES[5]]))
def test_as_alone(task, shape, pooling):
    config = {"pooling": pooling} | ({"lm_loss_weight": 0.5} if shape == "decoder" else {})
    (spec, alone), (packed, together) = both(task, shape, **config)
    assert {value.shape[1] for name, value in together.items() if name.endswith("tokens")} == {LENGTH}
    cfg = small.model_of(shape)
    cfg = dataclasses.replace(cfg, position=dataclasses.replace(cfg.position, max_length=LENGTH))
    module, other = (TABLE.load(task).module(one.config, cfg) for one in (spec, packed))
    params = small.init(module, alone)
    if shape == "bilstm":
        # LSTMs of large weights are chaotic: over a long row a rounding error grows to a hundredth.
        params = jax.tree.map(lambda x: 0.25 * x, params)
    (terms, gradient), (others, gradients) = graded(module, params, alone), graded(other, params, together)
    assert set(terms) == set(others)
    for name, term in terms.items():
        assert float(term.weight) == float(others[name].weight) > 0
        np.testing.assert_allclose(term.sum, others[name].sum, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-3), gradient, gradients)


@pytest.mark.slow
def test_sets_of_labels_as_alone():
    parts, records = (
        TABLE.load("classification"),
        small.records_of({"text": "ab", "label": ["x", "z"]}, {"text": "cdef", "label": []}),
    )
    found = []
    for packing in (False, True):
        settings = Classification(labels=("x", "y", "z"), multi_label=True, packing=packing)
        spec = dataclasses.replace(spec_of("classification", "encoder"), config=settings)
        items = parts.prepare(records, small.TOKENIZER, spec)
        batch = rows_of(
            "classification", [TABLE.load("classification").join(items)] if packing else items, spec
        )
        module = small.module_of("classification", "encoder", settings)
        found.append(graded(module, small.init(module, batch), batch)[0])
    assert float(found[0]["loss"].weight) == float(found[1]["loss"].weight) == 2
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(found[0][name].sum, found[1][name].sum, rtol=1e-5)


def test_every_record_is_in_one_row_and_evaluation_has_a_row_for_each(tmp_path):
    path = tmp_path / "texts.jsonl"
    texts = ["ab" * (number % 9) for number in range(40)]
    path.write_text("\n".join(f'{{"text": "{text}", "label": "{len(text) % 4}"}}' for text in texts))
    records = RecordsConfig(train=(str(path),), validation=(str(path),))
    parts = TABLE.load("classification")
    settings = Classification(labels=("0", "2"), packing=True)
    spec = dataclasses.replace(spec_of("classification", "encoder"), config=settings, length=LENGTH)
    rest = {"batch_size": 4, "seed": 0}
    files = (DataConfig(records=records), small.TOKENIZER, parts, spec)
    train, validation = build_records(*files, **rest), build_records(*files, **rest, part="validation")
    assert sorted(one.record for item in train.items for one in item.items) == list(range(40))
    assert len(train.items) < 20 and all(
        TABLE.load("classification").example_size(item, spec) <= LENGTH for item in train.items
    )
    assert [[one.record for one in item.items] for item in validation.items] == [[n] for n in range(40)]
    batch = train.batch(0)
    assert batch["label"].shape == batch["weights"].shape == batch["place"].shape == (4, LENGTH // 8)
    assert [sum(row) for row in batch["weights"]] == [len(set(row) - {0}) for row in batch["segments"]]


def test_no_example_fills_nothing():
    spec = dataclasses.replace(spec_of("classification", "encoder", packing=True), length=LENGTH)
    row = TABLE.load("classification").example(None, JoinedItems(()), spec)
    assert not row["weights"].any() and not row["segments"].any() and row["tokens"].shape == (LENGTH,)


def test_means_are_of_each_example():
    rng = np.random.default_rng(0)
    hidden, segments = rng.normal(size=(2, 5, 3)), np.array([[1, 1, 2, 0, 0], [1, 2, 2, 2, 3]])
    means = mean_over(hidden, segments, 3)
    expected = [[hidden[0, :2].mean(0), hidden[0, 2], 0 * hidden[0, 0]]]
    expected += [[hidden[1, 0], hidden[1, 1:4].mean(0), hidden[1, 4]]]
    np.testing.assert_allclose(means, expected, rtol=1e-6, atol=1e-7)
