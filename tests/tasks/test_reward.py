"""Reward models: the loss by numpy, rows of every kind of model, readers of the layouts that data sets have."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tasks import small
from tests.tiers import tiers
from tlx.base.errors import ConfigError, DataError
from tlx.tasks import TABLE
from tlx.tasks.reward import Reward, comparison_terms
from tlx.tasks.shared.answers import AnswerIds, fit_answer, rank_numbers, read_answers
from tlx.tasks.shared.base import TaskSpec
from tlx.text.chat import ChatTemplate, Message, RoleTemplate
from tlx.text.frames import Frame

TASK, V, encode = TABLE.load("reward"), small.TOKENIZER.vocab, small.TOKENIZER.encode
SHORT = ChatTemplate("{bos}", RoleTemplate("S", "."), RoleTemplate("U", "."), RoleTemplate("A", "{eos}"))
HUMAN = ("\n\nHuman:", "\n\nAssistant:")
PAIRS = small.records_of(
    {"prompt": "ab", "chosen": "c", "rejected": "de"},
    {"prompt": "how are you?", "chosen": "well", "rejected": "no"},
)
RANKED = small.records_of(
    {"prompt": "a", "answers": ["b", "c", "d", "e"], "ranking": [1, 0, 2, 1]},
    {"prompt": "a", "answers": ["f", "g"], "ranking": [0, 1]},
)


def spec_of(kind="decoder", **config):
    config = Reward(**({"format": SHORT} | config))
    config.validate()
    return TaskSpec(config, small.LENGTH, V, kind, tokenizer=small.TOKENIZER)


def batch_of(spec, records):
    items = TASK.prepare(records, small.TOKENIZER, spec)
    rows = [TASK.example(np.random.default_rng(0), item, spec) for item in items]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def losses(rewards, ranks, margin=0.0, centring=0.0):
    """Ouyang et al. 2022, eq. 1, by a loop over the pairs in float64."""
    values = []
    for i, j in itertools.permutations(range(len(rewards)), 2):
        if ranks[i] < ranks[j]:
            difference = rewards[i] - rewards[j] - margin
            values.append(np.log1p(np.exp(-difference)) + centring * (rewards[i] + rewards[j]) ** 2)
    return np.array(values)


def loss_of(rewards, ranks, margin=0.0, centring=0.0):
    arrays = (np.float32([rewards]), np.int32([ranks]), np.float32([margin]), np.ones(1, np.float32))
    terms = comparison_terms(*arrays, centring)
    total = sum(float(term.sum / term.weight) * term.loss_weight for term in terms.values())
    return total, terms


@pytest.mark.parametrize(
    ("rewards", "margin", "centring", "expected"),
    [
        ((1.3, 0.2), 0.0, 0.0, 0.287335),
        ((1.3, 0.2), 1 / 3, 0.0, 0.381554),
        ((1.3, 0.2), 0.0, 0.01, 0.309835),
        ((2.0, 1.0, 0.5, -1.0), 0.0, 0.0, 0.227613),
    ],
)
def test_the_loss_has_its_published_values(rewards, margin, centring, expected):
    ranks = range(len(rewards))
    total, terms = loss_of(rewards, ranks, margin, centring)
    assert total == pytest.approx(expected, abs=1e-6)
    assert total == pytest.approx(losses(rewards, ranks, margin, centring).mean(), rel=1e-6)
    assert float(terms["accuracy"].sum) == len(losses(rewards, ranks))


def test_ties_have_no_loss_and_a_prompt_counts_once():
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=(3, 4)).astype(np.float32)
    ranks = np.int32([[1, 0, 2, 1], [0, 1, -1, -1], [0, 0, 0, -1]])
    weights = np.float32([1, 1, 1])
    terms = comparison_terms(rewards, ranks, np.zeros(3, np.float32), weights, 0.0)
    first = losses(rewards[0], ranks[0])
    second = losses(rewards[1, :2], ranks[1, :2])
    assert float(terms["loss"].weight) == 2 and len(first) == 5  # one of the six pairs is a tie
    assert float(terms["loss"].sum) == pytest.approx(first.mean() + second.mean(), rel=1e-6)
    assert float(terms["accuracy"].weight) == 6 and float(terms["reward"].weight) == 9
    shifted = comparison_terms(rewards + 7, ranks, np.zeros(3, np.float32), weights, 0.0)
    assert float(shifted["loss"].sum) == pytest.approx(float(terms["loss"].sum), rel=1e-5)
    same = comparison_terms(np.ones((1, 2), np.float32), ranks[1:2, :2], np.zeros(1), np.ones(1), 0.0)
    assert float(same["accuracy"].sum) == 0 and float(same["accuracy"].weight) == 1  # a tie is not right


def test_rows_of_a_decoder_end_with_the_end_of_the_answer():
    batch = batch_of(spec_of(), PAIRS)
    assert batch["tokens"].shape == (2, 2, small.LENGTH)
    text = [V.bos, *encode("Uab.Ac"), V.eos]
    assert batch["tokens"][0, 0].tolist() == [*text, *[V.pad] * (small.LENGTH - len(text))]
    assert batch["place"].tolist() == [[7, 8], [15, 15]]
    # The second prompt is too long: it loses its oldest ids, but the first, and the answer none.
    assert batch["tokens"][1, 0, 0] == V.bos
    assert small.TOKENIZER.decode(batch["tokens"][1, 0]) == "are you?.Awell"
    assert small.TOKENIZER.decode(batch["tokens"][1, 1]) == "w are you?.Ano"
    assert batch["rank"].tolist() == [[0, 1]] * 2


def test_rows_of_other_kinds():
    encoder = batch_of(spec_of("encoder"), PAIRS[:1])
    assert encoder["tokens"][0, 0, :6].tolist() == [V.cls, *encode("ab"), V.sep, *encode("c"), V.sep]
    assert encoder["place"].tolist() == [[0, 0]] and encoder["types"][0, 0, :6].tolist() == [0, 0, 0, 0, 1, 1]
    both = batch_of(spec_of("encoder_decoder"), PAIRS[:1])
    assert both["encoder_tokens"][0, 0, :3].tolist() == [*encode("ab"), V.eos]
    assert both["decoder_tokens"][0, 1, :4].tolist() == [V.bos, *encode("de"), V.eos]
    assert both["place"].tolist() == [[2, 3]]


@pytest.mark.parametrize("kind", tiers(small.SHAPES, quick=["decoder"]))
def test_rewards_are_those_of_answers_alone(kind):
    """The loss by numpy from rewards that are read one answer at a time; padding and other answers do not matter."""
    spec = TASK.infer_labels(spec_of(kind, records="ranked").config, RANKED)
    spec = spec_of(kind, records="ranked", num_answers=spec.num_answers)
    batch = batch_of(spec, RANKED)
    module = small.module_of("reward", kind, spec.config)
    params = jax.tree.map(lambda leaf: 4 * leaf, small.init(module, batch))
    terms, outputs = small.evaluated(module, params, batch)
    alone = spec_of(kind, records="rated", answer="answer")
    total = 0.0
    for row, record in enumerate(RANKED):
        values = [
            {"prompt": record.values["prompt"], "answer": answer, "score": 0.0}
            for answer in record.values["answers"]
        ]
        single = batch_of(alone, small.records_of(*values))
        _, found = small.evaluated(small.module_of("reward", kind, alone.config), params, single)
        rewards = np.asarray(found["reward"])[:, 0]
        np.testing.assert_allclose(outputs["reward"][row, : len(rewards)], rewards, rtol=2e-5, atol=2e-6)
        total += losses(rewards.astype(np.float64), record.values["ranking"]).mean()
    assert np.std(outputs["reward"]) > 0.05
    assert float(terms["loss"].sum) == pytest.approx(total, rel=1e-5) and float(terms["loss"].weight) == 2


def test_scores_by_hand():
    spec = spec_of(records="ranked", num_answers=4)
    predictions = [{"rewards": [0.5, 1.0, 0.0, 2.0]}, {"rewards": [1.0, 1.0]}]
    scores = TASK.score(predictions, RANKED, spec)
    # Pairs of the first prompt: 1 > 0, 1 > 3, 1 > 2, 0 > 2, 3 > 2: all but "1 > 3"; the second is a tie.
    assert scores.main == "accuracy" and scores.figures["accuracy"] == pytest.approx((4 / 5 + 0) / 2)
    assert scores.figures["pair_accuracy"] == pytest.approx(4 / 6)
    assert scores.figures["mean_margin"] == pytest.approx((0.5 - 1 + 1 + 0.5 + 2 + 0) / 6)
    assert scores.statistic(np.array([0, 0])) == pytest.approx(4 / 5)


def test_layouts_of_data_sets():
    hh = {
        "chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d",
        "rejected": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: e f",
    }
    config = Reward(prompt="", turns=HUMAN)
    read = read_answers(*small.records_of(hh), config, config.answer_columns)
    assert [message.content for message in read.prompt] == ["a", "b", "c"]
    assert read.answers == ((Message("assistant", "d"),), (Message("assistant", "e f"),))
    factory = {
        "conversations": [{"from": "human", "value": "q"}],
        "chosen": {"from": "gpt", "value": "x"},
        "rejected": {"from": "gpt", "value": "y"},
    }
    config = Reward(prompt="conversations", role="from", content="value", system="be brief")
    read = read_answers(*small.records_of(factory), config, config.answer_columns)
    assert read.prompt == (Message("system", "be brief"), Message("user", "q"))
    assert [turns[0].content for turns in read.answers] == ["x", "y"]
    values = {"instruction": "i", "input": "j", "chosen": "x", "rejected": "y"}
    config = Reward(prompt="{instruction}\n{input}")
    assert read_answers(*small.records_of(values), config, config.answer_columns).prompt[0].content == "i\nj"
    messages = {
        "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "x"}],
        "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "y"}],
    }
    config = Reward(prompt="")
    read = read_answers(*small.records_of(messages), config, config.answer_columns)
    assert read.prompt == (Message("user", "q"),) and read.answers[1][0].content == "y"
    with pytest.raises(DataError, match="objective.prompt = ''"):
        read_answers(*small.records_of(messages | {"prompt": "q"}), Reward(), config.answer_columns)


def test_kochatgpt_ranks_and_orders_differ_for_cycles_alone():
    """KoChatGPT's authors compare ranking[i] < ranking[j]; an order of answers is another thing for a 3-cycle."""
    for ranking in itertools.permutations(range(3)):
        (record,) = small.records_of({"ranking": list(ranking)})
        ranks = rank_numbers(record, "ranking", 3, "ranks")
        order = rank_numbers(record, "ranking", 3, "order")
        assert ranks == ranking and (ranks == order) == (ranking not in ((1, 2, 0), (2, 0, 1)))
    (record,) = small.records_of({"ranking": [0.1, 3, 3]})
    assert rank_numbers(record, "ranking", 3, "scores") == (-0.1, -3.0, -3.0)


