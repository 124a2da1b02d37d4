"""Directories of sentence-transformers: modules.json, the pooling and normalisation that it names, prompts.

The first module is a Hugging Face directory, in the folder itself or in one of its subfolders. Pooling and
Normalize may follow; any other module is an error, for the vectors would not be the published ones.
"""

import os
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from tlx.base.errors import ConfigError, DataError
from tlx.base.files import write_json
from tlx.base.json_object import parse_object
from tlx.models.pooling import Pooling, SentenceConfig

MODULES = "modules.json"
_TRANSFORMER = "sentence_bert_config.json"
_PROMPTS = "config_sentence_transformers.json"
# Keys of 1_Pooling/config.json and the ways of pooling that they turn on, in the order of the joined vectors.
_MODES: Mapping[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def transformer_folder(folder: str | os.PathLike) -> pathlib.Path:
    """Return the Hugging Face directory in a sentence-transformers directory; the folder itself if it is none."""
    folder = pathlib.Path(folder)
    if (folder / "config.json").is_file() or not (folder / MODULES).is_file():
        return folder
    modules = _modules(folder)
    return folder / modules[0].get("path", "") if modules else folder


def read(folder: str | os.PathLike, ignore: Collection[str] = ()) -> SentenceConfig:
    """Read how a sentence-transformers directory embeds texts.

    Args:
        folder: The directory.
        ignore: With "modules.json" among them, or without that file, the default is returned.

    Returns:
        The config.

    Raises:
        ConfigError: If a module or a setting is not one that tlx has.
        DataError: If a file cannot be read.
    """
    folder = pathlib.Path(folder)
    if not (folder / MODULES).is_file() or MODULES in ignore:
        return SentenceConfig()
    changes: dict[str, Any] = {"special_tokens": True, "strip": True}
    counts_prompts = True
    for number, module in enumerate(_modules(folder)):
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        if number == 0 and kind == "Transformer":
            changes |= _read_transformer(folder / module.get("path", ""))
        elif kind == "Pooling" and "pooling" not in changes:
            path = folder / module["path"] / "config.json"
            values = _read(path)
            changes["pooling"] = _read_pooling(values, path)
            counts_prompts = values.get("include_prompt", True)
        elif kind == "Normalize" and "pooling" in changes:
            changes["normalize"] = True
        else:
            raise ConfigError(
                f"{folder / MODULES}: module {number} is {module.get('type')!r}; tlx reads a Transformer, one "
                f"Pooling after it and Normalize. Pass ignore=({MODULES!r},) (--ignore={MODULES}) to read the "
                "Transformer alone, whose vectors are others than those of this model"
            )
    if "pooling" not in changes:
        raise ConfigError(f"{folder / MODULES} has no Pooling, without which a text has no vector")
    changes |= _read_prompts(folder)
    if not counts_prompts and any(text for _, text in changes["prompts"]):
        raise ConfigError(
            f"{folder}: include_prompt = False leaves the tokens of prompts out of the vector; tlx counts them"
        )
    config = SentenceConfig(**changes)
    config.validate()
    return config


def write(folder: str | os.PathLike, config: SentenceConfig, width: int) -> None:
    """Write the files of sentence-transformers beside an exported model; nothing for the default.

    Args:
        folder: The directory that the model was written to.
        config: How texts are embedded.
        width: Size of the hidden states.

    Raises:
        ConfigError: If sentence-transformers cannot do it: it always counts special tokens.
    """
    if config == SentenceConfig():
        return
    if not config.special_tokens:
        raise ConfigError("embed.special_tokens = False: sentence-transformers counts special tokens always")
    folder = pathlib.Path(folder)
    kinds = ["Transformer", "Pooling", *(["Normalize"] if config.normalize else [])]
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, path) in enumerate(zip(kinds, paths, strict=False))
    ]
    for module in modules[1:]:
        (folder / module["path"]).mkdir(parents=True, exist_ok=True)
    pooling = {key: way in config.pooling for key, way in _MODES.items()}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **pooling})
    transformer: dict[str, Any] = {"do_lower_case": config.lower_case}
    if config.max_tokens:
        transformer["max_seq_length"] = config.max_tokens
    write_json(folder / _TRANSFORMER, transformer)
    prompts = {"prompts": dict(config.prompts), "default_prompt_name": config.default_prompt or None}
    write_json(folder / _PROMPTS, prompts)
    write_json(folder / MODULES, modules)


def module_folders(folder: pathlib.Path) -> list[str]:
    """Return the folders of a directory's modules, without that directory itself; "1_Pooling" say."""
    paths = [str(module.get("path", "")) for module in _modules(folder)]
    return [path for path in paths if path not in ("", ".")]


def _modules(folder: pathlib.Path) -> list[dict[str, Any]]:
    modules: Any = _read(folder / MODULES)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise DataError(f"{folder / MODULES} must be a list of modules")
    for module in modules:
        path = pathlib.PurePosixPath(str(module.get("path", "")))
        if path.is_absolute() or ".." in path.parts:
            raise DataError(f"{folder / MODULES}: path {module['path']!r} lies outside the directory")
    return modules


def _read_transformer(folder: pathlib.Path) -> dict[str, Any]:
    """Read the largest number of tokens and the case; both files are optional."""
    # Older releases name the file after the family: sentence_roberta_config.json.
    files = [folder / _TRANSFORMER, *sorted(folder.glob("sentence_*_config.json"))]
    existing = [path for path in files if path.is_file()]
    values = _read(existing[0]) if existing else {}
    limit = values.get("max_seq_length")
    if limit is None:
        limit = _default_limit(folder)
    return {"max_tokens": int(limit), "lower_case": bool(values.get("do_lower_case", False))}


def _default_limit(folder: pathlib.Path) -> int:
    """Return the limit where none is named: the smaller of the model's and the tokenizer's; 0 for none."""
    config = _read(folder / "config.json")
    tokenizer = folder / "tokenizer_config.json"
    named = (_read(tokenizer) if tokenizer.is_file() else {}).get("model_max_length")
    limits = [config.get("max_position_embeddings"), named]
    known = [int(limit) for limit in limits if isinstance(limit, int | float) and 0 < limit < 2**30]
    return min(known, default=0)


def _read_pooling(values: Mapping[str, Any], path: pathlib.Path) -> tuple[Pooling, ...]:
    """Return the ways of pooling that the config of a Pooling module names; `path` is its file."""
    ways: tuple[Pooling, ...]
    if "pooling_mode" in values:
        named = values["pooling_mode"]
        names = [named] if isinstance(named, str) else list(named)
        unknown = [name for name in names if name not in _MODES.values()]
        known: dict[Any, Pooling] = {way: way for way in _MODES.values()}
        ways = tuple(known[name] for name in names if name not in unknown)
    else:
        modes = {key: value for key, value in values.items() if key.startswith("pooling_mode_") and value}
        unknown = [key for key in modes if key not in _MODES]
        ways = tuple(way for key, way in _MODES.items() if key in modes)
    if unknown or not ways:
        raise ConfigError(
            f"{path}: {', '.join(unknown) or 'no way of pooling'}; tlx knows: " + ", ".join(_MODES)
        )
    return ways


def _read_prompts(folder: pathlib.Path) -> dict[str, Any]:
    values = _read(folder / _PROMPTS) if (folder / _PROMPTS).is_file() else {}
    return {
        "prompts": tuple((values.get("prompts") or {}).items()),
        "default_prompt": values.get("default_prompt_name") or "",
    }


def _read(path: pathlib.Path) -> Any:
    try:
        return parse_object(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
