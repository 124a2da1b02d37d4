"""Suggestions for a path that does not exist: the nearest names, and the folder that it is relative to."""

import difflib
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable

_LARGEST_FOLDER = 2000
_SHOWN = 3


def suggest_paths(
    path: str | os.PathLike,
    accept: Callable[[pathlib.Path], bool] | None = None,
    others: Iterable[str] = (),
) -> str:
    """Return the end of a message about a path that does not exist.

    Args:
        path: the path.
        accept: whether an existing path could have been meant; None accepts all.
        others: other values that could have been given, such as names of packaged configs.

    Returns:
        "the nearest: A, B; the current folder is F".
    """
    path = pathlib.Path(path)
    near = list(dict.fromkeys([*_neighbours(path, accept), *others]))
    near = difflib.get_close_matches(str(path), near, n=_SHOWN, cutoff=0.6) or near[:_SHOWN]
    folder = os.getcwd() + os.sep
    shown = f"the nearest: {', '.join(one.removeprefix(folder) for one in near)}; " if near else ""
    return f"{shown}the current folder is {os.getcwd()}"


def _neighbours(path: pathlib.Path, accept: Callable[[pathlib.Path], bool] | None) -> list[str]:
    """Return existing paths beside the first part of `path` that does not exist, the nearest names first."""
    missing = path
    while missing.parent != missing and not missing.parent.is_dir():
        missing = missing.parent
    try:
        with os.scandir(missing.parent) as entries:
            names = [entry.name for entry in itertools.islice(entries, _LARGEST_FOLDER)]
    except OSError:
        return []
    close = difflib.get_close_matches(missing.name, sorted(names), n=20, cutoff=0.5)
    paths = [missing.parent / name for name in close]
    if missing != path:
        # A folder was misspelt: what it should hold may be in the one that was meant.
        inside = [one / path.relative_to(missing) for one in paths]
        paths = [one for one in inside if one.exists()] + paths
        return [str(one) for one in paths if accept is None or one.is_dir() or accept(one)]
    return [str(one) for one in paths if accept is None or accept(one)]
