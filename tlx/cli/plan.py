"""Ask before a chip is rented: does a run fit, how fast is it, what must change.

tlx plan --config=configs/pod/llama2_7b_v5e.py --target=tpu:v5e:16x16
tlx plan --config=C --target=gpu:h100:8x8 --method=analytic --json
tlx plan --config=C --target="tpu:v6e:16x16 x 4 slices" --price=2.7

The very step that `tlx train` would run is compiled by the target's own compiler, which needs no device
(pip install 'tlx-lm[tpu]', or 'tlx-lm[plan-gpu]'; --compiler-python names a Python that has one). Without one
the plan is an analytic estimate, and says so. Exit 78: it does not fit.
"""

import argparse
import json

from tlx.base.errors import MEMORY, OK
from tlx.cli import flags
from tlx.plan import METHODS, Plan, plan


def main(argv: list[str]) -> int:
    """`tlx plan`: exit 0 it fits, 78 it does not, 64 a config or target that cannot be."""
    parser = flags.parser("plan", __doc__)
    flags.add_config(parser)
    parser.add_argument("--target", required=True, help="tpu:v5e:16x16, gpu:h200:8x8, cpu:8 ...")
    parser.add_argument("--method", default="auto", help=f"{', '.join(METHODS)} (default: auto)")
    parser.add_argument("--compiler-python", metavar="PYTHON", help="one that has the target's compiler")
    parser.add_argument("--price", type=float, help="of a chip for an hour, in any currency")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = flags.parse(parser, argv)
    found = _plan(options)
    print(json.dumps(found.to_json(), indent=2) if options.json else show(found))
    return OK if found.fits else MEMORY


def _plan(options: argparse.Namespace) -> Plan:
    return plan(
        options.config,
        options.target,
        options.method,
        compiler_python=options.compiler_python,
        price=options.price,
    )


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
        f"FLOPs       {found.work.model:.4g} a step, {found.work.computed:.4g} with what is computed again"
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
    energy, cost = values["energy_kwh"], values["cost"]
    return (f", {energy:,.0f} kWh" if energy else "") + (f", cost {cost:,.2f}" if cost is not None else "")


def _gb(size: float) -> str:
    return f"{size / 1e9:,.3g}"
