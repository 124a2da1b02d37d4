r"""Which spans of a document mean the same entity: OntoNotes (CoNLL-2012), GAP, or documents of your own.

    tlx finetune --config=configs/finetune/coreference.py --from=SPANBERT \
        --config.data.records.train="('train.english.v4_gold_conll',)" \
        --config.data.records.validation="('dev.english.v4_gold_conll',)"
    tlx finetune --config=configs/finetune/coreference.py:gap --from=BASE \
        --config.data.records.train="('gap-development.tsv',)" \
        --config.data.records.validation="('gap-validation.tsv',)"

The values are those of SpanBERT's code for its base size: windows of 384 tokens, three to an example, one document a
step, the head's learning rate five times the model's, no weight decay in it, and its gradients clipped apart from the
model's. That code corrects the bias of the head's moments alone; here both are corrected.
Documents of more windows are learned, and scored, in parts of three, unless objective.windows is as many as the
longest has. ":gap" has no genres, one window, and ranks the pronoun and the two names alone, which GAP gives
(objective.mentions; "" would score and prune all spans). Records of jsonl have text, clusters [[[start, stop]]] in
characters, and where they are known sentences and speakers.

Hardware: a GPU of 16 GB for the base size. Expected on OntoNotes (README of mandarjoshi90/coref): F1
77.7 with SpanBERT base, 79.6 with large. ":tiny" after the name is a small head that is trained for a few steps.
"""

from ml_collections import ConfigDict

from tlx.recipes import few_records, words_of
from tlx.run import finetune_config


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "", "gap", "tiny", or both joined by a colon."""
    words = words_of(arg, ("gap", "tiny"))
    config = finetune_config("coreference")
    records = config.data.records
    records.format = "conll2012"
    records.epochs = 20.0
    config.data.sequence_length = 384
    config.train.batch_size = 1
    config.optimizer.learning_rate = 2e-5
    config.optimizer.eps = 1e-6
    config.optimizer.schedule.decay_from = "start"
    config.optimizer.lr_multipliers = (("heads/", 5.0),)
    config.optimizer.weight_decay_multipliers = (("heads/", 0.0),)
    config.train.clip_groups = ("^heads/",)
    config.objective.genres = ("bc", "bn", "mz", "nw", "pt", "tc", "wb")
    if "gap" in words:
        records.format = "gap"
        records.epochs = 3.0
        config.train.batch_size = 8
        config.objective.genres = ()
        config.objective.windows = 1
        # Three mentions of a text are labelled and no others: nothing is learned of one that is pruned.
        config.objective.mentions = "mentions"
        config.objective.ranking.max_spans = 3
    if "tiny" not in words:
        return config
    ranking = config.objective.ranking
    ranking.max_span_width = 4
    ranking.hidden_width = 64
    ranking.dropout = 0.0
    few_records(config)
    config.objective.windows = 2
    config.train.batch_size = 8
    config.optimizer.learning_rate = 3e-3
    config.optimizer.lr_multipliers = ()
    return config
