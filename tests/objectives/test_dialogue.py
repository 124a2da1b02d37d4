"""Dialogue: rows by hand and for any text, ratings by their draw, losses by numpy, and what a target sees."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.objectives.cases import VOCAB as SMALL
from tests.objectives.cases import compiled, influence, log_softmax
from tests.objectives.rows import decoder, encoder, targets
from tlx.base.errors import ConfigError
from tlx.data import turns
from tlx.data.window import Window
from tlx.objectives import TABLE, dialogue, seq2seq_dialogue
from tlx.objectives.dialogue import Dialogue
from tlx.objectives.seq2seq_dialogue import Seq2SeqDialogue
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.text import Vocabulary
from tlx.text.bytes_tokenizer import BytesTokenizer

BYTES = BytesTokenizer()
SEP, EOS, BOS = BYTES.vocab.sep, BYTES.vocab.eos, BYTES.vocab.bos
SAY = BYTES.vocab.mark(turns.RESPONSE)


def spec(config=None, length: int = 64, vocab: Vocabulary = BYTES.vocab) -> ObjectiveSpec:
    return ObjectiveSpec(config or Dialogue(), length, vocab)


def padded(tokens, length: int) -> Window:
    row, segments = np.zeros((2, length), np.int32)
    row[: len(tokens)], segments[: len(tokens)] = tokens, 1
    return Window(row, segments, np.arange(length, dtype=np.int32) * segments)


def talk(said, reply, this: ObjectiveSpec, ratings=(), end: int = EOS) -> Window:
    """What the data floor makes of turns of ids (the layout "turns")."""
    tokens, begins = turns.conversation([*said, reply], ratings, this.vocab)
    reads, start = TABLE.load(this.config.name).window_spec(this), int(begins[-1])
    context = padded(tokens[max(start - reads.length, 0) : start], reads.length)
    return context._replace(second=padded([*tokens[start:], end][: reads.second_length], reads.second_length))


def row(window: Window, this: ObjectiveSpec, seed: int = 0):
    return TABLE.load(this.config.name).example(np.random.default_rng(seed), window, this)


def inputs(one) -> list[int]:
    return one["tokens"][one["segments"] > 0].tolist()


def test_a_row_by_hand():
    this = spec(length=12)
    one = row(talk([[20, 21], [22]], [23, 24], this, end=SEP), this)
    assert inputs(one) == [BOS, 20, 21, SEP, 22, SAY, 23, 24]
    assert one["targets"].tolist() == [0] * 5 + [23, 24, EOS] + [0] * 4
    assert one["weights"].tolist() == [0] * 5 + [1] * 3 + [0] * 4
    assert one["positions"].tolist() == [*range(8), 0, 0, 0, 0] and one["rating_place"] == 0


def test_what_is_too_long_is_cut():
    """The context loses its beginning, a response its end and eos; the row is then full."""
    this = spec(Dialogue(response_length=4), length=12)
    one = row(talk([range(20, 40)], range(50, 60), this), this)
    assert inputs(one) == [BOS, *range(33, 40), SAY, 50, 51, 52] and targets(one) == [50, 51, 52, 53]
    one = row(talk([range(20, 40)], range(50, 53), this), this)
    assert targets(one) == [50, 51, 52, EOS] and inputs(one)[:2] == [BOS, 33]
    other = spec(Seq2SeqDialogue(response_length=4), length=8)
    one = row(talk([[20], range(30, 36)], range(50, 60), other), other)
    assert encoder(one) == [SEP, *range(30, 36), EOS] and targets(one) == [50, 51, 52, 53]


@pytest.mark.parametrize("config", [Dialogue(), Seq2SeqDialogue()])
def test_the_context_is_the_last_turns(config):
    this = spec(dataclasses.replace(config, max_turns=3))
    for count in range(1, 7):
        said = [[20 + i] * 2 for i in range(count)]
        one = row(talk(said, [50], this), this)
        read = inputs(one)[1:-2] if isinstance(config, Dialogue) and "tokens" in one else encoder(one)[:-1]
        assert read == [x for turn in said[-3:] for x in (*turn, SEP)][:-1]


TURN = st.text(min_size=1, max_size=12).filter(str.strip) | st.sampled_from(["안녕하세요?", "👍🏽 ok", "é\n"])


@settings(deadline=None, max_examples=60)
@given(st.lists(TURN, min_size=1, max_size=5), TURN, st.sampled_from([SEP, EOS]))
def test_turns_are_rebuilt(said, reply, end):
    """Any text: the turns from the inputs, the response from the targets and from the decoder's inputs."""
    ids = [np.array(BYTES.encode(turn), np.int32) for turn in (*said, reply)]
    for config in (Dialogue(response_length=120), Seq2SeqDialogue()):
        this = spec(config, length=512)
        one = row(talk(ids[:-1], ids[-1], this, end=end), this)
        assert targets(one)[-1] == EOS and BYTES.decode(targets(one)[:-1]) == reply
        if config.name == "dialogue":
            context, response = split(inputs(one)[1:], SAY)
        else:
            context, response = encoder(one)[:-1], decoder(one)[1:]
            assert encoder(one)[-1] == EOS and decoder(one)[0] == BOS
        assert [BYTES.decode(turn) for turn in split(context, SEP)] == said
        assert BYTES.decode(response) == reply


def split(ids: list[int], at: int) -> list[list[int]]:
    places = [-1, *(i for i, x in enumerate(ids) if x == at), len(ids)]
    return [ids[a + 1 : b] for a, b in zip(places, places[1:], strict=False)]


