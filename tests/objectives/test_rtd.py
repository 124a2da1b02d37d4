"""ELECTRA: places drawn with replacement, a generator's samples, who learns from which loss."""

import dataclasses
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from tests.cli.tiny import ROOT
from tests.objectives import rows as rows_module
from tests.objectives.small import ENCODER, VOCAB, batch_of, small, spec_of, text
from tests.tiers import tiers
from tlx import parallel
from tlx.api.loaded_model import LoadedModel
from tlx.base import tree
from tlx.base.errors import ConfigError
from tlx.models.transformer import Transformer
from tlx.nn.config import PositionConfig
from tlx.nn.dropout import fold
from tlx.nn.embed import Unembedding
from tlx.objectives import rtd
from tlx.objectives.mlm import MLM, MLMModule
from tlx.objectives.rtd import RTD
from tlx.objectives.shared import electra_rows
from tlx.objectives.shared.base import Predictions
from tlx.optim.uncorrected_adam import scale_by_uncorrected_adam
from tlx.run import RunConfig
from tlx.run.assemble import assemble
from tlx.run.checks import resolve
from tlx.trainer.base_model import load_base
from tlx.training import step as steps
from tlx.training.clipping import clip

DRAWS = 20_000
PACKED = RTD(rows="packed")


@pytest.mark.parametrize("real, draws", [(128, 19), (126, 19), (123, 18), (10, 2), (3, 1)])
def test_counts(real, draws):
    this = spec_of("rtd", PACKED, length=128)
    row = rtd.OBJECTIVE.example(np.random.default_rng(0), text(126, real - 2), this)
    assert row["weights"].sum() == draws and len(row["weights"]) == 19
    assert rtd.max_predictions(512, RTD()) == 79 and rtd.max_predictions(512, RTD(masking_rate=0.25)) == 130


@pytest.fixture(scope="module")
def rows() -> dict[str, np.ndarray]:
    this, rng, window = spec_of("rtd", PACKED, length=128), np.random.default_rng(1), text(126)
    found = [rtd.OBJECTIVE.example(rng, window, this) for _ in range(DRAWS)]
    return {key: np.stack([row[key] for row in found]) for key in found[0]}


def test_places_are_drawn_with_replacement(rows):
    """17.7 of 19 draws are distinct; without replacement all would be."""
    distinct = np.array([len(set(row)) for row in rows["target_positions"].tolist()])
    expected = 126 * (1 - (1 - 1 / 126) ** 19)
    assert expected == pytest.approx(17.7, abs=0.05)
    assert abs(distinct.mean() - expected) < 4 * distinct.std() / np.sqrt(DRAWS)
    counts = np.bincount(rows["target_positions"].ravel(), minlength=128)
    assert counts[0] == counts[127] == 0 and stats.chisquare(counts[1:-1]).pvalue > 1e-3


def test_85_in_100_draws_show_mask_and_none_a_random_token(rows):
    single = np.array([np.bincount(row, minlength=128)[row] == 1 for row in rows["target_positions"][:4000]])
    shown = np.take_along_axis(rows["tokens"], rows["target_positions"], axis=1)[:4000]
    masked = shown == VOCAB.mask
    assert np.all(masked | (shown == rows["targets"][:4000]))
    assert stats.binomtest(int(masked[single].sum()), int(single.sum()), 0.85).pvalue > 1e-3
    untouched = np.ones_like(rows["tokens"], bool)
    np.put_along_axis(untouched, rows["target_positions"], False, axis=1)
    assert np.array_equal(rows["tokens"][untouched], rows["original_tokens"][untouched])


def test_each_place_is_filled_once_by_its_first_draw(rows):
    for places, fills in zip(rows["target_positions"][:300], rows["fill_positions"][:300], strict=True):
        seen: set[int] = set()
        for place, fill in zip(places.tolist(), fills.tolist(), strict=True):
            assert fill == (0 if place in seen else place)
            seen.add(place)


