"""Instruction tuning: conversations of several turns, of which the assistant's are learned.

A record holds a list of messages, or a question and its answer as templates of columns. They become text by
a chat template (text/chat.py), which is saved with the run. Every token of an answer, and what ends it, is
predicted, nothing else; rows of training are packed. A conversation that is longer than a row loses its end.
With `loss_on="last_answer"` only its last answer is predicted, and a conversation that is longer than a row loses its
oldest messages: Llama 2's ghost attention trains so (trainer/ghost_attention.py).

Evaluated by the perplexity of answers and, where the config has metrics, by generated last answers.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from typing_extensions import override

from tlx.base.errors import ConfigError, DataError, one_of
from tlx.data.readers import Record
from tlx.tasks.shared.base import Columns, GenerationRequest, Prediction, Scores, TaskSpec
from tlx.tasks.shared.generative import DecodingConfig
from tlx.tasks.shared.messages import listed_messages
from tlx.tasks.shared.packed_text import PackedSegment, PackedTextTask, cut_segments, likelihoods
from tlx.tasks.shared.templates import columns_of, filled
from tlx.tasks.shared.text_metrics import METRICS, majority_baseline
from tlx.text.chat import (
    ChatTemplate,
    Message,
    TemplateSegment,
    ending,
    fitted_prompt,
    prompt_of,
    segments_of,
    template_named,
    tokens_of,
    without_oldest,
)
from tlx.text.tokenizer import Tokenizer

LOSS_ON = ("answers", "last_answer")


class Conversation(NamedTuple):
    """The first segment of a conversation."""

    pieces: tuple[PackedSegment, ...]
    """The one segment."""
    record: int
    """Index of the record."""
    messages: tuple[Message, ...]
    """All messages."""


@dataclasses.dataclass(frozen=True)
class Chat(DecodingConfig):
    """Columns of conversations, the chat template, and how answers are evaluated."""

    name: str = "chat"
    """Name in the table of tasks."""
    messages: str = "messages"
    """Column with a list of messages."""
    role: str = "role"
    """Key of a message's role."""
    content: str = "content"
    """Key of a message's text."""
    prompt: str = ""
    """Template of columns for records with one question, instead of `messages`; "" is none."""
    answer: str = ""
    """Template of columns for the answer to `prompt`."""
    system: str = ""
    """System message of conversations that have none; "" is none."""
    template: str = "words"
    """Name of the chat template, one of text/chat.py's."""
    format: ChatTemplate | None = None
    """The chat template written out; None is the one called `template`."""
    loss_on: str = "answers"
    """What is learned of a conversation: "answers", or "last_answer" alone."""
    packing: bool = True
    """Whether a row of training holds several conversations."""
    metrics: tuple[str, ...] = ()
    """Metrics of text_metrics.py for the last answer, the first is the primary one; () generates none."""

    def validate(self) -> None:
        """Raise ConfigError naming the field, its value and what is legal."""
        super().validate()
        self.chat_template.validate("objective.format")
        if self.loss_on not in LOSS_ON:
            raise ConfigError(one_of("objective.loss_on", self.loss_on, LOSS_ON))
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


def messages_of(record: Record, config: Chat, labelled: bool = True) -> tuple[Message, ...]:
    """Read the messages of a record.

    Args:
        record: The record.
        config: Its columns.
        labelled: Whether the messages end with the assistant's last answer; else with what asks for one.

    Returns:
        The messages, the config's system message first where there is none.

    Raises:
        DataError: The record is no conversation.
    """
    if config.prompt:
        messages = [Message("user", filled(config.prompt, record, "objective.prompt"))]
        if labelled:
            messages.append(Message("assistant", filled(config.answer, record, "objective.answer")))
    else:
        try:
            value = record.get(config.messages, "objective.messages")
        except DataError as error:
            raise DataError(
                f"{error}; records of a question and its answer, in columns such as q and a, need "
                "objective.prompt='{q}' and objective.answer='{a}' instead"
            ) from error
        messages = (
            [Message("user", value)]
            if isinstance(value, str)
            else listed_messages(value, record, config.messages, config.role, config.content)
        )
    while labelled and messages and messages[-1].role != "assistant":
        messages.pop()
    if not messages or (not labelled and messages[-1].role == "assistant"):
        raise DataError(
            f"{record.where}: "
            + ("no message is the assistant's" if labelled else "nothing is to be answered")
        )
    if config.system and all(message.role != "system" for message in messages):
        messages.insert(0, Message("system", config.system))
    return tuple(messages)


def _fitted(
    messages: tuple[Message, ...], template: ChatTemplate, tokenizer: Tokenizer, spec: TaskSpec
) -> tuple[Message, ...]:
    """Return a conversation that ends with an answer, its oldest messages left out where it exceeds a row."""

    def encode(kept: Sequence[Message]) -> np.ndarray:
        return tokens_of(segments_of(kept, template), tokenizer)[0]

    # A row of T tokens predicts T: the text may have one token more.
    left_out = fitted_prompt(messages, encode, spec.length - len(spec.prompt) + 1)[1]
    return tuple(without_oldest(messages, left_out))


