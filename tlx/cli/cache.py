"""Show what the cache folder holds, or remove it: everything in it is built again when it is needed.

    tlx cache                            tokenizers, token caches, compiled programs: size and last use of each
    tlx cache clean                      remove all of them
    tlx cache clean --unused-for=30      remove those that were not used for 30 days

The folder is $TLX_CACHE, else $XDG_CACHE_HOME/tlx, else ~/.cache/tlx. Run directories do not need it: they hold
their own tokenizer. A run that trains keeps the files that it has open.
"""

import argparse
import math
import time
from typing import TYPE_CHECKING

from tlx.base.errors import ConfigError
from tlx.base.files import cache_folder
from tlx.cli import flags

if TYPE_CHECKING:
    from tlx.data.cached import CacheEntry

_DAY = 86_400.0


def main(argv: list[str]) -> int:
    """Run `tlx cache`: exit 64 for wrong flags, 73 where a folder cannot be removed."""
    options = flags.parse(_parser(), argv)
    days = options.unused_for
    if days is not None and options.action != "clean":
        raise ConfigError(f"--unused-for={days:g} is for `tlx cache clean`")
    if days is not None and not (days >= 0 and math.isfinite(days)):
        raise ConfigError(f"--unused-for={days:g} must be a number of days, 0 or more")
    # After the parser: this loads numpy, which --help does not wait for.
    from tlx.data.cached import cache_entries, remove_entry

    folder = cache_folder()
    entries = cache_entries(folder)
    total = sum(entry.num_bytes for entry in entries)
    if options.action == "show":
        for entry in entries:
            print(_line(entry))
        print(f"{folder}: {_size(total)} in {len(entries)} folders; `tlx cache clean` removes them")
        return 0
    latest = time.time() - (days or 0.0) * _DAY
    removed = []
    for entry in entries:
        if entry.used > latest:
            continue
        if remove_entry(entry):
            removed.append(entry)
        else:
            print(f"left: {entry.folder} is being built by another process")
    freed = sum(entry.num_bytes for entry in removed)
    print(f"{folder}: removed {_size(freed)} in {len(removed)} folders, {_size(total - freed)} left")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = flags.parser("cache", __doc__)
    parser.add_argument(
        "action", nargs="?", choices=("show", "clean"), default="show", help="list (the default), or remove"
    )
    parser.add_argument(
        "--unused-for", type=float, metavar="DAYS", help="clean: only what was not used for so many days"
    )
    return parser


def _line(entry: "CacheEntry") -> str:
    days = (time.time() - entry.used) / _DAY
    used = "today" if days < 1 else f"{days:.0f} days ago"
    size = _size(entry.num_bytes)
    return f"{entry.kind:10}  {size:>10}  used {used:13}  {entry.folder.name}  {entry.about}".rstrip()


def _size(num_bytes: int) -> str:
    if num_bytes < 1e9:
        return f"{num_bytes / 1e6:,.1f} MB"
    return f"{num_bytes / 1e9:,.2f} GB"
