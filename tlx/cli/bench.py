"""Measure tlx on this machine; every figure stands beside a reference measured in the same run.

    tlx bench                                   all of it, minutes on a laptop
    tlx bench --what=step --objective=clm       the train step of one objective
    tlx bench --what=eager                      against the same GPT-2 in eager PyTorch
    tlx bench --width=768 --layers=12 --length=1024 --batch=16 --vocab=50257
    tlx bench --config=configs/bench/decoder_1b.py       a config's train step, beside PyTorch's

what: step (tokens/s, model FLOP/s, MFU by the matmul peak, and FLOP/s relative to causal LM), eager (the same
GPT-2-shaped step in PyTorch, where torch and transformers are installed), compiled (the same with torch.compile),
generate (new tokens/s, beside transformers.generate), rollout (the same for the answers that a step of GRPO samples),
data (pipeline tokens/s on one core, beside copied rows), cost (an objective's FLOPs and targets per token of text,
beside causal LM's), checkpoint (against a plain file, with the share of hashing), startup (to the end of the first
step, with and without the compilation cache, beside jax alone).
A machine's speed drifts: what is compared is measured in turns, and the medians are printed. What fails is one line
and exit code 1; the other figures are measured and written.
"""

import argparse
import json
from typing import Any

from tlx.base import place as places
from tlx.base.errors import ConfigError, one_of
from tlx.base.lookup import Table
from tlx.bench.attempts import attempt_each, has_failed
from tlx.bench.shape import FIELDS
from tlx.cli import flags
from tlx.objectives import TABLE as OBJECTIVES

MEASURES = Table(
    "--what",
    {
        "step": "tlx.bench.step:measure",
        "eager": "tlx.bench.eager:measure",
        "compiled": "tlx.bench.eager:measure_compiled",
        "generate": "tlx.bench.generate:measure",
        "rollout": "tlx.bench.rollout:measure",
        "data": "tlx.bench.data:measure",
        "cost": "tlx.bench.cost:measure",
        "checkpoint": "tlx.bench.checkpoint:measure",
        "startup": "tlx.bench.startup:measure",
    },
)


def main(argv: list[str]) -> int:
    """Run `tlx bench`: prints figures as they are measured, and writes them as JSON with --json."""
    options = flags.parse(_parser(), argv)
    target = None if options.json is None else places.parse(options.json)
    if options.config is not None:
        figures = _measure_config(options, argv)
    else:
        figures = _measure_shape(options)
    if target is not None:
        places.write(target, json.dumps(figures, indent=2).encode())
    return int(has_failed(figures))


def _parser() -> argparse.ArgumentParser:
    parser = flags.parser("bench", __doc__)
    flags.add_config(parser, required=False)
    parser.add_argument(
        "--what",
        default=",".join(MEASURES),
        help="measurements, separated by commas: " + ", ".join(MEASURES) + "; all by default",
    )
    parser.add_argument(
        "--objective",
        default="clm,mlm,plm,span_corruption",
        help="objectives, separated by commas: " + ", ".join(OBJECTIVES),
    )
    for name, meaning in FIELDS.items():
        parser.add_argument(f"--{name}", type=int, help=meaning)
    parser.add_argument("--seconds", type=float, default=6.0, help="measuring time of each figure (6)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures to a file")
    return parser


def _measure_config(options: argparse.Namespace, argv: list[str]) -> dict[str, Any]:
    """Measure the train step of --config; ConfigError for flags that it replaces."""
    others = [f"--{name}" for name in ("what", "objective", *FIELDS) if _is_set(name, argv)]
    if others:
        raise ConfigError(f"--config defines everything that is measured: leave out {', '.join(others)}")
    # After the parser: this loads jax, which --help does not wait for.
    from tlx.bench import config_step

    figures = config_step.measure(options.config, options.seconds)
    return {"config": options.config_name, **figures}


def _measure_shape(options: argparse.Namespace) -> dict[str, Any]:
    """Make the measurements of --what for a model of the sizes of the flags."""
    measurements = options.what.split(",")
    objectives = tuple(options.objective.split(","))
    for field, names, table in (("--what", measurements, MEASURES), ("--objective", objectives, OBJECTIVES)):
        for name in names:
            if name not in table:
                raise ConfigError(one_of(field, name, table))
    # After the parser: this loads jax, which --help does not wait for.
    from tlx.bench.sizes import default_shape

    sizes = {name: getattr(options, name) for name in FIELDS if getattr(options, name) is not None}
    shape = default_shape()._replace(**sizes)

    def measure_one(name: str) -> dict[str, Any]:
        print(f"\n== {name}", flush=True)
        return MEASURES.load(name)(shape, objectives, options.seconds)

    return {"shape": shape._asdict(), **attempt_each(measurements, measure_one)}


def _is_set(name: str, argv: list[str]) -> bool:
    """Return whether the command line has this flag."""
    return any(word.split("=")[0] == f"--{name}" for word in argv)
