"""Proximal policy optimisation of answers, with a value for each token.

Ziegler et al. 2019, Stiennon et al. 2020, Ouyang et al. 2022 (InstructGPT). The reward of token t of an answer is
-beta (log pi_old - log ref), and the answer's score is added to its last one; advantages are GAE's, whitened over the
tokens of all answers of a step. The loss of an update is the mean over its tokens of

    max(-A rho, -A clip(rho, 1 - clip, 1 + clip_high)) + value_weight 0.5 max((V - G)^2, (clip(V) - G)^2)

and, with `pretraining_weight`, that times the cross-entropy of rows of text (PPO-ptx, their eq. 2). Values are
read at the position before each token, as its logits are: by a head on the policy, or by a network of its own.

Shapes: A positions of an answer, Q rows of a batch, B K of them, W rows of text for each prompt.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from typing_extensions import override

from tlx.base.errors import ConfigError
from tlx.base.term import Term, Terms
from tlx.models.config import ModelConfig
from tlx.models.heads import TaskHeadConfig
from tlx.nn.config import AdapterConfig
from tlx.nn.losses import cross_entropy
from tlx.rollouts.base import Learned, RolloutConfig, RolloutModule, RolloutTask
from tlx.rollouts.clipped import (
    clipped_policy_losses,
    clipped_value_losses,
    generalized_advantages,
    token_rewards,
)
from tlx.rollouts.kl import adapt_beta
from tlx.rollouts.rloo import answer_kl
from tlx.rollouts.whitening import whiten
from tlx.tasks.shared.base import Batch, TaskSpec
from tlx.tasks.shared.generative import GenerationItem
from tlx.tasks.shared.heads import TaskHeads, hidden_states, language_model

TEXT = "pretraining_"
"""What stands before the keys of rows of text in a batch, [B, W, T]."""

BETA = "ppo_beta"  # name of the adaptive coefficient in State.extra


@dataclasses.dataclass(frozen=True)
class PPO(RolloutConfig):
    """The values, the rewards of tokens and the mix with pretraining."""

    name: str = "ppo"
    """Name in the table of tasks."""
    num_answers: int = 1
    """Answers sampled for each prompt, 1 or more."""
    epochs: int = 4
    """Passes over the answers of a step, 1 or more."""
    beta: float = 0.05
    """Coefficient of the KL from the reference in the rewards, 0 or more; with `kl_target` the first one."""
    kl_target: float | None = None
    """KL, in nats an answer, that the coefficient is adapted to keep; None leaves it fixed."""
    kl_horizon: float = 10_000.0
    """Answers over which the coefficient changes by the factor of the error, above 0 (Ziegler et al. 2019)."""
    discount: float = 1.0
    """gamma of the advantages, above 0 and at most 1."""
    gae_lambda: float = 0.95
    """lambda of the advantages, 0 to 1."""
    whiten_rewards: bool = False
    """Whether rewards of tokens are divided by their standard deviation over the step, their mean kept."""
    value: Literal["head", "network"] = "head"
    """Values by a head on the policy's hidden states, or by a network of its own as large as what it starts from."""
    value_start: Literal["reference", "reward_run"] = "reference"
    """Initial parameters of a value network: those of the reference, or of the reward run, which must then be of the
    policy's kind and have its tokenizer."""
    value_weight: float = 0.1
    """Coefficient of the values' loss, above 0."""
    value_clip: float = 0.2
    """How far values may move from the old ones before they count as they were clipped, above 0."""
    pretraining_weight: float = 0.0
    """Coefficient of the cross-entropy of text of data.source, 0 or more; InstructGPT has 27.8, and 0 reads none."""
    pretraining_rows: int = 1
    """Rows of text for each prompt, 1 or more; InstructGPT has 8 times as many as answers."""

    least_answers: ClassVar[int] = 1
    """Fewest answers to a prompt: they are not compared with each other."""

    def validate(self) -> None:
        """Raise ConfigError naming the field, its value and what is legal."""
        super().validate()
        for name in ("kl_horizon", "value_weight", "value_clip"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"objective.{name} = {getattr(self, name)} must be above 0")
        if not 0 < self.discount <= 1 or not 0 <= self.gae_lambda <= 1:
            raise ConfigError(
                f"objective.discount = {self.discount} must be above 0 and at most 1, and objective.gae_lambda = "
                f"{self.gae_lambda} from 0 to 1"
            )
        if self.kl_target is not None and not (self.kl_target > 0 and self.beta > 0):
            raise ConfigError(
                f"objective.kl_target = {self.kl_target} must be above 0, and objective.beta = {self.beta} too, "
                "which is what the coefficient begins with"
            )
        if self.pretraining_weight < 0 or self.pretraining_rows < 1:
            raise ConfigError(
                f"objective.pretraining_weight = {self.pretraining_weight} must be 0 or more, and "
                f"objective.pretraining_rows = {self.pretraining_rows} 1 or more"
            )
        if self.value_start == "reward_run" and not self.reward_run:
            raise ConfigError("objective.value_start = 'reward_run' needs an objective.reward_run")
        if self.value == "network" and self.value_start == "reference" and not self.beta:
            raise ConfigError(
                "objective.value = 'network' starts from the reference, which objective.beta = 0 has not; "
                "objective.value_start = 'reward_run' takes the reward run's"
            )

    @property
    def text_rows(self) -> int:
        """Rows of text for each prompt; 0 where there is no mix with pretraining."""
        return self.pretraining_rows if self.pretraining_weight else 0


