"""Four shapes of language model, each pretrained in minutes on the source of Python's standard library.

    tlx train --config=configs/quickstart.py                     a decoder, causal
    tlx train --config=configs/quickstart.py:mlm                 an encoder, BERT's masks
    tlx train --config=configs/quickstart.py:span_corruption     an encoder-decoder, T5's spans
    tlx train --config=configs/quickstart.py:plm                 two streams, XLNet's permutations

Hardware: any CPU; 2 cores take under 4 minutes from vocabulary to samples. Nothing is downloaded.
Expected: clm about 1.50 bits per byte on the validation files, where the Kneser-Ney trigram of the same
tokens has 1.63 and the unigram 2.72; the others end more than a quarter below the unigram of their targets.
":tiny" behind it (":tiny", ":mlm:tiny") is the same in seconds, to see that everything works.
"""

from ml_collections import ConfigDict

from tlx.run import base_config


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: an objective (clm), "tiny", or both joined by a colon."""
    words = [word for word in arg.split(":") if word]
    tiny = "tiny" in words
    (objective,) = [word for word in words if word != "tiny"] or ["clm"]
    config = base_config(objective)

    config.tokenizer.vocab_size = 4096
    config.data.sequence_length = 128
    config.train.batch_size = 8  # few tokens a batch: many small updates learn most in a few minutes

    model = config.model
    model.num_layers, model.width = 4, 128
    model.attention.num_heads = 4
    model.attention.qkv_bias = model.attention.out_bias = model.feedforward.bias = False
    model.norm.kind = "rmsnorm"
    if objective in ("clm", "mlm"):
        model.position.kind = "rotary"
    if objective == "clm":
        config.data.sequence_length, config.train.batch_size = 256, 2
    if objective == "span_corruption":
        model.position.kind = "relative_bias"
        model.num_layers, model.num_decoder_layers = 3, 3
    if objective == "plm":
        model.block_layout, model.position.kind = "post", "relative_sinusoidal"
        config.objective.mem_len = 64

    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 1e-2
    config.optimizer.beta2 = 0.99  # most rows of the table are in few of these small batches
    config.optimizer.schedule.warmup, config.optimizer.schedule.final_fraction = 0.03, 0.0
    config.train.steps = {"clm": 2600, "mlm": 2400, "span_corruption": 2100, "plm": 1800}[objective]
    config.eval.every, config.eval.batches = 500, 50
    config.checkpoint.every = 1000
    config.log.print_every = 200

    if tiny:
        model.num_layers, model.width, model.attention.num_heads = 2, 32, 2
        if objective == "span_corruption":
            model.num_layers, model.num_decoder_layers = 1, 1
        config.tokenizer.kind = "bytes"
        config.data.sequence_length = 64
        config.train.batch_size, config.train.steps = 8, 40
        config.eval.every, config.eval.batches, config.eval.final_batches = 20, 2, 4
        config.checkpoint.every, config.log.every, config.log.print_every = 20, 1, 10
    return config
