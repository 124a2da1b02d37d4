"""Chat templates: conversations as text, and which of the tokens the assistant is trained to predict.

A template is data: the text before and after the messages of each role. In its strings {bos}, {eos}, {sep}
and {cls} stand for ids of the vocabulary. Everything else is text, in which a tokenizer may recognise names
of its ids such as <|im_end|>. The text between ids of the vocabulary is encoded as one piece, so that the ids
equal those of any other program that renders the conversation to the same text. Spaces before an answer are
predicted by the assistant, since tokens begin with them.
"""

import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tlx.base.errors import ConfigError, one_of
from tlx.text.spans import encode_with_spans
from tlx.text.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant")
_SPECIAL = re.compile(r"\{(bos|eos|sep|cls)\}")


class Message(NamedTuple):
    """One message of a conversation."""

    role: str
    """One of ROLES."""
    content: str
    """The text."""


@dataclasses.dataclass(frozen=True)
class RoleTemplate:
    """Text around the messages of one role."""

    before: str = ""
    """Text before a message."""
    behind: str = ""
    """Text after a message."""


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """The text around the messages of a conversation."""

    begin: str = ""
    """Text before all messages."""
    system: RoleTemplate = RoleTemplate()
    """Text around the system message."""
    user: RoleTemplate = RoleTemplate()
    """Text around messages of the user."""
    assistant: RoleTemplate = RoleTemplate()
    """Text around answers; the text after them must not be empty, since it ends an answer."""
    system_in_user: bool = False
    """Whether the system message, with the text around it, is put at the beginning of the next user message."""
    trim: bool = False
    """Whether white space at both ends of a message is removed."""

    @property
    def end(self) -> str:
        """The text that ends an answer: the text after it, without trailing white space."""
        return self.assistant.behind.rstrip() or self.assistant.behind

    def validate(self, field: str) -> None:
        """Raise ConfigError where nothing ends an answer; `field` is the config key of the template."""
        if not self.assistant.behind:
            raise ConfigError(
                f"{field}.assistant.behind is empty: nothing would end an answer, such as '{{eos}}'"
            )


def _chatml(role: str) -> RoleTemplate:
    return RoleTemplate(f"<|im_start|>{role}\n", "<|im_end|>\n")


def _llama3(role: str) -> RoleTemplate:
    return RoleTemplate(f"<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>")


def _zephyr(role: str) -> RoleTemplate:
    return RoleTemplate(f"<|{role}|>\n", "{eos}\n")


def _gemma(role: str) -> RoleTemplate:
    return RoleTemplate(f"<start_of_turn>{role}\n", "<end_of_turn>\n")


# "words" needs no special names in the vocabulary; the other templates are named after the models that use them.
TEMPLATES = {
    "words": ChatTemplate(
        begin="{bos}",
        system=RoleTemplate("", "\n\n"),
        user=RoleTemplate("User: ", "\n"),
        assistant=RoleTemplate("Assistant: ", "{eos}\n"),
        trim=True,
    ),
    "alpaca": ChatTemplate(
        begin="{bos}",
        system=RoleTemplate("", "\n\n"),
        user=RoleTemplate("### Instruction:\n", "\n\n"),
        assistant=RoleTemplate("### Response:\n", "{eos}\n\n"),
        trim=True,
    ),
    "chatml": ChatTemplate(
        system=_chatml("system"),
        user=_chatml("user"),
        assistant=_chatml("assistant"),
    ),
    "llama2": ChatTemplate(
        system=RoleTemplate("<<SYS>>\n", "\n<</SYS>>\n\n"),
        user=RoleTemplate("{bos}[INST] ", " [/INST]"),
        assistant=RoleTemplate(" ", " {eos}"),
        system_in_user=True,
        trim=True,
    ),
    "llama3": ChatTemplate(
        begin="{bos}",
        system=_llama3("system"),
        user=_llama3("user"),
        assistant=_llama3("assistant"),
        trim=True,
    ),
    "zephyr": ChatTemplate(
        system=_zephyr("system"),
        user=_zephyr("user"),
        assistant=_zephyr("assistant"),
    ),
    "gemma": ChatTemplate(
        begin="{bos}",
        system=RoleTemplate("", "\n\n"),
        user=_gemma("user"),
        assistant=_gemma("model"),
        system_in_user=True,
        trim=True,
    ),
}