class ValueNetwork(nn.Module):
    """A language model and a head, with the names that a reward model's parameters have."""

    cfg: ModelConfig
    """The model."""
    head: TaskHeadConfig = TaskHeadConfig()
    """Layers of the head."""

    def setup(self) -> None:
        """Build the model and the head."""
        self.lm = language_model(self.cfg)
        self.heads = TaskHeads(self.cfg, "reward", 1, per_token=True, shape=self.head)

    def __call__(self, batch: Batch, size: int) -> jax.Array:
        """Return float32 [B, K, A]: the value before each of the last `size` tokens of a row."""
        return self.heads(hidden_states(self.lm, batch, None)[:, :, -size - 1 : -1])[..., 0]


class ValueHeads(nn.Module):
    """The parameters "heads" of a policy with a value network."""

    cfg: ModelConfig
    """The network's model."""
    head: TaskHeadConfig
    """Layers of its head."""

    def setup(self) -> None:
        """Build the network."""
        self.network = ValueNetwork(self.cfg, self.head, name="value")

    def __call__(self, batch: Batch, size: int) -> jax.Array:
        """Return what the network does."""
        return self.network(batch, size)


class PPOModule(RolloutModule):
    """The policy, the values and their losses."""

    def setup(self) -> None:
        """Build the language model and what computes values."""
        super().setup()
        if self.config.value == "head":
            self.heads = TaskHeads(self.model, "value", 1, per_token=True)
        else:
            self.heads = ValueHeads(*self._value_network())

    def _value_network(self) -> tuple[ModelConfig, TaskHeadConfig]:
        """Return the architecture of a value network and its head."""
        config = self.config
        if config.value_start == "reference":
            return dataclasses.replace(
                self._reference_module().model, adapters=AdapterConfig()
            ), TaskHeadConfig()
        model: ModelConfig = config.reward_run_model
        task = json.loads(config.reward_run_task)
        if model.kind != self.model.kind or task["name"] != "reward":
            raise ConfigError(
                f"objective.value_start = 'reward_run': {config.reward_run!r} is no reward model of the policy's "
                f"kind, {self.model.kind!r}"
            )
        head = TaskHeadConfig(**task["head"])
        # A head that sees one vector may have a dense layer by default; it is there for each token as well.
        dense = "yes" if head.has_dense(model, per_token=False) else "no"
        model = dataclasses.replace(model, execution=self.model.execution, dtype=self.model.dtype)
        return model, dataclasses.replace(head, dense=dense)

    @property
    @override
    def scores_samples(self) -> bool:
        """Return True: advantages need the old values."""
        return True

    @override
    def begin(self, params: Any, frozen: Any) -> Any:
        """Return the parameters with values that start from 0, from the reference or from the reward run."""
        heads = params["heads"]["value"]
        if self.config.value == "head":
            # Ziegler et al. 2019: the first advantages are the rewards themselves.
            return params | {"heads": {"value": jax.tree.map(jnp.zeros_like, heads)}}
        if self.config.value_start == "reward_run":
            source = frozen["reward_run"]
            network = jax.tree.map(lambda new, old: old.astype(new.dtype), heads, source)
        else:
            # With adapters the reference is the base, which is frozen as the model itself.
            model = frozen.get("reference", frozen).get("model")
            network = heads | {"heads": jax.tree.map(jnp.zeros_like, heads["heads"])}
            if model is not None:
                network["model"] = _taken(heads["model"], model)
        return params | {"heads": {"value": network}}

    def values(self, hidden_BKAD: jax.Array, batch: Batch) -> jax.Array:
        """Compute the value before each token of the answers, float32 [B, K, A]; whatever behind the end."""
        heads: Any = self.heads  # of two classes, by objective.value
        if self.config.value == "head":
            return heads(hidden_BKAD)[..., 0]
        return heads(batch, self.config.target_length)

    @override
    def sampled_log_probs(self, batch: Batch) -> dict[str, jax.Array]:
        """Return the base class's arrays, and "old_values"."""
        hidden_BKAD, _ = self.answer_states(batch)
        values_BKA = jnp.where(batch["weights"] > 0, self.values(hidden_BKAD, batch), 0.0)
        return super().sampled_log_probs(batch) | {"old_values": values_BKA}

    @override
    def __call__(self, batch: Batch, carry: None = None, keys: jax.Array | None = None) -> tuple[Terms, None]:
        """Return the terms of the policy, "value_loss" and, with a mix, "pretraining_loss"; keys are not used."""
        del keys
        weights_BKA = batch["weights"]
        hidden_BKAD, unembedding = self.answer_states(batch)
        terms = self.answer_loss(*self.log_probs_of(hidden_BKAD, unembedding, batch), batch)
        values_BKA = jnp.where(weights_BKA > 0, self.values(hidden_BKAD, batch), 0.0)
        losses_BKA = clipped_value_losses(
            values_BKA, batch["old_values"], batch["returns"], self.config.value_clip
        )
        value_loss = jnp.sum(losses_BKA * weights_BKA)
        terms["value_loss"] = Term(value_loss, jnp.sum(weights_BKA), self.config.value_weight)
        if self.config.text_rows:
            terms["pretraining_loss"] = self._text_loss(batch)
        return terms, None

    def _text_loss(self, batch: Batch) -> Term:
        rows = {
            key.removeprefix(TEXT): value.reshape(-1, *value.shape[2:])
            for key, value in batch.items()
            if key.startswith(TEXT)
        }
        lm: Any = self.lm
        hidden_QTD = lm({key: rows[key] for key in ("tokens", "positions", "segments")})
        terms = cross_entropy(hidden_QTD, lm.unembedding(), rows["targets"], rows["weights"], self.loss)
        return terms["loss"]._replace(loss_weight=self.config.pretraining_weight)

    @override
    def answer_terms(self, log_ratio_BKA: jax.Array, log_probs_BKA: jax.Array, batch: Batch) -> Terms:
        """Return "loss" and "clip_fraction", averaged over the tokens of the update."""
        del log_probs_BKA
        weights_BKA = batch["weights"]
        losses_BKA, clipped_BKA = clipped_policy_losses(
            batch["advantages"], log_ratio_BKA, self.config.clip, self.config.clip_high
        )
        count = jnp.sum(weights_BKA)
        return {
            "loss": Term(jnp.sum(losses_BKA * weights_BKA), count, 1.0),
            "clip_fraction": Term(jnp.sum(clipped_BKA * weights_BKA), count),
        }


