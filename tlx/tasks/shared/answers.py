"""Prompts with answers that people compared, ranked, liked or rated: how they are read, and their token ids.

    pairs      a prompt, the chosen answer and the rejected one
    ranked     a prompt, several answers and the rank of each
    rated      a prompt, an answer and a number
    unpaired   a prompt, an answer and whether it was liked

A prompt is a text, a template of columns or a list of messages. With `prompt` = "" the columns of answers hold
whole conversations, whose prompt is the longest beginning that all share (the HH-RLHF layout).

Texts become ids by a chat template in decoders; in other models the prompt is the first text of a row and the
answer the second one. Where both do not fit, the prompt loses its oldest tokens and keeps the first one; only an
answer that is longer than the row loses its end.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tlx.base.errors import ConfigError, DataError
from tlx.data.readers import Record
from tlx.tasks.shared.base import Columns, TaskSpec, check_unicode
from tlx.tasks.shared.generative import text_frame
from tlx.tasks.shared.labels import number_of
from tlx.tasks.shared.messages import listed_messages
from tlx.tasks.shared.templates import columns_of, filled
from tlx.text.chat import (
    ChatTemplate,
    Message,
    TemplateSegment,
    segments_of,
    template_named,
    text_of,
    tokens_of,
)
from tlx.text.tokenizer import Tokenizer

_LIKED = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
_NO_IDS = {"bos": "", "eos": "", "sep": "", "cls": ""}


@dataclasses.dataclass(frozen=True)
class AnswersConfig:
    """Columns of prompts and answers, and the chat template."""

    prompt: str = "prompt"
    """Column of the prompt, or a template of columns ('{instruction} {input}'); "": the columns of answers hold whole
    conversations."""
    chosen: str = "chosen"
    """Column of the better answer of pairs."""
    rejected: str = "rejected"
    """Column of the worse answer of pairs."""
    answer: str = "completion"
    """Column of the answer of rated and unpaired records."""
    turns: tuple[str, ...] = ()
    """The two texts before a user's and an assistant's turn in conversations that are one text, such as
    ('\\n\\nHuman:', '\\n\\nAssistant:'); (): such a text is one message."""
    role: str = "role"
    """Key of a message's role."""
    content: str = "content"
    """Key of a message's text."""
    system: str = ""
    """System message of conversations that have none; "" is none."""
    template: str = "words"
    """Name of the chat template, one of text/chat.py's."""
    format: ChatTemplate | None = None
    """The chat template written out; None is the one called `template`."""

    def validate(self) -> None:
        """Raise ConfigError naming the field, its value and what is legal."""
        self.chat_template.validate("objective.format")
        if self.turns and (len(self.turns) != 2 or not all(self.turns) or self.turns[0] == self.turns[1]):
            raise ConfigError(
                f"objective.turns = {self.turns} must be two different texts, before a user's and an assistant's turn"
            )

    @property
    def chat_template(self) -> ChatTemplate:
        """The one that is written out, or the one that is named."""
        return self.format or template_named(self.template, "objective.template")


Turns = tuple[Message, ...]


class Answers(NamedTuple):
    """A prompt with its answers."""

    prompt: Turns
    """The messages before the answers."""
    answers: tuple[Turns, ...]
    """The messages of each answer, as a rule one."""


class AnswerIds(NamedTuple):
    """Token ids of an answer and of the prompt before it."""

    prompt: np.ndarray
    """int32 [n]; in decoders and encoder-decoders with the special ids around it."""
    answer: np.ndarray
    """int32 [m]; in decoders and encoder-decoders with the id that ends it."""
    predicted: np.ndarray
    """bool [m]: ids that the assistant predicts; all, but for the user's turns within an answer."""


def prompt_columns(config: AnswersConfig) -> Columns:
    """Return the columns of the prompt."""
    names = columns_of(config.prompt) or (config.prompt,)
    return tuple((name, "objective.prompt") for name in names if name)


