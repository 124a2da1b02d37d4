"""Transformer-XL: what is remembered, and that with memory nothing of the text is lost between windows."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.data import corpus
from tests.objectives.small import ENCODER, VOCAB, log_softmax, small, spec_of, text
from tlx.base.errors import ConfigError
from tlx.nn.config import PositionConfig
from tlx.objectives import recurrent_lm
from tlx.objectives.recurrent_lm import RecurrentLM
from tlx.objectives.shared.base import ObjectiveSpec

LENGTH = 12
MODEL = dataclasses.replace(
    ENCODER, kind="decoder", block_layout="post", position=PositionConfig("relative_sinusoidal")
)


def batches(count: int = 3, mem_len: int = 40):
    """Consecutive windows of one row, and the spec."""
    this = spec_of("recurrent_lm", RecurrentLM(mem_len=mem_len), length=LENGTH)
    whole = text(count * LENGTH + 1, last=99 - VOCAB.num_sentinels)
    found = []
    for start in range(0, count * LENGTH, LENGTH):
        piece = whole._replace(
            **{
                key: getattr(whole, key)[start : start + LENGTH + 1]
                for key in ("tokens", "segments", "positions")
            }
        )
        row = recurrent_lm.OBJECTIVE.example(None, piece, this)
        found.append({key: row[key][None] for key in row})
    return found, this


def run(it, rows):
    carry = it.module.initial_carry(1)
    for row in rows:
        terms, carry = it.forward(row, carry=carry)
    return float(terms["loss"].sum), carry


def test_every_token_of_a_stream_but_its_first_is_a_target_once(tmp_path):
    cache = corpus.make_cache(tmp_path / "cache", [50, 7, 43])
    this = ObjectiveSpec(RecurrentLM(), LENGTH, corpus.VOCAB)
    pipeline = corpus.make_pipeline(
        [cache],
        recurrent_lm.OBJECTIVE.window_spec(this),
        1,
        example=lambda r, w, _: recurrent_lm.OBJECTIVE.example(r, w, this),
    )
    found = list(pipeline.epoch_batches())
    targets = np.concatenate([batch["targets"][batch["weights"] > 0] for batch in found])
    inputs = np.concatenate([batch["tokens"][batch["weights"] > 0] for batch in found])
    assert targets.tolist() == cache.tokens[1:].tolist() and inputs.tolist() == cache.tokens[:-1].tolist()


@pytest.mark.slow
def test_one_layer_with_memory_is_one_long_window():
    """With one layer and memory enough, the last window's loss is that of the whole text's last part."""
    rows, this = batches()
    it = small(this, rows[0], MODEL, num_layers=1)
    loss, carry = run(it, rows)
    assert carry.segments.tolist() == [[0] * 4 + [1] * 36]
    whole = {key: np.concatenate([row[key] for row in rows], axis=1) for key in rows[0]}
    logits = np.asarray(it.module.apply({"params": it.params}, whole, None, method="logits"))
    scores = np.take_along_axis(log_softmax(logits), whole["targets"][..., None], axis=-1)[0, :, 0]
    assert loss == pytest.approx(-scores[-LENGTH:].sum(), rel=1e-5)
    forgotten, _ = run(it, rows[-1:])
    assert abs(forgotten - loss) > 1e-3


@pytest.mark.slow
def test_memory_reaches_mem_len_back_in_each_layer_and_has_no_gradient():
    rows, this = batches(mem_len=LENGTH)
    it = small(this, rows[0], MODEL)

    def loss_with_a_change(window: int, place: int) -> float:
        tokens = rows[window]["tokens"].copy()
        tokens[0, place] = 7 + (tokens[0, place] + 1) % 80
        return run(it, [*rows[:window], {**rows[window], "tokens": tokens}, *rows[window + 1 :]])[0]

    loss = run(it, rows)[0]
    # Two layers reach two windows back: a layer remembers what the layer below made of its own memory.
    assert loss not in (loss_with_a_change(1, 0), loss_with_a_change(1, 11), loss_with_a_change(0, 11))
    one = small(this, rows[0], MODEL, num_layers=1)
    assert run(one, rows)[1].hidden.shape == (1, 1, LENGTH, 16)

    def last_loss(memory):
        carry = it.module.initial_carry(1)._replace(hidden=memory, segments=np.ones((1, LENGTH), np.int32))
        return it.module.apply({"params": it.params}, rows[0], carry)[0]["loss"].sum

    memory = np.random.default_rng(0).normal(size=(1, 2, LENGTH, 16)).astype(np.float32)
    value, grad = jax.jit(jax.value_and_grad(last_loss))(memory)
    assert not np.asarray(grad).any() and value != last_loss(memory * 2)


def test_a_place_sees_the_past_only():
    rows, this = batches(1)
    it = small(this, rows[0], MODEL)

    def logits(table):
        model = {**it.params["model"], "embedding": {"table": table}}
        found = it.module.apply({"params": {**it.params, "model": model}}, rows[0], None, method="logits")
        return found[0, :, :5].sum(axis=-1)

    jacobian = np.asarray(jax.jit(jax.jacrev(logits))(it.params["model"]["embedding"]["table"]))
    seen = np.linalg.norm(jacobian, axis=-1)[:, rows[0]["tokens"][0]] > 0
    assert np.array_equal(seen, np.tril(np.ones((LENGTH, LENGTH), bool)))


def test_positions_that_do_not_reach_back_are_refused():
    rows, this = batches(1)
    with pytest.raises(ConfigError, match="model.position.kind = 'learned' is not one of: relative"):
        small(this, rows[0], MODEL, position=PositionConfig("learned"))
    with pytest.raises(ConfigError, match="objective.mem_len = 0"):
        RecurrentLM(mem_len=0).validate()
