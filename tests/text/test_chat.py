"""Chat templates: their text beside recorded renderings, and which tokens are the assistant's."""

import dataclasses

import numpy as np
import pytest

from tests.hub import folders
from tlx.base.errors import ConfigError
from tlx.text import TokenizerConfig, chat, make_tokenizer
from tlx.text.chat import TEMPLATES, ChatTemplate, Message, RoleTemplate
from tlx.text.huggingface_tokenizer import HuggingFaceTokenizer

BYTES = make_tokenizer(TokenizerConfig(kind="bytes"), ())
NAMES = {"bos": "<s>", "eos": "</s>", "sep": "<sep>", "cls": "<cls>"}
SAID = [
    Message("system", "Be brief."),
    Message("user", "Hi {eos}"),
    Message("assistant", "Hello!"),
    Message("user", "안녕 again"),
    Message("assistant", "Yes?"),
]

# The templates in transformers' own language, written for this test, and what transformers 5.23.0 renders.
_EACH, _END = "{% for m in messages %}", "{% endfor %}"
_ALL_BUT_FIRST = "{% for m in messages[1:] %}"


def _if_asked(text):
    return "{% if add_generation_prompt %}{{ '" + text + "' }}{% endif %}"


JINJA = {
    "chatml": _EACH
    + "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    + _END
    + _if_asked("<|im_start|>assistant\n"),
    "llama3": "{{ bos_token }}"
    + _EACH
    + "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}"
    + _END
    + _if_asked("<|start_header_id|>assistant<|end_header_id|>\n\n"),
    "llama2": _ALL_BUT_FIRST
    + "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' }}"
    + "{% if loop.first %}{{ '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' }}{% endif %}"
    + "{{ m['content'] + ' [/INST]' }}"
    + "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}"
    + _END,
    "zephyr": _EACH
    + "{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}"
    + _END
    + _if_asked("<|assistant|>\n"),
    "gemma": "{{ bos_token }}"
    + _ALL_BUT_FIRST
    + "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else 'user') + '\n' }}"
    + "{% if loop.first %}{{ messages[0]['content'] + '\n\n' }}{% endif %}"
    + "{{ m['content'] | trim }}{{ '<end_of_turn>\n' }}"
    + _END
    + _if_asked("<start_of_turn>model\n"),
}
RECORDED = {
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi {eos}<|im_end|>\n<|im_"
    "start|>assistant\nHello!<|im_end|>\n<|im_start|>user\n안녕 again<|im_end|>\n<|im_start"
    "|>assistant\nYes?<|im_end|>\n",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header"
    "_id|>user<|end_header_id|>\n\nHi {eos}<|eot_id|><|start_header_id|>assistant<|end_"
    "header_id|>\n\nHello!<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n안녕 again<"
    "|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nYes?<|eot_id|>",
    "llama2": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi {eos} [/INST] Hello! </s><s>[INST] 안녕 a"
    "gain [/INST] Yes? </s>",
    "zephyr": "<|system|>\nBe brief.</s>\n<|user|>\nHi {eos}</s>\n<|assistant|>\nHello!</s>\n<|user|>"
    "\n안녕 again</s>\n<|assistant|>\nYes?</s>\n",
    "gemma": "<s><start_of_turn>user\nBe brief.\n\nHi {eos}<end_of_turn>\n<start_of_turn>model\nHel"
    "lo!<end_of_turn>\n<start_of_turn>user\n안녕 again<end_of_turn>\n<start_of_turn>model\n"
    "Yes?<end_of_turn>\n",
    "words": "<s>Be brief.\n\nUser: Hi {eos}\nAssistant: Hello!</s>\nUser: 안녕 again\nAssistant: Yes?</s>\n",
    "alpaca": "<s>Be brief.\n\n### Instruction:\nHi {eos}\n\n### Response:\nHello!</s>\n\n### Instructi"
    "on:\n안녕 again\n\n### Response:\nYes?</s>\n\n",
}


def rendered(name, said=SAID, reply=False):
    return chat.text_of(chat.segments_of(said, TEMPLATES[name], reply), NAMES)


@pytest.mark.parametrize("name", RECORDED)
def test_the_text_is_the_recorded_one(name):
    assert rendered(name) == RECORDED[name]


