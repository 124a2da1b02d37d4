"""Errors that a user can cause, and the exit codes that launchers act on."""

import difflib
from collections.abc import Iterable

# One table for the code and for every launcher: restart on RETRYABLE, stop on all others.
OK = 0
USAGE = 2
PREEMPTED = 42
CONFIG = 64
STORAGE = 73
CHECKPOINT = 74
LEASE = 75
NUMERICS = 76
REPLICA_MISMATCH = 77
MEMORY = 78
NOT_IDENTIFIED = 79
WATCHDOG = 170
RETRYABLE = (PREEMPTED, 134, 137, 139, 143, WATCHDOG)

# Characters of a value that a message shows, and of a number.
_SHOWN = 300
_SHOWN_OF_NUMBER = 40


class UserError(Exception):
    """An error that the user can fix: printed as one message without a traceback, then exit with `code`."""

    code = CONFIG


class ConfigError(UserError):
    """A value of the configuration is not usable."""


class DataError(UserError):
    """A file, a document or a token of the data is not usable."""


class StorageError(UserError):
    """A directory cannot be written, or the disk is full."""

    code = STORAGE


class CheckpointError(UserError):
    """No checkpoint can be read, or one does not match the model."""

    code = CHECKPOINT


class LeaseError(UserError):
    """Another run holds the lease of the directory."""

    code = LEASE


class NumericsError(UserError):
    """The loss or a gradient is not finite."""

    code = NUMERICS


class ReplicaMismatch(UserError):
    """Replicas that must be equal differ."""

    code = REPLICA_MISMATCH


class LostProcess(UserError):
    """Another process of the run is missing or has ended; a restart may fix it."""

    code = WATCHDOG


class StallError(UserError):
    """The run made no progress for train.stall_seconds."""

    code = WATCHDOG


class DeviceMemoryError(UserError):
    """The run does not fit the memory of the device."""

    code = MEMORY
    ends_process = False
    """Whether other devices wait for the one without memory, so that an orderly end of the process would too."""


class Preempted(Exception):
    """The run was asked to stop and has saved a checkpoint; the same command resumes it."""

    code = PREEMPTED


def shown(value: object) -> str:
    """Return the repr of a value for a message, cut where it is long."""
    text = repr(value)
    longest = _SHOWN_OF_NUMBER if isinstance(value, int) else _SHOWN
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text):,} characters)"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text; empty where it has none."""
    return (str(error).splitlines() or [""])[0]


def one_of(field: str, value: object, choices: Iterable[object]) -> str:
    """Make the message for a value that is not legal, with the nearest legal value.

    Args:
        field: Config key, or name of the value.
        value: The value.
        choices: Legal values.

    Returns:
        The message.
    """
    names = [str(choice) or "''" for choice in choices]
    near = difflib.get_close_matches(str(value)[:_SHOWN], names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{field} = {shown(value)} is not one of: {', '.join(names)}{hint}"
