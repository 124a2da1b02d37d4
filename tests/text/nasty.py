"""Texts that tokenizers differ on: white space of every kind, marks, case, scripts, numbers, names of special ids."""

import random
import unicodedata

PARTS = [
    "the", "The", "CAT", "cat's", "can't", "mat", "İstanbul", "ﬁre", "ß", "ẞ", "naïve", "naive", "e\u0301", "Å",
    "고양이", "한국", "猫", "吾輩", "ｶﾅ", "ไทย", "עברית", "عربي", "हिन्दी", "😀", "👩‍👩‍👧", "\U0001f1f0\U0001f1f7",
    " ", "  ", "    ", "\t", "\n", "\n\n", "\r\n", "\u00a0", "\u2003", "\u3000", "\u200b", "\u200d", "\ufeff",
    "\u2028", "▁", "▁▁", "</w>", "@@", "@@ ", "##a", "Ġ", "Ċ", "<0x41>", "``", "''", '"', "'", "—", "…", "。",
    "、", "，", "！",
    "１２", "3.14", "1,000", "1,000,", "9,", "$5", "50%", "½", "²", "Ⅷ", "a_b", "x==y", "->", "://", "...", "?!",
    "\x00", "\x07", "\x1b", "\x7f", "\x85", "\ufffd", "\U000e0001", "\u0300", "a\u0300\u0301", "ﷺ", "㎏", "Dž", "ŉ",
]  # fmt: skip


def texts(count, names=(), seed=0):
    """`count` different texts of such parts, with names of special ids in some, in all normal forms."""
    rng = random.Random(seed)
    found = {"", " ", "\n", "a"}
    while len(found) < count:
        parts = rng.choices([*PARTS, *names], k=rng.randint(1, 9))
        text = rng.choice(("", "", " ")).join(parts)
        if rng.random() < 0.2:
            text = "".join(
                chr(rng.choice((rng.randrange(32, 0x250), rng.randrange(0x20, 0xD800)))) for _ in parts
            )
        if rng.random() < 0.2:
            text = unicodedata.normalize(rng.choice(("NFC", "NFD", "NFKC", "NFKD")), text)
        found.add(text)
    return sorted(found)
