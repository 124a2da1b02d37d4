"""`tlx serve` as a process, asked by OpenAI's own client."""

import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

import tlx
from tests.cli.tiny import tlx as start
from tests.run_directory import write_run
from tlx import cli


def test_another_interface_needs_a_token(capsys, monkeypatch, tmp_path):
    """Before anything is loaded: there is no run."""
    monkeypatch.delenv("TLX_SERVE_TOKEN", raising=False)
    assert cli.main(["serve", str(tmp_path / "absent"), "--host=0.0.0.0"]) == 64
    out = capsys.readouterr().err
    assert "set TLX_SERVE_TOKEN" in out and out.count("\n") == 1
    monkeypatch.setenv("TLX_SERVE_TOKEN", "short")
    assert cli.main(["serve", str(tmp_path / "absent"), "--host=0.0.0.0"]) == 64
    assert "at least 16 printable" in capsys.readouterr().err


def test_help_loads_no_jax():
    code = "import sys\nfrom tlx import cli\ntry:\n    cli.main(['serve', '--help'])\nfinally:\n"
    code += "    assert not {'jax', 'starlette', 'numpy'} & set(sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.returncode == 0 and "--port" in out.stdout, out.stderr


def test_an_address_that_is_taken_is_said_before_the_model_is_loaded(capsys, tmp_path):
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["serve", str(tmp_path / "absent"), f"--port={port}"]) == 64
    assert "cannot be listened on" in capsys.readouterr().err


def test_a_port_that_no_address_has(capsys, tmp_path):
    """It is not taken for another one: getaddrinfo alone makes 34463 of 99999."""
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    for port in (99999, -1):
        assert cli.main(["serve", str(tmp_path / "absent"), f"--port={port}"]) == 64
        assert f"--port={port} must be from 0 (a free one) to 65535" in capsys.readouterr().err


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "clm", "clm")


@pytest.fixture(scope="module")
def address(run):
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    process = start("serve", run, "--port=0", "--template=words")
    lines = []
    while not lines or " at http://" not in lines[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1], "".join(lines)
    yield re.search(r"http://\S+", lines[-1])[0]
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert "Traceback" not in out, out


@pytest.fixture(scope="module")
def client(address):
    openai = pytest.importorskip("openai")
    return openai.OpenAI(base_url=address, api_key="none", max_retries=3, timeout=120)


@pytest.mark.slow
def test_openais_client(client, run):
    lm = tlx.load(run)
    assert [model.id for model in client.models.list()] == ["clm"]
    given = dict(model="clm", prompt="ab", max_tokens=12, seed=4, temperature=0.8)
    answer = client.completions.create(**given)
    expected = lm.generate("ab", 12, 0.8, seed=4)
    assert answer.choices[0].text == expected and answer.usage.completion_tokens == 12
    chunks = list(client.completions.create(**given, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == expected
    messages = [{"role": "user", "content": "hi"}]
    chat = dict(model="clm", messages=messages, max_completion_tokens=8, seed=2)
    answer = client.chat.completions.create(**chat)
    assert answer.choices[0].message.content == lm.chat("hi", max_tokens=8, seed=2, template="words")
    stream = client.chat.completions.create(**chat, stream=True, stream_options={"include_usage": True})
    *chunks, last = list(stream)
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == answer.choices[0].message.content
    )
    assert last.usage.completion_tokens == answer.usage.completion_tokens


@pytest.mark.slow
def test_openais_client_raises_its_own_errors(client):
    openai = pytest.importorskip("openai")
    with pytest.raises(openai.NotFoundError, match="model = 'other' is not one of: clm"):
        client.completions.create(model="other", prompt="a")
    with pytest.raises(openai.BadRequestError, match="frequency_penalty = 1 is not supported"):
        client.completions.create(model="clm", prompt="a", frequency_penalty=1)
    with pytest.raises(openai.BadRequestError) as raised:
        client.completions.create(model="clm", prompt="a" * 5000)
    assert raised.value.code == "context_length_exceeded"


@pytest.mark.slow
def test_many_callers_and_one_that_leaves(client, run):
    lm = tlx.load(run)
    texts = {}

    def ask(number):
        answer = client.completions.create(
            model="clm", prompt="abc"[: number % 3 + 1], max_tokens=20, seed=number
        )
        texts[number] = answer.choices[0].text

    stream = client.completions.create(model="clm", prompt="c", max_tokens=3000, stream=True)
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    next(iter(stream))
    stream.close()
    for thread in threads:
        thread.join()
    assert texts == {number: lm.generate("abc"[: number % 3 + 1], 20, seed=number) for number in range(12)}
