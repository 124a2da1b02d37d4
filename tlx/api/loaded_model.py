"""A trained model as an object, as `tlx.load` returns it.

lm = tlx.load("runs/quickstart")
lm.generate("def main(", max_tokens=32)
lm.score(["import os"])[0].bits_per_byte

Its methods stand in files by use: generation.py, scoring.py, embedding.py, prediction.py and reward.py, over
core.py (config, parameters, module) and text.py (token ids).
"""

import dataclasses

import jax

from tlx.adapt.config import AdaptConfig
from tlx.adapt.merge import merge
from tlx.api.embedding import EmbeddingMixin
from tlx.api.generation import GenerationMixin
from tlx.api.reward import RewardMixin
from tlx.api.scoring import ScoringMixin
from tlx.base.errors import ConfigError
from tlx.run.spec import make_module
from tlx.training.config import BaseConfig


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedModel(GenerationMixin, ScoringMixin, EmbeddingMixin, RewardMixin):
    """A trained model with its config, parameters, tokenizer and module.

    Parameters are {"model": ..., "heads": ...}, on the default device unless loaded for a mesh.
    """

    def __repr__(self) -> str:
        """Return a summary of a few lines; parameters are arrays, which nobody can read."""
        config = self.config.model
        dtypes = sorted({str(leaf.dtype) for leaf in jax.tree.leaves(self.params)})
        heads = f", {config.attention.num_heads} heads" if config.kind != "bilstm" else ""
        longest = f"{self.max_length:,} positions" if self.max_length else "any length"
        return (
            f"LoadedModel at step {self.step:,}: {self.config.objective.name}, {config.kind}\n"
            f"  {self.num_params:,} parameters ({', '.join(dtypes)}), {config.num_layers} layers, "
            f"width {config.width}{heads}, {longest}\n"
            f"  tokenizer: {self.config.tokenizer.kind}, {self.tokenizer.vocab.size:,} ids"
        )

    def with_integers(self) -> "LoadedModel":
        """Return the model with products of integers, of one that was trained with model.quantization.bits.

        Raises ConfigError for a model that was not.
        """
        part = self.config.model.quantization
        if not part.bits:
            raise ConfigError("model.quantization.bits = 0: the model was not trained to be quantised")
        model = dataclasses.replace(self.config.model, quantization=dataclasses.replace(part, integers=True))
        config = dataclasses.replace(self.config, model=model)
        return dataclasses.replace(self, config=config, module=make_module(config, self.tokenizer.vocab))

    def merged(self) -> "LoadedModel":
        """Return the model with its LoRA matrices or added hidden units merged into its weights."""
        model, params = merge(self.module.model, self.params)
        model = dataclasses.replace(model, vocab_size=self.config.model.vocab_size)
        config = dataclasses.replace(self.config, model=model, adapt=AdaptConfig(), base=BaseConfig())
        module = make_module(config, self.tokenizer.vocab)
        return dataclasses.replace(self, config=config, module=module, params=jax.device_put(params))
