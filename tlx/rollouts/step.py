"""The step of a task that learns from its own answers: sample, reward, update.

A rollout is a pure function of (seed, step, parameters, prompts): answer k to prompt b draws its tokens with keys
folded from (seed, step, b K + k). A step is one rollout with all of its updates, so that a checkpoint, which falls
between steps, holds no answers, and a run that is resumed samples what an uninterrupted one does.

Sampling and updates are jitted; rewards are computed on the host in between, by every process for all answers.

Shapes: A positions of an answer, Q rows of a batch, B K of them, U updates of a step.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from tlx.base.errors import ConfigError
from tlx.data.readers import Record
from tlx.decode.cached import continue_cached
from tlx.decode.loop import DecodeInputs, DecodeSettings
from tlx.decode.padding import Padded
from tlx.decode.sampling import Sampling, sampling_arrays
from tlx.evaluation.writing import cached
from tlx.parallel import constrain
from tlx.rollouts.base import RolloutTask, end_id, token_prefix
from tlx.rollouts.reward_run import RewardRun
from tlx.rollouts.rewards import REWARDS, SampledAnswer, rewards_of
from tlx.tasks.shared.base import TaskSpec
from tlx.training.config import TrainConfig
from tlx.training.state import State
from tlx.training.step import Batch, Metrics, StepFn, merge_params, row_keys

_SAMPLING = 1 << 31  # folded into the keys of rows: what is drawn by steps folds in the row alone


class Sampled(NamedTuple):
    """Host copies of the answers of a step, on every process."""

    tokens_BKA: Any
    """Token ids, int32."""
    lengths_BK: Any
    """Tokens of each answer, its end included."""
    ended_BK: Any
    """Whether an answer ended itself."""
    record_B: Any
    """Index of each prompt's record."""


SampleFn = Callable[[State, Batch], tuple[Batch, Sampled]]
"""(state, prompts) -> (the batch with answers and their log-probabilities, what the host sees of it)."""


def make_sample(module: Any, spec: TaskSpec) -> SampleFn:
    """Return the pure function that samples the answers of a step, to be jitted with shardings.

    Args:
        module: The task's RolloutModule.
        spec: What examples depend on; its config and vocabulary count.

    Returns:
        The function.
    """
    config = spec.config
    lm, _ = cached(module.model)
    size = config.target_length
    prefix = token_prefix(module.model.kind)
    end = end_id(spec)
    settings = DecodeSettings(
        greedy=False,
        truncated=False,
        penalised=False,
        buffer_size=size,
        ends=(end,),
        pad=spec.vocab.pad,
        rules=None,
    )

    def sample(state: State, batch: Batch) -> tuple[Batch, Sampled]:
        params = merge_params(state.params, state.frozen)
        shape_BK = batch["weights"].shape[:2]
        # Prompts are what stands before the last `size` positions.
        prompt = _padded(batch, prefix, slice(0, -size))
        source = _padded(batch, "encoder_", slice(None)) if prefix else None
        keys_Q = row_keys(state.seed, state.step, len(prompt.tokens))
        keys_Q = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_Q, _SAMPLING)
        values = sampling_arrays(Sampling(temperature=config.temperature))
        inputs = DecodeInputs(keys_Q, jnp.int32(size), values)
        new_QA, counts_Q = continue_cached(lm, params["model"], prompt, source, inputs, settings)
        new_BKA = constrain(new_QA.reshape(*shape_BK, size), ("batch", None, None))
        counts_BK = constrain(counts_Q.reshape(shape_BK), ("batch", None))
        ended_BK = counts_BK < size
        lengths_BK = counts_BK + ended_BK
        # The decoder leaves out the id that ended a row; it is learned like any other.
        is_end_BKA = ended_BK[..., None] & (jnp.arange(size) == counts_BK[..., None])
        new_BKA = jnp.where(is_end_BKA, end, new_BKA)
        batch = with_answers(batch, new_BKA, lengths_BK, prefix)
        if module.scores_samples:
            scores: Any = module.apply({"params": params}, batch, method="sampled_log_probs")
            batch = batch | scores
        # Computed after the loop that decodes. Devices of a CPU run independent collectives in any order: some would
        # wait for the records of all, and the others in the loop for them.
        record_B = constrain(jnp.where(lengths_BK[:, 0] > 0, batch["record"], -1), ("batch",))
        return batch, Sampled(new_BKA, lengths_BK, ended_BK, record_B)

    return sample


