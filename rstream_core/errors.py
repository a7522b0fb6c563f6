"""Every error that leaves the core, in one hierarchy.

::

    RstreamError
    ├── ClientError                    found on this side
    │   ├── ConfigurationError         an option, URI or argument that cannot work
    │   ├── ConnectionFailed           no connection could be made
    │   │   ├── CredentialsFailed      no password or token could be had
    │   │   ├── HostNotFound           the name does not resolve
    │   │   ├── TlsError               the handshake or the certificate
    │   │   └── AdvertisedHostUnreachable   connected, but the broker sends us where we cannot go
    │   ├── ConnectionClosed           an open connection ended
    │   │   ├── HeartbeatMissed        the peer fell silent
    │   │   └── ServerClosed           the broker closed it, with a code and a reason
    │   ├── ProtocolError              bytes that do not follow the protocol
    │   │   ├── FrameSizeExceeded      a frame larger than what was negotiated
    │   │   ├── AmqpError              a message that is not AMQP 1.0; the connection goes on
    │   │   └── ChunkError             a chunk that is damaged or lies about its size
    │   ├── DumpError                  a dump, or a segment of a broker, that is damaged or none at all
    │   ├── RequestTimeout             no answer in time
    │   ├── NotConfirmed               the broker did not confirm in time, or the connection ended first
    │   ├── LeaderNotAvailable         the stream has no leader now
    │   ├── OffsetsGone                retention took what was to be read
    │   ├── CopyRefused                a copy would lose or double messages
    │   ├── NotCopied                  a copy ended at a message that it cannot pass on
    │   ├── RouteNotFound              a super stream has no partition for a routing key
    │   ├── UnsupportedByBroker        the broker is too old; names the version that is needed
    │   ├── MessageTooLarge            does not fit a frame
    │   ├── MaxPublishersPerInstance · MaxConsumersPerInstance
    │   └── AlreadyClosed              used after close()
    └── ServerError                    the broker answered with a response code (one class a code)
        ├── StreamDoesNotExist 2 · StreamAlreadyExists 5 · StreamNotAvailable 6
        ├── AuthenticationFailure 8 · SASLError 9 · …
        ├── AccessRefused 16 · OffsetNotFound 19 · …
        └── PreconditionFailed 17
            └── PublishingBlocked      the broker's disk is full

An error knows whether trying again can help: ``retriable``. The response codes are those of
rabbitmq-server, deps/rabbitmq_stream/docs/PROTOCOL.adoc.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

from rstream_core.hints import Hint
from rstream_core.text import harmless

RESPONSE_OK = 1
MAX_REASON = 1000
"""Characters of a broker's text that go into an error message."""


