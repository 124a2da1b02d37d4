"""--push uploads an export to the Hub; what is missing is told before anything is exported."""

import base64
import http.server
import json
import os
import sys
import threading
import types

import pytest

from tlx.base.errors import ConfigError, StorageError
from tlx.cli import main
from tlx.hub import push


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub as an upload of small files needs; server.log has what was asked."""

    def do_GET(self):
        self._answer(None)

    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        self._answer(self.rfile.read(length).decode())

    def _answer(self, body):
        path = self.path.partition("?")[0]
        self.server.log.append((self.command, path, self.headers.get("Authorization"), body))
        name = f"/api/models/{self.server.name}"
        if self.headers.get("Authorization") != "Bearer secret-token":
            self._reply(401, {"error": "Invalid credentials"})
        elif path == "/api/whoami-v2":
            self._reply(200, {"name": "ada", "type": "user"})
        elif path == "/api/repos/create":
            address = f"http://{self.headers['Host']}/{self.server.name}"
            self._reply(200, {"url": address, "name": self.server.name})
        elif path == "/api/validate-yaml":
            self._reply(200, {"errors": [], "warnings": []})
        elif path.startswith(f"{name}/tree"):
            old = {"type": "file", "path": "model-00002-of-00002.safetensors", "size": 3, "oid": "0" * 40}
            self._reply(200, [old])
        elif path.startswith(f"{name}/preupload"):
            files = [
                {**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]
            ]
            self._reply(200, {"files": files})
        elif path.startswith(f"{name}/commit"):
            address = f"http://{self.headers['Host']}/{self.server.name}/commit/{'1' * 40}"
            self._reply(200, {"commitUrl": address, "commitOid": "1" * 40, "success": True})
        elif path == name or path.startswith(f"{name}/revision"):
            self._reply(200, {"id": self.server.name, "sha": "0" * 40, "siblings": [], "private": True})
        else:
            self._reply(404, {"error": "not there"})

    def _reply(self, code, value):
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.log = []
    server.name = "ada/tiny"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    api = huggingface_hub.HfApi
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda token: api(endpoint=address, token=token))
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "secret-token")
    yield server
    server.shutdown()
    server.server_close()


def test_a_folder_is_one_commit_and_old_weights_go(hub, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"\x00\x01")
    repository = push.open_repository("hf://ada/tiny")
    assert [entry[1] for entry in hub.log] == ["/api/whoami-v2"], "nothing is written yet"
    assert push.upload(repository, tmp_path, "run at step 3").endswith(f"/ada/tiny/commit/{'1' * 40}")
    created = next(json.loads(body) for _, path, _, body in hub.log if path == "/api/repos/create")
    assert (created["name"], created["organization"]) == ("tiny", "ada")
    assert created.get("private") or created["visibility"] == "private", "the two names that versions give it"
    (commit,) = [body for _, path, _, body in hub.log if "/commit/" in path]
    lines = [json.loads(line) for line in commit.splitlines()]
    assert lines[0]["value"]["summary"] == "run at step 3"
    files = {line["value"]["path"]: line["value"] for line in lines if line["key"] == "file"}
    assert base64.b64decode(files["model.safetensors"]["content"]) == b"\x00\x01" and "config.json" in files
    deleted = [line["value"]["path"] for line in lines if line["key"] == "deletedFile"]
    assert deleted == ["model-00002-of-00002.safetensors"]


def test_a_refused_token_is_one_message_without_the_token(hub, monkeypatch):
    monkeypatch.setattr(sys.modules["huggingface_hub"], "get_token", lambda: "wrong-token")
    with pytest.raises(StorageError, match="cannot push to hf://ada/tiny: ") as error:
        push.open_repository("hf://ada/tiny")
    assert "wrong-token" not in str(error.value) and "\n" not in str(error.value)


@pytest.fixture
def fake(monkeypatch):
    """A package huggingface_hub whose client writes down what it is asked."""
    calls = []

    class Client:
        def __init__(self, token):
            calls.append(("token", token))

        def whoami(self):
            calls.append(("whoami",))

        def create_repo(self, name, private, exist_ok):
            calls.append(("create", name, private, exist_ok))

        def upload_folder(self, repo_id, folder_path, commit_message, delete_patterns):
            calls.append(("upload", repo_id, sorted(os.listdir(folder_path)), commit_message))
            return types.SimpleNamespace(commit_url="https://hub/commit/2")

    module = types.SimpleNamespace(HfApi=Client, get_token=lambda: "t", calls=calls)
    module.__spec__ = object()
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return module


def test_export_pushes_what_it_wrote(fake, tmp_path, monkeypatch, capsys):
    pytest.importorskip("tokenizers")
    written = []

    def write(options, path):
        written.append(path)
        with open(f"{path}/config.json", "w") as handle:
            handle.write("{}")
        return types.SimpleNamespace(config=types.SimpleNamespace(name="quick"), step=7)

    from tlx.cli import convert_actions

    monkeypatch.setattr(convert_actions, "_export_folder", write)
    assert main(["convert", "export", "runs/x", "--push=hf://ada/tiny", "--public"]) == 0
    assert "uploaded: https://hub/commit/2" in capsys.readouterr().out
    assert fake.calls == [
        ("token", "t"),
        ("whoami",),
        ("create", "ada/tiny", False, True),
        ("upload", "ada/tiny", ["config.json"], "quick at step 7, exported by tlx"),
    ]
    assert not os.path.exists(written[0]), "a folder of its own is removed"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["export", "RUN", "--push=ada/tiny"],
            "--push=ada/tiny must be hf://OWNER/NAME, as in hf://ada/my-model",
        ),
        (["export", "RUN", "--push=hf://ada"], "must be hf://OWNER/NAME"),
        (["export", "RUN", "--push=hf://ada/a/b"], "must be hf://OWNER/NAME"),
        (["export", "RUN", "--push=hf://../x"], "must be hf://OWNER/NAME"),
        (["export", "RUN", "TO", "--public"], "--public is for --push=hf://OWNER/NAME, which is missing"),
        (["export", "RUN"], "TO, the folder to write, is missing"),
        (["import", "DIR", "TO", "--push=hf://a/b"], "--push and --public are for export, not for import"),
    ],
)
def test_wrong_words_are_refused_first(fake, words, message, capsys):
    assert main(["convert", *words]) == ConfigError.code
    assert message in capsys.readouterr().err
    assert not fake.calls


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("package", "needs the package huggingface_hub, which is not installed: pip install 'tlx-lm[hub]'"),
        ("token", "there is no token of the Hugging Face Hub; set HF_TOKEN"),
    ],
)
def test_what_is_missing_is_told_before_anything_is_exported(
    missing, message, fake, tmp_path, monkeypatch, capsys
):
    fake.get_token = lambda: None
    if missing == "package":
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    target = tmp_path / "to"
    assert main(["convert", "export", "RUN", str(target), "--push=hf://ada/tiny"]) == ConfigError.code
    assert message in capsys.readouterr().err
    assert not target.exists()
