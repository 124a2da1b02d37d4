"""How an id is spelled for a model that reads characters."""

from tlx.text.bytes_tokenizer import BytesTokenizer
from tlx.text.characters import BEGIN, END, PAD, TEXT_BEGIN, TEXT_END, character_table, spell


def test_a_token_is_its_utf8_bytes_between_marks():
    assert spell("é!".encode(), 7).tolist() == [BEGIN, 0xC3, 0xA9, ord("!"), END, PAD, PAD]
    assert spell(b"abcdef", 5).tolist() == [BEGIN, *b"abc", END]
    assert spell(b"", 4).tolist() == [BEGIN, END, PAD, PAD]


def test_begin_and_end_of_text_are_characters_and_the_pad_has_none():
    tokenizer = BytesTokenizer()
    table, vocab = character_table(tokenizer, 4), tokenizer.vocab
    assert table.shape == (vocab.size, 4)
    assert table[vocab.bos].tolist() == [BEGIN, TEXT_BEGIN, END, PAD]
    assert table[vocab.eos].tolist() == [BEGIN, TEXT_END, END, PAD]
    assert table[vocab.pad].tolist() == [PAD] * 4
    (index,) = tokenizer.encode("q")
    assert table[index].tolist() == [BEGIN, ord("q"), END, PAD]