def template_named(name: str, field: str) -> ChatTemplate:
    """Return one of TEMPLATES. Raises ConfigError that names the config key `field`."""
    if name not in TEMPLATES:
        raise ConfigError(one_of(field, name, TEMPLATES))
    return TEMPLATES[name]


class TemplateSegment(NamedTuple):
    """A piece of the text of a conversation."""

    text: str
    """The text, or for a special id its field in the vocabulary, such as "eos"."""
    predicted: bool = False
    """Whether the assistant is trained to predict it."""
    special: bool = False
    """Whether it is a special id of the vocabulary."""


def segments_of(
    messages: Sequence[Message], template: ChatTemplate, reply: bool = False
) -> list[TemplateSegment]:
    """Render a conversation to segments.

    Args:
        messages: The conversation.
        template: Text around the messages.
        reply: Whether to add the text before an answer that is to be generated.

    Returns:
        The segments of the whole text in order.
    """
    segments = _split_special(template.begin)
    pending_system: list[TemplateSegment] = []
    for role, content in messages:
        message = TemplateSegment(content.strip() if template.trim else content, role == "assistant")
        around: RoleTemplate = getattr(template, role)
        before = _split_special(around.before)
        behind = _split_special(around.behind)
        if role == "system" and template.system_in_user:
            pending_system = [*before, message, *behind]
        elif role == "assistant":
            # Trailing spaces belong to the answer's first token; the end is predicted, what follows is not.
            segments += _split_special(around.before.rstrip(" "))
            segments += _split_special(_trailing_spaces(around.before), predicted=True)
            segments.append(message)
            segments += _split_special(template.end, predicted=True)
            segments += _split_special(around.behind.removeprefix(template.end))
        else:
            system = pending_system if role == "user" else []
            segments += [*before, *system, message, *behind]
            if role == "user":
                pending_system = []
    if reply:
        segments += _split_special(template.assistant.before.rstrip(" "))
    return segments


def _trailing_spaces(text: str) -> str:
    return text[len(text.rstrip(" ")) :]


def _split_special(text: str, predicted: bool = False) -> list[TemplateSegment]:
    """Split a string of a template at its special ids."""
    pieces = _SPECIAL.split(text)  # text, name, text, name ...
    return [TemplateSegment(piece, predicted, bool(i % 2)) for i, piece in enumerate(pieces) if piece]


def text_of(segments: Sequence[TemplateSegment], names: Mapping[str, str]) -> str:
    """Return the text, with `names` of "bos", "eos" ... in place of the ids of the vocabulary."""
    return "".join(names[segment.text] if segment.special else segment.text for segment in segments)


def jinja_of(template: ChatTemplate, names: Mapping[str, str]) -> str:
    """Write a template in transformers' language, with `names` of "bos", "eos" ... for ids of the vocabulary."""

    def literal(text: str) -> str:
        return (
            "{{ " + json.dumps(text_of(_split_special(text), names), ensure_ascii=False) + " }}"
            if text
            else ""
        )

    def around(role: RoleTemplate, content: str) -> str:
        return literal(role.before) + content + literal(role.behind)

    trim = " | trim" if template.trim else ""
    content = "{{ message['content']" + trim + " }}"
    system = around(template.system, content)
    pending = ""
    if template.system_in_user:
        pending = (
            "{% if not loop.first and loop.previtem['role'] == 'system' %}"
            + around(template.system, "{{ loop.previtem['content']" + trim + " }}")
            + "{% endif %}"
        )
        system = ""
    user = literal(template.user.before) + pending + content + literal(template.user.behind)
    return (
        literal(template.begin)
        + "{% for message in messages %}{% if message['role'] == 'system' %}"
        + system
        + "{% elif message['role'] == 'user' %}"
        + user
        + "{% else %}"
        + around(template.assistant, content)
        + "{% endif %}{% endfor %}{% if add_generation_prompt %}"
        + literal(template.assistant.before.rstrip(" "))
        + "{% endif %}"
    )


