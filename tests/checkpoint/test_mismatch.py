"""The table of differences: every leaf, aligned, with the nearest name, quickly."""

import time

import jax
import jax.numpy as jnp

from tlx.checkpoint import mismatch
from tlx.checkpoint.manifest import LeafInfo


def of(**shapes):
    return {path.replace("__", "/"): jax.ShapeDtypeStruct(s, jnp.float32) for path, s in shapes.items()}


def test_equal_trees_give_nothing():
    assert mismatch.table({"a/b": LeafInfo((2, 3), "float32")}, of(a__b=(2, 3))) == ""


def test_all_differences_at_once():
    saved = {
        "params/embed": LeafInfo((128, 16), "float32"),
        "params/kernel": LeafInfo((4, 4), "bfloat16"),
        "params/biases": LeafInfo((4,), "float32"),
        "opt_state/0/mu": LeafInfo((), "float32"),
    }
    wanted = of(params__embed=(256, 16), params__kernel=(4, 4), params__bias=(4,), extra=())
    assert mismatch.table(saved, wanted).splitlines() == [
        "  params/embed    checkpoint (128,16), model (256,16)",
        "  params/kernel   checkpoint bfloat16, model float32",
        "  params/bias     not in the checkpoint; nearest there: params/biases",
        "  extra           not in the checkpoint",
        "  params/biases   only in the checkpoint; nearest in the model: params/bias",
        "  opt_state/0/mu  only in the checkpoint",
    ]


def test_thousands_of_differences_are_cut_short_and_fast():
    saved = {f"params/model/blocks/layer_{i}/kernel": LeafInfo((1,), "float32") for i in range(2000)}
    wanted = of(**{f"params__net__stack__layer_{i}__weight": (1,) for i in range(2000)})
    began = time.monotonic()
    lines = mismatch.table(saved, wanted).splitlines()
    assert len(lines) == 41 and lines[-1] == "  ... and 3960 more"
    assert time.monotonic() - began < 3
