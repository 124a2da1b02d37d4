"""ELMo's objective: two language models over the same tokens, one from the left and one from the right.

The mean of -log p(t_k | t_1 .. t_{k-1}) and -log p(t_k | t_{k+1} .. t_n) (Peters et al. 2018, 3.1); the
directions share what reads characters and the softmax, and have layers of their own. A row is a window of
a stream. The forward direction goes on from the state that it had after the row's last window; the
backward one begins with nothing at each window's end, since what follows has not been read (the
official code reverses sentence by sentence and carries that state past the sentences before it).
Documents follow one another in the stream, told apart by eos, as sentences do there. A token's characters
are the bytes of its piece: pieces stand where the paper has words.
"""

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from typing_extensions import override

from tlx.base.errors import ConfigError
from tlx.base.term import Term, Terms
from tlx.data.window import Window, WindowSpec, window_of_texts
from tlx.models.bilstm import BiLSTM
from tlx.models.config import ModelConfig
from tlx.nn.dropout import dropout, fold
from tlx.nn.embed import Unembedding
from tlx.nn.losses import cross_entropy
from tlx.nn.recurrent import RecurrentState
from tlx.nn.sampled import sampled_losses
from tlx.objectives.shared.base import Batch, Objective, ObjectiveModule, ObjectiveSpec, Predictions
from tlx.parallel.sharding import logical
from tlx.text.characters import PAD
from tlx.text.frames import Frame

# Branches of a row's keys, beside those of models/bilstm.py.
_SAMPLES = 2**21
_OUTPUTS = 2**21 + 1


@dataclasses.dataclass(frozen=True)
class BiLM:
    """Number of characters of a token, and the sampling of the softmax in training."""

    name: str = "bilm"
    """Name in the table of objectives."""
    max_characters: int = 50
    """Most characters of a token, at least 3, with those that begin and end it; more are cut."""
    num_sampled: int = 0
    """Other ids in the softmax of a training step (ELMo: 8192); 0 is all."""

    def validate(self) -> None:
        """Raise ConfigError for a number that makes no sense."""
        if self.max_characters < 3:
            raise ConfigError(f"objective.max_characters = {self.max_characters} must be at least 3")
        if self.num_sampled < 0:
            raise ConfigError(f"objective.num_sampled = {self.num_sampled} must be 0 (all) or more")


class Softmax(nn.Module):
    """The output layer of both directions."""

    model: ModelConfig

    @nn.compact
    def __call__(self) -> Unembedding:
        """Return its kernel and bias."""
        cfg = self.model
        dtype = jnp.dtype(cfg.param_dtype)
        shape = (cfg.padded_vocab, cfg.width)
        init = logical(nn.initializers.normal(cfg.width**-0.5), ("vocab", "embed"))
        kernel = self.param("kernel", init, shape, dtype)
        zeros = logical(nn.initializers.zeros_init(), ("vocab",))
        return Unembedding(kernel, self.param("bias", zeros, shape[:1], dtype), 1.0, cfg.vocab_size)


class BiLMHeads(nn.Module):
    """The parameters "heads/bilm"."""

    model: ModelConfig

    def setup(self) -> None:
        """Build the softmax."""
        self.bilm = Softmax(self.model)


