"""BLEU, chrF and ROUGE of generated texts, by the libraries that define them."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tlx.metrics.libraries import library
from tlx.metrics.resampling import Statistic

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def bleu(texts: Sequence[str], references: Sequence[Sequence[str]], tokenize: str = "13a") -> float:
    """Compute sacreBLEU's corpus BLEU (Post 2018).

    Args:
        texts: Generated texts, N of them.
        references: The references of each text, any number of them.
        tokenize: sacreBLEU's name of a tokenizer ("13a", "intl", "char", "ko-mecab" ...).

    Returns:
        BLEU, 0 to 100.

    Raises:
        ConfigError: sacrebleu is not installed.
    """
    sacrebleu = library("sacrebleu", "sacrebleu", "BLEU")
    return float(sacrebleu.BLEU(tokenize=tokenize).corpus_score(list(texts), _columns(references)).score)


def chrf(texts: Sequence[str], references: Sequence[Sequence[str]], word_order: int = 0) -> float:
    """Compute sacreBLEU's corpus chrF (Popović 2015).

    Args:
        texts: Generated texts, N of them.
        references: The references of each text, any number of them.
        word_order: Order of word n-grams; 2 is chrF++.

    Returns:
        chrF, 0 to 100.

    Raises:
        ConfigError: sacrebleu is not installed.
    """
    sacrebleu = library("sacrebleu", "sacrebleu", "chrF")
    scorer = sacrebleu.CHRF(word_order=word_order)
    return float(scorer.corpus_score(list(texts), _columns(references)).score)


def bleu_statistic(
    texts: Sequence[str], references: Sequence[Sequence[str]], tokenize: str = "13a"
) -> Statistic:
    """Return BLEU as a function of resampled examples; their n-grams are counted once.

    Args:
        texts: Generated texts, N of them.
        references: The references of each text.
        tokenize: sacreBLEU's name of a tokenizer.

    Returns:
        A function of example indices int[N] that returns BLEU, 0 to 100.
    """
    return _statistic(library("sacrebleu", "sacrebleu", "BLEU").BLEU(tokenize=tokenize), texts, references)


def chrf_statistic(
    texts: Sequence[str], references: Sequence[Sequence[str]], word_order: int = 0
) -> Statistic:
    """Return chrF as a function of resampled examples; their n-grams are counted once.

    Args:
        texts: Generated texts, N of them.
        references: The references of each text.
        word_order: Order of word n-grams; 2 is chrF++.

    Returns:
        A function of example indices int[N] that returns chrF, 0 to 100.
    """
    scorer = library("sacrebleu", "sacrebleu", "chrF").CHRF(word_order=word_order)
    return _statistic(scorer, texts, references)


def _statistic(scorer: Any, texts: Sequence[str], references: Sequence[Sequence[str]]) -> Statistic:
    # These private methods are what sacreBLEU's own significance tests resample with.
    rows = np.array(scorer._extract_corpus_statistics(list(texts), _columns(references)))
    return lambda indices: float(scorer._compute_score_from_stats(rows[indices].sum(axis=0).tolist()).score)


def rouge(
    texts: Sequence[str], references: Sequence[Sequence[str]], stem: bool = False, ascii_words: bool = False
) -> dict[str, float]:
    """Average `rouge_per_example` over the examples.

    Args:
        texts: Generated texts, N of them.
        references: The references of each text.
        stem: Whether ASCII words are reduced to Porter's stems.
        ascii_words: Whether words are rouge-score's own, a to z and digits only.

    Returns:
        The mean F1 of each ROUGE, 0 to 1.
    """
    scores = rouge_per_example(texts, references, stem, ascii_words)
    return {name: float(values.mean()) for name, values in scores.items()}


def rouge_per_example(
    texts: Sequence[str], references: Sequence[Sequence[str]], stem: bool = False, ascii_words: bool = False
) -> dict[str, np.ndarray]:
    """Compute the F1 of ROUGE-1, -2, -L and -Lsum (Lin 2004) of each text.

    Sentences of rougeLsum are lines.

    Args:
        texts: Generated texts, N of them.
        references: The references of each text; the best score over them counts.
        stem: Whether ASCII words are reduced to Porter's stems.
        ascii_words: Whether words are rouge-score's own, which hold a to z and digits only and leave nothing
            of Korean; else words are letters and digits of any script.

    Returns:
        By the name of each ROUGE, float64[N], 0 to 1.

    Raises:
        ConfigError: rouge-score is not installed.
    """
    scorers = library("rouge_score.rouge_scorer", "rouge-score", "ROUGE")
    tokenizer = None if ascii_words else _WordTokenizer()
    scorer = scorers.RougeScorer(ROUGE, use_stemmer=stem, tokenizer=tokenizer)
    rows = []
    for text, text_references in zip(texts, references, strict=True):
        best = scorer.score_multi(list(text_references), text)
        rows.append([best[name].fmeasure for name in ROUGE])
    return dict(zip(ROUGE, np.array(rows).reshape(-1, len(ROUGE)).T, strict=True))


class _WordTokenizer:
    """rouge-score's tokenizer for every script."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"[^\W_]+", text.lower())


def _columns(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """Return a list for each first, second ... reference, as sacreBLEU takes them; None where one lacks."""
    count = max(map(len, references))
    columns = []
    for i in range(count):
        columns.append([known[i] if i < len(known) else None for known in references])
    return columns
