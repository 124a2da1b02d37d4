"""Costs of a model of a ladder: parameters, FLOPs by every convention, memory."""

import copy
import dataclasses
import math
from typing import Any

import jax

from tlx.base.chips import chip
from tlx.base.config import from_dict, to_dict
from tlx.base.tree import num_params
from tlx.models.config import ModelConfig
from tlx.models.flops_formula import BatchShape, model_flops, nonembedding_params
from tlx.models.flops_traced import matmul_flops
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.parallel import AXES, unbox
from tlx.plan import footprint
from tlx.plan.estimate import memory_parts
from tlx.plan.target import Target
from tlx.run import RunConfig
from tlx.run.checks import resolve
from tlx.run.spec import abstract_batch, make_module, spec_before_tokenizer
from tlx.scaling.ladder import LadderConfig, ModelSize, sizes, with_size
from tlx.training import carry as carries
from tlx.training.state import boxed_params

# Objectives whose FLOPs models/flops_formula.py has. Those of others are counted in the traced gradient,
# which takes a second for each size.
_CLOSED_FORM = ("clm", "mlm", "span_corruption", "plm", "bart")


class SizedRun:
    """A run's config with a model of one size, and its costs; exact counts are made when asked for."""

    def __init__(self, values: dict[str, Any], size: ModelSize, vocab_size: int, shape: BatchShape):
        """Bind a size to a run's config.

        Args:
            values: The run's config (plain dict) with a model of the size.
            size: The size.
            vocab_size: Vocabulary size, which the config may leave to the tokenizer.
            shape: Dims of one row of a batch.
        """
        self.values = values
        self.size = size
        self.shape = shape
        model = from_dict(ModelConfig, values["model"], "model")
        self.model = dataclasses.replace(model, vocab_size=vocab_size)
        self.objective = values["objective"]["name"]
        self.length = values["data"]["sequence_length"]
        self.nonembed = nonembedding_params(self.model)
        self._exact: dict[str, int] | None = None
        self._traced: dict[int, int] = {}
        self._memory: dict[int, int] = {}

    @property
    def params(self) -> int:
        """All parameters, about: layers and embedding tables."""
        width = self.model.embedding.width or self.model.width
        head = self.model.head
        output_width = width if not head.tied else self.model.width - width if head.half_tied else 0
        return self.nonembed + self.model.padded_vocab * (width + output_width)

    @property
    def flops_per_token(self) -> float:
        """Training FLOPs per token at the config's own batch, whose rows share the cost of positions."""
        rows = self.values["train"]["batch_size"]
        return self.step_flops(rows) / (rows * self.length)

    def step_flops(self, rows: int) -> int:
        """Return the exact FLOPs of a training step of `rows` rows, without what is rematerialised."""
        if self.objective in _CLOSED_FORM:
            masked_head = self.objective == "mlm"
            return model_flops(self.model, self.shape._replace(rows=rows), masked_head).training
        if rows not in self._traced:
            self._traced[rows] = step_flops(self.values, rows)
        return self._traced[rows]

    def tokens_per_step(self, ladder: LadderConfig, tokens: float) -> int:
        """Return the batch in tokens, whole rows, that the ladder's rule gives a run of `tokens` tokens."""
        rows = self.values["train"]["batch_size"]
        if ladder.batch_tokens:
            wanted = ladder.batch_tokens * (tokens / 1e9) ** ladder.batch_power / self.length
            rows = max(rows, round(wanted / rows) * rows)
        return rows * self.length

    def exact_params(self) -> dict[str, int]:
        """Count the parameters in the initialised tree: N, N_nonembed, and N_enc, N_dec of two towers."""
        if self._exact is None:
            config = resolve(self.values, allow=None)
            spec = spec_before_tokenizer(config)
            tree = unbox(boxed_params(make_module(config, spec.vocab), abstract_batch(config, spec)))
            self._exact = {"N": num_params(tree), "N_nonembed": self.nonembed}
            if self.model.kind == "encoder_decoder":
                self._exact["N_enc"] = num_params(tree["model"].get("encoder", {}))
                self._exact["N_dec"] = num_params(tree["model"].get("decoder", {}))
        return self._exact

    def conventions(self, rows: int, steps: int) -> dict[str, float]:
        """Return the FLOPs of a run of `steps` steps of `rows` rows by each convention.

        exact: what the step computes. 6nd: 6 N D. kaplan: 6 N_nonembed + 6 layers context width per token
        (2001.08361, table 1, attention half masked). chinchilla: 2203.15556, appendix F, embeddings and
        logits counted.
        """
        model = self.model
        tokens = rows * self.length * steps
        kaplan = tokens * (6 * self.nonembed + 6 * self._layers * self.length * model.width)
        s = self.length
        d = model.width
        layer = 8 * s * d * d + 4 * s * s * d + 3 * self.size.heads * s * s + 4 * s * d * self.size.hidden
        forward = self._layers * layer + 4 * s * model.vocab_size * d
        return {
            "exact": float(self.step_flops(rows) * steps),
            "6nd": float(6 * self.exact_params()["N"] * tokens),
            "kaplan": float(kaplan),
            "chinchilla": float(3 * forward * rows * steps),
        }

    def memory_bytes(self, ladder: LadderConfig, rows: int) -> int:
        """Return the memory of a step of `rows` rows on all devices of the run, by tlx.plan's estimate."""
        if rows not in self._memory:
            config = resolve(self.values | {"train": self.values["train"] | {"batch_size": rows}}, allow=None)
            target = _target(ladder, config)
            with footprint.traced_for(target):
                program = footprint.abstract_program(config, target, traced=False)
                total = memory_parts(config, program)["total"]
            self._memory[rows] = total * target.num_devices
        return self._memory[rows]

    @property
    def _layers(self) -> int:
        decoder_layers = self.model.decoder_layers if self.model.kind == "encoder_decoder" else 0
        return self.model.num_layers + decoder_layers


