"""Reward models: how good an answer to a prompt is, from comparisons, rankings or ratings of answers.

A head gives each answer a number r (Bradley and Terry 1952: p(w better than l) = sigma(r_w - r_l)). It is read at
the last token of a decoder and of an encoder-decoder's decoder, and at the first one of an encoder. The loss of a
prompt with its K answers is the mean over the pairs of which one is better (Ouyang et al. 2022, eq. 1)

    -log sigma(r_w - r_l - m) + centring (r_w + r_l)^2

with the margin m of the record (Touvron et al. 2023, eq. 2) and the penalty of Eisenstein et al. 2023 (eq. 2),
which fixes the mean that comparisons leave open. A prompt with its answers is one example, so that its K answers
are read once for all pairs; its loss is averaged over prompts. Ties have no loss. Of ratings the loss is the
square of the error in units of the scale.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from typing_extensions import override

from tlx.base.errors import ConfigError, DataError
from tlx.base.term import Term, Terms
from tlx.data.readers import Record
from tlx.metrics.calibration import expected_calibration_error
from tlx.metrics.correlation import pearson, spearman
from tlx.metrics.resampling import mean_of
from tlx.models.heads import TaskHeadConfig
from tlx.tasks.shared.answers import (
    AnswerIds,
    Answers,
    AnswersConfig,
    encode_answers,
    fit_answer,
    fit_prompt,
    prompt_columns,
    rank_numbers,
    read_answers,
)
from tlx.tasks.shared.base import Batch, Columns, Prediction, Scores, Task, TaskModule, TaskSpec
from tlx.tasks.shared.generative import text_frame
from tlx.tasks.shared.heads import TaskHeads, hidden_states, language_model, select_place
from tlx.tasks.shared.inputs import KINDS, input_row, token_arrays
from tlx.tasks.shared.labels import number_of
from tlx.tasks.shared.spans import max_text_tokens
from tlx.tasks.similarity import check_scale
from tlx.text.tokenizer import Tokenizer

_ABSENT = -1  # the rank of answers that fill up an example
# Columns of the records that prompts and answers without a label are made to.
_PROMPT = "prompt"
_ANSWER = "answer"


@dataclasses.dataclass(frozen=True)
class Reward(AnswersConfig):
    """Columns of compared answers, the loss and the head of a reward model."""

    name: str = "reward"
    """Name in the table of tasks."""
    records: Literal["pairs", "ranked", "rated"] = "pairs"
    """Layout of a record: "pairs": `chosen` and `rejected`; "ranked": `answers` and their `ranking`; "rated": one
    `answer` and its `score`."""
    answers: tuple[str, ...] = ("answers",)
    """Columns of ranked answers, or one column with a list of texts."""
    ranking: str = "ranking"
    """Column of ranked answers with a list of numbers, one for each."""
    ranking_form: Literal["ranks", "order", "scores"] = "ranks"
    """Meaning of `ranking`: "ranks": the rank of each answer, the smallest is the best; "order": the indices of the
    answers from 0, the best one's first; "scores": the largest is the best. Equal ranks or scores are ties."""
    num_answers: int = 0
    """Most answers of a prompt; 0 takes the training records' for ranked ones."""
    score: str = "score"
    """Column of the number of rated answers."""
    min_score: float = 0.0
    """Lower end of the scale of ratings: what the head gives as 0."""
    max_score: float = 1.0
    """Upper end of the scale of ratings: what the head gives as 1."""
    margin: str = ""
    """Column of pairs with the number by which r_w is to exceed r_l; "" is none. LLaMA-2 has 1, 2/3, 1/3 and 0 for
    significantly, plainly, slightly and negligibly better answers."""
    centring: float = 0.0
    """Coefficient of (r_w + r_l)^2, at least 0; 0.01 is usual, 0 leaves the mean of rewards open."""
    head: TaskHeadConfig = dataclasses.field(default_factory=TaskHeadConfig)
    """Layers of the head."""

    def validate(self) -> None:
        """Raise ConfigError naming the field, its value and what is legal."""
        super().validate()
        check_scale(self.min_score, self.max_score)
        if self.centring < 0:
            raise ConfigError(f"objective.centring = {self.centring} must be 0 or more")
        if self.records != "pairs" and self.margin:
            raise ConfigError(f"objective.margin = {self.margin!r} is for objective.records = 'pairs'")
        if self.records == "ranked" and not self.answers:
            raise ConfigError("objective.answers = () must name one column or more")
        if self.num_answers not in (0, 2) and self.records == "pairs":
            raise ConfigError(
                f"objective.num_answers = {self.num_answers} is for objective.records = 'ranked'"
            )
        if self.num_answers < 0 or (self.records == "ranked" and self.num_answers == 1):
            raise ConfigError(f"objective.num_answers = {self.num_answers} must be 2 or more, or 0")

    @property
    def rows(self) -> int:
        """Answers of an example, K."""
        return {"pairs": 2, "ranked": self.num_answers or 2, "rated": 1}[self.records]

    @property
    def answer_columns(self) -> Columns:
        """Columns of the answers."""
        if self.records == "pairs":
            return ((self.chosen, "objective.chosen"), (self.rejected, "objective.rejected"))
        if self.records == "ranked":
            return tuple((name, "objective.answers") for name in self.answers)
        return ((self.answer, "objective.answer"),)


