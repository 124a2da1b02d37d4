"""Rendezvous of a run's processes before jax.distributed starts, so that a missing or doubled one is named.

JAX's own start aborts in C++ with DEADLINE_EXCEEDED or ALREADY_EXISTS and names no host. Here every process
sends process 0 its id, host and pid on the coordinator's port. When all have connected, process 0 answers and
leaves the port to JAX. Each message is one line of JSON. Like JAX's coordinator it has no authentication: it is
for private networks. Whoever else connects there (a port scanner, a health check, a process of another run) is turned
away with a line in the log, and the start goes on. Process 0 serves all connections at once, so that thousands of
processes meet in seconds, and none that is slow or silent holds the others up.
"""

import contextlib
import dataclasses
import errno
import itertools
import json
import logging
import os
import random
import resource
import selectors
import socket
import time
from collections.abc import Sequence

from tlx.base.errors import ConfigError, LostProcess, UserError

_LINE_BYTES = 4096
# The longest answer: a few dozen hosts by name.
_ANSWER_BYTES = 65536
# Seconds that a connection has for its line.
_LINE_SECONDS = 5.0
# Seconds in which process 0, and the network to it, must take a connection.
_CONNECT_SECONDS = 10.0
# Seconds that all processes together have to close their connections once they are answered.
_GOODBYE_SECONDS = 5.0
# File descriptors that process 0 may need besides one for each process.
_SPARE_FILES = 512
# With fewer the start would fail soon after.
_LEAST_SPARE_FILES = 64
# Processes that a message lists by name.
_LISTED = 16
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
    _raise_file_limit(num_processes)
    deadline = time.monotonic() + timeout
    with contextlib.closing(_Reception(server, num_processes)) as reception:
        error: UserError | None = None
        while len(reception.guests) < num_processes and error is None:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                error = _missing(reception.guests, num_processes, timeout, reception.strangers)
            else:
                error = reception.serve(min(remaining, 1.0))
        reception.answer(error)
    if error is not None:
        raise error


