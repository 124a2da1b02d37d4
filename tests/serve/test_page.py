"""The server's page in a headless Chromium: pytest -m long tests/serve/test_page.py.

Where the environment variable TLX_SCREENSHOTS names a folder, pictures of the page are written there.
"""

import contextlib
import dataclasses
import os
import socket
import threading
import time

import pytest

import tlx
from tests.run_directory import write_run
from tests.serve import browser
from tlx.serve.app import Service, make_app
from tlx.serve.engine import Engine
from tlx.serve.texts import Served

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(browser.find() is None, reason="there is no chromium"),
]
TOKEN = "a-token-of-the-test"


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    loaded = tlx.load(write_run(tmp_path_factory.mktemp("runs") / "clm", "clm"))
    # Longer conversations than the run was made for: it has no positions that would end.
    data = dataclasses.replace(loaded.config.data, sequence_length=128)
    return dataclasses.replace(loaded, config=dataclasses.replace(loaded.config, data=data))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser.chromium(tmp_path_factory.mktemp("profile")) as running:
        yield running


@contextlib.contextmanager
def serving(lm, template="", token=None):
    """(address, engine) of a server in this process."""
    uvicorn = pytest.importorskip("uvicorn")
    served = Served(lm, "tiny", template)
    engine = Engine(served.decoder())
    listening = socket.create_server(("127.0.0.1", 0))
    app = make_app(Service(served, engine, token))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", engine
    finally:
        server.should_exit = True
        thread.join()
        engine.close()


def picture(page, name):
    folder = os.environ.get("TLX_SCREENSHOTS")
    if folder:
        page.screenshot(os.path.join(folder, f"{name}.png"))


def last(page, kind):
    return page.value(f"[...document.querySelectorAll('.{kind}')].at(-1)?.textContent ?? ''")


IDLE = "!document.getElementById('send').disabled"


def test_a_conversation(page, lm):
    """Two turns: the second answer is that of the whole conversation."""
    question = "<b>hi"  # a text, not HTML
    with serving(lm, "words") as (address, _):
        page.open(address)
        page.until("document.getElementById('name').textContent === 'tiny'")
        assert page.value("document.getElementById('kind').textContent") == "chat"
        page.fill("temperature", "0")
        page.fill("max_tokens", "4")
        messages = []
        for text in (question, "a"):
            messages.append({"role": "user", "content": text})
            page.fill("input", text)
            page.click("send")
            page.until(IDLE)
            answer = last(page, "answer")
            assert answer == lm.chat(messages, max_tokens=4, temperature=0, template="words"), messages
            messages.append({"role": "assistant", "content": answer})
        assert last(page, "user") == "a" and page.value("document.querySelector('b')") is None
        picture(page, "chat")
        page.fill("input", "x" * 200)
        page.click("send")
        assert "the model reads 128" in page.until("document.getElementById('error').textContent")
        page.until(IDLE)
        assert page.value("document.getElementById('input').value") == "x" * 200
        page.click("clear")
        assert page.value("document.getElementById('turns').childElementCount") == 0
        # Nothing of the conversation before is sent, not even where it is cleared in the middle of an answer.
        page.fill("max_tokens", "90")
        page.fill("input", "ab")
        page.click("send")
        page.click("clear")
        page.until(IDLE)
        page.fill("max_tokens", "4")
        page.fill("input", "a")
        page.click("send")
        page.until(IDLE)
        assert last(page, "answer") == lm.chat("a", max_tokens=4, temperature=0, template="words")


def test_a_continuation_that_is_stopped(page, lm):
    with serving(lm) as (address, engine):
        page.open(address)
        page.until(IDLE)
        assert page.value("document.getElementById('kind').textContent") == "continues a text"
        page.fill("temperature", "0")
        page.fill("max_tokens", "12")
        page.fill("input", "ab")
        page.click("send")
        page.until(IDLE)
        assert last(page, "answer") == lm.generate("ab", 12, 0)
        page.fill("temperature", "1")
        page.fill("max_tokens", "4000")
        page.click("send")
        page.until("document.querySelectorAll('.answer')[1]?.textContent.length > 20")
        page.click("stop")
        page.until(IDLE)
        assert last(page, "end") == "stopped"
        length = len(last(page, "answer"))
        assert 20 < length < 3000
        end = time.monotonic() + 30
        while engine._batches:  # the server has ended it too, thousands of tokens before its end
            assert time.monotonic() < end
            time.sleep(0.05)
        assert len(last(page, "answer")) == length
        picture(page, "text")


def test_a_token_is_asked_for(page, lm):
    with serving(lm, token=TOKEN) as (address, _):
        page.open(address)
        page.until("!document.getElementById('token-row').hidden")
        picture(page, "token")
        page.fill("token", "another")
        page.click("connect")
        assert "missing or wrong" in page.until("document.getElementById('error').textContent.slice(0, 99)")
        page.fill("token", TOKEN)
        page.click("connect")
        page.until(IDLE)
        page.fill("max_tokens", "5")
        page.fill("input", "ab")
        page.click("send")
        page.until(IDLE)
        assert last(page, "answer")
        stored = "localStorage.length + sessionStorage.length + document.cookie.length"
        assert page.value(stored) == 0


def test_another_site_has_no_use_of_it(page, lm):
    """Nor can the page itself ask another server, or run what is not its own."""
    with serving(lm) as (address, _), serving(lm) as (other, _):
        page.open(other)
        failed = "fetch({!r}, {}).then(() => 'read', () => 'refused')"
        assert page.value(failed.format(f"{address}/v1/models", "{}")) == "refused"  # by the policy
        page.value("globalThis.ran = 0; const added = document.createElement('script')")
        page.value("added.textContent = 'globalThis.ran = 1'; document.body.append(added)")
        assert page.value("globalThis.ran") == 0
        page.open("data:text/html,<body>")
        post = "{method: 'POST', headers: {'content-type': 'application/json'}, body: '{\"prompt\": \"a\"}'}"
        assert page.value(failed.format(f"{address}/", "{}")) == "refused"
        assert page.value(failed.format(f"{address}/", "{mode: 'no-cors'}")) == "refused"
        assert page.value(failed.format(f"{address}/v1/completions", post)) == "refused"