def test_deberta_draws_no_position_twice():
    """All draws show mask; one of each window leaves the last 12 of 126 tokens as they are."""
    rng, window = np.random.default_rng(6), text(126)
    for draws in ("without_replacement", "window"):
        this = spec_of("rtd", RTD(rows="packed", draws=draws, mask_token_fraction=1.0), length=128)
        found = [rtd.OBJECTIVE.example(rng, window, this) for _ in range(3000)]
        places = np.stack([row["target_positions"] for row in found])
        assert all(len(set(row)) == 19 for row in places.tolist())
        assert all((row["tokens"] == VOCAB.mask).sum() == 19 for row in found)
        assert np.array_equal(places, np.stack([row["fill_positions"] for row in found]))
        counts = np.bincount(places.ravel(), minlength=128)[1:127]
        if draws == "window":
            assert np.array_equal((places - 1) // 6, np.tile(np.arange(19), (3000, 1)))
            assert not counts[114:].any()
            counts = counts[:114]
        # Without replacement counts vary less than a chi-square's.
        assert stats.chisquare(counts).pvalue > 1e-3


def test_inputs_and_targets_rebuild_the_row(rows):
    tokens = rows["tokens"].copy()
    np.put_along_axis(tokens, rows["target_positions"], rows["targets"], axis=1)
    assert np.array_equal(tokens, rows["original_tokens"])


# Sentences of 4, 3, 5, 2 and 8 tokens; A of a row of 24 is half of its 21 tokens: 10.
SENTENCES = np.array([10, 11, 12, 80, 13, 14, 80, 15, 16, 17, 18, 80, 19, 80, *range(20, 28)], np.int32)
ENDS = np.arange(VOCAB.size) == 80


def segments_of(count: int, **changes) -> list[tuple[list[int], list[int]]]:
    """A and B of rows of the sentences."""
    this = spec_of("rtd", RTD(**changes), ends_sentence=ENDS)
    rng, window = np.random.default_rng(5), rows_module.window(SENTENCES)
    found = [electra_rows.two_segments(rng, window, this) for _ in range(count)]
    return [(a.tolist(), b.tolist()) for a, b in found]


def test_a_row_has_two_segments_of_whole_sentences():
    """One in ten is A alone; of the others half have the sentence in A that exceeds its half of the row."""
    text = SENTENCES.tolist()
    alone = (text, [])
    # 7 + 5 tokens are more than half; without that sentence the next one, of 2, still fits into A.
    long = (text[:12], text[12:21])
    short = (text[:7] + text[12:14], text[7:12] + text[14:21])
    found = segments_of(4000, short_sequence_fraction=0.0)
    counts = [found.count(one) for one in (alone, long, short)]
    assert sum(counts) == 4000 and stats.chisquare(counts, [400, 1800, 1800]).pvalue > 1e-3


def test_one_row_in_twenty_has_a_random_length():
    """A target uniform in 5..24, then on to the end of a sentence."""
    sizes = [len(a) for a, _ in segments_of(4000, single_segment_fraction=1.0, short_sequence_fraction=1.0)]
    counts = [sizes.count(end) for end in (7, 12, 14, 22)]
    assert sum(counts) == 4000 and stats.chisquare(counts, np.array([3, 5, 2, 10]) * 200).pvalue > 1e-3
    sizes = [len(a) for a, _ in segments_of(4000, single_segment_fraction=1.0)]
    assert stats.binomtest(4000 - sizes.count(22), 4000, 0.05 / 2).pvalue > 1e-3


def test_segments_have_types_and_seps_of_their_own():
    this = spec_of("rtd", RTD(single_segment_fraction=0.0, short_sequence_fraction=0.0), ends_sentence=ENDS)
    row = rtd.OBJECTIVE.example(np.random.default_rng(3), rows_module.window(SENTENCES), this)
    tokens, types = row["original_tokens"], row["types"]
    ends = np.flatnonzero(tokens == VOCAB.sep)
    assert tokens[0] == VOCAB.cls and ends.tolist() == [int(ends[0]), 23]
    assert types.tolist() == [0] * (ends[0] + 1) + [1] * (23 - ends[0])
    assert row["segments"].all() and row["positions"].tolist() == list(range(24))
    drawn = row["target_positions"][row["weights"] > 0]
    assert len(drawn) == 3 and not VOCAB.special[tokens[drawn]].any()
    assert "types" not in rtd.OBJECTIVE.example(np.random.default_rng(3), text(22), spec_of("rtd", PACKED))
    frame = rtd.OBJECTIVE.frame
    assert (frame(this).second_type, frame(spec_of("rtd", PACKED)).second_type) == (1, 0)


def test_samples_follow_the_generators_distribution_at_its_temperature():
    """Gumbel-max: frequencies of 20,000 samples against the softmax of the logits over the temperature."""
    logits = np.random.default_rng(2).normal(size=10)
    batch = {
        "original_tokens": jnp.zeros((100, 201), jnp.int32),
        "fill_positions": jnp.tile(jnp.arange(1, 201), (100, 1)),
        "noise": jnp.arange(100),
    }
    for temperature in (1.0, 0.5):
        module = rtd.RTDModule(RTD(temperature=temperature), ENCODER)
        unembedding = Unembedding(jnp.asarray(logits, jnp.float32)[:, None], None, 1.0, 10)
        tokens = module.filled(batch, Predictions(jnp.ones((100, 200, 1)), unembedding))
        assert not tokens[:, 0].any()
        counts = np.bincount(np.asarray(tokens[:, 1:]).ravel(), minlength=10)
        share = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
        assert stats.chisquare(counts, share * 20_000).pvalue > 1e-3
        other = np.exp(logits / (1.5 - temperature))
        assert stats.chisquare(counts, other / other.sum() * 20_000).pvalue < 1e-6


SHARINGS = ("all", "gdes", "none")
CONFIG = RTD(masking_rate=0.4, generator_fraction=0.5)
# Output through the table, as in all ELECTRAs.
MODEL = dataclasses.replace(ENCODER, head=dataclasses.replace(ENCODER.head, tied=True))


def case(sharing: str, **changes):
    this = spec_of("rtd", dataclasses.replace(CONFIG, embedding_sharing=sharing, **changes))
    batch = batch_of(this, [text(22, seed=1), text(22, 15, seed=2)])
    return small(this, batch, MODEL), batch


@pytest.mark.parametrize("sharing", tiers(SHARINGS, quick=("gdes",)))
def test_losses_are_numpys(sharing):
    it, batch = case(sharing, head="deberta" if sharing == "gdes" else "electra")
    terms, _ = it.forward(batch)
    params = it.params
    generator = rtd.generator_config(MODEL, it.module.config)
    assert (generator.width, generator.num_layers, generator.attention.num_heads) == (8, 2, 1)
    predictions, _ = it.module.apply({"params": params}, batch, None, None, method="predictions")
    tokens = np.asarray(it.module.filled(batch, predictions))
    fills, original = batch["fill_positions"], batch["original_tokens"]
    elsewhere = np.ones_like(tokens, bool)
    np.put_along_axis(elsewhere, fills, False, axis=1)
    assert np.array_equal(tokens[elsewhere], original[elsewhere]) and (tokens != original).sum() > 5
    # The model reads those, through its own table.
    plain = it.module.standalone(params)
    hidden = np.asarray(
        Transformer(MODEL).apply({"params": plain["model"]}, {**batch, "tokens": tokens}), np.float64
    )
    head = params["heads"]["rtd"]
    if sharing == "gdes":
        x = hidden + hidden[:, :1]
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        hidden = x * params["heads"]["rtd_norm"]["scale"] + params["heads"]["rtd_norm"]["bias"]
    x = hidden @ head["dense"]["kernel"] + head["dense"]["bias"]
    x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    logits = np.asarray(x @ head["classifier"]["kernel"] + head["classifier"]["bias"])[..., 0]
    replaced, real = tokens != original, batch["segments"] > 0
    losses = np.where(replaced, np.logaddexp(0, -logits), np.logaddexp(0, logits))
    np.testing.assert_allclose(terms["rtd_loss"].sum, losses[real].sum(), rtol=1e-4)
    assert terms["rtd_loss"].weight == real.sum() == 24 + 18 and terms["rtd_loss"].loss_weight == 50
    said = logits > 0
    assert terms["rtd_precision"].sum == terms["rtd_recall"].sum == (said & replaced & real).sum()
    assert terms["rtd_precision"].weight == (said & real).sum()
    assert terms["rtd_recall"].weight == (replaced & real).sum()
    assert terms["rtd_accuracy"].sum == ((said == replaced) & real).sum()
    # The generator's: BERT's transform on its narrower states, over the shared table.
    table = params["heads"]["generator"]["embedding"] if sharing == "none" else params["model"]["embedding"]
    narrow = np.asarray(predictions.unembedding.kernel)
    np.testing.assert_array_equal(narrow, table["table"])
    scores = np.asarray(jax.nn.log_softmax(predictions.hidden @ narrow.T + predictions.unembedding.bias))
    ours = masked_losses_of(scores[..., : VOCAB.size], batch["targets"])
    np.testing.assert_allclose(terms["loss"].sum, (ours * batch["weights"]).sum(), rtol=1e-4)


def masked_losses_of(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    scores = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))  # without the padded vocabulary
    return -np.take_along_axis(scores, targets[..., None], axis=-1)[..., 0]


