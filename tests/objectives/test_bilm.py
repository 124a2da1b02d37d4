"""ELMo's objective against its formulas in numpy, and that neither direction sees what it predicts."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.objectives.small import log_softmax
from tlx.base.errors import ConfigError
from tlx.data.window import Window
from tlx.evaluation import scoring
from tlx.models.config import ModelConfig
from tlx.nn.characters import CharacterConfig
from tlx.nn.losses import LossConfig
from tlx.nn.recurrent import RecurrentConfig
from tlx.objectives import bilm
from tlx.objectives.bilm import BiLM, BiLMModule
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.parallel import unbox
from tlx.text.bytes_tokenizer import BytesTokenizer
from tlx.text.characters import PAD

LENGTH, WIDTH = 6, 8
TOKENIZER = BytesTokenizer()
CONFIG = BiLM(max_characters=5)
SPEC = ObjectiveSpec.of(CONFIG, LENGTH, TOKENIZER, ("",))
PART = RecurrentConfig(
    cell_dim=10,
    cell_clip=0.5,
    projection_clip=0.4,
    characters=CharacterConfig(width=4, filters=((1, 3), (2, 4), (3, 5)), num_highways=2),
)
MODEL = ModelConfig(
    kind="bilstm",
    vocab_size=TOKENIZER.vocab.size,
    vocab_multiple=8,
    width=WIDTH,
    num_layers=2,
    recurrent=PART,
)


def windows(count=3, text="A biLM reads é twice."):
    """Consecutive rows of a stream, the last of them partly padding."""
    ids = np.array(TOKENIZER.encode(text)[: count * LENGTH - 1] + [TOKENIZER.vocab.eos], np.int32)
    found = []
    for start in range(0, count * LENGTH, LENGTH):
        tokens, real = np.zeros((2, LENGTH + 1), np.int32)
        piece = ids[start : start + LENGTH + 1]
        tokens[: len(piece)], real[: len(piece)] = piece, 1
        row = bilm.OBJECTIVE.example(None, Window(tokens, real, np.arange(LENGTH + 1)), SPEC)
        found.append({key: row[key][None] for key in row})
    return found


def made(config=CONFIG, loss=LossConfig(), **changes):  # noqa: B008
    module = BiLMModule(config, dataclasses.replace(MODEL, **changes), loss)
    shapes = unbox(jax.eval_shape(module.init, jax.random.key(0), windows()[0])["params"])
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.4, leaf.shape).astype(np.float32), shapes)
    apply = jax.jit(lambda batch, carry, keys: module.apply({"params": params}, batch, carry, keys))
    return module, params, lambda batch, carry=None, keys=None: apply(batch, carry, keys)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def token(characters, p):
    """Peters et al. 2018 and the published options: one token's vector from its characters."""
    x = p["table"][characters]
    found = []
    for place, (reach, _) in enumerate(PART.characters.filters):
        kernel, bias = p[f"filter_{place}"], p[f"filter_{place}_bias"]
        y = [np.einsum("we,wen->n", x[i : i + reach], kernel) for i in range(len(x) - reach + 1)]
        found.append(np.maximum(np.max(y, axis=0) + bias, 0))
    x = np.concatenate(found)
    for i in range(2):
        gate, change = p[f"gates_{i}"], p[f"changes_{i}"]
        carried = sigmoid(x @ gate["kernel"] + gate["bias"])
        x = carried * np.maximum(x @ change["kernel"] + change["bias"], 0) + (1 - carried) * x
    return x @ p["projection"]["kernel"] + p["projection"]["bias"]


def read(xs, p, states):
    """One direction over tokens in the order that it reads them; the states change in place."""
    for layer in range(2):
        outputs = []
        for x in xs:
            cell, hidden = states[layer]
            z = np.einsum("d,dgh->gh", x, p["input"][layer]) + p["bias"][layer]
            z = z + np.einsum("d,dgh->gh", hidden, p["recurrent"][layer])
            cell = sigmoid(z[2] + 1) * cell + sigmoid(z[0]) * np.tanh(z[1])
            cell = np.clip(cell, -PART.cell_clip, PART.cell_clip)
            shown = (sigmoid(z[3]) * np.tanh(cell)) @ p["projection"][layer]
            states[layer] = cell, np.clip(shown, -PART.projection_clip, PART.projection_clip)
            outputs.append(states[layer][1])
        xs = [y + x for y, x in zip(outputs, xs, strict=True)] if layer else outputs
    return np.array(xs)


def nothing():
    return [(np.zeros(PART.cell_dim), np.zeros(WIDTH))] * 2


def test_both_losses_are_the_formulas_over_three_windows():
    """The forward state goes on from window to window, the backward one begins anew; clips are at work."""
    _, params, forward = made()
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    softmax, states, carry, clipped = p["heads"]["bilm"], nothing(), None, 0
    for row in windows():
        count = int(row["weights"].sum())
        xs = [token(c, p["model"]["characters"]) for c in row["characters"][0][: count + 1]]
        ahead = read(xs[:count], p["model"]["forward"]["blocks"], states)
        clipped += sum(np.sum(np.abs(cell) == PART.cell_clip) for cell, _ in states)
        back = read(xs[1:][::-1], p["model"]["backward"]["blocks"], nothing())[::-1]
        sums = {}
        for name, hidden, targets in (("forward", ahead, "targets"), ("backward", back, "tokens")):
            y = hidden @ softmax["kernel"].T + softmax["bias"]
            scores = log_softmax(y[:, : TOKENIZER.vocab.size])
            sums[name] = -scores[np.arange(count), row[targets][0][:count]].sum()
        terms, carry = forward(row, carry)
        for name, expected in sums.items():
            assert float(terms[name].sum) == pytest.approx(expected, rel=1e-5)
            assert float(terms[name].weight) == count and terms[name].loss_weight == 0
        assert float(terms["loss"].sum) == pytest.approx(sum(sums.values()) / 2, rel=1e-5)
        assert terms["loss"].loss_weight == 1
    assert clipped and count < LENGTH


