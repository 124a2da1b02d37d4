"""plan: a budget to a ladder of runs: buildable models, tokens, rates, exact FLOPs, memory and time."""

import copy
import dataclasses
import math
from typing import Any

import jax

from tlx.base.config import from_dict, to_dict
from tlx.base.errors import ConfigError
from tlx.base.tree import num_params
from tlx.models.config import ModelConfig
from tlx.models.flops_formula import BatchShape, model_flops, nonembedding_params
from tlx.models.flops_traced import matmul_flops
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.parallel import unbox
from tlx.run import RunConfig
from tlx.run.checks import resolve
from tlx.run.spec import abstract_batch, make_module, spec_before_tokenizer
from tlx.scaling.ladder import LadderConfig, ModelSize, sizes, with_size
from tlx.scaling.ledger import FORMAT, new_id
from tlx.scaling.trunks import with_trunks
from tlx.training import carry as carries
from tlx.training.state import boxed_params

# Objectives whose FLOPs models/flops_formula.py has. Those of others are counted in the traced gradient, a
# second for each size.
_CLOSED_FORM = ("clm", "mlm", "span_corruption", "plm", "bart")


def plan(ladder: Any, run: Any) -> dict[str, Any]:
    """The ladder of a LadderConfig over a run's config: {"runs": [...], "total_flops", "budgets", ...}.

    Each run holds its id, its resolved config, and N, D, flops by every convention. Raises
    ConfigError where the budget cannot pay for a ladder with bracketed minima.
    """
    config = ladder if isinstance(ladder, LadderConfig) else from_dict(LadderConfig, dict(ladder), "ladder")
    config.validate()
    base = to_dict(run) if isinstance(run, RunConfig) else copy.deepcopy(_plain(run))
    base_config = resolve(base)
    rungs = _rungs(config, base, base_config)
    budgets = config.budgets or _budgets(config, rungs)
    cells = [(b, rung) for b in budgets for rung in _chosen(config, b, rungs)]
    runs = [_run(config, rung, budget, base_config.seed) for budget, rung in cells]
    for cell in _replicated(config, budgets, cells):
        runs += [_run(config, cell[1], cell[0], base_config.seed + i) for i in range(1, config.seeds)]
    if config.cooldown_fraction:
        runs = with_trunks(runs, config.cooldown_fraction, config.warmup_fraction)
    total = sum(row.get("spent", row["flops"]) for row in runs)
    if total > config.total * 1.0000001:
        raise ConfigError(f"the ladder costs {total:.3g} FLOP, more than the budget of {config.total:.3g}")
    ids = {row["run"] for row in runs}
    if len(ids) < len(runs):
        raise ConfigError(
            "two cells of the ladder are the same run; lower ladder.sizes or raise ladder.size_span"
        )
    seconds = total / config.flops_per_second
    return {
        "format": FORMAT,
        "name": config.name,
        "ladder": to_dict(config),
        "budgets": [float(b) for b in budgets],
        "total_flops": total,
        "hours": seconds / 3600,
        "runs": runs,
    }


def nearest_run(ladder: LadderConfig, run: Any, N: float, flops: float) -> dict[str, Any]:
    """The buildable run of a budget whose parameters are nearest to N (in log distance)."""
    base = to_dict(run) if isinstance(run, RunConfig) else copy.deepcopy(_plain(run))
    rungs = _rungs(ladder, base, resolve(base))
    row = _run(ladder, min(rungs, key=lambda r: abs(math.log(r.params / N))), flops, base["seed"])
    return (
        with_trunks([row], ladder.cooldown_fraction, ladder.warmup_fraction)[0]
        if ladder.cooldown_fraction
        else row
    )


def step_flops(values: dict[str, Any], rows: int) -> int:
    """FLOPs of a training step of a run's config (plain dict) with so many rows, counted in its jaxpr.

    Matrix products of the loss and its gradient: generators, heads and what has no gradient included.
    """
    config = resolve(values | {"train": values["train"] | {"batch_size": rows, "microbatches": 1}})
    spec = spec_before_tokenizer(config)
    module, batch = make_module(config, spec.vocab), abstract_batch(config, spec)
    params = jax.eval_shape(lambda: unbox(boxed_params(module, batch)))

    def loss(params: Any, batch: Any) -> jax.Array:
        terms, _ = module.apply({"params": params}, batch, carries.initial_carry(module, rows), None)
        return sum(term.loss_weight * term.sum for term in terms.values() if term.loss_weight)

    return matmul_flops(jax.grad(loss), params, batch)


def _plain(run: Any) -> dict[str, Any]:
    return run.to_dict() if hasattr(run, "to_dict") else dict(run)


