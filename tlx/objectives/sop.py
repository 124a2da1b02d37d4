"""ALBERT's pretraining: masked n-grams, and whether two neighbouring texts are in their order or swapped.

Label 1 is "swapped" (pairs.py has the rules).
"""

import dataclasses
import functools
from typing import Literal

from tlx.objectives.shared.base import Objective
from tlx.objectives.shared.segment_pairs import Pairing, PairModule, pair_example, pair_reads


@dataclasses.dataclass(frozen=True)
class SOP(Pairing):
    """What is masked (ALBERT: n-grams), and how often a row is cut short."""

    name: str = "sop"
    unit: Literal["token", "word", "ngram"] = "ngram"


example = functools.partial(pair_example, swap=True)

OBJECTIVE = Objective(SOP, pair_reads, example, PairModule, kinds=("encoder",))
