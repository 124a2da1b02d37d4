"""Distillation of tasks: every loss by numpy, nothing to learn from oneself, and runs with a teacher."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.small import log_softmax
from tests.tasks import small
from tests.tiers import tiers
from tlx.base.config import to_dict
from tlx.base.errors import ConfigError
from tlx.nn.losses import LossConfig
from tlx.parallel import unbox
from tlx.tasks import TABLE
from tlx.tasks.shared.frames import tlx_frame
from tlx.tasks.shared.student import DistillConfig, check_rows, make_student
from tlx.text.frames import Frame
from tlx.training.step import merge_params

CLASSES = small.records_of({"text": "good", "label": "a"}, {"text": "bad one", "label": "b"})
RECORDS = {
    "classification": CLASSES,
    "pair_classification": small.records_of(
        {"premise": "x", "hypothesis": "yz", "label": "a"},
        {"premise": "x y", "hypothesis": "y", "label": "b"},
    ),
    "multiple_choice": small.records_of(
        {"context": "it is", "choice1": "a", "choice2": "bc", "label": "1"},
        {"context": "so", "choice1": "cd", "choice2": "e", "label": "2"},
    ),
    "token_classification": small.records_of(
        {"tokens": ["ab", "c"], "tags": ["O", "X"]}, {"tokens": ["d"], "tags": ["O"]}
    ),
    "question_answering": small.records_of(
        {"question": "a", "context": "b cd", "answers": ["cd"], "starts": [2]},
        {"question": "e", "context": "fg", "answers": ["fg"], "starts": [0]},
    ),
    "similarity": small.records_of(
        {"sentence1": "a", "sentence2": "bc", "score": 2.0},
        {"sentence1": "d", "sentence2": "d", "score": 5.0},
    ),
    "generation": small.records_of({"source": "ab", "target": "xy"}, {"source": "c", "target": "z"}),
    "language_modeling": small.records_of({"text": "ab"}, {"text": "cde"}),
}
SETTINGS = {"question_answering": {"max_question_tokens": 4, "stride": 2}, "generation": {"target_length": 6}}


def parts(name, shape="encoder", distill=None, student=None, **settings):
    """A student with its batch, its parameters and its teacher's."""
    records = RECORDS[name]
    spec = small.spec_of(name, shape, records, **SETTINGS.get(name, {}), **settings)
    batch = small.batch_of(name, spec, records)
    task = TABLE.load(name)
    teacher = small.model_of(shape)
    distill = distill or DistillConfig(temperature=2.0, hard_weight=0.5)
    said = json.dumps(to_dict(spec.config))
    distill = dataclasses.replace(distill, teacher="there", teacher_model=teacher, teacher_task=said)
    distill.validate()
    student = student or dataclasses.replace(teacher, num_layers=1)
    module = make_student(task, spec.config, student, LossConfig(), distill)
    frozen = drawn(module.frozen(), 8)
    return module, batch, far_apart(small.init(module, batch)), {"teacher": far_apart(frozen["teacher"])}


def drawn(boxed, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), unbox(boxed))


def far_apart(params):
    """The parameters with larger heads: of models that nearly agree float32 rounds the divergence away."""
    heads = jax.tree.map(lambda leaf: 5 * leaf, params.get("heads", {}))
    return {**params, **({"heads": heads} if heads else {})}


def terms_of(module, batch, params, frozen):
    return jax.jit(lambda *trees: module.apply({"params": merge_params(*trees)}, batch)[0])(params, frozen)


def logits_of(module, params, batch):
    """What the task's own module says, of either model."""
    plain = module.task.module(module.config, module.model, LossConfig())
    if not module.task.module.has_head:
        return plain.apply({"params": params}, batch, method="logits")
    return plain.apply({"params": params}, batch, method="outputs")["logits"]


def divergence(student, teacher, dim=-1):
    log_p, log_q = (log_softmax_at(np.asarray(x, np.float64) / 2, dim) for x in (teacher, student))
    return (np.exp(log_p) * (log_p - log_q)).sum(dim)


