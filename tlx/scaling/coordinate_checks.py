"""The coordinate check: sizes of activations, and their changes over a few updates, by width.

Where a parametrisation transfers a learning rate over widths, neither depends on the width (Yang et al.
2203.03466, appendix D.1).
"""

import copy
import dataclasses
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
from tlx.scaling.ladder import LadderConfig, ModelSize, feedforward_width, with_size
from tlx.training.state import boxed_params, init_state
from tlx.training.step import make_step

# An activation whose change grows with a smaller power of the width than this does not depend on the width.
STEADY = 0.25

# Rows are cut to this length: activations do not depend on it.
_MAX_LENGTH = 64


@dataclasses.dataclass
class Coordinates:
    """Root mean squares of each activation, as it is and of its change since the start."""

    name: str
    """Name of the parametrisation."""

    widths: tuple[int, ...]
    """Widths of the models."""

    size: dict[str, np.ndarray]
    """Root mean square [width, 1 + updates] of each activation, before the first update and after each."""

    change: dict[str, np.ndarray]
    """Root mean square [width, updates] of each activation's change since the start."""

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
        """Return plain values."""
        return {
            "name": self.name,
            "widths": list(self.widths),
            "powers": self.powers,
            "steady": self.steady,
            "size": {part: values.tolist() for part, values in self.size.items()},
            "change": {part: values.tolist() for part, values in self.change.items()},
        }


def coordinate_check(
    ladder: LadderConfig,
    run: Any,
    name: str = "mup",
    widths: Sequence[int] = (),
    updates: int = 4,
    rows: int = 8,
) -> Coordinates:
    """Measure activations at several widths over the first updates of a decoder or encoder.

    The batch is of random tokens, the same in every update.

    Args:
        ladder: The ladder, whose learning rate is used at every width.
        run: The run's config, whose depth is kept.
        name: Name of the parametrisation; its base is the smallest width.
        widths: Widths of the models; empty for 1, 2, 4 and 8 times the width that the ladder's rate is for.
        updates: Number of updates.
        rows: Rows of the batch, the same in every update.

    Returns:
        Root mean squares of the embedding, every layer and the logits.

    Raises:
        ConfigError: The model is neither a decoder nor an encoder.
    """
    values = run.to_dict() if hasattr(run, "to_dict") else copy.deepcopy(dict(run))
    widths = tuple(widths) or tuple(ladder.lr_base_width * 2**i for i in range(4))
    if values["model"]["kind"] not in ("decoder", "encoder"):
        raise ConfigError(f"model.kind = {values['model']['kind']!r}: the check is for decoders and encoders")
    values["optimizer"]["learning_rate"] = ladder.learning_rate
    values["data"]["sequence_length"] = min(_MAX_LENGTH, values["data"]["sequence_length"])
    values["train"] |= {"batch_size": rows, "steps": updates, "microbatches": 1}
    base = {"name": name, "base_width": min(widths), "base_layers": values["model"]["num_layers"]}
    values["model"] |= {"parametrization": base, "dropout": 0.0}
    by_width = [_activations(_sized(ladder, values, width), updates) for width in widths]
    size = {}
    change = {}
    for part in by_width[0]:
        size[part] = np.array([[_rms(x) for x in activations[part]] for activations in by_width])
        change[part] = np.array([_changes(activations[part]) for activations in by_width])
    return Coordinates(name, widths, size, change)


def plot(checks: Sequence[Coordinates], path: pathlib.Path) -> pathlib.Path:
    """Plot changes over the width: a column per parametrisation, a row per update, a line per activation.

    Returns `path`, to which the figure is written.
    """
    from matplotlib.figure import Figure

    updates = next(iter(checks[0].change.values())).shape[1]
    figure = Figure(figsize=(4 * len(checks), 3 * updates), layout="constrained")
    grid = figure.subplots(updates, len(checks), sharex=True, sharey=True, squeeze=False)
    for column, check in enumerate(checks):
        for update in range(updates):
            axes = grid[update, column]
            for part, values in check.change.items():
                axes.loglog(check.widths, values[:, update], marker="o", label=part)
            axes.set_title(f"{check.name}, after update {update + 1}")
            axes.set_xticks(check.widths, [str(width) for width in check.widths])
            axes.minorticks_off()
        grid[updates - 1, column].set_xlabel("width")
    grid[0, 0].set_ylabel("root mean square of the change")
    grid[0, -1].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def _changes(values: list[np.ndarray]) -> list[float]:
    """Root mean square of the change since the first value."""
    return [_rms(x - values[0]) for x in values[1:]]


