"""Ask before a chip is rented: does a run fit, how fast is it, what must change.

tlx plan --config=configs/pod/llama2_7b_v5e.py --target=tpu:v5e:16x16
tlx plan --config=C --target=gpu:h100:8x8 --method=analytic --json
tlx plan --config=C --target="tpu:v6e:16x16 x 4 slices" --price=2.7

tlx plan --config=C --target=T --search --write=chosen.py
tlx plan --ladder=runs/scaling/NAME/plan.json --target=T
tlx plan --config=configs/finetune/C --from=BASE --config.adapt.method=lora --target=T

The very step that `tlx train` would run is compiled by the target's own compiler, which needs no device
(pip install 'tlx-lm[tpu]', or 'tlx-lm[plan-gpu]'; --compiler-python names a Python that has one). Without one
the plan is an analytic estimate, and says so. Exit 78: it does not fit.
"""

import argparse
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from tlx.base.errors import MEMORY, OK, ConfigError
from tlx.cli import flags
from tlx.plan import METHODS, ConfigOverride, Plan, layouts, pareto_front, plan
from tlx.tasks import TABLE as TASKS
from tlx.trainer.base_model import load_base
from tlx.trainer.task_config import complete_task_config


def main(argv: list[str]) -> int:
    """`tlx plan`: exit 0 it fits, 78 it does not, 64 a config or target that cannot be."""
    parser = flags.parser("plan", __doc__)
    flags.add_config(parser, required=False)
    parser.add_argument("--from", dest="base", metavar="DIR", help="of a fine-tuning: what it goes on from")
    parser.add_argument("--ladder", metavar="PLAN", help="plan every size of a scaling ladder's plan.json")
    parser.add_argument("--search", action="store_true", help="look for the fastest mesh and remat that fit")
    parser.add_argument("--write", metavar="FILE", help="with --search: the choice as a config of its own")
    parser.add_argument("--target", required=True, help="tpu:v5e:16x16, gpu:h200:8x8, cpu:8 ...")
    parser.add_argument("--method", default="auto", help=f"{', '.join(METHODS)} (default: auto)")
    parser.add_argument("--compiler-python", metavar="PYTHON", help="one that has the target's compiler")
    parser.add_argument("--price", type=float, help="of a chip for an hour, in any currency")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = flags.parse(parser, argv)
    if (options.config is None) == (options.ladder is None):
        raise ConfigError("say what to plan: --config=FILE, or --ladder=PLAN")
    if options.base and (options.config is None or options.config.objective.name not in TASKS):
        raise ConfigError(
            f"--from is what a fine-tuning goes on from: give it a --config of a task ({', '.join(TASKS)})"
        )
    if options.write and not options.search:
        raise ConfigError("--write says where the choice of --search goes")
    if options.ladder:
        return _ladder(options)
    if options.config.objective.name in TASKS:
        base = None if options.base is None else load_base(options.base)
        options.config = complete_task_config(options.config.to_dict(), base)
    if options.search:
        return _search(options)
    found = _plan(options, options.config)
    print(json.dumps(found.to_json(), indent=2) if options.json else show(found))
    return OK if found.fits else MEMORY


def _plan(options: argparse.Namespace, config: Any) -> Plan:
    return plan(
        config,
        options.target,
        options.method,
        compiler_python=options.compiler_python,
        price=options.price,
    )


def _search(options: argparse.Namespace) -> int:
    found = layouts(options.config, options.target, options.method, compiler_python=options.compiler_python)
    best = found[0]
    if options.write:
        pathlib.Path(options.write).write_text(_as_config(options.config_words, best.change))
    if options.json:
        rows = [
            {"changes": list(one.change.words), "plan": one.plan.to_json()} for one in pareto_front(found)
        ]
        print(json.dumps({"best": list(best.change.words), "front": rows}, indent=2))
        return OK
    print("of what fits, that which nothing is both faster and smaller than, fastest first:")
    for one in pareto_front(found):
        rate = one.plan.to_json()["tokens_per_s_per_chip"]
        words = " ".join(word.removeprefix("--config.") for word in one.change.words) or _AS_IT_IS
        size = _gb(one.plan.memory["total"])
        print(f"  {one.plan.step_ms:10,.1f} ms {rate:9,.0f} tokens/s a chip {size:>6} GB  {words}")
    print(f"by {best.plan.method}; the first as overrides:\n  {' '.join(best.change.words) or _AS_IT_IS}")
    return OK


_AS_IT_IS = "(as the config has it)"