def read_answers(record: Record, config: AnswersConfig, columns: Columns, lists: bool = False) -> Answers:
    """Read the prompt and the answers of a record.

    Args:
        record: The record.
        config: The layout.
        columns: Columns of the answers, each with the config's field that names it.
        lists: Whether a column may hold a list of texts, an answer each.

    Returns:
        The prompt, and the answers in the order of the columns.

    Raises:
        DataError: A column is missing or holds something else, or an answer is not the assistant's.
    """
    values = [value for name, field in columns for value in _texts(record, name, field, lists)]
    conversations = [_turns(value, record, name, config) for name, value in values]
    prompt: list[Message] = []
    if config.prompt:
        prompt = _prompt(record, config)
    else:
        conversations = [_up_to_assistant(turns) for turns in conversations]
        shared = _shared_turns(conversations)
        prompt = conversations[0][:shared]
        conversations = [turns[shared:] for turns in conversations]
    for (name, _), turns in zip(values, conversations, strict=True):
        if not turns or turns[0].role != "assistant":
            hint = "; objective.prompt = '' is for whole conversations" if config.prompt else ""
            raise DataError(f"{record.where}: {name!r} has no answer of the assistant after the prompt{hint}")
    if not any(message.role == "user" for message in prompt):
        raise DataError(f"{record.where}: the prompt has no message of the user")
    if config.system and all(message.role != "system" for message in prompt):
        prompt.insert(0, Message("system", config.system))
    answers = Answers(tuple(prompt), tuple(tuple(turns) for turns in conversations))
    check_unicode(record, answers)
    return answers


def _texts(record: Record, name: str, field: str, lists: bool) -> list[tuple[str, Any]]:
    """Return the answers of a column, each with the column's name: one, or those of a list of texts."""
    value = record.get(name, field)
    if lists and isinstance(value, list | tuple) and value and all(isinstance(item, str) for item in value):
        return [(name, item) for item in value]
    return [(name, value)]


def _turns(value: Any, record: Record, column: str, config: AnswersConfig) -> list[Message]:
    """Return the messages of an answer, or of a conversation where there is no column for the prompt."""
    if isinstance(value, str):
        if config.turns and (not config.prompt or config.turns[1] in value):
            return _split_turns(value, record, column, config)
        if not config.prompt:
            raise DataError(
                f"{record.where}: {column!r} is a text, and objective.prompt = '' wants conversations: lists of "
                "messages, or texts whose turns objective.turns separates"
            )
        return [Message("assistant", value)]
    if not isinstance(value, Mapping | list | tuple):
        raise DataError(
            f"{record.where}: {column!r} is {type(value).__name__}, expected a text, or a list of messages, each "
            f"with {config.role!r} and {config.content!r}"
        )
    values = [value] if isinstance(value, Mapping) else value
    return listed_messages(values, record, column, config.role, config.content)


def _split_turns(text: str, record: Record, column: str, config: AnswersConfig) -> list[Message]:
    """Split a conversation that is one text at the marks before its turns."""
    user, assistant = config.turns
    before, *pieces = re.split(f"({re.escape(user)}|{re.escape(assistant)})", text)
    if before.strip() or not pieces:
        raise DataError(
            f"{record.where}: {column!r} = {text[:40]!r} does not begin with one of objective.turns = {config.turns}"
        )
    return [
        Message("user" if mark == user else "assistant", content.strip())
        for mark, content in zip(pieces[::2], pieces[1::2], strict=True)
    ]


def _prompt(record: Record, config: AnswersConfig) -> list[Message]:
    """Return the messages of the prompt, up to the last one that is not the assistant's."""
    if columns_of(config.prompt):
        return [Message("user", filled(config.prompt, record, "objective.prompt").strip())]
    value = record.get(config.prompt, "objective.prompt")
    if isinstance(value, str):
        if not config.turns or config.turns[0] not in value:
            return [Message("user", value)]
        messages = _split_turns(value, record, config.prompt, config)
    else:
        messages = listed_messages(value, record, config.prompt, config.role, config.content)
    while messages and messages[-1].role == "assistant":
        messages.pop()
    return messages


def _up_to_assistant(turns: list[Message]) -> list[Message]:
    """Return the turns without what follows the assistant's last one."""
    last = max((i for i, turn in enumerate(turns) if turn.role == "assistant"), default=-1)
    return turns[: last + 1]


def _shared_turns(conversations: Sequence[Sequence[Message]]) -> int:
    """Return how many turns all conversations begin with, and at most all but the last of each."""
    most = max(min(map(len, conversations)) - 1, 0)
    count = 0
    while count < most and all(turns[count] == conversations[0][count] for turns in conversations):
        count += 1
    # The answers begin with a turn of the assistant: a user's turn that differs would be no answer.
    return count


def liked_of(record: Record, column: str, field: str = "objective.label") -> bool:
    """Return whether an answer was liked.

    Args:
        record: The record.
        column: Column that says so.
        field: Config key that names the column, for messages.

    Returns:
        Whether it was.

    Raises:
        DataError: The value is not true or false.
    """
    value = record.get(column, field)
    liked = _LIKED.get(str(value).strip().lower())
    if liked is None:
        raise DataError(f"{record.where}: {column!r} = {value!r} is not true or false (or 1 or 0)")
    return liked


