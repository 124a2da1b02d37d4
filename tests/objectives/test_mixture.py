"""Mixtures: shares of every batch, the text cut up without loss, and the sum of the parts' losses."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from tests.data import corpus
from tests.objectives.cases import MODEL, VOCAB
from tests.tiers import tiers
from tlx import parallel
from tlx.base.config import from_dict, to_dict
from tlx.base.errors import ConfigError
from tlx.data.window import Window
from tlx.models.config import ModelConfig
from tlx.nn.config import PositionConfig
from tlx.nn.losses import LossConfig
from tlx.objectives import TABLE, mixture
from tlx.objectives.mixture import Mixture, MixtureComponent
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.training import step as steps
from tlx.training.state import State

DECODER = Mixture(
    parts=(
        MixtureComponent({"name": "clm"}, rows=2),
        MixtureComponent({"name": "prefix_lm"}, loss_weight=0.5),
    )
)
ENCODER = Mixture(
    parts=(
        MixtureComponent({"name": "mlm"}),
        MixtureComponent({"name": "mlm", "masking_rate": 0.4}, label="much"),
    )
)
BOTH = Mixture(
    parts=(
        MixtureComponent({"name": "span_corruption"}),
        MixtureComponent({"name": "mass"}, rows=2, sequence_length=12),
        MixtureComponent({"name": "denoising", "style": "drop"}),
    )
)
MODELS: dict[Mixture, ModelConfig] = {
    DECODER: MODEL,
    ENCODER: dataclasses.replace(MODEL, kind="encoder"),
    BOTH: dataclasses.replace(MODEL, kind="encoder_decoder", position=PositionConfig("relative_bias")),
}
CASES = pytest.mark.parametrize(
    "config",
    tiers(MODELS, quick=list(MODELS)[1:2]),
    ids=["decoder", "encoder", "both"],
)


def spec(config: Mixture, length: int = 16) -> ObjectiveSpec:
    return ObjectiveSpec(config, length, VOCAB)


def text(length: int, seed: int = 0) -> Window:
    tokens = 7 + np.random.default_rng(seed).integers(0, 83, length).astype(np.int32)
    segments = np.where(np.arange(length) < length // 2, 1, 2).astype(np.int32)
    positions = np.where(segments == 1, np.arange(length), np.arange(length) - length // 2)
    return Window(tokens, segments, positions.astype(np.int32))


def batch_of(config: Mixture, rows: int) -> dict[str, np.ndarray]:
    this = spec(config)
    length = mixture.OBJECTIVE.window_spec(this).length
    made = [mixture.OBJECTIVE.example(np.random.default_rng(i), text(length, i), this) for i in range(rows)]
    return {key: np.stack([row[key] for row in made]) for key in made[0]}


@functools.cache
def module_and_params(config: Mixture):
    module = mixture.MixtureModule(config, MODELS[config], LossConfig())
    params = jax.jit(module.init)(jax.random.key(0), batch_of(config, 1))["params"]
    return module, parallel.unbox(params)


def test_a_config_comes_back_from_plain_values():
    for config in MODELS:
        config.validate()
        assert from_dict(Mixture, to_dict(config)) == config


def test_each_part_has_its_rows_of_every_bundle():
    row = mixture.OBJECTIVE.example(
        np.random.default_rng(0), text(mixture.OBJECTIVE.window_spec(spec(BOTH)).length), spec(BOTH)
    )
    assert row["span_corruption.encoder_tokens"].shape == (1, 16)
    assert row["mass.encoder_tokens"].shape == (2, 12) and row["denoising.encoder_tokens"].shape == (1, 16)
    joined = [row[f"{name}.targets"].ravel() for name in ("span_corruption", "mass", "denoising")]
    assert np.array_equal(row["targets"], np.concatenate(joined))


def test_the_text_is_cut_up_without_loss(tmp_path):
    """Every token of a split is a target of exactly one causal row."""
    cache = corpus.make_cache(tmp_path / "cache", corpus.random_lengths(0, 30, 50))
    config = Mixture(
        parts=(
            MixtureComponent({"name": "clm"}, rows=2),
            MixtureComponent({"name": "clm"}, label="more", sequence_length=8),
        )
    )
    this = ObjectiveSpec(config, 16, corpus.VOCAB)
    pipeline = corpus.make_pipeline(
        [cache],
        mixture.OBJECTIVE.window_spec(this),
        example=lambda rng, window, _: mixture.OBJECTIVE.example(rng, window, this),
    )
    batches = list(pipeline.epoch_batches())
    targets = np.concatenate([batch["targets"][batch["weights"] > 0] for batch in batches])
    assert sorted(targets.tolist()) == cache.tokens[:].tolist()
    rows = np.concatenate([batch["clm.tokens"].reshape(-1, 16) for batch in batches])
    assert len(rows) == 2 * sum(len(batch["targets"]) for batch in batches)


def test_pieces_are_windows():
    """Segments count from 1, positions restart, padding is padding: as from the cache itself."""
    window = Window(np.arange(20, 32), np.repeat([1, 2, 3], 4), np.tile(np.arange(4), 3))
    cut = mixture.window_slice(window, 6, 11, spec(DECODER))
    assert cut.tokens.tolist() == [26, 27, 28, 29, 30]
    assert cut.segments.tolist() == [1, 1, 2, 2, 2] and cut.positions.tolist() == [0, 1, 0, 1, 2]
    lead = mixture.window_slice(window, -2, 3, spec(DECODER))
    assert lead.tokens.tolist() == [0, 0, 20, 21, 22] and lead.segments.tolist() == [0, 0, 1, 1, 1]


@pytest.mark.slow
@CASES
def test_loss_is_the_sum_of_the_parts(config):
    """Each part alone, on its own rows, with the mixture's parameters."""
    module, params = module_and_params(config)
    batch = batch_of(config, 4)
    terms, carry = jax.jit(module.apply)({"params": params}, batch)
    assert carry is None
    total, weight = 0.0, 0.0
    for part in config.parts:
        own = {key.split(".")[1]: x for key, x in batch.items() if key.startswith(f"{part.name}.")}
        own = {key: x.reshape(-1, *x.shape[2:]) for key, x in own.items()}
        alone = TABLE.load(part.objective.name).module(part.objective, MODELS[config], LossConfig())
        found, _ = jax.jit(alone.apply)({"params": params}, own)
        for name, term in found.items():
            here = terms[f"{part.name}/{name}"]
            np.testing.assert_allclose(here.sum, term.sum, rtol=1e-5)
            assert here.weight == term.weight and here.loss_weight == term.loss_weight * part.loss_weight
        total, weight = total + found["loss"].sum, weight + found["loss"].weight
    np.testing.assert_allclose(terms["loss"].sum, total, rtol=1e-5)
    assert terms["loss"].weight == weight == batch["weights"].sum() and terms["loss"].loss_weight == 0


