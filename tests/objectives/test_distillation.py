"""Distillation: the three losses by numpy, what the teacher is shown, and where the student begins."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.small import (
    ENCODER,
    VOCAB,
    at,
    gelu,
    layer_norm,
    log_softmax,
    masked_losses,
    spec_of,
    text,
)
from tests.objectives.small import batch_of as rows_of
from tlx.base.errors import ConfigError
from tlx.models.transformer import Transformer
from tlx.nn.embed import Unembedding
from tlx.nn.losses import LossConfig, soft_cross_entropy
from tlx.objectives import TABLE, distillation, mlm
from tlx.objectives.distillation import Distillation
from tlx.objectives.mlm import MLMObjective
from tlx.parallel import unbox
from tlx.training.step import merge_params

TEACHER = dataclasses.replace(ENCODER, num_layers=4)
STUDENT = dataclasses.replace(
    ENCODER, embedding=dataclasses.replace(ENCODER.embedding, num_types=0), vocab_multiple=8
)
CONFIG = Distillation(
    masking_rate=0.4,
    mask_token_fraction=1.0,
    random_token_fraction=0.0,
    teacher="there",
    teacher_model=TEACHER,
)


def drawn(boxed, seed: int):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), unbox(boxed))


def batch(config=CONFIG):
    windows = [text(22, 22, seed=0), text(22, 13, seed=1)]
    return rows_of(spec_of("distillation", config), windows)


def module_of(config=CONFIG, student=STUDENT):
    return TABLE.load("distillation").module(config, student, LossConfig())


def parts(config=CONFIG, student=STUDENT):
    module, made = module_of(config, student), batch(config)
    shapes = jax.eval_shape(module.init, jax.random.key(0), made)["params"]
    return module, made, drawn(shapes, 7), drawn(module.frozen(), 8)


def terms_of(module, made, params, frozen):
    call = jax.jit(lambda *trees: module.apply({"params": merge_params(*trees)}, made)[0])
    return call(params, frozen)


def predicted(model, params, made):
    """(hidden states, logits of every place) by the head's formula in float64."""
    hidden_BTD = np.asarray(jax.jit(Transformer(model).apply)({"params": params["model"]}, made), np.float64)
    head = jax.tree.map(lambda x: np.asarray(x, np.float64), params["heads"]["mlm"])
    x = layer_norm(gelu(hidden_BTD @ head["dense"]["kernel"] + head["dense"]["bias"]), head["norm"])
    kernel = np.asarray(params["model"]["output"]["kernel"], np.float64)
    return hidden_BTD, (x @ kernel.T + head["bias"])[..., : VOCAB.size]


def divergences(ours, theirs, temperature):
    p, q = log_softmax(theirs / temperature), log_softmax(ours / temperature)
    return np.sum(np.exp(p) * (p - q), axis=-1)


@pytest.mark.slow
@pytest.mark.parametrize("masked_only", [False, True])
def test_losses_are_numpys(masked_only):
    config = dataclasses.replace(CONFIG, masked_only=masked_only, temperature=3.0)
    module, made, params, frozen = parts(config)
    terms = terms_of(module, made, params, frozen)
    hidden, ours = predicted(STUDENT, params, made)
    known, theirs = predicted(dataclasses.replace(TEACHER, vocab_multiple=8), frozen["teacher"], made)
    places, real = made["target_positions"], made["segments"] > 0
    kernel = params["model"]["output"]["kernel"]
    losses = masked_losses(params["heads"]["mlm"], at(hidden, places), made["targets"], kernel)
    np.testing.assert_allclose(terms["loss"].sum, (losses * made["weights"]).sum(), rtol=1e-5)
    soft, weights = divergences(ours, theirs, 3.0), real
    if masked_only:
        soft, weights = np.take_along_axis(soft, places, axis=1), made["weights"]
    np.testing.assert_allclose(terms["soft_loss"].sum, (soft * weights).sum(), rtol=1e-5)
    norms = np.linalg.norm(hidden, axis=-1) * np.linalg.norm(known, axis=-1)
    cosines = 1 - np.sum(hidden * known, axis=-1) / norms
    np.testing.assert_allclose(terms["cosine_loss"].sum, (cosines * real).sum(), rtol=1e-5)
    assert terms["soft_loss"].weight == weights.sum() and terms["cosine_loss"].weight == real.sum()
    scales = [terms[name].loss_weight for name in ("loss", "accuracy", "soft_loss", "cosine_loss")]
    assert scales == [2.0, 0.0, 5.0 * 9, 1.0] and terms["loss"].weight == made["weights"].sum()


def test_pieces_add_up():
    """The same divergence whole and in pieces of 5 places, and the same gradient."""
    rng = np.random.default_rng(0)
    module, made, params, frozen = parts()
    lm = params["model"]["output"]["kernel"]
    tables = [Unembedding(lm, None, 1.0, VOCAB.size), Unembedding(lm * 0.5, None, 2.0, VOCAB.size)]
    hidden, theirs = (jnp.asarray(rng.normal(size=(2, 24, 16)), jnp.float32) for _ in range(2))

    def loss(hidden, chunk):
        cfg, weights = LossConfig(chunk=chunk), made["segments"].astype(np.float32)
        return soft_cross_entropy(hidden, tables[0], theirs, tables[1], weights, 2.0, cfg).sum

    whole, pieces = (jax.jit(jax.value_and_grad(lambda x, c=c: loss(x, c)))(hidden) for c in (24, 5))
    np.testing.assert_allclose(whole[0], pieces[0], rtol=1e-6)
    np.testing.assert_allclose(whole[1], pieces[1], atol=1e-6)