def _sized(ladder: LadderConfig, values: dict[str, Any], width: int) -> RunConfig:
    """The run's config at a width, with its own depth."""
    heads = width // ladder.head_dim
    size = ModelSize(values["model"]["num_layers"], width, heads, feedforward_width(ladder, width))
    return resolve(with_size(copy.deepcopy(values), size), allow=None)


def _activations(config: RunConfig, updates: int) -> dict[str, list[np.ndarray]]:
    """{"embedding", "layer 1", ..., "logits"}: values before the first update and after each."""
    spec = spec_before_tokenizer(config)
    module = make_module(config, spec.vocab)
    batch = _batch(config, spec)
    abstract = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}
    boxed = boxed_params(module, abstract)
    multipliers = parametrization.lr_multipliers(module.model, config.optimizer, boxed)

    # No warm-up and no decay: the first updates are to be of full size.
    def schedule(count: Any) -> jax.Array:
        return jnp.full((), config.optimizer.learning_rate, jnp.float32)

    optimizer = make_optimizer(config.optimizer, schedule, boxed, multipliers)
    rows = config.train.batch_size
    state = jax.jit(partial(init_state, module, optimizer, abstract, rows, config.seed))()
    step = jax.jit(make_step(module, optimizer, schedule, config.train))
    forward = jax.jit(partial(_forward, module.model))
    values: dict[str, list[np.ndarray]] = {}
    for update in range(updates + 1):
        for name, x in forward(state.params["model"], batch).items():
            values.setdefault(name, []).append(np.asarray(x))
        if update < updates:
            state, _ = step(state, batch)
    return values


def _batch(config: RunConfig, spec: Any) -> dict[str, np.ndarray]:
    """One batch of the objective's examples of random tokens, with frequencies that fall as 1 / rank."""
    objective = OBJECTIVES.load(config.objective.name, allow=None)
    length = objective.window_spec(spec).length
    rng = np.random.default_rng(0)
    likely = np.flatnonzero(~spec.vocab.special)[:64]
    weights = 1 / np.arange(1, len(likely) + 1)
    segments = np.ones(length, np.int32)
    positions = np.arange(length, dtype=np.int32)
    rows = []
    for _ in range(config.train.batch_size):
        tokens = rng.choice(likely, length, p=weights / weights.sum()).astype(np.int32)
        rows.append(objective.example(rng, Window(tokens, segments, positions), spec))
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _forward(cfg: ModelConfig, params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The residual stream after the embedding and after each layer, and the logits."""
    positions = batch["positions"]
    segments = batch["segments"]
    tower = "decoder" if cfg.kind == "decoder" else "encoder"
    block = cfg.block(tower)

    def front(model: Transformer) -> tuple[jax.Array, Any]:
        part = model.decoder if cfg.kind == "decoder" else model.encoder
        length = positions.shape[1]
        bias = None
        if cfg.position.kind == "relative_bias" and not cfg.position.per_layer:
            bias = part.position_bias(length, length, 0)
        return part.front(model.embedding(batch["tokens"]), positions, None, None), bias

    x, bias = Transformer(cfg).apply({"params": params}, method=front)
    values = {"embedding": x}
    # Layers one by one, from slices of their stacked parameters: the scan of the model shows only its end.
    for i in range(cfg.num_layers):
        blocks = params[cfg.kind]["blocks"]
        stored = block.shared_order[i] if block.shared_order else i
        has_one_layer = cfg.share_layers and not block.shared_order
        layer_params = blocks if has_one_layer else jax.tree.map(lambda leaf, i=stored: leaf[i], blocks)
        layer = block.layer(i % block.period)
        mask = Mask(segments, segments, 0, layer.causal, layer.attention.window)
        inputs = BlockInputs(mask, bias=cast(Any, bias), positions_BT=positions)
        x = Block(layer).apply({"params": layer_params}, x, inputs)[0]
        values[f"layer {i + 1}"] = x
    hidden = Transformer(cfg).apply({"params": params}, batch)
    values["logits"] = Transformer(cfg).apply({"params": params}, hidden, method=Transformer.logits)
    return values