def gradients(sharing: str) -> tuple[dict[str, float], dict[str, float]]:
    """{path: largest gradient} of the generator's and of the discriminator's loss."""
    it, batch = case(sharing)

    def loss(params, name):
        return it.module.apply({"params": params}, batch)[0][name].sum

    grad = jax.jit(jax.grad(loss), static_argnums=1)
    found = [tree.flatten(grad(it.params, name)) for name in ("loss", "rtd_loss")]
    return tuple({path: float(jnp.abs(leaf).max()) for path, leaf in one.items()} for one in found)


@pytest.mark.slow
@pytest.mark.parametrize("sharing", tiers(["gdes", "all", "none"], quick=["gdes"]))
def test_who_learns_from_which_loss(sharing):
    generators, detectors = gradients(sharing)
    layers = [path for path in generators if path.startswith(("heads/generator", "heads/mlm"))]
    assert layers and all(generators[path] > 0 for path in layers if "attention/key/bias" not in path)
    # No gradient through the sampling: the discriminator's loss leaves the generator alone.
    assert not any(detectors[path] for path in layers)
    body = [path for path in detectors if path.startswith(("model/encoder/blocks", "heads/rtd"))]
    assert body and not any(generators[path] for path in body)
    assert all(detectors[path] > 0 for path in body if "attention/key/bias" not in path)
    tables = [path for path in detectors if path.startswith("model/e") and path not in body]
    assert len(tables) == 5  # tokens, positions, types, norm
    for path in tables:
        from_generator = sharing == "all" or (sharing == "gdes" and path == "model/embedding/table")
        from_detector = not (sharing == "gdes" and path == "model/embedding/table")
        assert (generators[path] > 0, detectors[path] > 0) == (from_generator, from_detector), path
    if sharing == "gdes":
        assert generators["heads/difference"] == 0 < detectors["heads/difference"]
        # DeBERTa v3's config clips apart what learns from the generator's loss.
        config = runpy.run_path(str(ROOT / "configs/pretrain/deberta_v3.py"))["get_config"]()
        (first,) = config.train.clip_groups
        crossed = [detectors if tree.matches(first, path) else generators for path in generators]
        assert not any(one[path] for one, path in zip(crossed, generators, strict=True))