@pytest.mark.parametrize("config", tiers(MODELS, slow=list(MODELS)[1:2]))
def test_microbatches_do_not_change_the_gradient(config):
    module, params = module_and_params(config)
    state = State(params, {}, None, None, *np.zeros(4, np.int32))
    keys = jax.random.split(jax.random.key(1), 4)
    one, four = (
        jax.jit(functools.partial(steps.gradients, module, microbatches=parts))(
            state, batch_of(config, 4), keys
        )
        for parts in (1, 4)
    )
    np.testing.assert_allclose(one.loss, four.loss, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), one.grads, four.grads)


@pytest.mark.parametrize(
    "config, message",
    [
        (Mixture(parts=()), "objective.parts are"),
        (
            Mixture(parts=(MixtureComponent({"name": "clm"}), MixtureComponent({"name": "clm"}))),
            "each with a label of its own",
        ),
        (Mixture(parts=(MixtureComponent({"name": "clm"}, rows=0),)), r"objective.parts\[0\].rows = 0"),
        (
            Mixture(parts=(MixtureComponent({"name": "mlm", "masking_rate": 2.0}),)),
            "objective.masking_rate = 2.0",
        ),
    ],
)
def test_wrong_values_are_named(config, message):
    with pytest.raises(ConfigError, match=message):
        config.validate()


def test_what_cannot_be_mixed_is_an_error():
    with pytest.raises(ConfigError, match=r"objective.parts\[0\] = 'plm' cannot be part of a mixture"):
        mixture.OBJECTIVE.window_spec(spec(Mixture(parts=(MixtureComponent({"name": "plm"}),)), 32))
    module = mixture.MixtureModule(ENCODER, MODEL, LossConfig())
    with pytest.raises(ConfigError, match=r"objective.parts\[0\] = 'mlm': model.kind = 'decoder'"):
        jax.eval_shape(module.init, jax.random.key(0), batch_of(ENCODER, 1))
    with pytest.raises(ConfigError, match="outside tlx|no|did you mean|allowed"):
        from_dict(Mixture, {"parts": [{"objective": {"name": "os.path:join"}}]})
