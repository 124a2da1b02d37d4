"""Masks of the next token against a slow reading of the same rules, row by row in plain Python."""

import numpy as np
import pytest

from tests.decode.tiny import PROMPTS, VOCAB, built
from tlx.decode.beam import beam_search
from tlx.decode.constraints import apply_rules, is_end, text_so_far
from tlx.decode.generate import generate, resolved_rules
from tlx.decode.padding import pad
from tlx.decode.sampling import Sampling
from tlx.text.generation_rules import GenerationRules

SIZE = 12
MAX_TOKENS = 6
ROWS = [[3, 4, 3, 4], [5], [6, 7, 3, 8, 9, 6, 7]]
NEW = [[5, 3, 4, 3], [5, 5, 6, 7], [3, 8, 6, 7]]
SOURCE = [[9, 3, 4, 8], [5, 5], [1, 2, 3, 10, 4, 7]]
RULES = {
    "banned": GenerationRules((2,), banned=(3, 11), banned_sequences=((4, 3), (6, 7, 8), (9, 1, 5), (4, 9))),
    "n-grams": GenerationRules((2,), no_repeat_ngram=2),
    "single ids": GenerationRules((2,), no_repeat_ngram=1),
    "long n-grams": GenerationRules((2,), no_repeat_ngram=4),
    "n-grams of the source": GenerationRules((2,), encoder_no_repeat_ngram=3),
    "lengths": GenerationRules((2, 9), min_length=6, min_new_tokens=1),
    "forced": GenerationRules((2, 9), banned=(1,), first=7, last=(2, 9)),
    "n-grams longer than the buffer": GenerationRules(
        (2,), no_repeat_ngram=40, banned_sequences=((1,) * 40,)
    ),
}


def expected_scores(scores, text, num_new, source, rules):
    """Scores of the next token of one row."""
    banned = set(rules.banned)
    for size, words in ((rules.no_repeat_ngram, text), (rules.encoder_no_repeat_ngram, source)):
        if size:
            tail = text[len(text) - size + 1 :] if size > 1 else []
            runs = [words[i : i + size] for i in range(len(words) - size + 1)]
            banned |= {run[-1] for run in runs if run[:-1] == tail}
    for sequence in rules.banned_sequences:
        if len(text) >= len(sequence) - 1 and tuple(text[len(text) - len(sequence) + 1 :]) == sequence[:-1]:
            banned.add(sequence[-1])
    if len(text) < rules.min_length or num_new < rules.min_new_tokens:
        banned |= set(rules.ends)
    forced = (rules.first,) if rules.first is not None and len(text) == 1 else ()
    forced = rules.last if rules.last and num_new == MAX_TOKENS - 1 else forced
    if forced:
        return np.where(np.isin(np.arange(SIZE), forced), 0.0, -np.inf)
    return np.where(np.isin(np.arange(SIZE), list(banned)), -np.inf, scores)


@pytest.mark.parametrize("name", RULES)
def test_masks_are_those_of_the_rules(name):
    rules = RULES[name]
    prompt = pad(ROWS, 0, left=True)
    source = pad(SOURCE, 0, left=False)
    scores = np.random.default_rng(0).normal(size=(3, SIZE)).astype(np.float32)
    new = np.zeros((3, 8), np.int32)
    new[:, :4] = NEW
    for num_new in (0, 1, 4, MAX_TOKENS - 1):
        text = text_so_far(prompt, new, np.int32(num_new), np.int32(MAX_TOKENS), source)
        wanted = [
            expected_scores(scores[i], ROWS[i] + new[i, :num_new].tolist(), num_new, SOURCE[i], rules)
            for i in range(3)
        ]
        np.testing.assert_array_equal(apply_rules(scores, text, rules), wanted, err_msg=str(num_new))


def test_beams_have_the_prompt_of_their_row():
    prompt, source = pad(ROWS, 0, left=True), pad(SOURCE, 0, left=False)
    text = text_so_far(prompt, np.zeros((6, 4), np.int32), np.int32(0), np.int32(4), source)
    np.testing.assert_array_equal(text.tokens_WJ[::2, :16], prompt.tokens)
    np.testing.assert_array_equal(text.tokens_WJ[1::2, :16], prompt.tokens)
    np.testing.assert_array_equal(text.source.tokens[1::2], source.tokens)


def test_rules_without_constraints_change_no_program():
    assert resolved_rules(None, VOCAB) == ((VOCAB.eos,), None)
    assert resolved_rules(GenerationRules(ends=(5, 6)), VOCAB) == ((5, 6), None)
    ends, rules = resolved_rules(GenerationRules(min_length=2), VOCAB)
    assert ends == (VOCAB.eos,) and rules.ends == ends
    np.testing.assert_array_equal(is_end(np.array([5, 6, 7]), (7, 5)), [True, False, True])


@pytest.mark.slow
def test_any_of_several_ends_ends_a_row_and_a_beam():
    lm, params = built()
    free = generate(lm, params, PROMPTS, VOCAB, max_tokens=18, sampling=Sampling(temperature=0))
    ends = (free[3][4], free[0][7])
    rules = GenerationRules(ends=ends)
    cut = generate(lm, params, PROMPTS, VOCAB, max_tokens=18, sampling=Sampling(temperature=0), rules=rules)
    for whole, short in zip(free, cut, strict=True):
        stops = [i for i, token in enumerate(whole) if token in ends]
        assert short == whole[: min(stops, default=len(whole))]
    (beams,) = beam_search(lm, params, PROMPTS[3:], VOCAB, num_beams=2, max_tokens=6, rules=rules)
    assert beams and not any(token in ends for beam in beams for token in beam.tokens)


@pytest.mark.slow
def test_the_loop_obeys_the_rules():
    lm, params = built()
    rules = GenerationRules(ends=(VOCAB.eos,), banned=(7, 8), no_repeat_ngram=2, last=(VOCAB.eos,))
    for sampling in (Sampling(temperature=0), Sampling(1.5)):
        rows = generate(lm, params, PROMPTS, VOCAB, max_tokens=18, sampling=sampling, rules=rules)
        for prompt, row in zip(PROMPTS, rows, strict=True):
            text = [*prompt, *row]
            pairs = list(zip(text[len(prompt) - 1 :], text[len(prompt) :], strict=False))
            assert not {7, 8} & set(row) and len(pairs) == len(set(pairs)) and len(row) <= 17
