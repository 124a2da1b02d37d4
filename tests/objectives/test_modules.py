"""The modules: their losses against numpy, and by gradient what each target is predicted from."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.objectives.cases import (
    CONFIGS,
    LENGTH,
    MODELS,
    MODULES,
    VOCAB,
    Compiled,
    batch_of,
    compiled,
    influence,
    log_softmax,
    module_of,
    objective_and_spec,
)
from tests.tiers import tiers
from tlx.data.window import padding_window
from tlx.models.config import HeadConfig
from tlx.models.transformer import Transformer
from tlx.models.two_stream import Memory
from tlx.objectives import TABLE

pytestmark = pytest.mark.jax_versions


@pytest.mark.parametrize("name", MODULES)
def test_parameters_are_model_and_heads(name):
    batch = batch_of(name, [None])
    shapes = jax.eval_shape(module_of(name, None, None).init, jax.random.key(0), batch)["params"]
    heads = {"mlm": {"dense", "norm", "bias"}}.get(name)
    assert set(shapes) == ({"model", "heads"} if heads else {"model"})
    assert MODELS[name].kind in TABLE.load(name).kinds
    if heads:
        assert set(shapes["heads"]) == {name} and set(shapes["heads"][name]) == heads


@pytest.mark.parametrize("name", MODULES)
def test_loss_is_numpys(name):
    """Cross-entropy and accuracy from the logits, weights and normalisation included."""
    batch = batch_of(name, [None, [9, 6]])
    terms, logits, _ = compiled(name).forward(batch)
    logits = np.asarray(logits)
    assert logits.shape == (*batch["targets"].shape, VOCAB.size) and logits.dtype == np.float32
    scores = np.take_along_axis(log_softmax(logits), batch["targets"][..., None], axis=-1)[..., 0]
    hits = logits.argmax(axis=-1) == batch["targets"]
    weights = batch["weights"]
    assert 0 < weights.sum() < weights.size
    np.testing.assert_allclose(terms["loss"].sum, -(scores * weights).sum(), rtol=1e-5)
    np.testing.assert_allclose(terms["accuracy"].sum, (hits * weights).sum())
    assert terms["loss"].weight == terms["accuracy"].weight == weights.sum()
    assert (terms["loss"].loss_weight, terms["accuracy"].loss_weight) == (1.0, 0.0)


@pytest.mark.parametrize("tied", [True, False])
def test_masked_head_is_numpys(tied):
    """BERT's head by its formula: gelu(h W + b), normalised, times the token table, plus a bias."""
    cfg = dataclasses.replace(MODELS["mlm"], head=HeadConfig(tied=tied))
    batch = batch_of("mlm", [None, [12]])
    params = compiled("mlm", cfg).params
    hidden_BTD = np.asarray(Transformer(cfg).apply({"params": params["model"]}, batch), np.float64)
    head = jax.tree.map(lambda x: np.asarray(x, np.float64), params["heads"]["mlm"])
    x = np.take_along_axis(hidden_BTD, batch["target_positions"][..., None], axis=1)
    x = x @ head["dense"]["kernel"] + head["dense"]["bias"]
    x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    x = x * head["norm"]["scale"] + head["norm"]["bias"]
    model = params["model"]
    kernel_VD = np.asarray(model["embedding"]["table"] if tied else model["output"]["kernel"], np.float64)
    logits = (x @ kernel_VD.T + head["bias"])[..., : VOCAB.size]
    losses = -np.take_along_axis(log_softmax(logits), batch["targets"][..., None], axis=-1)[..., 0]
    terms, _, _ = compiled("mlm", cfg).forward(batch)
    np.testing.assert_allclose(terms["loss"].sum, (losses * batch["weights"]).sum(), rtol=2e-6)


@pytest.mark.parametrize("name", tiers(MODULES, quick=("clm", "plm")))
def test_no_target_is_read_off_its_own_input(name):
    batch = batch_of(name, [None])
    influence_PV = influence(name, batch)
    targets, weights = batch["targets"][0], batch["weights"][0]
    own = influence_PV[np.arange(len(targets)), targets]
    hidden = weights > 0
    if name == "mlm":
        # One in ten stays as it is, on purpose: there, and only there, the model sees the answer.
        kept = np.take_along_axis(batch["tokens"][0], batch["target_positions"][0], axis=0) == targets
        assert kept.any() and not kept.all() and own[kept].all()
        hidden &= ~kept
    # eos and sentinels of the targets stand elsewhere in the input too.
    hidden &= ~VOCAB.special[targets]
    assert hidden.sum() > 4 and not own[hidden].any()
    assert np.all((influence_PV > 0).any(axis=1)[hidden])


def test_clm_sees_exactly_what_comes_before_in_its_document():
    batch = batch_of("clm", [[10, 15]])
    tokens, second = batch["tokens"][0], np.arange(LENGTH) >= 9
    assert np.flatnonzero(tokens == VOCAB.bos).tolist() == [9]
    seen = influence("clm", batch)[:, tokens] > 0
    place = np.arange(LENGTH)
    expected = (place[None, :] <= place[:, None]) & (second[None, :] == second[:, None])
    assert np.array_equal(seen, expected)


def test_prefix_lm_sees_its_prefix_and_what_comes_before():
    batch = batch_of("prefix_lm", [[15, 10]])
    tokens, prefix, weights = batch["tokens"][0], batch["prefix"][0] > 0, batch["weights"][0]
    assert 1 < prefix[:14].sum() < 14 and 1 < prefix[14:].sum() < 10
    second, place = np.arange(LENGTH) >= 14, np.arange(LENGTH)
    seen = influence("prefix_lm", batch)[:, tokens] > 0
    expected = (place[None, :] <= place[:, None]) | prefix[None, :]
    expected &= second[None, :] == second[:, None]
    assert np.array_equal(seen, expected)
    # No target with a weight stands in the prefix that sees it.
    assert not np.isin(batch["targets"][0][weights > 0], tokens[prefix]).any()