class _Reception:
    """Connections of process 0, all served by one selector, so that a slow or silent one delays no other.

    Args:
        server: Listening socket.
        num_processes: Number of processes of the run.
    """

    def __init__(self, server: socket.socket, num_processes: int):
        self.guests = {0: _Guest(0, socket.gethostname(), os.getpid())}
        self.strangers: list[str] = []
        self._server = server
        self._num_processes = num_processes
        # Connections whose line is not complete yet, in the order in which they came.
        self._arriving: dict[socket.socket, _Arrival] = {}
        # epoll or kqueue where there is one: select() takes no descriptor above 1,023.
        self._selector = selectors.DefaultSelector()
        server.setblocking(False)
        self._selector.register(server, selectors.EVENT_READ)

    def serve(self, seconds: float) -> ConfigError | None:
        """Wait up to `seconds` for news and act on it; returns an error that ends the start."""
        if self._arriving:
            first = next(iter(self._arriving.values()))
            seconds = min(seconds, max(0.0, first.deadline - time.monotonic()))
        error = None
        for key, _ in self._selector.select(seconds):
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            if connection is self._server:
                self._accept()
            elif connection in self._arriving:
                error = error or self._hear(connection)
            else:
                # Waiting guests send nothing, so readable means closed; the process may come again.
                self._drop_guest(connection)
        self._turn_late_ones_away()
        return error

    def answer(self, error: UserError | None) -> None:
        """Send all guests the end of the start, and wait until they have closed their connections.

        The other side closes first, so that no TIME_WAIT is left on this port, which JAX takes next.
        """
        for connection in list(self._arriving):
            self._close(connection)
        self._selector.unregister(self._server)
        answer = {} if error is None else {"error": str(error), "missing": isinstance(error, MissingProcess)}
        connections = [guest.connection for guest in self.guests.values() if guest.connection]
        for connection in connections:
            _say(connection, answer)
        # One deadline for all of them: a thousand that hang take no longer than one.
        deadline = time.monotonic() + _GOODBYE_SECONDS
        waiting = set(connections)
        while waiting and time.monotonic() < deadline:
            for key, _ in self._selector.select(max(0.0, deadline - time.monotonic())):
                waiting.discard(key.fileobj)  # pyright: ignore[reportArgumentType]
                self._selector.unregister(key.fileobj)

    def close(self) -> None:
        """Close all connections."""
        for guest in self.guests.values():
            if guest.connection is not None:
                guest.connection.close()
        for connection in self._arriving:
            connection.close()
        self._selector.close()

    def _accept(self) -> None:
        """Accept all connections that wait."""
        while True:
            try:
                connection, address = self._server.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # Strangers may hold all descriptors: the one that has been silent longest makes room.
                if error.errno in (errno.EMFILE, errno.ENFILE) and self._arriving:
                    connection = next(iter(self._arriving))
                    self._turn_away(connection, f"{self._arriving[connection].address} sent no line of tlx")
                return
            connection.setblocking(False)
            self._arriving[connection] = _Arrival(address[0], time.monotonic() + _LINE_SECONDS)
            self._selector.register(connection, selectors.EVENT_READ)

    def _hear(self, connection: socket.socket) -> ConfigError | None:
        """Read what has come of a line; a complete one makes the connection a guest or a stranger."""
        arrival = self._arriving[connection]
        try:
            piece = connection.recv(_LINE_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            piece = b""
        arrival.data += piece
        # Bounded in bytes and in time, for anything may connect to an open port.
        if piece and not arrival.data.endswith(b"\n") and len(arrival.data) < _LINE_BYTES:
            return None
        return self._admit(connection, arrival)

    def _admit(self, connection: socket.socket, arrival: "_Arrival") -> ConfigError | None:
        """Make the connection a guest, or turn a stranger away; returns an error that ends the start."""
        guest, count, why = _introduction(arrival, connection)
        if guest is not None and count != self._num_processes:
            why = (
                f"process {guest} was told of {count} processes, process {self.guests[0]} of "
                f"{self._num_processes}"
            )
        elif guest is not None and not 0 <= guest.id < self._num_processes:
            why = f"process id {guest} must be 0 to {self._num_processes - 1}"
        if guest is None or why:
            # No error of this run yet: the process may be another run's. One of this run's own ends with the
            # answer, and is missing here.
            self._turn_away(connection, why)
            return None
        if guest.id in self.guests:
            why = f"two processes have the id {guest.id}: {self.guests[guest.id]} and {guest}"
            _say(connection, {"error": why})
            self._close(connection)
            return ConfigError(why)
        del self._arriving[connection]
        self.guests[guest.id] = guest
        return None

    def _turn_late_ones_away(self) -> None:
        now = time.monotonic()
        for connection, arrival in list(self._arriving.items()):
            # They stand in the order of their deadlines.
            if arrival.deadline > now:
                return
            self._turn_away(connection, f"{arrival.address} sent no line of tlx")

    def _turn_away(self, connection: socket.socket, why: str) -> None:
        _say(connection, {"error": why})
        self._close(connection)
        self.strangers.append(why)
        if len(self.strangers) <= _NAMED:
            log.warning("turned away on the coordinator's port: %s", why)

    def _drop_guest(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        connection.close()
        # One look at all of them: this is rare, and a second index could disagree with the first.
        for guest in list(self.guests.values()):
            if guest.connection is connection:
                del self.guests[guest.id]

    def _close(self, connection: socket.socket) -> None:
        """Close a connection that is no guest."""
        self._arriving.pop(connection, None)
        self._selector.unregister(connection)
        connection.close()


@dataclasses.dataclass
class _Arrival:
    """A connection that has not identified itself yet."""

    address: str
    """Where it comes from."""
    deadline: float
    """Time on the monotonic clock by which its line must be complete."""
    data: bytes = b""
    """What it has sent so far."""


def _raise_file_limit(num_processes: int) -> None:
    """Allow this process a file descriptor for each of the others, and say so.

    The limit stays raised: JAX's coordinator holds a connection to each process too.

    Raises:
        ConfigError: The hard limit is lower.
    """
    needed = num_processes + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    try:
        if raised < num_processes + _LEAST_SPARE_FILES:
            raise ValueError
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"process 0 of {num_processes} holds a connection to each process and needs {needed} open files; "
            f"this system allows {hard} (ulimit -Hn): raise it by LimitNOFILE= of the service, --ulimit nofile= "
            "of the container, or limits.conf"
        ) from error
    log.info("process 0 of %d raised its limit of open files from %d to %d", num_processes, soft, raised)


def _introduction(arrival: _Arrival, connection: socket.socket) -> tuple[_Guest | None, int, str]:
    """Read who connects: (process, the number of processes it was told, ""), or (None, 0, why it is none)."""
    why = f"{arrival.address} sent no line of tlx"
    message = _parse(arrival.data)
    if message is None:
        return None, 0, why
    values = [message.get(name) for name in ("id", "pid", "count")]
    numbers = [value for value in values if type(value) is int]
    host = message.get("host")
    if len(numbers) != 3 or not isinstance(host, str) or not host.isprintable() or len(host) > 253:
        return None, 0, why
    return _Guest(numbers[0], host, numbers[1], connection), numbers[2], ""


def _join(host: str, port: int, num_processes: int, process_id: int, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    me = _Guest(process_id, socket.gethostname(), os.getpid())
    message = {"id": me.id, "host": me.host, "pid": me.pid, "count": num_processes}
    while time.monotonic() < deadline:
        try:
            connection = socket.create_connection((host, port), timeout=_CONNECT_SECONDS)
        except OSError:
            _pause(num_processes)
            continue
        with connection:
            _say(connection, message)
            answer = _read(connection, timeout=deadline - time.monotonic() + 5.0)
        if answer is None:
            # Process 0 has died, or another program holds the port.
            _pause(num_processes)
            continue
        if "error" in answer:
            raise (MissingProcess if answer.get("missing") else ConfigError)(answer["error"])
        return
    raise MissingProcess(
        f"process {me} waited {timeout:.0f} s for process 0 at {host}:{port}; is it running there, "
        "and is the port open and free?"
    )


def _pause(num_processes: int) -> None:
    """Wait before the next attempt, at random: about 1,000 attempts a second reach process 0, whatever the pod."""
    time.sleep(max(0.2, num_processes / 1000) * random.uniform(0.5, 1.5))


def _missing(
    guests: dict[int, _Guest], num_processes: int, timeout: float, strangers: list[str]
) -> MissingProcess:
    seen = [str(guests[i]) for i in sorted(guests)]
    missing = ranges([i for i in range(num_processes) if i not in guests])
    return MissingProcess(
        f"waited {timeout:.0f} s for {num_processes} processes; seen: {_shortened(seen)}; missing: "
        f"{_shortened(missing)}" + (f"; turned away: {'; '.join(strangers[-3:])}" if strangers else "")
    )


def ranges(numbers: Sequence[int]) -> list[str]:
    """Return ascending numbers as text, three and more in a row as one range: 0, 1, 4, 5, 6 as ["0", "1", "4-6"]."""
    texts: list[str] = []
    for _, group in itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        row = [number for _, number in group]
        texts += [f"{row[0]}-{row[-1]}"] if len(row) > 2 else map(str, row)
    return texts


def _shortened(texts: Sequence[str]) -> str:
    # The message goes to each process, and people read it.
    more = len(texts) - _LISTED
    return ", ".join(texts[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _say(connection: socket.socket, message: dict) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(message).encode() + b"\n")


def _read(connection: socket.socket, timeout: float) -> dict | None:
    """Read one line of JSON; None where the connection closes, is late, or sends anything else."""
    data = b""
    deadline = time.monotonic() + timeout
    try:
        # Bounded in bytes and in time, for anything may hold the port.
        while not data.endswith(b"\n") and len(data) < _ANSWER_BYTES:
            connection.settimeout(max(deadline - time.monotonic(), 0.1))
            piece = connection.recv(_ANSWER_BYTES)
            if not piece:
                return None
            data += piece
    except OSError:
        return None
    return _parse(data)


def _parse(line: bytes) -> dict | None:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):  # thousands of brackets exhaust the parser's stack
        return None
    return message if isinstance(message, dict) else None
