"""Measure this machine and tlx on it; every figure stands beside one measured in the same run.

    tlx bench                                   all of it, minutes on a laptop
    tlx bench --what=step --objective=clm       the train step of one shape
    tlx bench --what=eager                      against the same GPT-2 in eager PyTorch
    tlx bench --width=768 --layers=12 --length=1024 --batch=16 --vocab=50257
    tlx bench --config=configs/bench/decoder_1b.py       a config's train step, beside PyTorch's

what: step (tokens/s, model FLOP/s, share of the matmul peak, and of causal LM's FLOP/s), eager (the same
GPT-2-shaped step in PyTorch, where torch and transformers are installed), generate (new tokens/s, beside
transformers.generate), data (pipeline tokens/s on one core), cost (an objective's FLOPs and targets for each
token of text, beside causal LM's), checkpoint (against a plain file), startup (to the end of the first step,
with and without the compilation cache).
A machine's speed drifts: what is compared is measured in turns, and the medians are printed.
"""

import json
from typing import Any

from tlx.base.errors import ConfigError, one_of
from tlx.base.lookup import Table
from tlx.bench import config_step
from tlx.bench.sizes import FIELDS, default_shape
from tlx.cli import flags
from tlx.objectives import TABLE as OBJECTIVES

MEASURES = Table(
    "--what",
    {
        "step": "tlx.bench.step:measure",
        "eager": "tlx.bench.eager:measure",
        "generate": "tlx.bench.generate:measure",
        "data": "tlx.bench.data:measure",
        "cost": "tlx.bench.cost:measure",
        "checkpoint": "tlx.bench.checkpoint:measure",
        "startup": "tlx.bench.startup:measure",
    },
)


def main(argv: list[str]) -> int:
    """`tlx bench`: prints what it measures as it goes, and the figures as JSON where asked."""
    parser = flags.parser("bench", __doc__)
    flags.add_config(parser, required=False)
    parser.add_argument("--what", default=",".join(MEASURES), help="some of: " + ", ".join(MEASURES))
    parser.add_argument(
        "--objective", default="clm,mlm,plm,span_corruption", help="some of: " + ", ".join(OBJECTIVES)
    )
    for name, meaning in FIELDS.items():
        parser.add_argument(f"--{name}", type=int, help=meaning)
    parser.add_argument("--seconds", type=float, default=6.0, help="of measuring for each figure (6)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures to a file")
    options = flags.parse(parser, argv)
    if options.config is not None:
        others = [f"--{name}" for name in ("what", "objective", *FIELDS) if _is_given(name, argv)]
        if others:
            raise ConfigError(f"--config says all of what is measured: leave out {', '.join(others)}")
        figures = config_step.measure(options.config, options.seconds)
        _write(options.json, {"config": options.config_name, **figures})
        return 0
    what = options.what.split(",")
    objectives = tuple(options.objective.split(","))
    for field, chosen, table in (("--what", what, MEASURES), ("--objective", objectives, OBJECTIVES)):
        for name in chosen:
            if name not in table:
                raise ConfigError(one_of(field, name, table))
    given = {name: getattr(options, name) for name in FIELDS if getattr(options, name) is not None}
    shape = default_shape()._replace(**given)
    figures = {}
    for name in what:
        print(f"\n== {name}", flush=True)
        figures[name] = MEASURES.load(name)(shape, objectives, options.seconds)
    _write(options.json, {"shape": shape._asdict(), **figures})
    return 0


def _is_given(name: str, argv: list[str]) -> bool:
    return any(word.split("=")[0] == f"--{name}" for word in argv)


def _write(path: str | None, figures: dict[str, Any]) -> None:
    if path:
        with open(path, "w", encoding="utf-8") as handle:
            json.dump(figures, handle, indent=2)
