"""ALBERT's pretraining: masked n-grams, and whether two neighbouring texts are in their order or swapped.

Label 1 is "swapped" (segment_pairs.py has the rules).
"""

import dataclasses
from typing import Literal

from tlx.objectives.shared.segment_pairs import Pairing, PairObjective


@dataclasses.dataclass(frozen=True)
class SOP(Pairing):
    """Masking (ALBERT: n-grams), and the fraction of short rows."""

    name: str = "sop"
    """Name in the table of objectives."""
    unit: Literal["token", "word", "ngram"] = "ngram"
    """Unit of masking: "token", "word" (whole words) or "ngram" (of whole words)."""
    word_rule: Literal["albert", "tokenizer"] = "albert"
    """Rule of word starts on SentencePiece: "albert" is the released code's rule, by which every piece with a
    character that is not English is a word; "tokenizer" is white space and punctuation, by which a clause without
    spaces is one word, too long to be hidden."""


class SOPObjective(PairObjective):
    """ALBERT's masked n-grams and sentence-order prediction."""

    config_class = SOP
    swap = True


OBJECTIVE = SOPObjective()
