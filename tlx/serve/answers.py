"""Answers as OpenAI's interface writes them, whole and in chunks."""

import time
import uuid
from typing import Any, NamedTuple


class AnswerKind(NamedTuple):
    """The words of one kind of answer."""

    prefix: str
    """Beginning of its id."""
    whole: str
    """Name of the object."""
    chunk: str
    """Name of a chunk of it."""
    is_chat: bool
    """Whether a text is a message."""


COMPLETION = AnswerKind("cmpl-", "text_completion", "text_completion", is_chat=False)
CHAT = AnswerKind("chatcmpl-", "chat.completion", "chat.completion.chunk", is_chat=True)


class Answer(NamedTuple):
    """Fields that all chunks of an answer share."""

    kind: AnswerKind
    """Its kind."""
    model: str
    """Name of the model."""
    id: str
    """Its id."""
    created: int
    """Time in seconds since 1970."""

    @classmethod
    def new(cls, kind: AnswerKind, model: str) -> "Answer":
        """Return an answer with an id of its own."""
        return cls(kind, model, kind.prefix + uuid.uuid4().hex, int(time.time()))

    def whole(self, texts: list[str], finishes: list[str | None], usage: dict[str, int]) -> dict[str, Any]:
        """Return the whole answer.

        Args:
            texts: Text of each choice.
            finishes: Why each has ended.
            usage: Numbers of tokens.

        Returns:
            The JSON body.
        """
        choices = [
            self._choice(index, finish, "message", {"role": "assistant", "content": text}, text)
            for index, (text, finish) in enumerate(zip(texts, finishes, strict=True))
        ]
        return self._body(self.kind.whole, choices) | {"usage": usage}

    def first(self, index: int) -> dict[str, Any] | None:
        """Return the chunk before the first piece of a choice; None where there is none."""
        if not self.kind.is_chat:
            return None
        delta = {"role": "assistant", "content": ""}
        return self._body(self.kind.chunk, [self._choice(index, None, "delta", delta, "")])

    def piece(self, index: int, text: str, finish: str | None) -> dict[str, Any]:
        """Return the chunk with a piece of a choice.

        Args:
            index: Number of the choice.
            text: The piece.
            finish: Why the choice has ended; None: it has not.

        Returns:
            The JSON body.
        """
        delta = {"content": text} if text else {}
        return self._body(self.kind.chunk, [self._choice(index, finish, "delta", delta, text)])

    def last(self, usage: dict[str, int]) -> dict[str, Any]:
        """Return the chunk with the numbers of tokens."""
        return self._body(self.kind.chunk, []) | {"usage": usage}

    def _choice(
        self, index: int, finish: str | None, name: str, message: dict[str, str], text: str
    ) -> dict[str, Any]:
        content = {name: message} if self.kind.is_chat else {"text": text}
        return {"index": index, **content, "logprobs": None, "finish_reason": finish}

    def _body(self, name: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": name,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Return the numbers of tokens of an answer."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
