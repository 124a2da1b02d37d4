"""The folder of public scaling-law tables: $TLX_SHARED_DATA/scaling, or shared/data beside the checkout."""

import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def table(name: str, folder: str = "scaling") -> pathlib.Path:
    """Path of a table; skips the test where the folder is absent."""
    data = pathlib.Path(os.environ.get("TLX_SHARED_DATA") or ROOT.parent / "shared" / "data")
    path = data / folder / name
    if not path.exists():
        pytest.skip(f"no {path}: set TLX_SHARED_DATA to the folder with {folder}/{name}")
    return path