def test_a_row_has_the_characters_of_one_token_more():
    first, _, last = windows()
    assert first["characters"].shape == (1, LENGTH + 1, 5) and first["tokens"].shape == (1, LENGTH)
    np.testing.assert_array_equal(first["characters"][0, :-1], SPEC.characters[first["tokens"][0]])
    np.testing.assert_array_equal(first["characters"][0, 1:], SPEC.characters[first["targets"][0]])
    assert (last["characters"][0, -1] == PAD).all() and last["weights"].tolist() == [[1] * 5 + [0]]
    asked = bilm.OBJECTIVE.window_spec(SPEC)
    assert asked.layout == "stream" and asked.length - asked.overlap == LENGTH


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_no_direction_sees_what_it_predicts_or_lies_behind_it(direction):
    """What each place hands to the softmax, as a function of the vector of every token."""
    module, params, _ = made()
    row = windows(1)[0]

    def read(self, vectors):
        if direction == "forward":
            return self.lm.read_forward(vectors[:, :-1], row["segments"], None)[0][-1]
        return self.lm.read_backward(vectors[:, 1:], row["segments"])[-1]

    def shown(vectors):
        return module.apply({"params": params}, vectors, method=read)[0].sum(axis=-1)

    tokens = np.random.default_rng(4).normal(size=(1, LENGTH + 1, WIDTH)).astype(np.float32)
    seen = np.abs(np.asarray(jax.jit(jax.jacrev(shown))(tokens))[:, 0]).max(axis=-1) > 0
    # Place p predicts token p + 1 from tokens up to p, and token p from those behind it.
    wide = np.ones((LENGTH, LENGTH + 1), bool)
    assert np.array_equal(seen, np.tril(wide) if direction == "forward" else np.triu(wide, 1))


def test_the_losses_move_with_no_characters_but_those_seen():
    """End to end: characters of the first token are unseen by a backward loss of the first place alone."""
    _, _, forward = made()
    row = windows(1)[0]
    for place, name, unseen in ((2, "forward", slice(3, None)), (3, "backward", slice(None, 4))):
        one = {**row, "weights": np.eye(LENGTH, dtype=np.float32)[place][None]}
        other = row["characters"].copy()
        other[:, unseen, 1] = (other[:, unseen, 1] + 3) % 256
        changed = {**one, "characters": other}
        assert float(forward(one)[0][name].sum) == float(forward(changed)[0][name].sum)
        rest = {"forward": "backward", "backward": "forward"}[name]
        assert float(forward(one)[0][rest].sum) != float(forward(changed)[0][rest].sum)


@pytest.mark.slow
def test_a_sampled_softmax_of_all_ids_is_the_whole_one_and_evaluation_never_samples():
    row, keys = windows(1)[0], jax.random.split(jax.random.key(0), 1)
    whole = made()[2](row)[0]
    every = made(dataclasses.replace(CONFIG, num_sampled=10_000))[2]
    few = made(dataclasses.replace(CONFIG, num_sampled=20))[2]
    for name in ("loss", "forward", "backward"):
        assert float(every(row, None, keys)[0][name].sum) == pytest.approx(float(whole[name].sum), rel=1e-5)
        assert float(few(row)[0][name].sum) == float(whole[name].sum)
        assert float(few(row, None, keys)[0][name].sum) != float(whole[name].sum)


def test_texts_are_scored_by_the_forward_direction():
    """Within a row, each token after those before it and eos; its characters come from the ids."""
    module, params, _ = made()
    vocab, ids = TOKENIZER.vocab, np.array(TOKENIZER.encode("héll"), np.int32)
    frame = bilm.OBJECTIVE.frame(SPEC)
    (found,) = scoring.log_probs(module, params, [ids], vocab, LENGTH, frame, characters=SPEC.characters)
    given = np.concatenate([[vocab.eos], ids[:-1]])
    batch = {"tokens": given, "segments": np.ones_like(given), "characters": SPEC.characters[given]}
    rows = {key: value[None] for key, value in batch.items()}
    logits = jax.jit(lambda rows: module.apply({"params": params}, rows, method="logits"))(rows)
    scores = log_softmax(np.asarray(logits)[0])
    np.testing.assert_allclose(found, scores[np.arange(len(ids)), ids], rtol=1e-5)


def test_what_does_not_go_together_is_named():
    with pytest.raises(ConfigError, match="objective.max_characters = 2"):
        BiLM(max_characters=2).validate()
    wide = dataclasses.replace(PART, characters=CharacterConfig(4, ((6, 3),), 1))
    with pytest.raises(ConfigError, match="filters reach over 6 characters"):
        made(recurrent=wide)
    with pytest.raises(ConfigError, match="objective.num_sampled = 5"):
        made(dataclasses.replace(CONFIG, num_sampled=5), LossConfig(z_loss=1e-4))
