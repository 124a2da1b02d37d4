"""The well-known models as data: published sizes, and how Hugging Face writes their configs and weights.

A family is one file with a `FAMILY`, and one name here.
"""

from tlx.base.lookup import Table
from tlx.models.families.family import Family, Fixed, Mapped, Row, Same

TABLE = Table(
    "family",
    {
        "albert": "tlx.models.families.albert:FAMILY",
        "bert": "tlx.models.families.bert:FAMILY",
        "distilbert": "tlx.models.families.distilbert:FAMILY",
        "electra": "tlx.models.families.electra:FAMILY",
        "gpt2": "tlx.models.families.gpt2:FAMILY",
        "megatron-bert": "tlx.models.families.megatron_bert:FAMILY",
        "roberta": "tlx.models.families.roberta:FAMILY",
        "spanbert": "tlx.models.families.spanbert:FAMILY",
        "xlm": "tlx.models.families.xlm:FAMILY",
        "xlm-roberta": "tlx.models.families.xlm_roberta:FAMILY",
    },
)

# What config.json calls `model_type`, and the family that reads it.
MODEL_TYPES = Table(
    "model_type",
    {
        "albert": "tlx.models.families.albert:FAMILY",
        "bert": "tlx.models.families.bert:FAMILY",
        "distilbert": "tlx.models.families.distilbert:FAMILY",
        "electra": "tlx.models.families.electra:FAMILY",
        "gpt2": "tlx.models.families.gpt2:FAMILY",
        "megatron-bert": "tlx.models.families.megatron_bert:FAMILY",
        "roberta": "tlx.models.families.roberta:FAMILY",
        "xlm": "tlx.models.families.xlm:FAMILY",
        "xlm-roberta": "tlx.models.families.xlm_roberta:FAMILY",
    },
)

__all__ = ["MODEL_TYPES", "TABLE", "Family", "Fixed", "Mapped", "Row", "Same"]
