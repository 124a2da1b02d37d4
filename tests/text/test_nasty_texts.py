"""2,000 nasty texts give every kind of tokenizer the ids that transformers' own class gives.

pytest -m long -s tests/text/test_nasty_texts.py        needs transformers, and sacremoses for XLM
"""

import json

import pytest

from tests.hub.folders import TEXTS, byte_pairs, word_pieces
from tests.text.nasty import texts
from tests.text.test_imported_sentencepiece import FAMILIES, train
from tlx.api.load import _open_tokenizer

pytestmark = pytest.mark.long
COUNT = 2000


def write(folder, model_type, **settings):
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def saved(folder, tokenizer):
    """Write tokenizer.json of a library's object."""
    tokenizer.save(str(folder / "tokenizer.json"))


def unigram(folder, model_type, **settings):
    """The tokenizer.json that transformers makes of a SentencePiece model, beside settings that say otherwise."""
    import transformers

    file, options = FAMILIES[model_type]
    (folder / file).write_bytes(train(**options))
    write(folder, model_type)
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder / "again")
    for path in (folder / "again").iterdir():
        path.rename(folder / path.name)
    (folder / file).unlink()
    made = json.loads((folder / "tokenizer_config.json").read_text())
    write(folder, model_type, **made | settings)


def spm_bpe(folder, **settings):
    unigram(folder, "llama", **settings)


def model_alone(folder, **settings):
    """A LLaMA with tokenizer.model and no tokenizer.json; the released ones leave the text as it is."""
    file, options = FAMILIES["llama"]
    unchanged = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    (folder / file).write_bytes(train(**options | unchanged))
    write(folder, "llama", tokenizer_class="LlamaTokenizer", **settings)


def spm_bpe_of_old(folder, **settings):
    """As the first LLaMA files: a normalizer puts the space in front of every part."""
    from tokenizers import decoders, normalizers

    unigram(folder, "llama", **settings)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.pre_tokenizer = None
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    saved(folder, tokenizer)
    write(folder, "llama", **settings | {"tokenizer_class": "LlamaTokenizer"})


def gpt1(folder):
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=150, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    saved(folder, tokenizer)
    write(folder, "openai-gpt", unk_token="<unk>", tokenizer_class="OpenAIGPTTokenizer")


def word_pairs(folder, model_type, end, middle, header, special):
    """vocab.json and merges.txt learned by the library, with the marks of a family."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=160, special_tokens=special, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    model = json.loads(tokenizer.to_str())["model"]

    def marked(piece):
        return piece.removesuffix("</w>") + end if piece.endswith("</w>") else piece + middle

    vocab = {piece if piece in special else marked(piece): index for piece, index in model["vocab"].items()}
    assert len(vocab) == len(model["vocab"])
    (folder / "vocab.json").write_text(json.dumps(vocab))
    lines = header + [" ".join(merge) for merge in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    write(folder, model_type)


def ctrl(folder):
    word_pairs(folder, "ctrl", "", "@@", ["#version: 0.2"], ["<unk>"])


def xlm(folder, **settings):
    pytest.importorskip("sacremoses")
    special = ["<s>", "</s>", "<pad>", "<unk>", *(f"<special{i}>" for i in range(10))]
    word_pairs(folder, "xlm", "</w>", "", [], special)
    write(folder, "xlm", **settings)


def words(folder, **settings):
    word_pieces(folder)
    write(folder, "bert", tokenizer_class="BertTokenizer", **settings)


def pairs(folder, model_type="gpt2", **settings):
    byte_pairs(folder)
    write(folder, model_type, **settings)


KINDS = {
    "WordPiece": words,
    "WordPiece, cased": lambda folder: words(folder, do_lower_case=False),
    "WordPiece, accents kept": lambda folder: words(folder, strip_accents=False),
    "byte pairs": pairs,
    "byte pairs, space in front": lambda folder: pairs(
        folder, "gpt2", add_prefix_space=True, tokenizer_class="GPT2Tokenizer"
    ),
    "byte pairs, a generic class": lambda folder: pairs(
        folder, "gpt2", add_prefix_space=True, tokenizer_class="PreTrainedTokenizerFast"
    ),
    "Unigram of T5": lambda folder: unigram(folder, "t5"),
    "Unigram of XLM-R": lambda folder: unigram(folder, "xlm-roberta"),
    "Unigram of ALBERT": lambda folder: unigram(folder, "albert"),
    "Unigram of ALBERT, cased": lambda folder: unigram(folder, "albert", do_lower_case=False),
    "Unigram of XLNet": lambda folder: unigram(folder, "xlnet"),
    "Unigram of XLNet, lower case": lambda folder: unigram(folder, "xlnet", do_lower_case=True),
    "spm BPE": spm_bpe,
    "spm BPE, legacy": lambda folder: spm_bpe(folder, legacy=True),
    "spm BPE, no space": lambda folder: spm_bpe(folder, add_prefix_space=False),
    "spm BPE of old files": lambda folder: spm_bpe_of_old(folder, legacy=False),
    "spm BPE of old files, legacy": lambda folder: spm_bpe_of_old(folder, legacy=True),
    "spm BPE of old files, no space": lambda folder: spm_bpe_of_old(folder, add_prefix_space=False),
    "spm model alone": lambda folder: model_alone(folder, legacy=False),
    "spm model alone, no space": lambda folder: model_alone(folder, add_prefix_space=False),
    "GPT-1": gpt1,
    "CTRL": ctrl,
    "XLM": xlm,
    "XLM, cased": lambda folder: xlm(folder, do_lowercase_and_remove_accent=False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_transformers(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    KINDS[kind](tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    ours = _open_tokenizer(tmp_path, config, 0)
    names = sorted(
        {name for name in theirs.all_special_tokens if theirs.convert_tokens_to_ids(name) is not None}
    )
    different = []
    for text in texts(COUNT, names):
        wanted = theirs.encode(text, add_special_tokens=False)
        if ours.encode(text) != wanted:
            different.append((text, ours.encode(text), wanted))
    print(f"{kind}: {len(different)} of {COUNT} texts differ")
    assert not different, different[:3]
