"""The web application: paths, who may ask, and answers that are sent whole or piece by piece."""

import asyncio
import contextlib
import hmac
import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from tlx.base.errors import one_of
from tlx.serve.answers import CHAT, COMPLETION, Answer, AnswerKind, usage
from tlx.serve.bodies import Options, chat_body, completion_body
from tlx.serve.engine import Engine, Event, Job
from tlx.serve.errors import (
    BAD_REQUEST,
    FORBIDDEN,
    INTERNAL,
    NOT_FOUND,
    TOO_LARGE,
    TOO_MANY,
    UNAUTHORIZED,
    RequestError,
    error_body,
)
from tlx.serve.page import HEADERS, PAGE
from tlx.serve.texts import Served, chat_jobs, completion_jobs

# Names by which a client on this machine reaches the server. A page of another site that resolves its own name to
# this machine sends that name.
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HOST = re.compile(r"(\[[0-9a-f:]+\]|[a-z0-9.-]+)(?::[0-9]+)?")
_MAX_BODY = 16 * 2**20
_DEFECT = "the server failed on this request; its log says why"


class Service:
    """The model, the engine and the checks that all paths share."""

    def __init__(self, served: Served, engine: Engine, token: str | None):
        """Serve a model.

        Args:
            served: The model.
            engine: What runs it.
            token: Token that every request needs; None: requests on loopback need none.
        """
        self.served = served
        self.engine = engine
        self._token = token
        self._created = int(time.time())

    def check_host(self, request: Any) -> None:
        """Raise RequestError where there is no token, and the request is not for this machine by name."""
        if self._token is not None:
            return
        # The header itself: a malformed one gives the server's own address elsewhere.
        host = _HOST.fullmatch(request.headers.get("host", ""))
        if host is None or host[1].strip("[]") not in LOOPBACK:
            raise RequestError("without a token this server is asked by its name on this machine", FORBIDDEN)

    def check_caller(self, request: Any) -> None:
        """Raise RequestError for a request that may not be made."""
        if self._token is None:
            self.check_host(request)
            return
        authorization = request.headers.get("authorization", "")
        if not hmac.compare_digest(authorization.encode(), f"Bearer {self._token}".encode()):
            raise RequestError(
                "the token is missing or wrong: Authorization: Bearer TOKEN",
                UNAUTHORIZED,
                code="invalid_api_key",
            )

    def models(self) -> dict[str, Any]:
        """Return the list of models."""
        return {"object": "list", "data": [self.model(self.served.name)]}

    def model(self, name: str) -> dict[str, Any]:
        """Return the entry of a model. Raises RequestError for another than that which is served."""
        if name != self.served.name:
            message = one_of("model", name, [self.served.name])
            raise RequestError(message, NOT_FOUND, "model", "model_not_found")
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "tlx",
            "chat": self.served.has_chat,
        }

    async def body(self, request: Any) -> Any:
        """Return the JSON of a request. Raises RequestError."""
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            # Which a page of another site cannot send without asking first.
            raise RequestError("content-type must be application/json")
        parts = []
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > _MAX_BODY:
                raise RequestError(f"the body is longer than {_MAX_BODY:,} bytes", TOO_LARGE)
            parts.append(part)
        try:
            body = json.loads(b"".join(parts))
            # Half of a surrogate pair is legal in JSON, and is no text.
            json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise RequestError("a text in the body is not valid Unicode", BAD_REQUEST) from error
        except (ValueError, RecursionError) as error:
            raise RequestError(f"the body is not JSON: {error}", BAD_REQUEST) from error
        if isinstance(body, dict) and isinstance(body.get("model"), str):
            self.model(body["model"])
        return body


class Events:
    """Events of the engine for the choices of one request."""

    def __init__(self) -> None:
        """Listen, on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()

    def emit(self, number: int, event: Event) -> None:
        """Tell of a choice, from the engine's thread."""
        # The loop is closed where the server ends before the engine.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._queue.put_nowait, (number, event))

    async def until_all_end(self, jobs: list[Job]) -> AsyncGenerator[tuple[int, Event], None]:
        """Yield (number of the choice, what is new of it); cancel the jobs where the caller leaves."""
        running = len(jobs)
        try:
            while running:
                number, event = await self._queue.get()
                running -= event.finish is not None
                yield number, event
        finally:
            for job in jobs:
                job.is_cancelled = True


