"""Distillation on a student's own answers: the divergence, whose answers are learned from, and a run that resumes."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

import tlx
from tests.objectives.small import log_softmax
from tests.rollouts import tiny
from tests.rollouts.test_training import small as config_of
from tests.run_directory import write_run
from tests.tasks import small
from tlx.base.errors import ConfigError
from tlx.nn.losses import LossConfig
from tlx.rollouts import TABLE
from tlx.rollouts.gkd import GKD, GKDModule, generalized_jsd
from tlx.training.step import merge_params


def test_the_divergence_is_scipys():
    p, q = np.random.default_rng(0).dirichlet(np.ones(5), (2, 3))
    log_p, log_q = np.log(p), np.log(q)
    of = functools.partial(generalized_jsd, jnp.float32(log_q), jnp.float32(log_p))
    np.testing.assert_allclose(of(0.0), [entropy(a, b) for a, b in zip(p, q, strict=True)], rtol=1e-5)
    np.testing.assert_allclose(of(1.0), [entropy(b, a) for a, b in zip(p, q, strict=True)], rtol=1e-5)
    np.testing.assert_allclose(
        of(0.5), [jensenshannon(a, b) ** 2 for a, b in zip(p, q, strict=True)], rtol=1e-5
    )
    m = 0.2 * p + 0.8 * q
    by_hand = [0.2 * entropy(a, c) + 0.8 * entropy(b, c) for a, b, c in zip(p, q, m, strict=True)]
    np.testing.assert_allclose(of(0.2), by_hand, rtol=1e-5)
    # The ends are its limits, of the scale of its own divergence.
    np.testing.assert_allclose(of(2e-4) / 2e-4, of(0.0), rtol=1e-2)
    np.testing.assert_allclose(of(1 - 2e-4) / 2e-4, of(1.0), rtol=1e-2)


@functools.cache
def module_of(kind="decoder", **config):
    settings = tiny.spec_of("gkd", kind, **config).config
    settings = dataclasses.replace(settings, teacher="there", teacher_model=small.model_of(kind))
    return GKDModule(settings, small.model_of(kind), LossConfig())


def loss_of(module, batch):
    def loss(params, teacher):
        terms = module.apply({"params": merge_params(params, {"teacher": teacher})}, batch)[0]
        return terms["loss"].sum / terms["loss"].weight

    return jax.jit(jax.value_and_grad(loss))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["decoder", "encoder_decoder"])
def test_the_loss_is_numpys_and_a_student_that_is_its_teacher_has_nothing_to_learn(kind):
    batch = tiny.sampled("gkd", kind=kind, num_answers=2)[0]
    module = module_of(kind, num_answers=2, interpolation=0.3)
    params = tiny.params_of("gkd", kind, num_answers=2)
    teacher = jax.tree.map(lambda leaf: 0.8 * leaf, params)
    value, gradient = loss_of(module, batch)(params, teacher)
    weights = np.asarray(batch["weights"])
    log_q, log_p = (log_softmax(logits(module, tree, batch) / tiny.TEMPERATURE) for tree in (params, teacher))
    p, q = np.exp(log_p), np.exp(log_q)
    m = 0.3 * p + 0.7 * q
    divergence = 0.3 * (p * np.log(p / m)).sum(-1) + 0.7 * (q * np.log(q / m)).sum(-1)
    np.testing.assert_allclose(value, (divergence * weights).sum() / weights.sum(), rtol=1e-4)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) > 1e-4
    same, nothing = loss_of(module, batch)(params, params)
    assert abs(float(same)) < 1e-6
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(nothing)) < 1e-5


def logits(module, params, batch):
    """Logits before each token of the answers, float64 [B, K, A, V]."""
    whole = np.asarray(module.apply({"params": params}, batch, method="logits"), np.float64)
    return whole[:, :, -tiny.SIZE - 1 : -1]


@pytest.mark.slow
def test_a_share_of_the_prompts_has_the_records_targets():
    task, spec = TABLE.load("gkd"), tiny.spec_of("gkd", num_answers=2, on_policy=0.0)
    batch = tiny.sampled("gkd", num_answers=2, on_policy=0.0)[0]
    assert np.all(batch["is_given"] == 1)
    arrays = task.learned(spec.config, batch, {}).arrays
    items = task.prepare(tiny.RECORDS, small.TOKENIZER, spec)
    for b, item in enumerate(items):
        target = item.targets[0]
        row = np.concatenate([item.source, target])
        for k in range(2):
            real = np.asarray(arrays["segments"][b, k]) > 0
            np.testing.assert_array_equal(np.asarray(arrays["tokens"][b, k])[real], row)
            np.testing.assert_array_equal(np.asarray(arrays["positions"][b, k])[real], np.arange(len(row)))
            assert arrays["weights"][b, k].sum() == len(target)
    half = dataclasses.replace(spec, config=dataclasses.replace(spec.config, on_policy=0.5))
    rng = np.random.default_rng(0)
    given = [float(task.example(rng, items[0], half)["is_given"]) for _ in range(200)]
    assert 0.4 < np.mean(given) < 0.6
    # Sampled answers stay where the share is 1.
    assert task.learned(dataclasses.replace(spec.config, on_policy=1.0), batch, {}).arrays == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interpolation": 1.5}, "objective.interpolation = 1.5"),
        ({"on_policy": -0.1}, "objective.on_policy = -0.1"),
        ({"beta": 0.1}, "objective.beta = 0.1 must be 0"),
    ],
)
def test_wrong_values_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        GKD(**changes).validate()


@pytest.mark.long
def test_a_student_comes_nearer_to_its_teacher_and_a_resumed_run_ends_the_same(tmp_path):
    teacher = write_run(tmp_path / "teacher", "clm", steps=(5,))
    base = write_run(tmp_path / "base", "clm", steps=(3,))

    def trained(workdir, steps):
        values = config_of("gkd", tmp_path, teacher=str(teacher), on_policy=0.5)
        values.checkpoint.every = 4
        values.eval.every = 4  # an evaluation between the steps has no loss
        values.optimizer.learning_rate = 1e-2
        values.train.steps = steps
        return tlx.finetune(values, base=base, workdir=tmp_path / workdir)

    whole = trained("whole", 8)
    lines = [
        line for line in map(json.loads, (tmp_path / "whole/metrics.jsonl").open()) if "forward_kl" in line
    ]
    assert lines[-1]["forward_kl"] < 0.7 * lines[0]["forward_kl"]
    assert trained("half", 4).model.step == 4
    again = trained("half", 8)
    for leaf, other in zip(
        jax.tree.leaves(whole.model.params), jax.tree.leaves(again.model.params), strict=True
    ):
        np.testing.assert_array_equal(leaf, other)
    assert "exact_match" in whole.metrics["validation"]
    assert isinstance(tlx.load(tmp_path / "whole").predict({"source": "1+1="})["answer"], str)