@pytest.mark.slow
def test_the_difference_begins_at_zero():
    it, batch = case("gdes")
    params = it.module.init(jax.random.key(0), batch, None, None)["params"]
    assert not np.asarray(params["heads"]["difference"].value).any()
    assert "difference" not in it.module.standalone(it.params)["heads"]
    shared = case("all")[0]
    assert shared.module.standalone(shared.params) is shared.params


def test_a_task_goes_on_from_the_models_own_table(monkeypatch):
    """Not from the generator's, which the parameters "model" hold while both are trained."""
    it, _ = case("gdes")
    run = LoadedModel(RunConfig(objective=it.module.config), it.params, None, it.module, 3)
    monkeypatch.setattr("tlx.api.load.load", lambda *_, **__: run)
    base = load_base("there").params
    table, difference = it.params["model"]["embedding"]["table"], it.params["heads"]["difference"]
    np.testing.assert_array_equal(base["model"]["embedding"]["table"], table + difference)
    assert np.abs(difference).max() > 0 and "difference" not in base["heads"]


def test_generator_does_not_read_what_it_predicts():
    it, batch = case("none")

    def loss(table):
        heads = it.params["heads"]
        generator = {**heads["generator"], "embedding": {"table": table}}
        params = {**it.params, "heads": {**heads, "generator": generator}}
        predictions, _ = it.module.apply({"params": params}, batch, None, None, method="predictions")
        return jnp.sum(predictions.hidden[0, 0])

    table = it.params["heads"]["generator"]["embedding"]["table"]
    rows = np.linalg.norm(jax.jit(jax.grad(loss))(table), axis=1)
    hidden = np.setdiff1d(batch["targets"][0][batch["weights"][0] > 0], batch["tokens"][0])
    assert len(hidden) > 3 and not rows[hidden].any() and rows[batch["tokens"][0]].all()