class PPOTask(RolloutTask):
    """Answers whose tokens are compared with what was expected of them."""

    config_class = PPO
    module = PPOModule

    @override
    def initial_extra(self, config: PPO) -> dict[str, Any]:
        """Return the coefficient of the KL, where it is adapted."""
        return {} if config.kl_target is None else {BETA: jnp.float32(config.beta)}

    @override
    def learned(self, config: PPO, batch: Batch, extra: Mapping[str, Any]) -> Learned:
        """Compute rewards of tokens, advantages and returns, and the next coefficient of the KL."""
        beta = extra.get(BETA, jnp.float32(config.beta))
        arrays, kl_BK = advantages_and_returns(config, batch, beta)
        metrics = {"explained_variance": explained_variance(arrays["returns"], batch)}
        if not config.beta:
            return Learned(arrays, metrics)
        kl = jnp.mean(kl_BK)
        metrics |= {"kl": kl, "beta": beta, "penalised_reward": jnp.mean(batch["reward"]) - beta * kl}
        if config.kl_target is None:
            return Learned(arrays, metrics)
        following = adapt_beta(beta, kl, config.kl_target, kl_BK.size, config.kl_horizon)
        return Learned(arrays, metrics, {BETA: jnp.where(jnp.isfinite(following), following, beta)})

    @override
    def check_spec(self, spec: TaskSpec) -> None:
        """Raise ConfigError as the base class does, and for a mix with pretraining of what is no decoder."""
        if spec.config.pretraining_weight and spec.kind != "decoder":
            raise ConfigError(
                f"objective.pretraining_weight = {spec.config.pretraining_weight} is for decoders; the model is "
                f"{spec.kind!r}"
            )
        super().check_spec(spec)

    @override
    def example(
        self, rng: np.random.Generator, item: GenerationItem, spec: TaskSpec
    ) -> dict[str, np.ndarray]:
        """Make the rows of a prompt as the base class does, with the room for values and rows of text.

        item: The prompt.

        Returns:
            The arrays of a batch without their batch dim.
        """
        arrays = super().example(rng, item, spec)
        empty = np.zeros_like(arrays["weights"])
        arrays |= dict.fromkeys(("advantages", "returns", "old_values"), empty)
        if spec.config.text_rows:
            shape = (spec.config.text_rows, spec.length)
            names = ("tokens", "targets", "positions", "segments")
            arrays |= {TEXT + name: np.zeros(shape, np.int32) for name in names}
            arrays[TEXT + "weights"] = np.zeros(shape, np.float32)
        return arrays


