"""Instruction tuning: conversations of several turns, of which the assistant's are to be said.

A record holds a list of messages, or a question and its answer as templates of columns. They become text by
a chat template (text/chat.py), which is saved with the run. Every token of an answer, and what ends it, is
asked for, nothing else; rows of training are packed. A conversation that is longer than a row loses its end.

Evaluated by the perplexity of answers and, where metrics are asked for, by what is written as the last one.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tlx.base.errors import ConfigError, DataError, one_of
from tlx.data.readers import Record
from tlx.tasks.shared.base import GenerationRequest, Prediction, Scores, Task, TaskSpec
from tlx.tasks.shared.generative import DecodingConfig
from tlx.tasks.shared.packed_text import (
    PackedModule,
    PackedSegment,
    blank,
    example,
    join,
    likelihoods,
    pieces_of,
    size,
)
from tlx.tasks.shared.templates import columns_of, filled
from tlx.tasks.shared.text_metrics import METRICS, majority_baseline
from tlx.text.chat import (
    ROLES,
    ChatTemplate,
    Message,
    ending,
    prompt_of,
    segments_of,
    template_named,
    tokens_of,
)
from tlx.text.tokenizer import Tokenizer

# What other data sets call the roles.
_OTHER_NAMES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}


class Conversation(NamedTuple):
    """An item: one piece, the record, and the messages."""

    pieces: tuple[PackedSegment, ...]
    record: int
    messages: tuple[Message, ...]


@dataclasses.dataclass(frozen=True)
class Chat(DecodingConfig):
    """messages: the column with a list of them; role, content: their keys. prompt, answer: templates of
    columns for records with one question and its answer instead. system: said before all, where no message is
    the system's. template: one of TEMPLATES; format: that one or another, written out. packing: whether a row
    of training holds several conversations. metrics: by text_scores.py, of the last answer; (): none is
    written."""

    name: str = "chat"
    messages: str = "messages"
    role: str = "role"
    content: str = "content"
    prompt: str = ""
    answer: str = ""
    system: str = ""
    template: str = "words"
    format: ChatTemplate | None = None
    packing: bool = True
    metrics: tuple[str, ...] = ()

    def validate(self) -> None:
        """Raises ConfigError naming the field, its value and what is legal."""
        super().validate()
        self.chat_template.validate("objective.format")
        for metric in self.metrics:
            if metric not in METRICS:
                raise ConfigError(one_of("objective.metrics", metric, METRICS))
        if bool(self.prompt) != bool(self.answer):
            raise ConfigError("objective.prompt and objective.answer belong together; one of them is empty")
        if self.prompt and not (columns_of(self.prompt) and columns_of(self.answer)):
            raise ConfigError(
                f"objective.prompt = {self.prompt!r} or objective.answer = {self.answer!r} names no column; "
                "write one as '{question}'"
            )

    @property
    def chat_template(self) -> ChatTemplate:
        """The one that is written out, or the one that is named."""
        return self.format or template_named(self.template, "objective.template")


def texts(config: Chat) -> tuple[tuple[str, str], ...]:
    """The messages, or the columns of the question."""
    if not config.prompt:
        return ((config.messages, "objective.messages"),)
    return tuple((name, "objective.prompt") for name in columns_of(config.prompt))


def written(config: Chat) -> tuple[tuple[str, str], ...]:
    """The columns of the answer."""
    return tuple((name, "objective.answer") for name in columns_of(config.answer))


def complete(config: Chat, records: Sequence[Record]) -> Chat:
    """The config with its template written out, as it is saved."""
    del records
    return dataclasses.replace(config, format=config.chat_template)


def messages_of(record: Record, config: Chat, labelled: bool = True) -> tuple[Message, ...]:
    """What was said, up to the assistant's last answer or, without labels, to what asks for one.

    DataError naming the record that is no conversation.
    """
    if config.prompt:
        found = [Message("user", filled(config.prompt, record, "objective.prompt"))]
        if labelled:
            found.append(Message("assistant", filled(config.answer, record, "objective.answer")))
    else:
        value = record.get(config.messages, "objective.messages")
        found = [Message("user", value)] if isinstance(value, str) else _listed(value, record, config)
    while labelled and found and found[-1].role != "assistant":
        found.pop()
    if not found or (not labelled and found[-1].role == "assistant"):
        raise DataError(
            f"{record.where}: "
            + ("no message is the assistant's" if labelled else "nothing is to be answered")
        )
    if config.system and all(message.role != "system" for message in found):
        found.insert(0, Message("system", config.system))
    return tuple(found)


def _listed(value: Any, record: Record, config: Chat) -> list[Message]:
    wanted = f"a list of messages, each with {config.role!r} and {config.content!r}"
    if not isinstance(value, list | tuple):
        raise DataError(f"{record.where}: {config.messages!r} is {type(value).__name__}, expected {wanted}")
    found = []
    for i, message in enumerate(value):
        where = f"{record.where}: {config.messages}[{i}]"
        if not isinstance(message, Mapping) or not {config.role, config.content} <= set(message):
            raise DataError(
                f"{where} is {message!r:.60}, expected {wanted} (objective.role, objective.content)"
            )
        role, content = message[config.role], message[config.content]
        role = _OTHER_NAMES.get(role, role)
        if role not in ROLES:
            raise DataError(f"{where}: " + one_of(config.role, role, [*ROLES, *_OTHER_NAMES]))
        if not isinstance(content, str):
            raise DataError(f"{where}: {config.content!r} is {type(content).__name__}, expected text")
        found.append(Message(role, content))
    return found


def prepare(
    records: Sequence[Record], tokenizer: Tokenizer, spec: TaskSpec, labelled: bool = True
) -> list[Conversation]:
    """An item for each record."""
    template, items = spec.config.chat_template, []
    for number, record in enumerate(records):
        messages = messages_of(record, spec.config, labelled)
        tokens, asked = tokens_of(segments_of(messages, template), tokenizer)
        piece, *_ = pieces_of(tokens, asked, spec)
        items.append(Conversation((piece,), number, messages))
    return items


def asks(items: Sequence[Conversation], spec: TaskSpec) -> GenerationRequest | None:
    """What stands before the last answer, the oldest messages left out where it is too long. None where no
    answers are to be written."""
    config, template = spec.config, spec.config.chat_template
    alone = [item.messages[:-1] if _answered(item) else item.messages for item in items]
    if not config.metrics and all(map(_answered, items)):
        return None
    room = spec.length - config.target_length - len(spec.prompt)
    prompts = []
    for messages in alone:
        ids = prompt_of(messages, template, spec.tokenizer, room)[0][-room:]
        prompts.append([int(ids[0]), *spec.prompt, *ids[1:].tolist()])
    end, stop = ending(template, spec.tokenizer)
    how = config.target_length, config.num_beams, config.length_penalty
    return GenerationRequest(prompts, None, *how, end, stop)


def _answered(item: Conversation) -> bool:
    return item.messages[-1].role == "assistant"


def answers(outputs: Mapping[str, Any], items: Sequence[Conversation], spec: TaskSpec) -> list[Prediction]:
    """{"answer"} where one was written; where there is one already {"nats", "tokens", "bytes"} of all."""
    found: list[Prediction] = []
    for number, one in enumerate(likelihoods(outputs, items, spec)):
        found.append(one if _answered(items[number]) else {})
        if "written" in outputs:
            stop = ending(spec.config.chat_template, spec.tokenizer)[1]
            text = spec.tokenizer.decode(outputs["written"][number])
            found[-1]["answer"] = (text.partition(stop)[0] if stop else text).strip()
    return found


def score(answers: Sequence[Prediction], records: Sequence[Record], spec: TaskSpec) -> Scores:
    """The metrics of what was written, and the perplexity of a token of the answers."""
    config = spec.config
    nats, tokens = (np.array([answer[name] for answer in answers], np.float64) for name in ("nats", "tokens"))

    def perplexity(chosen: np.ndarray) -> float:
        return float(np.exp(nats[chosen].sum() / max(tokens[chosen].sum(), 1)))

    everything = np.arange(len(nats))
    figures = {"perplexity": perplexity(everything)}
    if not config.metrics:
        return Scores(figures, "perplexity", perplexity, lower_is_better=True)
    said = [answer["answer"] for answer in answers]
    known = [[messages_of(record, config)[-1].content.strip()] for record in records]
    statistics = {name: METRICS[name](said, known) for name in config.metrics}
    figures = {name: statistic(everything) for name, statistic in statistics.items()} | figures
    main = config.metrics[0]
    return Scores(figures, main, statistics[main], majority_baseline(main, known))


TASK = Task(
    Chat,
    complete,
    texts,
    prepare,
    blank,
    example,
    PackedModule,
    answers,
    score,
    ("decoder",),
    asks=asks,
    written=written,
    size=size,
    join=join,
    cuts=True,
)