def test_examples_are_those_of_masked_language_modelling():
    """So what its tests show of counts, shares and reconstruction holds here."""
    objective = TABLE.load("distillation")
    assert type(objective).example is MLMObjective.example
    assert type(objective).window_spec is MLMObjective.window_spec
    plain = mlm.MLM(masking_rate=0.4, mask_token_fraction=1.0, random_token_fraction=0.0)
    other = rows_of(spec_of("mlm", plain), [text(22, 22, seed=0), text(22, 13, seed=1)])
    assert all(np.array_equal(other[key], value) for key, value in batch().items())


@pytest.mark.slow
def test_neither_model_sees_a_hidden_token():
    """The gradient of all losses with respect to the rows of both token tables."""
    module, made, params, frozen = parts()
    made = {key: value[:1] for key, value in made.items()}

    def losses(own, theirs):
        model = {**params["model"], "embedding": {"table": own}}
        known = {**frozen["teacher"]["model"], "embedding": {"table": theirs}}
        both = {**params, "model": model}
        teacher = {"teacher": {**frozen["teacher"], "model": known}}
        terms = module.apply({"params": merge_params(both, teacher)}, made)[0]
        hidden, _ = module.teacher().apply({"params": teacher["teacher"]}, made, None, method="everywhere")
        return sum(terms[n].sum for n in ("loss", "soft_loss", "cosine_loss")), jnp.sum(jnp.sin(hidden))

    tables = params["model"]["embedding"]["table"], frozen["teacher"]["model"]["embedding"]["table"]
    seen = [np.abs(g).sum(-1) for g in jax.jit(jax.grad(lambda a, b: sum(losses(a, b)), (0, 1)))(*tables)]
    hidden, shown = made["targets"][made["weights"] > 0], np.unique(made["tokens"][made["segments"] > 0])
    for one in seen:
        assert one[hidden].max() == 0 and one[shown].min() > 0


def test_the_teacher_gets_no_gradient():
    module, made, params, frozen = parts()

    def loss(frozen):
        terms = module.apply({"params": merge_params(params, frozen)}, made)[0]
        return sum(term.loss_weight * term.sum for term in terms.values())

    assert all(not np.any(leaf) for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(frozen)))


def test_the_student_begins_as_layers_of_its_teacher():
    config = dataclasses.replace(CONFIG, init_layers=(0, 3))
    module, _, params, frozen = parts(config)
    begun, teacher = module.begin(params, frozen), frozen["teacher"]
    kernel = lambda tree: tree["model"]["encoder"]["blocks"]["attention"]["query"]["kernel"]  # noqa: E731
    np.testing.assert_array_equal(kernel(begun), kernel(teacher)[np.array([0, 3])])
    for path in (("model", "embedding", "table"), ("heads", "mlm", "bias"), ("model", "output", "kernel")):
        ours, theirs = begun, teacher
        for name in path:
            ours, theirs = ours[name], theirs[name]
        np.testing.assert_array_equal(ours, theirs)
    assert jax.tree.structure(begun) == jax.tree.structure(params)
    assert "types" not in begun["model"]["encoder"]["front"]  # the teacher has them
    none = module_of(CONFIG).begin(params, frozen)
    assert all(a is b for a, b in zip(jax.tree.leaves(none), jax.tree.leaves(params), strict=True))


def test_without_its_teacher_a_student_is_a_masked_model():
    module, made, params, _ = parts()
    assert set(terms_of(module, made, params, {})) == {"loss", "accuracy"}


@pytest.mark.parametrize(
    "config, student, message",
    [
        (dataclasses.replace(CONFIG, teacher_model=None), STUDENT, "must be a run directory or a Hugging"),
        (CONFIG, dataclasses.replace(STUDENT, vocab_size=90), "a vocabulary of 100 ids, the model one of 90"),
        (CONFIG, dataclasses.replace(STUDENT, width=8), "objective.cosine_weight = 1.0 compares"),
        (
            dataclasses.replace(CONFIG, teacher_model=dataclasses.replace(TEACHER, kind="decoder")),
            STUDENT,
            "is no encoder but 'decoder'",
        ),
        (dataclasses.replace(CONFIG, init_layers=(0,)), STUDENT, "must be 2 .model.num_layers. of the"),
        (dataclasses.replace(CONFIG, init_layers=(0, 4)), STUDENT, "layers 0 to 3"),
        (
            dataclasses.replace(CONFIG, init_layers=(0, 1), cosine_weight=0.0),
            dataclasses.replace(STUDENT, width=8),
            "as large as its teacher's",
        ),
    ],
)
def test_what_cannot_be_taught_is_said(config, student, message):
    with pytest.raises(ConfigError, match=message):
        module, made, params, frozen = parts(config, student)
        module.begin(params, frozen)
        terms_of(module, made, params, frozen)


def test_wrong_values_are_named():
    for changes, message in (
        ({"temperature": 0.0}, "temperature = 0"),
        ({"soft_weight": -1.0}, "soft_weight"),
    ):
        with pytest.raises(ConfigError, match=message):
            dataclasses.replace(CONFIG, **changes).validate()
    assert distillation.Distillation().validate() is None
