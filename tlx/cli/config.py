"""Print the resolved configuration, or how it differs from another.

tlx config --config=configs/quickstart.py:mlm --config.model.width=256
tlx config --config=quickstart:mlm --diff=quickstart:clm
tlx config --config=quickstart --diff=runs/quickstart
"""

import json
import pathlib

from tlx.base.config import flatten, to_dict
from tlx.cli import flags
from tlx.run.checks import resolve
from tlx.training import directory


def main(argv: list[str]) -> int:
    """`tlx config`: one "key = value" a line, or a table of differences; exit 64 for a wrong config."""
    parser = flags.parser("config", __doc__)
    flags.add_config(parser)
    parser.add_argument("--diff", metavar="OTHER", help="another config, or a run's directory")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = flags.parse(parser, argv)
    config = to_dict(resolve(options.config))
    if options.diff is not None:
        _print_diff(_other(options.diff), config, options.json)
    elif options.json:
        print(json.dumps(config, indent=2))
    else:
        print("\n".join(f"{key} = {value!r}" for key, value in flatten(config).items()))
    return 0


def _other(name: str) -> dict:
    run = directory.read_run(pathlib.Path(name)) if pathlib.Path(name).is_dir() else None
    return run["config"] if run is not None else to_dict(resolve(flags.load_config(name)))


def _print_diff(other: dict, config: dict, as_json: bool) -> None:
    found = directory.changes(other, config)
    if as_json:
        print(
            json.dumps({change.key: {"other": change.old, "this": change.new} for change in found}, indent=2)
        )
        return
    rows = [("key", "other", "this"), *((c.key, repr(c.old), repr(c.new)) for c in found)]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows if found else [("no difference", "", "")]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
