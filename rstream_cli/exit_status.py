"""The exit codes, and the errors of the command line itself.

Scripts depend on these numbers, so only this module defines them. Only ``status_of`` turns an error into a number: a
command raises, and the runner calls it. The core's errors are imported only when there is an error, so that
``rstream --version`` does not import the core.
"""

from __future__ import annotations

import enum
import sys


class ExitStatus(enum.IntEnum):
    """The exit codes. A process always ends with one of these."""

    OK = 0
    """Finished: end of input, count, ``--until``, idle."""
    INTERNAL = 1
    """A bug in this program, or a write that the operating system refused."""
    USAGE = 2
    """Usage or configuration."""
    PARTLY_DONE = 3
    """Partly done (``--on-error skip``)."""
    NOT_FOUND = 4
    """Stream, reference or context not found."""
    ACCESS = 5
    """Authentication or permission."""
    CONNECTION = 6
    """Cannot connect, TLS, no leader; a peer that does not follow the protocol, or answers with an unknown code."""
    NOT_CONFIRMED = 7
    """Some messages were rejected or not confirmed; wins over INTERRUPTED and TERMINATED."""
    BAD_RECORD = 8
    """A record of the input is bad; the message has its number."""
    PRECONDITION = 9
    """Exists already with other arguments, or a precondition failed."""
    CHECK_FAILED = 10
    """A check that was asked for did not hold (``lag --fail-over``, ``dump verify``)."""
    TIMED_OUT = 124
    """``--timeout`` ran out."""
    INTERRUPTED = 130
    """Ended by SIGINT; all messages are confirmed."""
    STDOUT_CLOSED = 141
    """The reader closed stdout."""
    TERMINATED = 143
    """Ended by SIGTERM; all messages are confirmed."""


KINDS = {
    ExitStatus.OK: "Done",
    ExitStatus.INTERNAL: "ProgramError",
    ExitStatus.USAGE: "UsageError",
    ExitStatus.PARTLY_DONE: "PartlyDone",
    ExitStatus.NOT_FOUND: "NotFound",
    ExitStatus.ACCESS: "AccessRefused",
    ExitStatus.CONNECTION: "ConnectionFailed",
    ExitStatus.NOT_CONFIRMED: "NotConfirmed",
    ExitStatus.BAD_RECORD: "BadRecord",
    ExitStatus.PRECONDITION: "PreconditionFailed",
    ExitStatus.CHECK_FAILED: "CheckFailed",
    ExitStatus.TIMED_OUT: "TimedOut",
    ExitStatus.INTERRUPTED: "Interrupted",
    ExitStatus.STDOUT_CLOSED: "StdoutClosed",
    ExitStatus.TERMINATED: "Terminated",
}
"""The ``kind`` of an error in JSON, where it is none of the core's."""


class CommandError(Exception):
    """An error found by the command line itself, with its exit code.

    ``hint`` says what the user may do about it. The message is one line.
    """

    def __init__(self, message: str, *, hint: str | None = None, status: ExitStatus = ExitStatus.USAGE) -> None:
        super().__init__(message)
        self.hint = hint
        self.status = status


def status_of(error: BaseException) -> ExitStatus:
    """Returns the exit code for an error; for a group, that of its first error."""
    if isinstance(error, BaseExceptionGroup):
        return status_of(first_error(error))
    if isinstance(error, CommandError):
        return error.status
    if isinstance(error, KeyboardInterrupt):
        return ExitStatus.INTERRUPTED
    return _status_of_core_error(error) or _status_of_record_error(error) or _status_of_os_error(error)


def kind_of(error: BaseException) -> str:
    """The ``kind`` of an error in JSON: the name of the core's class, else what its exit code stands for."""
    from rstream_core.errors import RstreamError

    if isinstance(error, RstreamError):
        return next(cls.__name__ for cls in type(error).__mro__ if not cls.__name__.startswith("_"))
    return KINDS[status_of(error)]


def first_error(error: BaseException) -> BaseException:
    """Returns the error itself, or the first one inside a group, where a closed stdout comes before all others."""
    leaves = list(_leaves(error))
    return next((leaf for leaf in leaves if isinstance(leaf, BrokenPipeError)), leaves[0])


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def _status_of_core_error(error: BaseException) -> ExitStatus | None:
    from rstream_core import errors as e

    if not isinstance(error, e.RstreamError):
        return None
    # The first matching line counts: an AmqpError is also a ProtocolError, and the ServerErrors that reach the last
    # line are faults, no answers to a correct request.
    table: tuple[tuple[tuple[type[BaseException], ...], ExitStatus], ...] = (
        ((e.ConfigurationError,), ExitStatus.USAGE),
        ((e.StreamDoesNotExist, e.OffsetNotFound, e.RouteNotFound), ExitStatus.NOT_FOUND),
        (
            (
                e.AuthenticationFailure,
                e.CredentialsFailed,
                e.SASLMechanismNotSupported,
                e.SASLError,
                e.SASLChallenge,
                e.SASLAuthenticationFailureLoopback,
                e.VirtualHostAccessFailure,
                e.AccessRefused,
            ),
            ExitStatus.ACCESS,
        ),
        (
            (
                e.ConnectionFailed,
                e.ConnectionClosed,
                e.LeaderNotAvailable,
                e.StreamNotAvailable,
                e.RequestTimeout,
            ),
            ExitStatus.CONNECTION,
        ),
        ((e.NotConfirmed,), ExitStatus.NOT_CONFIRMED),
        ((e.MessageTooLarge, e.NotCopied, e.AmqpError, e.DumpError), ExitStatus.BAD_RECORD),
        (
            (e.PreconditionFailed, e.StreamAlreadyExists, e.UnsupportedByBroker, e.OffsetsGone, e.CopyRefused),
            ExitStatus.PRECONDITION,
        ),
        ((e.ProtocolError, e.ServerError), ExitStatus.CONNECTION),
    )
    for classes, status in table:
        if isinstance(error, classes):
            return status
    return ExitStatus.INTERNAL


_RECORD_ERRORS = (
    ("rstream_cli.records.framing_in", "RecordError"),
    ("rstream_cli.records.tagged_values", "EnvelopeError"),
)


def _status_of_record_error(error: BaseException) -> ExitStatus | None:
    """Returns the exit code for an error of a record. Checks only loaded modules: others cannot have raised it."""
    for module, name in _RECORD_ERRORS:
        cls = getattr(sys.modules.get(module), name, None)
        if isinstance(cls, type) and isinstance(error, cls):
            return ExitStatus.BAD_RECORD
    return None


def _status_of_os_error(error: BaseException) -> ExitStatus:
    if isinstance(error, BrokenPipeError):
        return ExitStatus.STDOUT_CLOSED
    if isinstance(error, OSError) and error.filename is not None:
        return ExitStatus.USAGE  # a file that the user named cannot be used
    return ExitStatus.INTERNAL
