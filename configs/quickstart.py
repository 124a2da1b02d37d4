"""Four shapes of language model, each pretrained in minutes on the source of Python's standard library.

    tlx train --config=configs/quickstart.py                     causal decoder
    tlx train --config=configs/quickstart.py:mlm                 masked encoder, as BERT
    tlx train --config=configs/quickstart.py:span_corruption     encoder-decoder with span corruption, as T5
    tlx train --config=configs/quickstart.py:plm                 two streams with permutations, as XLNet

Hardware: any CPU; 2 idle cores of 220 GFLOP/s take 4 minutes from vocabulary to samples (clm). Nothing is
downloaded.
Expected: clm has about 1.50 bits per byte on the validation files, where the Kneser-Ney trigram of the same
tokens has 1.63 and the unigram 2.72. The others end more than a quarter below the unigram of their targets.
":tiny" after the name (":tiny", ":mlm:tiny") is a check in seconds that everything works.
"""

from typing import Any

from ml_collections import ConfigDict

from tlx.recipes import words_of
from tlx.run import base_config

# Objectives, and steps that take each of them about as long.
STEPS = {"clm": 2600, "mlm": 2400, "span_corruption": 2100, "plm": 1800}


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is an objective (clm by default), "tiny", or both joined by a colon."""
    words = words_of(arg, (*STEPS, "tiny"))
    (objective,) = [word for word in words if word != "tiny"] or ["clm"]
    config = base_config(objective)

    config.tokenizer.vocab_size = 4096
    config.data.sequence_length = 128
    config.train.batch_size = 8  # many small updates learn most in a few minutes

    model = config.model
    model.num_layers = 4
    model.width = 128
    model.attention.num_heads = 4
    model.attention.qkv_bias = False
    model.attention.out_bias = False
    model.feedforward.bias = False
    model.norm.kind = "rmsnorm"
    if objective in ("clm", "mlm"):
        model.position.kind = "rotary"
    if objective == "clm":
        config.data.sequence_length = 256
        config.train.batch_size = 2
    if objective == "span_corruption":
        model.position.kind = "relative_bias"
        model.num_layers = 3
        model.num_decoder_layers = 3
    if objective == "plm":
        model.block_layout = "post"
        model.position.kind = "relative_sinusoidal"
        config.objective.mem_len = 64

    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 1e-2
    config.optimizer.beta2 = 0.99  # most rows of the embedding table occur in few of these small batches
    config.optimizer.schedule.warmup = 0.03
    config.optimizer.schedule.final_fraction = 0.0
    config.train.steps = STEPS[objective]
    config.eval.every = 500
    config.eval.batches = 50
    config.checkpoint.every = 200  # about 30 s on 2 cores: a kill loses less than a minute
    config.log.print_every = 200

    if "tiny" in words:
        _shrink(config)
    return config


def _shrink(config: Any) -> None:
    """Change the config in place to a check that takes seconds."""
    model = config.model
    model.num_layers = 2
    model.width = 32
    model.attention.num_heads = 2
    if model.num_decoder_layers:
        model.num_layers = 1
        model.num_decoder_layers = 1
    config.tokenizer.kind = "bytes"
    config.data.sequence_length = 64
    config.train.batch_size = 8
    config.train.steps = 40
    config.eval.every = 20
    config.eval.batches = 2
    config.eval.final_batches = 4
    config.checkpoint.every = 20
    config.log.every = 1
    config.log.print_every = 10
