"""Choices behind a prompt, scored through its cache, against scoring each whole text by itself."""

import numpy as np
import pytest

from tests.evaluation.test_scoring import SOURCES, TEXTS, VOCAB, built
from tests.tiers import tiers
from tlx.base.errors import ConfigError
from tlx.decode.choice import score_choices
from tlx.decode.generate import generate
from tlx.decode.sampling import Sampling
from tlx.evaluation import scoring
from tlx.models.transformer import Transformer
from tlx.objectives import TABLE
from tlx.objectives.shared.base import ObjectiveSpec

CHOICES = [[[30, 31, 32], [33], [40, 8, 9, 10, 11, 12]], [[20, 21], []], [[50]], [[9] * 5, [10, 11]]]
PROMPTS = [[VOCAB.bos, *TEXTS[i]] for i in (0, 1, 3, 2)]


@pytest.mark.parametrize("objective", tiers(["clm", "span_corruption"], quick=["clm"]))
@pytest.mark.parametrize("position", tiers(["rotary", "learned"], quick=["rotary"], slow=()))
def test_choices_score_as_the_whole_text_does(objective, position):
    module, params = built(objective, position)
    frame = TABLE.load(objective).frame(ObjectiveSpec(module.config, 64, VOCAB))
    lm, sources = Transformer(module.model), None
    if objective == "span_corruption":
        sources = SOURCES[:4]
    found = score_choices(
        lm,
        params["model"],
        PROMPTS,
        CHOICES,
        VOCAB,
        sources=sources,
        max_length=32 if position == "learned" else None,
    )
    for row, prompt in enumerate(PROMPTS):
        for choice, scored in zip(CHOICES[row], found[row], strict=True):
            text = [*prompt[1:], *choice]
            source = None if sources is None else [sources[row]]
            (whole,) = scoring.log_probs(module, params, [text], VOCAB, 64, frame, source)
            np.testing.assert_allclose(scored.log_probs, whole[len(prompt) - 1 :], atol=3e-5)


@pytest.mark.slow
def test_a_choice_may_end_where_the_positions_do():
    module, params = built("clm", "learned")
    frame = TABLE.load("clm").frame(ObjectiveSpec(module.config, 32, VOCAB))
    given = (Transformer(module.model), params["model"], [[VOCAB.bos]], [[[9] * 20 + [10] * 12, [11]]], VOCAB)
    ((long, _),) = score_choices(*given, max_length=32)
    (whole,) = scoring.log_probs(module, params, [[9] * 20 + [10] * 12], VOCAB, 32, frame)
    np.testing.assert_allclose(long.log_probs, whole, atol=3e-5)


@pytest.mark.slow
def test_company_changes_nothing(monkeypatch):
    module, params = built("clm")
    given = (Transformer(module.model), params["model"])
    together = score_choices(*given, PROMPTS, CHOICES, VOCAB)
    monkeypatch.setattr("tlx.decode.choice.MAX_ROWS", 3)
    apart = score_choices(*given, PROMPTS, CHOICES, VOCAB)
    for one, other in zip(sum(together, []), sum(apart, []), strict=True):
        np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-5)


def test_refusals():
    module, params = built("clm")
    given = (Transformer(module.model), params["model"])
    with pytest.raises(ConfigError, match="2 prompts need as many lists of choices"):
        score_choices(*given, PROMPTS[:2], CHOICES[:1], VOCAB)
    with pytest.raises(ConfigError, match="none of them empty"):
        score_choices(*given, PROMPTS[:1], [[]], VOCAB)
    with pytest.raises(ConfigError, match="6 tokens and its longest choice 6, more than the 10 positions"):
        score_choices(*given, PROMPTS[:1], CHOICES[:1], VOCAB, max_length=10)


@pytest.mark.slow
def test_what_is_drawn_greedily_is_likeliest():
    module, params = built("clm")
    given = (Transformer(module.model), params["model"])
    drawn = generate(*given, PROMPTS, VOCAB, max_tokens=5, sampling=Sampling(temperature=0))
    choices = [[tokens, [*tokens[:2], 60, *tokens[2:4]]] for tokens in drawn]
    for greedy, other in score_choices(*given, PROMPTS, choices, VOCAB):
        assert greedy.likeliest.all() and other.likeliest.tolist()[:3] == [True, True, False]
