"""config.json of releases is read as it is; what the table of dead keys and the family do not know is refused."""

import json

import pytest

from tests.hub.releases_since import RELEASES
from tlx.base.errors import ConfigError
from tlx.hub import config_file, dead_keys
from tlx.hub.folder import family_of
from tlx.hub.network import abstract_params
from tlx.models.families import MODEL_TYPES, TABLE
from tlx.models.families.family import resized


def read(name, **changes):
    release = RELEASES[name]
    values = json.loads(json.dumps(release.values | changes))
    return config_file.read(MODEL_TYPES.load(release.model_type), values)


@pytest.mark.parametrize("name", RELEASES)
def test_config_of_a_release_is_read_with_its_sizes(name):
    config = read(name)
    block = config.block("decoder" if config.kind == "decoder" else "encoder")
    sizes = (config.num_layers, config.width, config.attention.num_heads, block.ff_dim, config.vocab_size)
    assert sizes == RELEASES[name].sizes


def test_releases_cover_every_family_that_is_imported():
    assert {release.model_type for release in RELEASES.values()} == set(MODEL_TYPES)
    assert len(RELEASES) >= 60
    assert all(release.copy or release.values for release in RELEASES.values())


def test_sizes_that_the_table_of_releases_does_not_hold():
    assert read("Helsinki-NLP/opus-mt-en-de").position.kind == "sinusoidal"
    assert read("sshleifer/distilbart-cnn-12-6").decoder_layers == 6
    assert read("facebook/blenderbot-400M-distill").decoder_layers == 12
    assert read("google/byt5-small").decoder_layers == 4
    assert read("BAAI/bge-m3").position.max_length == 8192
    assert read("google/gemma-3-1b-it").attention.window_pattern == (512,) * 5 + (0,)
    assert read("microsoft/deberta-v2-xlarge").embedding.conv_kernel_size == 3
    assert read("stanford-crfm/alias-gpt2-small-x21").attention.scale_by_layer
    assert not read("gpt2").attention.scale_by_layer
    assert read("xlm-mlm-tlm-xnli15-1024").embedding.num_languages == 15
    assert read("xlm-mlm-100-1280").embedding.num_languages == 0


def test_all_unknown_keys_are_named_at_once():
    unknown = {"shared_module": True, "context_size": 2, "n_hed": 3, "logit_scale": "x" * 99}
    with pytest.raises(ConfigError) as error:
        read("openai-gpt", **unknown)
    message = str(error.value)
    for key in unknown:
        assert f"  {key} = " in message
        assert f"--ignore={key}" in message
    assert "did you mean n_head?" in message
    assert max(map(len, message.split("\n")[1:5])) < 110
    values = RELEASES["openai-gpt"].values | unknown
    config_file.read(MODEL_TYPES.load("openai-gpt"), values, ignore=tuple(unknown))


# Keys that are dead at the values of releases, and change the function at these.
LIVE = {
    "rope_interleaved": ("HuggingFaceTB/SmolLM2-135M-Instruct", True),
    "qk_layer_norms": ("HuggingFaceTB/SmolLM2-135M-Instruct", True),
    "tie_encoder_decoder": ("Helsinki-NLP/opus-mt-en-de", True),
    "share_inout_emb": ("xlm-mlm-en-2048", False),
    "n_special": ("openai-gpt", 3),
    "pruned_heads": ("bert-base-uncased", {"0": [1, 2]}),
    "is_decoder": ("bert-base-uncased", True),
    "add_cross_attention": ("gpt2", True),
    "normalize_before": ("facebook/bart-base", True),
    "add_final_layer_norm": ("facebook/mbart-large-cc25", False),
    "normalize_embedding": ("facebook/bart-base", False),
    "do_blenderbot_90_layernorm": ("facebook/bart-base", True),
    "layernorm_variant": ("facebook/blenderbot-400M-distill", "xlm"),
    "ln_type": ("albert_tiny_zh", "preln"),
    "tie_weights_": ("distilbert-base-uncased", False),
    "scale_decoder_outputs": ("google/mt5-small", True),
    "attention_head_size": ("microsoft/deberta-v2-xlarge", 32),
    "position_embedding_type": ("bert-base-uncased", "relative_key"),
    "quantization": ("Qwen/Qwen3-0.6B", {"group_size": 64, "bits": 4}),
    "quantization_config": ("Qwen/Qwen3-0.6B", {"bits": 4}),
    "use_bidirectional_attention": ("google/gemma-3-270m", True),
}


