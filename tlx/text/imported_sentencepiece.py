"""SentencePiece models of other programs, run by SentencePiece itself: the same ids as theirs for any text.

A family's ids are the model's own (T5, LLaMA), or fairseq's: four special ids, then the model's pieces from
its third on (XLM-RoBERTa, mBART). What a vocabulary of tlx needs and theirs lacks is added behind their last
id.
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
from tlx.base.files import atomic_open
from tlx.text.pieces import Pieces
from tlx.text.tokenizer import write_definition
from tlx.text.vocabulary import SPECIAL_PIECES, Vocabulary

MODELS = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
CONFIGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
ROLES = ("pad", "unk", "bos", "eos", "mask", "cls", "sep")
_FOLDER = "sentencepiece"  # inside a tokenizer's folder
_SPACE = "\u2581"
_FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>")
# In the order of their ids (Liu et al. 2020, the 25 languages of mBART's pretraining).
_MBART = (
    "ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV my_MM "
    "ne_NP nl_XX ro_RO ru_RU si_LK tr_TR vi_VN zh_CN"
).split()


class SentencePieceFormat(NamedTuple):
    """How a family numbers pieces, and what it puts around a text. Names in the frame are roles."""

    roles: dict[str, str]
    before: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()
    fairseq: bool = False
    behind_pieces: tuple[str, ...] = ()  # ids after the model's last piece
    tidy: bool = False  # ALBERT's and XLNet's cleaning of texts and numbers
    lower: bool = False  # and in small letters, unless the files say otherwise


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


class ImportedSentencePiece:
    """A SentencePiece model and the files around it.

    layout: the `model_type` of the config.json that it came with. start: as HuggingFaceTokenizer.
    """

    def __init__(self, files: Mapping[str, bytes], layout: str, start: int | None = None):
        if layout not in LAYOUTS:
            raise ConfigError(one_of("the layout of a SentencePiece model", layout, LAYOUTS))
        self.files, self.name, self.start = dict(files), layout, start
        self.layout = LAYOUTS[layout]
        model = next(self.files[name] for name in MODELS if name in self.files)
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise DataError(f"the SentencePiece model of the {layout} cannot be read: {error}") from error
        self._config = json.loads(self.files.get(CONFIGS[0], b"{}"))
        self._names = self._numbered()
        self._ids = {name: index for index, name in self._names.items()}
        size = 1 + max(self._names)
        roles = {role: self._ids[name] for role, name in self._roles().items() if name in self._ids}
        for role, stand_in in (("bos", "cls"), ("eos", "sep")):
            if role not in roles and stand_in in roles:
                roles[role] = roles[stand_in]
        added = [role for role in ROLES if role not in roles]
        roles |= {role: size + i for i, role in enumerate(added)}
        self._names |= {roles[role]: SPECIAL_PIECES[ROLES.index(role)] for role in added}
        if start is not None:
            roles["bos"] = start
        count = next((i for i in range(size + 1) if self._names.get(size - 1 - i) != f"<extra_id_{i}>"), 0)
        self.vocab = Vocabulary(size + len(added), **roles, num_sentinels=count, added=len(added))
        self._pieces = Pieces(self.vocab, [self._bytes(index) for index in range(self.vocab.size)])
        self.starts_word, self.num_bytes = self._pieces.starts_word, self._pieces.num_bytes
        self.ends_sentence = self._pieces.ends_sentence
        self.hash = _hash(self.files, layout, start)

    def __reduce__(self) -> tuple[Any, ...]:
        return ImportedSentencePiece, (self.files, self.name, self.start)

    @classmethod
    def from_folder(
        cls, folder: str | os.PathLike, layout: str, start: int | None = None
    ) -> "ImportedSentencePiece":
        """From a directory with one of MODELS. ConfigError for a family whose numbering is not known."""
        folder = pathlib.Path(folder)
        names = [name for name in (*MODELS, *CONFIGS) if (folder / name).is_file()]
        return cls({name: (folder / name).read_bytes() for name in names}, layout, start)

    @classmethod
    def load(cls, folder: pathlib.Path, definition: dict[str, Any]) -> "ImportedSentencePiece":
        """Reads what `save` wrote, and compares its sha256 with tokenizer.json's."""
        inner = folder / _FOLDER
        try:
            files = {name: (inner / name).read_bytes() for name in definition["files"]}
        except OSError as error:
            raise DataError(f"cannot read the tokenizer: {error}") from error
        layout, start = definition["layout"], definition["start"]
        if _hash(files, layout, start) != definition["hash"]:
            raise DataError(f"{inner} is damaged: its sha256 is not the one in {folder / 'tokenizer.json'}")
        return cls(files, layout, start)

    def save(self, folder: str | os.PathLike) -> None:
        """Writes sentencepiece/ with the files that came, and tlx's tokenizer.json."""
        self.export(pathlib.Path(folder) / _FOLDER)
        known = {"kind": "imported_sentencepiece", "hash": self.hash, "files": sorted(self.files)}
        rest = {"layout": self.name, "start": self.start, "size": self.vocab.size}
        write_definition(folder, known | rest)

    def export(
        self, folder: str | os.PathLike, frame: tuple[Sequence[int], Sequence[int]] | None = None
    ) -> None:
        """Writes the files that came, for other programs; their class knows the frame."""
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            with atomic_open(pathlib.Path(folder) / name, "wb") as handle:
                handle.write(content)

    @property
    def frame(self) -> tuple[list[int], list[int]]:
        """The special ids that the family puts before and behind a text."""
        sides = (self.layout.before, self.layout.behind)
        before, behind = ([getattr(self.vocab, role) for role in side] for side in sides)
        source = self._config.get("src_lang")
        return before, behind + ([self._ids[source]] if source in self._ids else [])

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, no special ids added (those that stand in it by name are found)."""
        ids: list[int] = []
        for part in self._by_name.split(text):
            if part in self._special:
                ids.append(self._ids[part])
            elif part:
                ids += self._encode(part)
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """int32 ids of each text."""
        return [np.array(self.encode(text), np.int32) for text in texts]

    def decode(self, ids: Sequence[int] | np.ndarray, *, keep_special: bool = False) -> str:
        """Text of `ids`; special ids vanish unless `keep_special`. A leading space is the model's own."""
        named = {index: self._names[index] for index in self._special.values()} if keep_special else {}
        return self._pieces.decode_named([int(index) for index in ids], named).removeprefix(" ")

    def piece(self, index: int) -> str:
        """As the vocabulary writes it."""
        return self._names[int(index)]

    def _encode(self, text: str) -> list[int]:
        if not self.layout.tidy:
            found = self._processor.encode(text, out_type=int)
            return [self._number(index) for index in found]
        pieces = self._processor.encode(_tidied(text, self._config, self.layout.lower), out_type=str)
        return [self._ids.get(piece, self.vocab.unk) for piece in self._without_commas(pieces)]

    def _without_commas(self, pieces: Sequence[str]) -> list[str]:
        """A comma behind digits is a piece of its own (XLNet's and ALBERT's preprocessing)."""
        found: list[str] = []
        for piece in pieces:
            if len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit():
                parts = self._processor.encode(piece[:-1].replace(_SPACE, ""), out_type=str)
                if piece[0] != _SPACE and parts[0][0] == _SPACE:
                    parts = parts[1:] if len(parts[0]) == 1 else [parts[0][1:], *parts[1:]]
                found += [*parts, ","]
            else:
                found.append(piece)
        return found

    def _number(self, index: int) -> int:
        """The family's id of one of the model's."""
        if not self.layout.fairseq:
            return index
        return index + 1 if index >= 3 else {0: 3, 1: 0, 2: 2}[index]

    def _numbered(self) -> dict[int, str]:
        """{id: piece} of all ids of theirs."""
        count = self._processor.get_piece_size()
        if self.layout.fairseq:
            names = dict(enumerate(_FAIRSEQ))
            names |= {index + 1: self._processor.id_to_piece(index) for index in range(3, count)}
        else:
            names = {index: self._processor.id_to_piece(index) for index in range(count)}
        last = self.layout.behind_pieces
        if last == _SENTINELS and "extra_ids" in self._config:
            last = tuple(f"<extra_id_{i}>" for i in reversed(range(self._config["extra_ids"])))
        names |= {1 + max(names) + i: name for i, name in enumerate(last)}
        for index, token in self._config.get("added_tokens_decoder", {}).items():
            names[int(index)] = token["content"]
        return names | {i: name for name, i in json.loads(self.files.get(CONFIGS[2], b"{}")).items()}

    def _roles(self) -> dict[str, str]:
        """{role: token}: the family's, and what the files say."""
        named = self._config | json.loads(self.files.get(CONFIGS[1], b"{}"))
        found = dict(self.layout.roles)
        for role in ROLES:
            token = named.get(f"{role}_token")
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                found[role] = token
        return found

    @functools.cached_property
    def _special(self) -> dict[str, int]:
        """Names that are found in a text."""
        vocab = self.vocab
        ids = {getattr(vocab, role) for role in ROLES} | set(range(self._count, vocab.size - vocab.added))
        return {self._names[i]: i for i in ids if i < vocab.size - vocab.added}

    @property
    def _count(self) -> int:
        """Ids before those that no piece of the model has."""
        return self._processor.get_piece_size() + self.layout.fairseq

    @functools.cached_property
    def _by_name(self) -> re.Pattern[str]:
        names = sorted(self._special, key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, names)) + ")")

    def _bytes(self, index: int) -> bytes:
        piece = self._names.get(index, "")
        if self.vocab.special[index] or index >= self._count:
            return b""
        if re.fullmatch("<0x[0-9A-F]{2}>", piece):
            return bytes([int(piece[3:5], 16)])
        return piece.replace(_SPACE, " ").encode()


def _hash(files: Mapping[str, bytes], layout: str, start: int | None) -> str:
    content = b"".join(name.encode() + files[name] for name in sorted(files))
    return hashlib.sha256(content + f"layout={layout} start={start}".encode()).hexdigest()


def _tidied(text: str, config: Mapping[str, Any], lower: bool) -> str:
    """ALBERT's and XLNet's: spaces joined, two kinds of quotes made one, accents and case as configured."""
    if config.get("remove_space", True):
        text = " ".join(text.strip().split())
    text = text.replace("``", '"').replace("''", '"')
    if not config.get("keep_accents", False):
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return text.lower() if config.get("do_lower_case", lower) else text
