"""BERT's pretraining: masked tokens, and whether the second text follows the first or is from elsewhere.

Label 0 is "follows" (pairs.py has the rules).
"""

import dataclasses
import functools

from tlx.objectives.shared.base import Objective
from tlx.objectives.shared.segment_pairs import Pairing, PairModule, pair_example, pair_reads


@dataclasses.dataclass(frozen=True)
class NSP(Pairing):
    """What is masked, and how often a row is cut short."""

    name: str = "nsp"


example = functools.partial(pair_example, swap=False)

OBJECTIVE = Objective(NSP, pair_reads, example, PairModule, kinds=("encoder",))
