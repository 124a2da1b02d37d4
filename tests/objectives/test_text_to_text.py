"""Text to text: pairs in, pairs out, and label smoothing against numpy."""

import dataclasses

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.objectives.cases import VOCAB as CASE_VOCAB
from tests.objectives.cases import batch_of, compiled, log_softmax
from tests.objectives.rows import decoder, encoder, targets, window
from tlx.nn.losses import LossConfig
from tlx.objectives import text_to_text
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.objectives.text_to_text import TextToText
from tlx.text import Vocabulary

VOCAB = Vocabulary(400)


@settings(deadline=None)
@given(
    st.lists(st.integers(7, 299), min_size=1, max_size=20),
    st.lists(st.integers(7, 299), min_size=1, max_size=10),
    st.booleans(),
)
def test_both_texts_are_there(source, target, mark):
    spec = ObjectiveSpec(TextToText(target_length=12, mark_target=mark), 24, VOCAB, languages=("en", "de"))
    assert (
        text_to_text.OBJECTIVE.window_spec(spec)[:2] == (24, "parallel")
        and text_to_text.OBJECTIVE.window_spec(spec).second_length == 12
    )
    pair = window([*target, VOCAB.eos], 12, 1)
    row = text_to_text.OBJECTIVE.example(None, window([*source, VOCAB.eos], 24, 0, pair), spec)
    marks = [VOCAB.mark(1)] if mark else []
    assert encoder(row) == [*marks, *source, VOCAB.eos]
    assert targets(row) == [*target, VOCAB.eos] and decoder(row) == [VOCAB.bos, *target]
    assert row["encoder_tokens"].shape == (24,) and row["targets"].shape == (12,)


def test_label_smoothing_is_numpys():
    """Cross-entropy against (1 - e) onehot + e / V of the real vocabulary."""
    batch = batch_of("text_to_text", [None, [9]])
    this = compiled("text_to_text")
    module = dataclasses.replace(this.module, loss=LossConfig(label_smoothing=0.1), parent=None)
    terms, _ = jax.jit(module.apply)({"params": this.params}, batch)
    log_probs = log_softmax(np.asarray(this.forward(batch)[1]))
    own = np.take_along_axis(log_probs, batch["targets"][..., None], -1)[..., 0]
    losses = -0.9 * own - 0.1 * log_probs.mean(-1)
    assert log_probs.shape[-1] == CASE_VOCAB.size
    expected = (losses * batch["weights"]).sum()
    np.testing.assert_allclose(terms["loss"].sum, expected, rtol=1e-5)
    assert abs(terms["loss"].sum + (own * batch["weights"]).sum()) > 1e-3 * expected
