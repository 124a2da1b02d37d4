"""Sample and rank against scoring every sample by itself."""

import numpy as np
import pytest

from tests.decode.tiny import PROMPTS, SOURCES, VOCAB, built
from tests.tiers import tiers
from tlx.base.errors import ConfigError
from tlx.decode.choice import score_choices
from tlx.decode.generate import generate
from tlx.decode.ranked import sample_and_rank
from tlx.decode.rows import RowDecoder, RowRequest
from tlx.decode.sampling import Sampling

COUNT = 4
SETTINGS = {"max_tokens": 6, "sampling": Sampling(1.5), "seed": 3}


@pytest.mark.parametrize("kind", tiers(["decoder", "encoder_decoder"], slow=["decoder"]))
def test_the_likeliest_of_all_samples(kind):
    lm, params = built(kind)
    is_pair = kind == "encoder_decoder"
    rows = [
        RowRequest(prompt, **SETTINGS, source=source if is_pair else None)
        for prompt, source in zip(PROMPTS, SOURCES, strict=True)
    ]
    best = sample_and_rank(RowDecoder(lm, params, VOCAB, None), rows, COUNT)
    prompts = [prompt for prompt in PROMPTS for _ in range(COUNT)]
    sources = [source for source in SOURCES for _ in range(COUNT)] if is_pair else None
    samples = generate(lm, params, prompts, VOCAB, **SETTINGS, sources=sources)
    # One sample a row, with eos where it ended before its last token.
    whole = [[[*text, VOCAB.eos] if len(text) < 6 else text] for text in samples]
    scores = score_choices(lm, params, prompts, whole, VOCAB, sources=sources)
    totals = np.array([choice.log_probs.sum() for (choice,) in scores]).reshape(-1, COUNT)
    wanted = [samples[COUNT * row + index] for row, index in enumerate(totals.argmax(axis=1))]
    assert best == wanted
    assert len(set(totals.argmax(axis=1))) > 1 and any(len(text) < 6 for text in samples)


def test_no_sample_is_an_error():
    lm, params = built()
    with pytest.raises(ConfigError, match="best_of = -1 must be at least 1"):
        sample_and_rank(RowDecoder(lm, params, VOCAB, None), [RowRequest([5], 3, Sampling())], -1)
