"""Tuning on preferred answers without a reward model: DPO and its relatives, and KTO.

    pairs       records have a chosen and a rejected answer to a prompt
    unpaired    records have an answer and whether it was liked (loss "kto")

A row holds the pairs that fit it, each answer with its prompt as a segment of its own, so that no answer sees
another; its log-probability is the sum over its segment. The frozen reference is

    another model   `reference`, by default the base model of the run (training/teacher.py)
    the base        where the run trains adapter modules only: the same parameters with the adapters off
    its numbers     with `cache_reference`: two for each pair, computed before training (trainer/reference.py)

Neither model has dropout, so that policy and reference are the same before the first step: the margin is then 0
and DPO's loss ln 2, but for rounding where only one of them is compiled with its gradient.
KTO estimates a divergence over a batch; with microbatches, over each of them.

Shapes: J pairs of a row, A answers of its pairs.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from typing_extensions import override

from tlx.adapt.config import AdaptConfig
from tlx.base.errors import ConfigError, DataError
from tlx.base.term import Term, Terms
from tlx.data.readers import Record
from tlx.metrics.resampling import mean_of
from tlx.models.config import ModelConfig
from tlx.nn.losses import token_log_probs
from tlx.objectives.shared.arrays import pad_to_length
from tlx.tasks.shared.answers import (
    AnswerIds,
    AnswersConfig,
    Turns,
    encode_answers,
    fit_prompt,
    liked_of,
    prompt_columns,
    read_answers,
)
from tlx.tasks.shared.base import Batch, Columns, Prediction, Scores, Task, TaskSpec
from tlx.tasks.shared.generative import KINDS, GenerationModule, text_frame
from tlx.tasks.shared.inputs import truncate
from tlx.tasks.shared.packed_examples import SHORTEST
from tlx.tasks.shared.preference_losses import LOSSES, LossSettings, PairLogProbs, kto
from tlx.tasks.shared.reference import abstract_reference, is_removable, reference_model
from tlx.text.frames import Frame
from tlx.text.tokenizer import Tokenizer
from tlx.text.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Preference(AnswersConfig, LossSettings):
    """Columns of preferred answers, the loss and the reference."""

    name: str = "preference"
    """Name in the table of tasks."""
    records: Literal["pairs", "unpaired"] = "pairs"
    """Layout of a record: "pairs": `chosen` and `rejected`; "unpaired": one `answer` and its `label`, for kto."""
    label: str = "label"
    """Column of unpaired records: whether the answer was liked."""
    packing: bool = True
    """Whether a row of training holds several pairs."""
    reference: str = ""
    """Run, checkpoint or Hugging Face directory of the reference; "" takes the base model."""
    cache_reference: bool = False
    """Whether the reference's log-probabilities are computed once, before training, and kept in the user's cache with
    its hash, in place of its parameters: less memory and time for a few more seconds at the start."""
    reference_model: ModelConfig | None = None
    """The reference's model config; read when a run starts, and saved with the run."""
    reference_hash: str = ""
    """Hash of the reference's weights; read when a run starts, and saved with the run."""

    def validate(self) -> None:
        """Raise ConfigError naming the field, its value and what is legal."""
        AnswersConfig.validate(self)
        LossSettings.validate(self)
        if (self.loss == "kto") != (self.records == "unpaired"):
            raise ConfigError(
                f"objective.records = {self.records!r} does not fit objective.loss = {self.loss!r}: 'unpaired' "
                "records are for 'kto', 'pairs' for the others"
            )
        if self.reference and not LOSSES[self.loss].has_reference:
            raise ConfigError(
                f"objective.reference = {self.reference!r}: objective.loss = {self.loss!r} has no reference"
            )
        if self.cache_reference and not LOSSES[self.loss].has_reference:
            raise ConfigError(
                f"objective.cache_reference = True: objective.loss = {self.loss!r} has no reference"
            )

    @property
    def answer_columns(self) -> Columns:
        """Columns of the answers."""
        if self.records == "pairs":
            return ((self.chosen, "objective.chosen"), (self.rejected, "objective.rejected"))
        return ((self.answer, "objective.answer"),)


