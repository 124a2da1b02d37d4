"""Choices behind a prompt, scored through its cache, against scoring each whole text by itself."""

import numpy as np
import pytest

from tests.evaluate.test_scoring import SOURCES, TEXTS, VOCAB, built
from tlx.base.errors import ConfigError
from tlx.decode.choice import choice_log_probs
from tlx.evaluate import scoring
from tlx.models.transformer import Transformer

CHOICES = [[[30, 31, 32], [33], [40, 8, 9, 10, 11, 12]], [[20, 21], []], [[50]], [[9] * 5, [10, 11]]]
PROMPTS = [[VOCAB.bos, *TEXTS[i]] for i in (0, 1, 3, 2)]


@pytest.mark.parametrize("objective", ["clm", "span_corruption"])
@pytest.mark.parametrize("position", ["rotary", "learned"])
def test_choices_score_as_the_whole_text_does(objective, position):
    module, params = built(objective, position)
    lm, sources = Transformer(module.model), None
    if objective == "span_corruption":
        sources = SOURCES[:4]
    found = choice_log_probs(
        lm,
        params["model"],
        PROMPTS,
        CHOICES,
        VOCAB,
        sources=sources,
        max_length=32 if position == "learned" else None,
    )
    for row, prompt in enumerate(PROMPTS):
        for choice, values in zip(CHOICES[row], found[row], strict=True):
            text = [*prompt[1:], *choice]
            source = None if sources is None else [sources[row]]
            (whole,) = scoring.log_probs(module, params, [text], VOCAB, 64, source)
            np.testing.assert_allclose(values, whole[len(prompt) - 1 :], atol=3e-5)


def test_company_changes_nothing(monkeypatch):
    module, params = built("clm")
    given = (Transformer(module.model), params["model"])
    together = choice_log_probs(*given, PROMPTS, CHOICES, VOCAB)
    monkeypatch.setattr("tlx.decode.choice.MAX_ROWS", 3)
    apart = choice_log_probs(*given, PROMPTS, CHOICES, VOCAB)
    for one, other in zip(sum(together, []), sum(apart, []), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_refusals():
    module, params = built("clm")
    given = (Transformer(module.model), params["model"])
    with pytest.raises(ConfigError, match="2 prompts need as many lists of choices"):
        choice_log_probs(*given, PROMPTS[:2], CHOICES[:1], VOCAB)
    with pytest.raises(ConfigError, match="none of them empty"):
        choice_log_probs(*given, PROMPTS[:1], [[]], VOCAB)
    with pytest.raises(ConfigError, match="6 tokens; with max_tokens = 6"):
        choice_log_probs(*given, PROMPTS[:1], CHOICES[:1], VOCAB, max_length=10)
