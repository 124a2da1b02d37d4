"""Plan a run before renting hardware: whether it fits, how fast it is, and what must change.

tlx plan --config=configs/pod/llama2_7b_v5e.py --target=tpu:v5e:16x16
tlx plan --config=C --target=gpu:h100:8x8 --method=analytic --json
tlx plan --config=C --target="tpu:v6e:16x16 x 4 slices" --price=2.7

tlx plan --config=C --target=T --search --write=chosen.py
tlx plan --ladder=runs/scaling/NAME/plan.json --target=T
tlx plan --config=configs/finetune/C --from=BASE --config.adapt.method=lora --target=T

The train step that `tlx train` would run is compiled by the target's own compiler, which needs no device
(pip install 'tlx-lm[tpu]', or 'tlx-lm[plan-gpu]'; --compiler-python names a Python that has one). Without a
compiler the plan is an analytic estimate, and says so. Exit 78: it does not fit.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tlx.base import place as places
from tlx.base.errors import MEMORY, OK, ConfigError
from tlx.cli import flags
from tlx.rollouts import TABLE as ROLLOUTS
from tlx.tasks import TABLE as SUPERVISED

if TYPE_CHECKING:
    from tlx.plan import ConfigOverride, Plan
    from tlx.plan.storage import CheckpointCosts

_NO_CHANGE = "(as the config has it)"
# From the tables and not from run.config, which loads jax: --help does not wait for that.
_TASKS = (*SUPERVISED, *ROLLOUTS)


def main(argv: list[str]) -> int:
    """Run `tlx plan`: exit 0 it fits, 78 it does not, 64 an invalid config or target."""
    options = flags.parse(_parser(), argv)
    if (options.config is None) == (options.ladder is None):
        raise ConfigError("say what to plan: --config=FILE, or --ladder=PLAN")
    if options.base and (options.config is None or options.config.objective.name not in _TASKS):
        raise ConfigError(
            f"--from is the base model of a fine-tuning: give it a --config of a task ({', '.join(_TASKS)})"
        )
    if options.write and not options.search:
        raise ConfigError("--write is the file for the choice of --search: add --search")
    if options.ladder:
        return _plan_ladder(options)
    if options.config.objective.name in _TASKS:
        # After the parser: these load jax, which --help does not wait for.
        from tlx.trainer.base_model import load_base
        from tlx.trainer.task_config import complete_task_config

        base = None if options.base is None else load_base(options.base, add=options.config.tokenizer.add)
        options.config = complete_task_config(options.config.to_dict(), base)
    else:
        from tlx.run.checks import resolve

        options.config = resolve(options.config, allow=None)
    if options.search:
        return _search(options)
    result = _plan(options, options.config)
    checkpoint = result.checkpoint._replace(storage_rate=options.storage_rate * 1e9)
    result = dataclasses.replace(result, checkpoint=checkpoint)
    print(json.dumps(result.to_json(), indent=2) if options.json else show(result))
    return OK if result.fits else MEMORY


def _parser() -> argparse.ArgumentParser:
    parser = flags.parser("plan", __doc__)
    flags.add_config(parser, required=False)
    parser.add_argument("--from", dest="base", metavar="DIR", help="for a fine-tuning: its base model")
    parser.add_argument(
        "--ladder", metavar="PLAN", help="plan every model size of a scaling ladder's plan.json"
    )
    parser.add_argument(
        "--search", action="store_true", help="search for the fastest mesh and rematerialisation that fit"
    )
    parser.add_argument("--write", metavar="FILE", help="with --search: write the choice as a config file")
    parser.add_argument("--target", required=True, help="hardware: tpu:v5e:16x16, gpu:h200:8x8, cpu:8 ...")
    parser.add_argument(
        "--method", default="auto", help="auto (compile where possible), analytic or compile (default: auto)"
    )
    parser.add_argument(
        "--compiler-python", metavar="PYTHON", help="Python executable that has the target's compiler"
    )
    parser.add_argument("--price", type=float, help="price of one chip for one hour, in any currency")
    parser.add_argument(
        "--storage-rate",
        type=_rate,
        default=1.0,
        metavar="GB",
        help="gigabytes a second that each host reads from and writes to the storage of the checkpoints (default: 1)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _rate(word: str) -> float:
    """Return a number above 0; ValueError, of which argparse makes its message, for anything else."""
    value = float(word)
    if not 0 < value < float("inf"):
        raise ValueError(word)
    return value


def _plan(options: argparse.Namespace, config: Any) -> "Plan":
    from tlx.plan import plan
    from tlx.run.config import RunConfig, outside_packages

    return plan(
        config,
        options.target,
        options.method,
        compiler_python=options.compiler_python,
        price=options.price,
        # A ladder's configs come from its plan.json, which may be foreign.
        allow=outside_packages(config) if isinstance(config, RunConfig) else (),
    )


def _search(options: argparse.Namespace) -> int:
    """Print the layouts that fit and that no other is both faster and smaller than."""
    from tlx.plan import layouts, pareto_front
    from tlx.run.config import outside_packages

    target = None if options.write is None else places.local_path(options.write)
    results = layouts(
        options.config,
        options.target,
        options.method,
        compiler_python=options.compiler_python,
        allow=outside_packages(options.config),
    )
    best = results[0]
    if target is not None:
        target.write_text(_config_file(options.config_words, best.change))
    if options.json:
        rows = [
            {"changes": list(result.change.words), "plan": result.plan.to_json()}
            for result in pareto_front(results)
        ]
        print(json.dumps({"best": list(best.change.words), "front": rows}, indent=2))
        return OK
    print("of the layouts that fit, those that no other is both faster and smaller than, fastest first:")
    for result in pareto_front(results):
        tokens_per_s = result.plan.to_json()["tokens_per_s_per_chip"]
        words = " ".join(word.removeprefix("--config.") for word in result.change.words) or _NO_CHANGE
        size = _gb(result.plan.memory["total"])
        print(f"  {result.plan.step_ms:10,.1f} ms {tokens_per_s:9,.0f} tokens/s a chip {size:>6} GB  {words}")
    print(f"by {best.plan.method}; the first as overrides:\n  {' '.join(best.change.words) or _NO_CHANGE}")
    return OK


def _config_file(words: Sequence[str], choice: "ConfigOverride") -> str:
    """Return the text of a config file: --config with the overrides of the command line and of the choice."""
    name, *overrides = words
    return _CONFIG.format(
        name=name.removeprefix("--config="), overrides=[*overrides, *choice.words], command=" ".join(words)
    )


_CONFIG = '''"""The layout that `tlx plan --search {command}` chose."""

from tlx.base.config_files import load_config, override


def get_config(arg: str = ""):
    config = load_config({name!r} + (f":{{arg}}" if arg else ""))
    for word in {overrides!r}:
        override(config, word)
    return config
'''


def _plan_ladder(options: argparse.Namespace) -> int:
    """Print a line for each model and batch size of the ladder; exit 78 where one does not fit."""
    path = places.as_named(options.ladder)
    try:
        runs = json.loads(path.read_text())["runs"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"--ladder={path} is no plan.json of `tlx scale plan`: {error!r}") from error
    # Runs that differ in their length or learning rate alone have the same plan.
    distinct = {}
    for run in runs:
        key = json.dumps([run["config"]["model"], run["config"]["train"]["batch_size"]])
        distinct.setdefault(key, run)
    plans = {run["run"]: _plan(options, run["config"]) for run in distinct.values()}
    if options.json:
        print(json.dumps({name: result.to_json() for name, result in plans.items()}, indent=2))
    else:
        print(f"{'run':16}{'parameters':>16}{'GB':>9}{'step ms':>11}{'MFU':>7}  fits, by which method")
        for name, result in plans.items():
            size = _gb(result.memory["total"])
            fits = "yes" if result.fits else "NO: " + " ".join(result.changes)
            print(
                f"{name[:15]:16}{result.parameters.total:16,}{size:>9}{result.step_ms:11,.1f}"
                f"{100 * result.mfu:6.1f}%  {fits}, {result.method}"
            )
    return OK if all(result.fits for result in plans.values()) else MEMORY


def show(result: "Plan") -> str:
    """Format a plan as lines of text."""
    values = result.to_json()
    params = result.parameters
    mesh = " x ".join(f"{axis}={size}" for axis, size in values["mesh"].items()) or "one device"
    fits = "fits" if result.fits else "DOES NOT FIT"
    parts = [(part, size) for part, size in result.memory.items() if part != "total" and size]
    compiled = f", {result.flops_compiled:.4g} compiled without kernels" if result.flops_compiled else ""
    times = ", ".join(f"{part.replace('_', ' ')} {ms:,.1f}" for part, ms in result.times.items())
    lines = [
        f"target      {result.target}: {result.num_chips:,} chips, mesh {mesh}",
        f"method      {result.method}",
        f"parameters  {params.total:,} ({params.active:,} active, {params.non_embedding:,} without tables)",
        f"memory      {_gb(result.memory['total'])} of {_gb(result.memory_available)} GB a chip: {fits}",
        *(f"  {part:14}{_gb(size):>9} GB" for part, size in parts),
        *(f"    of {name:9}{_gb(size):>9} GB of parameters" for name, size in result.models.items()),
        f"FLOPs       {result.work.model_flops:.4g} a step, "
        f"{result.work.hardware_flops:.4g} with rematerialisation{compiled}",
        f"traffic     {_gb(values['collective_bytes_per_chip'])} GB a chip and step",
        *_traffic(result),
        f"step        {result.step_ms:,.1f} ms, {result.step_ms_without_kernels:,.1f} without kernels ({times})",
        f"MFU         {100 * result.mfu:.1f}%",
        f"tokens/s    {values['tokens_per_s_per_chip']:,.0f} a chip",
        *_checkpoint(result.checkpoint),
        f"run         {values['tokens']:.4g} tokens in {result.days:,.2f} days, "
        f"{result.chip_hours:,.0f} chip-hours" + _costs(values),
        *(f"note        {note}" for note in result.notes),
        *(f"change      {change}" for change in result.changes),
    ]
    return "\n".join(lines)


def _checkpoint(costs: "CheckpointCosts") -> list[str]:
    """Return lines on the bytes of a checkpoint and the seconds to save, verify and restore it."""
    return [
        f"checkpoint  {_gb(costs.state_bytes)} GB, {_gb(costs.bytes_per_host)} GB written by each of {costs.hosts:,} "
        f"hosts at {_gb(costs.storage_rate)} GB/s",
        f"  {costs.save_seconds:,.1f} s to save and seal while training goes on, {costs.verify_seconds:,.1f} s to "
        f"verify, {costs.restore_seconds:,.1f} s to verify and restore "
        f"({_gb(costs.restored_bytes_per_host)} GB read by a host, which holds {_gb(costs.held_bytes_per_host)} GB)",
    ]


def _traffic(result: "Plan") -> list[str]:
    """Return a line for each collective and mesh axis: bytes sent, and the least that the layout needs."""
    lines = []
    for kind in sorted({*result.collectives, *result.collectives_least}):
        axes = {*result.collectives.get(kind, {}), *result.collectives_least.get(kind, {})}
        for axis in sorted(axes):
            sent = result.collectives.get(kind, {}).get(axis, 0)
            least = result.collectives_least.get(kind, {}).get(axis, 0)
            lines.append(f"  {kind} over {axis}: {_gb(sent)} GB, of which the layout needs {_gb(least)}")
    return lines


def _costs(values: dict[str, Any]) -> str:
    energy = values["energy_kwh"]
    cost = values["cost"]
    text = f", {energy:,.0f} kWh" if energy else ""
    if cost is not None:
        text += f", cost {cost:,.2f}"
    return text


def _gb(size: float) -> str:
    return f"{size / 1e9:,.3g}"
