"""Rules of generation_config.json: read, stored with a tokenizer, obeyed or named."""

import json

import pytest

from tests.hub.folders import byte_pairs
from tlx.base.errors import ConfigError, DataError
from tlx.text import load_tokenizer
from tlx.text.generation_rules import (
    FILE,
    GenerationRules,
    parse_rules,
    read_file,
    rules_of,
    unused_message,
    values_of,
)
from tlx.text.huggingface_tokenizer import HuggingFaceTokenizer

LISTED = {"eos_token_id": [7, 5, 7], "bad_words_ids": [[3], [5], [4, 9], [2, 999]], "suppress_tokens": [8]}


@pytest.mark.parametrize(
    "values, expected",
    [
        ({}, GenerationRules()),
        ({"eos_token_id": 7, "min_length": 0, "bad_words_ids": None}, GenerationRules(ends=(7,))),
        # an end is no bad word; an id outside the vocabulary is never generated anyway
        (LISTED, GenerationRules(ends=(7, 5), banned=(3, 8), banned_sequences=((4, 9),))),
        ({"eos_token_id": 50256}, GenerationRules()),
        (
            {"forced_bos_token_id": 0, "forced_eos_token_id": 2, "min_length": 9, "no_repeat_ngram_size": 3},
            GenerationRules(first=0, last=(2,), min_length=9, no_repeat_ngram=3),
        ),
        (
            {"min_new_tokens": 4, "encoder_no_repeat_ngram_size": 2},
            GenerationRules(min_new_tokens=4, encoder_no_repeat_ngram=2),
        ),
    ],
)
def test_values_become_rules(values, expected):
    assert parse_rules(values, vocab_size=100) == expected


@pytest.mark.parametrize(
    "values, message",
    [
        ({"eos_token_id": "</s>"}, "eos_token_id holds '</s>', which must be a whole number"),
        ({"bad_words_ids": [5]}, "bad_words_ids holds 5; its items must be lists of ids"),
        ({"min_length": 2.5}, "min_length holds 2.5"),
    ],
)
def test_values_of_another_type_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        parse_rules(values, 10)


def test_only_keys_that_would_change_the_text_are_named():
    neutral = {
        "temperature": 1.0,
        "num_beams": 1,
        "max_length": 512,
        "early_stopping": False,
        "use_cache": True,
    }
    assert unused_message(neutral | LISTED) == ""
    assert unused_message({"temperature": 0.6, "top_k": 50}) == ""  # an author who takes the likeliest token
    sampled = unused_message({"do_sample": True, "temperature": 0.6, "typical_p": 0.9, "num_beams": 4})
    assert sampled == (
        "generation_config.json: its defaults num_beams = 4, temperature = 0.6 are not taken over: pass them as "
        "arguments if wanted; typical_p = 0.9 cannot be obeyed"
    )


def test_rules_for_tuned_models_are_those_of_the_vocabulary():
    rules = GenerationRules((7, 5), (3,), ((4, 9),), 0, (2,), 9, 1, 3, 2)
    assert rules.of_vocabulary() == GenerationRules((7, 5), (3,), ((4, 9),))
    assert rules.ending_with(5).ends == (5, 7) and rules.ending_with(6).ends == (6, 7, 5)


def test_config_json_counts_where_there_is_no_file(tmp_path):
    config = {"model_type": "marian", "eos_token_id": 0, "bad_words_ids": [[58100]], "d_model": 512}
    (content,) = read_file(tmp_path, config).values()
    assert json.loads(content) == {"eos_token_id": 0, "bad_words_ids": [[58100]]}
    assert read_file(tmp_path, {"model_type": "bert", "pad_token_id": 0}) == {}
    (tmp_path / FILE).write_text('{"eos_token_id": [1, 2]}')
    assert read_file(tmp_path, config) == {FILE: b'{"eos_token_id": [1, 2]}'}
    (tmp_path / FILE).write_text("[1]")
    with pytest.raises(DataError, match="must be a JSON object, not list"):
        read_file(tmp_path, config)


def test_the_file_goes_with_the_tokenizer_and_not_into_its_hash(tmp_path):
    pytest.importorskip("tokenizers")
    byte_pairs(tmp_path / "theirs")
    plain = HuggingFaceTokenizer.from_folder(tmp_path / "theirs")
    assert rules_of(plain) == GenerationRules()
    content = b'{"eos_token_id": [0, 9],\n"min_length": 3}'
    (tmp_path / "theirs" / FILE).write_bytes(content)
    tokenizer = HuggingFaceTokenizer.from_folder(tmp_path / "theirs")
    assert tokenizer.hash == plain.hash
    tokenizer.save(tmp_path / "run")
    again = load_tokenizer(tmp_path / "run")
    assert values_of(again) == {"eos_token_id": [0, 9], "min_length": 3}
    assert rules_of(again) == GenerationRules(ends=(0, 9), min_length=3)
    again.export(tmp_path / "back")
    assert (tmp_path / "back" / FILE).read_bytes() == content
