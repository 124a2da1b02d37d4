"""Conversations as text: chat templates, which are data, and which of the tokens are the assistant's.

A template says what stands before and behind each role's messages. In its strings {bos}, {eos}, {sep} and
{cls} are the vocabulary's ids; everything else is text, in which a tokenizer may know names such as
<|im_end|> for ids of its own. The text of a conversation is cut into tokens as a whole (between the
vocabulary's ids), so that they are those of any other program that renders it to the same text. Spaces in
front of an answer are the assistant's to say, for tokens begin with them.
"""

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tlx.base.errors import ConfigError, one_of
from tlx.text.spans import encode_with_spans
from tlx.text.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant")
_SPECIAL = re.compile(r"\{(bos|eos|sep|cls)\}")


class Message(NamedTuple):
    """What one of ROLES said."""

    role: str
    content: str


@dataclasses.dataclass(frozen=True)
class RoleTemplate:
    """What stands before and behind a message."""

    before: str = ""
    behind: str = ""


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """begin: before all messages. system_in_user: the system's message, with what is around it, is the
    beginning of the first user's. trim: messages lose white space at their ends."""

    begin: str = ""
    system: RoleTemplate = RoleTemplate()
    user: RoleTemplate = RoleTemplate()
    assistant: RoleTemplate = RoleTemplate()
    system_in_user: bool = False
    trim: bool = False

    @property
    def end(self) -> str:
        """What ends an answer: what stands behind it, white space at its end aside."""
        return self.assistant.behind.rstrip() or self.assistant.behind

    def validate(self, field: str) -> None:
        """Raises ConfigError where an answer has no end."""
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


# "words" needs no names in the vocabulary; the others are called as the models whose text is like that.
TEMPLATES = {
    "words": ChatTemplate(
        "{bos}",
        RoleTemplate("", "\n\n"),
        RoleTemplate("User: ", "\n"),
        RoleTemplate("Assistant: ", "{eos}\n"),
        trim=True,
    ),
    "alpaca": ChatTemplate(
        "{bos}",
        RoleTemplate("", "\n\n"),
        RoleTemplate("### Instruction:\n", "\n\n"),
        RoleTemplate("### Response:\n", "{eos}\n\n"),
        trim=True,
    ),
    "chatml": ChatTemplate("", *map(_chatml, ROLES)),
    "llama2": ChatTemplate(
        "",
        RoleTemplate("<<SYS>>\n", "\n<</SYS>>\n\n"),
        RoleTemplate("{bos}[INST] ", " [/INST]"),
        RoleTemplate(" ", " {eos}"),
        system_in_user=True,
        trim=True,
    ),
    "llama3": ChatTemplate("{bos}", *map(_llama3, ROLES), trim=True),
    "zephyr": ChatTemplate("", *map(_zephyr, ROLES)),
    "gemma": ChatTemplate(
        "{bos}", RoleTemplate("", "\n\n"), _gemma("user"), _gemma("model"), system_in_user=True, trim=True
    ),
}


def template_named(name: str, field: str) -> ChatTemplate:
    """One of TEMPLATES; ConfigError naming the config's field."""
    if name not in TEMPLATES:
        raise ConfigError(one_of(field, name, TEMPLATES))
    return TEMPLATES[name]


class TemplateSegment(NamedTuple):
    """A stretch of a conversation's text, and whether the assistant is to say it. `special`: it is an id of
    the vocabulary, by its field's name."""

    text: str
    asked: bool = False
    special: bool = False


def segments_of(
    messages: Sequence[Message], template: ChatTemplate, reply: bool = False
) -> list[TemplateSegment]:
    """The whole text; `reply`: with what stands before an answer that is to come."""
    parts, system = _cut(template.begin), []
    for role, content in messages:
        said = TemplateSegment(content.strip() if template.trim else content, role == "assistant")
        around: RoleTemplate = getattr(template, role)
        if role == "system" and template.system_in_user:
            system = [*_cut(around.before), said, *_cut(around.behind)]
        elif role == "assistant":
            parts += [*_cut(around.before.rstrip(" ")), *_cut(_spaces(around.before), True)]
            parts += [said, *_cut(template.end, True)]
            parts += _cut(around.behind.removeprefix(template.end))
        else:
            parts += [*_cut(around.before), *(system if role == "user" else []), said, *_cut(around.behind)]
            system = system if role == "system" else []
    return parts + (_cut(template.assistant.before.rstrip(" ")) if reply else [])


def _spaces(text: str) -> str:
    return text[len(text.rstrip(" ")) :]


def _cut(text: str, asked: bool = False) -> list[TemplateSegment]:
    """A template's string at its special ids."""
    pieces = _SPECIAL.split(text)  # text, name, text, name ...
    return [TemplateSegment(piece, asked, bool(i % 2)) for i, piece in enumerate(pieces) if piece]


def text_of(parts: Sequence[TemplateSegment], names: Mapping[str, str]) -> str:
    """The text, with names (of "bos", "eos" ...) in place of the vocabulary's ids."""
    return "".join(names[part.text] if part.special else part.text for part in parts)


def tokens_of(parts: Sequence[TemplateSegment], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """(ids int32 [n], bool [n] which of them are the assistant's to say, in part at least)."""
    ids, asked = [np.zeros(0, np.int32)], [np.zeros(0, bool)]
    for special, run in itertools.groupby(parts, key=lambda part: part.special):
        stretch = list(run)
        if special:
            ids.append(np.array([getattr(tokenizer.vocab, part.text) for part in stretch], np.int32))
            asked.append(np.array([part.asked for part in stretch]))
            continue
        found, spans = encode_with_spans(tokenizer, "".join(part.text for part in stretch))
        wanted = np.repeat([part.asked for part in stretch], [len(part.text) for part in stretch])
        before = np.concatenate([[0], np.cumsum(wanted)])  # of each character: how many before it are
        ids.append(found)
        asked.append(before[spans[:, 1]] > before[spans[:, 0]])
    return np.concatenate(ids), np.concatenate(asked)


def prompt_of(
    messages: Sequence[Message], template: ChatTemplate, tokenizer: Tokenizer, room: int
) -> tuple[np.ndarray, int]:
    """(ids of what an answer follows; how many of the oldest messages were left out so that they fit `room`).

    The system's message and the last one stay, too long or not.
    """
    first = 1 if messages and messages[0].role == "system" else 0
    for left_out in range(len(messages) - first):
        kept = [*messages[:first], *messages[first + left_out :]]
        ids, _ = tokens_of(segments_of(kept, template, reply=True), tokenizer)
        if kept[first].role == "user" and len(ids) <= room:
            break
    return ids, left_out


def ending(template: ChatTemplate, tokenizer: Tokenizer) -> tuple[int, str]:
    """(the id that ends an answer, the text that does where no single id does, else "")."""
    parts = _cut(template.end)
    if any(part.special for part in parts):
        return next(getattr(tokenizer.vocab, part.text) for part in parts if part.special), ""
    ids = tokenizer.encode(template.end)
    if len(ids) == 1:
        return ids[0], ""
    return tokenizer.vocab.eos, template.end
