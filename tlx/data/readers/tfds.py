"""Records that TensorFlow Datasets has prepared, read by index without TensorFlow."""

import functools
import importlib
import re
from types import ModuleType
from typing import Any

import numpy as np

from tlx.base.errors import DataError
from tlx.data.readers.record import Record

PREFIX = "tfds:"


@functools.lru_cache(maxsize=4)
def read_tfds(name: str, split: str, data_dir: str, field: str) -> tuple[Record, ...]:
    """The records of a split. Texts are str, classes the names that the data set has for them, sequences
    lists, and other numbers as they are. data_dir "": where TFDS has its data sets."""
    title = f"{PREFIX}{name}::{split}"
    if not split:
        raise DataError(f"{field} = {title!r} names no split: write {PREFIX}{name}::train")
    tfds = library(field)
    where = {"name": spelled(name), "data_dir": data_dir or None}
    try:
        source = tfds.data_source(split=split, **where)
        builder = tfds.builder(**where)
        features, size = builder.info.features, builder.info.splits[split].num_examples
        found = tuple(
            Record(
                f"{title} record {index}", {key: _plain(value, features[key]) for key, value in row.items()}
            )
            for index, row in enumerate(source)
        )
    except Exception as error:  # TFDS raises some twenty classes, most of them its own
        raise DataError(f"{field}: {title} cannot be read: {error}") from error
    if len(found) != size:  # TFDS 4.9 ignores the slice where files are parquet
        raise DataError(
            f"{field}: {title} should have {size} records but TFDS reads {len(found)}: it cannot slice this "
            "file format; prepare the data as array_record, or name whole splits"
        )
    return found


def library(what: str) -> ModuleType:
    """TFDS; DataError saying what to install where it is missing."""
    try:
        return importlib.import_module("tensorflow_datasets")
    except ImportError as error:
        raise DataError(
            f"{what} needs the package tensorflow-datasets ({error}); "
            "install it with: pip install 'tlx-lm[tfds]'"
        ) from error


def spelled(name: str) -> str:
    """TFDS's spelling of "name:config"; a version behind the colon stays one."""
    base, colon, rest = name.partition(":")
    if not colon or "/" in base or re.fullmatch(r"(\d+|\*)(\.(\d+|\*)){0,2}", rest):
        return name
    return f"{base}/{rest}"


def _plain(value: Any, feature: Any) -> Any:
    names = getattr(feature, "names", None)
    if names and np.ndim(value) == 0:
        return names[int(value)] if int(value) >= 0 else None  # -1: not known
    inner = getattr(feature, "feature", None)
    if isinstance(value, dict):
        return {key: _plain(item, feature[key]) for key, item in value.items()}
    if isinstance(value, list | tuple) or np.ndim(value):
        return [_plain(item, inner) for item in value]
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value
