"""Processes of a run find each other before JAX does, so that a missing or doubled one has a name.

JAX's own start aborts in C++ with DEADLINE_EXCEEDED or ALREADY_EXISTS and names no host. Here every
process tells process 0, on the coordinator's port, its id, host and pid; when all have come process 0
answers and leaves the port to JAX. One line of JSON each way. Like JAX's coordinator it has no
authentication: for private networks.
"""

import contextlib
import dataclasses
import json
import os
import select
import socket
import time

from tlx.base.errors import ConfigError, LostProcess, UserError

_LINE_BYTES = 4096


class MissingProcess(LostProcess):
    """Some processes of the run did not come in time. Worth a retry: a host may be starting still."""


@dataclasses.dataclass
class _Guest:
    """A process that has said who it is, and the connection it waits on (None: process 0 itself)."""

    id: int
    host: str
    pid: int
    connection: socket.socket | None = None

    def __str__(self) -> str:
        return f"{self.id} ({self.host} pid {self.pid})"


def meet(address: str, num_processes: int, process_id: int, timeout: float) -> None:
    """Returns once all processes have come to `address` ("host:port"), or raises on each of them.

    Raises MissingProcess after `timeout` seconds, naming who came and who did not, and ConfigError
    for two processes of one id or for different ideas of how many there are.
    """
    host, port = split_address(address)
    if process_id != 0:
        return _join(host, port, num_processes, process_id, timeout)
    try:
        server = socket.create_server(("", port), backlog=max(16, num_processes))
    except OSError as error:
        # Either another process 0 of this run, which will answer with both names, or something else.
        with contextlib.suppress(MissingProcess):
            _join(host, port, num_processes, process_id, min(timeout, 5.0))
        raise ConfigError(f"process 0 cannot listen on port {port} of {host}: {error.strerror}") from error
    with server:
        _host(server, num_processes, timeout)


def split_address(address: str) -> tuple[str, int]:
    """("host", port) from "host:port". Raises ConfigError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"coordinator = {address!r} must be host:port, as in 10.0.0.2:1234")
    return host.strip("[]"), int(port)


def _host(server: socket.socket, num_processes: int, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    guests = {0: _Guest(0, socket.gethostname(), os.getpid())}
    error: UserError | None = None
    while len(guests) < num_processes and error is None:
        left = deadline - time.monotonic()
        if left <= 0:
            error = _missing(guests, num_processes, timeout)
            break
        waiting = [guest.connection for guest in guests.values() if guest.connection]
        ready, _, _ = select.select([server, *waiting], [], [], min(left, 1.0))
        _forget_the_gone(guests, ready)
        if server in ready:
            error = _admit(server.accept()[0], guests, num_processes)
    _answer(guests, error)
    if error is not None:
        raise error


def _admit(connection: socket.socket, guests: dict[int, _Guest], num_processes: int) -> ConfigError | None:
    """Adds the process behind `connection`; an error if it cannot be part of this run."""
    said = _read(connection, timeout=5.0)
    try:
        guest = _Guest(int(said["id"]), str(said["host"]), int(said["pid"]), connection)
        count = int(said["count"])
    except (KeyError, TypeError, ValueError):
        connection.close()  # a port scanner, a health check
        return None
    error = None
    if count != num_processes:
        error = f"process {guest} was told of {count} processes, process {guests[0]} of {num_processes}"
    elif not 0 <= guest.id < num_processes:
        error = f"process id {guest} must be 0 to {num_processes - 1}"
    elif guest.id in guests:
        error = f"two processes have the id {guest.id}: {guests[guest.id]} and {guest}"
    if error is None:
        guests[guest.id] = guest
        return None
    _say(connection, {"error": error})
    connection.close()
    return ConfigError(error)


def _forget_the_gone(guests: dict[int, _Guest], ready: list[socket.socket]) -> None:
    """A guest says nothing while it waits: a readable connection is one that has closed."""
    for guest in [guest for guest in guests.values() if guest.connection in ready and guest.connection]:
        guest.connection.close()
        del guests[guest.id]


def _answer(guests: dict[int, _Guest], error: UserError | None) -> None:
    answer = {} if error is None else {"error": str(error), "missing": isinstance(error, MissingProcess)}
    for guest in guests.values():
        if guest.connection is not None:
            _say(guest.connection, answer)
    for guest in guests.values():
        if guest.connection is not None:
            _read(guest.connection, timeout=2.0)  # let them close first: no TIME_WAIT on the port
            guest.connection.close()


def _join(host: str, port: int, num_processes: int, process_id: int, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    me = _Guest(process_id, socket.gethostname(), os.getpid())
    said = {"id": me.id, "host": me.host, "pid": me.pid, "count": num_processes}
    while time.monotonic() < deadline:
        try:
            connection = socket.create_connection((host, port), timeout=2.0)
        except OSError:
            time.sleep(0.2)
            continue
        with connection:
            _say(connection, said)
            answer = _read(connection, timeout=deadline - time.monotonic() + 5.0)
        if answer is None:
            time.sleep(0.2)  # process 0 died, or something else holds the port
            continue
        if "error" in answer:
            raise (MissingProcess if answer.get("missing") else ConfigError)(answer["error"])
        return
    raise MissingProcess(
        f"process {me} waited {timeout:.0f} s for process 0 at {host}:{port}; is it running there, "
        "and is the port open and free?"
    )


def _missing(guests: dict[int, _Guest], num_processes: int, timeout: float) -> MissingProcess:
    seen = ", ".join(str(guests[i]) for i in sorted(guests))
    missing = ", ".join(str(i) for i in range(num_processes) if i not in guests)
    return MissingProcess(
        f"waited {timeout:.0f} s for {num_processes} processes; seen: {seen}; missing: {missing}"
    )


def _say(connection: socket.socket, message: dict) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(message).encode() + b"\n")


def _read(connection: socket.socket, timeout: float) -> dict | None:
    """One line of JSON, or None: closed, late, too long or not JSON."""
    data = b""
    try:
        connection.settimeout(max(timeout, 0.1))
        while not data.endswith(b"\n") and len(data) < _LINE_BYTES:
            piece = connection.recv(_LINE_BYTES)
            if not piece:
                return None
            data += piece
        message = json.loads(data)
    except (OSError, ValueError):
        return None
    return message if isinstance(message, dict) else None
