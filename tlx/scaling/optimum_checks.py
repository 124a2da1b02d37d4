"""The check of the optimum: the best learning rate by width and by depth, measured by training.

A parametrisation transfers a learning rate where the optimum itself stays (Yang et al. 2203.03466, figure 1, over
width; Dey et al. 2505.01618, figure 2, over depth). The coordinate check (coordinate_checks.py) is necessary for that
and not enough. Small models of several widths at one depth, and of several depths at one width, are trained for a few
steps on the run's own text at learning rates an octave apart, with several seeds, until two rates lie on either side
of the best one. A quadratic through the mean losses gives the optimum of each model. A line through the logarithms
gives its power of width and of depth, whose interval is a jackknife's: from the means without each seed. Far above
the best rate small models have further minima, where layers no longer learn: the search goes no further than it has
to.
"""

import copy
import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from tlx.base.errors import ConfigError
from tlx.models import parametrization
from tlx.optim import make_optimizer
from tlx.optim.schedule import make_schedule
from tlx.run import RunConfig
from tlx.run.assemble import build_tokenizer, open_pipeline
from tlx.run.checks import resolve
from tlx.run.spec import make_module, spec_of
from tlx.scaling.ladder import LadderConfig, ModelSize, feedforward_width, with_size
from tlx.training.state import boxed_params, init_state
from tlx.training.step import make_step

# Powers of the size of less than this are no movement that matters: over 16 times the width the best rate changes by
# less than a factor of 2.
STEADY_POWER = 0.25

# Batches after the last step on which the trained model is evaluated: the next ones of the stream, which no step has
# seen, and the same for all rates and sizes, so that their noise is common.
_EVALUATED = 16

# Rates on either side of the best one that the quadratic goes through.
_NEIGHBOURS = 2

# Octaves from the first rate beyond which the best one is not looked for.
_FURTHEST = 10


@dataclasses.dataclass(frozen=True)
class OptimumSettings:
    """Sizes, rates and length of the check."""

    widths: tuple[int, ...] = (16, 32, 64)
    """Widths of the models, two or more; those of other depths have the smallest."""

    depths: tuple[int, ...] = (2, 4, 8)
    """Depths of the models, two or more; those of other widths have the smallest."""

    steps: int = 100
    """Steps of each training, 8 or more."""

    rows: int = 4
    """Rows of a batch."""

    seeds: int = 3
    """Seeds of each training, two or more."""

    def validate(self) -> None:
        """Raise ConfigError naming the field, its value and what is legal."""
        for name, least in (("widths", 2), ("depths", 2)):
            values = getattr(self, name)
            if len(set(values)) < least or min(values) < 1:
                raise ConfigError(f"{name} = {values} must be {least} different numbers or more, from 1 up")
        for name, least in (("steps", 8), ("rows", 1), ("seeds", 2)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} = {getattr(self, name)} must be {least} or more")


class SizeOptimum(NamedTuple):
    """Losses of one model by learning rate, and its best rate."""

    width: int
    """Width of the model."""

    depth: int
    """Layers of the model."""

    rates: np.ndarray
    """Learning rates [rate] that it was trained at, rising."""

    losses: np.ndarray
    """Loss [seed, rate]; not finite where the training diverged."""

    best: np.ndarray
    """Ln of the best learning rate by the losses without each seed [seed]; NaN where no minimum was found."""


class Movement(NamedTuple):
    """Power of the size with which the best learning rate changes."""

    power: float
    """Mean of the powers without each seed; NaN where a model has no minimum."""

    low: float
    """Lower end of the 95% interval."""

    high: float
    """Upper end of the interval."""

    @property
    def verdict(self) -> str:
        """Whether it "stays" or "moves", or why neither is known."""
        if not np.isfinite(self.power):
            return "not identified: the losses of a model have no minimum"
        if -STEADY_POWER < self.low and self.high < STEADY_POWER:
            return "stays"
        if self.low > 0 or self.high < 0:
            return "moves"
        return "not identified: the interval holds 0 and movements that matter; more seeds or steps would narrow it"


