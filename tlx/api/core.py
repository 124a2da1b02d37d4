"""The parts of a loaded model, and the helpers that every use of it shares."""

import dataclasses
import functools
from typing import Any

import numpy as np

from tlx.api.forward import expected_params
from tlx.base import tree
from tlx.base.errors import ConfigError
from tlx.decode.padding import bucket
from tlx.models.transformer import Transformer
from tlx.models.two_stream import TwoStream
from tlx.objectives.shared.base import ObjectiveModule
from tlx.parallel import unbox
from tlx.run import RunConfig
from tlx.run.config import get_objective
from tlx.run.spec import spec_of
from tlx.text import Tokenizer


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

    @property
    def max_length(self) -> int | None:
        """Largest number of positions that the model supports; None: no limit."""
        return self.config.model.position.max_positions

    def _require_output(self) -> None:
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
        self._require_output()
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

    def _token_arrays(self, tokens: np.ndarray, prefix: str = "") -> dict[str, np.ndarray]:
        """Return tokens, segments and positions [B, T], their names preceded by `prefix`."""
        real = tokens != self.tokenizer.vocab.pad
        if prefix == "decoder_":
            # Some models start the decoder with their pad id, which is not padding there.
            real[:, 0] = True
        positions = np.maximum(np.cumsum(real, axis=1) - 1, 0)
        arrays = {"tokens": tokens, "segments": real.astype(np.int32), "positions": positions}
        return {prefix + name: value for name, value in arrays.items()}