class Pair(NamedTuple):
    """Two answers as they stand in a row."""

    first: AnswerIds
    """The chosen answer, or an unpaired one."""
    second: AnswerIds
    """The rejected answer; of unpaired records, the answer to another prompt."""
    liked: bool = True
    """Whether the first one was liked."""
    reference: tuple[float, float] | None = None
    """The reference's log-probability of each; None where it is not cached."""


class PreferenceRow(NamedTuple):
    """The pairs of a row."""

    pairs: tuple[Pair, ...]
    """The pairs, in order."""
    record: int = 0
    """Index of the record that they, or the first of them, are from."""


class ReferenceModule(GenerationModule):
    """A language model that gives answers their log-probabilities."""

    can_distill = False

    def answer_sums(self, batch: Batch) -> jax.Array:
        """Sum the log-probabilities of the predicted tokens of each segment, float32 [B, J, 2]."""
        (hidden, unembedding), _ = self.predictions(batch)
        log_probs_BT = token_log_probs(hidden, unembedding, batch["targets"], self.loss)
        return _by_answer(log_probs_BT * batch["predicted"], batch)

    @override
    def evaluated(self, batch: Batch) -> tuple[Terms, dict[str, jax.Array]]:
        """Return no terms, and "log_probs" [B, J, 2]."""
        return {}, {"log_probs": self.answer_sums(batch)}


def no_reference(loss: str) -> ConfigError:
    """Return the error that a loss has no reference to compare the model with."""
    return ConfigError(
        f"objective.loss = {loss!r} compares the model with a reference: give its base by --from (base= in Python), "
        "or name one by objective.reference"
    )