@pytest.mark.parametrize("key", LIVE)
def test_a_key_that_changes_the_function_is_refused(key):
    name, value = LIVE[key]
    with pytest.raises(ConfigError, match=key):
        read(name, **{key: value})


@pytest.mark.parametrize("key", ["_commit_hash", "_flash_attn_2_enabled", "onnx.settings"])
def test_private_keys_and_those_of_other_programs_are_dead(key):
    assert read("gpt2", **{key: True}) == read("gpt2")


def test_every_dead_key_has_a_reason():
    tables = [dead_keys.DEAD, *dead_keys.DEAD_IN.values()]
    assert all(entry.reason for table in tables for entry in table.values())
    assert set(dead_keys.DEAD_IN) <= set(MODEL_TYPES)
    for model_type, table in dead_keys.DEAD_IN.items():
        fields = MODEL_TYPES.load(model_type).fields
        known = {
            key for field in fields for key in getattr(field, "keys", None) or [getattr(field, "key", "")]
        }
        assert not known & set(table), model_type


@pytest.mark.parametrize(
    "parameters",
    [
        {"rope_type": "default", "partial_rotary_factor": 0.5},
        {"rope_type": "linear", "factor": 2.0, "attention_factor": 0.7},
        {"rope_type": "default", "factor": 4.0},
        {"rope_type": "proportional", "factor": 4.0},
        {"rope_type": "yarn", "factor": 4.0, "long_factor": [1.0]},
        {"rope_type": "default", "mrope_section": [16, 24, 24]},
    ],
)
def test_unknown_parts_of_rotary_parameters_are_refused(parameters):
    with pytest.raises(ConfigError, match="rope_parameters"):
        read("meta-llama/Llama-2-7b-hf", rope_parameters={"rope_theta": 1e4, **parameters})


def test_rotary_parameters_of_layers_are_groups_of_known_names():
    with pytest.raises(ConfigError, match="rope_theta"):
        read("google/gemma-3-270m", rope_parameters={"rope_theta": 1e4, "rope_type": "default"})


@pytest.mark.parametrize("fraction", [0.15, 0.08])
def test_an_odd_number_of_rotated_dims_is_refused(fraction):
    assert int(64 * fraction) % 2
    with pytest.raises(ConfigError, match=f"{int(64 * fraction)} rotated dims"):
        read("EleutherAI/pythia-160m", rotary_pct=fraction)


def test_unlike_stacks_and_layers_are_written_as_they_were_read():
    changes = {"decoder_attention_heads": 4, "decoder_ffn_dim": 1000}
    bart = read("facebook/bart-base", **changes)
    assert bart.block("encoder").attention.num_heads == 12
    assert bart.block("decoder").attention.num_heads == 4
    assert bart.block("decoder").head_dim == 192
    assert bart.block("decoder").ff_dim == 1000
    values = config_file.write(MODEL_TYPES.load("bart"), bart)
    assert {key: values[key] for key in changes} == changes
    gpt2 = read("stanford-crfm/alias-gpt2-small-x21")
    assert config_file.write(MODEL_TYPES.load("gpt2"), gpt2)["scale_attn_by_inverse_layer_idx"] is True
    groups = {"num_hidden_groups": 3, "inner_group_num": 2}
    albert = read("albert-base-v2", **groups)
    assert albert.num_layers == 24
    assert albert.block("encoder").shared_order == (0, 1) * 4 + (2, 3) * 4 + (4, 5) * 4
    values = config_file.write(MODEL_TYPES.load("albert"), albert)
    assert {key: values[key] for key in groups} == groups and values["num_hidden_layers"] == 12
    deberta = read("microsoft/deberta-v2-xlarge", conv_act="tanh")
    assert config_file.write(MODEL_TYPES.load("deberta-v2"), deberta)["conv_act"] == "tanh"


@pytest.mark.parametrize("name", ["facebook/bart-base"])
def test_heads_of_the_decoder_must_divide_the_width(name):
    with pytest.raises(ConfigError, match="num_decoder_heads = 7"):
        read(name, decoder_attention_heads=7)


def test_a_model_of_no_family_is_told_the_nearest_first():
    config = resized(
        TABLE.load("gpt2").base, width=8, attention__num_heads=2, vocab_size=9, position__kind="none"
    )
    with pytest.raises(ConfigError) as error:
        family_of(config, abstract_params(config))
    first, *others = str(error.value).split("\n")
    assert "The nearest is gpt2: model.position.kind = 'none' cannot be represented" in first
    assert "train a run with: --config.model.position.kind=learned" in first
    assert len(others) > 20 and not any("  gpt2:" in line for line in others)
