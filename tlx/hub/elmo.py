"""Reader of ELMo as allenai/bilm-tf released it: options as JSON, weights as HDF5, words as text.

A folder has one file each of `*options.json`, `*weights.hdf5` and `*vocab*.txt`. The rows of "char_embed" are the
characters of text/characters.py. TensorFlow's cells have their gates in the order of nn/recurrent.py, and one kernel
for what a cell reads and for its own last output, one above the other. The released weights have no softmax.
"""

import fnmatch
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tlx.base.errors import ConfigError, DataError, one_of
from tlx.hub.validation import malformed_is_one_line
from tlx.models.config import ModelConfig
from tlx.models.families.elmo import BASE
from tlx.models.families.family import replaced
from tlx.nn.characters import CharacterConfig
from tlx.nn.recurrent import RecurrentConfig
from tlx.text.characters import NUM_CHARACTERS

OPTIONS = "*options.json"
WEIGHTS = "*weights.hdf5"
VOCABULARY = "*vocab*.txt"
# Of the vocabulary's file: the id of every other word, and those of a sentence's begin and end.
UNKNOWN = "<UNK>"
BEGIN = "<S>"
END = "</S>"


def is_elmo(folder: pathlib.Path) -> bool:
    """Tell whether a folder holds weights in the released layout."""
    return any(folder.glob(OPTIONS)) and any(folder.glob(WEIGHTS))


def is_elmo_listing(names: Iterable[str]) -> bool:
    """Tell whether these are names of files in the released layout."""
    names = list(names)
    return bool(fnmatch.filter(names, OPTIONS)) and bool(fnmatch.filter(names, WEIGHTS))


def read_config(folder: pathlib.Path) -> ModelConfig:
    """Read the options of a folder as the config of a bilstm.

    Raises:
        DataError: If a file is missing, there are several, or it is no JSON.
        ConfigError: If the options describe another network.
    """
    path = _only(folder, OPTIONS)
    with malformed_is_one_line(str(path)):
        options = json.loads(path.read_text())
        lstm = options["lstm"]
        characters = options["char_cnn"]
        _check(path, characters, lstm)
        recurrent = RecurrentConfig(
            cell_dim=lstm["dim"],
            cell_clip=float(lstm.get("cell_clip") or 0.0),
            projection_clip=float(lstm.get("proj_clip") or 0.0),
            skip_connections=bool(lstm["use_skip_connections"]),
            characters=CharacterConfig(
                width=characters["embedding"]["dim"],
                filters=tuple((reach, count) for reach, count in characters["filters"]),
                num_highways=characters["n_highway"],
                max_characters=characters["max_characters_per_token"],
            ),
        )
        changes = {"width": lstm["projection_dim"], "num_layers": lstm["n_layers"], "recurrent": recurrent}
    config = replaced(BASE, {**changes, "vocab_size": 0})
    config.validate()
    return config


def read_words(folder: pathlib.Path) -> list[str]:
    """Read the words of a folder's vocabulary in the order of their ids, UNKNOWN at the end where it is missing.

    Raises:
        DataError: If a word stands twice, or the begin or the end of a sentence is missing.
    """
    path = _only(folder, VOCABULARY)
    words = path.read_text(encoding="utf-8").split("\n")
    if words and not words[-1]:
        words.pop()
    for word in (BEGIN, END):
        if word not in words:
            raise DataError(f"{path}: the word {word} is missing, with which sentences begin or end")
    if len(set(words)) != len(words):
        raise DataError(f"{path}: {len(words) - len(set(words))} lines repeat a word")
    return words if UNKNOWN in words else [*words, UNKNOWN]