@dataclasses.dataclass
class OptimumCheck:
    """Best learning rates of a parametrisation by width and depth."""

    name: str
    """Name of the parametrisation."""

    by_width: list[SizeOptimum]
    """Models of several widths at one depth."""

    by_depth: list[SizeOptimum]
    """Models of several depths at one width."""

    @property
    def over_width(self) -> Movement:
        """Movement of the best rate over width."""
        return movement([model.width for model in self.by_width], [model.best for model in self.by_width])

    @property
    def over_depth(self) -> Movement:
        """Movement of the best rate over depth."""
        return movement([model.depth for model in self.by_depth], [model.best for model in self.by_depth])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        values: dict[str, Any] = {"name": self.name}
        for axis, moved in (("width", self.over_width), ("depth", self.over_depth)):
            values[axis] = moved._asdict() | {"verdict": moved.verdict}
        models = {(model.width, model.depth): model for model in (*self.by_width, *self.by_depth)}
        values["models"] = [
            {
                "width": model.width,
                "depth": model.depth,
                "rates": model.rates.tolist(),
                "best": [float(rate) for rate in np.exp(model.best)],
                "losses": model.losses.tolist(),
            }
            for model in models.values()
        ]
        return values


def optimum_check(
    ladder: LadderConfig, run: Any, name: str, settings: OptimumSettings | None = None
) -> OptimumCheck:
    """Find the best learning rate by width and by depth.

    Args:
        ladder: The ladder, at whose learning rate the search begins and whose heads the widths have.
        run: The run's config: its objective, text, optimizer and schedule.
        name: Name of the parametrisation; its base is the smallest width and depth.
        settings: Sizes, rates and length; None for the defaults.

    Returns:
        Losses and best rates of all models.

    Raises:
        ConfigError: A setting is not legal, or the model cannot be built at a width.
    """
    chosen = settings or OptimumSettings()
    chosen.validate()
    values = run.to_dict() if hasattr(run, "to_dict") else copy.deepcopy(dict(run))
    base = {"name": name, "base_width": min(chosen.widths), "base_layers": min(chosen.depths)}
    values["model"] |= {"parametrization": base, "dropout": 0.0}
    values["train"] |= {"batch_size": chosen.rows, "steps": chosen.steps, "microbatches": 1}
    widths = sorted(chosen.widths)
    depths = sorted(chosen.depths)
    models: dict[tuple[int, int], SizeOptimum] = {}
    sizes = [(width, depths[0]) for width in widths] + [(widths[0], depth) for depth in depths]
    for width, depth in dict.fromkeys(sizes):
        config = _sized(ladder, values, width, depth)
        rates, losses = search(_trainer(config, chosen.seeds), ladder.learning_rate)
        best = best_rates(np.log(rates), losses)
        models[width, depth] = SizeOptimum(width, depth, rates, losses, best)
    by_width = [models[width, depths[0]] for width in widths]
    by_depth = [models[widths[0], depth] for depth in depths]
    return OptimumCheck(name, by_width, by_depth)


def search(train: Callable[[float], np.ndarray], first: float) -> tuple[np.ndarray, np.ndarray]:
    """Train at rates an octave apart, until _NEIGHBOURS of them lie on either side of the best one of all seeds.

    Args:
        train: Loss [seed] at a learning rate.
        first: Learning rate that the search begins at.

    Returns:
        Learning rates [rate], rising, and losses [seed, rate].
    """
    by_octave = {octave: train(first * 2.0**octave) for octave in range(-_NEIGHBOURS, _NEIGHBOURS + 1)}
    while True:
        octaves = sorted(by_octave)
        losses = np.stack([by_octave[octave] for octave in octaves], 1)
        lowest = int(np.argmin(_means(losses)))
        below = lowest < _NEIGHBOURS and octaves[0] > -_FURTHEST
        # Beyond a rate at which a seed has diverged no other one is tried.
        diverged = not np.isfinite(losses[:, -1]).all()
        above = lowest >= len(octaves) - _NEIGHBOURS and octaves[-1] < _FURTHEST and not diverged
        if not below and not above:
            return first * 2.0 ** np.array(octaves), losses
        for octave in [octaves[0] - 1] * below + [octaves[-1] + 1] * above:
            by_octave[octave] = train(first * 2.0**octave)