class _Rung:
    """A size of the dial in the run's config, with what it costs a token; exact counts only when asked."""

    def __init__(self, values: dict[str, Any], size: ModelSize, vocab_size: int, shape: BatchShape):
        self.size, self.values, self.shape = size, values, shape
        self.model = dataclasses.replace(
            from_dict(ModelConfig, values["model"], "model"), vocab_size=vocab_size
        )
        self.objective = values["objective"]["name"]
        self.length = values["data"]["sequence_length"]
        self.nonembed = nonembedding_params(self.model)
        self._exact: dict[str, Any] | None = None
        self._traced: dict[int, int] = {}

    @property
    def params(self) -> int:
        """All parameters, about: layers and tables."""
        width = self.model.embedding.width or self.model.width
        return self.nonembed + self.model.padded_vocab * width * (1 if self.model.head.tied else 2)

    @property
    def flops_per_token(self) -> float:
        rows = self.values["train"]["batch_size"]  # what positions cost, all rows of a batch share
        return self.step_flops(rows) / (rows * self.length)

    def step_flops(self, rows: int) -> int:
        """Of a training step of so many rows, exactly: forward and backward, nothing computed twice."""
        if self.objective in _CLOSED_FORM:
            return model_flops(self.model, self.shape._replace(rows=rows), self.objective == "mlm").training
        if rows not in self._traced:
            self._traced[rows] = step_flops(self.values, rows)
        return self._traced[rows]

    def tokens_per_step(self, ladder: LadderConfig, tokens: float) -> int:
        """The batch that goes with so many tokens, in tokens: whole rows, by the rule of the ladder."""
        rows = self.values["train"]["batch_size"]
        if ladder.batch_tokens:
            wanted = ladder.batch_tokens * (tokens / 1e9) ** ladder.batch_power / self.length
            rows = max(rows, round(wanted / rows) * rows)
        return rows * self.length

    def exact_params(self) -> dict[str, int]:
        """Parameters counted in the initialised tree: N, N_nonembed, N_enc, N_dec."""
        if self._exact is None:
            config = resolve(self.values)
            spec = spec_before_tokenizer(config)
            tree = unbox(boxed_params(make_module(config, spec.vocab), abstract_batch(config, spec)))
            model = tree["model"]
            enc, dec = (num_params(model.get(tower, {})) for tower in ("encoder", "decoder"))
            self._exact = {"N": num_params(tree), "N_nonembed": self.nonembed}
            if self.model.kind == "encoder_decoder":
                self._exact |= {"N_enc": enc, "N_dec": dec}
        return self._exact


def _rungs(ladder: LadderConfig, base: dict[str, Any], config: RunConfig) -> list[_Rung]:
    """All sizes of the dial in a run's config."""
    spec = spec_before_tokenizer(config)
    vocab, shape = config.model.vocab_size or spec.vocab.size, _row_shape(config, spec)
    return [_Rung(with_size(base, size), size, vocab, shape) for size in sizes(ladder)]


def _row_shape(config: RunConfig, spec: ObjectiveSpec) -> BatchShape:
    """Dims of one row of a batch."""
    batch = abstract_batch(config, spec)
    decoder = batch["decoder_tokens"].shape[1] if "decoder_tokens" in batch else 0
    targets = batch["targets"].shape[1] if "target_positions" in batch else 0
    memory = getattr(config.objective, "mem_len", 0) if config.model.kind == "two_stream" else 0
    characters = getattr(config.objective, "max_characters", 0)
    return BatchShape(1, config.data.sequence_length, decoder, targets, memory, characters)


