"""Exports vocabularies of tlx as tokenizer.json of the `tokenizers` library, with the same ids for any text.

One difference remains: tlx encodes the names of special ids ("<pad>") as text, the exported files as ids.
"""

import importlib
import json
import os
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tlx.base.errors import ConfigError
from tlx.base.files import atomic_open
from tlx.text.vocabulary import ROLES, SPECIAL_PIECES, Vocabulary

NEWLINE = "\n"


def import_tokenizers() -> Any:
    """Import the package `tokenizers`. Raises ConfigError saying how to install it."""
    try:
        return importlib.import_module("tokenizers")
    except ModuleNotFoundError as error:
        raise ConfigError("tokenizer.json needs the extra hf: pip install 'tlx-lm[hf]'") from error


def byte_letters() -> list[str]:
    """Return the letter of each byte in byte-level vocabularies: itself if printable, else from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    replacements = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(replacements)) for byte in range(256)]


def bytes_tokenizer(first: int, names: Mapping[int, str]) -> Any:
    """Build a tokenizer with one id per byte from `first` on, and the special ids in `names`."""
    tokenizers = import_tokenizers()
    vocab = {letter: first + byte for byte, letter in enumerate(byte_letters())}
    vocab |= {name: index for index, name in names.items()}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, [], unk_token=SPECIAL_PIECES[1]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer


def byte_pair_tokenizer(pieces: Sequence[str], scores: Sequence[float], text_ids: Collection[int]) -> Any:
    """Build the BPE tokenizer of a SentencePiece model.

    SentencePiece merges the neighbours whose union is the piece with the highest score; the `tokenizers`
    library merges pairs in the order of a list, so every way to cut a piece in two is listed.

    Args:
        pieces: Piece of each id.
        scores: Score of each id.
        text_ids: Ids of ordinary pieces (neither special ids nor bytes).

    Returns:
        A tokenizer of the `tokenizers` library.
    """
    tokenizers = import_tokenizers()
    vocab = {piece: index for index, piece in enumerate(pieces)}
    merges = [
        (-scores[index], cut, piece[:cut], piece[cut:])
        for piece, index in vocab.items()
        if index in text_ids
        for cut in range(1, len(piece))
        if vocab.get(piece[:cut]) in text_ids and vocab.get(piece[cut:]) in text_ids
    ]
    pairs = [(left, right) for _, _, left, right in sorted(merges)]
    model = tokenizers.models.BPE(vocab, pairs, unk_token=SPECIAL_PIECES[1], byte_fallback=True)
    return _with_byte_fallback(model)


def unigram_tokenizer(pieces: Sequence[str], scores: Sequence[float]) -> Any:
    """Build the unigram tokenizer of a SentencePiece model: the segmentation with the largest sum of scores.

    Where two sums are equal (runs of one character), the two libraries may choose differently.
    """
    vocab = list(zip(pieces, scores, strict=True))
    return _with_byte_fallback(import_tokenizers().models.Unigram(vocab, 1, True))


def write(
    folder: str | os.PathLike,
    tokenizer: Any,
    vocab: Vocabulary,
    names: Mapping[int, str],
    frame: tuple[Sequence[int], Sequence[int]],
) -> None:
    """Write tokenizer.json and tokenizer_config.json.

    Args:
        folder: Created where it is missing.
        tokenizer: Tokenizer of the `tokenizers` library; the special tokens and the frame are added to it.
        vocab: Vocabulary with the roles of special ids.
        names: Name of each special id.
        frame: Ids added before and after a text.
    """
    tokenizers = import_tokenizers()
    special = [tokenizers.AddedToken(names[index], special=True, normalized=False) for index in sorted(names)]
    tokenizer.add_special_tokens(special)
    ids_before, ids_behind = frame
    before = [names[index] for index in ids_before]
    behind = [names[index] for index in ids_behind]
    frame_ids = dict.fromkeys([*ids_before, *ids_behind])  # distinct, in order
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=[*before, "$A", *behind],
        pair=[*before, "$A", *behind, "$B", *behind],
        special_tokens=[(names[index], index) for index in frame_ids],
    )
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 10**30,
        **{f"{role}_token": names[getattr(vocab, role)] for role in ROLES},
    }
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    contents = {
        "tokenizer.json": tokenizer.to_str(pretty=True),
        "tokenizer_config.json": json.dumps(config, indent=2),
    }
    for name, text in contents.items():
        with atomic_open(pathlib.Path(folder) / name, "wb") as handle:
            handle.write(text.encode())


def _with_byte_fallback(model: Any) -> Any:
    """Build a tokenizer with byte fallback; spaces are not replaced by a mark, which a text could contain."""
    tokenizers = import_tokenizers()
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.add_tokens([tokenizers.AddedToken(NEWLINE, normalized=False)])
    tokenizer.decoder = tokenizers.decoders.Sequence(
        [tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
    )
    return tokenizer
