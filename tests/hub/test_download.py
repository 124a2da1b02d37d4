"""Models of the Hub by hf://OWNER/NAME, from a server on this machine that answers as the Hub does."""

import hashlib
import http.server
import json
import pathlib
import shutil
import threading

import numpy as np
import pytest

import tlx
from tests.hub import folders
from tlx.base.errors import ConfigError, DataError, StorageError
from tlx.base.place import absolute_text
from tlx.cli import main
from tlx.hub import download

COMMIT = "1" * 40
ALSO_THERE = ("pytorch_model.bin", "tf_model.h5", "onnx/model.onnx", "onnx/config.json", "README.md", "a.py")


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub as downloads need: one public model and a gated one; server.log has what was asked."""

    def do_GET(self):
        self._answer()

    def do_HEAD(self):
        self._answer()

    def _answer(self):
        path = self.path.partition("?")[0]
        self.server.log.append((self.command, path, self.headers.get("Authorization")))
        if "ada/gated" in path and self.headers.get("Authorization") != "Bearer secret-token":
            self._reply(401, {"error": "gated"}, **{"X-Error-Code": "GatedRepo"})
            return
        path = path.replace("ada/gated", "ada/tiny")
        if path in (
            "/api/models/ada/tiny",
            *(f"/api/models/ada/tiny/revision/{r}" for r in ("main", COMMIT)),
        ):
            self._reply(200, {"id": "ada/tiny", "sha": COMMIT, "private": False})
        elif path.startswith("/api/models/ada/tiny/revision/"):
            self._reply(404, {"error": "no revision"}, **{"X-Error-Code": "RevisionNotFound"})
        elif path == f"/api/models/ada/tiny/tree/{COMMIT}":
            self._reply(200, [self._entry(name) for name in self.server.names()])
        elif path.startswith(f"/ada/tiny/resolve/{COMMIT}/"):
            self._send(path.removeprefix(f"/ada/tiny/resolve/{COMMIT}/"))
        else:
            self._reply(404, {"error": "no model"}, **{"X-Error-Code": "RepoNotFound"})

    def _entry(self, name):
        data = (self.server.folder / name).read_bytes()
        return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

    def _send(self, name):
        data = (self.server.folder / name).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def _reply(self, code, value, **headers):
        body = json.dumps(value).encode()
        self.send_response(code)
        for name, text in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **headers,
        }.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    """A Hub of the files of one folder."""

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Hub)
        self.folder = folder
        self.log = []

    def names(self):
        return sorted(
            path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()
        )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A GPT-2 of one layer among other files of a repository."""
    folder = tmp_path_factory.mktemp("tiny")
    folders.small_gpt2(folder)
    for name in ALSO_THERE:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def hub(model, tmp_path, monkeypatch):
    """The server, its address in HF_ENDPOINT, and an empty cache."""
    constants = pytest.importorskip("huggingface_hub.constants")
    server = Server(shutil.copytree(model, tmp_path / "repository"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_an_address_is_a_model_and_only_what_is_read_is_fetched(hub, model):
    folder = download.fetch("hf://ada/tiny")
    fetched = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert fetched == ["config.json", "model.safetensors", "special_tokens_map.json", "tokenizer.json"]
    lm = tlx.load("hf://ada/tiny")
    ids = lm.tokenizer.encode("the cat sat")
    np.testing.assert_array_equal(lm.logits([ids])[0], tlx.load(str(model)).logits([ids])[0])
    asked = len(hub.log)
    assert download.fetch(f"hf://ada/tiny@{COMMIT}") == folder and len(hub.log) == asked, "a commit is final"
    assert download.fetch("hf://ada/tiny@main") == folder
    asked = len(hub.log)
    for address in ("hf://ada/tiny", "hf://ada/tiny@main"):
        assert download.fetch(address) == folder and tlx.load(address).step == 0
    assert len(hub.log) == asked, "an address is resolved once in a process"


@pytest.mark.long
def test_verbs_take_addresses(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "hf://ada/tiny", "--prompt=the cat", "--max_tokens=3"]) == 0
    assert main(["convert", "import", "hf://ada/tiny", "runs/imported"]) == 0
    run = json.loads(pathlib.Path("runs/imported/run.json").read_text())
    assert run["data"]["imported_from"] == "hf://ada/tiny"
    words = ["--config=quickstart:clm:tiny", "--from=hf://ada/tiny", "--config.train.steps=1"]
    words += ["--config.eval.final=False", "--config.data.sequence_length=16"]
    assert main(["train", *words, "--workdir=runs/more"]) == 0, capsys.readouterr().err
    run = json.loads(pathlib.Path("runs/more/run.json").read_text())
    assert run["config"]["base"]["path"] == "hf://ada/tiny" == absolute_text("hf://ada/tiny")


def test_weights_in_parts_and_modules_of_sentence_transformers(hub):
    index = {
        "metadata": {},
        "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"},
    }
    (hub.folder / "model.safetensors").unlink()
    (hub.folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in ("model-00001-of-00002", "model-00002-of-00002", "consolidated"):
        (hub.folder / f"{name}.safetensors").write_bytes(b"x")
    modules = [{"path": ""}, {"path": "1_Pooling"}]
    (hub.folder / "modules.json").write_text(json.dumps(modules))
    (hub.folder / "1_Pooling").mkdir()
    (hub.folder / "1_Pooling" / "config.json").write_text("{}")
    folder = download.fetch("hf://ada/tiny")
    fetched = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    wanted = set(index["weight_map"].values()) | {"1_Pooling/config.json", "modules.json"}
    assert wanted <= fetched and not any(name.startswith(("consolidated", "onnx")) for name in fetched)


def test_a_repository_is_not_believed(hub):
    (hub.folder / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "../outside"}]))
    with pytest.raises(DataError, match="lies outside the directory"):
        tlx.load("hf://ada/tiny")