def log_softmax_at(x, dim):
    return np.moveaxis(log_softmax(np.moveaxis(x, dim, -1)), -1, dim) if dim != -1 else log_softmax(x)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("classification", "encoder"),
        pytest.param("pair_classification", "encoder", marks=pytest.mark.slow),
        pytest.param("multiple_choice", "decoder", marks=pytest.mark.slow),
        ("token_classification", "encoder"),
        ("question_answering", "encoder"),
        ("generation", "decoder"),
        pytest.param("generation", "encoder_decoder", marks=pytest.mark.slow),
        pytest.param("language_modeling", "decoder", marks=pytest.mark.slow),
    ],
)
def test_the_divergence_is_numpys(name, shape):
    module, batch, params, frozen = parts(name, shape)
    terms = terms_of(module, batch, params, frozen)
    ours, theirs = (logits_of(module, tree, batch) for tree in (params, frozen["teacher"]))
    dim = 1 if name == "question_answering" else -1
    values = divergence(ours, theirs, dim)
    weights = batch["weights"]
    if name == "question_answering":
        values = values.mean(-1)
    if name == "token_classification":
        weights = batch["label_weights"] * weights[:, None]
    np.testing.assert_allclose(terms["soft_loss"].sum, (values * weights).sum(), rtol=2e-5)
    assert float(terms["soft_loss"].weight) == weights.sum() and terms["soft_loss"].loss_weight == 4.0
    # The task's own terms are those of its own module, with the weight that was asked for.
    plain = module.task.module(module.config, module.model, LossConfig())
    own = plain.apply({"params": params}, batch)[0]
    np.testing.assert_allclose(terms["loss"].sum, own["loss"].sum, rtol=1e-6)
    assert terms["loss"].loss_weight == 0.5


@pytest.mark.slow
def test_sets_of_classes_and_numbers_are_numpys():
    module, batch, params, frozen = parts("classification", multi_label=True)
    terms = terms_of(module, batch, params, frozen)
    ours, theirs = (
        np.asarray(logits_of(module, t, batch), np.float64) / 2 for t in (params, frozen["teacher"])
    )
    q, p = (1 / (1 + np.exp(-x)) for x in (ours, theirs))
    values = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean(-1)
    np.testing.assert_allclose(terms["soft_loss"].sum, values.sum(), rtol=1e-4)
    module, batch, params, frozen = parts("similarity")
    terms = terms_of(module, batch, params, frozen)
    plain = module.task.module(module.config, module.model, LossConfig())
    ours, theirs = (
        plain.apply({"params": tree}, batch, method="outputs")["number"]
        for tree in (params, frozen["teacher"])
    )
    np.testing.assert_allclose(terms["soft_loss"].sum, np.square(ours - theirs).sum(), rtol=1e-5)
    assert terms["soft_loss"].loss_weight == 1.0


LAYERS = DistillConfig(attention_weight=1.0, hidden_weight=2.0, embedding_weight=3.0)


@pytest.mark.parametrize(
    ("name", "shape", "distill"),
    [
        pytest.param("classification", "encoder", LAYERS, marks=pytest.mark.slow),
        ("generation", "decoder", DistillConfig(temperature=2.0)),
        pytest.param("question_answering", "encoder", LAYERS, marks=pytest.mark.slow),
        pytest.param("token_classification", "encoder", LAYERS, marks=pytest.mark.slow),
    ],
)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(name, shape, distill):
    module, batch, params, _ = parts(name, shape, distill)

    def loss(params, teacher):
        terms = module.apply({"params": {**params, "teacher": teacher}}, batch)[0]
        return sum(term.loss_weight * term.sum for term in terms.values())

    same, gradient = jax.jit(jax.value_and_grad(loss))(params, params)
    assert abs(float(same)) < 1e-5
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) < 1e-5
    other = jax.tree.map(lambda leaf: leaf + 0.1, params)
    assert float(jax.jit(loss)(params, other)) > 1e-3


