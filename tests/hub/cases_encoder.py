"""Encoders."""

from tests.hub.case import Case

BERT = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 30,
    "layer_norm_eps": 1e-6,
}
HEADS = {"hidden": "hidden_states", "mlm": "prediction_logits", "nsp": "seq_relationship_logits"}
MASKED = {"hidden": "hidden_states", "mlm": "logits"}

CASES = {
    "bert": Case("BertForPreTraining", "BertConfig", BERT | {"type_vocab_size": 3}, HEADS, types=3),
    "bert-relu": Case("BertForMaskedLM", "BertConfig", BERT | {"hidden_act": "relu"}, MASKED, types=2),
    "bert-model": Case(
        "BertModel",
        "BertConfig",
        BERT | {"hidden_act": "gelu_new"},
        {"hidden": "last_hidden_state", "nsp": "pooler_output"},
        types=2,
    ),
}