@pytest.mark.slow
def test_generator_may_have_the_mask_decoder():
    """Its predictions are those of a masked language model of the generator's config, which numpy judges."""
    positions = PositionConfig("disentangled", max_length=64, max_distance=6, num_buckets=0)
    model = dataclasses.replace(MODEL, position=positions)
    config = dataclasses.replace(CONFIG, embedding_sharing="none", mask_decoder=2, rows="packed")
    this = spec_of("rtd", config)
    batch = batch_of(this, [text(22, seed=1)])
    it = small(this, batch, model)
    found, _ = it.module.apply({"params": it.params}, batch, None, None, method="predictions")
    generator = rtd.generator_config(model, config)
    heads = it.params["heads"]
    inner = {"embedding": heads["generator"]["embedding"], "encoder": heads["generator"]["tower"]}
    for times in (2, 0):
        masked = MLMModule(MLM(mask_decoder=times), generator)
        params = {"model": inner, "heads": {"mlm": heads["mlm"], "places": heads["places"]}}
        expected, _ = masked.apply({"params": params}, batch, None, None, method="predictions")
        assert np.allclose(found.hidden, expected.hidden, atol=1e-5) == (times == 2)


def test_an_evaluation_samples_the_same_each_time():
    it, batch = case("all")
    first, second = (float(it.forward(batch)[0]["rtd_loss"].sum) for _ in range(2))
    other = float(it.forward({**batch, "noise": batch["noise"] + 1})[0]["rtd_loss"].sum)
    assert first == second != other


@pytest.mark.parametrize(
    "config, field",
    [
        (RTD(masking_rate=0.0), "objective.masking_rate = 0.0"),
        (RTD(short_sequence_fraction=1.5), "objective.short_sequence_fraction = 1.5"),
        (RTD(temperature=0.0), "objective.temperature = 0.0"),
        (RTD(rtd_weight=-1.0), "objective.rtd_weight = -1.0"),
        (RTD(generator_fraction=1.5), "objective.generator_fraction = 1.5"),
    ],
)
def test_wrong_values_are_named(config, field):
    with pytest.raises(ConfigError, match=field):
        config.validate()