class RewardItem(NamedTuple):
    """The answers to a prompt, ready for a row each."""

    answers: tuple[AnswerIds, ...]
    """Ids of each answer and its prompt."""
    ranks: tuple[float, ...]
    """Rank of each answer, a smaller one the better."""
    margin: float = 0.0
    """Margin of a pair."""
    label: float = 0.0
    """Rating in units of the scale."""
    record: int = 0
    """Index of the record."""


def comparison_terms(
    reward_BK: jax.Array, rank_BK: jax.Array, margin_B: jax.Array, weights_B: jax.Array, centring: float
) -> Terms:
    """Compute the loss of ranked answers, the mean over the pairs of a prompt of which one is better.

    Args:
        reward_BK: float32 rewards.
        rank_BK: Ranks, a smaller one the better; negative where there is no answer.
        margin_B: By how much better ones are to exceed worse ones.
        weights_B: 0 for rows that only fill a batch.
        centring: Coefficient of the square of the sum of both rewards.

    Returns:
        "loss", and "centring" where there is one, averaged over prompts; "accuracy" and "margin" over pairs (ties of
        rewards are not right), "reward" over answers.
    """
    present_BK = rank_BK >= 0
    # Pair [i, j] counts where answer i is better than answer j.
    better_BKK = (rank_BK[:, :, None] < rank_BK[:, None, :]) & present_BK[:, :, None] & present_BK[:, None, :]
    difference_BKK = reward_BK[:, :, None] - reward_BK[:, None, :]
    pairs_B = jnp.sum(better_BKK, axis=(1, 2))
    prompts_B = weights_B * (pairs_B > 0)

    def over_pairs(values_BKK: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(better_BKK, values_BKK, 0.0), axis=(1, 2))

    def over_prompts(values_BKK: jax.Array) -> jax.Array:
        return jnp.sum(over_pairs(values_BKK) / jnp.maximum(pairs_B, 1) * prompts_B)

    num_prompts = jnp.sum(prompts_B)
    num_pairs = jnp.sum(pairs_B * weights_B)
    num_answers = jnp.sum(present_BK * weights_B[:, None])
    losses_BKK = jax.nn.softplus(margin_B[:, None, None] - difference_BKK)
    right_BKK = (difference_BKK > 0).astype(jnp.float32)
    rewards = jnp.sum(jnp.where(present_BK, reward_BK, 0.0) * weights_B[:, None])
    terms = {
        "loss": Term(over_prompts(losses_BKK), num_prompts, 1.0),
        "accuracy": Term(jnp.sum(over_pairs(right_BKK) * weights_B), num_pairs),
        "margin": Term(jnp.sum(over_pairs(difference_BKK) * weights_B), num_pairs),
        "reward": Term(rewards, num_answers),
    }
    if centring:
        sums_BKK = jnp.square(reward_BK[:, :, None] + reward_BK[:, None, :])
        terms["centring"] = Term(over_prompts(sums_BKK), num_prompts, centring)
    return terms


class RewardModule(TaskModule):
    """A model of any kind and a head with one output."""

    def setup(self) -> None:
        """Build the language model and the head."""
        self.lm = language_model(self.model)
        # Stiennon et al. 2020: small enough that all rewards are about 0 at first.
        std = (self.model.width + 1) ** -0.5
        self.heads = TaskHeads(self.model, self.config.name, 1, shape=self.config.head, std=std)

    @override
    def outputs(self, batch: Batch, keys: jax.Array | None = None) -> dict[str, jax.Array]:
        """Return reward [B, K], on the scale from 0 to 1 where answers are rated."""
        hidden_BKD = select_place(hidden_states(self.lm, batch, keys), batch["place"])
        return {"reward": self.heads(hidden_BKD, keys)[..., 0]}

    @override
    def terms(self, outputs: dict[str, jax.Array], batch: Batch) -> Terms:
        """Return the term "loss" and what comparisons are measured by."""
        reward_BK = outputs["reward"]
        weights = batch["weights"]
        if self.config.records == "rated":
            errors = jnp.square(reward_BK[:, 0] - batch["label"])
            return {"loss": Term(jnp.sum(errors * weights), jnp.sum(weights), 1.0)}
        return comparison_terms(reward_BK, batch["rank"], batch["margin"], weights, self.config.centring)


