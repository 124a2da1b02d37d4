"""The safetensors format: tensors after a JSON header, each memory-mapped while it is read.

A file is the header's length (8 bytes, little-endian), the header {name: {dtype, shape, data_offsets}} and
the data (huggingface/safetensors, README). Larger checkpoints are several files and an index.
"""

import json
import logging
import math
import os
import pathlib
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from tlx.base.errors import DataError, shown
from tlx.base.files import atomic_open, write_json
from tlx.hub.validation import check_header, parse_object, read_object

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
}
_log = logging.getLogger(__name__)

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ITEM_BYTES = {name: dtype.itemsize for name, dtype in DTYPES.items()}
# The limit of the reference implementation; it rejects damaged lengths.
_MAX_HEADER = 100 * 2**20


class Tensors(Mapping[str, np.ndarray]):
    """The tensors of a directory by name, as read-only views of mapped files; DataError if one is damaged."""

    def __init__(self, folder: str | os.PathLike):
        folder = pathlib.Path(folder)
        self._entries: dict[str, tuple[int, dict[str, Any], pathlib.Path]] = {}
        stored_names: dict[str, str] = {}
        for path in _files(folder):
            header, data_start, num_bytes = _open(path)
            metadata = header.pop("__metadata__", None)
            stored_names |= metadata if isinstance(metadata, dict) else {}
            check_header(header, num_bytes, _ITEM_BYTES, str(path))
            for name, entry in header.items():
                if name in self._entries:
                    raise DataError(f"{path}: tensor {name!r} is in {self._entries[name][2].name} too")
                self._entries[name] = (data_start, entry, path)
        # safetensors.torch.save_model stores tied tensors once: {name without a tensor: name of the tensor}.
        for name, stored in stored_names.items():
            if isinstance(stored, str) and name not in self._entries and stored in self._entries:
                self._entries[name] = self._entries[stored]

    def __getitem__(self, name: str) -> np.ndarray:
        data_start, entry, path = self._entries[name]
        dtype = DTYPES.get(entry["dtype"])
        if dtype is None:
            raise DataError(
                f"{path}: tensor {name} has dtype {shown(entry['dtype'])}, quantised or unknown; "
                f"tlx reads {', '.join(DTYPES)}"
            )
        shape = tuple(entry["shape"])
        start, end = entry["data_offsets"]
        if start == end:  # an empty range cannot be mapped
            return np.empty(shape, dtype)
        # Mapped for each tensor anew, so that its pages leave the memory of this process with the array.
        data = np.memmap(path, np.uint8, mode="r", offset=data_start + start, shape=(end - start,))
        return np.ndarray(shape, dtype, buffer=data)

    @property
    def num_scalars(self) -> int:
        """Number of scalars of all tensors."""
        return sum(math.prod(entry["shape"]) for _, entry, _ in self._entries.values())

    @property
    def main_dtype(self) -> str:
        """The dtype of model.param_dtype that is nearest to that of most scalars, float32 or bfloat16."""
        counts = {"float32": 0, "bfloat16": 0}
        for _, entry, _ in self._entries.values():
            is_short = entry["dtype"] in ("BF16", "F8_E4M3")
            counts["bfloat16" if is_short else "float32"] += math.prod(entry["shape"])
        return "bfloat16" if counts["bfloat16"] > counts["float32"] else "float32"

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class RenamedTensors(Mapping[str, np.ndarray]):
    """Tensors under new names; `names` is {new: old}."""

    def __init__(self, tensors: Mapping[str, np.ndarray], names: Mapping[str, str]):
        self._tensors = tensors
        self._old_names = dict(names)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._tensors[self._old_names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._old_names)

    def __len__(self) -> int:
        return len(self._old_names)


