"""The paths of the server, in one process: answers, streams, errors and who may ask."""

import base64
import hashlib
import json
import re

import pytest

import tlx
from tests.run_directory import write_run
from tlx.serve import texts
from tlx.serve.app import Service, make_app
from tlx.serve.engine import Engine
from tlx.serve.texts import Served

pytest.importorskip("httpx")
testclient = pytest.importorskip("starlette.testclient")

HELLO = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return tlx.load(write_run(tmp_path_factory.mktemp("runs") / "clm", "clm"))


@pytest.fixture(scope="module")
def served(lm):
    return Served(lm, "tiny", "words")


@pytest.fixture(scope="module")
def engine(served):
    running = Engine(served.decoder())
    yield running
    running.close()


@pytest.fixture(scope="module")
def client(served, engine):
    app = make_app(Service(served, engine, None))
    with testclient.TestClient(app, "http://127.0.0.1:8000", raise_server_exceptions=False) as running:
        yield running


def events(response):
    lines = [line for line in response.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]" and all(line.startswith("data: ") for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_models(client):
    (model,) = client.get("/v1/models").json()["data"]
    assert model["id"] == "tiny" and model["object"] == "model"
    assert client.get("/v1/models/tiny").json() == model and model["chat"] is True
    assert client.get("/v1/models/tin").json()["error"]["code"] == "model_not_found"


@pytest.mark.slow
def test_a_completion_is_what_generate_returns(client, lm):
    body = {"model": "tiny", "prompt": "ab", "max_tokens": 9, "temperature": 0.9, "top_p": 0.8, "seed": 5}
    answer = client.post("/v1/completions", json=body).json()
    expected = lm.generate("ab", 9, 0.9, top_p=0.8, seed=5)
    assert answer["object"] == "text_completion" and answer["id"].startswith("cmpl-")
    assert answer["choices"] == [{"index": 0, "text": expected, "logprobs": None, "finish_reason": "length"}]
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12}
    several = client.post("/v1/completions", json=body | {"n": 2, "prompt": ["ab", "b"]}).json()
    assert several["choices"][0]["text"] == expected and len(several["choices"]) == 4
    same = lm.generate(["ab", "ab", "b", "b"], 9, 0.9, top_p=0.8, seed=5)
    assert [choice["text"] for choice in several["choices"]] == same
    ids = lm.tokenizer.encode("ab")
    of_ids = client.post("/v1/completions", json=body | {"prompt": [*lm.frame.prompt, *ids]}).json()
    assert of_ids["choices"][0]["text"] == expected


@pytest.mark.slow
def test_a_stream_joins_to_the_answer(client, lm):
    body = {"prompt": "ab", "max_tokens": 20, "seed": 5, "stop": ["zz"]}
    response = client.post(
        "/v1/completions", json=body | {"stream": True, "stream_options": {"include_usage": True}}
    )
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, last = events(response)
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 20
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == lm.generate(
        "ab", 20, seed=5, stop=["zz"]
    )
    finishes = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert finishes == [None] * (len(chunks) - 1) + ["length"] and len(chunks) > 2


def test_a_conversation_is_answered_as_chat_answers(client, lm, engine):
    body = {"messages": HELLO, "max_tokens": 12, "seed": 3, "temperature": 0.7}
    answer = client.post("/v1/chat/completions", json=body).json()
    expected = lm.chat("hi", max_tokens=12, seed=3, temperature=0.7, template="words")
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": expected}
    first, *chunks = events(client.post("/v1/chat/completions", json=body | {"stream": True}))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == expected
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}


ERRORS = [
    ("/v1/completions", {"prompt": "a", "temprature": 1}, 400, "did you mean 'temperature'"),
    ("/v1/completions", {"prompt": "a", "model": "tinny"}, 404, "model = 'tinny' is not one of: tiny"),
    ("/v1/completions", {"prompt": "a", "max_tokens": 4096}, 400, "more than the 4096 positions"),
    ("/v1/completions", {"prompt": [1, 999]}, 400, "the token id 999 must be from 0 to"),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "x" * 99}]},
        400,
        "the model reads 32",
    ),
    ("/v1/chat/completions", {"messages": HELLO, "max_tokens": 99}, 400, "max_tokens = 99 must be 1 to 31"),
    ("/v1/chat/completions", {"prompt": "a"}, 400, "key = 'prompt' is not one of"),
    ("/v1/edits", {}, 404, "/v1/edits"),
]


@pytest.mark.parametrize(("path", "body", "status", "message"), ERRORS)
def test_errors_are_openais(client, path, body, status, message):
    response = client.post(path, json=body)
    error = response.json()["error"]
    assert response.status_code == status and message in error["message"]
    assert set(error) == {"message", "type", "param", "code"} and "Traceback" not in response.text