@pytest.mark.parametrize(
    ("missing", "message"),
    [("model.safetensors", "pickles, which can run any code"), ("config.json", "has no config.json")],
)
def test_a_repository_without_a_model(hub, missing, message):
    (hub.folder / missing).unlink()
    with pytest.raises(DataError, match=message):
        tlx.load("hf://ada/tiny")


@pytest.mark.long
@pytest.mark.slow
def test_offline_the_cache_serves_and_what_it_lacks_is_told(hub):
    folder = download.fetch("hf://ada/tiny")
    hub.shutdown()
    hub.server_close()
    assert download.fetch("hf://ada/tiny") == folder
    (folder / "model.safetensors").unlink()
    with pytest.raises(StorageError, match="cannot be reached.*has not all of model.safetensors") as error:
        download.fetch("hf://ada/tiny")
    assert "\n" not in str(error.value)
    with pytest.raises(StorageError, match="run it once with a connection"):
        download.fetch("hf://ada/other")


def test_what_cannot_be_fetched_is_one_message(hub, monkeypatch):
    with pytest.raises(DataError, match="hf://ada/none is not there, or is private or gated"):
        tlx.load("hf://ada/none")
    with pytest.raises(DataError, match="there is no revision 'other'"):
        tlx.load("hf://ada/tiny@other")
    with pytest.raises(DataError, match="set HF_TOKEN"):
        tlx.load("hf://ada/gated")
    monkeypatch.setenv("HF_TOKEN", "secret-token")
    assert download.fetch("hf://ada/gated").name == COMMIT


@pytest.mark.parametrize(
    "address", ["hf://", "hf://a/b/c", "hf://-a/b", "hf://a/b@", "hf://a/b@../c", "hf://a b/c"]
)
def test_what_is_no_address_is_told(address):
    with pytest.raises(ConfigError, match="must be hf://OWNER/NAME"):
        tlx.load(address)


def test_a_run_cannot_be_written_there():
    with pytest.raises(ConfigError, match="can be read as a model, not as a run or a file"):
        tlx.train("quickstart:clm:tiny", workdir="hf://ada/run")