class RewardTask(Task):
    """Answers to a prompt, a number for each."""

    config_class = Reward
    module = RewardModule
    kinds = ("decoder", *(kind for kind in KINDS if kind != "decoder"))

    @override
    def infer_labels(self, config: Reward, records: Sequence[Record]) -> Reward:
        """Return the config with its template written out, and the most answers of a prompt."""
        config = dataclasses.replace(config, format=config.chat_template)
        if config.records != "ranked" or config.num_answers:
            return config
        counts = [len(self._answers(record, config).answers) for record in records]
        return dataclasses.replace(config, num_answers=max(counts))

    @override
    def text_columns(self, config: Reward) -> Columns:
        """Return the columns of the prompt and of the answers."""
        return (*prompt_columns(config), *config.answer_columns)

    @override
    def check_record(self, config: Reward, record: Record) -> None:
        """Raise DataError where an answer, its rank or its score is missing or not valid."""
        count = len(self._answers(record, config).answers)
        self.ranks(record, config, count)
        self._number(record, config)

    def _answers(self, record: Record, config: Reward) -> Answers:
        answers = read_answers(record, config, config.answer_columns, config.records == "ranked")
        count = len(answers.answers)
        if config.records == "ranked" and 0 < config.num_answers < count:
            raise DataError(
                f"{record.where} has {count} answers, more than objective.num_answers = {config.num_answers}"
            )
        return answers

    def ranks(self, record: Record, config: Reward, count: int) -> tuple[float, ...]:
        """Return the rank of each answer of a record, a smaller one the better; of pairs 0 and 1.

        Args:
            record: The record.
            config: Its columns.
            count: Number of its answers.

        Returns:
            `count` numbers.
        """
        if config.records == "ranked":
            return rank_numbers(record, config.ranking, count, config.ranking_form)
        return tuple(map(float, range(count)))

    def _number(self, record: Record, config: Reward) -> float:
        """Return the margin of a pair, or the rating in units of the scale."""
        if config.records == "rated":
            score = number_of(record, config.score, "objective.score")
            if not config.min_score <= score <= config.max_score:
                raise DataError(
                    f"{record.where}: {config.score!r} = {score:g} is not on the scale from objective.min_score = "
                    f"{config.min_score:g} to objective.max_score = {config.max_score:g}"
                )
            return (score - config.min_score) / (config.max_score - config.min_score)
        return number_of(record, config.margin, "objective.margin") if config.margin else 0.0

    @override
    def prepare(
        self, records: Sequence[Record], tokenizer: Tokenizer, spec: TaskSpec, labelled: bool = True
    ) -> list[RewardItem]:
        """Make an item of each record."""
        config = spec.config
        items = []
        for index, record in enumerate(records):
            answers = self._answers(record, config)
            ids = encode_answers(answers, config, tokenizer, spec)
            ranks = self.ranks(record, config, len(ids)) if labelled else (0.0,) * len(ids)
            number = self._number(record, config) if labelled else 0.0
            if config.records == "rated":
                items.append(RewardItem(ids, ranks, label=number, record=index))
            else:
                items.append(RewardItem(ids, ranks, margin=number, record=index))
        return items

    def answer_items(
        self, prompts: Sequence[Any], answers: Sequence[str], tokenizer: Tokenizer, spec: TaskSpec
    ) -> list[RewardItem]:
        """Make items of answers without a label.

        Args:
            prompts: The prompt of each answer: a text, or a list of {"role", "content"} messages.
            answers: Texts.
            tokenizer: The run's tokenizer.
            spec: A spec of `single_answer_spec`.

        Returns:
            An item for each answer.
        """
        config = spec.config
        items = []
        for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            record = Record(f"answer {number}", {_PROMPT: prompt, _ANSWER: answer})
            ids = encode_answers(read_answers(record, config, config.answer_columns), config, tokenizer, spec)
            items.append(RewardItem(ids, (0.0,), record=number))
        return items

    @override
    def empty_item(self, spec: TaskSpec) -> RewardItem:
        """Return an item without answers."""
        del spec
        return RewardItem((), ())

    @override
    def example(self, rng: np.random.Generator, item: RewardItem, spec: TaskSpec) -> dict[str, np.ndarray]:
        """Make a row for each answer.

        item: The answers.

        Returns:
            The rows' arrays [K, length] and `place` [K]; rank [K], negative where there is no answer; margin, label
            and weights [].
        """
        del rng
        count = spec.config.rows
        none = np.zeros(0, np.int32)
        filler = AnswerIds(none, none, none.astype(bool))
        answers = [*item.answers, *[filler] * (count - len(item.answers))]
        rows = [_row(answer, spec) for answer in answers]
        # Integers from 0 in the order of the ranks, so that ties stay ties and nothing is negative.
        order = sorted(set(item.ranks))
        ranks = [order.index(rank) for rank in item.ranks] + [_ABSENT] * (count - len(item.ranks))
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]} | {
            "rank": np.array(ranks, np.int32),
            "margin": np.asarray(item.margin, np.float32),
            "label": np.asarray(item.label, np.float32),
            "weights": np.ones((), np.float32),
        }

    @override
    def predictions(
        self, outputs: Mapping[str, Any], items: Sequence[RewardItem], spec: TaskSpec
    ) -> list[Prediction]:
        """Make predictions of rewards.

        outputs: "reward" [items, K].

        Returns:
            {"rewards" of the answers in their order}, for ratings {"score"} on the records' scale.
        """
        rewards = outputs["reward"].astype(np.float64)
        config = spec.config
        if config.records == "rated":
            return [{"score": round(number, 5)} for number in on_scale(rewards[:, 0], config).tolist()]
        return [
            {"rewards": [round(number, 5) for number in row[: len(item.answers)].tolist()]}
            for row, item in zip(rewards, items, strict=True)
        ]

    @override
    def score(self, predictions: Sequence[Prediction], records: Sequence[Record], spec: TaskSpec) -> Scores:
        """Compute how often the better answer has the larger reward; of ratings the correlations and the error."""
        config = spec.config
        if config.records == "rated":
            return _rating_scores(predictions, records, config)
        margins: list[np.ndarray] = []
        for prediction, record in zip(predictions, records, strict=True):
            rewards = np.array(prediction["rewards"])
            ranks = np.array(self.ranks(record, config, len(rewards)))
            better = ranks[:, None] < ranks[None, :]
            margins.append((rewards[:, None] - rewards[None, :])[better])
        everything = np.concatenate(margins)
        confidence = 1 / (1 + np.exp(-np.abs(everything)))
        rewards = np.concatenate([prediction["rewards"] for prediction in predictions])
        accuracies = np.array([np.mean(of_record > 0) for of_record in margins])
        figures = {
            "accuracy": float(np.mean(accuracies)),
            "pair_accuracy": float(np.mean(everything > 0)),
            "mean_margin": float(np.mean(everything)),
            "calibration_error": expected_calibration_error(confidence.tolist(), everything > 0),
            "mean_reward": float(np.mean(rewards)),
            "std_reward": float(np.std(rewards)),
        }
        # A model that always prefers the first of two answers in a random order.
        return Scores(figures, "accuracy", mean_of(accuracies), 0.5)


