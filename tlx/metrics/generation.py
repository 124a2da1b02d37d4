"""BLEU, chrF and ROUGE of generated texts, by the libraries that define them."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tlx.metrics.libraries import library
from tlx.metrics.resampling import Statistic

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def bleu(texts: Sequence[str], references: Sequence[Sequence[str]], tokenize: str = "13a") -> float:
    """sacreBLEU's corpus BLEU, 0 to 100 (Post 2018).

    references: for each text its references, any number of them. tokenize: sacreBLEU's name of how words
    are cut ("13a", "intl", "char", "ko-mecab" ...).
    """
    sacrebleu = library("sacrebleu", "sacrebleu", "BLEU")
    return float(sacrebleu.BLEU(tokenize=tokenize).corpus_score(list(texts), _columns(references)).score)


def chrf(texts: Sequence[str], references: Sequence[Sequence[str]], word_order: int = 0) -> float:
    """sacreBLEU's corpus chrF, 0 to 100 (Popović 2015); word_order 2 is chrF++."""
    sacrebleu = library("sacrebleu", "sacrebleu", "chrF")
    scorer = sacrebleu.CHRF(word_order=word_order)
    return float(scorer.corpus_score(list(texts), _columns(references)).score)


def bleu_statistic(
    texts: Sequence[str], references: Sequence[Sequence[str]], tokenize: str = "13a"
) -> Statistic:
    """BLEU of any of the texts: their n-grams are counted once."""
    return _statistic(library("sacrebleu", "sacrebleu", "BLEU").BLEU(tokenize=tokenize), texts, references)


def chrf_statistic(
    texts: Sequence[str], references: Sequence[Sequence[str]], word_order: int = 0
) -> Statistic:
    """chrF of any of the texts."""
    scorer = library("sacrebleu", "sacrebleu", "chrF").CHRF(word_order=word_order)
    return _statistic(scorer, texts, references)


def _statistic(scorer: Any, texts: Sequence[str], references: Sequence[Sequence[str]]) -> Statistic:
    # The two methods that sacreBLEU's own significance tests resample with.
    rows = np.array(scorer._extract_corpus_statistics(list(texts), _columns(references)))
    return lambda chosen: float(scorer._compute_score_from_stats(rows[chosen].sum(axis=0).tolist()).score)


def rouge(
    texts: Sequence[str], references: Sequence[Sequence[str]], stem: bool = False, ascii_words: bool = False
) -> dict[str, float]:
    """Means of `rouge_per_example`."""
    found = rouge_per_example(texts, references, stem, ascii_words)
    return {name: float(scores.mean()) for name, scores in found.items()}


def rouge_per_example(
    texts: Sequence[str], references: Sequence[Sequence[str]], stem: bool = False, ascii_words: bool = False
) -> dict[str, np.ndarray]:
    """F1 of ROUGE-1, -2, -L and -Lsum [N], 0 to 1, each text's best over its references (Lin 2004).

    ascii_words: rouge-score's own words, which hold a to z and digits only and leave nothing of Korean;
    else words are letters and digits of any script. stem: Porter's stems, of ASCII words. Sentences of
    rougeLsum are lines.
    """
    scorers = library("rouge_score.rouge_scorer", "rouge-score", "ROUGE")
    words = None if ascii_words else _Words()
    scorer = scorers.RougeScorer(ROUGE, use_stemmer=stem, tokenizer=words)
    rows = []
    for text, known in zip(texts, references, strict=True):
        best = scorer.score_multi(list(known), text)
        rows.append([best[name].fmeasure for name in ROUGE])
    return dict(zip(ROUGE, np.array(rows).reshape(-1, len(ROUGE)).T, strict=True))


class _Words:
    """rouge-score's tokenizer for every script."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"[^\W_]+", text.lower())


def _columns(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """As sacreBLEU wants them: a list for each first, second ... reference; None where a text has fewer."""
    count = max(map(len, references))
    return [[known[i] if i < len(known) else None for known in references] for i in range(count)]