class BiLMModule(ObjectiveModule):
    """Both directions, and their softmax."""

    def setup(self) -> None:
        """Build both; raises ConfigError for settings that exclude each other."""
        if self.config.num_sampled and (self.loss.z_loss or self.loss.label_smoothing):
            raise ConfigError(
                f"objective.num_sampled = {self.config.num_sampled}: a sampled softmax has no "
                "loss.z_loss and loss.label_smoothing; set them, or it, to 0"
            )
        reach = max(size for size, _ in self.model.recurrent.characters.filters)
        if reach > self.config.max_characters:
            raise ConfigError(
                f"model.recurrent.characters.filters reach over {reach} characters, a token has "
                f"objective.max_characters = {self.config.max_characters}"
            )
        self.lm = BiLSTM(self.model, name="model")
        self.heads = BiLMHeads(self.model)

    @override
    def initial_carry(self, batch_size: int) -> RecurrentState:
        """Return the forward direction's empty state."""
        return BiLSTM(self.model, parent=None).empty(batch_size)

    @override
    def predictions(
        self, batch: Batch, carry: RecurrentState | None, keys: jax.Array | None
    ) -> tuple[Predictions, RecurrentState]:
        """Return the forward direction's hidden states.

        carry: The forward direction's state; None is empty.

        Returns:
            Hidden states [B, T, D] for `targets` with the softmax, and the new state.
        """
        length = batch["tokens"].shape[1]
        x_BTD = self.lm.tokens(batch["characters"][:, :length])
        layers, state = self.lm.read_forward(x_BTD, batch["segments"], carry, keys)
        return Predictions(layers[-1], self.heads.bilm()), state

    @override
    def __call__(
        self, batch: Batch, carry: RecurrentState | None = None, keys: jax.Array | None = None
    ) -> tuple[Terms, RecurrentState]:
        """Return "loss" and "accuracy" (means of both directions), "forward" and "backward" (metrics)."""
        x_BSD = self.lm.tokens(batch["characters"])
        forward, state = self.lm.read_forward(x_BSD[:, :-1], batch["segments"], carry, keys)
        # The backward direction reads tokens 1..T: the last one is real if it has characters.
        last = (batch["characters"][:, -1:, 0] != PAD).astype(jnp.int32)
        segments = jnp.concatenate([batch["segments"][:, 1:], last], axis=1)
        backward = self.lm.read_backward(x_BSD[:, 1:], segments, keys)
        ahead = self._terms(forward[-1], batch["targets"], batch["weights"], keys, 0)
        back = self._terms(backward[-1], batch["tokens"], batch["weights"], keys, 1)
        terms = {
            name: Term((ahead[name].sum + back[name].sum) / 2, ahead[name].weight, ahead[name].loss_weight)
            for name in ahead
        }
        terms["forward"] = Term(ahead["loss"].sum, ahead["loss"].weight)
        terms["backward"] = Term(back["loss"].sum, back["loss"].weight)
        return terms, state

    def _terms(
        self,
        hidden_BTD: jax.Array,
        targets_BT: jax.Array,
        weights_BT: jax.Array,
        keys: jax.Array | None,
        direction: int,
    ) -> Terms:
        """Return the terms of one direction (0 forward, 1 backward)."""
        unembedding = self.heads.bilm()
        hidden_BTD = dropout(hidden_BTD, self.model.dropout, fold(keys, _OUTPUTS), direction)
        if keys is None or not self.config.num_sampled:
            return cross_entropy(hidden_BTD, unembedding, targets_BT, weights_BT, self.loss)
        sample_keys = fold(fold(keys, _SAMPLES), direction)
        assert sample_keys is not None
        losses = sampled_losses(hidden_BTD, unembedding, targets_BT, sample_keys, self.config.num_sampled)
        return {"loss": Term(jnp.sum(losses * weights_BT), jnp.sum(weights_BT), 1.0)}


class BiLMObjective(Objective):
    """ELMo's bidirectional language modelling."""

    config_class = BiLM
    module = BiLMModule
    kinds = ("bilstm",)

    @override
    def frame(self, spec: ObjectiveSpec) -> Frame:
        """Return eos before and after a text."""
        start = (spec.vocab.eos,)  # that of the document before: a row has no other id in front of a text
        return Frame(before=start, start=start, end=start, place=-1)

    @override
    def clean_example(
        self, texts: Sequence[np.ndarray], spec: ObjectiveSpec, languages: Sequence[int] = (0, 0)
    ) -> dict[str, np.ndarray]:
        """Make the row of a text after the end of another."""
        window = window_of_texts(self.window_spec(spec), texts, spec.vocab, languages, (spec.vocab.eos,))
        return self.example(np.random.default_rng(0), window, spec)

    @override
    def window_spec(self, spec: ObjectiveSpec) -> WindowSpec:
        """Return windows of a stream of length + 1 tokens that share one token with the next."""
        return WindowSpec(spec.length + 1, "stream", overlap=1)

    @override
    def example(self, rng: np.random.Generator, window: Window, spec: ObjectiveSpec) -> dict[str, np.ndarray]:
        """Make a row for both directions.

        window: A piece of a stream, [length + 1].

        Returns:
            tokens, targets, weights, positions, segments [length]; characters [length + 1, C]. `targets` are
            what the forward direction predicts, `tokens` what the backward one does; `characters` are those
            of all length + 1 tokens; weights are 0 on padding only.
        """
        del rng
        real = window.segments > 0
        if spec.characters is None:
            characters = np.zeros((len(real), spec.config.max_characters), np.int32)
        else:
            characters = spec.characters[window.tokens]
        return {
            "tokens": np.where(real[:-1], window.tokens[:-1], spec.vocab.pad).astype(np.int32),
            "targets": np.where(real[1:], window.tokens[1:], spec.vocab.pad).astype(np.int32),
            "weights": real[1:].astype(np.float32),
            "positions": np.arange(spec.length, dtype=np.int32),
            "segments": real[:-1].astype(np.int32),
            "characters": characters.astype(np.int32),
        }


OBJECTIVE = BiLMObjective()
