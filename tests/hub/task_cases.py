"""Small models of `transformers` classes with the head of a task."""

import copy
from typing import NamedTuple

from tests.hub.cases_decoder import GPT, GPT2, LLAMA, NEOX
from tests.hub.cases_encoder import BERT, DEBERTA, DEBERTA_V2, MOBILE, MODERN, ROBERTA, XLM

LABELS = {0: "no", 1: "perhaps", 2: "yes"}
DISTILBERT = {
    "vocab_size": 61,
    "max_position_embeddings": 30,
    "n_layers": 2,
    "n_heads": 3,
    "dim": 24,
    "hidden_dim": 40,
}
XLNET = {"vocab_size": 61, "d_model": 24, "n_layer": 2, "n_head": 3, "d_inner": 40}
BART = {
    "vocab_size": 61,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 30,
}
T5 = {
    "vocab_size": 61,
    "d_model": 24,
    "d_kv": 8,
    "d_ff": 40,
    "num_layers": 2,
    "num_heads": 3,
    "decoder_start_token_id": 0,
}
FAMILIES = {
    "Bert": ("BertConfig", BERT | {"num_hidden_layers": 2}, "QTS"),
    "Roberta": ("RobertaConfig", ROBERTA | {"num_hidden_layers": 2}, "QTS"),
    "DistilBert": ("DistilBertConfig", DISTILBERT, "QTS"),
    "Electra": ("ElectraConfig", BERT | {"embedding_size": 16}, "QTS"),
    "Albert": ("AlbertConfig", BERT | {"embedding_size": 16}, "QTS"),
    "Deberta": ("DebertaConfig", DEBERTA | {"num_hidden_layers": 2}, "QTS"),
    "DebertaV2": ("DebertaV2Config", DEBERTA_V2 | {"pooler_hidden_act": "silu"}, "QTS"),
    "MegatronBert": ("MegatronBertConfig", BERT, "QTS"),
    "ModernBert": ("ModernBertConfig", MODERN | {"classifier_pooling": "mean"}, "QTS"),
    "MobileBert": ("MobileBertConfig", MOBILE | {"num_hidden_layers": 2}, "QTS"),
    "XLM": ("XLMConfig", XLM | {"summary_activation": None}, "TS"),
    "XLNet": ("XLNetConfig", XLNET, "TS"),
    "GPT2": ("GPT2Config", GPT2 | {"pad_token_id": 0}, "QTS"),
    "OpenAIGPT": ("OpenAIGPTConfig", GPT | {"pad_token_id": 0}, "S"),
    "CTRL": ("CTRLConfig", GPT | {"dff": 40, "pad_token_id": 0}, "S"),
    "GPTNeoX": ("GPTNeoXConfig", NEOX | {"pad_token_id": 0}, "QTS"),
    "Llama": ("LlamaConfig", LLAMA | {"pad_token_id": 0}, "QTS"),
    "Mistral": ("MistralConfig", LLAMA | {"pad_token_id": 0}, "QTS"),
    "Qwen3": ("Qwen3Config", LLAMA | {"pad_token_id": 0, "head_dim": 8}, "QTS"),
    "Bart": ("BartConfig", BART, "QS"),
    "T5": ("T5Config", T5, "QS"),
    "MT5": ("MT5Config", T5 | {"feed_forward_proj": "gated-gelu"}, "S"),
}
_KINDS = {"S": "ForSequenceClassification", "T": "ForTokenClassification", "Q": "ForQuestionAnswering"}


class TaskCase(NamedTuple):
    """A class with its config."""

    architecture: str
    config_class: str
    config: dict
    kind: str


CASES = {
    f"{prefix}{_KINDS[letter]}": TaskCase(prefix + _KINDS[letter], config_class, config, letter)
    for prefix, (config_class, config, letters) in FAMILIES.items()
    for letter in letters
} | {
    f"{prefix}ForQuestionAnsweringSimple": TaskCase(
        f"{prefix}ForQuestionAnsweringSimple", *FAMILIES[prefix][:2], "Q"
    )
    for prefix in ("XLM", "XLNet")
}


def make(case: TaskCase, **changes):
    """Build the class with its weights drawn, in eager attention."""
    import torch
    import transformers

    from tests.hub.case import draw

    labels = {} if case.kind == "Q" else {"id2label": LABELS, "label2id": {v: k for k, v in LABELS.items()}}
    config = getattr(transformers, case.config_class)(**copy.deepcopy(case.config | labels | changes))
    config._attn_implementation = "eager"
    model = getattr(transformers, case.architecture)(config).eval()
    seen = set()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point() and value.data_ptr() not in seen:
                value.copy_(torch.from_numpy(draw(name, tuple(value.shape))))
            seen.add(value.data_ptr())
    return model
