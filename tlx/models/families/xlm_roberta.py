"""XLM-RoBERTa: RoBERTa with a SentencePiece vocabulary of 250,002 pieces for a hundred languages."""

from tlx.models.families import roberta

FAMILY = roberta.family(
    "xlm-roberta",
    "Conneau et al. 2020, Unsupervised Cross-lingual Representation Learning at Scale, ACL",
    250002,
    "XLMRoberta",
)