def _as_config(words: Sequence[str], chosen: ConfigOverride) -> str:
    """A config file that is another with these overrides; both --config's own words and the choice."""
    name, *overrides = words
    return _CONFIG.format(
        name=name.removeprefix("--config="), overrides=[*overrides, *chosen.words], command=" ".join(words)
    )


_CONFIG = '''"""The layout that `tlx plan --search {command}` chose."""

from tlx.cli.flags import load_config, override


def get_config(arg: str = ""):
    config = load_config({name!r} + (f":{{arg}}" if arg else ""))
    for word in {overrides!r}:
        override(config, word)
    return config
'''


def _ladder(options: argparse.Namespace) -> int:
    """One line for each model and batch of the ladder; exit 78 where one does not fit."""
    path = pathlib.Path(options.ladder)
    try:
        runs = json.loads(path.read_text())["runs"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"--ladder={path} is no plan.json of `tlx scale plan`: {error!r}") from error
    plans = {}
    for run in runs:
        plans.setdefault(json.dumps([run["config"]["model"], run["config"]["train"]["batch_size"]]), run)
    found = {run["run"]: _plan(options, run["config"]) for run in plans.values()}
    if options.json:
        print(json.dumps({name: one.to_json() for name, one in found.items()}, indent=2))
    else:
        print(f"{'run':16}{'parameters':>16}{'GB':>9}{'step ms':>11}{'MFU':>7}  fits, by which method")
        for name, one in found.items():
            size = _gb(one.memory["total"])
            fits = "yes" if one.fits else "NO: " + " ".join(one.changes)
            print(
                f"{name[:15]:16}{one.parameters.total:16,}{size:>9}{one.step_ms:11,.1f}"
                f"{100 * one.mfu:6.1f}%  {fits}, {one.method}"
            )
    return OK if all(one.fits for one in found.values()) else MEMORY


def show(found: Plan) -> str:
    """The plan as lines."""
    values = found.to_json()
    params = found.parameters
    mesh = " x ".join(f"{axis}={size}" for axis, size in values["mesh"].items()) or "one device"
    lines = [
        f"target      {found.target}: {found.num_chips:,} chips, mesh {mesh}",
        f"method      {found.method}",
        f"parameters  {params.total:,} ({params.active:,} active, {params.non_embedding:,} without tables)",
        f"memory      {_gb(found.memory['total'])} of {_gb(found.memory_available)} GB a chip: "
        + ("fits" if found.fits else "DOES NOT FIT"),
        *(f"  {part:14}{_gb(size):>9} GB" for part, size in found.memory.items() if part != "total" and size),
        f"FLOPs       {found.work.model_flops:.4g} a step, "
        f"{found.work.hardware_flops:.4g} with rematerialisation"
        + (f", {found.flops_compiled:.4g} compiled without kernels" if found.flops_compiled else ""),
        f"traffic     {_gb(values['collective_bytes_per_chip'])} GB a chip and step",
        *_traffic(found),
        f"step        {found.step_ms:,.1f} ms, {found.step_ms_without_kernels:,.1f} without kernels ("
        + ", ".join(f"{part.replace('_', ' ')} {ms:,.1f}" for part, ms in found.times.items())
        + ")",
        f"MFU         {100 * found.mfu:.1f}%",
        f"tokens/s    {values['tokens_per_s_per_chip']:,.0f} a chip",
        f"run         {values['tokens']:.4g} tokens in {found.days:,.2f} days, "
        f"{found.chip_hours:,.0f} chip-hours" + _costs(values),
        *(f"note        {note}" for note in found.notes),
        *(f"change      {change}" for change in found.changes),
    ]
    return "\n".join(lines)


def _traffic(found: Plan) -> list[str]:
    lines = []
    for kind in sorted({*found.collectives, *found.collectives_least}):
        axes = {*found.collectives.get(kind, {}), *found.collectives_least.get(kind, {})}
        for axis in sorted(axes):
            sent = found.collectives.get(kind, {}).get(axis, 0)
            least = found.collectives_least.get(kind, {}).get(axis, 0)
            lines.append(f"  {kind} over {axis}: {_gb(sent)} GB, of which the layout needs {_gb(least)}")
    return lines


def _costs(values: dict) -> str:
    energy = values["energy_kwh"]
    cost = values["cost"]
    return (f", {energy:,.0f} kWh" if energy else "") + (f", cost {cost:,.2f}" if cost is not None else "")


def _gb(size: float) -> str:
    return f"{size / 1e9:,.3g}"
