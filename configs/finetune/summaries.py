r"""Summaries: of papers in a sentence (SciTLDR), or any file with texts and one or several summaries of each.

    tlx finetune --config=configs/finetune/summaries.py --from=BASE \
        --config.data.records.train="('SciTLDR-A/train.jsonl',)" \
        --config.data.records.validation="('SciTLDR-A/dev.jsonl',)"

For encoder-decoders, and with ":tldr" for decoders, which read "... TL;DR:" (Radford et al. 2019). Beam
search with 4 beams generates at most 64 tokens. With several references, ROUGE is the maximum over them.
Hardware: any. Expected: the score in README.md. ":tiny" after the name is a run of a few steps.
"""

from ml_collections import ConfigDict

from tlx.recipes import few_records, words_of
from tlx.run import finetune_config


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "", "tldr", "tiny", or both joined by a colon."""
    words = words_of(arg, ("tldr", "tiny"))
    config = finetune_config("generation")
    objective = config.objective
    objective.source = "{source} TL;DR:" if "tldr" in words else "summarize: {source}"
    objective.target = "{target}"
    objective.metrics = ("rougeL", "rouge1", "rouge2")
    objective.num_beams = 4
    objective.length_penalty = 0.8
    config.data.sequence_length = 512
    config.eval.every = 0  # generation takes longer than training: once, at the end
    return few_records(config) if "tiny" in words else config
