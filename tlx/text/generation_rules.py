"""Rules of generation that a model's own files state: generation_config.json, or such keys of its config.json.

The rules are about ids of the vocabulary, so the file is kept with the tokenizer: it comes with it into a run, into
runs that are tuned from that one, and back out on export.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from tlx.base.errors import ConfigError, DataError
from tlx.text.tokenizer import Tokenizer

FILE = "generation_config.json"
_IDS = ("eos_token_id", "pad_token_id", "bos_token_id", "decoder_start_token_id")
_RULES = (
    "bad_words_ids", "suppress_tokens", "forced_bos_token_id", "forced_eos_token_id", "min_length",
    "min_new_tokens", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
)  # fmt: skip
# Defaults of an author's program that are arguments of tlx, with the value that changes nothing.
_ARGUMENTS: dict[str, float] = {"num_beams": 1, "length_penalty": 1.0, "repetition_penalty": 1.0}
_SAMPLING_ARGUMENTS: dict[str, float] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
# Keys that change the text and that tlx has no equivalent of, with the value that changes nothing.
_NOT_OBEYED: dict[str, Any] = {
    "begin_suppress_tokens": None,
    "constraints": None,
    "diversity_penalty": 0.0,
    "dola_layers": None,
    "early_stopping": False,
    "encoder_repetition_penalty": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "exponential_decay_length_penalty": None,
    "force_words_ids": None,
    "forced_decoder_ids": None,
    "guidance_scale": 1,
    "max_time": None,
    "num_beam_groups": 1,
    "penalty_alpha": 0,
    "sequence_bias": None,
    "stop_strings": None,
    "token_healing": False,
    "top_h": None,
    "typical_p": 1.0,
    "watermarking_config": None,
}


@dataclasses.dataclass(frozen=True)
class GenerationRules:
    """Constraints on generated ids. The default is none."""

    ends: tuple[int, ...] = ()
    """Ids that end a text; () stands for the vocabulary's eos."""
    banned: tuple[int, ...] = ()
    """Ids that are never generated."""
    banned_sequences: tuple[tuple[int, ...], ...] = ()
    """Sequences of two or more ids that are never completed."""
    first: int | None = None
    """Id that must come after a prompt of one id (a decoder's start); None: any."""
    last: tuple[int, ...] = ()
    """Ids of which one must be the last of max_tokens; (): any."""
    min_length: int = 0
    """Smallest number of ids before an end, the prompt's included; 0: no limit."""
    min_new_tokens: int = 0
    """Smallest number of new ids before an end; 0: no limit."""
    no_repeat_ngram: int = 0
    """Length n of the runs of ids that may not occur twice in a text, its prompt included; 0: any may."""
    encoder_no_repeat_ngram: int = 0
    """Length n of the runs of the encoder's input that may not occur in the text; 0: any may."""

    def of_vocabulary(self) -> "GenerationRules":
        """Return the rules that hold for any text of the vocabulary: ends and banned ids.

        The others (lengths, repetition, forced ids) are for the task that a model was published for.
        """
        return GenerationRules(self.ends, self.banned, self.banned_sequences)

    def ending_with(self, end: int) -> "GenerationRules":
        """Return the same rules with another id that ends a text, before those of the files."""
        return dataclasses.replace(self, ends=tuple(dict.fromkeys((end, *self.ends))))


def read_file(folder: pathlib.Path, model_config: Mapping[str, Any]) -> dict[str, bytes]:
    """Return {name: content} of generation_config.json in a Hugging Face directory, or of its keys in config.json.

    As in transformers, keys of config.json count only where there is no generation_config.json. {} where neither
    says how text is generated.

    Raises:
        DataError: The file is not a JSON object.
    """
    path = folder / FILE
    if path.is_file():
        content = path.read_bytes()
        _parse(content, str(path))
        return {FILE: content}
    known = {*_IDS, *_RULES, *_ARGUMENTS, *_SAMPLING_ARGUMENTS, *_NOT_OBEYED, "do_sample", "max_length"}
    values = {key: value for key, value in model_config.items() if key in known and value is not None}
    return {FILE: json.dumps(values, indent=2).encode()} if {"eos_token_id", *_RULES} & set(values) else {}


