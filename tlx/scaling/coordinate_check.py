"""The coordinate check: how large activations are, and how much a few updates change them, by width.

Where a parametrisation transfers a learning rate over widths, neither depends on the width (Yang et al.
2203.03466, appendix D.1).
"""

import copy
import dataclasses
import math
import pathlib
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from tlx.base.errors import ConfigError
from tlx.data.window import Window
from tlx.models import parametrization
from tlx.models.config import ModelConfig
from tlx.models.transformer import Transformer
from tlx.nn.block import Block, BlockInputs
from tlx.nn.mask import Mask
from tlx.objectives import TABLE as OBJECTIVES
from tlx.optim import make_optimizer
from tlx.run import RunConfig
from tlx.run.checks import resolve
from tlx.run.spec import make_module, spec_before_tokenizer
from tlx.scaling.ladder import LadderConfig, ModelSize, with_size
from tlx.training.state import boxed_params, init_state
from tlx.training.step import make_step

# Where its changes stay below this power of the width, an activation does not depend on it.
STEADY = 0.25


@dataclasses.dataclass
class Coordinates:
    """Root mean squares [width, update] of each activation: as it is, and its change since the start."""

    name: str  # of the parametrisation
    widths: tuple[int, ...]
    size: dict[str, np.ndarray]
    change: dict[str, np.ndarray]

    @property
    def powers(self) -> dict[str, float]:
        """Power of the width with which each activation's change grows, after the last update."""
        x = np.log(self.widths)
        return {name: float(np.polyfit(x, np.log(value[:, -1]), 1)[0]) for name, value in self.change.items()}

    @property
    def steady(self) -> bool:
        """Whether no activation's change grows with the width."""
        return max(self.powers.values()) < STEADY

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        found = {"name": self.name, "widths": list(self.widths), "powers": self.powers, "steady": self.steady}
        return found | {
            key: {n: v.tolist() for n, v in getattr(self, key).items()} for key in ("size", "change")
        }


def coordinate_check(
    ladder: LadderConfig,
    run: Any,
    name: str = "mup",
    widths: Sequence[int] = (),
    updates: int = 4,
    rows: int = 8,
) -> Coordinates:
    """Activations of a decoder or an encoder at several widths over the first updates, on random tokens.

    name: the parametrisation; its base is the smallest width. Depth is that of the run's config. The rate is
    the ladder's at its lr_base_width for all. widths: by default 1, 2, 4 and 8 times the ladder's
    lr_base_width.
    """
    values = run.to_dict() if hasattr(run, "to_dict") else copy.deepcopy(dict(run))
    widths = tuple(widths) or tuple(ladder.lr_base_width * 2**i for i in range(4))
    if values["model"]["kind"] not in ("decoder", "encoder"):
        raise ConfigError(f"model.kind = {values['model']['kind']!r}: the check is for decoders and encoders")
    values["optimizer"]["learning_rate"] = ladder.learning_rate
    values["data"]["sequence_length"] = min(64, values["data"]["sequence_length"])
    values["train"] |= {"batch_size": rows, "steps": updates, "microbatches": 1}
    base = {"name": name, "base_width": min(widths), "base_layers": values["model"]["num_layers"]}
    values["model"] |= {"parametrization": base, "dropout": 0.0}
    found = [_activations(_sized(ladder, values, width), updates) for width in widths]
    size = {part: np.array([[_rms(x) for x in one[part]] for one in found]) for part in found[0]}
    change = {
        part: np.array([[_rms(x - one[part][0]) for x in one[part][1:]] for one in found])
        for part in found[0]
    }
    return Coordinates(name, widths, size, change)


