"""Distillation layer by layer: every loss by numpy, the map of layers, and what either model is shown."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.small import ENCODER, VOCAB, gelu, layer_norm, log_softmax, spec_of, text
from tests.objectives.small import batch_of as rows_of
from tlx.base.errors import ConfigError
from tlx.models.transformer import Transformer
from tlx.nn.config import PositionConfig
from tlx.nn.losses import LossConfig
from tlx.objectives import TABLE
from tlx.objectives.layer_distillation import LayerDistillation
from tlx.objectives.mlm import MLMObjective
from tlx.parallel import unbox
from tlx.training.step import merge_params

TEACHER = dataclasses.replace(ENCODER, num_layers=4, width=24)
STUDENT = dataclasses.replace(ENCODER, num_layers=2)
CONFIG = LayerDistillation(
    masking_rate=0.4,
    mask_token_fraction=1.0,
    random_token_fraction=0.0,
    teacher="there",
    teacher_model=TEACHER,
    prediction_weight=0.5,
)


def drawn(boxed, seed: int):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), unbox(boxed))


def parts(config=CONFIG, student=STUDENT):
    windows = [text(22, 22, seed=0), text(22, 13, seed=1)]
    made = rows_of(spec_of("layer_distillation", config), windows)
    module = TABLE.load("layer_distillation").module(config, student, LossConfig())
    shapes = jax.eval_shape(module.init, jax.random.key(0), made)["params"]
    return module, made, drawn(shapes, 7), drawn(module.frozen(), 8)


def terms_of(module, made, params, frozen):
    call = jax.jit(lambda *trees: module.apply({"params": merge_params(*trees)}, made)[0])
    return call(params, frozen)


def states(model, params, made):
    """H_0 ... H_L, each from a model that ends there, float64."""
    found = []
    encoder = params["encoder"]
    for count in range(1, model.num_layers + 1):
        blocks = jax.tree.map(lambda x, n=count: x[:n], encoder["blocks"])
        shorter = Transformer(dataclasses.replace(model, num_layers=count))
        cut = {**params, "encoder": {**encoder, "blocks": blocks}}
        found.append(np.asarray(jax.jit(shorter.apply)({"params": cut}, made), np.float64))
    return [embedded(params, made), *found]


def embedded(params, made):
    front = jax.tree.map(lambda x: np.asarray(x, np.float64), params["encoder"]["front"])
    table = np.asarray(params["embedding"]["table"], np.float64)
    x = table[made["tokens"]] + front["positions"][made["positions"]] + front["types"][0]
    return layer_norm(x, front["norm"])


def logits_of(params, layer: int, x_BTD):
    """q_i k_j / sqrt(H) of every head, by its sum."""
    part = jax.tree.map(lambda x: np.asarray(x[layer], np.float64), params["encoder"]["blocks"]["attention"])
    q, k = (np.einsum("btd,dnh->btnh", x_BTD, part[n]["kernel"]) + part[n]["bias"] for n in ("query", "key"))
    return np.einsum("btnh,bsnh->bnts", q, k) / np.sqrt(q.shape[-1])


@pytest.mark.slow
@pytest.mark.parametrize("layer_map", [pytest.param((), marks=pytest.mark.slow), (4, 1)])
def test_losses_are_numpys(layer_map):
    config = dataclasses.replace(CONFIG, layer_map=layer_map, temperature=2.0)
    module, made, params, frozen = parts(config)
    terms, teacher = terms_of(module, made, params, frozen), frozen["teacher"]
    ours, theirs = (states(m, p["model"], made) for m, p in ((STUDENT, params), (TEACHER, teacher)))
    kernel, bias = (np.asarray(params["heads"]["projection"][n], np.float64) for n in ("kernel", "bias"))
    segments, chosen = made["segments"], layer_map or (2, 4)
    real = segments > 0
    errors = [
        ((ours[m] @ kernel + bias - theirs[g]) ** 2).mean(-1)[real].sum()
        for m, g in ((0, 0), *_pairs(chosen))
    ]
    np.testing.assert_allclose(terms["embedding_loss"].sum, errors[0], rtol=1e-5)
    np.testing.assert_allclose(terms["hidden_loss"].sum, sum(errors[1:]), rtol=1e-5)
    seen = (segments[:, :, None] == segments[:, None]) & (segments[:, None] > 0)
    total = 0.0
    for m, g in _pairs(chosen):
        own = logits_of(params["model"], m - 1, ours[m - 1])
        other = logits_of(teacher["model"], g - 1, theirs[g - 1])
        total += (((own - other) ** 2).mean(axis=1) * seen).sum()
    np.testing.assert_allclose(terms["attention_loss"].sum, total, rtol=1e-5)
    p, q = (log_softmax(head(tree, h[-1]) / 2) for tree, h in ((teacher, theirs), (params, ours)))
    soft = (np.exp(p) * (p - q)).sum(-1)[real].sum()
    np.testing.assert_allclose(terms["prediction_loss"].sum, soft, rtol=1e-5)
    weights = {"embedding_loss": real.sum(), "hidden_loss": real.sum(), "prediction_loss": real.sum()}
    weights |= {"attention_loss": seen.sum(), "loss": made["weights"].sum()}
    assert {name: float(terms[name].weight) for name in weights} == weights
    scales = {
        "embedding_loss": 1.0,
        "hidden_loss": 1.0,
        "attention_loss": 1.0,
        "prediction_loss": 2.0,
        "loss": 0.0,
    }
    assert {name: terms[name].loss_weight for name in scales} == scales


def _pairs(chosen):
    return tuple(enumerate(chosen, start=1))


def head(params, hidden):
    part = jax.tree.map(lambda x: np.asarray(x, np.float64), params["heads"]["mlm"])
    x = layer_norm(gelu(hidden @ part["dense"]["kernel"] + part["dense"]["bias"]), part["norm"])
    return (x @ np.asarray(params["model"]["output"]["kernel"], np.float64).T + part["bias"])[
        ..., : VOCAB.size
    ]


@pytest.mark.slow
def test_a_student_that_is_its_teacher_has_nothing_to_learn():
    config = dataclasses.replace(CONFIG, teacher_model=STUDENT, init_layers=(0, 1))
    module, made, params, frozen = parts(config)
    params = module.begin(params, frozen)
    eye = {"kernel": jnp.eye(16), "bias": jnp.zeros(16)}
    params = {**params, "heads": {**params["heads"], "projection": eye}}
    terms = terms_of(module, made, params, frozen)
    for name in ("embedding_loss", "hidden_loss", "attention_loss", "prediction_loss"):
        assert abs(float(terms[name].sum)) < 1e-4
    assert float(terms["loss"].sum) > 1


@pytest.mark.slow
def test_neither_model_sees_a_hidden_token():
    module, made, params, frozen = parts()
    made = {key: value[:1] for key, value in made.items()}

    def total(own, theirs):
        model = {**params["model"], "embedding": {"table": own}}
        known = {**frozen["teacher"]["model"], "embedding": {"table": theirs}}
        both = {**params, "model": model, "teacher": {**frozen["teacher"], "model": known}}
        terms = module.apply({"params": both}, made)[0]
        shown = module.teacher().apply({"params": both["teacher"]}, made, (1, 2, 3, 4), None, method="layers")
        return sum(term.sum for term in terms.values()) + sum(
            jnp.sum(jnp.sin(x)) for x in (*shown[0].states, *shown[0].logits)
        )

    tables = params["model"]["embedding"]["table"], frozen["teacher"]["model"]["embedding"]["table"]
    seen = [np.abs(g).sum(-1) for g in jax.jit(jax.grad(total, (0, 1)))(*tables)]
    hidden, shown = made["targets"][made["weights"] > 0], np.unique(made["tokens"][made["segments"] > 0])
    for one in seen:
        assert one[hidden].max() == 0 and one[shown].min() > 0


def test_examples_are_those_of_masked_language_modelling():
    objective = TABLE.load("layer_distillation")
    assert type(objective).example is MLMObjective.example
    assert type(objective).window_spec is MLMObjective.window_spec


def test_without_its_teacher_a_student_has_all_its_parameters():
    module, made, params, _ = parts()
    assert set(terms_of(module, made, params, {})) == {"loss", "accuracy"}
    assert params["heads"]["projection"]["kernel"].shape == (16, 24)


@pytest.mark.parametrize(
    "changes, model, message",
    [
        ({"layer_map": (1,)}, {}, "must name one of the teacher's layers 1 to 4 for each of the 2"),
        ({"layer_map": (0, 1)}, {}, "layer_map = .0, 1. must name"),
        ({}, {"num_layers": 3}, "no multiple of model.num_layers = 3"),
        ({}, {"attention": dataclasses.replace(ENCODER.attention, num_heads=4)}, "must be the teacher's 2"),
        ({}, {"position": PositionConfig("relative_bias")}, "'relative_bias' has other terms"),
    ],
)
def test_what_cannot_be_compared_is_said(changes, model, message):
    config = dataclasses.replace(CONFIG, **changes)
    module, made, params, frozen = parts(config, dataclasses.replace(STUDENT, **model))
    with pytest.raises(ConfigError, match=message):
        terms_of(module, made, params, frozen)


def test_wrong_values_are_named():
    for changes, message in (
        ({"temperature": 0.0}, "temperature = 0"),
        ({"hidden_weight": -1.0}, "hidden_weight"),
    ):
        with pytest.raises(ConfigError, match=message):
            dataclasses.replace(CONFIG, **changes).validate()
