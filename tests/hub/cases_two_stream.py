"""Two streams."""

from tests.hub.case import Case

XLNET = {
    "vocab_size": 61,
    "d_model": 24,
    "n_layer": 3,
    "n_head": 3,
    "d_inner": 40,
    "ff_activation": "gelu",
    "layer_norm_eps": 1e-6,
    "mem_len": 5,
    "reuse_len": 4,
}
OUTPUTS = {"hidden": "hidden_states", "logits": "logits"}

CASES = {
    "xlnet": Case("XLNetLMHeadModel", "XLNetConfig", XLNET, OUTPUTS, inputs="two_stream", types=3),
    "xlnet-content": Case(
        "XLNetLMHeadModel",
        "XLNetConfig",
        XLNET | {"ff_activation": "relu", "n_head": 4},
        OUTPUTS,
        types=2,
        padding="left",
    ),
}
