"""Rendezvous of a run's processes before jax.distributed starts, so that a missing or doubled one is named.

JAX's own start aborts in C++ with DEADLINE_EXCEEDED or ALREADY_EXISTS and names no host. Here every process
sends process 0 its id, host and pid on the coordinator's port. When all have connected, process 0 answers and
leaves the port to JAX. Each message is one line of JSON. Like JAX's coordinator it has no authentication: it is
for private networks.
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
    error: UserError | None = None
    while len(guests) < num_processes and error is None:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            error = _missing(guests, num_processes, timeout)
            break
        waiting = [guest.connection for guest in guests.values() if guest.connection]
        # Waiting connections too: a process that dies meanwhile is noticed, and may come again.
        ready, _, _ = select.select([server, *waiting], [], [], min(remaining, 1.0))
        _drop_disconnected(guests, ready)
        if server in ready:
            error = _admit(server.accept()[0], guests, num_processes)
    _answer(guests, error)
    if error is not None:
        raise error


def _admit(connection: socket.socket, guests: dict[int, _Guest], num_processes: int) -> ConfigError | None:
    """Add the process of a connection; return an error if it cannot be part of this run."""
    message = _read(connection, timeout=5.0) or {}
    try:
        guest = _Guest(int(message["id"]), str(message["host"]), int(message["pid"]), connection)
        count = int(message["count"])
    except (KeyError, TypeError, ValueError):
        # A port scanner or a health check.
        connection.close()
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


def _missing(guests: dict[int, _Guest], num_processes: int, timeout: float) -> MissingProcess:
    connected = ", ".join(str(guests[i]) for i in sorted(guests))
    missing = ", ".join(str(i) for i in range(num_processes) if i not in guests)
    return MissingProcess(
        f"waited {timeout:.0f} s for {num_processes} processes; seen: {connected}; missing: {missing}"
    )


def _say(connection: socket.socket, message: dict) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(message).encode() + b"\n")


def _read(connection: socket.socket, timeout: float) -> dict | None:
    """Read one line of JSON; None where the connection closes, is late, or sends anything else."""
    data = b""
    try:
        connection.settimeout(max(timeout, 0.1))
        # Bounded, for anything may connect to an open port.
        while not data.endswith(b"\n") and len(data) < _LINE_BYTES:
            piece = connection.recv(_LINE_BYTES)
            if not piece:
                return None
            data += piece
        message = json.loads(data)
    except (OSError, ValueError):
        return None
    return message if isinstance(message, dict) else None