def _budgets(config: LadderConfig, rungs: list[_Rung]) -> list[float]:
    """Geometric budgets whose runs, replicates included, cost the total."""
    shares = [config.budget_ratio**i for i in range(config.num_budgets)]
    replicas = config.seed_cells * (config.seeds - 1)
    cost = config.sizes * sum(shares) + replicas * shares[(config.num_budgets - 1) // 2]
    unit = config.total / cost
    return [unit * share for share in shares]


def _optimum(config: LadderConfig, budget: float, rungs: list[_Rung]) -> float:
    """Parameters of the layers that the prior holds for best at a budget."""
    ratio = config.tokens_per_param * (budget / config.prior_budget) ** (1 - 2 * config.prior_exponent)

    def tokens(rung: _Rung) -> float:
        return budget / rung.flops_per_token

    best = min(rungs, key=lambda r: abs(math.log(tokens(r) / r.nonembed / ratio)))
    return best.nonembed


def _chosen(config: LadderConfig, budget: float, rungs: list[_Rung]) -> list[_Rung]:
    """`sizes` rungs around the prior optimum, on both sides of it, of which each can make enough steps."""
    able = [r for r in rungs if budget / r.flops_per_token >= config.min_steps * r.tokens_per_step(config, 0)]
    if len(able) < config.sizes:
        raise ConfigError(
            f"a budget of {budget:.3g} FLOP pays for {config.min_steps} steps of {len(able)} sizes; "
            f"ladder.sizes = {config.sizes} need more budget, a smaller batch or smaller depths"
        )
    middle = _optimum(config, budget, able)
    aims = [middle * config.size_span ** (2 * i / (config.sizes - 1) - 1) for i in range(config.sizes)]
    chosen: list[_Rung] = []
    for aim in aims:
        rest = [r for r in able if r not in chosen]
        chosen.append(min(rest, key=lambda r: abs(math.log(r.nonembed / aim))))
    return sorted(chosen, key=lambda r: r.nonembed)


def _replicated(config: LadderConfig, budgets: Any, cells: list[tuple[float, _Rung]]) -> list[Any]:
    """The middle sizes of the middle budget: where noise is measured."""
    if config.seeds < 2:
        return []
    middle = budgets[(len(budgets) - 1) // 2]
    inside = [cell for cell in cells if cell[0] == middle]
    begin = max(0, (len(inside) - config.seed_cells + 1) // 2)
    return inside[begin : begin + config.seed_cells]


def _run(config: LadderConfig, rung: _Rung, budget: float, seed: int) -> dict[str, Any]:
    """A row of the plan: the resolved config and all that it costs."""
    tokens = budget / rung.flops_per_token
    per_step = rung.tokens_per_step(config, tokens)
    steps = max(1, int(tokens / per_step))
    rows = per_step // rung.length
    values = copy.deepcopy(rung.values)
    rate = config.learning_rate * (rung.size.width / config.lr_base_width) ** config.lr_width_power
    rate *= (steps * per_step / config.lr_base_tokens) ** config.lr_tokens_power
    values["seed"] = seed
    values["name"] = f"{config.name}-d{rung.size.depth}-{steps}"
    values["train"] |= {"steps": steps, "batch_size": rows}
    values["optimizer"] |= {"learning_rate": float(f"{rate:.4g}")}
    values["optimizer"]["schedule"] |= {"warmup": config.warmup_fraction}
    values["eval"] |= {"every": steps, "final": False}
    every = max(1, -(-steps // config.checkpoints))
    values["checkpoint"] |= {"every": every, "keep": 1}
    values = to_dict(resolve(values))
    counted = rung.exact_params()
    flops = conventions(rung, rows, steps)
    return {
        "run": new_id(values),
        "objective": rung.objective,
        "budget": float(budget),
        **counted,
        "D": steps * per_step,
        "flops": flops["exact"],
        **{f"flops_{name}": value for name, value in flops.items()},
        "depth": rung.size.depth,
        "width": rung.size.width,
        "heads": rung.size.heads,
        "hidden": rung.size.hidden,
        "steps": steps,
        "batch_tokens": per_step,
        "lr": values["optimizer"]["learning_rate"],
        "seed": seed,
        "memory_bytes": memory_bytes(rung, rows),
        "seconds": flops["exact"] / config.flops_per_second,
        "config": values,
    }


def conventions(rung: _Rung, rows: int, steps: int) -> dict[str, float]:
    """FLOPs of a run by each convention: exact (what the step computes), 6nd, kaplan, chinchilla.

    kaplan: 6 N_nonembed + 6 layers context width a token (2001.08361, table 1, attention half masked).
    chinchilla: 2203.15556, appendix F, embeddings and logits counted.
    """
    model = rung.model
    exact = rung.step_flops(rows) * steps
    tokens = rows * rung.length * steps
    layers = model.num_layers + (model.decoder_layers if model.kind == "encoder_decoder" else 0)
    kaplan = tokens * (6 * rung.nonembed + 6 * layers * rung.length * model.width)
    s, d, f, heads = rung.length, model.width, rung.size.hidden, rung.size.heads
    layer = 8 * s * d * d + 4 * s * s * d + 3 * heads * s * s + 4 * s * d * f
    forward = layers * layer + 4 * s * model.vocab_size * d
    return {
        "exact": float(exact),
        "6nd": float(6 * rung.exact_params()["N"] * tokens),
        "kaplan": float(kaplan),
        "chinchilla": float(3 * forward * rows * steps),
    }


def memory_bytes(rung: _Rung, rows: int) -> int:
    """About: float32 parameters, gradients and two moments; bfloat16 activations of all layers; logits.

    remat "full" keeps the inputs of the layers alone.
    """
    model, shape = rung.model, rung.shape
    layers = model.num_layers + (model.decoder_layers if model.kind == "encoder_decoder" else 0)
    tokens = rows * shape.length
    per_token = 2 * (14 * model.width + 3 * rung.size.hidden + 2 * rung.size.heads * shape.length)
    per_token = 2 * model.width if model.execution.remat == "full" else per_token
    logits = rows * (shape.targets or shape.decoder_length or shape.length) * model.padded_vocab * 8
    return int(16 * rung.exact_params()["N"] + layers * tokens * per_token + min(logits, 2**28))