@pytest.mark.parametrize(
    ("values", "config", "message"),
    [
        ({"prompt": "a", "chosen": "b"}, {}, "objective.rejected"),
        ({"prompt": "a", "chosen": "b", "rejected": 3}, {}, "expected a text, or a list of"),
        (
            {"prompt": "a", "answers": ["b", "c"], "ranking": [1, 1]},
            {"records": "ranked"},
            "prefers no answer",
        ),
        ({"prompt": "a", "answers": ["b", "c"], "ranking": [1]}, {"records": "ranked"}, "list of 2 numbers"),
        ({"prompt": "a", "completion": "b", "score": "x"}, {"records": "rated"}, "no finite number"),
        ({"prompt": "a", "completion": "b"}, {"records": "rated"}, "objective.score = 'score'"),
        (
            {"prompt": "a", "completion": "b", "score": 5},
            {"records": "rated"},
            "'score' = 5 is not on the scale from objective.min_score = 0 to objective.max_score = 1",
        ),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, {"margin": "gap"}, "objective.margin = 'gap'"),
        ({"prompt": "a", "chosen": ["b", "c"], "rejected": "d"}, {}, "expected a list of messages"),
        (
            {"prompt": "a", "answers": ["b", "c", "d"], "ranking": [1, 0, 2]},
            {"records": "ranked", "num_answers": 2},
            "3 answers, more than objective.num_answers = 2",
        ),
        ({"chosen": "a", "rejected": "b"}, {"prompt": ""}, "objective.turns separates"),
        ({"chosen": "\ud800", "rejected": "b", "prompt": "a"}, {}, "ud800"),
    ],
)
def test_bad_records_say_why(values, config, message):
    with pytest.raises(DataError, match=message):
        TASK.check_record(spec_of(**config).config, *small.records_of(values))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"centring": -1.0}, "objective.centring = -1.0"),
        ({"turns": ("Human:",)}, "objective.turns"),
        ({"records": "rated", "margin": "m"}, "objective.margin"),
        ({"num_answers": 3}, "objective.num_answers"),
    ],
)
def test_bad_configs_say_why(config, message):
    with pytest.raises(ConfigError, match=message):
        spec_of(**config)