def tokens_of(segments: Sequence[TemplateSegment], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Encode segments.

    Returns:
        Ids int32 [n], and bool [n]: which of them the assistant predicts, at least in part.
    """
    ids = [np.zeros(0, np.int32)]
    predicted = [np.zeros(0, bool)]
    for special, group in itertools.groupby(segments, key=lambda segment: segment.special):
        run = list(group)
        if special:
            ids.append(np.array([getattr(tokenizer.vocab, segment.text) for segment in run], np.int32))
            predicted.append(np.array([segment.predicted for segment in run]))
            continue
        run_ids, spans = encode_with_spans(tokenizer, "".join(segment.text for segment in run))
        lengths = [len(segment.text) for segment in run]
        predicted_characters = np.repeat([segment.predicted for segment in run], lengths)
        # Predicted characters before each position: an id is predicted if the count rises within its span.
        count = np.concatenate([[0], np.cumsum(predicted_characters)])
        ids.append(run_ids)
        predicted.append(count[spans[:, 1]] > count[spans[:, 0]])
    return np.concatenate(ids), np.concatenate(predicted)


def prompt_of(
    messages: Sequence[Message], template: ChatTemplate, tokenizer: Tokenizer, max_tokens: int
) -> tuple[np.ndarray, int]:
    """Encode a conversation as the prompt of the next answer, without its oldest messages if it is too long.

    The system message and the last message are always included, so the prompt can be longer than `max_tokens`.

    Args:
        messages: The conversation; at least one message that is not of the system.
        template: Text around the messages.
        tokenizer: Encodes the text.
        max_tokens: Wanted maximum length of the prompt, in tokens.

    Returns:
        Ids int32 [n] of the prompt, and the number of messages that were left out.
    """
    return fitted_prompt(
        messages, lambda kept: tokens_of(segments_of(kept, template, reply=True), tokenizer)[0], max_tokens
    )


def fitted_prompt(
    messages: Sequence[Message], encode: Callable[[Sequence[Message]], np.ndarray], max_tokens: int
) -> tuple[np.ndarray, int]:
    """Encode a conversation without its oldest messages if it is too long, as `prompt_of` does.

    Args:
        messages: The conversation; at least one message that is not of the system.
        encode: Ids int32 [n] of a conversation, up to where the next answer begins.
        max_tokens: Wanted maximum length of the prompt, in tokens.

    Returns:
        Ids int32 [n] of the prompt, and the number of messages that were left out.
    """
    first = _num_system(messages)
    left_out = 0
    while True:
        remaining = without_oldest(messages, left_out)
        ids = encode(remaining)
        fits = remaining[first].role == "user" and len(ids) <= max_tokens
        if fits or first + left_out + 1 >= len(messages):
            return ids, left_out
        left_out += 1


def without_oldest(messages: Sequence[Message], count: int) -> list[Message]:
    """Return a conversation without its `count` oldest messages, the system message aside."""
    first = _num_system(messages)
    return [*messages[:first], *messages[first + count :]]


def _num_system(messages: Sequence[Message]) -> int:
    """Return 1 where the conversation begins with a system message, else 0."""
    return int(bool(messages) and messages[0].role == "system")


def ending(template: ChatTemplate, tokenizer: Tokenizer) -> tuple[int, str]:
    """Return the id that ends an answer, and the text that does where no single id does (else "")."""
    segments = _split_special(template.end)
    if any(segment.special for segment in segments):
        field = next(segment.text for segment in segments if segment.special)
        return getattr(tokenizer.vocab, field), ""
    ids = tokenizer.encode(template.end)
    if len(ids) == 1:
        return ids[0], ""
    return tokenizer.vocab.eos, template.end
