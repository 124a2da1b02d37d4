"""Continuations of padded prompts, greedy and by beams, of the cases named here, as both sides see them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.hub.case import Case, inputs
from tlx.decode.beam import beam_search
from tlx.decode.generate import generate
from tlx.decode.sampling import Sampling
from tlx.models.families.family import resized
from tlx.models.transformer import Transformer
from tlx.nn.config import ExecutionConfig
from tlx.text import Vocabulary

NAMES = ("gpt2", "neox", "llama", "mistral", "t5", "bart", "marian", "mbart")
SINCE = (
    "modernbert-decoder",
    "qwen2",
    "gemma2",
    "gemma4",
    "phi",
    "phi3",
    "gptj",
    "falcon",
    "bloom",
    "olmo2",
    "smollm3",
    "granite",
    "cohere",
    "m2m-100",
    "blenderbot-small",
    "t5gemma",
)
MAX_TOKENS, NUM_BEAMS, LENGTH_PENALTY = 12, 4, 1.5
START = 2  # of the decoder's side of an encoder-decoder


def prompts(case: Case, pad: int) -> dict[str, np.ndarray]:
    """As `inputs`: a decoder's padded on the left, as a batch that is continued must be."""
    if case.inputs == "decoder":
        case = dataclasses.replace(case, padding="left")
    made = inputs(case, case.config["vocab_size"], pad)
    if case.inputs == "encoder_decoder":
        made |= {"tokens": np.full((len(made["tokens"]), 1), START)}
    return made


def ours(checkpoint: Any, made: Mapping[str, np.ndarray], eos: int) -> dict[str, list[list[int]]]:
    """{"greedy": , "beam": } tokens of each row, without the eos."""
    config = resized(checkpoint.config, execution=ExecutionConfig(unroll=1, attention="xla"))
    lm, params = Transformer(config), checkpoint.read()["model"]
    vocab = Vocabulary(config.vocab_size, eos=eos, num_sentinels=0)

    def rows(side: str) -> list[list[int]]:
        masks = made.get(f"{side}mask")
        return [row[mask > 0].tolist() for row, mask in zip(made[f"{side}tokens"], masks, strict=True)]

    if "source_tokens" in made:
        asked = {"prompts": [[START]] * len(made["tokens"]), "sources": rows("source_")}
    else:
        asked = {"prompts": rows("")}
    given = asked | {"vocab": vocab, "max_tokens": MAX_TOKENS}
    greedy = generate(lm, params, sampling=Sampling(temperature=0.0), **given)
    beams = beam_search(lm, params, num_beams=NUM_BEAMS, length_penalty=LENGTH_PENALTY, **given)
    return {"greedy": greedy, "beam": [found[0].tokens for found in beams]}


def cut(rows: np.ndarray, eos: int) -> list[list[int]]:
    """Rows up to their first eos."""
    lists = [row.tolist() for row in rows]
    return [row[: row.index(eos)] if eos in row else row for row in lists]