def sized_runs(ladder: LadderConfig, values: dict[str, Any], config: RunConfig) -> list[SizedRun]:
    """Return a run's config at every size of the ladder, smallest first.

    Args:
        ladder: The ladder, which defines the sizes.
        values: The run's config as a plain dict.
        config: The same, resolved.

    Returns:
        One run per size.
    """
    spec = spec_before_tokenizer(config)
    vocab_size = config.model.vocab_size or spec.vocab.size
    shape = _row_shape(config, spec)
    return [SizedRun(with_size(values, size), size, vocab_size, shape) for size in sizes(ladder)]


def step_flops(values: dict[str, Any], rows: int) -> int:
    """Count the FLOPs of a training step in its jaxpr, from a run's config (plain dict) and its rows.

    Matrix products of the loss and its gradient; generators, heads and what has no gradient are included.
    """
    config = resolve(
        values | {"train": values["train"] | {"batch_size": rows, "microbatches": 1}}, allow=None
    )
    spec = spec_before_tokenizer(config)
    module = make_module(config, spec.vocab)
    batch = abstract_batch(config, spec)
    params = jax.eval_shape(lambda: unbox(boxed_params(module, batch)))

    def loss(params: Any, batch: Any) -> Any:
        terms, _ = module.apply({"params": params}, batch, carries.initial_carry(module, rows), None)
        return sum(term.loss_weight * term.sum for term in terms.values() if term.loss_weight)

    return matmul_flops(jax.grad(loss), params, batch)


def plain_config(run: Any) -> dict[str, Any]:
    """Return a run's config as a plain dict of its own, from a RunConfig, a ConfigDict or a mapping."""
    if isinstance(run, RunConfig):
        return to_dict(run)
    return copy.deepcopy(run.to_dict() if hasattr(run, "to_dict") else dict(run))


def _row_shape(config: RunConfig, spec: ObjectiveSpec) -> BatchShape:
    """Dims of one row of a batch."""
    batch = abstract_batch(config, spec)
    two_streams = config.model.kind == "two_stream"
    return BatchShape(
        rows=1,
        length=config.data.sequence_length,
        decoder_length=batch["decoder_tokens"].shape[1] if "decoder_tokens" in batch else 0,
        targets=batch["targets"].shape[1] if "target_positions" in batch else 0,
        memory=getattr(config.objective, "mem_len", 0) if two_streams else 0,
        characters=getattr(config.objective, "max_characters", 0),
    )


def _target(ladder: LadderConfig, config: RunConfig) -> Target:
    """The devices of one run: all of the ladder, or what a mesh without -1 uses."""
    mesh = [getattr(config.mesh, axis) for axis in AXES]
    count = ladder.accelerators if -1 in mesh else math.prod(mesh)
    accelerator = chip(ladder.accelerator)
    return Target(f"{accelerator.platform}:{accelerator.name}", accelerator, (count,))
