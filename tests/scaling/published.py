"""Public scaling-law tables in the folder of shared data."""

import pathlib

import pytest

from tests.shared_data import SHARED_DATA

ROOT = pathlib.Path(__file__).parents[2]


def table(name: str, folder: str = "scaling") -> pathlib.Path:
    """Path of a table; skips the test where the folder is absent."""
    path = SHARED_DATA / folder / name
    if not path.exists():
        pytest.skip(f"no {path}: set TLX_SHARED_DATA to the folder with {folder}/{name}")
    return path
