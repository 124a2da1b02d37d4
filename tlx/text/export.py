"""Vocabularies that tlx made, as the tokenizer.json of the `tokenizers` library: the same ids for any text.

The one difference: the names of special ids ("<pad>") are text to tlx, and ids to those who load the files.
"""

import importlib
import json
import os
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tlx.base.errors import ConfigError
from tlx.base.files import atomic_open
from tlx.text.vocabulary import SPECIAL_PIECES, Vocabulary

ROLES = ("pad", "unk", "bos", "eos", "mask", "cls", "sep")
NEWLINE = "\n"


def library() -> Any:
    """The `tokenizers` package. ConfigError saying how to install it."""
    try:
        return importlib.import_module("tokenizers")
    except ModuleNotFoundError as error:
        raise ConfigError("tokenizer.json needs the extra hf: pip install 'tlx-lm[hf]'") from error


def byte_letters() -> list[str]:
    """The letter of each byte in byte-level vocabularies: its own if printable, else one from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = iter(range(0x100, 0x200))
    return [chr(byte if byte in plain else next(rest)) for byte in range(256)]


def bytes_tokenizer(first: int, names: Mapping[int, str]) -> Any:
    """One id per byte from `first` on; `names` of the special ids."""
    tokenizers = library()
    vocab = {letter: first + byte for byte, letter in enumerate(byte_letters())}
    vocab |= {name: index for index, name in names.items()}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, [], unk_token=SPECIAL_PIECES[1]))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    return made


def byte_pair_tokenizer(pieces: Sequence[str], scores: Sequence[float], text: Collection[int]) -> Any:
    """SentencePiece's BPE: of two neighbours whose union is a piece, the union of the highest score.

    text: the ids that stand for text as it is written (no special ids, no bytes).
    """
    tokenizers = library()
    vocab = {piece: index for index, piece in enumerate(pieces)}
    merges = [
        (-scores[index], cut, piece[:cut], piece[cut:])
        for piece, index in vocab.items()
        if index in text
        for cut in range(1, len(piece))
        if vocab.get(piece[:cut]) in text and vocab.get(piece[cut:]) in text
    ]
    pairs = [(left, right) for _, _, left, right in sorted(merges)]
    model = tokenizers.models.BPE(vocab, pairs, unk_token=SPECIAL_PIECES[1], byte_fallback=True)
    return _with_byte_fallback(model)


def unigram_tokenizer(pieces: Sequence[str], scores: Sequence[float]) -> Any:
    """SentencePiece's unigram: the pieces of the largest sum of scores.

    Where two sums are equal (runs of one character), the libraries may choose differently.
    """
    vocab = list(zip(pieces, scores, strict=True))
    return _with_byte_fallback(library().models.Unigram(vocab, 1, True))


def write(
    folder: str | os.PathLike,
    made: Any,
    vocab: Vocabulary,
    names: Mapping[int, str],
    frame: tuple[Sequence[int], Sequence[int]],
) -> None:
    """tokenizer.json and tokenizer_config.json; `frame`: the ids put before and behind a text."""
    tokenizers = library()
    special = [tokenizers.AddedToken(names[index], special=True, normalized=False) for index in sorted(names)]
    made.add_special_tokens(special)
    before, behind = ([names[index] for index in side] for side in frame)
    ids = [(names[index], index) for index in dict.fromkeys([*frame[0], *frame[1]])]
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single=[*before, "$A", *behind], pair=[*before, "$A", *behind, "$B", *behind], special_tokens=ids
    )
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 10**30,
        **{f"{role}_token": names[getattr(vocab, role)] for role in ROLES},
    }
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("tokenizer.json", made.to_str(pretty=True)),
        ("tokenizer_config.json", json.dumps(config, indent=2)),
    ):
        with atomic_open(pathlib.Path(folder) / name, "wb") as handle:
            handle.write(text.encode())


def _with_byte_fallback(model: Any) -> Any:
    """Spaces stay spaces: no mark stands for them, so that none can be mistaken for one."""
    tokenizers = library()
    made = tokenizers.Tokenizer(model)
    made.add_tokens([tokenizers.AddedToken(NEWLINE, normalized=False)])
    made.decoder = tokenizers.decoders.Sequence(
        [tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
    )
    return made