def plot(checks: Sequence[Coordinates], path: pathlib.Path) -> pathlib.Path:
    """A column a parametrisation: changes after every update, a line an activation, over the width."""
    from matplotlib.figure import Figure

    last = next(iter(checks[0].change.values())).shape[1]
    figure = Figure(figsize=(4 * len(checks), 3 * last), layout="constrained")
    grid = figure.subplots(last, len(checks), sharex=True, sharey=True, squeeze=False)
    for column, check in enumerate(checks):
        for update in range(last):
            axes = grid[update, column]
            for part, values in check.change.items():
                axes.loglog(check.widths, values[:, update], marker="o", label=part)
            axes.set_title(f"{check.name}, after update {update + 1}")
            axes.set_xticks(check.widths, [str(width) for width in check.widths])
            axes.minorticks_off()
        axes.set_xlabel("width")
    grid[0, 0].set_ylabel("root mean square of the change")
    grid[0, -1].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def _sized(ladder: LadderConfig, values: dict[str, Any], width: int) -> RunConfig:
    """The run at a width, its depth as it is."""
    hidden = math.ceil(ladder.ff_dim_ratio * width / ladder.ff_dim_multiple) * ladder.ff_dim_multiple
    size = ModelSize(values["model"]["num_layers"], width, width // ladder.head_dim, hidden)
    return resolve(with_size(copy.deepcopy(values), size))


def _activations(config: RunConfig, updates: int) -> dict[str, list[np.ndarray]]:
    """{"embedding", "layer 1", ..., "logits"}: values before the first update and after each."""
    spec = spec_before_tokenizer(config)
    module, batch = make_module(config, spec.vocab), _batch(config, spec)
    abstract = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}
    boxed = boxed_params(module, abstract)
    rates = parametrization.lr_multipliers(module.model, config.optimizer, boxed)

    def rate(count: Any) -> jax.Array:
        return jnp.full((), config.optimizer.learning_rate, jnp.float32)

    optimizer = make_optimizer(config.optimizer, rate, boxed, rates)
    rows = config.train.batch_size
    state = jax.jit(partial(init_state, module, optimizer, abstract, rows, config.seed))()
    step = jax.jit(make_step(module, optimizer, rate, config.train))
    look = jax.jit(partial(_look, module.model))
    found: dict[str, list[np.ndarray]] = {}
    for update in range(updates + 1):
        for name, x in look(state.params["model"], batch).items():
            found.setdefault(name, []).append(np.asarray(x))
        if update < updates:
            state, _ = step(state, batch)
    return found


def _batch(config: RunConfig, spec: Any) -> dict[str, np.ndarray]:
    """One batch of the objective's examples of random tokens, some likelier than others."""
    parts = OBJECTIVES.load(config.objective.name)
    length, rng = parts.reads(spec).length, np.random.default_rng(0)
    likely = np.flatnonzero(~spec.vocab.special)[:64]
    weights = 1 / np.arange(1, len(likely) + 1)
    segments, positions = np.ones(length, np.int32), np.arange(length, dtype=np.int32)
    rows = []
    for _ in range(config.train.batch_size):
        tokens = rng.choice(likely, length, p=weights / weights.sum()).astype(np.int32)
        rows.append(parts.example(rng, Window(tokens, segments, positions), spec))
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _look(cfg: ModelConfig, params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The residual stream after the embedding and each layer, and the logits."""
    positions, segments = batch["positions"], batch["segments"]
    block = cfg.block("decoder" if cfg.kind == "decoder" else "encoder")
    tower = params[cfg.kind]

    def front(model: Transformer) -> tuple[jax.Array, Any]:
        part = model.decoder if cfg.kind == "decoder" else model.encoder
        length, shared = (
            positions.shape[1],
            cfg.position.kind == "relative_bias" and not cfg.position.per_layer,
        )
        bias = part.position_bias(length, length, 0) if shared else None
        return part.front(model.embedding(batch["tokens"]), positions, None, None), bias

    x, bias = Transformer(cfg).apply({"params": params}, method=front)
    found = {"embedding": x}
    for i in range(cfg.num_layers):
        own = jax.tree.map(lambda leaf, i=i: leaf if cfg.share_layers else leaf[i], tower["blocks"])
        layer = block.layer(i % block.period)
        mask = Mask(segments, segments, 0, layer.causal, layer.attention.window)
        inputs = BlockInputs(mask, bias=cast(Any, bias), positions_BT=positions)
        x = Block(layer).apply({"params": own}, x, inputs)[0]
        found[f"layer {i + 1}"] = x
    hidden = Transformer(cfg).apply({"params": params}, batch)
    found["logits"] = Transformer(cfg).apply({"params": params}, hidden, method=Transformer.logits)
    return found
