"""Every config of configs/pretrain, at its published size and at the laptop's: what holds untrained."""

import runpy

import pytest

from tests.cli.tiny import ROOT
from tests.tiers import tiers
from tlx.base.config import flatten, to_dict
from tlx.base.errors import ConfigError
from tlx.models.families import TABLE as FAMILIES
from tlx.objectives import TABLE as OBJECTIVES
from tlx.run.checks import check_devices, resolve
from tlx.run.spec import abstract_batch, spec_before_tokenizer

FOLDER = ROOT / "configs/pretrain"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
ARGS = {
    "multi_token": ("", "medusa"),
    "t5": ("", "1.1", "deshuffling", "bert", "mask", "spans", "drop"),
}
CASES = [(name, arg) for name in NAMES for arg in ARGS.get(name, ("",))]
DROPOUTS = {"dropout", "attention.dropout", "feedforward.dropout"}
# What a config changes of the model that was published.
CHANGES = {
    "prefix_lm": {"kind"},
    "mt5": DROPOUTS,
    "ul2": DROPOUTS,
    "t5:1.1": DROPOUTS,
    "tinybert": {"num_layers", "width", "feedforward.ff_dim", "attention.num_heads"},
}


def load(name, arg=""):
    return resolve(runpy.run_path(str(FOLDER / f"{name}.py"))["get_config"](arg))


def tiny(arg):
    return ":".join(filter(None, [arg, "tiny"]))


# One of each shape of model; CI's slow tier builds the others.
QUICK = [
    case for case in CASES if case[0] in ("bert", "gpt2", "t5", "xlnet", "elmo") and case[1] in ("", "spans")
]


@pytest.mark.slow
@pytest.mark.parametrize("name, arg", tiers(CASES, quick=QUICK))
def test_the_published_size_can_be_built_and_sharded(name, arg):
    """Model, heads, batch and loss are traced on a mesh of eight; nothing is computed."""
    config = load(name, arg)
    check_devices(config, 8)
    own = flatten(to_dict(config.model))
    published = [
        flatten(to_dict(size)) for family in FAMILIES for size in FAMILIES.load(family).sizes.values()
    ]
    changed = min(({key for key in own if own[key] != size[key]} for size in published), key=len)
    assert changed <= CHANGES.get(":".join(filter(None, [name, arg])), set())
    assert config.tokenizer.vocab_size == config.model.vocab_size
    assert all(source.source == "tfds" and source.tfds.name for source in config.data.sources)
    _check_batch(config)


@pytest.mark.slow
@pytest.mark.parametrize("name, arg", tiers(CASES, quick=QUICK, slow=()))
def test_the_laptops_size_is_the_same_in_small(name, arg):
    """The same objective and blocks, on text that is on every machine."""
    full, small = load(name, arg), load(name, tiny(arg))
    check_devices(small, 1)
    assert small.objective.name == full.objective.name and small.model.kind == full.model.kind
    for part in ("block_layout", "share_layers", "norm", "head", "position"):
        assert getattr(small.model, part) == getattr(full.model, part)
    assert all(source.source in ("python", "text", "docstrings") for source in small.data.sources)
    assert small.model.width == 64 and small.train.steps <= 100
    _check_batch(small)


def test_every_objective_has_a_config():
    found = {load(name, arg).objective.name for name, arg in CASES}
    assert found == set(OBJECTIVES)


def _check_batch(config):
    batch = abstract_batch(config, spec_before_tokenizer(config))
    assert all(leaf.shape[0] == config.train.batch_size for leaf in batch.values())
    lengths = {leaf.shape[1] for name, leaf in batch.items() if name in ("tokens", "encoder_tokens")}
    assert lengths <= {config.data.sequence_length}


def test_a_word_that_is_none_is_named():
    with pytest.raises(ConfigError, match="did you mean 'tiny'"):
        load("bert", "tniy")
    with pytest.raises(ConfigError, match="a word behind the config's name = 'spam'"):
        load("t5", "spam")
