"""The base class of tasks that learn from their own answers: prompts are records, answers are sampled in each step.

A batch is B prompts with the room for K answers each. What data gives is the prompts; a step (step.py) writes the
answers into the batch, their rewards and log-probabilities, and makes its updates. Keys of a batch:

    tokens, positions, segments      int32 [B, K, T]: the prompt, padded on the left, then the answer; of an
                                     encoder-decoder the decoder's, with decoder_ in front: what every text begins
                                     with, then the answer
    encoder_tokens ...               int32 [B, K, S]: the prompt of an encoder-decoder, padded on the right
    weights                          float32 [B, K, A]: 1 for tokens of an answer, its end included
    reward                           float32 [B, K]
    advantages                       float32 [B, K], or [B, K, A] where a method has one for each token
    old_log_probs                    float32 [B, K, A]: of the policy that sampled
    reference_log_probs              float32 [B, K, A]: of the reference, where there is one
    first_update                     float32 [B]: 1 in the first update of a step, which the policy that sampled makes
    record                           int32 [B]: index of the record

Log-probabilities are those of the sampling temperature. They come from the module's forward pass, and are those that
the cached decoder drew with (tests/rollouts/test_step.py), so that no importance correction stands between the two.
Dropout is off; K is the number of answers to a prompt.

Shapes: A positions of an answer (objective.target_length).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from typing_extensions import override

from tlx.adapt.config import AdaptConfig
from tlx.base.errors import ConfigError
from tlx.base.term import Term, Terms
from tlx.models.config import ModelConfig
from tlx.nn import embed
from tlx.nn.losses import WHOLE
from tlx.objectives.shared.base import full_unembedding
from tlx.rollouts.reward_run import abstract_reward_params
from tlx.rollouts.rewards import REWARDS
from tlx.tasks.generation import Generation, GenerationTask
from tlx.tasks.shared.base import Batch, GenerationRequest, TaskSpec
from tlx.tasks.shared.generative import GenerationItem, GenerationModule, text_frame
from tlx.tasks.shared.inputs import token_arrays
from tlx.tasks.shared.reference import abstract_reference, is_removable, reference_model
from tlx.text.frames import Frame
from tlx.text.vocabulary import Vocabulary

_CHUNK = 16  # positions of all answers whose logits are built at once, where all of them would be too many


@dataclasses.dataclass(frozen=True)
class RolloutConfig(Generation):
    """Prompts, sampling, rewards and the updates of a step; train.batch_size counts prompts."""

    reward: Annotated[str, REWARDS] = "exact_match"
    """Reward of an answer: "exact_match" (finished, and one of the targets), "number" (its last number is the
    target's), or "package.module:attr", a function of a list of rewards.SampledAnswer that returns numbers. Not read
    where there is a reward_run."""
    reward_run: str = ""
    """Run directory, or a checkpoint of one, of a reward model or a classifier, whose numbers are the rewards; "" is
    none."""
    reward_label: str = ""
    """Class of a classifier, whose log-odds are the reward; for reward models ""."""
    reward_text: str = "{prompt}{answer}"
    """Text that a classifier reads, made of {prompt} and {answer}."""
    reward_run_model: ModelConfig | None = None
    """The reward run's model config; read when a run starts, and saved with the run."""
    reward_run_task: str = ""
    """The reward run's own objective, as JSON; read when a run starts, and saved with the run."""
    reward_run_hash: str = ""
    """Hash of the reward run's weights; read when a run starts, and saved with the run."""
    unfinished_reward: float | None = None
    """Reward of an answer that has not ended itself, in place of its own; None leaves it its own."""
    unfinished_penalty: float = 0.0
    """Number that is subtracted from the reward of an answer that has not ended itself, 0 or more."""
    num_answers: int = 8
    """Answers sampled for each prompt; 2 or more where they are compared with each other, else 1 or more."""
    temperature: float = 1.0
    """Divisor of the logits, above 0, in sampling and in all log-probabilities."""
    epochs: int = 1
    """Passes over the answers of a step, 1 or more."""
    minibatches: int = 1
    """Updates of each pass, 1 or more; they must divide train.batch_size."""
    clip: float = 0.2
    """How far the ratio of new to old probabilities may fall below 1 before it has no gradient, between 0 and 1."""
    clip_high: float | None = None
    """How far it may rise above 1; None: as far as `clip`. DAPO has 0.28."""
    beta: float = 0.0
    """Coefficient of the KL from the reference, 0 or more; 0 has no reference."""
    reference: str = ""
    """Run, checkpoint or Hugging Face directory of the reference; "" takes the base model, with beta above 0."""
    reference_model: ModelConfig | None = None
    """The reference's model config; read when a run starts, and saved with the run."""
    reference_hash: str = ""
    """Hash of the reference's weights; read when a run starts, and saved with the run."""

    least_answers: ClassVar[int] = 2
    """Fewest answers to a prompt."""

    def validate(self) -> None:
        """Raise ConfigError naming the field, its value and what is legal."""
        super().validate()
        for name, least in (("num_answers", self.least_answers), ("epochs", 1), ("minibatches", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"objective.{name} = {getattr(self, name)} must be {least} or more")
        if self.unfinished_penalty < 0:
            raise ConfigError(
                f"objective.unfinished_penalty = {self.unfinished_penalty} must be 0 or more: it is subtracted"
            )
        self._check_reward_run()
        if not self.temperature > 0:
            raise ConfigError(f"objective.temperature = {self.temperature} must be above 0")
        if not 0 < self.clip < 1:
            raise ConfigError(f"objective.clip = {self.clip} must be above 0 and below 1")
        if self.clip_high is not None and not self.clip_high > 0:
            raise ConfigError(
                f"objective.clip_high = {self.clip_high} must be above 0, or None for that of objective.clip"
            )
        if self.beta < 0:
            raise ConfigError(f"objective.beta = {self.beta} must be 0 or more")
        if self.reference and not self.beta:
            raise ConfigError(f"objective.reference = {self.reference!r} is for objective.beta above 0")

    def _check_reward_run(self) -> None:
        if self.reward_run and self.reward != "exact_match":
            raise ConfigError(
                f"objective.reward = {self.reward!r} and objective.reward_run = {self.reward_run!r}: rewards come "
                "from one of the two"
            )
        if self.reward_label and not self.reward_run:
            raise ConfigError(
                f"objective.reward_label = {self.reward_label!r} is a class of objective.reward_run, which is empty"
            )
        if "{answer}" not in self.reward_text:
            raise ConfigError(f"objective.reward_text = {self.reward_text!r} must have '{{answer}}' in it")

    @property
    def updates(self) -> int:
        """Updates of a step."""
        return self.epochs * self.minibatches


class Learned(NamedTuple):
    """Arrays that a step's updates learn from, computed over all of its answers."""

    arrays: dict[str, jax.Array]
    """Entries of the batch, [B, ...] each: "advantages" and what else the loss reads."""
    metrics: dict[str, jax.Array] = {}
    """float32 [] by name."""
    extra: dict[str, Any] = {}
    """Entries of State.extra for the next step, by the names of `initial_extra`."""


def token_prefix(kind: str) -> str:
    """Return what stands before "tokens" in the keys of the rows that hold the answers."""
    return "decoder_" if kind == "encoder_decoder" else ""


class RolloutModule(GenerationModule):
    """A language model and, in its frozen part, a reference and a reward model; subclasses have the loss."""

    can_distill = False

    @property
    def scores_samples(self) -> bool:
        """Whether `sampled_log_probs` is computed of the answers of a step, before its updates."""
        return self.config.updates > 1 or self.config.beta > 0

    @property
    def _base_is_reference(self) -> bool:
        return self.model.adapters.any and not self.config.reference

    def _reference_module(self) -> "RolloutModule":
        model = reference_model(self.config, self.model)
        return type(self)(self.config, model, self.loss, parent=None)

    @override
    def frozen(self) -> dict[str, Any]:
        """Return {"reference": abstract, boxed parameters, "reward_run": ...}, of which there may be none."""
        config = self.config
        models = {}
        if config.reward_run:
            models["reward_run"] = abstract_reward_params(config)
        return models | self._frozen_reference()

    def _frozen_reference(self) -> dict[str, Any]:
        config = self.config
        if not config.beta or self._base_is_reference:
            return {}
        if config.reference_model is None:
            raise ConfigError(
                f"objective.beta = {config.beta} compares the model with a reference: give its base by --from "
                "(base= in Python), or name one by objective.reference"
            )
        return {"reference": abstract_reference(self._reference_module())}

    def log_probs(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Compute the log-probability of each token of the answers at the sampling temperature.

        Args:
            batch: Arrays of a batch, with answers.

        Returns:
            (log-probabilities, entropies of what they were drawn from), float32 [B, K, A]; whatever behind the end.
        """
        hidden_BKAD, unembedding = self.answer_states(batch)
        return self.log_probs_of(hidden_BKAD, unembedding, batch)

    def answer_states(self, batch: Batch) -> tuple[jax.Array, Any]:
        """Return the hidden states that answers are predicted from, [B, K, A, D], and the unembedding."""
        (hidden_BKTD, unembedding), _ = self.predictions(batch)
        # Hidden states at t are read for token t + 1; the answers stand in the last positions.
        return hidden_BKTD[:, :, -self.config.target_length - 1 : -1], unembedding

    def log_probs_of(
        self, hidden_BKAD: jax.Array, unembedding: Any, batch: Batch
    ) -> tuple[jax.Array, jax.Array]:
        """Compute the log-probability of each token of the answers from the hidden states before it.

        Args:
            hidden_BKAD: Hidden states of `answer_states`.
            unembedding: The unembedding of `answer_states`.
            batch: Arrays of a batch, with answers.

        Returns:
            As `log_probs`.
        """
        unembedding = full_unembedding(unembedding)
        tokens_BKT = batch[token_prefix(self.model.kind) + "tokens"]
        targets_BKA = tokens_BKT[:, :, -self.config.target_length :]
        temperature = self.config.temperature

        # Logits are computed again in the backward pass: they are by far the largest arrays.
        @jax.checkpoint
        def of_position(one: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            hidden, targets = one
            logits = embed.logits(hidden, unembedding) / temperature
            log_p = jax.nn.log_softmax(logits, axis=-1)
            # A comparison and a sum shard over the vocabulary; a gather would collect the logits first.
            is_target = jnp.arange(logits.shape[-1]) == targets[..., None]
            entropy = -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)
            return jnp.sum(jnp.where(is_target, log_p, 0.0), axis=-1), jax.lax.stop_gradient(entropy)

        if targets_BKA.size * unembedding.num_rows <= WHOLE:
            return of_position((hidden_BKAD, targets_BKA))
        by_position = (jnp.moveaxis(hidden_BKAD, 2, 0), jnp.moveaxis(targets_BKA, 2, 0))
        log_probs, entropies = jax.lax.map(of_position, by_position, batch_size=_CHUNK)
        return jnp.moveaxis(log_probs, 0, 2), jnp.moveaxis(entropies, 0, 2)

    def sampled_log_probs(self, batch: Batch) -> dict[str, jax.Array]:
        """Return "old_log_probs" and, with a reference, "reference_log_probs", float32 [B, K, A]."""
        config = self.config
        weights_BKA = batch["weights"]
        scores = {"old_log_probs": jnp.where(weights_BKA > 0, self.log_probs(batch)[0], 0.0)}
        if config.beta:
            params = self.variables["params"]
            tree = {"model": params["model"]} if self._base_is_reference else params["reference"]
            result: Any = self._reference_module().apply({"params": tree}, batch, method="log_probs")
            scores["reference_log_probs"] = jnp.where(weights_BKA > 0, result[0], 0.0)
        return scores

    @override
    def __call__(self, batch: Batch, carry: None = None, keys: jax.Array | None = None) -> tuple[Terms, None]:
        """Return the terms of `answer_terms`, and "entropy" over the tokens; keys are not used."""
        del keys
        return self.answer_loss(*self.log_probs(batch), batch), None

    def answer_loss(self, log_probs_BKA: jax.Array, entropies_BKA: jax.Array, batch: Batch) -> Terms:
        """Compute the terms of `answer_terms`, and "entropy" over the tokens.

        Args:
            log_probs_BKA: log pi of each token; whatever behind the answers.
            entropies_BKA: Entropies of what the tokens were drawn from; whatever behind the answers.
            batch: Arrays of a batch.

        Returns:
            The terms.
        """
        weights_BKA = batch["weights"]
        old_BKA = jax.lax.stop_gradient(log_probs_BKA)
        if self.config.updates > 1:
            # In the first update the policy is the one that sampled: the ratio is 1 exactly, whatever the rows that
            # the two were computed with.
            is_first_B11 = batch["first_update"][:, None, None] > 0
            old_BKA = jnp.where(is_first_B11, old_BKA, batch["old_log_probs"])
        # What stands behind an answer must not reach a sum, not even as 0 times infinity.
        real_BKA = weights_BKA > 0
        log_probs_BKA = jnp.where(real_BKA, log_probs_BKA, 0.0)
        log_ratio_BKA = jnp.where(real_BKA, log_probs_BKA - old_BKA, 0.0)
        terms = self.answer_terms(log_ratio_BKA, log_probs_BKA, batch)
        entropy = jnp.sum(jnp.where(real_BKA, entropies_BKA, 0.0))
        return terms | {"entropy": Term(entropy, jnp.sum(weights_BKA))}

    def answer_terms(self, log_ratio_BKA: jax.Array, log_probs_BKA: jax.Array, batch: Batch) -> Terms:
        """Compute the loss of answers.

        Args:
            log_ratio_BKA: log pi - log pi_old of each token, 0 behind the answers.
            log_probs_BKA: log pi of each token, 0 behind the answers.
            batch: Arrays of a batch.

        Returns:
            "loss", "clip_fraction" and, with a reference, "kl". Weights are functions of the batch alone.
        """
        raise NotImplementedError

    @override
    def evaluated(self, batch: Batch) -> tuple[Terms, dict[str, jax.Array]]:
        """Return nothing: an evaluation looks at what the model writes."""
        return {}, {}


class RolloutTask(GenerationTask):
    """Prompts with what rewards are made of; evaluated by greedy answers, as GenerationTask is."""

    config_class = RolloutConfig
    module = RolloutModule
    kinds = ("decoder", "encoder_decoder")

    def advantages(self, config: Any, batch: Batch) -> jax.Array:
        """Compute the advantages of all answers of a step, before they are split into minibatches.

        Args:
            config: The task's config.
            batch: Arrays of the global batch, with rewards and the sampled log-probabilities.

        Returns:
            float32 [B, K].
        """
        raise NotImplementedError

    def learned(self, config: Any, batch: Batch, extra: Mapping[str, Any]) -> Learned:
        """Compute what the updates of a step learn from; by default the advantages alone.

        Args:
            config: The task's config.
            batch: Arrays of the global batch, with rewards and the sampled log-probabilities.
            extra: State.extra before the step.

        Returns:
            Entries of the batch, metrics, and State.extra for the next step.
        """
        del extra
        return Learned({"advantages": self.advantages(config, batch)})

    def initial_extra(self, config: Any) -> dict[str, Any]:
        """Return what State.extra holds for this task before the first step."""
        del config
        return {}

    @override
    def figures_of_terms(self, terms: Mapping[str, float]) -> dict[str, float]:
        """Return nothing: an evaluation has no loss, of which a perplexity could follow."""
        del terms
        return {}

    @override
    def updates_per_step(self, config: RolloutConfig) -> int:
        """Return epochs times minibatches."""
        return config.updates

    @override
    def with_base(self, config: Any, path: str, adapt: AdaptConfig) -> Any:
        """Return the config with the base as the reference, unless it is the model without its adapters."""
        if config.reference or not config.beta or is_removable(adapt):
            return config
        return dataclasses.replace(config, reference=path)

    @override
    def abstract_spec(
        self,
        config: Any,
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
    def example(
        self, rng: np.random.Generator, item: GenerationItem, spec: TaskSpec
    ) -> dict[str, np.ndarray]:
        """Make the rows of a prompt, without answers.

        item: The prompt.

        Returns:
            The arrays of a batch without their batch dim.
        """
        del rng
        count = spec.config.num_answers
        size = spec.config.target_length
        if spec.kind == "encoder_decoder":
            rows = token_arrays([item.source], spec, "encoder_")
            begin = text_frame(spec, None, item.languages).prompt
            rows |= _left_padded(np.array(begin, np.int32), len(begin), spec, "decoder_")
        else:
            rows = _left_padded(item.source, spec.length - size, spec, "")
        arrays = {name: np.repeat(values[None], count, axis=0) for name, values in rows.items()}
        by_token = ["weights", "old_log_probs"]
        if spec.config.beta:
            by_token.append("reference_log_probs")
        arrays |= {name: np.zeros((count, size), np.float32) for name in by_token}
        arrays |= {name: np.zeros(count, np.float32) for name in ("reward", "advantages")}
        # Every update of a run that is not yet split into several is the first.
        arrays["first_update"] = np.ones((), np.float32)
        return arrays | {"record": np.asarray(item.record, np.int32)}

    @override
    def generation_requests(
        self, items: Sequence[GenerationItem], spec: TaskSpec
    ) -> GenerationRequest | None:
        """Return the prompts, each to be followed by a text that ends as sampled ones do."""
        request = super().generation_requests(items, spec)
        return None if request is None else request._replace(end=end_id(spec))


def _left_padded(prompt: np.ndarray, width: int, spec: TaskSpec, prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays of a prompt in `width` positions, with the room for an answer behind it."""
    length = width + spec.config.target_length
    prompt = prompt[:width]
    tokens = np.full(length, spec.vocab.pad, np.int32)
    segments = np.zeros(length, np.int32)
    tokens[width - len(prompt) : width] = prompt
    segments[width - len(prompt) : width] = 1
    positions = np.maximum(np.cumsum(segments) - 1, 0).astype(np.int32)
    return {prefix + "tokens": tokens, prefix + "segments": segments, prefix + "positions": positions}


def end_id(spec: TaskSpec) -> int:
    """Return the id that ends an answer."""
    return (text_frame(spec).end or (spec.vocab.eos,))[-1]
