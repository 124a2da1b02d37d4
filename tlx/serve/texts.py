"""The rows of a request: prompts as token ids, and how their answers become text."""

import secrets
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tlx.api.loaded_model import LoadedModel
from tlx.api.reply import reply_length, reply_request, template_of
from tlx.base.errors import ConfigError, shown
from tlx.decode.pieces import TextPieces
from tlx.decode.prefixes import PrefixStore
from tlx.decode.rows import RowDecoder, RowRequest
from tlx.decode.stop import joins_bytes
from tlx.serve.bodies import ChatBody, CompletionBody, Options
from tlx.serve.engine import Event, Job
from tlx.serve.errors import RequestError

# Largest length of a model that has none: a request says how much memory it takes.
_LENGTH = 4096
# Tokens of an answer where the request names no number, as in `tlx chat`.
_CHAT_TOKENS = 256


class Served(NamedTuple):
    """A model that is served."""

    lm: LoadedModel
    """The model."""
    name: str
    """Its name in requests."""
    template: str = ""
    """Name of the chat template; "": the model's own."""

    @property
    def max_length(self) -> int:
        """Largest number of tokens of a prompt and its answer."""
        return self.lm.max_length or max(_LENGTH, self.lm.config.data.sequence_length)

    @property
    def has_chat(self) -> bool:
        """Whether there is a chat template, so that it answers conversations."""
        try:
            template_of(self.lm, self.template)
        except ConfigError:
            return False
        return True

    def decoder(self) -> RowDecoder:
        """Return the model as it continues rows, with an empty store of prefixes."""
        return self.lm.row_decoder._replace(prefixes=PrefixStore(), max_length=self.max_length)


def completion_jobs(served: Served, body: CompletionBody, emit: Callable[[int, Event], None]) -> list[Job]:
    """Return the texts that a completion wants: `n` of the first prompt, then of the second ...

    Args:
        served: The model.
        body: The request.
        emit: Called with the number of a choice and what is new of it.

    Returns:
        A job for each choice.

    Raises:
        RequestError: A prompt is not legal, or is too long.
    """
    jobs: list[Job] = []
    for prompt in body.prompts:
        row = _completion_row(served, prompt, body.options)
        jobs += _choices(
            served, row, prompt if isinstance(prompt, str) else "", body.options, emit, len(jobs)
        )
    return jobs


def chat_jobs(served: Served, body: ChatBody, emit: Callable[[int, Event], None]) -> list[Job]:
    """Return the answers that a chat completion wants.

    Args:
        served: The model.
        body: The request.
        emit: Called with the number of a choice and what is new of it.

    Returns:
        A job for each choice.

    Raises:
        RequestError: The model has no chat template, or the conversation is too long.
    """
    lm = served.lm
    options = body.options
    try:
        length = reply_length(lm, template_of(lm, served.template))
        max_tokens = options.max_tokens or min(_CHAT_TOKENS, length // 2)
        request = reply_request(lm, body.messages, max_tokens, options.sampling, served.template)
    except ConfigError as error:
        code = "context_length_exceeded" if "the model reads" in str(error) else None
        raise RequestError(str(error), param="messages", code=code) from error
    if request.left_out:
        raise RequestError(
            f"the conversation and max_tokens = {max_tokens} are more than the {length} tokens that the model reads: "
            "leave out the oldest messages",
            param="messages",
            code="context_length_exceeded",
        )
    seed = _seed(options)
    jobs = []
    for number in range(options.choices):
        stop = (*request.stop, *options.stop)
        pieces = TextPieces(lm.tokenizer.decode, stop, joins_bytes(lm.tokenizer), strip=True)
        row = request.row._replace(seed=seed, number=number)
        jobs.append(Job(row, pieces, _numbered(emit, number)))
    return jobs


def _completion_row(served: Served, prompt: str | Sequence[int], options: Options) -> RowRequest:
    """Return the row of a prompt. Raises RequestError."""
    lm = served.lm
    max_tokens = options.max_tokens
    assert max_tokens is not None  # completions have a default
    try:
        if isinstance(prompt, str):
            row = lm.row_request(prompt, max_tokens, options.sampling)
        else:
            row = _row_of_ids(lm, prompt, max_tokens, options)
        lm.row_decoder._replace(max_length=served.max_length).check(row)
    except ConfigError as error:
        code = "context_length_exceeded" if "positions of the model" in str(error) else None
        raise RequestError(str(error), param="prompt", code=code) from error
    return row


def _row_of_ids(lm: LoadedModel, ids: Sequence[int], max_tokens: int, options: Options) -> RowRequest:
    """Return the row of a prompt that is token ids. Raises ConfigError."""
    size = lm.tokenizer.vocab.size
    wrong = next((index for index in ids if not 0 <= index < size), None)
    if wrong is not None:
        raise ConfigError(f"prompt: the token id {shown(wrong)} must be from 0 to {size - 1}")
    if lm.kind == "encoder_decoder":
        raise ConfigError("prompt: an encoder-decoder's is a text, not token ids")
    return RowRequest(list(ids), max_tokens, options.sampling, rules=lm.generation_rules)


def _choices(
    served: Served,
    row: RowRequest,
    prompt: str,
    options: Options,
    emit: Callable[[int, Event], None],
    first: int,
) -> list[Job]:
    """Return the jobs of one prompt's choices, of which the first has the number `first`."""
    seed = _seed(options)
    jobs = []
    for choice in range(options.choices):
        pieces = served.lm.pieces_of(prompt, options.stop)
        jobs.append(
            Job(row._replace(seed=seed, number=first + choice), pieces, _numbered(emit, first + choice))
        )
    return jobs


def _seed(options: Options) -> int:
    return secrets.randbits(32) if options.seed is None else options.seed


def _numbered(emit: Callable[[int, Event], None], number: int) -> Callable[[Event], None]:
    return lambda event: emit(number, event)
