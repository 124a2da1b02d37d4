"""Size and special ids of a vocabulary."""

import dataclasses
import functools

import numpy as np

# Roles of the first ids of every vocabulary that tlx makes, in this order; imported vocabularies differ.
ROLES = ("pad", "unk", "bos", "eos", "mask", "cls", "sep")
# How tlx writes them.
SPECIAL_PIECES = ("<pad>", "<unk>", "<s>", "</s>", "<mask>", "<cls>", "<sep>")
NUM_SENTINELS = 100


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Size and special ids of a tokenizer. Code uses these fields, never literal ids.

    The sentinels are the last `num_sentinels` ids before the added ones, counted downwards: `sentinel(0) =
    size - 1` without added ids.
    """

    size: int
    """V, the number of ids, added ones included."""
    pad: int = 0
    """Id of padding."""
    unk: int = 1
    """Id of text that has no piece."""
    bos: int = 2
    """Id of the beginning of a sequence."""
    eos: int = 3
    """Id of the end of a sequence."""
    mask: int = 4
    """Id of a masked token."""
    cls: int = 5
    """Id of the token whose hidden state represents the sequence."""
    sep: int = 6
    """Id of the separator of segments."""
    num_sentinels: int = NUM_SENTINELS
    """Number of sentinels, ids that stand for a missing span."""
    added: int = 0
    """Number of ids that were added to a vocabulary; they are the last ones. An imported model never predicts those
    that are not `named`."""
    named: int = 0
    """Number of the added ids that the config names (tokenizer.add), which a model has rows for and predicts."""

    def __post_init__(self) -> None:
        names = ("pad", "unk", "bos", "eos", "mask", "cls", "sep")
        bad = [name for name in names if not 0 <= getattr(self, name) < self.size]
        if bad or not 0 <= self.num_sentinels <= self.size:
            raise ValueError(f"{', '.join(bad) or 'num_sentinels'} lies outside a vocabulary of {self.size}")

    def sentinel(self, index: int) -> int:
        """Return the id of the sentinel `<extra_id_index>`; ValueError beyond the last one."""
        if not 0 <= index < self.num_sentinels:
            raise ValueError(f"sentinel {index} is not among {self.num_sentinels}")
        return self.size - self.added - 1 - index

    def is_sentinel(self, index: int) -> bool:
        """Return whether an id is one of the sentinels."""
        return 0 <= self.size - self.added - 1 - index < self.num_sentinels

    def mark(self, index: int) -> int:
        """Return the id that objectives put before a text to name its language, control code or mode.

        These are the sentinels counted from the other end, so that the two uses meet last. ValueError beyond
        the first sentinel.
        """
        return self.sentinel(self.num_sentinels - 1 - index)

    @functools.cached_property
    def special(self) -> np.ndarray:
        """bool[V], True for ids without text: the seven named ones, the sentinels and the added ones."""
        special = np.zeros(self.size, bool)
        special[[self.pad, self.unk, self.bos, self.eos, self.mask, self.cls, self.sep]] = True
        special[self.size - self.added - self.num_sentinels :] = True
        special.flags.writeable = False
        return special
