"""SentencePiece models of other programs, run by SentencePiece itself, with the same ids for any text.

The ids of a family are those of the model (T5, LLaMA), or fairseq's: four special ids, then the model's
pieces from the fourth on (XLM-RoBERTa, mBART). Special ids that a vocabulary of tlx needs and the imported
one lacks are added after its last id.
"""

import functools
import hashlib
import json
import os
import pathlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import sentencepiece

from tlx.base.errors import ConfigError, DataError, one_of
from tlx.text.frames import RowFrame
from tlx.text.imported_files import (
    hashed_content,
    number_roles,
    pattern_of,
    read_imported,
    read_stored,
    stated_roles,
    write_files,
)
from tlx.text.pieces import Pieces
from tlx.text.tokenizer import write_definition
from tlx.text.vocabulary import ROLES, SPECIAL_PIECES, Vocabulary

MODELS = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
CONFIGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
CHAT_TEMPLATE = "chat_template.jinja"
_FOLDER = "sentencepiece"  # inside a tokenizer's folder
_SPACE = "\u2581"
_FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>")
# Language codes of mBART in the order of their ids (Liu et al. 2020, 25 languages of pretraining).
_MBART = (
    "ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV my_MM "
    "ne_NP nl_XX ro_RO ru_RU si_LK tr_TR vi_VN zh_CN"
).split()


class SentencePieceFormat(NamedTuple):
    """Numbering of a model family's pieces, and the special ids that it adds to a text."""

    roles: dict[str, str]
    """Piece of each role of special ids."""
    before: tuple[str, ...] = ()
    """Roles of the ids added before a text."""
    behind: tuple[str, ...] = ()
    """Roles of the ids added after a text."""
    fairseq: bool = False
    """Whether pieces are numbered as in fairseq."""
    behind_pieces: tuple[str, ...] = ()
    """Pieces whose ids follow the last piece of the model."""
    tidy: bool = False
    """Whether texts and numbers are cleaned as ALBERT and XLNet do."""
    lower: bool = False
    """Whether cleaning converts to lower case, unless the files set do_lower_case."""


_SENTINELS = tuple(f"<extra_id_{i}>" for i in reversed(range(100)))
_T5 = SentencePieceFormat({"pad": "<pad>", "eos": "</s>", "unk": "<unk>"}, behind=("eos",))
_LLAMA = SentencePieceFormat({"bos": "<s>", "eos": "</s>", "unk": "<unk>"}, before=("bos",))
_BERT = {"cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]", "pad": "<pad>", "unk": "<unk>"}
_XLMR = {
    "bos": "<s>",
    "cls": "<s>",
    "eos": "</s>",
    "sep": "</s>",
    "pad": "<pad>",
    "unk": "<unk>",
    "mask": "<mask>",
}
LAYOUTS = {
    "t5": _T5._replace(behind_pieces=_SENTINELS),
    "mt5": _T5,
    "umt5": _T5,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "mixtral": _LLAMA,
    "albert": SentencePieceFormat(_BERT, ("cls",), ("sep",), tidy=True, lower=True),
    "xlnet": SentencePieceFormat(
        _BERT | {"cls": "<cls>", "sep": "<sep>", "mask": "<mask>", "bos": "<s>", "eos": "</s>"},
        behind=("sep", "cls"),
        tidy=True,
    ),
    "xlm-roberta": SentencePieceFormat(_XLMR, ("bos",), ("eos",), fairseq=True, behind_pieces=("<mask>",)),
    "mbart": SentencePieceFormat(_XLMR, behind=("eos",), fairseq=True, behind_pieces=(*_MBART, "<mask>")),
}
# Rows of two texts: roles of the ids between them, and the token types of these and of the last ids.
_PAIRS = {
    "t5": (("eos",), (0,), (0,)),
    "mt5": (("eos",), (0,), (0,)),
    "umt5": (("eos",), (0,), (0,)),
    "albert": (("sep",), (0,), (1,)),
    "xlnet": (("sep",), (0,), (1, 2)),
    "xlm-roberta": (("eos", "eos"), (0, 0), (0,)),
}


