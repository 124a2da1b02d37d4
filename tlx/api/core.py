"""The parts of a loaded model, and the helpers that every use of it shares."""

import dataclasses
import functools
import logging
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from tlx.api.forward import expected_params
from tlx.base import tree
from tlx.base.errors import ConfigError
from tlx.decode.padding import bucket
from tlx.decode.rows import RowDecoder
from tlx.models.transformer import Transformer
from tlx.models.two_stream import TwoStream
from tlx.objectives.shared.base import ObjectiveModule
from tlx.parallel import unbox
from tlx.run import RunConfig
from tlx.run.config import get_objective
from tlx.run.spec import frame_of, spec_of
from tlx.text import Tokenizer
from tlx.text.frames import Frame
from tlx.text.generation_rules import GenerationRules, rules_of, unused_message, values_of

_log = logging.getLogger("tlx")


@dataclasses.dataclass(frozen=True, eq=False)
class ModelCore:
    """Config, parameters, tokenizer and module of a trained model."""

    config: RunConfig
    """Config of the run that trained the model; for an imported model, one built from its config.json."""
    params: dict[str, Any]
    """Parameters {"model": ..., "heads": ...}, on the default device or sharded over a mesh."""
    tokenizer: Tokenizer
    """Tokenizer that the model was trained with."""
    module: ObjectiveModule
    """Flax module of the training objective, which contains the language model."""
    step: int
    """Training step of the checkpoint; 0 for an imported model."""

    @property
    def kind(self) -> str:
        """Shape of the model: encoder, decoder, encoder_decoder, two_stream or bilstm."""
        return self.config.model.kind

    @property
    def standalone_params(self) -> dict[str, Any]:
        """Parameters with the complete language model under "model", as fine-tuning starts from them."""
        standalone = getattr(self.module, "standalone", None)
        return self.params if standalone is None else standalone(self.params)

    @property
    def num_params(self) -> int:
        """Number of scalars in all parameters."""
        return tree.num_params(self.params)

    @functools.cached_property
    def network(self) -> Transformer | TwoStream:
        """The language model inside the module, with plain einsum attention for decoding."""
        execution = dataclasses.replace(self.module.model.execution, attention="xla")
        config = dataclasses.replace(self.module.model, execution=execution)
        return TwoStream(config) if self.kind == "two_stream" else Transformer(config)

    @functools.cached_property
    def row_decoder(self) -> RowDecoder:
        """The language model as it continues rows one by one, or several with sampling of their own."""
        return RowDecoder(self.network, self.params["model"], self.tokenizer.vocab, self.max_length)

    @functools.cached_property
    def frame(self) -> Frame:
        """Form of the texts that the model reads and writes: special ids, types, languages."""
        return frame_of(self.config, self.tokenizer)

    @property
    def max_length(self) -> int | None:
        """Largest number of positions that the model supports; None: no limit."""
        return self.config.model.position.max_positions

    def require_output(self) -> None:
        """Raise ConfigError if the checkpoint lacks the layer that turns hidden states into logits."""
        if self.config.model.head.absent:
            raise ConfigError(
                "this checkpoint is a bare model without an output layer: it can embed texts and be fine-tuned, "
                "but has no logits; take one of its class for language modelling"
            )

    def _require_heads(self) -> None:
        """Raise ConfigError if the checkpoint lacks a head that the objective predicts with."""
        if get_objective(self.config).supervised and not hasattr(self.module, "logits"):
            raise ConfigError(f"this model is fine-tuned for {self.config.objective.name}; use predict")
        self.require_output()
        if self._missing_heads:
            raise ConfigError(
                f"this checkpoint is a bare model: {self.config.objective.name} predicts with "
                f"heads/{self._missing_heads[0]}, which it lacks; take one that was saved with its head"
            )

    @functools.cached_property
    def _missing_heads(self) -> list[str]:
        expected = unbox(expected_params(self.module, self.config, self.tokenizer))
        return sorted(set(expected.get("heads", {})) - set(self.params.get("heads", {})))

    @functools.cached_property
    def _characters(self) -> np.ndarray | None:
        """Character ids of each token, int [V, characters], for a model that reads characters."""
        # The spec of a supervised task has no such attribute.
        return getattr(spec_of(self.config, self.tokenizer), "characters", None)

    def _pad_to_bucket(self, tokens: np.ndarray) -> np.ndarray:
        """Pad [B, T] on the right to a bucket's width: each distinct width compiles a program."""
        padding = bucket(tokens.shape[1]) - tokens.shape[1]
        return np.pad(tokens, ((0, 0), (0, padding)), constant_values=self.tokenizer.vocab.pad)

    def _rows(self, tokens: Any, lengths: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return tokens [B, T] and the length of each row [B].

        Lengths are those of the rows, or `lengths`. Only at a row's end is the pad id taken for padding, and only
        if it is nothing but that: in many vocabularies it is eos or bos too.
        """
        rows = [np.atleast_1d(np.asarray(row, np.int32)) for row in _as_rows(tokens)]
        vocab = self.tokenizer.vocab
        if lengths is not None:
            counts = np.atleast_1d(np.asarray(lengths, np.int64))
            if len(counts) != len(rows) or any(
                not 0 < n <= len(row) for n, row in zip(counts, rows, strict=True)
            ):
                raise ConfigError(
                    f"{name} = {counts.tolist()} must be one number for each of the {len(rows)} rows, "
                    f"from 1 to its length ({', '.join(str(len(row)) for row in rows[:8])})"
                )
        elif vocab.pad in (vocab.unk, vocab.eos, vocab.mask, vocab.cls, vocab.sep):
            counts = np.array([len(row) for row in rows])
        else:
            counts = np.array([1 + np.flatnonzero(row != vocab.pad).max(initial=0) for row in rows])
        width = max(map(len, rows))
        padded = [np.pad(row, (0, width - len(row)), constant_values=vocab.pad) for row in rows]
        return np.stack(padded), counts

    def _token_arrays(
        self, tokens: np.ndarray, lengths: np.ndarray, prefix: str = ""
    ) -> dict[str, np.ndarray]:
        """Return tokens, segments and positions [B, T] of rows of `lengths`, their names preceded by `prefix`."""
        real = np.arange(tokens.shape[1]) < lengths[:, None]
        positions = np.maximum(np.cumsum(real, axis=1) - 1, 0)
        arrays = {"tokens": tokens, "segments": real.astype(np.int32), "positions": positions}
        return {prefix + name: value for name, value in arrays.items()}

    @functools.cached_property
    def generation_rules(self) -> GenerationRules:
        """Rules of the model's generation_config.json; the first use warns of keys that are not obeyed.

        A model that was tuned on a task of its own keeps those of the vocabulary only.
        """
        if get_objective(self.config).supervised:
            return rules_of(self.tokenizer).of_vocabulary()
        message = unused_message(values_of(self.tokenizer))
        if message:
            _log.warning("%s", message)
        return rules_of(self.tokenizer)


def _as_rows(tokens: Any) -> Sequence[Any]:
    """Return the rows of [B, T], or of one row [T]."""
    is_one = isinstance(tokens, np.ndarray | jax.Array) and tokens.ndim == 1
    is_one |= not isinstance(tokens, np.ndarray | jax.Array) and np.ndim(tokens[0]) == 0
    return [tokens] if is_one else list(tokens)
