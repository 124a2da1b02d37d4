"""Bodies of requests, checked key by key: what is not known or not done is an error that names the key."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tlx.base.errors import ConfigError, one_of, shown
from tlx.decode.sampling import Sampling
from tlx.serve.errors import RequestError
from tlx.text.chat import Message

# OpenAI's own limit and default of completions.
_MAX_STOPS = 4
_COMPLETION_TOKENS = 16
_MAX_CHOICES = 128


class Options(NamedTuple):
    """Values that both kinds of request have."""

    max_tokens: int | None
    """Largest number of new tokens; None: the server's default."""
    sampling: Sampling
    """How tokens are drawn."""
    choices: int
    """Number of answers to each prompt."""
    stop: tuple[str, ...]
    """Strings that end an answer."""
    seed: int | None
    """Seed of the draws; None: any."""
    stream: bool
    """Whether the answer is sent piece by piece."""
    include_usage: bool
    """Whether a stream ends with the numbers of tokens."""


class CompletionBody(NamedTuple):
    """A request of /v1/completions."""

    prompts: list[str | list[int]]
    """Texts, or token ids."""
    options: Options
    """The other values."""


class ChatBody(NamedTuple):
    """A request of /v1/chat/completions."""

    messages: list[Message]
    """The conversation."""
    options: Options
    """The other values."""


class _Value(NamedTuple):
    """A key that is obeyed."""

    is_legal: Callable[[Any], bool]
    """Whether a value, not None, is."""
    legal: str
    """Description of the legal values."""
    default: Any = None
    """Value where the key is missing or null."""


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_int(value) or (isinstance(value, float) and math.isfinite(value))


def _is_stop(value: Any) -> bool:
    strings = [value] if isinstance(value, str) else value
    is_list = isinstance(strings, list) and len(strings) <= _MAX_STOPS
    return is_list and all(isinstance(string, str) and string for string in strings)


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_int(index) for index in value)


def _is_prompt(value: Any) -> bool:
    if isinstance(value, str) or _is_ids(value):
        return True
    is_list = isinstance(value, list) and bool(value)
    return is_list and all(isinstance(one, str) or _is_ids(one) for one in value)


def _is_options(value: Any) -> bool:
    return isinstance(value, dict) and all(
        name == "include_usage" and isinstance(on, bool) for name, on in value.items()
    )


_COUNT = _Value(lambda value: _is_int(value) and 1 <= value < 2**31, "a whole number from 1 to 2**31 - 1")
_BOTH = {
    "model": _Value(lambda value: isinstance(value, str), "the name of the model"),
    "temperature": _Value(_is_number, "a number, at least 0", 1.0),
    "top_p": _Value(_is_number, "a number above 0, at most 1", 1.0),
    "n": _Value(
        lambda value: _is_int(value) and 1 <= value <= _MAX_CHOICES,
        f"a whole number from 1 to {_MAX_CHOICES}",
        1,
    ),
    "max_tokens": _COUNT,
    "stop": _Value(_is_stop, f"a text, or a list of at most {_MAX_STOPS} texts", ()),
    "seed": _Value(lambda value: _is_int(value) and 0 <= value < 2**32, "a whole number from 0 to 2**32 - 1"),
    "stream": _Value(lambda value: isinstance(value, bool), "true or false", False),
    "stream_options": _Value(_is_options, '{"include_usage": true or false}', {}),
    "user": _Value(lambda value: isinstance(value, str), "a text"),
    # Not OpenAI's, with the names that other servers use.
    "top_k": _Value(
        lambda value: _is_int(value) and 0 <= value < 2**31, "a whole number, at least 0: all tokens", 0
    ),
    "min_p": _Value(_is_number, "a number from 0 to 1", 0.0),
    "repetition_penalty": _Value(_is_number, "a number above 0", 1.0),
}
_COMPLETION = _BOTH | {
    "prompt": _Value(_is_prompt, "a text, a list of token ids, or a list of these"),
}
_CHAT = _BOTH | {
    "messages": _Value(lambda value: isinstance(value, list) and bool(value), "a list of messages"),
    "max_completion_tokens": _COUNT,
}
# Keys that are known and not done: the values that change nothing.
_NEUTRAL_BOTH = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
}
_NEUTRAL_COMPLETION = _NEUTRAL_BOTH | {"suffix": ("",), "echo": (False,), "best_of": (1,)}
_NEUTRAL_CHAT = _NEUTRAL_BOTH | {
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none",),
    "parallel_tool_calls": (True, False),
    "top_logprobs": (0,),
    "modalities": (["text"],),
    "store": (False,),
    "metadata": ({},),
    "service_tier": ("auto", "default"),
}
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def completion_body(body: Any) -> CompletionBody:
    """Check the body of a completion. Raises RequestError."""
    values = _checked(body, _COMPLETION, _NEUTRAL_COMPLETION, "prompt")
    prompt = values["prompt"]
    prompts = [prompt] if isinstance(prompt, str) or _is_ids(prompt) else prompt
    options = _options(values, values["max_tokens"] or _COMPLETION_TOKENS)
    if len(prompts) * options.choices > _MAX_CHOICES:
        raise RequestError(
            f"{len(prompts)} prompts with n = {options.choices} are more than {_MAX_CHOICES} texts"
        )
    return CompletionBody(prompts, options)