def advantages_and_returns(
    config: PPO, batch: Batch, beta: jax.Array
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Compute what the updates of a step learn from.

    Args:
        config: The task's config.
        batch: Arrays of the global batch, with rewards, the sampled log-probabilities and the old values.
        beta: Coefficient of the KL.

    Returns:
        ({"advantages", "returns"}, float32 [B, K, A] each, the KL of each answer from the reference [B, K]).
    """
    weights_BKA = batch["weights"]
    rows = lambda values_BKA: values_BKA.reshape(-1, values_BKA.shape[-1])  # noqa: E731
    mask_QA = rows(weights_BKA)
    kl_BK = jnp.zeros(weights_BKA.shape[:2])
    log_ratio_QA = jnp.zeros_like(mask_QA)
    if config.beta:
        kl_BK = answer_kl(batch)
        log_ratio_QA = rows(batch["old_log_probs"] - batch["reference_log_probs"])
    rewards_QA = token_rewards(batch["reward"].reshape(-1), log_ratio_QA, mask_QA, beta)
    if config.whiten_rewards:
        rewards_QA = whiten(rewards_QA, mask_QA, shift_mean=False)
    advantages_QA, returns_QA = generalized_advantages(
        rewards_QA, rows(batch["old_values"]), mask_QA, config.discount, config.gae_lambda
    )
    arrays = {"advantages": whiten(advantages_QA, mask_QA), "returns": returns_QA}
    return {name: values_QA.reshape(weights_BKA.shape) for name, values_QA in arrays.items()}, kl_BK


def explained_variance(returns_BKA: jax.Array, batch: Batch) -> jax.Array:
    """Compute 1 - var(G - V) / var(G) of the old values over the tokens of a step; 0 where G does not vary."""
    weights_BKA = batch["weights"]
    count = jnp.maximum(jnp.sum(weights_BKA), 1)

    def variance(values_BKA: jax.Array) -> jax.Array:
        mean = jnp.sum(values_BKA * weights_BKA) / count
        return jnp.sum(jnp.square(values_BKA - mean) * weights_BKA) / count

    total = variance(returns_BKA)
    left = variance(returns_BKA - batch["old_values"])
    return jnp.where(total > 0, 1 - left / jnp.where(total > 0, total, 1.0), 0.0)


def _taken(params: Any, source: Any) -> Any:
    """Return `source`'s values for the leaves of `params`, in their dtypes; `source` may have more."""
    if not isinstance(params, Mapping):
        return source.astype(params.dtype)
    return {name: _taken(value, source[name]) for name, value in params.items()}


TASK = PPOTask()
