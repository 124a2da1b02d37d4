"""Checks of a Hugging Face directory that comes from anybody, before anything of it is used."""

import contextlib
import math
import os
import pathlib
from collections.abc import Container, Iterator, Mapping
from typing import Any

from tlx.base import json_object
from tlx.base.errors import DataError, UserError, first_line, shown

# Largest config.json or index, in bytes. An index of 100,000 tensors has 10 million.
MAX_JSON = 64 * 2**20
# Most dims of an array in numpy.
MAX_DIMS = 64
# ALBERT's layers share their tensors: a config of one may name more layers than there are tensors.
_MOST_SHARED_LAYERS = 1024
# Sizes that no tensor bounds: positions that are computed, windows, vocabularies.
_LARGEST_SIZE = 2**24
_MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def check_links(folder: pathlib.Path) -> None:
    """Raise DataError where a link in a directory, or directly below it, leads out, or it is no directory.

    A snapshot in the cache of huggingface_hub (models--NAME/snapshots/REVISION) links to the blobs of its own
    repository, which belong to it.
    """
    roots = [pathlib.Path(os.path.realpath(folder))]
    if folder.absolute().parent.name == "snapshots":
        roots.append(pathlib.Path(os.path.realpath(folder.absolute().parents[1])) / "blobs")
    if not folder.is_dir():
        raise DataError(f"{folder} is not there, or is no directory; give a Hugging Face directory")
    for entry in os.scandir(folder):
        entries = [entry]
        if entry.is_dir(follow_symlinks=False):
            entries += os.scandir(entry.path)
        for inner in entries:
            target = pathlib.Path(os.path.realpath(inner.path))
            if inner.is_symlink() and not any(target.is_relative_to(root) for root in roots):
                raise DataError(
                    f"{inner.path} is a link that leads out of the directory, to {target}: a file from elsewhere may "
                    "name any file of this machine; copy what it links to in its place if you trust it"
                )


def read_object(path: pathlib.Path) -> dict[str, Any]:
    """Read a file that holds one JSON object. Raises DataError where it does not, or cannot be read."""
    try:
        size = path.stat().st_size
        if size > MAX_JSON:
            raise DataError(f"{path} has {size:,} bytes of JSON, more than {MAX_JSON:,}")
        return parse_object(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def parse_object(data: bytes, what: str) -> dict[str, Any]:
    """Parse one JSON object, in which no key stands twice.

    Args:
        data: UTF-8 JSON.
        what: What it is, for the message.

    Returns:
        The object.

    Raises:
        DataError: It is no JSON, no object, nested too deeply, or names a key twice.
    """
    try:
        value = json_object.parse_object(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{what} is not usable JSON: {type(error).__name__}: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{what} holds {shown(value)}, and must hold an object")
    return value


def check_header(header: Mapping[str, Any], num_bytes: int, item_bytes: Mapping[str, int], what: str) -> None:
    """Check the header of a safetensors file by the rules of the format.

    Args:
        header: {name: {dtype, shape, data_offsets}}, without the metadata.
        num_bytes: Size of the data after the header.
        item_bytes: Bytes of a scalar by dtype; tensors of other dtypes are refused where they are read.
        what: Path of the file, for the message.

    Raises:
        DataError: An entry is malformed, does not lie within the file, or tensors overlap or leave gaps.
    """
    ranges = []
    for name, entry in header.items():
        shape, offsets, dtype = _entry(entry)
        if shape is None or offsets is None or dtype is None:
            raise DataError(f"{what}: the header's entry of tensor {name!r} is malformed: {shown(entry)}")
        start, end = offsets
        size = math.prod(shape) * item_bytes[dtype] if dtype in item_bytes else end - start
        if not start <= end <= num_bytes or end - start != size:
            raise DataError(
                f"{what}: tensor {name} {tuple(shape)} does not lie within the file: it is truncated"
            )
        ranges.append((start, end, name))
    last = 0
    for start, end, name in sorted(ranges):
        if start != last:
            how = "overlaps another tensor" if start < last else "begins after a gap"
            raise DataError(f"{what}: tensor {name!r} {how} (data_offsets {start} to {end})")
        last = end
    if last != num_bytes:
        raise DataError(f"{what}: {num_bytes - last:,} bytes at its end belong to no tensor")


def _entry(entry: Any) -> tuple[list[int] | None, list[int] | None, str | None]:
    """Return (shape, offsets, dtype) of a header's entry, None for each that is malformed."""
    if not isinstance(entry, dict):
        return None, None, None
    dtype = entry.get("dtype")
    return (
        _sizes(entry.get("shape"), range(MAX_DIMS + 1)),
        _sizes(entry.get("data_offsets"), (2,)),
        dtype if isinstance(dtype, str) else None,
    )


def _sizes(value: Any, lengths: Container[int]) -> list[int] | None:
    """Return a list of sizes; None where it is none, or has not one of these lengths."""
    if not isinstance(value, list) or len(value) not in lengths:
        return None
    return value if all(type(item) is int and 0 <= item < 2**63 for item in value) else None


def check_sizes(values: Mapping[str, Any], num_tensors: int, num_scalars: int, what: str) -> None:
    """Check that a model's config is no larger than the files it comes with, before anything is built from it.

    Args:
        values: The model config, flattened.
        num_tensors: Number of tensors in the files.
        num_scalars: Number of their scalars.
        what: Path of config.json, for the message.

    Raises:
        DataError: A number is larger than any model of these files can have, or no norm can have its eps.
    """
    # Every layer has a tensor of its own, but for models whose layers share them.
    num_layers = max(num_tensors, _MOST_SHARED_LAYERS)
    limits: dict[str, int] = {"num_layers": num_layers, "num_decoder_layers": num_layers}
    for name, value in values.items():
        limit = limits.get(name, max(num_scalars, _LARGEST_SIZE))
        if isinstance(value, int) and abs(value) > limit:
            raise DataError(
                f"{what}: model.{name} = {value} is more than its files can hold: {num_tensors} tensors with "
                f"{num_scalars:,} scalars"
            )
        if name.rpartition(".")[2].endswith("eps") and isinstance(value, float) and not 0 <= value < 1:
            raise DataError(f"{what}: model.{name} = {value} must be at least 0 and less than 1")


@contextlib.contextmanager
def malformed_is_one_line(what: str) -> Iterator[None]:
    """Raise DataError, one line, for an error of code that takes the shape of a file's values for granted.

    The keys of 40 families are converted by as many functions; a null, a list or a number where one expects a text
    fails in its own way in each.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        # The tokenizers library raises Exception itself, and pyo3's panics are no Exception.
        from_rust = type(error) is Exception or type(error).__name__ == "PanicException"
        if not from_rust and not isinstance(error, _MALFORMED):
            raise
        first = first_line(error)
        raise DataError(f"{what} cannot be used: {type(error).__name__}: {shown(first)}") from error
