"""An assistant's next answer in a conversation.

Shapes: A states of the automaton of stop strings.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tlx.api.core import ModelCore
from tlx.base.errors import ConfigError, one_of
from tlx.decode.pieces import TextPieces, text_pieces
from tlx.decode.ranked import sample_and_rank
from tlx.decode.rows import RowDecoder, RowRequest, stream
from tlx.decode.sampling import Sampling
from tlx.decode.stop import automaton, cut, joins_bytes
from tlx.tasks import CHAT_TASKS
from tlx.text.chat import (
    ROLES,
    TEMPLATES,
    ChatTemplate,
    Message,
    ending,
    fitted_prompt,
    segments_of,
    template_named,
    tokens_of,
)
from tlx.text.model_template import ModelTemplate, model_template


class ReplyRequest(NamedTuple):
    """The inputs of the model, whose continuation is an answer."""

    row: RowRequest
    """The conversation as ids, and how it is continued."""
    stop: tuple[str, ...]
    """Strings that end the answer, where no single id does."""
    left_out: int
    """Number of the oldest messages that did not fit."""


def template_of(lm: ModelCore, name: str = "") -> ChatTemplate | ModelTemplate:
    """Return the chat template called `name`, or the run's: of its tuning, else of the imported model's files.

    Raises:
        ConfigError: the model is no decoder, or has no template and none is named.
    """
    if lm.kind != "decoder":
        raise ConfigError(f"a conversation needs a decoder, this is {lm.kind}")
    if name:
        return template_named(name, "template")
    if lm.config.objective.name in CHAT_TASKS:
        return lm.config.objective.chat_template
    own = model_template(lm.tokenizer)
    if own is None:
        raise ConfigError(
            f"this model was trained for {lm.config.objective.name}, not tuned on conversations, and its files hold "
            "no chat template: tlx finetune --config=finetune/chat --from=IT makes one that is; of one that was "
            f"tuned elsewhere name the template (--template=NAME), one of {', '.join(TEMPLATES)}; tlx generate "
            "continues texts without one"
        )
    return own


def messages_from(messages: str | Sequence[Mapping[str, str]]) -> list[Message]:
    """Convert {"role", "content"} mappings, or one question, into Messages.

    Raises:
        ConfigError: a message lacks a key or has an unknown role, or the last one is not the user's.
    """
    if isinstance(messages, str):
        return [Message("user", messages)]
    converted = []
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
            raise ConfigError(f"message {number} = {message!r} must have a 'role' and a 'content'")
        if message["role"] not in ROLES:
            raise ConfigError(one_of(f"message {number}'s role", message["role"], ROLES))
        converted.append(Message(message["role"], message["content"]))
    if not converted or converted[-1].role != "user":
        raise ConfigError("the last message must be the user's: there is nothing to answer")
    return converted


def reply_request(
    lm: ModelCore, messages: Sequence[Message], max_tokens: int, sampling: Sampling, template: str = ""
) -> ReplyRequest:
    """Return the row whose continuation is the assistant's next answer.

    Args:
        lm: A decoder.
        messages: The conversation, the last message being the user's.
        max_tokens: Largest number of tokens of the answer.
        sampling: How tokens are drawn.
        template: Name of a chat template; "" is the one that the model was tuned with, or came with.

    Returns:
        The row, with the seed 0.

    Raises:
        ConfigError: the last message does not fit before `max_tokens`, or `max_tokens` is not legal.
    """
    chat_template = template_of(lm, template)
    length = reply_length(lm, chat_template)
    if not 0 < max_tokens < length:
        raise ConfigError(f"max_tokens = {max_tokens} must be 1 to {length - 1}: the model reads {length}")
    max_prompt = length - max_tokens
    ids, left_out = fitted_prompt(messages, lambda kept: _encoded(kept, chat_template, lm), max_prompt)
    if len(ids) > max_prompt:
        raise ConfigError(
            f"the last message takes {len(ids)} tokens with what stands around it; the model reads {length}, "
            f"of which max_tokens = {max_tokens} are for the answer: shorten one of them"
        )
    rules = lm.generation_rules
    stop = ""
    if isinstance(chat_template, ChatTemplate):
        end, stop = ending(chat_template, lm.tokenizer)
        rules = rules.ending_with(end)
    row = RowRequest(ids.tolist(), max_tokens, sampling, rules=rules)
    lm.row_decoder.check(row)
    return ReplyRequest(row, (stop,) if stop else (), left_out)


def reply_pieces(lm: ModelCore, decoder: RowDecoder, row: RowRequest, stop: tuple[str, ...]) -> Iterator[str]:
    """Generate an answer.

    Args:
        lm: A decoder.
        decoder: `lm.row_decoder`, or one with a store of prefixes.
        row: The row of a ReplyRequest.
        stop: Its stop strings.

    Yields:
        Pieces of the answer, as they come.
    """
    stops_AV = automaton(stop, lm.tokenizer) if stop else None
    pieces = TextPieces(lm.tokenizer.decode, stop, joins_bytes(lm.tokenizer), strip=True)
    yield from text_pieces(stream(decoder, row, stops_AV), pieces)


def best_reply(lm: ModelCore, request: ReplyRequest, count: int) -> str:
    """Generate several answers and return the likeliest (decode/ranked.py).

    Args:
        lm: A decoder.
        request: The conversation.
        count: Number of answers.

    Returns:
        The answer, without its end and without white space around it.
    """
    stops_AV = automaton(request.stop, lm.tokenizer) if request.stop else None
    (tokens,) = sample_and_rank(lm.row_decoder, [request.row], count, stops_AV)
    return cut(lm.tokenizer.decode(tokens), request.stop).strip()


def reply_length(lm: ModelCore, template: ChatTemplate | ModelTemplate) -> int:
    """Return the number of tokens that a conversation and its next answer can have."""
    length = lm.config.data.sequence_length
    # The length in an imported model's config is a stand-in: the model reads as many as it has positions.
    return max(length, lm.max_length or 0) if isinstance(template, ModelTemplate) else length


def _encoded(
    messages: Sequence[Message], template: ChatTemplate | ModelTemplate, lm: ModelCore
) -> np.ndarray:
    """Return the ids of a conversation up to where the next answer begins."""
    if isinstance(template, ModelTemplate):
        # The template writes special ids by name, which an imported tokenizer finds in the text.
        return np.array(lm.tokenizer.encode(template.text(messages, reply=True)), np.int32)
    ids = tokens_of(segments_of(messages, template, reply=True), lm.tokenizer)[0]
    if lm.config.objective.name in CHAT_TASKS:
        return ids
    # A model that was not tuned on this template was not trained with the ids that tlx added to its vocabulary.
    return ids[ids < lm.tokenizer.vocab.size - lm.tokenizer.vocab.added]
