r"""Why fine-tuning of BERT on small data fails for some seeds: RTE, or any pairs with a label.

    tlx finetune --config=configs/finetune/instability.py --from=BASE --seeds=5 \
        --config.data.records.train="('RTE/train.tsv',)" --config.data.records.validation="('RTE/dev.tsv',)"
    tlx finetune --config=configs/finetune/instability.py:corrected --from=BASE --seeds=5 ...
    tlx finetune --config=configs/finetune/instability.py:corrected:long --from=BASE --seeds=5 ...
    tlx report runs/plain runs/corrected runs/reinit --by=optimizer.bias_correction,adapt.reinit_layers

Without a word it is the original recipe: three epochs at 2e-5, Adam without bias correction (Devlin et al. 2019).
Words mend it, alone or together:

    corrected   Adam with bias correction (Mosbach et al. 2021; Zhang et al. 2021, 3)
    long        20 epochs (Mosbach et al. 2021, 6)
    reinit      the top layer and the pooler begin anew (Zhang et al. 2021, 4); adapt.reinit_layers=N for more
    decay       learning rates fall by .95 a layer from the top (Zhang et al. 2021, 6)
    mixout      entries of kernels are the base model's with probability .9, in place of dropout (Lee et al. 2020)

"sentences" shows it in minutes: 500 labels of sentence_polarity.py with its base model, at 3e-4, where this small
model fails as BERT large does at 2e-5.

metrics.jsonl has the norm of each layer's gradient ("grad_norm/encoder/00" ...): in runs that fail those of the lower
layers vanish early (Mosbach et al. 2021, 5). A run has failed where its accuracy is the majority baseline or less;
seeds.json has the mean, the standard deviation and the worst of the seeds.

Hardware: any. Expected: configs/finetune/README.md has the figures of "sentences"; none of these papers' size have
been recorded with tlx.
":tiny" after the name is a run of a few steps.
"""

from ml_collections import ConfigDict

from tlx.recipes import few_records, without_dropout, words_of
from tlx.run import finetune_config


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "tiny" and words of the list above, joined by colons."""
    words = words_of(arg, ("sentences", "corrected", "long", "reinit", "decay", "mixout", "tiny"))
    if "sentences" in words:
        config = _single_sentences()
    else:
        config = _pairs()
    records = config.data.records
    records.epochs = 20.0 if "long" in words else 3.0
    config.data.sequence_length = 128
    config.train.layer_norms = True
    optimizer = config.optimizer
    optimizer.learning_rate = 3e-4 if "sentences" in words else 2e-5
    optimizer.schedule.name = "linear"
    optimizer.schedule.warmup = 0.1
    optimizer.schedule.final_fraction = 0.0
    optimizer.bias_correction = "corrected" in words
    if "reinit" in words:
        config.adapt.reinit_layers = 1
    if "decay" in words:
        config.adapt.layer_lr_decay = 0.95
    if "mixout" in words:
        config.train.mixout = 0.9
        without_dropout(config.model)
    return few_records(config) if "tiny" in words else config


def _pairs() -> ConfigDict:
    """Return the task of two texts in columns."""
    config = finetune_config("pair_classification")
    config.objective.first = "sentence1"
    config.objective.second = "sentence2"
    config.data.records.format = "tsv"
    config.data.records.quoting = False
    config.train.batch_size = 16
    return config


def _single_sentences() -> ConfigDict:
    """Return the task of sentence_polarity.py with 500 labels; 4 packed rows hold about 16 sentences."""
    config = finetune_config("classification")
    config.objective.pooling = "mean"
    config.objective.label = "file"
    config.objective.labels = ("rt-polarity.neg", "rt-polarity.pos")
    config.objective.packing = True
    config.data.records.format = "lines"
    config.data.records.encoding = "latin-1"
    config.data.records.limit = 500
    config.train.batch_size = 4
    return config