def _padded(batch: Batch, prefix: str, columns: slice) -> Padded:
    """Return rows of a batch, of all answers, as the decoder takes them: [B K, T]."""
    rows: dict[str, Any] = {
        name: batch[prefix + name][:, :, columns] for name in ("tokens", "segments", "positions")
    }
    return Padded(**{name: value.reshape(-1, value.shape[-1]) for name, value in rows.items()})


def with_answers(batch: Batch, tokens_BKA: jax.Array, lengths_BK: jax.Array, prefix: str = "") -> Batch:
    """Return a batch of prompts with answers written into it.

    Args:
        batch: Prompts, as RolloutTask.example has them, with a batch dim.
        tokens_BKA: Token ids.
        lengths_BK: Tokens of each answer; what stands behind them is not read.
        prefix: What stands before the names of the rows, by `base.token_prefix`.

    Returns:
        The batch, its weights 1 for the tokens of answers.
    """
    size = tokens_BKA.shape[-1]
    offsets_A = jnp.arange(size)
    real_BKA = offsets_A < lengths_BK[..., None]
    first_BK = jnp.sum(batch[prefix + "segments"][:, :, :-size], axis=-1)
    after = {
        prefix + "tokens": jnp.where(real_BKA, tokens_BKA, batch[prefix + "tokens"][:, :, -size:]),
        prefix + "segments": real_BKA.astype(jnp.int32),
        prefix + "positions": jnp.where(real_BKA, first_BK[..., None] + offsets_A, 0),
    }
    joined = {
        name: jnp.concatenate([batch[name][:, :, :-size], values], axis=-1) for name, values in after.items()
    }
    return batch | joined | {"weights": real_BKA.astype(jnp.float32)}


def make_updates(
    task: RolloutTask, config: Any, train: TrainConfig, make_update: Callable[[TrainConfig], StepFn]
) -> StepFn:
    """Return the pure function of all updates of a step, to be jitted with shardings.

    Args:
        task: The task, for its advantages.
        config: The task's config.
        train: Config of the trainer; batch_size counts prompts.
        make_update: Makes the function of one update (training/step.py) from the config of its minibatch.

    Returns:
        (state, batch with answers and rewards) -> (state, metrics).

    Raises:
        ConfigError: Minibatches do not divide the prompts of a step.
    """
    rows = train.batch_size // config.minibatches
    if train.batch_size % (config.minibatches * train.microbatches):
        raise ConfigError(
            f"train.batch_size = {train.batch_size} does not divide into objective.minibatches = "
            f"{config.minibatches} times train.microbatches = {train.microbatches}"
        )
    update = make_update(dataclasses.replace(train, batch_size=rows))

    def updates(state: State, batch: Batch) -> tuple[State, Metrics]:
        step = state.step
        skipped = state.skipped
        in_a_row = state.skipped_in_a_row
        # Of all answers of the step: statistics over a minibatch would depend on how many there are.
        learned = task.learned(config, batch, state.extra)
        batch = batch | learned.arrays
        of_step = answer_metrics(batch) | learned.metrics
        # Counted in updates meanwhile, as the schedule of the optimizer is.
        state = state._replace(step=step * config.updates)
        if config.updates == 1:
            state, metrics = update(state, batch)
            metrics |= of_step
        else:

            def one(state: State, update_number: tuple[jax.Array, jax.Array]) -> tuple[State, Metrics]:
                number, indices = update_number
                part = {name: jnp.take(values, indices, axis=0) for name, values in batch.items()}
                part["first_update"] = jnp.full_like(part["first_update"], number == 0)
                state, metrics = update(state, part)
                # A result of the loop, so that its collectives are not independent of those in the loop (`sample`).
                return state, metrics | of_step

            order = minibatch_indices(state.seed, step, train.batch_size, config.epochs, config.minibatches)
            state, every = jax.lax.scan(one, state, (jnp.arange(len(order)), order))
            last = ("skipped", "learning_rate", "param_norm", *of_step)
            # One NaN would hide the mean of all others.
            accepted_U = every["skipped_in_a_row"] == 0
            counted_U = accepted_U | ~jnp.any(accepted_U)
            metrics = {
                name: values[-1] if name in last else jnp.mean(values, where=counted_U)
                for name, values in every.items()
            }
        # Counted in steps: from the number of steps that changed nothing follows which was the last good one.
        is_skipped = state.skipped - skipped == config.updates
        in_a_row = jnp.where(is_skipped, in_a_row + 1, 0)
        extra = {**state.extra, **learned.extra}
        state = state._replace(step=step + 1, skipped_in_a_row=in_a_row, extra=extra)
        return state, metrics | {"skipped_in_a_row": in_a_row}

    return updates