@pytest.mark.parametrize("name", JINJA)
def test_the_text_is_that_of_apply_chat_template(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=_object(tmp_path), bos_token="<s>", eos_token="</s>", chat_template=JINJA[name]
    )
    for said, reply in ((SAID, False), (SAID[:4], True), (SAID[:2], True)):
        messages = [message._asdict() for message in said]
        expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=reply)
        assert rendered(name, said, reply) == expected
        assert reply or expected == RECORDED[name]


def _object(folder):
    return folders.byte_pairs(folder / "hf")


def test_every_template_is_tested():
    assert set(RECORDED) == set(TEMPLATES) > set(JINJA)


@pytest.mark.parametrize("name", TEMPLATES)
def test_answers_and_their_ends_are_asked_for_and_nothing_else(name):
    template = TEMPLATES[name]
    ids, asked = chat.tokens_of(chat.segments_of(SAID, template), BYTES)
    end = template.end
    wanted = [np.split(ids, np.flatnonzero(np.diff(asked)) + 1)[1::2]][0]
    assert len(wanted) == 2 and not asked[0]
    for found, text in zip(wanted, ("Hello!", "Yes?"), strict=True):
        special = end.endswith("{eos}")
        expected = BYTES.encode(text + end.removesuffix("{eos}")) + [BYTES.vocab.eos] * special
        assert found.tolist() == expected or found.tolist() == [*BYTES.encode(" "), *expected]
    # what an answer follows is what stood before it
    prompt, left_out = chat.prompt_of(SAID[:4], template, BYTES, 10_000)
    assert left_out == 0 and ids[: len(prompt)].tolist() == prompt.tolist() and asked[len(prompt)]
    assert not asked[len(prompt) - 1]


def test_tokens_are_those_of_the_whole_text(tmp_path):
    """A tokenizer that joins letters, with names of its own for ids."""
    library = _object(tmp_path)
    library.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    folder = tmp_path / "named"
    folder.mkdir()
    library.save(str(folder / "tokenizer.json"))
    tokenizer = HuggingFaceTokenizer.from_folder(folder)
    said = [Message("user", "the cat"), Message("assistant", "sat on the mat")]
    parts = chat.segments_of(said, TEMPLATES["chatml"])
    ids, asked = chat.tokens_of(parts, tokenizer)
    assert ids.tolist() == tokenizer.encode(chat.text_of(parts, {}))
    end, stop = chat.ending(TEMPLATES["chatml"], tokenizer)
    assert tokenizer.piece(end) == "<|im_end|>" and stop == ""
    assert tokenizer.decode(ids[asked], keep_special=True) == "sat on the mat<|im_end|>"
    assert chat.ending(TEMPLATES["chatml"], BYTES) == (BYTES.vocab.eos, "<|im_end|>")
    assert chat.ending(TEMPLATES["zephyr"], BYTES) == (BYTES.vocab.eos, "")


def test_old_messages_make_room():
    template = ChatTemplate("", RoleTemplate("S", "."), RoleTemplate("U", "."), RoleTemplate("A", "{eos}"))
    said = [
        Message("system", "s"),
        *(Message(role, "x" * 5) for _ in range(3) for role in ("user", "assistant")),
    ]
    said.append(Message("user", "last"))
    whole, none = chat.prompt_of(said, template, BYTES, 100)
    assert none == 0 and len(whole) == 3 + 3 * 14 + 7
    for room, left_out in ((51, 2), (52 - 14, 2), (24, 4), (23, 6), (10, 6), (3, 6)):
        ids, dropped = chat.prompt_of(said, template, BYTES, room)
        assert dropped == left_out and BYTES.decode(ids).endswith("Ulast.A")
        assert BYTES.decode(ids).startswith("Ss.U")


def test_mistakes_are_told():
    with pytest.raises(ConfigError, match="objective.template = 'chatlm' .*did you mean 'chatml'"):
        chat.template_named("chatlm", "objective.template")
    with pytest.raises(ConfigError, match="format.assistant.behind is empty"):
        dataclasses.replace(TEMPLATES["words"], assistant=RoleTemplate("A")).validate("format")
