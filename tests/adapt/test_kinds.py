"""Models of another kind: what they compute before they are trained, by equivalences with what they began as."""

import jax
import numpy as np
import pytest

import tlx
from tests.run_directory import write_run
from tlx.adapt.kinds import convert_kind
from tlx.base import tree
from tlx.base.errors import ConfigError
from tlx.base.files import read_json
from tlx.cli import main
from tlx.models.config import HeadConfig, ModelConfig
from tlx.models.families.family import replaced
from tlx.models.transformer import Transformer
from tlx.nn.config import AttentionConfig, ExecutionConfig, FeedForwardConfig, NormConfig, PositionConfig
from tlx.nn.embed import EmbeddingConfig
from tlx.parallel import unbox

DECODER = ModelConfig(
    kind="decoder",
    vocab_size=30,
    vocab_multiple=1,
    width=16,
    num_layers=2,
    attention=AttentionConfig(num_heads=4, num_kv_heads=2, qk_norm=True, qkv_bias=False),
    feedforward=FeedForwardConfig(gated=True, activation="silu", bias=False, ff_dim=24),
    norm=NormConfig(kind="rmsnorm"),
    position=PositionConfig("rotary"),
    head=HeadConfig(tied=False),
    execution=ExecutionConfig(unroll=1, attention="xla"),
)
ENCODER = ModelConfig(
    kind="encoder",
    vocab_size=30,
    vocab_multiple=1,
    width=16,
    num_layers=2,
    block_layout="post",
    attention=AttentionConfig(num_heads=4),
    embedding=EmbeddingConfig(num_types=2, norm=True),
    position=PositionConfig("learned", max_length=12),
    execution=ExecutionConfig(unroll=1, attention="xla"),
)
LENGTH = 6


def ids(prefix="", length=LENGTH):
    tokens = np.random.default_rng(1).integers(4, 30, (2, length)).astype(np.int32)
    positions = np.tile(np.arange(length, dtype=np.int32), (2, 1))
    return {
        f"{prefix}tokens": tokens,
        f"{prefix}positions": positions,
        f"{prefix}segments": np.ones((2, length), np.int32),
    }


def params_of(config):
    shapes = unbox(jax.eval_shape(Transformer(config).init, jax.random.key(0), ids())["params"])
    rng = np.random.default_rng(0)
    return {"model": jax.tree.map(lambda leaf: rng.normal(0, 0.4, leaf.shape).astype(np.float32), shapes)}


def hidden(config, params, batch):
    return np.asarray(Transformer(config).apply({"params": params["model"]}, batch))


@pytest.mark.slow
@pytest.mark.parametrize(("source", "kind"), [(DECODER, "encoder"), (ENCODER, "decoder")])
def test_one_token_is_read_alike_and_several_from_the_other_sides(source, kind):
    """Of one token attention sees all there is, whatever its mask."""
    params = params_of(source)
    config, converted = convert_kind(source, params, kind)
    config.validate()
    one = ids(length=1)
    np.testing.assert_allclose(hidden(config, converted, one), hidden(source, params, one), atol=1e-6)
    batch = ids()
    other = {**batch, "tokens": batch["tokens"].copy()}
    other["tokens"][:, -1] = 4 + (other["tokens"][:, -1] - 3) % 26
    moved = (
        np.abs(hidden(config, converted, batch) - hidden(config, converted, other)).max(axis=(0, 2)) > 1e-6
    )
    assert moved.tolist() == [kind == "encoder"] * (LENGTH - 1) + [True]
    back, again = convert_kind(config, converted, source.kind)
    assert back == source
    jax.tree.map(np.testing.assert_array_equal, again, params)


@pytest.mark.parametrize(("source", "way"), [(DECODER, "copy"), (ENCODER, "random"), (ENCODER, "copy")])
def test_both_stacks_begin_as_the_model_and_cross_attention_as_asked(source, way):
    params = params_of(source)
    config, converted = convert_kind(source, params, "encoder_decoder", way)
    assert config.kind == "encoder_decoder" and config.num_layers == config.decoder_layers == 2
    stack = params["model"][source.kind]
    encoder = converted["model"]["encoder"]
    jax.tree.map(np.testing.assert_array_equal, encoder, stack)
    blocks = converted["model"]["decoder"]["blocks"]
    if way == "copy":
        jax.tree.map(np.testing.assert_array_equal, blocks["cross_attention"], blocks["attention"])
        jax.tree.map(np.testing.assert_array_equal, blocks["cross_norm"], blocks["attention_norm"])
    else:
        kernel = blocks["cross_attention"]["query"]["kernel"]
        assert 0.01 < kernel.std() < 0.03 and not np.any(blocks["cross_attention"]["query"]["bias"])
        np.testing.assert_array_equal(blocks["cross_norm"]["scale"], np.ones((2, 16)))
        return
    if source.kind == "encoder":
        return
    # Without cross-attention's output the decoder is the old one, logits and all.
    blocks["cross_attention"]["out"] = jax.tree.map(np.zeros_like, blocks["cross_attention"]["out"])
    batch = {**ids("encoder_"), **ids("decoder_")}
    found = hidden(config, converted, batch)
    np.testing.assert_allclose(found, hidden(source, params, ids()), atol=1e-5)
    np.testing.assert_array_equal(converted["model"]["output"]["kernel"], params["model"]["output"]["kernel"])


def test_what_the_new_kind_cannot_have_is_named():
    both, params = convert_kind(DECODER, params_of(DECODER), "encoder_decoder")
    for config, kind, message in (
        (both, "decoder", "only an encoder or a decoder is converted"),
        (DECODER, "decoder", "the kind to convert to"),
        (replaced(DECODER, {"block_layout": "sandwich"}), "encoder", "'sandwich' is for decoders"),
        (replaced(ENCODER, {"embedding.width": 8}), "decoder", "embedding.width is for encoders"),
        (replaced(DECODER, {"position.kind": "relative_bias"}), "encoder", "buckets mean other distances"),
        (replaced(DECODER, {"adapters.lora_rank": 2}), "encoder", "merge them first"),
    ):
        with pytest.raises(ConfigError, match=message):
            convert_kind(config, params, kind)


@pytest.mark.slow
def test_a_run_becomes_a_run_of_another_kind(tmp_path, capsys):
    source = write_run(tmp_path / "decoder", "clm")
    assert main(["convert", "adapt", str(source), str(tmp_path / "both"), "--kind=encoder_decoder"]) == 0
    assert "from a decoder; train it before use" in capsys.readouterr().out
    lm = tlx.load(tmp_path / "both")
    assert lm.kind == "encoder_decoder" and lm.config.objective.name == "span_corruption"
    flat = tree.flatten(lm.params)
    before = tree.flatten(tlx.load(source).params)
    path = "blocks/attention/query/kernel"
    for stack in ("encoder", "decoder"):
        np.testing.assert_array_equal(flat[f"model/{stack}/{path}"], before[f"model/decoder/{path}"])
    saved = read_json(tmp_path / "both/run.json")
    assert saved["data"]["adapted_from"] == str(source)
    assert main(["convert", "adapt", str(source), str(tmp_path / "none")]) == 64
    assert "--kind=encoder, decoder or encoder_decoder is missing" in capsys.readouterr().err
