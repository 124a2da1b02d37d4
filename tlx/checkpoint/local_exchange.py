"""Files of the emergency tier between hosts, by HTTP: a server in each process, and its client.

Each request has a token that the processes have agreed on at the start. Nothing is encrypted: private networks only,
as for the coordinator's port.
"""

import contextlib
import hmac
import http.client
import http.server
import os
import pathlib
import shutil
import socket
import threading
import uuid
from typing import Any

from typing_extensions import override

from tlx.checkpoint.local_files import INCOMING, KEY, SavedStep, parse_name

# Seconds without a byte after which the other side is given up.
SILENCE_SECONDS = 60.0
_CHUNK = 4 << 20
_TOKEN_HEADER = "X-Tlx-Token"


class ShardServer:
    """Takes and gives files of a run's folder on this host; a context that ends the server.

    Args:
        address: Address to listen on.
        folder: The run's folder.
        token: Word that requests must have.
    """

    def __init__(self, address: str, folder: pathlib.Path, token: str):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        given = {"address_family": family, "daemon_threads": True, "folder": folder, "token": token}
        kind: Any = type("_Server", (http.server.ThreadingHTTPServer,), given)
        self._server = kind((address, 0), _Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="local-copies-server", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """Port that it listens on."""
        return self._server.server_port

    def close(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._server.server_close()


class Peer:
    """The server of another process.

    Args:
        address: Its address.
        port: Its port.
        token: Word that its requests must have.
    """

    def __init__(self, address: str, port: int, token: str):
        self._address = address
        self._port = port
        self._token = token

    def send(self, path: pathlib.Path) -> None:
        """Send a file, which the other side has when this returns; OSError where it has not."""
        with open(path, "rb") as handle, self._connection() as connection:
            size = os.fstat(handle.fileno()).st_size
            headers = {_TOKEN_HEADER: self._token, "Content-Length": str(size)}
            connection.request("PUT", f"/{path.parent.name}/{path.name}", handle, headers)
            _check(connection.getresponse())

    def fetch(self, path: pathlib.Path) -> None:
        """Fetch the file of this step and key to this path; OSError where it cannot be had."""
        with self._connection() as connection:
            connection.request(
                "GET", f"/{path.parent.name}/{path.name}", headers={_TOKEN_HEADER: self._token}
            )
            response = connection.getresponse()
            _check(response)
            receive(response, int(response.headers["Content-Length"]), path)

    @contextlib.contextmanager
    def _connection(self):
        connection = http.client.HTTPConnection(
            self._address, self._port, timeout=SILENCE_SECONDS, blocksize=_CHUNK
        )
        try:
            yield connection
        except http.client.HTTPException as error:
            raise OSError(f"{self._address}:{self._port}: {type(error).__name__}: {error}") from error
        finally:
            connection.close()


def receive(source: Any, size: int, path: pathlib.Path) -> None:
    """Write what a connection sends to a file, complete or not at all.

    Args:
        source: Connection, with `read`.
        size: Number of bytes.
        path: The file.

    Raises:
        OSError: The bytes did not come, or cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{INCOMING}{uuid.uuid4().hex}"
    try:
        with open(temporary, "wb") as handle:
            left = size
            while left and (chunk := source.read(min(left, _CHUNK))):
                handle.write(chunk)
                left -= len(chunk)
        if left:
            raise OSError(f"{left} of {size} bytes did not come")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _check(response: http.client.HTTPResponse) -> None:
    if response.status >= 300:
        raise OSError(f"the other host answered {response.status}: {response.reason}")


class _Handler(http.server.BaseHTTPRequestHandler):
    """PUT and GET of /<name of a step>/<key>."""

    timeout = SILENCE_SECONDS

    @override
    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_PUT(self) -> None:
        path = self._path()
        if path is None:
            return
        try:
            receive(self.rfile, int(self.headers["Content-Length"]), path)
        except (OSError, TypeError, ValueError) as error:
            self.send_error(507, f"{type(error).__name__}: {error}")
            return
        self.send_response(201)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        path = self._path()
        if path is None:
            return
        try:
            handle = open(path, "rb")
        except OSError as error:
            self.send_error(404, error.strerror)
            return
        with handle:
            self.send_response(200)
            self.send_header("Content-Length", str(os.fstat(handle.fileno()).st_size))
            self.end_headers()
            shutil.copyfileobj(handle, self.wfile, _CHUNK)

    def _path(self) -> pathlib.Path | None:
        """The file that a request names; None where it was refused."""
        server: Any = self.server
        if not hmac.compare_digest(self.headers.get(_TOKEN_HEADER, "").encode(), server.token.encode()):
            self.send_error(403, "no token of this run")
            return None
        name, _, key = self.path.removeprefix("/").partition("/")
        saved: SavedStep | None = parse_name(name)
        if saved is None or KEY.fullmatch(key) is None:
            self.send_error(400, "no name of a file of shards")
            return None
        return server.folder / name / key