@pytest.mark.slow
def test_layers_are_compared_as_in_pretraining():
    """The terms of layers are those of numpy: errors over tokens and over pairs of tokens that see each other."""
    student = dataclasses.replace(small.model_of("encoder"), width=8)
    module, batch, params, frozen = parts("classification", distill=LAYERS, student=student)
    assert params["distillation"]["projection"]["kernel"].shape == (8, 16)
    terms = terms_of(module, batch, params, frozen)
    ours, theirs = (
        one.apply({"params": tree}, batch, (1,), True, None, method="forward").layers
        for one, tree in ((module, params), (module.teacher_module(), frozen["teacher"]))
    )
    kernel, bias = (
        np.asarray(params["distillation"]["projection"][n], np.float64) for n in ("kernel", "bias")
    )
    real = batch["segments"] > 0
    for name, index, weight in (("embedding_loss", 0, 3.0), ("hidden_loss", 1, 2.0)):
        error = np.square(np.asarray(ours.states[index], np.float64) @ kernel + bias - theirs.states[index])
        np.testing.assert_allclose(terms[name].sum, error.mean(-1)[real].sum(), rtol=1e-5)
        assert terms[name].loss_weight == weight and float(terms[name].weight) == real.sum()
    seen = real[:, :, None] & real[:, None]
    error = np.square(np.asarray(ours.logits[0], np.float64) - theirs.logits[0]).mean(1)
    np.testing.assert_allclose(terms["attention_loss"].sum, error[seen].sum(), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("count", tiers([3, small.TOKENIZER.vocab.size], quick=[3]))
def test_stored_log_probabilities_are_those_of_k_outcomes_and_the_rest(count):
    module, batch, params, frozen = parts("generation", "decoder")
    stored = jax.jit(
        lambda p: module.teacher_module().apply({"params": p}, batch, count, 2.0, method="top_log_probs")
    )(frozen["teacher"])
    log_p = np.asarray(log_softmax(np.asarray(logits_of(module, frozen["teacher"], batch), np.float64) / 2))
    log_q = np.asarray(log_softmax(np.asarray(logits_of(module, params, batch), np.float64) / 2))
    np.testing.assert_array_equal(stored[0][..., 0], log_p.argmax(-1))
    np.testing.assert_allclose(stored[1], np.take_along_axis(log_p, np.asarray(stored[0]), -1), rtol=1e-4)
    kept = dataclasses.replace(module.distill, top_k=count)
    student = make_student(module.task, module.config, module.model, LossConfig(), kept)
    assert student.frozen() == {}
    rows = batch | {"teacher_ids": stored[0], "teacher_log_probs": stored[1]}
    terms = terms_of(student, rows, params, {})
    p, q = (np.take_along_axis(np.exp(x), np.asarray(stored[0]), -1) for x in (log_p, log_q))
    rest = [np.maximum(1 - x.sum(-1, keepdims=True), 1e-7) for x in (p, q)]
    p, q = (np.concatenate(pair, -1) for pair in ((p, rest[0]), (q, rest[1])))
    values = ((p * np.log(p / q)).sum(-1) * batch["weights"]).sum()
    np.testing.assert_allclose(terms["soft_loss"].sum, values, rtol=1e-3)
    whole = float(terms_of(module, batch, params, frozen)["soft_loss"].sum)
    assert float(terms["soft_loss"].sum) <= whole * (1 + 1e-4)
    if count > 3:
        np.testing.assert_allclose(terms["soft_loss"].sum, whole, rtol=1e-3)
    # Of its own log-probabilities it learns nothing.
    own = module.apply({"params": params}, batch, count, 2.0, method="top_log_probs")
    same = terms_of(student, batch | {"teacher_ids": own[0], "teacher_log_probs": own[1]}, params, {})
    assert abs(float(same["soft_loss"].sum)) < 1e-5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, "distill.temperature = 0"),
        ({"soft_weight": -1.0}, "distill.soft_weight"),
        ({"soft_weight": 0.0}, "all weights are 0"),
        ({"top_k": -1}, "distill.top_k = -1"),
        ({"top_k": 4, "hidden_weight": 1.0}, "weights of layers 0"),
    ],
)
def test_wrong_values_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(DistillConfig(teacher="there"), **changes).validate()


def test_a_weight_without_a_teacher_is_refused():
    DistillConfig().validate()
    with pytest.raises(ConfigError, match="distill.hidden_weight = 1.0 needs a teacher"):
        DistillConfig(hidden_weight=1.0).validate()


def test_teachers_that_do_not_fit_are_refused():
    module, *_ = parts("classification")
    distill = module.distill
    other = json.dumps(to_dict(dataclasses.replace(module.config, labels=("b", "a"))))
    for change, message in (
        ({"teacher_task": other}, "objective.labels"),
        ({"teacher_task": json.dumps({"name": "clm"})}, "is of 'clm'"),
        ({"teacher_task": ""}, "a directory without a head"),
        ({"teacher_model": small.model_of("decoder")}, "is decoder with"),
        ({"layer_map": (2,), "hidden_weight": 1.0}, None),
    ):
        student = make_student(
            module.task, module.config, module.model, LossConfig(), dataclasses.replace(distill, **change)
        )
        if message:
            with pytest.raises(ConfigError, match=message):
                student.frozen()
    with pytest.raises(ConfigError, match="few outcomes"):
        make_student(
            module.task, module.config, module.model, LossConfig(), dataclasses.replace(distill, top_k=3)
        )
    reward = TABLE.load("reward")
    with pytest.raises(ConfigError, match="has no distribution"):
        make_student(reward, reward.config_class(), module.model, LossConfig(), distill)
    vocab = small.TOKENIZER.vocab
    check_rows(module.config, None, distill, "encoder", vocab)
    check_rows(module.config, tlx_frame("encoder", vocab), distill, "encoder", vocab)
    with pytest.raises(ConfigError, match="another form"):
        check_rows(module.config, Frame(before=(1,)), distill, "encoder", vocab)
