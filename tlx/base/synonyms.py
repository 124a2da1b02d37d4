"""Other names of config values: synonyms that are accepted, and names of something else with the difference.

A synonym is saved under tlx's name, so that a run is the same whichever was typed. A name of another thing is
never taken for the nearest one: the message says how they differ.
"""

import re
from collections.abc import Container, Iterable, Mapping
from typing import Any

from tlx.base.errors import ConfigError, one_of

_DTYPES = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
    "fp32": "float32",
    "f32": "float32",
    "float": "float32",
}

_ACTIVATIONS = {
    "swish": "silu",
    "gelu_new": "gelu_tanh",
    "gelu_approx": "gelu_tanh",
    "gelu_approximate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_exact": "gelu",
    "gelu_erf": "gelu",
    "gelu_python": "gelu",
}

# {key: {synonym: tlx's name}}. A key without a group before it stands for the last name of any key.
SYNONYMS: Mapping[str, Mapping[str, str]] = {
    "activation": _ACTIVATIONS,
    "dtype": _DTYPES,
    "param_dtype": _DTYPES,
    "momentum_dtype": _DTYPES,
    "model.kind": {
        "decoder_only": "decoder",
        "encoder_only": "encoder",
        "seq2seq": "encoder_decoder",
    },
    "model.block_layout": {
        "pre_norm": "pre",
        "prenorm": "pre",
        "pre_ln": "pre",
        "preln": "pre",
        "post_norm": "post",
        "postnorm": "post",
        "post_ln": "post",
        "postln": "post",
    },
    "model.norm.kind": {
        "rms": "rmsnorm",
        "rms_norm": "rmsnorm",
        "layer_norm": "layernorm",
        "ln": "layernorm",
        "no_norm": "affine",
        "nonorm": "affine",
    },
    "model.position.kind": {
        "rope": "rotary",
        "roformer": "rotary",
        "rotary_embedding": "rotary",
        "rotary_embeddings": "rotary",
        "sincos": "sinusoidal",
        "sinusoid": "sinusoidal",
        "nope": "none",
        "t5": "relative_bias",
        "t5_bias": "relative_bias",
        "xlnet": "relative_sinusoidal",
        "transformer_xl": "relative_sinusoidal",
        "deberta": "disentangled",
    },
    "model.parametrization.name": {
        "mu_p": "mup",
        "sp": "standard",
        "complete_p": "completep",
    },
    "optimizer.name": {
        "adam_w": "adamw",
        "adafactor": "adafactor",
        "adagrad": "adagrad",
        "lamb": "lamb",
        "lion": "lion",
        "muon": "muon",
    },
    "data.source": {
        "file": "text",
        "files": "text",
        "txt": "text",
        "tensorflow_datasets": "tfds",
    },
    "optimizer.schedule.name": {
        "cosine_decay": "cosine",
        "linear_decay": "linear",
        "rsqrt": "inverse_sqrt",
        "inv_sqrt": "inverse_sqrt",
        "inverse_square_root": "inverse_sqrt",
        "warmup_stable_decay": "wsd",
        "trapezoidal": "wsd",
    },
    "tokenizer.kind": {
        "spm": "sentencepiece",
        "hf": "huggingface",
        "hugging_face": "huggingface",
        "byte": "bytes",
    },
    "adapt.method": {
        "all": "full",
        "full_finetuning": "full",
        "linear_probe": "head",
        "linear_probing": "head",
        "prefix_tuning": "prefix",
        "prompt_tuning": "prompt",
        "bit_fit": "bitfit",
        "fl_tuning": "fl",
    },
    "objective.name": {
        "causal_lm": "clm",
        "causal_language_modeling": "clm",
        "lm": "clm",
        "medusa": "multi_token",
        "multi_token_prediction": "multi_token",
        "mtp": "multi_token",
        "masked_lm": "mlm",
        "masked_language_modeling": "mlm",
        "permutation_lm": "plm",
        "permuted_lm": "plm",
        "replaced_token_detection": "rtd",
        "next_sentence_prediction": "nsp",
        "sentence_order_prediction": "sop",
        "reward_model": "reward",
        "reward_modeling": "reward",
        "summarization": "generation",
        "translation": "generation",
        "ner": "token_classification",
        "coref": "coreference",
        "coreference_resolution": "coreference",
        "sequence_classification": "classification",
    },
}

_GATED = (
    "is an activation and a gate, two keys: set {group}.activation = '{activation}' and {group}.gated = True"
)

