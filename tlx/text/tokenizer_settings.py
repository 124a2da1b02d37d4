"""Settings of tokenizer_config.json that count over tokenizer.json, as they do in transformers.

transformers builds the tokenizers of its named classes anew from these settings. A generic class
(PreTrainedTokenizerFast), and a family whose files are known to name a wrong class, keep tokenizer.json as it is.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from tlx.base.errors import ConfigError

_GENERIC = ("PreTrainedTokenizerFast", "PreTrainedTokenizer", "TokenizersBackend")
# Families whose tokenizer.json is used as it is, whatever class their files name.
_KEEP_FILE = ("mistral", "mixtral", "modernbert", "phi3")
_LOWER_AFTER_NAMES = ("AlbertTokenizer", "XLNetTokenizer", "DebertaV2Tokenizer", "RemBertTokenizer")
_FLAGS = ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space", "legacy")
_SPACE = "\u2581"

Visit = Callable[[dict[str, Any]], None]


def stated(settings: Mapping[str, Any], model_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that change tokenizer.json, with the class that they are of.

    Args:
        settings: Contents of tokenizer_config.json.
        model_config: Contents of the config.json beside it; {} where there is none.

    Returns:
        {"class": name without "Fast", flag: value}; {} where tokenizer.json is kept as it is.

    Raises:
        ConfigError: A flag is neither true, false nor null.
    """
    name = settings.get("tokenizer_class") or model_config.get("tokenizer_class") or ""
    model_type = model_config.get("model_type", "")
    if name in _GENERIC or model_type in _KEEP_FILE:
        return {}
    if not name and model_type == "llama":
        name = "LlamaTokenizer"
    flags = {key: settings[key] for key in _FLAGS if settings.get(key) is not None}
    for key, value in flags.items():
        if not isinstance(value, bool):
            raise ConfigError(f"tokenizer_config.json: {key} = {value!r} must be true or false")
    return {"class": name.removesuffix("Fast"), **flags} if flags else {}


def obeyed(definition: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the contents of a tokenizer.json, changed as `stated` settings ask.

    Args:
        definition: Contents of tokenizer.json.
        flags: What `stated` returned.

    Returns:
        A changed copy, equal to the original where it agrees with the settings.
    """
    changed = json.loads(json.dumps(definition))
    name = flags.get("class", "")
    if name == "OpenAIGPTTokenizer":
        return changed  # its class always lowers case
    _set_normalizer(changed, flags)
    if "add_prefix_space" in flags:
        for part in ("pre_tokenizer", "post_processor"):
            _visit(changed.get(part), "ByteLevel", _setter("add_prefix_space", flags["add_prefix_space"]))
    if name == "LlamaTokenizer" and '"ByteLevel"' not in json.dumps(definition.get("pre_tokenizer")):
        _set_prefix_of_llama(changed, flags)
    elif name in ("AlbertTokenizer", "DebertaV2Tokenizer") and "add_prefix_space" in flags:
        without = "never" if name == "AlbertTokenizer" else "first"
        scheme = "always" if flags["add_prefix_space"] else without
        for part in ("pre_tokenizer", "decoder"):
            _visit(changed.get(part), "Metaspace", _setter("prepend_scheme", scheme))
    return changed


def _set_normalizer(definition: dict[str, Any], flags: Mapping[str, Any]) -> None:
    """Set the flags of BERT's normalizer, or add and remove the lowering of case of others."""
    keys = {
        "do_lower_case": "lowercase",
        "strip_accents": "strip_accents",
        "tokenize_chinese_chars": "handle_chinese_chars",
    }
    for flag, key in keys.items():
        if flag in flags:
            _visit(definition.get("normalizer"), "BertNormalizer", _setter(key, flags[flag]))
    if "do_lower_case" not in flags or flags.get("class") not in _LOWER_AFTER_NAMES:
        return
    normalizer = definition.get("normalizer")
    if normalizer is None:
        steps = []
    else:
        steps = normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
    lowers = [step for step in steps if step["type"] == "Lowercase"]
    if flags["do_lower_case"] == bool(lowers):
        return
    steps = [step for step in steps if step["type"] != "Lowercase"]
    if flags["do_lower_case"]:
        # Before the model's own map of characters, and after accents are gone.
        later = ("Precompiled", "Replace", "NFC", "Strip")
        position = len(steps)
        while position and steps[position - 1]["type"] in later and not _replaces_quotes(steps[position - 1]):
            position -= 1
        steps.insert(position, {"type": "Lowercase"})
    definition["normalizer"] = {"type": "Sequence", "normalizers": steps} if steps else None


def _replaces_quotes(step: Mapping[str, Any]) -> bool:
    """Whether a normalizer is one of the first two of ALBERT and XLNet, before which case is not lowered."""
    return step["type"] == "Replace" and step.get("pattern") in ({"String": "``"}, {"String": "''"})


def _set_prefix_of_llama(definition: dict[str, Any], flags: Mapping[str, Any]) -> None:
    """Set where a space is put before a text: before each part between special ids, the first only, or none.

    The oldest files put it there by a normalizer, which knows no "first".
    """
    if "legacy" not in flags and "add_prefix_space" not in flags:
        return
    adds = flags.get("add_prefix_space", True)
    scheme = ("always" if flags.get("legacy", False) else "first") if adds else "never"
    metaspace = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": scheme, "split": False}
    steps = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if adds:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    definition["normalizer"] = None
    definition["pre_tokenizer"] = metaspace
    definition["decoder"] = {"type": "Sequence", "decoders": steps}


def _setter(key: str, value: Any) -> Visit:
    """Return a function that sets one key of a component."""

    def set_key(component: dict[str, Any]) -> None:
        component[key] = value

    return set_key


def _visit(component: Any, kind: str, visit: Visit) -> None:
    """Call `visit` on every component of a type, in sequences too."""
    if not isinstance(component, dict):
        return
    if component.get("type") == kind:
        visit(component)
    for name in ("normalizers", "pretokenizers", "decoders", "processors"):
        for part in component.get(name) or ():
            _visit(part, kind, visit)