def _last_answer_alone(messages: Sequence[Message], template: ChatTemplate) -> list[TemplateSegment]:
    """Return the segments of a conversation, those of all but its last message without a loss."""
    segments = segments_of(messages, template)
    num_earlier = len(segments_of(messages[:-1], template))
    earlier = [segment._replace(predicted=False) for segment in segments[:num_earlier]]
    return [*earlier, *segments[num_earlier:]]


def _answered(item: Conversation) -> bool:
    return item.messages[-1].role == "assistant"


class ChatTask(PackedTextTask):
    """Conversations, the assistant's turns of which are learned."""

    config_class = Chat

    @override
    def infer_labels(self, config: Chat, records: Sequence[Record]) -> Chat:
        """Return the config with its template written out, as it is saved."""
        del records
        return dataclasses.replace(config, format=config.chat_template)

    @override
    def text_columns(self, config: Chat) -> Columns:
        """Return the messages' column, or those of the question."""
        if not config.prompt:
            return ((config.messages, "objective.messages"),)
        return tuple((name, "objective.prompt") for name in columns_of(config.prompt))

    @override
    def target_columns(self, config: Chat) -> Columns:
        """Return the columns of the answer."""
        return tuple((name, "objective.answer") for name in columns_of(config.answer))

    @override
    def prepare(
        self, records: Sequence[Record], tokenizer: Tokenizer, spec: TaskSpec, labelled: bool = True
    ) -> list[Conversation]:
        """Make an item of each record."""
        template = spec.config.chat_template
        items = []
        for number, record in enumerate(records):
            messages = messages_of(record, spec.config, labelled)
            if spec.config.loss_on == "last_answer" and labelled:
                messages = _fitted(messages, template, tokenizer, spec)
                segments = _last_answer_alone(messages, template)
            else:
                segments = segments_of(messages, template)
            tokens, predicted = tokens_of(segments, tokenizer)
            segment, *_ = cut_segments(tokens, predicted, spec)
            items.append(Conversation((segment,), number, messages))
        return items

    @override
    def generation_requests(self, items: Sequence[Conversation], spec: TaskSpec) -> GenerationRequest | None:
        """Return what stands before the last answers, the oldest messages left out where it is too long.

        None where no answers are to be generated.
        """
        config = spec.config
        template = config.chat_template
        if not config.metrics and all(map(_answered, items)):
            return None
        assert spec.tokenizer is not None
        room = spec.length - config.target_length - len(spec.prompt)
        prompts = []
        for item in items:
            messages = item.messages[:-1] if _answered(item) else item.messages
            ids = prompt_of(messages, template, spec.tokenizer, room)[0][-room:]
            # A trained prompt follows the first id, as in rows of training.
            prompts.append([int(ids[0]), *spec.prompt, *ids[1:].tolist()])
        end, stop = ending(template, spec.tokenizer)
        return GenerationRequest(
            prompts=prompts,
            sources=None,
            max_tokens=config.target_length,
            num_beams=config.num_beams,
            length_penalty=config.length_penalty,
            end=end,
            stop=stop,
        )

    @override
    def predictions(
        self, outputs: Mapping[str, Any], items: Sequence[Conversation], spec: TaskSpec
    ) -> list[Prediction]:
        """Compute the likelihood of answers, and decode generated ones.

        outputs: "nats" [items]; "written", the ids generated for each item, where there are any.
        items: The conversations.

        Returns:
            {"answer"} where one was generated; where the record has one {"nats", "tokens", "bytes"} of all.
        """
        assert spec.tokenizer is not None
        predictions: list[Prediction] = []
        for number, total in enumerate(likelihoods(outputs, items, spec)):
            prediction = total if _answered(items[number]) else {}
            if "written" in outputs:
                stop = ending(spec.config.chat_template, spec.tokenizer)[1]
                text = spec.tokenizer.decode(outputs["written"][number])
                prediction["answer"] = (text.partition(stop)[0] if stop else text).strip()
            predictions.append(prediction)
        return predictions

    @override
    def score(self, predictions: Sequence[Prediction], records: Sequence[Record], spec: TaskSpec) -> Scores:
        """Compute the config's metrics, and the perplexity of a token of the answers."""
        config = spec.config
        nats = np.array([prediction["nats"] for prediction in predictions], np.float64)
        tokens = np.array([prediction["tokens"] for prediction in predictions], np.float64)

        def perplexity(chosen: np.ndarray) -> float:
            return float(np.exp(nats[chosen].sum() / max(tokens[chosen].sum(), 1)))

        everything = np.arange(len(nats))
        figures = {"perplexity": perplexity(everything)}
        if not config.metrics:
            return Scores(figures, "perplexity", perplexity, lower_is_better=True)
        texts = [prediction["answer"] for prediction in predictions]
        references = [[messages_of(record, config)[-1].content.strip()] for record in records]
        statistics = {name: METRICS[name](texts, references) for name in config.metrics}
        figures = {name: statistic(everything) for name, statistic in statistics.items()} | figures
        main = config.metrics[0]
        return Scores(figures, main, statistics[main], majority_baseline(main, references))


TASK = ChatTask()
