"""Sentinels and special ids of made and imported vocabularies."""

import pytest

from tlx.text import Vocabulary


def test_sentinels_count_down_from_the_end():
    vocab = Vocabulary(500)
    assert [vocab.sentinel(0), vocab.sentinel(99)] == [499, 400]
    for index in (-1, 100):
        with pytest.raises(ValueError, match="not among 100"):
            vocab.sentinel(index)


def test_special_follows_the_fields():
    vocab = Vocabulary(1000, pad=1, unk=3, bos=0, eos=2, mask=4, cls=0, sep=2, num_sentinels=10)
    assert set(vocab.special.nonzero()[0]) == {0, 1, 2, 3, 4, *range(990, 1000)}
    assert not vocab.special.flags.writeable
    assert hash(vocab) == hash(Vocabulary(1000, 1, 3, 0, 2, 4, 0, 2, 10))


def test_ids_outside_are_refused():
    with pytest.raises(ValueError, match="mask lies outside a vocabulary of 10"):
        Vocabulary(10, mask=10, num_sentinels=0)
    with pytest.raises(ValueError, match="num_sentinels"):
        Vocabulary(50)
