"""CamemBERT: RoBERTa with a French SentencePiece vocabulary of 32,005 pieces."""

from tlx.models.families import roberta

FAMILY = roberta.family(
    "camembert", "Martin et al. 2020, CamemBERT: a Tasty French Language Model, ACL", 32005, "Camembert"
)
