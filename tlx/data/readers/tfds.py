"""Reader of data sets prepared by TensorFlow Datasets, without TensorFlow."""

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
    """Read the records of a split.

    Texts become str, class labels their names in the data set, sequences lists; other numbers stay.

    Args:
        name: Name of the data set, "name" or "name:config".
        split: Name of the split, with TFDS's slices.
        data_dir: Folder of the prepared data sets; "": the default folder of TFDS.
        field: Config key that names the data set, for messages.

    Returns:
        The records.

    Raises:
        DataError: TFDS is not installed, or the split cannot be read.
    """
    title = f"{PREFIX}{name}::{split}"
    if not split:
        raise DataError(f"{field} = {title!r} names no split: write {PREFIX}{name}::train")
    tfds = import_tfds(field)
    # TFDS takes None, and not an empty text, for its default folder.
    folder = data_dir or None
    try:
        source = tfds.data_source(name=tfds_name(name), data_dir=folder, split=split)
        builder = tfds.builder(name=tfds_name(name), data_dir=folder)
        features = builder.info.features
        size = builder.info.splits[split].num_examples
        records = []
        for index, row in enumerate(source):
            values = {key: _plain(value, features[key]) for key, value in row.items()}
            records.append(Record(f"{title} record {index}", values))
    except Exception as error:  # TFDS raises some twenty classes, most of them its own
        raise DataError(f"{field}: {title} cannot be read: {error}") from error
    if len(records) != size:  # TFDS 4.9 ignores the slice where files are parquet
        raise DataError(
            f"{field}: {title} should have {size} records but TFDS reads {len(records)}: it cannot slice this "
            "file format; prepare the data as array_record, or name whole splits"
        )
    return tuple(records)


def import_tfds(field: str) -> ModuleType:
    """Import TFDS for the config key `field`. Raises DataError saying how to install it."""
    try:
        return importlib.import_module("tensorflow_datasets")
    except ImportError as error:
        raise DataError(
            f"{field} needs the package tensorflow-datasets ({error}); "
            "install it with: pip install 'tlx-lm[tfds]'"
        ) from error


def tfds_name(name: str) -> str:
    """Return TFDS's spelling "name/config" of "name:config"; a version after the colon is left as it is."""
    base, colon, config = name.partition(":")
    if not colon or "/" in base or re.fullmatch(r"(\d+|\*)(\.(\d+|\*)){0,2}", config):
        return name
    return f"{base}/{config}"


def _plain(value: Any, feature: Any) -> Any:
    """Value of a feature as plain Python types."""
    names = getattr(feature, "names", None)
    if names and np.ndim(value) == 0:
        return names[int(value)] if int(value) >= 0 else None  # -1: unlabelled
    inner = getattr(feature, "feature", None)
    if isinstance(value, dict):
        return {key: _plain(item, feature[key]) for key, item in value.items()}
    if isinstance(value, list | tuple) or np.ndim(value):
        return [_plain(item, inner) for item in value]
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value