def test_a_text_that_is_too_long_has_openais_code(client):
    long = client.post("/v1/completions", json={"prompt": "a" * 5000}).json()["error"]
    assert long["code"] == "context_length_exceeded" and long["param"] == "prompt"
    turns = [*HELLO, {"role": "assistant", "content": "b" * 12}] * 2 + HELLO
    error = client.post("/v1/chat/completions", json={"messages": turns, "max_tokens": 8}).json()["error"]
    assert error["code"] == "context_length_exceeded" and "leave out the oldest" in error["message"]


def test_other_bodies_and_methods(client):
    post = client.post("/v1/completions", content=b"{", headers={"content-type": "application/json"})
    assert post.status_code == 400 and "the body is not JSON" in post.json()["error"]["message"]
    deep = client.post("/v1/completions", content=b"[" * 10**6, headers={"content-type": "application/json"})
    assert deep.status_code == 400
    half = client.post(
        "/v1/completions", content=rb'{"prompt": "\ud800"}', headers={"content-type": "application/json"}
    )
    assert half.status_code == 400 and "not valid Unicode" in half.json()["error"]["message"]
    plain = client.post("/v1/completions", content=b"{}", headers={"content-type": "text/plain"})
    assert plain.status_code == 400 and "content-type" in plain.json()["error"]["message"]
    huge = client.post(
        "/v1/completions", content=b" " * (2**24 + 1), headers={"content-type": "application/json"}
    )
    assert huge.status_code == 413
    assert client.get("/v1/completions").status_code == 405


def test_only_this_machine_may_ask_without_a_token(client):
    response = client.get("/v1/models", headers={"host": "evil.example"})
    assert response.status_code == 403 and "error" in response.json()
    for host in ("evil.example:80:80", "evil.example@localhost", "", "localhost.evil.example"):
        assert client.get("/v1/models", headers={"host": host}).status_code == 403, host
    assert client.get("/v1/models", headers={"host": "localhost:8000"}).status_code == 200
    assert client.get("/v1/models", headers={"host": "[::1]:8000"}).status_code == 200


def test_a_token_is_needed_where_there_is_one(served, engine):
    app = make_app(Service(served, engine, "a-token-of-the-test"))
    client = testclient.TestClient(app, "http://somewhere.example")
    for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": "a-token-of-the-test"}):
        response = client.get("/v1/models", headers=header)
        assert response.status_code == 401 and response.json()["error"]["code"] == "invalid_api_key"
        assert client.post("/v1/completions", json={"prompt": "a"}, headers=header).status_code == 401
    good = {"authorization": "Bearer a-token-of-the-test"}
    assert client.get("/v1/models", headers=good).status_code == 200


def test_the_page_is_for_its_own_origin(client, served, engine):
    """Served as the paths are, without a token where one is set; its policy names its own script and this server."""
    response = client.get("/", headers={"origin": "https://evil.example"})
    headers = response.headers
    assert response.status_code == 200 and headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["connect-src"] == "'self'" and headers["x-frame-options"] == "DENY"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert not any(name.startswith("access-control-") for name in headers)
    for tag in ("script", "style"):
        assert response.text.count(f"<{tag}") == 1
        text = response.text.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    # Nothing is loaded, and no text becomes HTML.
    assert not re.search(r"https?:|//[a-z]|src=|@import|url\(|innerHTML| on[a-z]+=", response.text)
    assert client.get("/", headers={"host": "evil.example"}).status_code == 403
    # What a page of another site would have to ask before it may send JSON.
    asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    preflight = client.options("/v1/completions", headers=asked)
    assert preflight.status_code == 405 and "access-control-allow-origin" not in preflight.headers
    secret = "a-token-of-the-test"
    opened = testclient.TestClient(make_app(Service(served, engine, secret)), "http://somewhere.example")
    page = opened.get("/")
    assert page.status_code == 200 and page.text == response.text and secret not in page.text


def test_a_defect_is_an_error_without_a_traceback(client, engine, monkeypatch):
    monkeypatch.setattr(texts, "joins_bytes", lambda tokenizer: 1 / 0)
    response = client.post("/v1/chat/completions", json={"messages": HELLO, "max_tokens": 8})
    assert response.status_code == 500 and response.json()["error"]["type"] == "server_error"
    assert "Traceback" not in response.text and "division" not in response.text
    monkeypatch.setattr("tlx.serve.engine.MAX_WAITING", 0)
    response = client.post("/v1/completions", json={"prompt": "a"})
    assert response.status_code == 429 and response.json()["error"]["type"] == "rate_limit_error"
