"""SQuAD's rules, entities, BLEU, chrF and ROUGE."""

import random

import numpy as np
import pytest
import sacrebleu
import seqeval.metrics
from rouge_score import rouge_scorer

from tlx.base.errors import ConfigError
from tlx.metrics import entities, generation, libraries, squad

WORDS = "the a An cat, sat. on mat! U.S. 3.14 well-known 한국어 학교에 Café".split()


def texts(seed, count=40, longest=9):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(0, longest))) for _ in range(count)]


@pytest.mark.parametrize(
    ("answer", "reference", "exact", "f1"),
    [
        ("The cat.", "cat", 1, 1),
        ("the black cat", "a cat", 0, 2 / 3),
        ("cat cat", "cat", 0, 2 / 3),  # bags, not sets
        ("another", "other", 0, 0),  # articles are whole words
        ("", "", 1, 1),
        ("the", "", 1, 1),  # nothing but an article is nothing
        ("", "cat", 0, 0),
        ("U.S.", "us", 1, 1),
        ("학교에 갔다", "학교에", 0, 2 / 3),
    ],
)
def test_squad_rules(answer, reference, exact, f1):
    assert squad.exact_match(answer, reference) == exact
    assert squad.f1(answer, reference) == pytest.approx(f1)


def test_squad_scores_take_the_best_reference_and_know_unanswerable_questions():
    answers = ["Paris", "", "x"]
    found = squad.scores(answers, [["Lyon", "the Paris"], [], []])
    assert found["exact_match"] == found["f1"] == pytest.approx(2 / 3)
    assert (found["no_answer"], found["has_answer_f1"]) == (0.5, 1.0)
    assert set(squad.scores(answers, [["a b"], ["c"], ["x"]])) == {"exact_match", "f1"}


def test_squad_agrees_with_its_script():
    """The sums are those of squad_metrics.py of transformers 4.57.6, SQuAD 2's script as a module."""
    rng, words, exact, overlap = random.Random(0), [*WORDS, "theatre"], 0.0, 0.0
    for _ in range(3000):
        answer, reference = (" ".join(rng.choices(words, k=rng.randint(0, 6))) for _ in "ab")
        exact += squad.exact_match(answer, reference)
        overlap += squad.f1(answer, reference)
    assert exact == 125 and overlap == pytest.approx(483.9178932178915)


def tags(seed, count=30):
    rng = random.Random(seed)
    kinds = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "I-ORG"]
    return [rng.choices(kinds, k=rng.randint(1, 12)) for _ in range(count)]


def test_entities_agree_with_seqeval():
    true = tags(0)
    rng = random.Random(5)
    predicted = [[tag if rng.random() < 0.8 else "O" for tag in row] for row in true]
    found = entities.entity_scores(predicted, true)
    for name in ("precision", "recall", "f1"):
        assert found[name] == pytest.approx(getattr(seqeval.metrics, f"{name}_score")(true, predicted))
    assert {"f1/PER", "f1/LOC", "f1/ORG"} <= set(found)


def test_entities_by_hand():
    true = [["B-PER", "I-PER", "O", "B-LOC"]]
    assert entities.entity_scores([["B-PER", "O", "O", "B-LOC"]], true)["f1"] == 0.5
    loose = [["I-PER", "I-PER", "O", "B-LOC"]]  # conlleval: an entity begins with any tag
    assert entities.entity_scores(loose, true)["f1"] == 1.0
    assert entities.entity_scores(loose, true, scheme="IOB2")["recall"] == 0.5


def test_bleu_and_chrf_are_sacrebleus():
    hypotheses, first, second = texts(0), texts(1), texts(2)
    references = [[a, b] if i % 2 else [a] for i, (a, b) in enumerate(zip(first, second, strict=True))]
    columns = [first, [b if i % 2 else None for i, b in enumerate(second)]]
    assert generation.bleu(hypotheses, references) == sacrebleu.corpus_bleu(hypotheses, columns).score
    assert generation.chrf(hypotheses, references) == sacrebleu.corpus_chrf(hypotheses, columns).score
    plus = sacrebleu.corpus_chrf(hypotheses, columns, word_order=2).score
    assert generation.chrf(hypotheses, references, word_order=2) == plus
    assert generation.bleu(first, [[text] for text in first]) == pytest.approx(100)


def test_rouge_is_rouge_scores():
    hypotheses, first = texts(0), texts(1)
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    theirs = [scorer.score(a, b) for a, b in zip(first, hypotheses, strict=True)]
    ours = generation.rouge(hypotheses, [[text] for text in first], stem=True, ascii_words=True)
    for name in ("rouge1", "rouge2", "rougeL"):
        assert ours[name] == pytest.approx(np.mean([row[name].fmeasure for row in theirs]))


def test_rouge_reads_korean():
    assert generation.rouge(["학교에 갔다"], [["학교에 간다", "집에 갔다 왔다"]])["rouge1"] == 0.5
    assert generation.rouge(["학교에 갔다"], [["학교에 갔다"]], ascii_words=True)["rouge1"] == 0.0


def test_a_missing_library_says_what_to_install():
    with pytest.raises(ConfigError, match=r"pip install 'tlx-lm\[finetune\]'"):
        libraries.library("no_such_module", "nosuch", "BLEU")


def best_threshold_by_loop(answers, references, differences, score):
    """The search of SQuAD 2's evaluate-v2.0.py: from nobody answered to everybody, the first best place."""
    best = current = sum(not accepted for accepted in references)
    threshold = min(differences) - 1
    for difference, answer, accepted in sorted(zip(differences, answers, references, strict=True)):
        if accepted:
            current += max(score(answer, reference) for reference in accepted)
        elif answer:
            current -= 1
        if current > best:
            best, threshold = current, difference
    return best / len(answers), threshold


@pytest.mark.parametrize("shift", [-9.0, 0.0, 9.0])
def test_the_best_threshold_is_the_scripts(shift):
    """Where answers are surely wrong, none is given; where none is unanswerable, there is nothing to search."""
    rng = random.Random(1)
    words = [word for word in WORDS if squad.normalized(word)]
    answers = [" ".join(rng.choices(words, k=rng.randint(1, 3))) for _ in range(200)]
    references = [rng.choice(([], [answer], [answer + " mat", "on"], ["mat on"])) for answer in answers]
    if shift < 0:
        references = [accepted and ["x"] for accepted in references]
    differences = [rng.gauss(-0.5 if accepted else 1.0, 1.0) + shift for accepted in references]
    found = squad.best_thresholds(answers, references, differences)
    for name, score in (("exact_match", squad.exact_match), ("f1", squad.f1)):
        best, threshold = best_threshold_by_loop(answers, references, differences, score)
        assert found[f"best_{name}"] == pytest.approx(best)
        assert found[f"best_{name}_threshold"] == threshold
        # The figure is what the ordinary scores are at that threshold.
        kept = [
            "" if difference > threshold else answer
            for answer, difference in zip(answers, differences, strict=True)
        ]
        assert squad.scores(kept, references)[name] == pytest.approx(best)
    assert squad.best_thresholds(["x"], [["x"]], [0.0]) == {}