class ImportedSentencePiece:
    """Tokenizer of an imported SentencePiece model and the files beside it.

    `layout` is the `model_type` of the model's config.json, a key of LAYOUTS. `start` is as for
    HuggingFaceTokenizer. `prefix` says which parts of a text between names of special ids get a space in front
    where the model adds one: "always" (every part), "first" or "never".
    """

    def __init__(
        self, files: Mapping[str, bytes], layout: str, start: int | None = None, prefix: str = "always"
    ):
        if layout not in LAYOUTS:
            raise ConfigError(one_of("the layout of a SentencePiece model", layout, LAYOUTS))
        self.files = dict(files)
        self.name = layout
        self.start = start
        self.prefix = prefix
        self.layout = LAYOUTS[layout]
        model = next(self.files[name] for name in MODELS if name in self.files)
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise DataError(f"the SentencePiece model of the {layout} cannot be read: {error}") from error
        self._config = json.loads(self.files.get(CONFIGS[0], b"{}"))
        self._names = self._pieces_by_id()
        self._ids = {name: index for index, name in self._names.items()}
        size = 1 + max(self._names)
        mapped = json.loads(self.files.get(CONFIGS[1], b"{}"))
        known = self.layout.roles | stated_roles(self._config | mapped)
        known_ids = {role: self._ids[name] for role, name in known.items() if name in self._ids}
        roles, added = number_roles(known_ids, size)
        self._names |= {roles[role]: SPECIAL_PIECES[ROLES.index(role)] for role in added}
        if start is not None:
            roles["bos"] = start
        # Sentinels are the last ids, counted downwards from <extra_id_0>.
        num_sentinels = 0
        while self._names.get(size - 1 - num_sentinels) == f"<extra_id_{num_sentinels}>":
            num_sentinels += 1
        self.vocab = Vocabulary(size + len(added), **roles, num_sentinels=num_sentinels, added=len(added))
        self._pieces = Pieces(self.vocab, [self.piece_bytes(index) for index in range(self.vocab.size)])
        self.starts_word = self._pieces.starts_word
        self.num_bytes = self._pieces.num_bytes
        self.ends_sentence = self._pieces.ends_sentence
        self.hash = _hash(self.files, layout, start, prefix)

    def __reduce__(self) -> tuple[Any, ...]:
        return ImportedSentencePiece, (self.files, self.name, self.start, self.prefix)

    @classmethod
    def from_folder(
        cls, folder: str | os.PathLike, layout: str, start: int | None = None
    ) -> "ImportedSentencePiece":
        """Load a folder that holds one of MODELS.

        Args:
            folder: Folder of the model.
            layout: `model_type` of its config.json, a key of LAYOUTS.
            start: Id that the decoder begins with, which becomes bos; None: the bos of the model.

        Returns:
            The tokenizer.

        Raises:
            ConfigError: The numbering of this family is not known.
            DataError: The model cannot be read.
        """
        files, _ = read_imported(pathlib.Path(folder), (*MODELS, *CONFIGS, CHAT_TEMPLATE))
        return cls(files, layout, start, _prefix_scheme(layout, files))

    @classmethod
    def load(cls, folder: pathlib.Path, definition: dict[str, Any]) -> "ImportedSentencePiece":
        """Load what `save` wrote. Raises DataError where its sha256 is not the one in tokenizer.json."""
        inner = folder / _FOLDER
        files = read_stored(inner, definition["files"])
        layout = definition["layout"]
        start = definition["start"]
        prefix = definition.get("prefix", "always")
        if _hash(files, layout, start, prefix) != definition["hash"]:
            raise DataError(f"{inner} is damaged: its sha256 is not the one in {folder / 'tokenizer.json'}")
        return cls(files, layout, start, prefix)

    def save(self, folder: str | os.PathLike) -> None:
        """Write the imported files to sentencepiece/, and the tokenizer.json of tlx."""
        self.export(pathlib.Path(folder) / _FOLDER)
        definition = {
            "kind": "imported_sentencepiece",
            "hash": self.hash,
            "files": sorted(self.files),
            "layout": self.name,
            "start": self.start,
            "size": self.vocab.size,
        }
        definition |= {} if self.prefix == "always" else {"prefix": self.prefix}
        write_definition(folder, definition)

    def export(
        self, folder: str | os.PathLike, frame: tuple[Sequence[int], Sequence[int]] | None = None
    ) -> None:
        """Write the imported files for other programs; their class knows the frame, so `frame` is not used."""
        write_files(folder, self.files)

    @property
    def frame(self) -> tuple[list[int], list[int]]:
        """The special ids that the family adds before and after a text; mBART adds the language at the end."""
        before = [getattr(self.vocab, role) for role in self.layout.before]
        behind = [getattr(self.vocab, role) for role in self.layout.behind]
        source_language = self._config.get("src_lang")
        if source_language in self._ids:
            behind.append(self._ids[source_language])
        return before, behind

    def row_frame(self, num_texts: int) -> RowFrame:
        """Return the special ids of the family's template for one text, or for two.

        Raises ConfigError for two texts of a family that has no template for them.
        """
        before, behind = map(tuple, self.frame)
        if num_texts == 1:
            # XLNet's last id, cls, has a type of its own.
            types = (0, 2) if self.name == "xlnet" else (0,) * len(behind)
            return RowFrame((before, behind), ((0,) * len(before), types), (0,))
        if self.name not in _PAIRS:
            raise ConfigError(f"the SentencePiece model of a {self.name} has no template of two texts")
        roles, between_types, behind_types = _PAIRS[self.name]
        between = tuple(getattr(self.vocab, role) for role in roles)
        return RowFrame(
            (before, between, behind),
            ((0,) * len(before), between_types, behind_types),
            (0, behind_types[0]),
        )

    def encode(self, text: str) -> list[int]:
        """Encode a text, without adding special ids; names of special ids in the text become those ids."""
        ids: list[int] = []
        is_first = True
        for part in self._by_name.split(text):
            if part in self._special:
                ids.append(self._ids[part])
            elif part:
                # "first" is transformers' scheme, which adds no second space; the model itself always adds one.
                is_spaced = not is_first or part.startswith((" ", _SPACE))
                ids += self._encode(
                    part, self.prefix == "always" or (self.prefix == "first" and not is_spaced)
                )
            is_first &= not part
        return ids

    def count_bytes(self, text: str) -> int:
        """Count the UTF-8 bytes of a text, without those of names of special ids in it."""
        return sum(len(part.encode()) for part in self._by_name.split(text) if part not in self._special)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encode texts to int32 arrays."""
        return [np.array(self.encode(text), np.int32) for text in texts]

    def decode(self, ids: Sequence[int] | np.ndarray, *, keep_special: bool = False) -> str:
        """Decode ids; drops special ids unless `keep_special`, and the leading space, which the model adds."""
        named: dict[int, str] = {}
        if keep_special:
            named = {index: self._names[index] for index in self._special.values()}
        text = self._pieces.decode_named([int(index) for index in ids], named)
        return text if self.prefix == "never" else text.removeprefix(" ")

    def piece(self, index: int) -> str:
        """Return an id as the vocabulary writes it."""
        return self._names[int(index)]

    def piece_bytes(self, index: int) -> bytes:
        """Return the text that one id stands for, in UTF-8; empty for a special id."""
        piece = self._names.get(index, "")
        if self.vocab.special[index] or index >= self._count:
            return b""
        if re.fullmatch("<0x[0-9A-F]{2}>", piece):
            return bytes([int(piece[3:5], 16)])
        return piece.replace(_SPACE, " ").encode()

    def _encode(self, text: str, with_prefix: bool) -> list[int]:
        """Encode a text that contains no names of special ids."""
        if not with_prefix:
            return [self._family_id(index) for index in self._without_prefix.encode(text, out_type=int)]
        if not self.layout.tidy:
            return [self._family_id(index) for index in self._processor.encode(text, out_type=int)]
        pieces = self._processor.encode(_cleaned(text, self._config, self.layout.lower), out_type=str)
        return [self._ids.get(piece, self.vocab.unk) for piece in self._split_commas(pieces)]

    def _split_commas(self, pieces: Sequence[str]) -> list[str]:
        """Split a comma after digits off its piece (preprocessing of XLNet and ALBERT)."""
        result: list[str] = []
        for piece in pieces:
            if len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit():
                parts = self._processor.encode(piece[:-1].replace(_SPACE, ""), out_type=str)
                if piece[0] != _SPACE and parts[0][0] == _SPACE:
                    # Encoding the number alone has added a space, which the piece did not have.
                    parts = parts[1:] if len(parts[0]) == 1 else [parts[0][1:], *parts[1:]]
                result += [*parts, ","]
            else:
                result.append(piece)
        return result

    def _family_id(self, index: int) -> int:
        """Id in the family's numbering of an id of the model."""
        if not self.layout.fairseq:
            return index
        if index >= 3:
            return index + 1
        return {0: 3, 1: 0, 2: 2}[index]  # <unk>, <s> and </s>

    def _pieces_by_id(self) -> dict[int, str]:
        """{id: piece} of the imported vocabulary."""
        count = self._processor.get_piece_size()
        if self.layout.fairseq:
            names = dict(enumerate(_FAIRSEQ))
            names |= {index + 1: self._processor.id_to_piece(index) for index in range(3, count)}
        else:
            names = {index: self._processor.id_to_piece(index) for index in range(count)}
        last_pieces = self.layout.behind_pieces
        if last_pieces == _SENTINELS and "extra_ids" in self._config:
            last_pieces = tuple(f"<extra_id_{i}>" for i in reversed(range(self._config["extra_ids"])))
        size = 1 + max(names)
        names |= {size + i: name for i, name in enumerate(last_pieces)}
        for index, token in self._config.get("added_tokens_decoder", {}).items():
            names[int(index)] = token["content"]
        added_tokens = json.loads(self.files.get(CONFIGS[2], b"{}"))
        return names | {index: name for name, index in added_tokens.items()}

    @functools.cached_property
    def _without_prefix(self) -> sentencepiece.SentencePieceProcessor:
        """The model without the space that it adds in front of a text."""
        model = next(self.files[name] for name in MODELS if name in self.files)
        # Concatenated protocol buffers merge: ModelProto.normalizer_spec (3) gets add_dummy_prefix (3) = false.
        return sentencepiece.SentencePieceProcessor(model_proto=model + b"\x1a\x02\x18\x00")

    @functools.cached_property
    def _special(self) -> dict[str, int]:
        """Ids of the names that are recognised in a text."""
        imported_size = self.vocab.size - self.vocab.added
        ids = {getattr(self.vocab, role) for role in ROLES} | set(range(self._count, imported_size))
        return {self._names[index]: index for index in ids if index < imported_size}

    @property
    def _count(self) -> int:
        """Number of ids that stand for pieces of the model; those after them are special."""
        return self._processor.get_piece_size() + self.layout.fairseq

    @functools.cached_property
    def _by_name(self) -> re.Pattern[str]:
        """Pattern of the names of special ids, longest first."""
        return pattern_of(self._special)


def _hash(files: Mapping[str, bytes], layout: str, start: int | None, prefix: str) -> str:
    content = hashed_content(files)
    content += f"layout={layout} start={start}".encode()
    content += b"" if prefix == "always" else f" prefix={prefix}".encode()
    return hashlib.sha256(content).hexdigest()


def _prefix_scheme(layout: str, files: Mapping[str, bytes]) -> str:
    """Return which parts of a text get a space in front; only LLaMA's files have a say in it."""
    settings = json.loads(files.get(CONFIGS[0], b"{}"))
    if layout != "llama":
        return "always"
    if settings.get("add_prefix_space") is False:
        return "never"
    return "first" if settings.get("legacy") is False else "always"


def _cleaned(text: str, config: Mapping[str, Any], lower: bool) -> str:
    """Clean a text as ALBERT and XLNet do: white space and quotes normalised, accents and case as configured."""
    if config.get("remove_space", True):
        text = " ".join(text.strip().split())
    text = text.replace("``", '"').replace("''", '"')
    if not config.get("keep_accents", False):
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return text.lower() if config.get("do_lower_case", lower) else text
