"""BERT's pretraining: masked tokens, and whether the second text follows the first or is from elsewhere.

Label 0 is "follows" (segment_pairs.py has the rules).
"""

import dataclasses

from tlx.objectives.shared.segment_pairs import Pairing, PairObjective


@dataclasses.dataclass(frozen=True)
class NSP(Pairing):
    """Masking, and the fraction of short rows."""

    name: str = "nsp"
    """Name in the table of objectives."""


class NSPObjective(PairObjective):
    """BERT's masked tokens and next-sentence prediction."""

    config_class = NSP
    swap = False


OBJECTIVE = NSPObjective()
