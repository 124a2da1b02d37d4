"""Rendezvous of a run's processes before jax.distributed starts, so that a missing or doubled one is named.

JAX's own start aborts in C++ with DEADLINE_EXCEEDED or ALREADY_EXISTS and names no host. Here every process
sends process 0 its id, host and pid on the coordinator's port. When all have connected, process 0 answers and
leaves the port to JAX. Each message is one line of JSON. Like JAX's coordinator it has no authentication: it is
for private networks. Whoever else connects there (a port scanner, a health check, a process of another run) is turned
away with a line in the log, and the start goes on.
"""

import contextlib
import dataclasses
import json
import logging
import os
import select
import socket
import time

from tlx.base.errors import ConfigError, LostProcess, UserError

_LINE_BYTES = 4096
# Seconds that a connection has for its line.
_LINE_SECONDS = 5.0
# Strangers that are named; a scanner may come a thousand times.
_NAMED = 10

log = logging.getLogger("tlx")


class MissingProcess(LostProcess):
    """Some processes of the run did not connect in time; a retry may help, as a host may still be starting."""


@dataclasses.dataclass
class _Guest:
    """A process that has identified itself, and the connection it waits on (None: process 0 itself)."""

    id: int
    host: str
    pid: int
    connection: socket.socket | None = None

    def __str__(self) -> str:
        return f"{self.id} ({self.host} pid {self.pid})"


def meet(address: str, num_processes: int, process_id: int, timeout: float) -> None:
    """Wait until all processes have connected.

    Args:
        address: "host:port" of process 0.
        num_processes: Number of processes of the run.
        process_id: Index of this process.
        timeout: Seconds.

    Raises:
        MissingProcess: Not all have connected in time; the message names those that have and those that have not.
        ConfigError: Two processes have one id, or different numbers of processes; raised on each process.
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
    """Split "host:port" into host and port; ConfigError where it is neither."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"coordinator = {address!r} must be host:port, as in 10.0.0.2:1234")
    return host.strip("[]"), int(port)


def _host(server: socket.socket, num_processes: int, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    guests = {0: _Guest(0, socket.gethostname(), os.getpid())}
    strangers: list[str] = []
    error: UserError | None = None
    while len(guests) < num_processes and error is None:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            error = _missing(guests, num_processes, timeout, strangers)
            break
        waiting = [guest.connection for guest in guests.values() if guest.connection]
        # Waiting connections too: a process that dies meanwhile is noticed, and may come again.
        ready, _, _ = select.select([server, *waiting], [], [], min(remaining, 1.0))
        _drop_disconnected(guests, ready)
        if server in ready:
            error = _admit(server, guests, num_processes, strangers)
    _answer(guests, error)
    if error is not None:
        raise error


def _admit(
    server: socket.socket, guests: dict[int, _Guest], num_processes: int, strangers: list[str]
) -> ConfigError | None:
    """Add the process that connects, or turn a stranger away; return an error that ends the start."""
    connection, address = server.accept()
    guest, count, why = _introduction(connection, address[0])
    if guest is not None and count != num_processes:
        why = f"process {guest} was told of {count} processes, process {guests[0]} of {num_processes}"
    elif guest is not None and not 0 <= guest.id < num_processes:
        why = f"process id {guest} must be 0 to {num_processes - 1}"
    if guest is None or why:
        # No error of this run yet: the process may be another run's. One of this run's own ends with the answer,
        # and is missing here.
        _say(connection, {"error": why})
        connection.close()
        strangers.append(why)
        if len(strangers) <= _NAMED:
            log.warning("turned away on the coordinator's port: %s", why)
        return None
    if guest.id in guests:
        why = f"two processes have the id {guest.id}: {guests[guest.id]} and {guest}"
        _say(connection, {"error": why})
        connection.close()
        return ConfigError(why)
    guests[guest.id] = guest
    return None


def _introduction(connection: socket.socket, address: str) -> tuple[_Guest | None, int, str]:
    """Read who connects: (process, the number of processes it was told, ""), or (None, 0, why it is none)."""
    message = _read(connection, timeout=_LINE_SECONDS)
    if message is None:
        return None, 0, f"{address} sent no line of tlx"
    values = [message.get(name) for name in ("id", "pid", "count")]
    numbers = [value for value in values if type(value) is int]
    host = message.get("host")
    if len(numbers) != 3 or not isinstance(host, str) or not host.isprintable() or len(host) > 253:
        return None, 0, f"{address} sent no line of tlx"
    return _Guest(numbers[0], host, numbers[1], connection), numbers[2], ""


def _drop_disconnected(guests: dict[int, _Guest], ready: list[socket.socket]) -> None:
    """Drop processes that have disconnected: they send nothing while they wait, so readable means closed."""
    for guest in list(guests.values()):
        if guest.connection is not None and guest.connection in ready:
            guest.connection.close()
            del guests[guest.id]


def _answer(guests: dict[int, _Guest], error: UserError | None) -> None:
    answer = {} if error is None else {"error": str(error), "missing": isinstance(error, MissingProcess)}
    for guest in guests.values():
        if guest.connection is not None:
            _say(guest.connection, answer)
    for guest in guests.values():
        if guest.connection is not None:
            # The other side closes first, so that no TIME_WAIT is left on this port, which JAX takes next.
            _read(guest.connection, timeout=2.0)
            guest.connection.close()


def _join(host: str, port: int, num_processes: int, process_id: int, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    me = _Guest(process_id, socket.gethostname(), os.getpid())
    message = {"id": me.id, "host": me.host, "pid": me.pid, "count": num_processes}
    while time.monotonic() < deadline:
        try:
            connection = socket.create_connection((host, port), timeout=2.0)
        except OSError:
            time.sleep(0.2)
            continue
        with connection:
            _say(connection, message)
            answer = _read(connection, timeout=deadline - time.monotonic() + 5.0)
        if answer is None:
            # Process 0 has died, or another program holds the port.
            time.sleep(0.2)
            continue
        if "error" in answer:
            raise (MissingProcess if answer.get("missing") else ConfigError)(answer["error"])
        return
    raise MissingProcess(
        f"process {me} waited {timeout:.0f} s for process 0 at {host}:{port}; is it running there, "
        "and is the port open and free?"
    )


def _missing(
    guests: dict[int, _Guest], num_processes: int, timeout: float, strangers: list[str]
) -> MissingProcess:
    connected = ", ".join(str(guests[i]) for i in sorted(guests))
    missing = ", ".join(str(i) for i in range(num_processes) if i not in guests)
    return MissingProcess(
        f"waited {timeout:.0f} s for {num_processes} processes; seen: {connected}; missing: {missing}"
        + (f"; turned away: {'; '.join(strangers[-3:])}" if strangers else "")
    )


def _say(connection: socket.socket, message: dict) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(message).encode() + b"\n")


def _read(connection: socket.socket, timeout: float) -> dict | None:
    """Read one line of JSON; None where the connection closes, is late, or sends anything else."""
    data = b""
    deadline = time.monotonic() + timeout
    try:
        # Bounded in bytes and in time, for anything may connect to an open port.
        while not data.endswith(b"\n") and len(data) < _LINE_BYTES:
            connection.settimeout(max(deadline - time.monotonic(), 0.1))
            piece = connection.recv(_LINE_BYTES)
            if not piece:
                return None
            data += piece
        message = json.loads(data)
    except (OSError, ValueError, RecursionError):  # thousands of brackets exhaust the parser's stack
        return None
    return message if isinstance(message, dict) else None
