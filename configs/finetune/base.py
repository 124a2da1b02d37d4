r"""A small model of any kind, pretrained on your own texts: the base model of the figures in README.md.

    tlx train --config=configs/finetune/base.py --workdir=runs/reviews-mlm \
        --config.data.text.files="('ko_reviews_text/train.txt.gz',)" \
        --config.data.text.one_document_per_line=True

":clm", ":span_corruption" and ":plm" after the name are the same with a decoder, an encoder-decoder or two
streams, with the same total number of layers. About two epochs of 22 million characters of Korean.
Hardware: any; 2 cores take about an hour. ":tiny" after the name is a few steps on the standard library.
"""

from ml_collections import ConfigDict

from tlx.recipes import tiny, words_of
from tlx.run import base_config

_POSITIONS = {
    "mlm": "rotary",
    "clm": "rotary",
    "span_corruption": "relative_bias",
    "plm": "relative_sinusoidal",
}


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is an objective ("mlm" by default), "tiny", or both joined by a colon."""
    words = words_of(arg, (*_POSITIONS, "tiny"))
    (objective,) = [word for word in words if word != "tiny"] or ["mlm"]
    config = base_config(objective)
    config.tokenizer.vocab_size = 8192
    config.data.source = "text"
    config.data.sequence_length = 128
    config.train.batch_size = 16
    config.train.steps = 10_000

    model = config.model
    model.num_layers = 4
    model.width = 192
    model.attention.num_heads = 6
    if objective == "span_corruption":
        model.num_layers = 2
        model.num_decoder_layers = 2
    model.attention.qkv_bias = False
    model.attention.out_bias = False
    model.feedforward.bias = False
    model.norm.kind = "rmsnorm"
    model.position.kind = _POSITIONS[objective]
    if objective == "plm":
        model.block_layout = "post"
        config.objective.mem_len = 64

    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 1e-2
    config.optimizer.beta2 = 0.99
    config.optimizer.schedule.warmup = 0.03
    config.optimizer.schedule.final_fraction = 0.0
    config.eval.every = 1000
    config.eval.batches = 50
    config.checkpoint.every = 500
    config.log.print_every = 200
    return tiny(config) if "tiny" in words else config
