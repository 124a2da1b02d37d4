"""An encoder in front of an encoder (BART for translation): what it feeds, and what the first stage trains."""

import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.cli.tiny import ROOT
from tlx.base import tree
from tlx.base.errors import ConfigError
from tlx.models.config import ModelConfig
from tlx.models.families import TABLE
from tlx.models.families.family import replaced, resized
from tlx.models.transformer import Transformer
from tlx.nn.config import AttentionConfig, ExecutionConfig
from tlx.optim import OptimizerConfig, make_optimizer, make_schedule
from tlx.parallel import unbox

SMALL = {"width": 8, "num_layers": 2, "num_decoder_layers": 2, "attention__num_heads": 2, "vocab_size": 30}
BART = resized(
    TABLE.load("bart").base,
    **SMALL,
    vocab_multiple=1,
    dropout=0.0,
    attention__dropout=0.0,
    feedforward__ff_dim=12,
)


def batch_of(rng):
    tokens = {side: rng.integers(4, 30, (2, 6)).astype(np.int32) for side in ("encoder", "decoder")}
    batch = {f"{side}_tokens": value for side, value in tokens.items()}
    for side in tokens:
        batch[f"{side}_positions"] = np.tile(np.arange(6, dtype=np.int32), (2, 1))
        batch[f"{side}_segments"] = np.ones((2, 6), np.int32)
    return batch


def params_of(config, batch):
    shapes = unbox(jax.eval_shape(Transformer(config).init, jax.random.key(0), batch)["params"])
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)


@pytest.mark.slow
def test_the_encoder_reads_the_other_ones_hidden_states():
    config = replaced(BART, {"source_encoder_layers": 3, "execution": ExecutionConfig(unroll=1)})
    batch = batch_of(np.random.default_rng(1))
    params = params_of(config, batch)
    assert params["source_encoder"]["blocks"]["attention"]["query"]["kernel"].shape[0] == 3
    encode = jax.jit(
        lambda params, batch: Transformer(config).apply({"params": params}, batch, method="encode")
    )
    found = encode(params, batch)
    # By hand: an encoder alone with the new one's parameters, then the old one with its vectors for token vectors.
    alone = replaced(config, {"source_encoder_layers": 0, "num_layers": 3})
    new = {**params, "embedding": params["source_embedding"], "encoder": params["source_encoder"]}
    hidden = Transformer(alone).apply({"params": new}, batch, method="encode")
    old = replaced(config, {"source_encoder_layers": 0, "vocab_size": 12, "vocab_multiple": 1})
    table = jnp.reshape(hidden, (12, -1))
    read = {**batch, "encoder_tokens": np.arange(12, dtype=np.int32).reshape(2, 6)}
    wanted = Transformer(old).apply(
        {"params": {**params, "embedding": {"table": table}}}, read, method="encode"
    )
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.slow
def test_the_first_stage_trains_the_new_encoder_positions_and_the_first_input_projections():
    get_config = runpy.run_path(str(ROOT / "configs/finetune/translation.py"))["get_config"]
    freeze = tuple(get_config("new_encoder").optimizer.freeze)
    config = replaced(BART, {"source_encoder_layers": 1})
    shapes = params_of(config, batch_of(np.random.default_rng(1)))
    optimizer = OptimizerConfig(freeze=freeze, learning_rate=1.0)
    schedule = make_schedule(optimizer, 10)
    transform = make_optimizer(optimizer, schedule, {"model": shapes})
    state = transform.init({"model": shapes})
    ones = jax.tree.map(np.ones_like, {"model": shapes})
    for _ in range(2):
        updates, state = transform.update(ones, state, {"model": shapes})
    moved = {path: np.asarray(leaf) for path, leaf in tree.flatten(updates).items() if np.any(leaf)}
    old = {path: leaf for path, leaf in moved.items() if not path.startswith("model/source_")}
    assert set(old) == {
        "model/encoder/front/positions",
        *(
            f"model/encoder/blocks/attention/{name}/{leaf}"
            for name in ("query", "key", "value")
            for leaf in ("kernel", "bias")
        ),
    }
    assert all(np.any(leaf[0]) and not np.any(leaf[1:]) for path, leaf in old.items() if "blocks" in path)
    new = {path for path in tree.flatten({"model": shapes}) if path.startswith("model/source_")}
    assert new <= set(moved) and any("source_embedding" in path for path in new)


@pytest.mark.parametrize("changes", [{"kind": "encoder"}, {"source_encoder_layers": -1}])
def test_where_there_is_nothing_to_stand_in_front_of(changes):
    values = {
        "kind": "encoder_decoder",
        "source_encoder_layers": 2,
        "attention": AttentionConfig(num_heads=2),
    }
    with pytest.raises(ConfigError, match="source_encoder_layers"):
        ModelConfig(**(values | changes)).validate()