def test_truncation_keeps_answers():
    prompt = np.arange(10, dtype=np.int32)
    ids = AnswerIds(prompt, np.arange(20, 24, dtype=np.int32), np.ones(4, bool))
    cut = fit_answer(ids, 8)
    assert cut.prompt.tolist() == [0, 7, 8, 9] and cut.answer.tolist() == [20, 21, 22, 23]
    cut = fit_answer(ids, 3)
    assert (
        cut.prompt.tolist() == [0]
        and cut.answer.tolist() == [20, 21]
        and cut.predicted.tolist() == [True] * 2
    )


def test_truncation_leaves_room_for_the_special_ids_of_the_base():
    """RoBERTa's frame has two ids between the texts."""
    frame = Frame(before=(V.cls,), between=(V.sep, V.sep), after=(V.sep,))
    spec = dataclasses.replace(spec_of("encoder"), frame=frame)
    prompt = "x" * small.LENGTH + "end?"
    row = batch_of(spec, small.records_of({"prompt": prompt, "chosen": "well", "rejected": "no"}))
    chosen = row["tokens"][0, 0]
    assert len(chosen) == small.LENGTH
    end = [*encode("end?"), V.sep, V.sep, *encode("well"), V.sep]
    assert chosen[0] == V.cls and chosen[-len(end) :].tolist() == end


def test_an_answer_that_spans_tokens_with_its_prompt_is_split_once():
    """A conversation of several turns: earlier answers belong to the prompt, and only the last one is predicted."""
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    record = {"prompt": turns, "chosen": "d", "rejected": "e"}
    (item,) = TASK.prepare(small.records_of(record), small.TOKENIZER, spec_of())
    assert item.answers[0].prompt.tolist() == [V.bos, *encode("Ua.Ab"), V.eos, *encode("Uc.A")]
    assert item.answers[0].answer.tolist() == [*encode("d"), V.eos]


def test_gradients_are_finite_where_nothing_is_compared():
    def loss(rewards):
        terms = comparison_terms(rewards, jnp.full((1, 2), -1, jnp.int32), jnp.zeros(1), jnp.zeros(1), 0.01)
        return terms["loss"].sum + terms["centring"].sum

    assert np.asarray(jax.grad(loss)(jnp.ones((1, 2)))).tolist() == [[0.0, 0.0]]