def rank_numbers(record: Record, column: str, count: int, form: str) -> tuple[float, ...]:
    """Return the rank of each answer, a smaller one the better.

    Args:
        record: The record.
        column: Column with a list of numbers.
        count: Number of answers.
        form: "ranks": the rank of each answer. "order": the indices of the answers, the best one's first.
            "scores": a number for each answer, larger the better.

    Returns:
        `count` numbers; equal ones are ties.

    Raises:
        DataError: The column has other values, or all ranks are equal.
    """
    value = record.get(column, "objective.ranking")
    where = f"{record.where}: {column!r} = {value!r:.60}"
    if not isinstance(value, list | tuple) or len(value) != count:
        raise DataError(f"{where} is not a list of {count} numbers, one for each answer")
    numbers = [number_of(Record(record.where, {column: item}), column, "objective.ranking") for item in value]
    if form == "order":
        if sorted(numbers) != list(range(count)):
            raise DataError(f"{where} is no order of the answers 0 to {count - 1} (objective.ranking_form)")
        return tuple(float(numbers.index(i)) for i in range(count))
    if len(set(numbers)) == 1:
        raise DataError(f"{where} prefers no answer to another")
    return tuple(-number for number in numbers) if form == "scores" else tuple(numbers)


def encode_answers(
    answers: Answers, config: AnswersConfig, tokenizer: Tokenizer, spec: TaskSpec
) -> tuple[AnswerIds, ...]:
    """Tokenize a prompt with each of its answers.

    Args:
        answers: The prompt and the answers.
        config: The chat template.
        tokenizer: The run's tokenizer.
        spec: What examples depend on: the kind of the model, and the form of its texts.

    Returns:
        The ids of each answer and of the prompt before it.
    """
    if spec.kind == "decoder":
        return tuple(_in_template(answers.prompt, turns, config, tokenizer) for turns in answers.answers)
    before: Sequence[int] = ()
    after: Sequence[int] = ()
    end: Sequence[int] = ()
    if spec.kind == "encoder_decoder":
        frame = text_frame(spec, tokenizer)
        before = frame.before
        after = frame.after
        end = frame.end or (tokenizer.vocab.eos,)
    text = _plain_text(answers.prompt, config.chat_template)
    prompt = np.array([*before, *tokenizer.encode(text), *after], np.int32)
    encoded = []
    for turns in answers.answers:
        text = _plain_text(turns, config.chat_template)
        ids = np.array([*tokenizer.encode(text), *end], np.int32)
        encoded.append(AnswerIds(prompt, ids, np.ones(len(ids), bool)))
    return tuple(encoded)


def _in_template(prompt: Turns, turns: Turns, config: AnswersConfig, tokenizer: Tokenizer) -> AnswerIds:
    """Encode prompt and answer as one text, since tokens may span the border, and split it where that begins."""
    template = config.chat_template
    before = len(segments_of(prompt, template))
    segments = segments_of([*prompt, *turns], template)
    earlier = [segment._replace(predicted=False) for segment in segments[:before]]
    ids, predicted = tokens_of([*earlier, *segments[before:]], tokenizer)
    (positions,) = np.nonzero(predicted)
    # What stands after the end of an answer, a line break say, is never predicted.
    first = positions[0]
    last = positions[-1] + 1
    return AnswerIds(ids[:first], ids[first:last], predicted[first:last])


def _plain_text(turns: Turns, template: ChatTemplate) -> str:
    """Return a single message's text; several with the template's text around them, without special ids."""
    if len(turns) == 1:
        return turns[0].content.strip() if template.trim else turns[0].content
    segments: list[TemplateSegment] = segments_of(turns, template)
    return text_of(segments, _NO_IDS).strip()


def fit_answer(ids: AnswerIds, room: int) -> AnswerIds:
    """Truncate a prompt and its answer to `room` ids together.

    The prompt loses its oldest ids but for the first one; an answer loses its end only where it fills the row.

    Args:
        ids: The prompt and the answer.
        room: Most ids of both, 2 or more.

    Returns:
        The truncated ids.
    """
    answer = ids.answer[: room - min(len(ids.prompt), 1)]
    return AnswerIds(fit_prompt(ids.prompt, room - len(answer)), answer, ids.predicted[: len(answer)])


def fit_prompt(prompt: np.ndarray, room: int) -> np.ndarray:
    """Truncate a prompt to `room` ids: it loses its oldest ones, but keeps the first, which begins the text."""
    excess = max(len(prompt) - room, 0)
    return np.concatenate([prompt[:1], prompt[1 + excess :]]) if excess else prompt