# {key: {name of another thing: how it differs, and what to set instead}}.
OTHERS: Mapping[str, Mapping[str, str]] = {
    "optimizer.name": {
        "adam": "adds weight decay to the gradient, adamw to the parameter (decoupled); Adam without weight decay is "
        "optimizer.name = 'adamw' with optimizer.weight_decay = 0",
        "sgd": "has one learning rate for all parameters and no second moment; tlx has no optimizer without one "
        "(the nearest in memory is lion)",
        "momentum": "is SGD with momentum, which has no second moment; the nearest in memory is lion",
        "rmsprop": "has no first moment and no bias correction; adamw with optimizer.beta1 = 0 is near it",
        "shampoo": "keeps a preconditioner for each dim of a matrix; muon orthogonalises the update without one",
        "soap": "is Adam in the eigenbasis of Shampoo's preconditioner, which tlx does not have; muon is the nearest",
        "sophia": "uses an estimate of the Hessian's diagonal, which tlx does not have",
    },
    "activation": {
        "swiglu": _GATED.format(group="feedforward", activation="silu"),
        "geglu": _GATED.format(group="feedforward", activation="gelu"),
        "reglu": _GATED.format(group="feedforward", activation="relu"),
        "quick_gelu": "is x sigmoid(1.702 x), near gelu_tanh but not equal",
    },
    "model.norm.kind": {
        "batchnorm": "normalises over the batch, so that a row's output depends on other rows",
        "scalenorm": "has one scale in place of one per channel; rmsnorm is the nearest",
    },
    "model.position.kind": {
        "absolute": "is one of two: 'learned' (a trained table, as in BERT and GPT-2) or 'sinusoidal'",
    },
    "model.execution.attention": {
        "flash": "is called after its hardware: 'cudnn' on NVIDIA GPUs, 'splash' on TPUs; 'auto' takes the best "
        "that runs",
        "flash_attention_2": "is torch's package; 'auto' takes the best kernel that runs (cudnn, splash)",
        "sdpa": "is torch's function; 'auto' takes the best kernel that runs (cudnn, splash)",
        "eager": "is torch's word; here 'xla' is attention by plain einsums",
    },
    "adapt.method": {
        "adapter": "is one of two: 'houlsby' (after attention and feed-forward) or 'pfeiffer' (after feed-forward)",
        "adapters": "is one of two: 'houlsby' (after attention and feed-forward) or 'pfeiffer' (after feed-forward)",
        "qlora": "is LoRA on a base of 4 bits, which tlx does not have; 'lora' keeps the base as it is stored",
        "dora": "also trains the norm of each column, which tlx does not have; 'lora' is the nearest",
        "ia3": "scales keys, values and hidden units, which tlx does not have; 'bitfit' trains as few numbers",
    },
    "tokenizer.kind": {
        "bpe": "is an algorithm: set tokenizer.model_type = 'bpe' with tokenizer.kind = 'sentencepiece'",
        "unigram": "is an algorithm: set tokenizer.model_type = 'unigram' with tokenizer.kind = 'sentencepiece'",
        "wordpiece": "vocabularies are read, not trained: tokenizer.kind = 'huggingface' with tokenizer.path; "
        "to train one, 'sentencepiece'",
        "tiktoken": "vocabularies are read as tokenizer.json: tokenizer.kind = 'huggingface' with tokenizer.path",
        "characters": "are not a kind; the nearest is 'bytes'",
    },
    "objective.name": {
        "bert": "is two objectives in one: 'nsp' is masking with next-sentence prediction, 'mlm' masking alone",
        "t5": "is a model; its pretraining is 'span_corruption', its fine-tuning 'text_to_text' or 'generation'",
        "gpt": "is a model; it is pretrained with 'clm'",
        "gpt2": "is a model; it is pretrained with 'clm'",
        "roberta": "is a model; it is pretrained with 'mlm'",
        "electra": "is a model; it is pretrained with 'rtd'",
        "xlnet": "is a model; it is pretrained with 'plm'",
        "elmo": "is a model; it is pretrained with 'bilm'",
        "dpo": "is a loss of the task 'preference': objective.loss = 'dpo', which configs/posttrain/dpo.py has",
        "kto": "is a loss of the task 'preference': objective.loss = 'kto', which configs/posttrain/dpo.py:kto has",
        "orpo": "is a loss of the task 'preference': objective.loss = 'orpo'",
        "sft": "is fine-tuning on conversations, the task 'chat', or on instructions, the task 'generation'",
    },
}


def canonical(path: str, value: Any, legal: Container[Any] | None = None) -> Any:
    """Return tlx's name of a value; the value itself where it is no synonym.

    Args:
        path: dotted key, with or without "config." before it.
        value: value of any type; only texts have synonyms.
        legal: legal values, where they are known: another spelling of one (case, dashes) is it too.

    Returns:
        The value to save.
    """
    if not isinstance(value, str) or legal is not None and value in legal:
        return value
    spelled = _plain(value)
    for table in _tables(SYNONYMS, path):
        for synonym, name in table.items():
            if spelled in (_plain(synonym), name) and (legal is None or name in legal):
                return name
    if legal is not None and spelled in legal:
        return spelled
    return value


def unknown_value(path: str, value: Any, legal: Iterable[Any]) -> ConfigError:
    """Make the error for a value that is not legal: how it differs, where it is known, or the nearest legal one.

    Args:
        path: dotted key.
        value: the value.
        legal: legal values.

    Returns:
        The error, to be raised.
    """
    for table in _tables(OTHERS, path):
        if isinstance(value, str) and _plain(value) in table:
            names = ", ".join(map(str, legal))
            return ConfigError(f"{path} = {value!r} {table[_plain(value)]}. Legal values: {names}")
    return ConfigError(one_of(path, value, legal))


def _plain(value: str) -> str:
    return value.strip().lower().replace("-", "_")


def _tables(tables: Mapping[str, Mapping[str, str]], path: str) -> list[Mapping[str, str]]:
    """Return the tables of a key: of its whole path, and of its last name."""
    path = re.sub(r"\[\d+\]", "", re.sub(r"^((config|run)\.)+", "", path))
    path = path.replace("objective.teacher_model.", "model.")
    # The kind of the table of objectives and tasks.
    path = "objective.name" if path == "objective" else path
    return [tables[name] for name in (path, path.rpartition(".")[2]) if name in tables]