def chat_body(body: Any) -> ChatBody:
    """Check the body of a chat completion. Raises RequestError."""
    values = _checked(body, _CHAT, _NEUTRAL_CHAT, "messages")
    messages = [_message(number, message) for number, message in enumerate(values["messages"])]
    if messages[-1].role != "user":
        raise RequestError(
            "messages: the last one must be the user's: there is nothing to answer", param="messages"
        )
    return ChatBody(messages, _options(values, values["max_completion_tokens"] or values["max_tokens"]))


def _checked(
    body: Any, known: Mapping[str, _Value], neutral: Mapping[str, tuple[Any, ...]], required: str
) -> dict[str, Any]:
    """Return the value of every known key; RequestError for what is unknown, not done or not legal."""
    if not isinstance(body, dict):
        raise RequestError("the body must be a JSON object")
    for name, value in body.items():
        if name in neutral:
            if value is not None and value not in neutral[name]:
                legal = " or ".join(map(repr, neutral[name]))
                raise RequestError(
                    f"{name} = {shown(value)} is not supported here: only {legal}, or leave it out",
                    param=name,
                )
        elif name not in known:
            raise RequestError(one_of("key", name, [*known, *neutral]), param=name)
        elif value is not None and not known[name].is_legal(value):
            raise RequestError(f"{name} = {shown(value)} must be {known[name].legal}", param=name)
    if body.get(required) is None:
        raise RequestError(f"{required} is missing: {known[required].legal}", param=required)
    given = {name: value for name, value in body.items() if value is not None}
    return {name: given.get(name, value.default) for name, value in known.items()}


def _options(values: Mapping[str, Any], max_tokens: int | None) -> Options:
    """Return the values that both kinds have; RequestError where sampling is not legal."""
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    sampling = Sampling(**{name: values[name] for name in names})
    try:
        sampling.validate()
    except ConfigError as error:
        raise RequestError(str(error), param=str(error).partition(" = ")[0]) from error
    if values["stream_options"] and not values["stream"]:
        raise RequestError("stream_options is for stream = true", param="stream_options")
    stop = values["stop"]
    return Options(
        max_tokens=max_tokens,
        sampling=sampling,
        choices=values["n"],
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        seed=values["seed"],
        stream=values["stream"],
        include_usage=values["stream_options"].get("include_usage", False),
    )


def _message(number: int, message: Any) -> Message:
    """Return a message of a conversation. Raises RequestError."""
    name = f"messages[{number}]"
    if not isinstance(message, dict):
        raise RequestError(f"{name} = {shown(message)} must have a role and a content", param=name)
    for key in message:
        if key not in ("role", "content", "name"):
            raise RequestError(
                one_of(f"{name}: key", key, ("role", "content", "name")), param=f"{name}.{key}"
            )
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise RequestError(one_of(f"{name}.role", role, _ROLES), param=f"{name}.role")
    return Message(_ROLES[role], _content(f"{name}.content", message.get("content")))


def _content(name: str, content: Any) -> str:
    """Return the text of a message, which may be a list of parts. Raises RequestError."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [None]
    texts = []
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise RequestError(
                f'{name} = {shown(content)} must be a text, or a list of {{"type": "text", "text": ...}}',
                param=name,
            )
        texts.append(part["text"])
    return "".join(texts)