def make_app(service: Service) -> Any:
    """Return the application, for uvicorn or another ASGI server."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.responses import HTMLResponse, JSONResponse, StreamingResponse
    from starlette.routing import Route

    async def page(request: Any) -> Any:
        # Without the token, which a browser cannot send as it opens a page, and which the page does not hold.
        service.check_host(request)
        return HTMLResponse(PAGE, headers=HEADERS)

    async def models(request: Any) -> Any:
        service.check_caller(request)
        return JSONResponse(service.models())

    async def model(request: Any) -> Any:
        service.check_caller(request)
        return JSONResponse(service.model(request.path_params["name"]))

    async def answer(request: Any, kind: AnswerKind, parse: Callable, make_jobs: Callable) -> Any:
        service.check_caller(request)
        body = parse(await service.body(request))
        events = Events()
        # Templates and tokenizers take their time, in which others are answered.
        jobs = await run_in_threadpool(make_jobs, service.served, body, events.emit)
        if service.engine.is_full:
            raise RequestError("too many requests wait: try again later", TOO_MANY)
        service.engine.submit(jobs)
        new = Answer.new(kind, service.served.name)
        if body.options.stream:
            chunks = _sent(_chunks(new, jobs, events, body.options))
            return StreamingResponse(chunks, media_type="text/event-stream")
        return JSONResponse(await _unless_left(request, _whole(new, jobs, events)))

    async def completions(request: Any) -> Any:
        return await answer(request, COMPLETION, completion_body, completion_jobs)

    async def chat(request: Any) -> Any:
        return await answer(request, CHAT, chat_body, chat_jobs)

    async def on_request_error(request: Any, error: Any) -> Any:
        return JSONResponse(error.body(), error.status)

    async def on_http_error(request: Any, error: Any) -> Any:
        message = f"{request.method} {request.url.path}: {error.detail}"
        return JSONResponse(error_body(message, error.status_code), error.status_code, error.headers)

    async def on_defect(request: Any, error: Any) -> Any:
        return JSONResponse(error_body(_DEFECT, INTERNAL), INTERNAL)

    return Starlette(
        routes=[
            Route("/", page),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", model),
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/chat/completions", chat, methods=["POST"]),
        ],
        exception_handlers={
            RequestError: on_request_error,
            HTTPException: on_http_error,
            Exception: on_defect,
        },
    )


async def _whole(answer: Answer, jobs: list[Job], events: Events) -> dict[str, Any]:
    """Return the answer to a request. Raises RequestError for a defect."""
    texts = [""] * len(jobs)
    finishes: list[str | None] = [None] * len(jobs)
    counts = [0] * len(jobs)
    async with contextlib.aclosing(events.until_all_end(jobs)) as news:
        async for number, event in news:
            if event.finish == "error":
                raise RequestError(_DEFECT, INTERNAL)
            texts[number] += event.text
            finishes[number] = event.finish
            counts[number] = event.num_tokens
    return answer.whole(texts, finishes, usage(_prompt_tokens(jobs), sum(counts)))


async def _chunks(answer: Answer, jobs: list[Job], events: Events, options: Options) -> AsyncIterator[dict]:
    """Yield the chunks of an answer, the last of which may be an error."""
    counts = [0] * len(jobs)
    for number in range(len(jobs)):
        first = answer.first(number)
        if first is not None:
            yield first
    async with contextlib.aclosing(events.until_all_end(jobs)) as news:
        async for number, event in news:
            if event.finish == "error":
                yield error_body(_DEFECT, INTERNAL)
                return
            counts[number] = event.num_tokens
            yield answer.piece(number, event.text, event.finish)
    if options.include_usage:
        yield answer.last(usage(_prompt_tokens(jobs), sum(counts)))


async def _sent(chunks: AsyncIterator[dict]) -> AsyncIterator[str]:
    """Yield chunks as server-sent events."""
    async for chunk in chunks:
        yield f"data: {json.dumps(chunk)}\n\n"
    yield "data: [DONE]\n\n"


async def _unless_left(request: Any, answer: Any) -> Any:
    """Return what a coroutine returns; cancel it where the caller goes away."""

    async def leaves() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    answering = asyncio.ensure_future(answer)
    leaving = asyncio.ensure_future(leaves())
    try:
        await asyncio.wait([answering, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise RequestError("the caller has left")
        return answering.result()
    finally:
        answering.cancel()
        leaving.cancel()


def _prompt_tokens(jobs: list[Job]) -> int:
    """Count the tokens of the prompts, each once for all of its choices."""
    prompts = {id(job.row.prompt): len(job.row.prompt) + len(job.row.source or ()) for job in jobs}
    return sum(prompts.values())
