"""Hugging Face directories made on the spot, without torch."""

import json
import pathlib

from tests.hub.case import write_folder
from tlx.hub.folder import open_folder, save_folder
from tlx.hub.network import abstract_params
from tlx.models.config import ModelConfig
from tlx.models.families import TABLE
from tlx.models.families.family import resized

TEXTS = ["the cat sat on the mat", "Über 3 Katzen, 고양이 and a 🐈!", "import os\nprint('x')\n"] * 3
BERT_SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


def word_pieces(folder: pathlib.Path, vocab_size: int = 90):
    """A lower-casing WordPiece tokenizer as BERT's; the library's object."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = list(BERT_SPECIAL.values())
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return _save(folder, tokenizer, BERT_SPECIAL)


def byte_pairs(folder: pathlib.Path, vocab_size: int = 300):
    """A byte-level BPE tokenizer as GPT-2's, with one special token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return _save(folder, tokenizer, {"bos": "<|end|>", "eos": "<|end|>", "unk": "<|end|>"})


def with_end(folder: pathlib.Path) -> dict[str, int]:
    """The same, which puts an end behind every text as T5's does; the ids that T5's config names."""
    from tokenizers import processors

    tokenizer = byte_pairs(folder)
    tokenizer.add_special_tokens(["</s>", "<pad>"])
    ids = {name: tokenizer.token_to_id(name) for name in ("</s>", "<pad>")}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", ids["</s>"])]
    )
    _save(folder, tokenizer, {"eos": "</s>", "pad": "<pad>"})
    named = {"pad_token_id": ids["<pad>"], "eos_token_id": ids["</s>"]}
    return named | {"decoder_start_token_id": ids["<pad>"]}


def write(folder: pathlib.Path, family: str, config: ModelConfig, heads: tuple[str, ...] = ()) -> None:
    """A directory with drawn weights, its tokenizer aside."""
    found = TABLE.load(family)
    abstract = abstract_params(config, heads)
    import numpy as np

    params = {path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in abstract.items()}
    save_folder(folder, found, config, params)
    shapes = {name: leaf.shape for name, leaf in _tensors(folder).items()}
    write_folder(folder, shapes, {})
    open_folder(folder)


def small_gpt2(folder: pathlib.Path) -> None:
    """A GPT-2 of one layer with its tokenizer."""
    byte_pairs(folder)
    sizes = {
        "vocab_size": 300,
        "position__max_length": 16,
        "attention__num_heads": 2,
        "attention__head_dim": 0,
        "attention__num_kv_heads": 0,
        "feedforward__ff_dim": 12,
    }
    write(folder, "gpt2", resized(TABLE.load("gpt2").base, width=8, num_layers=1, **sizes))


def _tensors(folder):
    from tlx.hub.safetensors import Tensors

    return Tensors(folder)


def _save(folder: pathlib.Path, tokenizer, special: dict[str, str]):
    folder.mkdir(exist_ok=True, parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {f"{role}_token": token for role, token in special.items()}
    (folder / "special_tokens_map.json").write_text(json.dumps(named))
    return tokenizer
