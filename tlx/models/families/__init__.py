"""The well-known models as data: published sizes, and how Hugging Face writes their configs and weights.

A family is one file with a `FAMILY`, and one name here.
"""

from tlx.base.lookup import Table
from tlx.models.families.family import Family, Fixed, Mapped, Row, Same

TABLE = Table(
    "family",
    {
        "bert": "tlx.models.families.bert:FAMILY",
        "gpt2": "tlx.models.families.gpt2:FAMILY",
    },
)

# What config.json calls `model_type`, and the family that reads it.
MODEL_TYPES = Table(
    "model_type",
    {
        "bert": "tlx.models.families.bert:FAMILY",
        "gpt2": "tlx.models.families.gpt2:FAMILY",
    },
)

__all__ = ["MODEL_TYPES", "TABLE", "Family", "Fixed", "Mapped", "Row", "Same"]