def best_rates(log_rates: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Return the minima of quadratics in ln rate through the losses around the best rate of all seeds.

    Args:
        log_rates: Ln of the learning rates [rate], evenly spaced and rising.
        losses: Losses [seed, rate]; one that is not finite has diverged.

    Returns:
        Ln of the best rate by the mean losses without each seed [seed], within the rates that the quadratic goes
        through; NaN where there is none: the best rate of all seeds is an end of the rates or beside one that has
        diverged, or a curve has no minimum.
    """
    means = _means(losses)
    lowest = int(np.argmin(means))
    unknown = np.full(len(losses), np.nan)
    if lowest in (0, len(means) - 1) or not np.isfinite(means[lowest - 1 : lowest + 2]).all():
        return unknown
    first = max(0, lowest - _NEIGHBOURS)
    near = np.arange(first, min(len(means), lowest + _NEIGHBOURS + 1))
    near = near[np.isfinite(means[near])]
    x = log_rates[near]
    seeds = len(losses)
    without_one = (losses[:, near].sum(0) - losses[:, near]) / (seeds - 1)
    curvature, slope, _ = np.polyfit(x - log_rates[lowest], without_one.T, 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        best = log_rates[lowest] - slope / curvature / 2
    return np.where(curvature > 0, np.clip(best, x[0], x[-1]), unknown)


def _means(losses: np.ndarray) -> np.ndarray:
    """Mean over the seeds [rate]; infinite where one has diverged."""
    return np.where(np.isfinite(losses).all(0), losses.mean(0), np.inf)


def movement(sizes: Sequence[int], best: Sequence[np.ndarray]) -> Movement:
    """Return the power of the size with which the best rate changes, by a jackknife over the seeds.

    Args:
        sizes: Widths or depths.
        best: Ln of the best rate without each seed [seed], of each size.

    Returns:
        The power with its 95% interval (Student's t); NaN where a size has no best rate without some seed.
    """
    table = np.array(best)
    if not np.isfinite(table).all():
        return Movement(float("nan"), float("nan"), float("nan"))
    powers = np.polyfit(np.log(sizes), table, 1)[0]
    seeds = len(powers)
    # Estimates without one seed differ seeds - 1 times less than single seeds do.
    error = float(np.std(powers)) * np.sqrt(seeds - 1)
    half = special.stdtrit(seeds - 1, 0.975) * error
    mean = float(np.mean(powers))
    return Movement(mean, mean - float(half), mean + float(half))


def plot(checks: Sequence[OptimumCheck], path: pathlib.Path) -> pathlib.Path:
    """Plot loss over learning rate: a column per parametrisation, widths above and depths below.

    Points are means over the seeds, dashed lines the best rates. Returns `path`, to which the figure is written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(checks), 7), layout="constrained")
    grid = figure.subplots(2, len(checks), sharex=True, sharey="row", squeeze=False)
    for column, check in enumerate(checks):
        rows = (("width", check.by_width, check.over_width), ("depth", check.by_depth, check.over_depth))
        for axes, (size, models, moved) in zip(grid[:, column], rows, strict=True):
            for i, model in enumerate(models):
                losses = np.where(np.isfinite(model.losses), model.losses, np.nan).mean(0)
                label = f"{size} {getattr(model, size)}"
                axes.plot(model.rates, losses, marker="o", markersize=3, color=f"C{i}", label=label)
                best = float(np.exp(np.mean(model.best)))
                if np.isfinite(best):
                    axes.axvline(best, color=f"C{i}", linestyle="--", linewidth=1)
            axes.set_xscale("log", base=2)
            power = f"{moved.power:+.2f} ({moved.low:+.2f}, {moved.high:+.2f})"
            axes.set_title(f"{check.name}: best rate ~ {size}^{power}", fontsize=10)
            axes.legend(fontsize=8)
        grid[1, column].set_xlabel("learning rate")
    for axes in grid[:, 0]:
        axes.set_ylabel("loss at the end, nats")
    _limit(grid, checks)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def _limit(grid: np.ndarray, checks: Sequence[OptimumCheck]) -> None:
    """Limit the losses of each row of axes to those near the minima: runs that fail would flatten all others."""
    for row, of_check in enumerate((lambda check: check.by_width, lambda check: check.by_depth)):
        losses = [np.nanmean(model.losses, 0) for check in checks for model in of_check(check)]
        low = min(float(np.nanmin(values)) for values in losses)
        high = max(float(np.nanmin(values)) for values in losses)
        grid[row, 0].set_ylim(low - 0.05, high + max(0.5, high - low))