def tokenizer_files(words: list[str]) -> dict[str, bytes]:
    """Return the files of a tokenizer in the format of the `tokenizers` library: words between white space."""
    special = [
        {
            "id": words.index(word),
            "content": word,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for word in (BEGIN, END, UNKNOWN)
    ]
    definition = {
        "version": "1.0",
        "added_tokens": special,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {
            "type": "WordLevel",
            "vocab": {word: index for index, word in enumerate(words)},
            "unk_token": UNKNOWN,
        },
    }
    roles = {"bos_token": BEGIN, "eos_token": END, "unk_token": UNKNOWN}
    return {
        "tokenizer.json": json.dumps(definition, ensure_ascii=False).encode(),
        "tokenizer_config.json": json.dumps(roles).encode(),
    }


def read_params(folder: pathlib.Path, config: ModelConfig) -> dict[str, Any]:
    """Read the weights of a folder.

    Args:
        folder: The folder.
        config: The config that `read_config` returns for it.

    Returns:
        {"model/...": float32 array}, all parameters of the bilstm.

    Raises:
        ConfigError: If the library h5py is missing.
        DataError: If a tensor is missing or has another shape than the options say.
    """
    try:
        import h5py
    except ImportError as error:
        raise ConfigError("weights in HDF5 need h5py: pip install 'tlx-lm[elmo]'") from error
    path = _only(folder, WEIGHTS)
    with malformed_is_one_line(str(path)), h5py.File(path, "r") as file:
        tensors = _Tensors(path, file)
        return dict(_characters(tensors, config)) | _layers(tensors, config)


class _Tensors:
    """Tensors of an open file, each checked against the shape that the options ask for."""

    def __init__(self, path: pathlib.Path, file: Any):
        self.path = path
        self.file = file

    def read(self, name: str, *shape: int) -> np.ndarray:
        """Read a tensor; DataError where it is missing or has another shape."""
        if name not in self.file:
            raise DataError(f"{self.path}: the tensor {name} is missing")
        values = np.asarray(self.file[name], np.float32)
        if values.shape != shape:
            raise DataError(f"{self.path}: {name} has the shape {values.shape}, the options say {shape}")
        return values


def _characters(tensors: _Tensors, config: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the parameters of the character encoder."""
    part = config.recurrent.characters
    size = part.num_filters
    path = "model/characters"
    yield f"{path}/table", tensors.read("char_embed", NUM_CHARACTERS, part.width)
    for i, (reach, count) in enumerate(part.filters):
        yield f"{path}/filter_{i}", tensors.read(f"CNN/W_cnn_{i}", 1, reach, part.width, count)[0]
        yield f"{path}/filter_{i}_bias", tensors.read(f"CNN/b_cnn_{i}", count)
    for i in range(part.num_highways):
        for name, theirs in (("gates", "carry"), ("changes", "transform")):
            yield f"{path}/{name}_{i}/kernel", tensors.read(f"CNN_high_{i}/W_{theirs}", size, size)
            yield f"{path}/{name}_{i}/bias", tensors.read(f"CNN_high_{i}/b_{theirs}", size)
    yield f"{path}/projection/kernel", tensors.read("CNN_proj/W_proj", size, config.width)
    yield f"{path}/projection/bias", tensors.read("CNN_proj/b_proj", config.width)


def _layers(tensors: _Tensors, config: ModelConfig) -> dict[str, np.ndarray]:
    """Return the parameters of both directions, stacked over layers."""
    width = config.width
    cells = config.recurrent.cell_dim
    params = {}
    for number, direction in enumerate(("forward", "backward")):
        parts: dict[str, list[np.ndarray]] = {"input": [], "recurrent": [], "bias": [], "projection": []}
        for layer in range(config.num_layers):
            name = f"RNN_{number}/RNN/MultiRNNCell/Cell{layer}/LSTMCell"
            kernel = tensors.read(f"{name}/W_0", 2 * width, 4 * cells).reshape(2 * width, 4, cells)
            parts["input"].append(kernel[:width])
            parts["recurrent"].append(kernel[width:])
            parts["bias"].append(tensors.read(f"{name}/B", 4 * cells).reshape(4, cells))
            parts["projection"].append(tensors.read(f"{name}/W_P_0", cells, width))
        for part, layers in parts.items():
            params[f"model/{direction}/blocks/{part}"] = np.stack(layers)
    return params


def _check(path: pathlib.Path, characters: Mapping[str, Any], lstm: Mapping[str, Any]) -> None:
    """Raise ConfigError for options of another network."""
    if characters.get("activation", "relu") != "relu":
        raise ConfigError(f"{path}: char_cnn." + one_of("activation", characters["activation"], ("relu",)))
    # One more than the rows of the table: TensorFlow's code has a row of zeros for padding in front.
    if characters.get("n_characters") not in (NUM_CHARACTERS, NUM_CHARACTERS + 1):
        raise ConfigError(
            f"{path}: char_cnn.n_characters = {characters.get('n_characters')} must be {NUM_CHARACTERS} (as it is "
            f"in training) or {NUM_CHARACTERS + 1}"
        )
    if lstm["projection_dim"] < 1:
        raise ConfigError(f"{path}: lstm.projection_dim = {lstm['projection_dim']} must be 1 or more")


def _only(folder: pathlib.Path, pattern: str) -> pathlib.Path:
    """Return the one file of a pattern; DataError where there is none or another."""
    files = sorted(folder.glob(pattern))
    if len(files) != 1:
        names = ", ".join(path.name for path in files) or "none"
        raise DataError(
            f"{folder}: one file {pattern} is needed for ELMo's released layout, there is: {names}"
        )
    return files[0]