class PreferenceModule(ReferenceModule):
    """A decoder or an encoder-decoder, without a head of the task's own: still a language model."""

    @override
    def frozen(self) -> dict[str, Any]:
        """Return {"reference": abstract, boxed parameters}; {} where there is none beside the base.

        Raises ConfigError where a loss has no reference that it needs, or one of another shape.
        """
        config = self.config
        if not LOSSES[config.loss].has_reference or self._base_is_reference:
            return {}
        # Asked for also where its numbers are cached, so that a missing one is an error at the start.
        params = self.reference_params()
        return {} if config.cache_reference else {"reference": params}

    def reference_params(self) -> Any:
        """Return the abstract, boxed parameters of the reference; raises ConfigError as `frozen` does."""
        config = self.config
        if config.reference_model is None:
            raise no_reference(config.loss)
        return abstract_reference(self.reference_module())

    @property
    def _base_is_reference(self) -> bool:
        return self.model.adapters.any and not self.config.reference

    def reference_module(self) -> ReferenceModule:
        """Return the reference's module, executed as the policy is; ConfigError where it does not fit."""
        return ReferenceModule(None, reference_model(self.config, self.model), self.loss, parent=None)

    def _reference_params(self) -> Any:
        """Return the reference's parameters; None where it is not there, as in a loaded run."""
        if self.is_initializing():
            return None
        params = self.variables["params"]
        if self._base_is_reference:
            return {"model": jax.lax.stop_gradient(params["model"])}
        return params.get("reference")

    def log_probs(self, batch: Batch) -> dict[str, jax.Array]:
        """Compute the log-probability of each answer.

        Args:
            batch: Arrays as `PreferenceTask.example` makes them, with a batch dim.

        Returns:
            "policy" and, where the loss has a reference that is there, "reference": float32 [B, J, 2]; NaN where the
            reference's numbers are to be cached, and are not.
        """
        sums = {"policy": self.answer_sums(batch)}
        if self.config.cache_reference:
            return sums | {"reference": batch["reference"]}
        params = self._reference_params()
        if LOSSES[self.config.loss].has_reference and params is not None:
            module = self.reference_module()
            reference: Any = module.apply({"params": params}, batch, method="answer_sums")
            sums["reference"] = jax.lax.stop_gradient(reference)
        return sums

    @override
    def __call__(self, batch: Batch, carry: None = None, keys: jax.Array | None = None) -> tuple[Terms, None]:
        """Return the terms; keys are not used, for there is no dropout."""
        del keys
        return self.terms(self.log_probs(batch), batch), None

    @override
    def evaluated(self, batch: Batch) -> tuple[Terms, dict[str, jax.Array]]:
        """Return the terms, and the log-probabilities with the number of tokens "tokens" [B, J, 2]."""
        outputs = self.log_probs(batch)
        return self.terms(outputs, batch), outputs | {"tokens": _by_answer(batch["predicted"], batch)}

    @override
    def terms(self, outputs: dict[str, jax.Array], batch: Batch) -> Terms:
        """Return the term "loss", "sft" where the config asks for it, and metrics averaged over answers or pairs.

        Without a reference that the loss needs, as in a loaded run, there are only those of the policy; they are NaN
        where a reference's numbers were to be cached.
        """
        config = self.config
        policy_BJ2 = outputs["policy"]
        if LOSSES[config.loss].has_reference and "reference" not in outputs:
            weights_BJ = batch["weights"]
            names = (
                ("chosen_log_prob",)
                if config.records == "unpaired"
                else ("chosen_log_prob", "rejected_log_prob")
            )
            return {
                name: Term(jnp.sum(policy_BJ2[..., index] * weights_BJ), jnp.sum(weights_BJ))
                for index, name in enumerate(names)
            }
        reference_BJ2 = outputs.get("reference", jnp.zeros_like(policy_BJ2))
        tokens_BJ2 = jnp.maximum(_by_answer(batch["predicted"], batch), 1)
        weights_BJ = batch["weights"]
        count = jnp.sum(weights_BJ)

        def metric(values_BJ: jax.Array) -> Term:
            return Term(jnp.sum(values_BJ * weights_BJ), count)

        if config.records == "unpaired":
            ratios_BJ2 = policy_BJ2 - reference_BJ2
            liked_BJ = batch["label"] > 0
            losses_BJ, divergence = kto(ratios_BJ2[..., 0], ratios_BJ2[..., 1], liked_BJ, weights_BJ, config)
            learned_BJ = weights_BJ * liked_BJ
            terms = {
                "loss": metric(losses_BJ)._replace(loss_weight=1.0),
                "divergence": Term(divergence * count, count),
                "reward": metric(config.beta * ratios_BJ2[..., 0]),
            }
        else:
            pair = PairLogProbs(
                chosen=policy_BJ2[..., 0],
                rejected=policy_BJ2[..., 1],
                reference_chosen=reference_BJ2[..., 0],
                reference_rejected=reference_BJ2[..., 1],
                chosen_tokens=tokens_BJ2[..., 0],
                rejected_tokens=tokens_BJ2[..., 1],
            )
            loss = LOSSES[config.loss]
            assert loss.formula is not None
            by_ratio = loss.rewards == "ratio"
            chosen = config.beta * (pair.chosen_ratio if by_ratio else pair.chosen_mean)
            rejected = config.beta * (pair.rejected_ratio if by_ratio else pair.rejected_mean)
            learned_BJ = weights_BJ
            terms = {
                "loss": metric(loss.formula(pair, config))._replace(loss_weight=1.0),
                "accuracy": metric(jnp.where(jnp.isnan(chosen - rejected), jnp.nan, chosen > rejected)),
                "margin": metric(chosen - rejected),
                "chosen_reward": metric(chosen),
                "rejected_reward": metric(rejected),
                "rejected_log_prob": metric(pair.rejected),
            }
        terms["chosen_log_prob"] = metric(policy_BJ2[..., 0])
        if config.sft_weight:
            sum_nats = -jnp.sum(policy_BJ2[..., 0] * learned_BJ)
            terms["sft"] = Term(sum_nats, jnp.sum(tokens_BJ2[..., 0] * learned_BJ), config.sft_weight)
        return terms


def _by_answer(values_BT: jax.Array, batch: Batch) -> jax.Array:
    """Sum float32 values over the segments of a row, [B, J, 2]."""
    segments_BT = batch.get("decoder_segments", batch.get("segments"))
    assert segments_BT is not None
    count = batch["weights"].shape[1]
    numbers = jnp.arange(1, 2 * count + 1)
    # Compared and summed: a product with a matrix of ones would be in bfloat16 on a TPU.
    member_BAT = segments_BT[:, None, :] == numbers[:, None]
    sums = jnp.sum(jnp.where(member_BAT, values_BT.astype(jnp.float32)[:, None, :], 0.0), axis=-1)
    return sums.reshape(-1, count, 2)


class PreferenceTask(Task):
    """Answers to a prompt, of which one is better, or which were liked or not."""

    config_class = Preference
    module = PreferenceModule
    kinds = ("decoder", *(kind for kind in KINDS if kind != "decoder"))

    @override
    def infer_labels(self, config: Preference, records: Sequence[Record]) -> Preference:
        """Return the config with its template written out; DataError where the records do not suit its loss."""
        config.validate()
        if config.records == "unpaired":
            prompts = {read_answers(record, config, config.answer_columns).prompt for record in records}
            if len(prompts) < 2:
                raise DataError(
                    f"objective.loss = 'kto' compares answers with those to other prompts: all training records "
                    f"({len(records)}) have the same prompt"
                )
        return dataclasses.replace(config, format=config.chat_template)

    @override
    def with_base(self, config: Preference, path: str, adapt: AdaptConfig) -> Preference:
        """Return the config with the base as the reference, unless it is the model without its adapters.

        Raises ConfigError where the loss has a reference and there is none.
        """
        removable = is_removable(adapt) and not config.cache_reference
        if config.reference or removable or not LOSSES[config.loss].has_reference:
            return config
        if not path:
            raise no_reference(config.loss)
        return dataclasses.replace(config, reference=path)

    @override
    def text_columns(self, config: Preference) -> Columns:
        """Return the columns of the prompt and of the answers."""
        return (*prompt_columns(config), *config.answer_columns)

    @override
    def check_record(self, config: Preference, record: Record) -> None:
        """Raise DataError where an answer or its label is missing or not valid."""
        read_answers(record, config, config.answer_columns)
        if config.records == "unpaired":
            liked_of(record, config.label)

    @override
    def abstract_spec(
        self,
        config: Preference,
        model: ModelConfig,
        length: int,
        languages: tuple[str, ...],
        vocab: Vocabulary,
        frame: Frame | None = None,
    ) -> TaskSpec:
        """Build the spec as the base class does; ConfigError for prompt tuning."""
        if model.adapters.prompt_length:
            raise ConfigError(
                "adapt.method = 'prompt' puts vectors into the rows that the reference reads too; 'lora' or "
                "'prefix' train as few parameters"
            )
        return super().abstract_spec(config, model, length, languages, vocab, frame)

    @override
    def prepare(
        self, records: Sequence[Record], tokenizer: Tokenizer, spec: TaskSpec, labelled: bool = True
    ) -> list[PreferenceRow]:
        """Make an item of each record; of unpaired ones, with the answer to the next prompt that differs."""
        config = spec.config
        answers = [read_answers(record, config, config.answer_columns) for record in records]
        encoded = [encode_answers(of_record, config, tokenizer, spec) for of_record in answers]
        if config.records == "pairs":
            return [
                PreferenceRow((fit_pair(Pair(chosen, rejected), spec),), number)
                for number, (chosen, rejected) in enumerate(encoded)
            ]
        items = []
        others = _next_other([of_record.prompt for of_record in answers])
        for number, ((answer,), record) in enumerate(zip(encoded, records, strict=True)):
            (other,) = encoded[others[number]]
            liked = liked_of(record, config.label) if labelled else True
            pair = Pair(answer, other._replace(prompt=answer.prompt), liked)
            items.append(PreferenceRow((fit_pair(pair, spec),), number))
        return items

    @override
    def packs(self, config: Preference) -> bool:
        """Return config.packing."""
        return config.packing

    @override
    def example_size(self, item: PreferenceRow, spec: TaskSpec) -> int:
        """Return how many tokens of a row the pairs of an item take, of the encoder's or the decoder's."""
        sizes = [max(size, 2 * SHORTEST) for size in (_pair_size(pair, spec) for pair in item.pairs)]
        return min(sum(sizes), spec.length)

    @override
    def join(self, items: Sequence[PreferenceRow]) -> PreferenceRow:
        """Return one item of the pairs of several."""
        return PreferenceRow(tuple(pair for item in items for pair in item.pairs), items[0].record)

    @override
    def empty_item(self, spec: TaskSpec) -> PreferenceRow:
        """Return an item of no pairs; raises ConfigError where a row has no room for one."""
        if spec.length < 2 * SHORTEST:
            raise ConfigError(
                f"data.sequence_length = {spec.length} must be {2 * SHORTEST} or more: a row holds both answers"
            )
        return PreferenceRow(())

    @override
    def example(self, rng: np.random.Generator, item: PreferenceRow, spec: TaskSpec) -> dict[str, np.ndarray]:
        """Make a row of pairs: segments 2 p + 1 and 2 p + 2 are the answers of pair p.

        item: The pairs.

        Returns:
            tokens, positions, segments, with encoder_ and decoder_ in front for encoder-decoders; targets and
            predicted (1 for tokens of an answer) [length]; label and weights [J], 0 where there is no pair.
        """
        del rng
        slots = spec.length // (2 * SHORTEST) if spec.config.packing else 1
        answers = [answer for pair in item.pairs for answer in (pair.first, pair.second)]
        if spec.kind == "encoder_decoder":
            starts = [np.array(text_frame(spec).prompt, np.int32)] * len(answers)
            arrays = _segments([answer.prompt for answer in answers], spec, "encoder_")
        else:
            starts = [answer.prompt for answer in answers]
            arrays = {}
        prefix = "decoder_" if spec.kind == "encoder_decoder" else ""
        rows = [np.concatenate([start, answer.answer]) for start, answer in zip(starts, answers, strict=True)]
        asked = [
            np.concatenate([np.zeros(len(start) - 1, bool), answer.predicted])
            for start, answer in zip(starts, answers, strict=True)
        ]
        arrays |= _segments([row[:-1] for row in rows], spec, prefix)
        arrays["targets"] = pad_to_length(_joined([row[1:] for row in rows]), spec.length, spec.vocab.pad)
        arrays["predicted"] = pad_to_length(_joined(asked), spec.length).astype(np.float32)
        labels = np.array([pair.liked for pair in item.pairs], np.float32)
        arrays["label"] = pad_to_length(labels, slots).astype(np.float32)
        arrays["weights"] = (np.arange(slots) < len(item.pairs)).astype(np.float32)
        if spec.config.cache_reference:
            numbers = np.zeros((slots, 2), np.float32)
            for slot, pair in enumerate(item.pairs):
                numbers[slot] = np.nan if pair.reference is None else pair.reference
            arrays["reference"] = numbers
        return arrays

    @override
    def predictions(
        self, outputs: Mapping[str, Any], items: Sequence[PreferenceRow], spec: TaskSpec
    ) -> list[Prediction]:
        """Make predictions of log-probabilities; rows of evaluation hold one pair each.

        outputs: "policy", "tokens" and where there is one "reference" [items, J, 2].

        Returns:
            {"log_probs"} of both answers, or {"log_prob"}; and their implicit "rewards" or "reward" where they need
            no reference, or it is there.
        """
        config = spec.config
        policy = outputs["policy"][:, 0].astype(np.float64)
        loss = LOSSES[config.loss]
        rewards: Any = None
        if not loss.has_reference:
            rewards = config.beta * policy / np.maximum(outputs["tokens"][:, 0], 1)
        elif "reference" in outputs and np.isfinite(outputs["reference"][:, 0]).all():
            rewards = config.beta * (policy - outputs["reference"][:, 0].astype(np.float64))
        predictions: list[Prediction] = []
        for number in range(len(items)):
            prediction: Prediction = {"log_probs": policy[number].round(4).tolist()}
            if rewards is not None:
                prediction["rewards"] = rewards[number].round(6).tolist()
            if config.records == "unpaired":
                prediction = {name.removesuffix("s"): value[0] for name, value in prediction.items()}
            predictions.append(prediction)
        return predictions

    @override
    def score(self, predictions: Sequence[Prediction], records: Sequence[Record], spec: TaskSpec) -> Scores:
        """Compute how often the better answer has the larger implicit reward, or the sign of a reward is right.

        Without a reference, as in a loaded run, it is how often it is the likelier one ("likelier").
        """
        config = spec.config
        if config.records == "unpaired":
            liked = np.array([liked_of(record, config.label) for record in records])
            key = "reward" if "reward" in predictions[0] else "log_prob"
            right = (np.array([prediction[key] for prediction in predictions]) > 0) == liked
            baseline = max(float(liked.mean()), 1 - float(liked.mean()))
            return Scores({"accuracy": float(right.mean())}, "accuracy", mean_of(right), baseline)
        likelier = np.array([np.subtract(*prediction["log_probs"]) > 0 for prediction in predictions])
        figures = {"likelier": float(likelier.mean())}
        if "rewards" not in predictions[0]:
            return Scores(figures, "likelier", mean_of(likelier), 0.5)
        margins = np.array([np.subtract(*prediction["rewards"]) for prediction in predictions])
        figures = {"accuracy": float(np.mean(margins > 0)), "mean_margin": float(margins.mean())} | figures
        return Scores(figures, "accuracy", mean_of(margins > 0), 0.5)


