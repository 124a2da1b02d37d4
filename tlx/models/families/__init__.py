"""Well-known models as data: published sizes, and the format of their Hugging Face configs and weights.

To add a family, write one file with a `FAMILY` and add its name to the tables here.
"""

from tlx.base.lookup import Table
from tlx.models.families.family import Family, FixedField, MappedField, Outline, SameField, WeightMapping

TABLE = Table(
    "family",
    {
        "albert": "tlx.models.families.albert:FAMILY",
        "bart": "tlx.models.families.bart:FAMILY",
        "bert": "tlx.models.families.bert:FAMILY",
        "blenderbot": "tlx.models.families.bart:BLENDERBOT",
        "ctrl": "tlx.models.families.ctrl:FAMILY",
        "deberta": "tlx.models.families.deberta:FAMILY",
        "deberta-v2": "tlx.models.families.deberta_v2:FAMILY",
        "distilbert": "tlx.models.families.distilbert:FAMILY",
        "electra": "tlx.models.families.electra:FAMILY",
        "elmo": "tlx.models.families.elmo:FAMILY",
        "gemma3": "tlx.models.families.gemma3:FAMILY",
        "gpt": "tlx.models.families.gpt:FAMILY",
        "gpt2": "tlx.models.families.gpt2:FAMILY",
        "gpt3": "tlx.models.families.gpt3:FAMILY",
        "gpt-neox": "tlx.models.families.gpt_neox:FAMILY",
        "lamda": "tlx.models.families.lamda:FAMILY",
        "llama": "tlx.models.families.llama:FAMILY",
        "llama2": "tlx.models.families.llama:LLAMA2",
        "marian": "tlx.models.families.bart:MARIAN",
        "mass": "tlx.models.families.bart:MASS",
        "mbart": "tlx.models.families.bart:MBART",
        "megatron-bert": "tlx.models.families.megatron_bert:FAMILY",
        "megatron-gpt2": "tlx.models.families.megatron_gpt2:FAMILY",
        "mistral": "tlx.models.families.mistral:FAMILY",
        "mixtral": "tlx.models.families.mixtral:FAMILY",
        "modernbert": "tlx.models.families.modernbert:FAMILY",
        "mt5": "tlx.models.families.t5:MT5",
        "pegasus": "tlx.models.families.bart:PEGASUS",
        "polyglot-ko": "tlx.models.families.gpt_neox:POLYGLOT",
        "pythia": "tlx.models.families.gpt_neox:PYTHIA",
        "qwen3": "tlx.models.families.qwen3:FAMILY",
        "roberta": "tlx.models.families.roberta:FAMILY",
        "spanbert": "tlx.models.families.spanbert:FAMILY",
        "xlm": "tlx.models.families.xlm:FAMILY",
        "t5": "tlx.models.families.t5:FAMILY",
        "t5-1.1": "tlx.models.families.t5:T5_1_1",
        "transformer-xl": "tlx.models.families.transformer_xl:FAMILY",
        "umt5": "tlx.models.families.t5:UMT5",
        "xlm-roberta": "tlx.models.families.xlm_roberta:FAMILY",
        "xlnet": "tlx.models.families.xlnet:FAMILY",
    },
)

# Architectures whose networks are not implemented: sizes and parameter arithmetic only.
OUTLINES = Table(
    "outline",
    {
        "meena": "tlx.models.families.meena:OUTLINE",
        "mobilebert": "tlx.models.families.mobilebert:OUTLINE",
    },
)

# `model_type` in config.json, and the family that reads it.
MODEL_TYPES = Table(
    "model_type",
    {
        "albert": "tlx.models.families.albert:FAMILY",
        "bart": "tlx.models.families.bart:FAMILY",
        "bert": "tlx.models.families.bert:FAMILY",
        "blenderbot": "tlx.models.families.bart:BLENDERBOT",
        "ctrl": "tlx.models.families.ctrl:FAMILY",
        "deberta": "tlx.models.families.deberta:FAMILY",
        "deberta-v2": "tlx.models.families.deberta_v2:FAMILY",
        "distilbert": "tlx.models.families.distilbert:FAMILY",
        "electra": "tlx.models.families.electra:FAMILY",
        "gemma3_text": "tlx.models.families.gemma3:FAMILY",
        "gpt2": "tlx.models.families.gpt2:FAMILY",
        "gpt_neox": "tlx.models.families.gpt_neox:FAMILY",
        "llama": "tlx.models.families.llama:FAMILY",
        "marian": "tlx.models.families.bart:MARIAN",
        "mbart": "tlx.models.families.bart:MBART",
        "megatron-bert": "tlx.models.families.megatron_bert:FAMILY",
        "mistral": "tlx.models.families.mistral:FAMILY",
        "mixtral": "tlx.models.families.mixtral:FAMILY",
        "modernbert": "tlx.models.families.modernbert:FAMILY",
        "mt5": "tlx.models.families.t5:MT5",
        "openai-gpt": "tlx.models.families.gpt:FAMILY",
        "pegasus": "tlx.models.families.bart:PEGASUS",
        "qwen3": "tlx.models.families.qwen3:FAMILY",
        "roberta": "tlx.models.families.roberta:FAMILY",
        "xlm": "tlx.models.families.xlm:FAMILY",
        "t5": "tlx.models.families.t5:FAMILY",
        "umt5": "tlx.models.families.t5:UMT5",
        "xlm-roberta": "tlx.models.families.xlm_roberta:FAMILY",
        "xlnet": "tlx.models.families.xlnet:FAMILY",
    },
)

__all__ = [
    "MODEL_TYPES",
    "OUTLINES",
    "TABLE",
    "Family",
    "FixedField",
    "MappedField",
    "Outline",
    "WeightMapping",
    "SameField",
]