class RstreamError(Exception):
    """Base of all errors of this library."""

    retriable: ClassVar[bool] = False
    """Whether the same call may succeed later, without a change on this side."""

    hint: str | None = None
    """What the reader may do about the error, where that is known: a ``Hint``. Applications may set other texts."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        """Makes copies and pickles complete, whatever arguments the constructor takes: errors may leave the process."""
        return _made_again, (type(self), self.args, self.__dict__)

    def located(self, endpoint: object) -> Self:
        """Puts the endpoint in front of the message, unless the message names it already, and returns the error."""
        message = str(self)
        if str(endpoint) not in message:
            self.args = (f"{endpoint}: {message}", *self.args[1:])
        return self


def _made_again(kind: type[RstreamError], args: tuple[object, ...], fields: dict[str, object]) -> RstreamError:
    error = kind.__new__(kind, *args)
    error.args = args  # the __new__ of subclasses of OSError does not set them
    error.__dict__.update(fields)
    return error


class ClientError(RstreamError):
    """An error that was found on this side of the connection."""


class ConfigurationError(ClientError, ValueError):
    """An option, a URI or an argument that cannot work."""


class ConnectionFailed(ClientError, ConnectionError):
    """No connection could be made: refused, unreachable, timed out."""

    retriable = True


class CredentialsFailed(ConnectionFailed):
    """The function, or the command, that gives the password or token has failed: no connection was tried.

    ``retriable``: what gives the password may be down for a moment.
    """


class HostNotFound(ConnectionFailed):
    """The host name does not resolve."""


class TlsError(ConnectionFailed):
    """The TLS handshake failed, most often because the certificate is not trusted."""

    retriable = False


class AdvertisedHostUnreachable(ConnectionFailed):
    """The broker answers, but names itself in a way that this machine cannot reach."""


class ConnectionClosed(ClientError, ConnectionError):
    """An open connection ended. The calls that waited on it did not complete."""

    retriable = True


class HeartbeatMissed(ConnectionClosed):
    """Nothing was read for two heartbeat intervals."""


class ServerClosed(ConnectionClosed):
    """The broker closed the connection.

    ``code`` is its response code. ``reason`` is its text, unchanged; in the message, ``harmless`` has escaped it.
    """

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        self.reason = reason
        words = harmless(reason[:MAX_REASON]) or response_name(code)
        super().__init__(f"the broker closed the connection: {words} (code {code})")


class ProtocolError(ClientError):
    """Bytes that do not follow the protocol. The connection cannot go on."""


class FrameSizeExceeded(ProtocolError):
    """A frame larger than what was negotiated."""


class ChunkError(ProtocolError):
    """A chunk that is damaged, or that lies about its size."""


class AmqpError(ProtocolError):
    """A message, or a value in one, that is not AMQP 1.0. The connection goes on.

    ``position`` is the byte of the message at which it shows, where that is known.
    """

    def __init__(self, message: str, position: int | None = None) -> None:
        self.position = position
        super().__init__(message if position is None else f"{message} (at byte {position})")


class DumpError(ClientError):
    """A dump, or a segment of a broker, that is damaged, or a file that is neither.

    ``position`` is the byte of the file at which it shows, where that is known. ``may_go_on``: whether what lies behind
    may be read.
    """

    def __init__(self, message: str, *, position: int | None = None, may_go_on: bool = False) -> None:
        self.position = position
        self.may_go_on = may_go_on
        super().__init__(message)


class RequestTimeout(ClientError, TimeoutError):
    """The broker did not answer in time. Whether it acted is unknown."""

    retriable = True


class NotConfirmed(ClientError):
    """A message was not confirmed in time, or before the connection ended. It may or may not be stored.

    So the error is not ``retriable``: the same call may store the message twice. Under a publisher name, with your own
    publishing ids, it does not.
    """


class LeaderNotAvailable(ClientError):
    """The stream has no leader at the moment."""

    retriable = True


class OffsetsGone(ClientError):
    """Retention took offsets ``first`` to ``last`` of ``stream``, and a subscription with ``fail_on_gap`` has ended."""

    def __init__(self, message: str, *, stream: str = "", first: int = 0, last: int = 0) -> None:
        self.stream = stream
        self.first = first
        self.last = last
        super().__init__(message)


class CopyRefused(ClientError):
    """A copy would lose messages, or store them twice: the message says which, and why."""


class NotCopied(ClientError):
    """A copy ended at a message that it cannot pass on, and names: it does not fit a frame of the target, has no
    routing key, or cannot be read. All before it are copied."""


class RouteNotFound(ClientError, LookupError):
    """A super stream has no partition for a routing key, or none with the name that a routing function chose."""


class UnsupportedByBroker(ClientError):
    """The broker does not know this command or option; the message names the version that does."""


class MessageTooLarge(ClientError, ValueError):
    """A message does not fit the frame size that the broker allows.

    ``position`` is its index among the messages of the call.
    """

    def __init__(self, message: str, *, position: int = 0, hint: str | None = None) -> None:
        self.position = position
        super().__init__(message, hint=hint)


class MaxPublishersPerInstance(ClientError):
    """256 publishers are the limit of one connection."""


class MaxConsumersPerInstance(ClientError):
    """256 subscriptions are the limit of one connection."""


class AlreadyClosed(ClientError):
    """A method was called after ``close()``."""


class ServerError(RstreamError):
    """The broker answered a request with a response code other than OK."""

    code: ClassVar[int] = 0
    summary: ClassVar[str] = "the broker refused the request"
    summary_of_super_stream: ClassVar[str | None] = None
    """The summary where the subject of the request is a super stream; None where it is the same."""

    response_code: int
    """The code of the answer: the ``code`` of the class, or a code without a class."""

    def __init_subclass__(cls) -> None:
        cls.__doc__ = cls.__doc__ or f"Response code {cls.code}: {cls.summary}."

    def __init__(self, message: str | None = None, *, response_code: int = 0, hint: str | None = None) -> None:
        self.response_code = response_code or self.code
        super().__init__(message or self.summary, hint=hint)

    @property
    def is_fault(self) -> bool:
        """Whether the code is no answer to a correct request, but a fault of the broker or of this client."""
        return self.response_code not in _ANSWERS


class StreamDoesNotExist(ServerError):
    code = 2
    summary = "the stream does not exist"
    summary_of_super_stream = "the super stream does not exist"


class SubscriptionIDAlreadyExists(ServerError):
    code = 3
    summary = "the subscription id exists already"


class SubscriptionIDDoesNotExist(ServerError):
    code = 4
    summary = "the subscription id is unknown"


class StreamAlreadyExists(ServerError):
    code = 5
    summary = "the stream exists already"
    summary_of_super_stream = "the super stream exists already"


class StreamNotAvailable(ServerError):
    code = 6
    summary = "the stream is not available at the moment"
    summary_of_super_stream = "the super stream is not available at the moment"
    retriable = True


class SASLMechanismNotSupported(ServerError):
    code = 7
    summary = "the broker does not offer this SASL mechanism"


class AuthenticationFailure(ServerError):
    code = 8
    summary = "authentication failed: wrong user name or password"


class SASLError(ServerError):
    code = 9
    summary = "SASL error"


class SASLChallenge(ServerError):
    code = 10
    summary = "the broker asks for another SASL round"


class SASLAuthenticationFailureLoopback(ServerError):
    code = 11
    summary = "this user may connect from the broker's own host only"


class VirtualHostAccessFailure(ServerError):
    code = 12
    summary = "the virtual host does not exist, or this user may not use it"


class UnknownFrame(ServerError):
    code = 13
    summary = "the broker does not know this command"


class FrameTooLarge(ServerError):
    code = 14
    summary = "the frame is too large for the broker"


class InternalError(ServerError):
    code = 15
    summary = "the broker reports an internal error"
    retriable = True


class AccessRefused(ServerError):
    code = 16
    summary = "access refused"


class PreconditionFailed(ServerError):
    code = 17
    summary = "precondition failed"


class PublishingBlocked(PreconditionFailed):
    """The broker takes no new publisher because its disk is full. (A memory alarm does not have this effect.)"""

    retriable = True
    summary = "the broker takes no publishers at the moment"
    hint = Hint.IS_ITS_DISK_FULL


class PublisherDoesNotExist(ServerError):
    code = 18
    summary = "the publisher does not exist"


class OffsetNotFound(ServerError):
    code = 19
    summary = "no offset is stored under this name"


class CannotChangeMechanism(ServerError):
    code = 20
    summary = "the SASL mechanism cannot change on an open connection"


class CannotChangeUsername(ServerError):
    code = 21
    summary = "the user name cannot change on an open connection"


def _by_code() -> dict[int, type[ServerError]]:
    table: dict[int, type[ServerError]] = {}
    for cls in ServerError.__subclasses__():
        if cls.code in table:
            raise RuntimeError(f"{cls.__name__} and {table[cls.code].__name__} share code {cls.code}")
        table[cls.code] = cls
    return table


_BY_CODE = _by_code()


def response_name(code: int) -> str:
    """Returns the text for a response code."""
    if code == RESPONSE_OK:
        return "ok"
    cls = _BY_CODE.get(code)
    return cls.summary if cls else f"unknown response code {code}"


_ANSWERS = frozenset({2, 5, 6, 7, 8, 9, 10, 11, 12, 16, 17, 19, 20, 21})
"""The codes that answer the request. Any other code is a fault, and the error names the endpoint."""


class SuperStreamSubject(str):
    """The subject of a request about a super stream: an error calls it a super stream, and not a stream."""

    __slots__ = ()

    def __new__(cls, super_stream: str) -> Self:
        """``super_stream``: the name."""
        return super().__new__(cls, f"super stream {super_stream!r}")


def error_from_code(code: int, context: str = "", *, where: object = None) -> ServerError:
    """Returns the error for a response code.

    Its message begins with ``context``, the subject of the request; see ``SuperStreamSubject``. ``where`` is the
    endpoint that answered: the message names it if the code is a fault.
    """
    cls = _BY_CODE.get(code, ServerError)
    words = response_name(code)
    if isinstance(context, SuperStreamSubject):
        words = cls.summary_of_super_stream or words
    error = cls(f"{context}: {words}" if context else words, response_code=code)
    return error.located(where) if where is not None and error.is_fault else error
