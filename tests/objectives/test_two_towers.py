"""What holds for every objective of an encoder and a decoder: losses by numpy, and what each target sees.

Their module is one and the same, so that one compiled model serves all of them: a decoder's row that is
shorter is padded to the length of the others.
"""

import numpy as np
import pytest

from tests.objectives.cases import CONFIGS, LENGTH, VOCAB, batch_of, compiled, influence, log_softmax
from tlx.objectives import TABLE, denoising
from tlx.objectives.mass import MASS
from tlx.objectives.shared.encoder_decoder import EncoderDecoderModule
from tlx.objectives.ul2 import UL2, Denoiser

# Where a row of 24 would show too little: most of the text hidden, from an encoder that keeps its order.
_HARDER = {
    "denoising": denoising.Denoising(noise_density=0.2),
    "mass": MASS(mask_token_fraction=1.0, random_token_fraction=0.0),
    "ul2": UL2(denoisers=(Denoiser("X", 3, 0.5),)),
}
CASES = {
    name: _HARDER.get(name, CONFIGS[name])
    for name in TABLE
    if TABLE.load(name).module is EncoderDecoderModule and name != "span_corruption"
}
CASES["denoising in style bert"] = denoising.Denoising(
    style="bert", noise_density=0.4, random_token_fraction=0.0
)
CASES["denoising in style drop"] = denoising.Denoising(style="drop", noise_density=0.4)
CASES["S-denoising"] = UL2(denoisers=(Denoiser("S"),))


def padded(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The encoder's arrays [B, LENGTH], the others twice as long."""
    room = {key: (1 if "encoder" in key else 2) * LENGTH - value.shape[1] for key, value in batch.items()}
    assert min(room.values()) >= 0
    return {key: np.pad(value, ((0, 0), (0, room[key]))) for key, value in batch.items()}


def made(case: str, segments) -> dict[str, np.ndarray]:
    return padded(batch_of(CASES[case].name, segments, CASES[case]))


@pytest.mark.parametrize("case", CASES)
def test_loss_is_numpys(case):
    batch = made(case, [None, [9]])
    terms, logits, _ = compiled("deshuffling").forward(batch)
    scores = np.take_along_axis(log_softmax(np.asarray(logits)), batch["targets"][..., None], -1)[..., 0]
    hits = np.asarray(logits).argmax(-1) == batch["targets"]
    weights = batch["weights"]
    assert 0 < weights[1].sum() < weights[0].sum()
    np.testing.assert_allclose(terms["loss"].sum, -(scores * weights).sum(), rtol=1e-5)
    np.testing.assert_allclose(terms["accuracy"].sum, (hits * weights).sum())
    assert terms["loss"].weight == weights.sum() and terms["loss"].loss_weight == 1.0


@pytest.mark.parametrize("case", CASES)
def test_a_target_sees_the_encoders_row_and_the_targets_before_it(case):
    """By gradient: what the encoder reads, and of the decoder's row what stands up to the place; of a token
    that stands in neither, its own above all, nothing."""
    batch = made(case, [None])
    seen = influence("deshuffling", batch)[:, : VOCAB.size] > 0
    encoder = batch["encoder_tokens"][0][batch["encoder_segments"][0] > 0]
    decoder = batch["decoder_tokens"][0]
    hidden = 0
    for place in np.flatnonzero(batch["weights"][0]):
        shown = np.zeros(VOCAB.size, bool)
        shown[encoder] = shown[decoder[: place + 1]] = True
        assert np.array_equal(seen[place], shown), place
        target = batch["targets"][0, place]
        hidden += not shown[target] and not VOCAB.special[target]
    # Of a shuffled text all tokens are there to be read, and of a lightly damaged one most.
    assert hidden >= {"deshuffling": 0, "bart": 1, "denoising": 2}.get(case, 5)
