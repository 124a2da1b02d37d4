"""An assistant's next answer in a conversation."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from tlx.base.errors import ConfigError, one_of
from tlx.decode.generate import generate
from tlx.decode.sampling import Sampling
from tlx.decode.stop import automaton, cut
from tlx.evaluation.writing import cached
from tlx.text.chat import ROLES, ChatTemplate, Message, ending, prompt_of, template_named

if TYPE_CHECKING:
    from tlx.api.loaded_model import LoadedModel


class Reply(NamedTuple):
    """An answer, and how many of the oldest messages had no room before it."""

    text: str
    left_out: int


def template_of(lm: "LoadedModel", name: str = "") -> ChatTemplate:
    """The template that a run was tuned with, or the one that is named. ConfigError where there is none."""
    if lm.kind != "decoder":
        raise ConfigError(f"a conversation needs a decoder, this is {lm.kind}")
    if name:
        return template_named(name, "template")
    if lm.config.objective.name != "chat":
        raise ConfigError(
            f"this model was trained for {lm.config.objective.name}, not tuned on conversations: "
            "tlx finetune --config=configs/finetune/chat.py --from=IT makes one that is; for one from "
            "elsewhere that was, name its chat template"
        )
    return lm.config.objective.chat_template


def messages_from(said: str | Sequence[Mapping[str, str]]) -> list[Message]:
    """Messages of {"role", "content"}, or one question. ConfigError for what is none."""
    if isinstance(said, str):
        return [Message("user", said)]
    found = []
    for number, message in enumerate(said):
        if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
            raise ConfigError(f"message {number} = {message!r} must have a 'role' and a 'content'")
        if message["role"] not in ROLES:
            raise ConfigError(one_of(f"message {number}'s role", message["role"], ROLES))
        found.append(Message(message["role"], message["content"]))
    if not found or found[-1].role != "user":
        raise ConfigError("the last message must be the user's: there is nothing to answer")
    return found


def reply(
    lm: "LoadedModel",
    messages: Sequence[Message],
    max_tokens: int,
    sampling: Sampling,
    seed: int = 0,
    template: str = "",
) -> Reply:
    """The next answer. ConfigError where the last message has no room before `max_tokens`."""
    around, vocab = template_of(lm, template), lm.tokenizer.vocab
    length = lm.config.data.sequence_length
    if not 0 < max_tokens < length:
        raise ConfigError(f"max_tokens = {max_tokens} must be 1 to {length - 1}: the model reads {length}")
    room = length - max_tokens
    ids, left_out = prompt_of(messages, around, lm.tokenizer, room)
    if len(ids) > room:
        raise ConfigError(
            f"the last message takes {len(ids)} tokens with what stands around it; the model reads {length}, "
            f"of which max_tokens = {max_tokens} are for the answer: shorten one of them"
        )
    end, stop = ending(around, lm.tokenizer)
    decoder, longest = cached(lm.module.model)
    (found,) = generate(
        decoder,
        lm.params["model"],
        [ids.tolist()],
        dataclasses.replace(vocab, eos=end),
        max_tokens=max_tokens,
        sampling=sampling,
        seed=seed,
        max_length=longest,
        stops_SV=automaton((stop,), lm.tokenizer) if stop else None,
    )
    text = lm.tokenizer.decode(found)
    return Reply((cut(text, (stop,)) if stop else text).strip(), left_out)