def with_reference(items: Sequence[PreferenceRow], log_probs: np.ndarray) -> list[PreferenceRow]:
    """Return rows with the reference's log-probabilities.

    Args:
        items: The rows.
        log_probs: float32 [rows, J, 2].

    Returns:
        The rows, in their order.
    """
    filled = []
    for item, values_J2 in zip(items, log_probs.tolist(), strict=True):
        pairs = [
            pair._replace(reference=tuple(values))
            for pair, values in zip(item.pairs, values_J2[: len(item.pairs)], strict=True)
        ]
        filled.append(item._replace(pairs=tuple(pairs)))
    return filled


def _next_other(prompts: Sequence[Turns]) -> list[int]:
    """Return for each prompt the index of the next one that differs, with the first ones after the last.

    Records often have several answers to a prompt one after the other. Where all prompts are the same it is the next
    one's index.
    """
    count = len(prompts)
    following = [(number + 1) % count for number in range(count)]
    if len(set(prompts)) < 2:
        return following
    # Backwards, twice around: the last prompts need the first ones'.
    for number in reversed(range(2 * count)):
        here = number % count
        after = (number + 1) % count
        following[here] = following[after] if prompts[here] == prompts[after] else after
    return following


def fit_pair(pair: Pair, spec: TaskSpec) -> Pair:
    """Truncate two answers with their prompts to a row: prompts lose their oldest ids first, as in answers.py.

    Args:
        pair: The answers.
        spec: What examples depend on.

    Returns:
        The pair, of which a row holds both.
    """
    both = (pair.first, pair.second)
    # Of an answer with its prompt of one id or more the row holds all but the last id.
    answers = truncate((pair.first.answer, pair.second.answer), spec.length - 2 * _num_begin(spec))
    room = spec.length
    if spec.kind == "decoder":
        room += 2 - sum(map(len, answers))
    fitted = [
        AnswerIds(fit_prompt(ids.prompt, room // 2), answer, ids.predicted[: len(answer)])
        for ids, answer in zip(both, answers, strict=True)
    ]
    return Pair(fitted[0], fitted[1], pair.liked)


def _num_begin(spec: TaskSpec) -> int:
    """Return how many ids stand before an answer in the decoder's row, besides the one that predicts its first."""
    return len(text_frame(spec).prompt) - 1 if spec.kind == "encoder_decoder" else 0


def _pair_size(pair: Pair, spec: TaskSpec) -> int:
    prompts = len(pair.first.prompt) + len(pair.second.prompt)
    answers = len(pair.first.answer) + len(pair.second.answer) + 2 * _num_begin(spec)
    return max(prompts, answers) if spec.kind == "encoder_decoder" else prompts + answers - 2


def _segments(rows: Sequence[np.ndarray], spec: TaskSpec, prefix: str) -> dict[str, np.ndarray]:
    """Return tokens, positions and segments [length] of several sequences of a row."""
    sizes = [len(row) for row in rows]
    numbers = np.repeat(np.arange(1, len(rows) + 1), sizes)
    return {
        prefix + "tokens": pad_to_length(_joined(rows), spec.length, spec.vocab.pad),
        prefix + "positions": pad_to_length(_joined([np.arange(size) for size in sizes]), spec.length),
        prefix + "segments": pad_to_length(numbers, spec.length),
    }


def _joined(pieces: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([*pieces, np.zeros(0, np.int32)])


TASK = PreferenceTask()
