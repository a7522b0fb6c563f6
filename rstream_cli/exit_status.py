"""How a command ends: the exit codes of the contract, and the errors of the command line itself.

Scripts depend on these numbers, so they are written down once, here. ``status_of`` is the only place that
turns an error into a number: a command raises, and the runner asks. The core's errors are imported only when
there is an error to judge, so that ``rstream --version`` needs none of it.
"""

from __future__ import annotations

import enum
import sys


class ExitStatus(enum.IntEnum):
    """The exit codes. A process ends in one of these, whatever happens."""

    OK = 0
    """Done: end of input, count, ``--until``, idle."""
    INTERNAL = 1
    """A fault of this program, or a write that the operating system refused."""
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
    """A record of the input is bad; its number is named."""
    PRECONDITION = 9
    """Exists already with other arguments, or a precondition failed."""
    TIMED_OUT = 124
    """``--timeout`` ran out."""
    INTERRUPTED = 130
    """SIGINT, and all confirmed."""
    STDOUT_CLOSED = 141
    """The reader closed stdout."""
    TERMINATED = 143
    """SIGTERM, and all confirmed."""


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
    ExitStatus.TIMED_OUT: "TimedOut",
    ExitStatus.INTERRUPTED: "Interrupted",
    ExitStatus.STDOUT_CLOSED: "StdoutClosed",
    ExitStatus.TERMINATED: "Terminated",
}
"""The ``kind`` of an error in JSON, where it is none of the core's."""


class CommandError(Exception):
    """An error that the command line found itself; it knows the exit code.

    ``hint`` says what the reader may do about it. The message is one line.
    """

    def __init__(self, message: str, *, hint: str | None = None, status: ExitStatus = ExitStatus.USAGE) -> None:
        super().__init__(message)
        self.hint = hint
        self.status = status


def status_of(error: BaseException) -> ExitStatus:
    """The exit code for an error; of a group, that of its first error."""
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
    """The error itself, or the first one inside a group; a closed stdout counts before all others."""
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
    # The first line that fits counts: an AmqpError is a ProtocolError of a message, and a ServerError at the end is one
    # that tells nothing of what was asked for.
    table: tuple[tuple[tuple[type[BaseException], ...], ExitStatus], ...] = (
        ((e.ConfigurationError,), ExitStatus.USAGE),
        ((e.StreamDoesNotExist, e.OffsetNotFound, e.RouteNotFound), ExitStatus.NOT_FOUND),
        (
            (
                e.AuthenticationFailure,
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
        ((e.MessageTooLarge, e.AmqpError), ExitStatus.BAD_RECORD),
        (
            (e.PreconditionFailed, e.StreamAlreadyExists, e.UnsupportedByBroker, e.OffsetsGone),
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
    ("rstream_cli.records.envelope", "EnvelopeError"),
)


def _status_of_record_error(error: BaseException) -> ExitStatus | None:
    """Looks only into modules that are loaded: an error of theirs cannot come from anywhere else."""
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