def values_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the generation_config.json that was imported with a tokenizer; {} where there is none."""
    content = getattr(tokenizer, "files", {}).get(FILE, b"{}")
    return _parse(content, FILE)


def rules_of(tokenizer: Tokenizer) -> GenerationRules:
    """Return the rules that were imported with a tokenizer. Raises ConfigError for an illegal value."""
    return parse_rules(values_of(tokenizer), tokenizer.vocab.size)


def parse_rules(values: Mapping[str, Any], vocab_size: int) -> GenerationRules:
    """Convert the contents of a generation_config.json; ids outside the vocabulary are never generated anyway.

    Raises:
        ConfigError: A value is not of the type that its key has; names the key.
    """

    def ids(key: str) -> tuple[int, ...]:
        value = values.get(key)
        listed = value if isinstance(value, list) else [] if value is None else [value]
        return tuple(index for index in _checked_ids(key, listed) if 0 <= index < vocab_size)

    def size(key: str) -> int:
        (value,) = _checked_ids(key, [values.get(key) or 0])
        return max(0, value)

    ends = ids("eos_token_id")
    banned = set(ids("suppress_tokens"))
    sequences = []
    for word in values.get("bad_words_ids") or ():
        if not isinstance(word, list) or not word:
            raise ConfigError(f"{FILE}: bad_words_ids holds {word!r}; its items must be lists of ids")
        tokens = _checked_ids("bad_words_ids", word)
        if len(tokens) > 1 and all(0 <= index < vocab_size for index in tokens):
            sequences.append(tokens)
        elif len(tokens) == 1 and tokens[0] not in ends:
            banned |= set(tokens)
    first = ids("forced_bos_token_id")
    return GenerationRules(
        ends=tuple(dict.fromkeys(ends)),
        banned=tuple(sorted(index for index in banned if 0 <= index < vocab_size)),
        banned_sequences=tuple(sequences),
        first=first[0] if first else None,
        last=ids("forced_eos_token_id"),
        min_length=size("min_length"),
        min_new_tokens=size("min_new_tokens"),
        no_repeat_ngram=size("no_repeat_ngram_size"),
        encoder_no_repeat_ngram=size("encoder_no_repeat_ngram_size"),
    )


def unused_message(values: Mapping[str, Any]) -> str:
    """Return one line that names the keys of a generation_config.json that tlx does not obey; "" for none."""
    arguments = _ARGUMENTS | (_SAMPLING_ARGUMENTS if values.get("do_sample") else {})
    to_pass = _different(values, arguments)
    unknown = _different(values, _NOT_OBEYED)
    parts = []
    if to_pass:
        parts.append(
            f"its defaults {', '.join(to_pass)} are not taken over: pass them as arguments if wanted"
        )
    if unknown:
        parts.append(f"{', '.join(unknown)} cannot be obeyed")
    return f"{FILE}: " + "; ".join(parts) if parts else ""


def _different(values: Mapping[str, Any], neutral: Mapping[str, Any]) -> list[str]:
    """Return "key = value" of the keys whose value has an effect."""
    items = ((key, values.get(key), unchanged) for key, unchanged in neutral.items())
    return [f"{key} = {value!r}" for key, value, unchanged in items if value not in (None, unchanged, [])]


def _checked_ids(key: str, values: Iterable[Any]) -> tuple[int, ...]:
    checked = tuple(values)
    for value in checked:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ConfigError(f"{FILE}: {key} holds {value!r}, which must be a whole number")
    return checked


def _parse(content: bytes, name: str) -> dict[str, Any]:
    try:
        values = json.loads(content)
    except ValueError as error:
        raise DataError(f"cannot read {name}: {error}") from error
    if not isinstance(values, dict):
        raise DataError(f"{name} must be a JSON object, not {type(values).__name__}")
    return values
