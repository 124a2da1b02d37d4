"""A model in ELMo's released layout as a loaded model, for tasks to read."""

import dataclasses
import os
import pathlib

import jax

from tlx.api.loaded_model import LoadedModel
from tlx.base import tree
from tlx.base.config import to_dict
from tlx.hub import elmo
from tlx.run import base_config
from tlx.run.checks import resolve
from tlx.run.spec import make_module
from tlx.text.frames import Frame
from tlx.text.huggingface_tokenizer import HuggingFaceTokenizer


def load_elmo(path: str | os.PathLike, dtype: str | None = None) -> LoadedModel:
    """Load a folder of options, weights and words (hub/elmo.py) as a model of the objective "bilm".

    Its tokenizer's ids are the words of the vocabulary's file; any other word is the unknown one. The softmax was not
    released: the model has no logits.

    Args:
        path: The folder.
        dtype: "float32" or "bfloat16" for parameters and computation; None: float32.

    Returns:
        The model.

    Raises:
        ConfigError: A library is missing, or the options describe another network.
        DataError: A file is missing, damaged, or does not fit the options.
    """
    folder = pathlib.Path(path).absolute()
    model = elmo.read_config(folder)
    tokenizer = HuggingFaceTokenizer(elmo.tokenizer_files(elmo.read_words(folder)))
    vocab = tokenizer.vocab
    model = dataclasses.replace(model, vocab_size=vocab.size)
    begin = (vocab.bos,)
    end = (vocab.eos,)
    # Every sentence of the released model's text stood between the two.
    frame = Frame(before=begin, between=(*end, *begin), after=end, start=begin, end=end, place=-1)
    values = base_config("bilm").to_dict()
    values["model"] = to_dict(model) | ({} if dtype is None else {"dtype": dtype})
    values["objective"]["max_characters"] = model.recurrent.characters.max_characters
    values["frame"] = to_dict(frame)
    # A stand-in until the model is saved: then tokenizer.path names the tokenizer.
    values["tokenizer"]["kind"] = "bytes"
    config = resolve(values)
    leaves = elmo.read_params(folder, model)
    params = jax.device_put({name: leaf.astype(dtype or "float32") for name, leaf in leaves.items()})
    return LoadedModel(config, tree.unflatten(params), tokenizer, make_module(config, vocab), 0)