def minibatch_indices(
    seed: jax.Array, step: jax.Array, batch_size: int, epochs: int, minibatches: int
) -> jax.Array:
    """Draw the prompts of each update: every pass reads all of them once, in an order of its own.

    Args:
        seed: uint32 [] of the run.
        step: int32 [], number of the step.
        batch_size: Prompts of the step.
        epochs: Passes.
        minibatches: Updates of each pass.

    Returns:
        int32 [epochs minibatches, batch_size / minibatches].
    """
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), _SAMPLING)
    orders = [jax.random.permutation(jax.random.fold_in(key, epoch), batch_size) for epoch in range(epochs)]
    return jnp.stack(orders).reshape(epochs * minibatches, -1)


def answer_metrics(batch: Batch) -> Metrics:
    """Return means of reward and length, the reward's deviation, and the share of prompts of equal rewards."""
    reward_BK = batch["reward"]
    return {
        "reward": jnp.mean(reward_BK),
        "reward_std": jnp.std(reward_BK),
        "length": jnp.mean(jnp.sum(batch["weights"], axis=-1)),
        "equal_rewards": jnp.mean(jnp.max(reward_BK, axis=1) == jnp.min(reward_BK, axis=1)),
    }


class RolloutStep:
    """The step of a run: a StepFn that samples, rewards and updates.

    Args:
        sample: Jitted function of `make_sample`.
        updates: Jitted function of `make_updates`, which donates the state.
        spec: What examples depend on, with its tokenizer.
        records: Records of the training split.
        place: Puts the rewards [B, K] of all prompts onto the devices, sharded as the batch is.
    """

    def __init__(
        self,
        sample: SampleFn,
        updates: StepFn,
        spec: TaskSpec,
        records: Sequence[Record],
        place: Callable[[np.ndarray], jax.Array],
    ):
        self._sample = sample
        self._updates = updates
        self._spec = spec
        self._records = records
        self._place = place
        config = spec.config
        self._reward_run = RewardRun(config) if config.reward_run else None
        # Named by the user, or checked when the saved config was read.
        self._reward = None if config.reward_run else REWARDS.load(config.reward, allow=None)

    def __call__(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        """Make a step on a batch of prompts; donates the state."""
        batch, sampled = self._sample(state, batch)
        sampled = jax.device_get(sampled)
        rewards = self.rewards(self.answers(sampled), state.frozen)
        ended = float(np.mean(sampled.ended_BK))
        state, metrics = self._updates(
            state, batch | {"reward": self._place(rewards.reshape(sampled.lengths_BK.shape))}
        )
        return state, metrics | {"ended": jnp.float32(ended)}

    def rewards(self, answers: Sequence[SampledAnswer], frozen: Mapping[str, Any]) -> np.ndarray:
        """Return the reward of each answer, float32 [answers]; `frozen` has the parameters of a reward run."""
        config = self._spec.config
        if self._reward_run is not None:
            rewards = self._reward_run.rewards(frozen["reward_run"], answers)
        else:
            assert self._reward is not None
            rewards = rewards_of(self._reward, config.reward, answers)
        ended = np.array([answer.ended for answer in answers])
        if config.unfinished_reward is not None:
            rewards = np.where(ended, rewards, np.float32(config.unfinished_reward))
        return rewards - np.float32(config.unfinished_penalty) * ~ended

    def answers(self, sampled: Sampled) -> list[SampledAnswer]:
        """Return the texts of a step's answers with what they are rewarded by, prompt by prompt."""
        config = self._spec.config
        tokenizer = self._spec.tokenizer
        assert tokenizer is not None
        answers = []
        for b, index in enumerate(sampled.record_B.tolist()):
            record = self._records[index]
            prompt = config.read(record)
            references = tuple(config.references(record))
            for k, length in enumerate(sampled.lengths_BK[b].tolist()):
                ended = bool(sampled.ended_BK[b, k])
                ids = sampled.tokens_BKA[b, k, : length - ended].tolist()
                values = cast(Mapping[str, Any], record.values)
                answers.append(SampledAnswer(prompt, tokenizer.decode(ids), references, ended, values))
        return answers