def single_answer_spec(spec: TaskSpec) -> TaskSpec:
    """Return a spec whose rows hold one answer, whatever the records of training held."""
    config = dataclasses.replace(
        spec.config,
        records="rated",
        prompt=_PROMPT,
        answer=_ANSWER,
        role="role",
        content="content",
        margin="",
    )
    return dataclasses.replace(spec, config=config)


def on_scale(units: np.ndarray, config: Reward) -> np.ndarray:
    """Return rewards [N] on the scale of the records where the model learned ratings, else as they are."""
    if config.records != "rated":
        return units
    return config.min_score + units * (config.max_score - config.min_score)


def _row(ids: AnswerIds, spec: TaskSpec) -> dict[str, np.ndarray]:
    """Return the arrays of the row of an answer, and its `place`."""
    trained = np.array(spec.prompt, np.int32)
    if spec.kind == "decoder":
        ids = fit_answer(ids, spec.length - len(trained))
        row = np.concatenate([ids.prompt[:1], trained, ids.prompt[1:], ids.answer])
        return {**token_arrays([row], spec), "place": np.array(max(len(row) - 1, 0), np.int32)}
    if spec.kind == "encoder_decoder":
        prompt = fit_prompt(ids.prompt, spec.length - len(trained))
        start = text_frame(spec).prompt
        answer = ids.answer[: spec.length - len(start)]
        return {
            **token_arrays([trained, prompt], spec, "encoder_"),
            **token_arrays([start, answer], spec, "decoder_"),
            "place": np.array(len(start) - 1 + len(answer), np.int32),
        }
    ids = fit_answer(ids, max_text_tokens(2, spec))
    return input_row((ids.prompt, ids.answer), spec)


def _rating_scores(predictions: Sequence[Prediction], records: Sequence[Record], config: Reward) -> Scores:
    true = np.array([number_of(record, config.score, "objective.score") for record in records])
    predicted = np.array([prediction["score"] for prediction in predictions])
    figures = {
        "spearman": spearman(predicted, true),
        "pearson": pearson(predicted, true),
        "rmse": float(np.sqrt(np.mean(np.square(predicted - true)))),
    }
    return Scores(figures, "spearman", lambda chosen: spearman(predicted[chosen], true[chosen]))


TASK = RewardTask()
