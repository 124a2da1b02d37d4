"""Print the resolved configuration, how it differs from another, or what a key of it means.

tlx config --config=configs/quickstart.py:mlm --config.model.width=256
tlx config --config=quickstart:mlm --diff=quickstart:clm
tlx config --config=quickstart --diff=runs/quickstart
tlx config --explain optimizer.learning_rate           meaning, type, legal values and default
tlx config --explain model.position                    the same of every key of a group
tlx config --explain objective --config=quickstart:mlm     of one objective, with the values of a config
"""

import json
import os
from typing import Any

from tlx.base import place as places
from tlx.cli import flags


def main(argv: list[str]) -> int:
    """Run `tlx config`: one "key = value" a line, or a table of differences; exit 64 for a wrong config."""
    parser = flags.parser("config", __doc__)
    flags.add_config(parser, required=False)
    parser.add_argument(
        "--explain",
        nargs="?",
        const="",
        metavar="KEY",
        help="explain a key or a group; without KEY list all groups",
    )
    parser.add_argument("--diff", metavar="OTHER", help="another config, or a run directory")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = flags.parse(parser, argv)
    if options.explain is not None:
        from tlx.cli import explanations

        print(explanations.explain(options.explain, options.config))
        return 0
    if options.config is None:
        parser.error("the following arguments are required: --config (or --explain KEY)")
    # After the parser: these load jax, which --help does not wait for.
    from tlx.base.config import flatten, to_dict
    from tlx.launch.secrets import redacted
    from tlx.run.checks import resolve

    config = redacted(to_dict(resolve(options.config, allow=None)), os.environ)
    if options.diff is not None:
        _print_diff(redacted(_read_other(options.diff), os.environ), config, options.json)
    elif options.json:
        print(json.dumps(config, indent=2))
    else:
        print("\n".join(f"{key} = {value!r}" for key, value in flatten(config).items()))
    return 0


def _read_other(name: str) -> dict[str, Any]:
    """Return the config of a run directory, or the resolved config of a name as --config takes it."""
    from tlx.base import config_files
    from tlx.base.config import to_dict
    from tlx.run.checks import resolve
    from tlx.training import directory

    path = places.parse(name)
    run = directory.read_run(path) if path.is_dir() else None
    if run is not None:
        return run["config"]
    return to_dict(resolve(config_files.load_config(name), allow=None))


def _print_diff(other: dict[str, Any], config: dict[str, Any], as_json: bool) -> None:
    from tlx.training import directory

    changes = directory.changes(other, config)
    if as_json:
        values = {change.key: {"other": change.old, "this": change.new} for change in changes}
        print(json.dumps(values, indent=2))
        return
    if not changes:
        print("no difference")
        return
    rows = [("key", "other", "this")]
    rows += [(change.key, repr(change.old), repr(change.new)) for change in changes]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