def test_one_rating_is_asked_for():
    """Behind the response, whatever ends it; each of the rated attributes as often, over 20,000 draws."""
    this = spec(length=24)
    mark, ratings = this.vocab.mark, (1, None, 0, 1)
    window = talk([[20]], [30, 31], this, ratings)
    rng, counts = np.random.default_rng(0), {0: 0, 2: 0, 3: 0}
    for _ in range(20_000):
        one = dialogue.OBJECTIVE.example(rng, window, this)
        attribute = inputs(one)[-1] - mark(turns.ATTRIBUTE)
        counts[attribute] += 1
        assert inputs(one)[:-1] == [BOS, 20, SAY, 30, 31] and one["rating_place"] == 5
        assert (
            targets(one)
            == [mark(turns.RATING + ratings[attribute])]
            == [one["rating_marks"][ratings[attribute]]]
        )
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3
    other = spec(Seq2SeqDialogue(), length=24)
    assert targets(row(talk([[20]], [30, 31], other, ratings), other)) == [30, 31, EOS]


def test_a_question_is_the_row_of_a_rated_response():
    this = spec(length=24)
    asked = dialogue.rating_question([[20], [21, 22]], np.array([30, 31]), 2, this)
    given_ = row(talk([[20], [21, 22]], [30, 31], this, (None, None, 1)), this)
    assert all(np.array_equal(asked[key], given_[key]) for key in given_)
    assert asked["rating_place"] > 0


def test_ranked_as_lamda_does():
    """3 sensible + specific + interesting among those safe enough; ties stay in order."""
    ratings = {
        "sensible": np.array([0.9, 0.5, 1.0, 0.9, 0.1]),
        "specific": np.array([0.1, 1.0, 1.0, 0.1, 0.0]),
        "interesting": np.array([0.1, 0.9, 1.0, 0.1, 0.0]),
        "safe": np.array([0.95, 0.99, 0.2, 0.9, 1.0]),
    }
    assert dialogue.rank_responses(ratings).tolist() == [1, 0, 3, 4]
    assert dialogue.rank_responses(ratings, safe=0.95).tolist() == [1, 0, 4]
    del ratings["safe"]
    assert dialogue.rank_responses(ratings).tolist() == [2, 1, 0, 3, 4]


def batch():
    """A response, a rated one, padding, and a rated one with another attribute."""
    this = spec(length=24, vocab=SMALL)
    windows = [
        talk([[20, 21], [22]], [23, 24], this, end=SMALL.eos),
        talk([[30]], [31, 32], this, (1,), end=SMALL.eos),
        padded([], 22)._replace(second=padded([], 12)),
        talk([[40, 41]], [42], this, (None, 0), end=SMALL.eos),
    ]
    rows = [row(window, this) for window in windows]
    return {key: np.stack([one[key] for one in rows]) for key in rows[0]}


def test_losses_are_numpys():
    made, this = batch(), compiled("dialogue")
    terms, logits, _ = this.forward(made)
    scores = log_softmax(np.asarray(logits))
    losses = -np.take_along_axis(scores, made["targets"][..., None], -1)[..., 0] * made["weights"]
    assert made["weights"].sum(axis=1).tolist() == [3, 1, 0, 1]
    np.testing.assert_allclose(terms["loss"].sum, losses.sum(), rtol=1e-5)
    np.testing.assert_allclose(terms["response_loss"].sum, losses[0].sum(), rtol=1e-5)
    np.testing.assert_allclose(terms["rating_loss"].sum, losses[[1, 3]].sum(), rtol=1e-5)
    assert [terms[name].weight for name in ("loss", "response_loss", "rating_loss")] == [5, 3, 2]
    assert [terms[name].loss_weight for name in ("loss", "response_loss", "rating_loss")] == [1, 0, 0]
    no, yes = (
        np.array([scores[b, made["rating_place"][b], made["rating_marks"][b, i]] for b in (1, 3)])
        for i in (0, 1)
    )
    rate = jax.jit(lambda params: this.module.apply({"params": params}, made, method="ratings"))
    found = rate(this.params)
    np.testing.assert_allclose(np.asarray(found)[[1, 3]], np.exp(yes) / (np.exp(yes) + np.exp(no)), rtol=1e-4)
    assert terms["rating_accuracy"].sum == np.sum((yes > no) == [True, False])


@pytest.mark.parametrize("which", [0, 1])
def test_a_target_sees_what_stands_before_it(which):
    """Every token of the context and the response so far, none of what is to come, its own included."""
    made = {key: value[which : which + 1] for key, value in batch().items()}
    seen, tokens = influence("dialogue", made), made["tokens"][0]
    for place in np.flatnonzero(made["weights"][0]):
        assert seen[place, tokens[: place + 1]].min() > 0
        later = np.setdiff1d(made["targets"][0, place:], [*tokens[: place + 1], SMALL.pad])
        assert len(later) and seen[place, later].max() == 0


def test_wrong_values_are_named():
    with pytest.raises(ConfigError, match="objective.max_turns = 0"):
        Dialogue(max_turns=0).validate()
    with pytest.raises(ConfigError, match="objective.response_length = -1"):
        Seq2SeqDialogue(response_length=-1).validate()
    with pytest.raises(ConfigError, match="response_length = 10 must be 2 to data.sequence_length - 3 = 9"):
        dialogue.OBJECTIVE.window_spec(spec(Dialogue(response_length=10), length=12))
    with pytest.raises(ConfigError, match="must be at least 2"):
        seq2seq_dialogue.OBJECTIVE.window_spec(spec(Seq2SeqDialogue(response_length=1)))
    with pytest.raises(ConfigError, match="num_sentinels = 0"):
        dialogue.OBJECTIVE.window_spec(spec(vocab=Vocabulary(50, num_sentinels=0)))
