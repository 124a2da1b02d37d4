"""Which ids of a vocabulary have a meaning of their own."""

import dataclasses
import functools

import numpy as np

# The first ids of every vocabulary that tlx makes, in this order; imported vocabularies differ.
SPECIAL_PIECES = ("<pad>", "<unk>", "<s>", "</s>", "<mask>", "<cls>", "<sep>")
NUM_SENTINELS = 100


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Size and special ids of a tokenizer. Code uses these fields, never literal ids.

    The sentinels are the last `num_sentinels` ids, counted downwards: `sentinel(0) = size - 1`. An imported
    vocabulary has `added` ids behind them, which its model never predicts.
    """

    size: int
    pad: int = 0
    unk: int = 1
    bos: int = 2
    eos: int = 3
    mask: int = 4
    cls: int = 5
    sep: int = 6
    num_sentinels: int = NUM_SENTINELS
    added: int = 0

    def __post_init__(self) -> None:
        names = ("pad", "unk", "bos", "eos", "mask", "cls", "sep")
        bad = [name for name in names if not 0 <= getattr(self, name) < self.size]
        if bad or not 0 <= self.num_sentinels <= self.size:
            raise ValueError(f"{', '.join(bad) or 'num_sentinels'} lies outside a vocabulary of {self.size}")

    def sentinel(self, index: int) -> int:
        """Id of the sentinel `<extra_id_index>`; ValueError beyond the last one."""
        if not 0 <= index < self.num_sentinels:
            raise ValueError(f"sentinel {index} is not among {self.num_sentinels}")
        return self.size - self.added - 1 - index

    def is_sentinel(self, index: int) -> bool:
        """Whether an id is one of the sentinels."""
        return 0 <= self.size - self.added - 1 - index < self.num_sentinels

    def mark(self, index: int) -> int:
        """Id that objectives put before a text to say which kind it is: a language, a control code, a mode.

        The sentinels from the other end, so that the two meet last; ValueError beyond the first sentinel.
        """
        return self.sentinel(self.num_sentinels - 1 - index)

    @functools.cached_property
    def special(self) -> np.ndarray:
        """bool [V]: True for ids that stand for no text (the seven named ones and the sentinels)."""
        special = np.zeros(self.size, bool)
        special[[self.pad, self.unk, self.bos, self.eos, self.mask, self.cls, self.sep]] = True
        special[self.size - self.added - self.num_sentinels :] = True
        special.flags.writeable = False
        return special