def write(
    folder: str | os.PathLike, tensors: Sequence[tuple[str, Any]], shard_bytes: int = SHARD_BYTES
) -> None:
    """Write model.safetensors, or several files and their index. One tensor is in memory at a time.

    The other form of the weights is removed where an earlier call has left it.

    Args:
        folder: The directory; it is created.
        tensors: (name, tensor) in order; a tensor has `shape`, `dtype` and `read() -> array`.
        shard_bytes: Size above which a new file is started; a larger tensor has a file of its own.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[list[tuple[str, Any]]] = [[]]
    free_bytes = shard_bytes
    for name, tensor in tensors:
        size = _num_bytes(tensor)
        if shards[-1] and size > free_bytes:
            shards.append([])
            free_bytes = shard_bytes
        shards[-1].append((name, tensor))
        free_bytes -= size
    old_names = _shard_names(folder)
    if len(shards) == 1:
        write_file(folder / SINGLE, shards[0])
        # After the new file is complete, so that an interrupted call loses nothing.
        (folder / INDEX).unlink(missing_ok=True)
        _remove(folder, old_names)
        return
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_file(folder / file, shard)
        weight_map |= {name: file for name, _ in shard}
    total = sum(_num_bytes(tensor) for _, tensor in tensors)
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    _remove(folder, (old_names | {SINGLE}) - set(weight_map.values()))


def _shard_names(folder: pathlib.Path) -> set[str]:
    """Return the names of the files that an earlier call of `write` has listed in the directory's index."""
    if not (folder / INDEX).is_file():
        return set()
    names = _weight_map(folder).values()
    return {name for name in names if re.fullmatch(r"model-\d{5}-of-\d{5}\.safetensors", name)}


def _remove(folder: pathlib.Path, names: set[str]) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the safetensors files of a directory; DataError if there are none or some are missing.

    A single file wins over an index, as in transformers.
    """
    if (folder / SINGLE).is_file():
        if (folder / INDEX).is_file():
            _log.warning("%s holds %s and %s with its files: the single file is read", folder, SINGLE, INDEX)
        return [folder / SINGLE]
    if (folder / INDEX).is_file():
        files = weight_files(folder)
        missing = [name for name in files if not (folder / name).is_file()]
        if missing:
            raise DataError(f"{folder}: {', '.join(missing)} of {INDEX} is missing")
        return [folder / name for name in files]
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    if pickles:
        raise DataError(
            f"{folder} holds {pickles[0]}, a pickle, which can run any code when it is read: tlx never does. "
            "If you trust it, convert it where torch is installed:\n"
            '  python -c "from transformers import AutoModelForPreTraining as M; '
            f"M.from_pretrained('{folder}').save_pretrained('{folder}')\""
        )
    raise DataError(f"{folder} has neither {SINGLE} nor {INDEX}")


def weight_files(folder: pathlib.Path) -> list[str]:
    """Return the names of the files that the index of a directory names; DataError where it is not sound."""
    files = sorted(set(_weight_map(folder).values()))
    # An index from elsewhere must not make us read any other file of this host.
    if any(os.path.basename(name) != name for name in files):
        raise DataError(f"{folder / INDEX} names files outside the directory")
    return files


def _weight_map(folder: pathlib.Path) -> dict[str, str]:
    """Return {tensor: file} of a directory's index; DataError where it has none."""
    names = read_object(folder / INDEX).get("weight_map")
    if not isinstance(names, dict) or not names or not all(map(_is_file_name, names.values())):
        raise DataError(f"{folder / INDEX}: weight_map must name a file for each tensor")
    return names


def _is_file_name(name: Any) -> bool:
    """Return whether a value can be the name of a file: others fail in system calls, each in its own way."""
    return isinstance(name, str) and 0 < len(name) < 200 and name.isprintable()


def _open(path: pathlib.Path) -> tuple[dict[str, Any], int, int]:
    """Read a file: its header, where the data begins, and the number of its bytes."""
    size = path.stat().st_size
    with open(path, "rb") as handle:
        length = struct.unpack("<Q", handle.read(8))[0] if size >= 8 else size
        if 8 + length > size or length > _MAX_HEADER:
            raise DataError(f"{path} is not a safetensors file, or is truncated")
        header = parse_object(handle.read(length), f"{path} is not a safetensors file: its header")
    return header, 8 + length, size - 8 - length


def write_file(path: pathlib.Path, tensors: Sequence[tuple[str, Any]]) -> None:
    """Write one file; `tensors` are as in `write`."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors:
        end = offset + _num_bytes(tensor)
        dtype = _NAMES[np.dtype(tensor.dtype)]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data starts at a multiple of 8 bytes
    with atomic_open(path, "wb") as handle:
        handle.write(struct.pack("<Q", len(text)) + text)
        for _, tensor in tensors:
            handle.write(np.ascontiguousarray(tensor.read()).tobytes())


def _num_bytes(tensor: Any) -> int:
    return math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize
