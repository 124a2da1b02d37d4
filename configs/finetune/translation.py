r"""Translation: Python's documentation into Korean, or any file with texts and their translations.

    tlx finetune --config=configs/finetune/translation.py --from=BASE \
        --config.data.records.train="('python_docs_ko_en/train.jsonl.gz',)" \
        --config.data.records.validation="('python_docs_ko_en/dev.jsonl.gz',)"
    tlx finetune --config=configs/finetune/translation.py:en --from=BASE ...             into English
    tlx finetune --config=configs/finetune/translation.py:en:new_encoder --from=BART --workdir=runs/first ...
    tlx finetune --config=configs/finetune/translation.py:en --from=runs/first ...       then all of it

"new_encoder" is BART for translation (Lewis et al. 2020, 3.4): an encoder of six layers with a token table of its own
stands in front of a pretrained BART, which thereby reads another language. In the first run only it, BART's positions
and the input projections of attention in BART's first layer learn; the second one trains everything, for a few steps.

Back-translation (Sennrich et al. 2016), which MASS and mBART were evaluated with: a run into English answers Korean
texts, and the run into Korean learns from them beside the pairs:

    tlx data answer --config=configs/finetune/translation.py:en --from=runs/ko-en --column=en --to=back.jsonl \
        --config.data.records.train="('korean.jsonl',)"
    tlx finetune --config=configs/finetune/translation.py --from=BASE \
        --config.data.records.train="('python_docs_ko_en/train.jsonl.gz', 'back.jsonl')" ...

The columns are "en" and "ko". BLEU is sacreBLEU's, with its 13a tokenization; chrF, over characters, is more
informative for Korean, whose words are long. From scratch, raise the learning rate and the epochs.
Hardware: any. Expected: the score in README.md. ":tiny" after the name is a run of a few steps.
"""

from ml_collections import ConfigDict

from tlx.recipes import few_records, words_of
from tlx.run import finetune_config

# All of an encoder-decoder but its encoder's positions, and queries, keys and values of its encoder's first layer.
_FIRST_STAGE = (
    "^model/(embedding|decoder|output|encoder/(final_norm|position_bias|front/(norm|types|languages)))",
    "^model/encoder/blocks[1:]/",
    "^model/encoder/blocks[0]/(?!attention/(query|key|value)/)",
)


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "", or some of "en", "new_encoder" and "tiny" joined by colons."""
    words = words_of(arg, ("en", "new_encoder", "tiny"))
    config = finetune_config("generation")
    objective = config.objective
    objective.source = "translate English to Korean: {en}"
    objective.target = "{ko}"
    if "en" in words:
        objective.source = "translate Korean to English: {ko}"
        objective.target = "{en}"
    if "new_encoder" in words:
        # As the base must be: the encoder stands in front of its own.
        config.model.kind = "encoder_decoder"
        config.model.source_encoder_layers = 6
        config.optimizer.freeze = _FIRST_STAGE
    objective.metrics = ("chrf", "bleu")
    objective.num_beams = 4
    objective.target_length = 128
    config.data.sequence_length = 256
    config.loss.label_smoothing = 0.1
    config.eval.every = 0  # generation takes longer than training: once, at the end
    return few_records(config) if "tiny" in words else config