def _sized(ladder: LadderConfig, values: dict[str, Any], width: int, depth: int) -> RunConfig:
    """The run's config at a width and a depth."""
    if width % ladder.head_dim:
        raise ConfigError(f"width {width} is no multiple of ladder.head_dim = {ladder.head_dim}")
    size = ModelSize(depth, width, width // ladder.head_dim, feedforward_width(ladder, width))
    return resolve(with_size(copy.deepcopy(values), size), allow=None)


def _trainer(config: RunConfig, seeds: int) -> Callable[[float], np.ndarray]:
    """Loss [seed] by learning rate, at the end of trainings that differ in the seed of model and text."""
    program, batches = _program(config)
    by_seed = [batches(seed) for seed in range(seeds)]
    texts = {name: np.stack([text[name] for text in by_seed]) for name in by_seed[0]}
    return lambda rate: np.asarray(program(rate, np.arange(seeds), texts))


def _program(
    config: RunConfig,
) -> tuple[Callable[[float, np.ndarray, Any], jax.Array], Callable[[int], dict[str, np.ndarray]]]:
    """Program and text: losses at the end [seed] by rate, seeds and their batches, and the batches of a seed.

    All rates share one compilation. Seeds are trained side by side, since models so small leave a processor idle.
    """
    tokenizer = build_tokenizer(config)
    module = make_module(config, spec_of(config, tokenizer).vocab)

    def batches(seed: int) -> dict[str, np.ndarray]:
        pipeline = open_pipeline(dataclasses.replace(config, seed=seed), tokenizer, "train")
        every = [pipeline.batch(step) for step in range(config.train.steps + _EVALUATED)]
        return {name: np.stack([batch[name] for batch in every]) for name in every[0]}

    abstract = {name: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for name, x in batches(0).items()}
    boxed = boxed_params(module, abstract)
    multipliers = parametrization.lr_multipliers(module.model, config.optimizer, boxed)
    shape = make_schedule(dataclasses.replace(config.optimizer, learning_rate=1.0), config.train.steps)

    def loss_at_end(rate: jax.Array, seed: jax.Array, text: dict[str, jax.Array]) -> jax.Array:
        def schedule(count: Any) -> jax.Array:
            return rate * shape(count)

        optimizer = make_optimizer(config.optimizer, schedule, boxed, multipliers)
        step = make_step(module, optimizer, schedule, config.train)
        state = init_state(module, optimizer, abstract, config.train.batch_size, seed)

        def advance(state: Any, batch: dict[str, jax.Array]) -> tuple[Any, None]:
            return step(state, batch)[0], None

        state, _ = jax.lax.scan(advance, state, {name: x[:-_EVALUATED] for name, x in text.items()})
        unseen = {name: x[-_EVALUATED:] for name, x in text.items()}
        return jax.lax.map(lambda batch: step(state, batch)[1]["loss"], unseen).mean()

    side_by_side = jax.jit(jax.vmap(loss_at_end, in_axes=(None, 0, 0)))

    def program(rate: float, seeds: np.ndarray, texts: dict[str, np.ndarray]) -> jax.Array:
        return side_by_side(jnp.float32(rate), jnp.asarray(seeds, jnp.uint32), texts)

    return program, batches