@pytest.mark.long
def test_the_order_of_two_optimizers_makes_little_difference(monkeypatch):
    """Parameters of deberta_v3.py:tiny after 20 steps, and of two updates a step as in the official code.

    There the generator is updated first, and the model's gradient is that at the new table, on the tokens that were
    drawn before. The steps are Adam's at the config's largest rate without warm-up.
    """
    config = runpy.run_path(str(ROOT / "configs/pretrain/deberta_v3.py"))["get_config"]("tiny")
    make_mesh = parallel.make_mesh
    monkeypatch.setattr(parallel, "make_mesh", lambda config: make_mesh(config, jax.devices()[:1]))
    run = assemble(resolve(config, allow=None))
    module = run.module
    rate = 6e-4
    optimizer = optax.chain(
        scale_by_uncorrected_adam(0.9, 0.98, 1e-6), optax.add_decayed_weights(0.01), optax.scale(-rate)
    )
    train = dataclasses.replace(run.config.train, spike=dataclasses.replace(run.config.train.spike, window=0))
    pattern = train.clip_groups[0]
    begun = run.init()
    begun = begun._replace(opt_state=optimizer.init(begun.params), extra={})

    def of_generator(first, second):
        others = tree.flatten(second)
        return tree.map_with_path(lambda path, x: x if tree.matches(pattern, path) else others[path], first)

    def detection(params, tokens, batch, keys):
        logits = module.apply({"params": params}, tokens, batch, keys, method="detected").astype(jnp.float32)
        losses = jax.nn.softplus(logits) - jnp.where(tokens != batch["original_tokens"], logits, 0.0)
        real = (batch["segments"] > 0).astype(jnp.float32)
        return module.config.rtd_weight * jnp.sum(losses * real) / jnp.sum(real)

    def clipped(grads):
        return clip(grads, optax.tree.norm(grads), train)

    @jax.jit
    def two_updates(state, batch):
        keys = steps.row_keys(state.seed, state.step, train.batch_size)
        variables = {"params": state.params}
        predictions, _ = module.apply(variables, batch, None, fold(keys, 2**20), method="predictions")
        tokens = module.apply(variables, batch, predictions, method="filled")
        grads = steps.gradients(module, state, batch, keys).grads
        updates, _ = optimizer.update(clipped(grads), state.opt_state, state.params)
        after = of_generator(optax.apply_updates(state.params, updates), state.params)
        grads = of_generator(grads, jax.grad(detection)(after, tokens, batch, keys))
        updates, opt_state = optimizer.update(clipped(grads), state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return state._replace(params=params, opt_state=opt_state, step=state.step + 1)

    one_update = jax.jit(steps.make_step(module, optimizer, optax.constant_schedule(rate), train))
    with run.use():
        ours, theirs = begun, begun
        for k in range(20):
            batch = run.train.batch(k)
            ours, _ = one_update(ours, batch)
            theirs = two_updates(theirs, batch)
            if k == 0:
                # Only the model's gradients differ.
                of_first = tree.flatten(theirs.params)
                for path, leaf in tree.flatten(ours.params).items():
                    if tree.matches(pattern, path):
                        np.testing.assert_allclose(leaf, of_first[path], rtol=1e-5, atol=1e-7)
    apart = optax.tree.norm(jax.tree.map(jnp.subtract, ours.params, theirs.params))
    moved = optax.tree.norm(jax.tree.map(jnp.subtract, theirs.params, begun.params))
    whole = optax.tree.norm(theirs.params)
    print(
        f"\napart {float(apart / whole):.2e} of the parameters, {float(apart / moved):.3f} of the way of 20 steps"
    )
    assert 0 < apart < 0.5 * moved
