"""Classes of texts and pairs, and similarity: labels, losses, answers, scores, for each shape."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tasks import small
from tests.tiers import tiers
from tlx.base.errors import ConfigError, DataError
from tlx.models.transformer import Transformer
from tlx.tasks import TABLE

TEXTS = small.records_of(
    {"text": "abc", "label": "no"},
    {"text": "a much longer text than the row", "label": "yes"},
    {"text": "", "label": "no"},
)
SETS = small.records_of(
    {"text": "ab", "label": "x, y"}, {"text": "b", "label": ["z"]}, {"text": "c", "label": ""}
)
PAIRS = small.records_of(
    {"premise": "ab", "hypothesis": "c", "label": "e"}, {"premise": "b", "hypothesis": "d", "label": "n"}
)
ALIKE = small.records_of(
    {"sentence1": "ab", "sentence2": "c", "score": "5.000"},
    {"sentence1": "b", "sentence2": "ab", "score": 0},
    {"sentence1": "q", "sentence2": "r", "score": 2.5},
)
CHOICES = small.records_of(
    {"context": "ab", "choice1": "c", "choice2": "de", "label": "0"},
    {"context": "b", "choice1": "ab", "choice2": "f", "label": "1"},
)
CASES = {
    "multiple_choice": (CHOICES, {}),
    "classification": (TEXTS, {}),
    "pair_classification": (PAIRS, {}),
    "similarity": (ALIKE, {}),
}


def made(task, shape, records=None, dropout=0.0, smoothing=0.0, **config):
    known, settings = CASES[task]
    records = records or known
    spec = small.spec_of(task, shape, records, **(settings | config))
    batch = small.batch_of(task, spec, records)
    module = small.module_of(task, shape, spec.config, dropout, smoothing)
    return spec, batch, module, small.init(module, batch)


@pytest.mark.parametrize(
    ("task", "shape"),
    tiers(
        [
            ("pair_classification", "encoder"),
            *itertools.product(("classification", "similarity"), small.SHAPES),
        ],
        quick=[("pair_classification", "encoder"), ("classification", "decoder")],
    ),
)
def test_only_the_texts_matter(task, shape):
    """Rows of padding weigh nothing, and what stands behind a text cannot be seen."""
    spec, batch, module, params = made(task, shape)
    terms, outputs = small.evaluated(module, params, batch)
    assert set(params) == {"model", "heads"} and set(params["heads"]) == {task}
    assert np.isfinite(terms["loss"].sum) and float(terms["loss"].weight) == len(batch["weights"])
    noisy = dict(batch)
    for prefix in ("", "encoder_", "decoder_"):
        if prefix + "tokens" in batch:
            padding = batch[prefix + "segments"] == 0
            noisy[prefix + "tokens"] = np.where(padding, 99, batch[prefix + "tokens"])
    _, same = small.evaluated(module, params, noisy)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), outputs, same)
    parts = []
    for weights in np.eye(len(batch["weights"]), dtype=np.float32):
        parts.append(small.evaluated(module, params, small.replaced(batch, weights=weights))[0]["loss"])
    assert [float(part.weight) for part in parts] == [1.0] * len(parts)
    np.testing.assert_allclose(sum(part.sum for part in parts), terms["loss"].sum, rtol=1e-5)


@pytest.mark.parametrize("shape", ["decoder"])
def test_dropout_is_the_rows_own(shape):
    spec, batch, module, params = made("similarity", shape, dropout=0.3)
    keys = jax.random.split(jax.random.key(1), 3)

    @jax.jit
    def outputs(rows, keys):
        return module.apply({"params": params}, rows, keys, method="outputs")["number"]

    drawn = outputs(batch, keys)
    turned = {name: value[::-1] for name, value in batch.items()}
    np.testing.assert_allclose(outputs(turned, keys[::-1])[::-1], drawn, rtol=1e-5, atol=1e-6)
    assert not np.allclose(drawn, outputs(batch, keys[::-1]))


def test_the_loss_is_cross_entropy():
    spec, batch, module, params = made("classification", "encoder", smoothing=0.2)
    terms, outputs = small.evaluated(module, params, batch)
    log_p = np.asarray(jax.nn.log_softmax(outputs["logits"]))
    rows = np.arange(3)
    expected = -(0.8 * log_p[rows, [0, 1, 0]] + 0.1 * log_p.sum(axis=1)).sum()
    assert float(terms["loss"].sum) == pytest.approx(expected, rel=1e-5)
    assert float(terms["accuracy"].sum) == (log_p.argmax(1) == [0, 1, 0]).sum()


def test_sets_of_labels():
    spec, batch, module, params = made("classification", "encoder", SETS, multi_label=True)
    assert spec.config.labels == ("x", "y", "z")
    np.testing.assert_array_equal(batch["label"], [[1, 1, 0], [0, 0, 1], [0, 0, 0]])
    terms, outputs = small.evaluated(module, params, batch)
    p = 1 / (1 + np.exp(-np.asarray(outputs["logits"], np.float64)))
    expected = -np.where(batch["label"] > 0, np.log(p), np.log(1 - p)).mean(axis=1).sum()
    assert float(terms["loss"].sum) == pytest.approx(expected, rel=1e-5)
    task, logits = TABLE.load("classification"), np.array([[1, 2, -1], [-1, 1, 1], [-1, -1, -1.0]])
    answers = task.predictions({"logits": logits}, None, spec)
    assert [answer["labels"] for answer in answers] == [["x", "y"], ["y", "z"], []]
    scores = task.score(answers, SETS, spec)
    assert scores.main == "f1_micro" and scores.figures["accuracy"] == pytest.approx(2 / 3)
    assert scores.figures["f1_micro"] == pytest.approx(2 * 3 / 7) == scores.statistic(np.arange(3))


def test_answers_and_scores_of_classes(tmp_path):
    spec = small.spec_of("classification", "encoder", TEXTS)
    task = TABLE.load("classification")
    answers = task.predictions({"logits": np.array([[0, 3.0], [0, 3.0], [2.0, 0]])}, None, spec)
    assert [answer["label"] for answer in answers] == ["yes", "yes", "no"]
    assert answers[0]["probability"] == pytest.approx(1 / (1 + np.exp(-3)), abs=1e-4)
    scores = task.score(answers, TEXTS, spec)
    assert scores.main == "accuracy" and scores.figures["accuracy"] == pytest.approx(2 / 3)
    assert scores.figures["f1/no"] == pytest.approx(2 / 3)
    assert scores.figures["error_rate"] == pytest.approx(1 / 3)
    assert scores.figures["precision_macro"] == scores.figures["recall_macro"] == pytest.approx(0.75)
    # One of the two "yes" is right, at 95%; "no" is right at 88%.
    expected = (abs(1 - 2 * 0.9526) + 1 - 0.8808) / 3
    assert scores.figures["calibration_error"] == pytest.approx(expected, abs=1e-3)
    assert scores.statistic(np.array([1, 2, 2])) == 1.0 and scores.majority_baseline == pytest.approx(2 / 3)
    task.draw(answers, TEXTS, spec, tmp_path, "test")
    assert [path.name for path in sorted(tmp_path.iterdir()) if path.stat().st_size > 1000] == [
        "confusion_test.png",
        "reliability_test.png",
    ]


def test_what_is_outside_all_classes_is_counted_by_itself():
    records = small.records_of(*({"text": "t", "label": name} for name in ("a", "oos", "b", "oos")))
    spec = small.spec_of("classification", "encoder", records, out_of_scope_label="oos")
    answers = [{"label": name} for name in ("a", "oos", "oos", "b")]
    figures = TABLE.load("classification").score(answers, records, spec).figures
    assert figures["in_scope_accuracy"] == figures["out_of_scope_recall"] == figures["accuracy"] == 0.5
    figures = TABLE.load("classification").score(answers[:1], records[:1], spec).figures
    assert figures["in_scope_accuracy"] == 1.0 and "out_of_scope_recall" not in figures
    unseen = small.spec_of("classification", "encoder", records, out_of_scope_label="other").config
    assert unseen.labels == ("a", "b", "oos", "other")  # few labels may have none of it
    with pytest.raises(
        ConfigError, match=r"objective.out_of_scope_label = 'other' is none of the classes: a, b"
    ):
        dataclasses.replace(unseen, labels=("a", "b")).validate()


def test_a_decoder_keeps_its_language_model_loss():
    spec, batch, module, params = made("classification", "decoder", lm_loss_weight=0.5)

    @jax.jit
    def terms_of(batch):
        return module.apply({"params": params}, batch)[0]

    terms = terms_of(batch)
    assert float(terms["lm_loss"].loss_weight) == 0.5
    assert float(terms["lm_loss"].weight) == (batch["segments"][:, 1:] > 0).sum()
    assert float(terms["lm_loss"].sum / terms["lm_loss"].weight) == pytest.approx(np.log(363), rel=0.2)
    none = terms_of(small.replaced(batch, weights=np.zeros(3, np.float32)))
    assert float(none["lm_loss"].weight) == 0


@pytest.mark.slow
@pytest.mark.parametrize("task", ["multiple_choice", "similarity"])
def test_the_language_models_loss_is_over_all_rows_of_an_example(task):
    """Both choices, the wrong one too, and both orders of a pair: the mean over their tokens, by numpy."""
    spec, batch, module, params = made(task, "decoder", lm_loss_weight=0.5)
    terms = jax.jit(lambda batch: module.apply({"params": params}, batch)[0])(batch)
    rows = {name: batch[name].reshape(-1, small.LENGTH) for name in ("tokens", "segments", "positions")}
    lm = Transformer(module.model).bind({"params": params["model"]})
    logits = np.asarray(lm.logits(lm(rows)), np.float64)[:, :-1, : small.TOKENIZER.vocab.size]
    targets = rows["tokens"][:, 1:]
    chosen = np.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    losses = np.log(np.exp(logits).sum(axis=-1)) - chosen
    real = rows["segments"][:, 1:] > 0
    assert real.any(axis=1).all() and len(real) == 2 * len(batch["weights"])
    np.testing.assert_allclose(terms["lm_loss"].sum, losses[real].sum(), rtol=1e-5)
    assert terms["lm_loss"].weight == real.sum() and terms["lm_loss"].loss_weight == 0.5


def test_a_decoder_reads_a_pair_in_both_orders():
    spec, batch, module, params = made("similarity", "decoder")
    assert batch["tokens"].shape == (3, 2, small.LENGTH) and batch["place"].shape == (3, 2)
    turned = {name: value[:, ::-1] if value.ndim > 1 else value for name, value in batch.items()}
    one, other = (small.evaluated(module, params, rows)[1]["number"] for rows in (batch, turned))
    np.testing.assert_allclose(one, other, rtol=1e-5)
    other_pair = small.batch_of("similarity", spec, ALIKE[::-1])
    assert not np.allclose(one, small.evaluated(module, params, other_pair)[1]["number"])


def test_similarity_is_on_its_scale():
    spec = small.spec_of("similarity", "encoder", ALIKE)
    batch = small.batch_of("similarity", spec, ALIKE)
    np.testing.assert_allclose(batch["label"], [1, 0, 0.5])
    task = TABLE.load("similarity")
    answers = task.predictions({"number": jnp.array([0.8, 0.2, 0.4])}, None, spec)
    assert [answer["score"] for answer in answers] == [4.0, 1.0, 2.0]
    scores = task.score(answers, ALIKE, spec)
    assert scores.main == "spearman" and scores.figures["spearman"] == 1.0
    assert scores.figures["rmse"] == pytest.approx(np.sqrt((1 + 1 + 0.25) / 3))


def test_the_accuracy_is_given_by_the_values_of_a_column():
    languages = ("ko", "en", "ko", "en", "sw")
    records = small.records_of(
        *({"premise": "a", "hypothesis": "b", "label": "e", "language": name} for name in languages)
    )
    spec = small.spec_of("pair_classification", "encoder", records, labels=("e", "n"), figures_by="language")
    task = TABLE.load("pair_classification")
    answers = [{"label": label, "probability": 0.5} for label in ("e", "n", "n", "e", "e")]
    figures = task.score(answers, records, spec).figures
    by_language = {name: value for name, value in figures.items() if name.startswith("accuracy/")}
    assert by_language == {"accuracy/en": 0.5, "accuracy/ko": 0.5, "accuracy/sw": 1.0}
    assert figures["accuracy"] == 0.6
    with pytest.raises(DataError, match="objective.figures_by"):
        task.check_record(spec.config, PAIRS[0])


def test_names_of_classes_are_sorted_numbers_by_value():
    records = small.records_of(*({"text": "", "label": label} for label in (10, 2, 2, "1")))
    assert small.spec_of("classification", "encoder", records).config.labels == ("1", "2", "10")


@pytest.mark.parametrize(
    ("task", "values", "config", "error", "message"),
    [
        ("classification", {"text": "a", "label": "x"}, {}, ConfigError, "one value only.*'x'"),
        ("classification", {"text": "a", "lable": "x"}, {}, DataError, "file:1 .*did you mean 'lable'"),
        ("classification", {"text": "a", "label": ["x"]}, {}, DataError, "file:1.*objective.multi_label"),
        (
            "classification",
            {"text": "a", "label": "c"},
            {"labels": ("a", "b")},
            DataError,
            "file:1: label = 'c'",
        ),
        ("classification", {"text": 3, "label": "a"}, {"labels": ("a", "b")}, DataError, "wants text"),
        ("similarity", {"sentence1": "", "sentence2": "", "score": "x"}, {}, DataError, "no finite number"),
        ("similarity", {"sentence1": "", "sentence2": "", "score": "nan"}, {}, DataError, "no finite number"),
    ],
)
def test_records_that_do_not_fit(task, values, config, error, message):
    records = small.records_of(values)
    with pytest.raises(error, match=message):
        small.batch_of(task, small.spec_of(task, "encoder", records, **config), records)
