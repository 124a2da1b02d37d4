"""What a model takes over from its base."""

import jax
import numpy as np
import pytest

from tlx.adapt.transfer import base_hash, base_leaves, from_base
from tlx.base import tree
from tlx.base.errors import CheckpointError, ConfigError
from tlx.text.vocabulary import Vocabulary

VOCAB = Vocabulary(120, added=2, num_sentinels=0)  # ids 118 and 119 were added


def base(rows=128):
    rng = np.random.default_rng(3)
    table = rng.normal(0, 0.5, (rows, 4)).astype(np.float32)
    table[118:] = 0
    heads = {"nsp": {"pooler": {"kernel": np.ones((4, 4), np.float32)}}, "mlm": {"bias": np.ones(4)}}
    return {
        "model": {"embedding": {"table": table}, "norm": {"scale": np.full(4, 2.0, np.float32)}},
        "heads": heads,
    }


def fresh():
    pooler = {"kernel": np.zeros((4, 4), np.float32)}
    heads = {"task": {"pooler": pooler, "classifier": {"kernel": np.full((4, 2), 5, np.float32)}}}
    embedding = {"table": np.full((128, 4), 7, np.float32), "prompt": np.full((3, 4), 7, np.float32)}
    return jax.device_put({"model": {"embedding": embedding, "norm": {"scale": np.ones(4)}}, "heads": heads})


def test_the_model_and_its_pooler_are_taken_over():
    found = jax.device_get(from_base(fresh(), base(), "task", VOCAB, seed=1))
    assert (found["model"]["norm"]["scale"] == 2).all()
    assert (found["heads"]["task"]["pooler"]["kernel"] == 1).all()
    assert (found["heads"]["task"]["classifier"]["kernel"] == 5).all()  # stays as it is
    table, known = found["model"]["embedding"]["table"], base()["model"]["embedding"]["table"]
    np.testing.assert_array_equal(table[:118], known[:118])
    assert (table[120:] == 0).all()  # padding
    assert 0.1 < table[118:120].std() < 1.0  # drawn, as wide as the table
    prompt = found["model"]["embedding"]["prompt"]
    ordinary = known[:118][~VOCAB.special[:118]]
    assert all((ordinary == row).all(axis=1).any() for row in prompt)


def test_a_prompt_begins_with_the_names_of_the_labels():
    """The mean of each name's ids in turn; the third vector is of a frequent id, as all are without names."""
    table = base()["model"]["embedding"]["table"]
    found = base_leaves(base(), tree.flatten(fresh()), "task", VOCAB, 1, prompt=[[50, 51, 53], [60]])
    prompt = found["model/embedding/prompt"]
    np.testing.assert_allclose(prompt[0], (table[50] + table[51] + table[53]) / 3, rtol=1e-6)
    np.testing.assert_array_equal(prompt[1], table[60])
    drawn = base_leaves(base(), tree.flatten(fresh()), "task", VOCAB, 1)["model/embedding/prompt"]
    np.testing.assert_array_equal(prompt[2], drawn[2])
    assert not np.array_equal(prompt[:2], drawn[:2])
    many = base_leaves(base(), tree.flatten(fresh()), "task", VOCAB, 1, prompt=[[i] for i in range(50, 60)])
    np.testing.assert_array_equal(many["model/embedding/prompt"], table[50:53])


def test_what_is_drawn_depends_on_the_seed_alone():
    wanted = tree.flatten(fresh())
    one, same, other = (base_leaves(base(), wanted, "task", VOCAB, seed) for seed in (1, 1, 2))
    for path in ("model/embedding/table", "model/embedding/prompt"):
        np.testing.assert_array_equal(one[path], same[path])
        assert not np.array_equal(one[path], other[path])


def test_top_layers_and_the_pooler_begin_anew():
    """Of three layers the upper two stay as they were drawn; every other parameter is the base model's."""
    rng = np.random.default_rng(4)
    with_layers = base()
    stored = rng.normal(size=(3, 4, 4)).astype(np.float32)
    with_layers["model"]["encoder"] = {"blocks": {"query": {"kernel": stored}}}
    like = jax.device_get(fresh())
    drawn = rng.normal(size=(3, 4, 4)).astype(np.float32)
    like["model"]["encoder"] = {"blocks": {"query": {"kernel": drawn}}}
    like = jax.device_put(like)
    found = jax.device_get(from_base(like, with_layers, "task", VOCAB, reinit_layers=2))
    kernel = found["model"]["encoder"]["blocks"]["query"]["kernel"]
    np.testing.assert_array_equal(kernel[0], stored[0])
    np.testing.assert_array_equal(kernel[1:], drawn[1:])
    assert (found["heads"]["task"]["pooler"]["kernel"] == 0).all()
    assert (found["model"]["norm"]["scale"] == 2).all()
    whole = jax.device_get(from_base(like, with_layers, "task", VOCAB))
    np.testing.assert_array_equal(whole["model"]["encoder"]["blocks"]["query"]["kernel"], stored)
    with pytest.raises(ConfigError, match="reinit_layers = 4 must be at most 3"):
        from_base(like, with_layers, "task", VOCAB, reinit_layers=4)


def test_what_does_not_fit_is_named():
    with pytest.raises(CheckpointError, match=r"table has shape \(256, 4\) there and \(128, 4\) here"):
        from_base(fresh(), base(256), "task", VOCAB)
    shapes = {"model": {"other": jax.ShapeDtypeStruct((1,), np.float32)}}
    with pytest.raises(CheckpointError, match="it has no model/other"):
        from_base(shapes, base(), "task", VOCAB)


def test_the_hash_is_of_the_model_alone():
    one, other = base(), base()
    other["heads"]["mlm"]["bias"] += 1
    assert base_hash(one) == base_hash(other)
    other["model"]["norm"]["scale"][0] += 1e-6
    assert base_hash(one) != base_hash(other)