def test_mlm_sees_all_of_its_document_and_nothing_else():
    batch = batch_of("mlm", [[10, 12]])
    tokens, at = batch["tokens"][0], batch["target_positions"][0]
    second = np.arange(LENGTH) >= 11  # behind cls and ten tokens
    ordinary = ~VOCAB.special[tokens] & (np.bincount(tokens, minlength=VOCAB.size)[tokens] == 1)
    seen = influence("mlm", batch)[:, tokens] > 0
    expected = second[at][:, None] == second[None, :]
    assert expected.any() and not expected.all()
    assert np.array_equal(seen[:, ordinary], expected[:, ordinary])


@pytest.mark.slow
def test_span_corruption_sees_the_input_and_the_targets_before():
    batch = batch_of("span_corruption", [None])
    encoder, decoder = batch["encoder_tokens"][0], batch["decoder_tokens"][0]
    influence_PV = influence("span_corruption", batch)
    assert (influence_PV[:, encoder] > 0).all()
    ordinary = ~VOCAB.special[decoder] | (decoder == VOCAB.bos)
    expected = np.tril(np.ones((len(decoder), len(decoder)), bool))
    assert np.array_equal((influence_PV[:, decoder] > 0)[:, ordinary], expected[:, ordinary])


@pytest.mark.parametrize("targets", ["ngram", "cut"])
def test_plm_targets_see_exactly_their_predecessors(targets):
    config = dataclasses.replace(CONFIGS["plm"], targets=targets)
    batch = batch_of("plm", [None], config)
    at, tokens = batch["target_positions"][0], batch["tokens"][0]
    seen = influence("plm", batch, config=config)[:, tokens] > 0
    place, second = batch["rank"][0], np.arange(LENGTH) >= 12
    is_target = np.isin(np.arange(LENGTH), at)
    for row, i in enumerate(at):
        before = (place < place[i]) | (~is_target if targets == "ngram" else False)
        expected = (second[i] & ~second) | ((second == second[i]) & before)
        assert not expected[i] and np.array_equal(seen[row], expected), i


def run(batches: list[dict[str, np.ndarray]], this: Compiled) -> tuple[float, Memory]:
    """(loss of the last window, memory after it)."""
    carry = this.module.initial_carry(len(batches[0]["tokens"]))
    for batch in batches:
        terms, _, carry = this.forward(batch, carry)
    return float(terms["loss"].sum), carry


def test_plm_remembers_the_reused_part():
    """The next window's loss depends on the reused part of those before, and on nothing else of them."""
    this, batches = compiled("plm"), [batch_of("plm", [None])] * 3
    loss, carry = run(batches, this)
    # 16 places of memory for windows of 12: all are filled by the second.
    assert carry.hidden.shape == (1, 2, 16, 16) and carry.segments.tolist() == [[1] * 16]
    assert run(batches[:1], this)[1].segments.tolist() == [[0] * 4 + [1] * 12]

    def loss_with_a_change(window: int, place: int) -> float:
        tokens = batches[window]["tokens"].copy()
        tokens[0, place] = 7 + (tokens[0, place] + 1) % 80
        changed = {**batches[window], "tokens": tokens}
        return run([*batches[:window], changed, *batches[window + 1 :]], this)[0]

    assert loss_with_a_change(1, 12) == loss_with_a_change(1, 23) == loss
    assert loss not in (loss_with_a_change(1, 0), loss_with_a_change(1, 11), loss_with_a_change(0, 11))


def test_plm_without_memory_carries_nothing():
    config = dataclasses.replace(CONFIGS["plm"], mem_len=0)
    without, batch = compiled("plm", None, config), batch_of("plm", [None], config)
    assert without.module.initial_carry(1) is None
    terms, _, carry = without.forward(batch)
    assert carry is None
    # An empty memory is none at all.
    assert run([batch], compiled("plm"))[0] == pytest.approx(float(terms["loss"].sum), rel=1e-6)


@pytest.mark.parametrize("name", tiers(MODULES, quick=["clm"]))
def test_rows_of_padding_change_nothing(name):
    """No gradient, and nothing becomes NaN: evaluation fills its last batch with such rows."""
    objective, spec = objective_and_spec(name)
    row = batch_of(name, [None])
    nothing = padding_window(objective.window_spec(spec), VOCAB.pad)
    empty = objective.example(np.random.default_rng(0), nothing, spec)
    twice = compiled(name).gradient({key: np.concatenate([row[key], row[key]]) for key in row})
    padded = compiled(name).gradient({key: np.concatenate([row[key], empty[key][None]]) for key in row})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), twice, padded)


def test_dropout_is_drawn_from_each_rows_key():
    this = compiled("clm", dataclasses.replace(MODELS["clm"], dropout=0.3))
    row = batch_of("clm", [None])
    batch = {key: np.concatenate([row[key], row[key]]) for key in row}
    keys = jax.random.split(jax.random.key(1), 2)

    def losses(keys) -> list[float]:
        kept = [batch["weights"] * np.array(rows, np.float32)[:, None] for rows in ([1, 0], [0, 1])]
        return [float(this.forward({**batch, "weights": w}, None, keys)[0]["loss"].sum) for w in kept]

    still, dropped = losses(None), losses(keys)
    assert still[0] == pytest.approx(still[1], rel=1e-6)
    assert len({round(x, 2) for x in (still[0], *dropped)}) == 3
    assert losses(keys[::-1]) == pytest.approx(dropped[::-1], rel=1e-5)
