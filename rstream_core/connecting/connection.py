"""One connection to a broker: drives a session, and dispatches the frames that arrive.

Answers go to the requests with their correlation id; confirms and chunks go to the handlers that are registered under
their publisher or subscription id. When the connection ends, every waiting request and every handler gets the reason,
once: no call waits for ever.

``Connection`` is longer than other classes, since whatever sends, receives or waits must see its end: the transport,
the requests and the handlers are one state. What the bytes mean is decided by its ``Session``.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar, cast

from rstream_core.callbacks import own_task
from rstream_core.connecting.logins import ask
from rstream_core.connecting.renewal import Renewal
from rstream_core.connecting.transport import connection_error, open_transport, port_hint
from rstream_core.errors import (
    RESPONSE_OK,
    ConfigurationError,
    ConnectionClosed,
    ConnectionFailed,
    ProtocolError,
    RequestTimeout,
    RstreamError,
    ServerError,
    error_from_code,
)
from rstream_core.hints import Hint
from rstream_core.protocol import commands as c
from rstream_core.protocol.session import OAUTHBEARER, Session, SessionOptions, State, sasl_authenticate
from rstream_core.types import MAX_FRAME_BEFORE_OPEN, ConnectionOptions, Credentials, Endpoint
from rstream_core.version import __version__

logger = logging.getLogger("rstream_core")

T = TypeVar("T")

WRITE_BUFFER = 1024 * 1024
"""Bytes that may wait in the transport before writers are held back."""


class PublisherHandler(Protocol):
    """The methods of a publisher that a connection calls, on the event loop, in order of arrival. Must not wait."""

    stream: str
    reference: str | None

    def on_confirmed(self, publishing_ids: Sequence[int]) -> None: ...
    def on_rejected(self, errors: Sequence[c.MessageError]) -> None: ...
    def on_writable(self) -> None:
        """Called when the broker reads again: ``is_writable`` has turned True."""

    def on_unavailable(self, error: RstreamError) -> None:
        """Called when the connection has ended, or the broker has dropped the publisher because its stream moved."""


class SubscriptionHandler(Protocol):
    """The methods of a subscription that a connection calls, on the event loop, in order of arrival. Must not wait."""

    stream: str

    def on_chunk(self, delivery: c.Delivery) -> None: ...
    def on_consumer_update(self, active: bool, correlation_id: int) -> None:
        """Called when a single active consumer's turn begins or ends. The answer with this id is due within 60 s."""

    def on_unavailable(self, error: RstreamError) -> None:
        """Called when the connection has ended, or the broker has dropped the subscription: its stream moved."""


class Connection(asyncio.BufferedProtocol):
    """A connection to one node. Made by ``Connection.open``. Can be shared by the tasks of one event loop."""

    def __init__(self, endpoint: Endpoint, options: ConnectionOptions, credentials: Credentials) -> None:
        self.endpoint = endpoint
        self.session = Session(
            SessionOptions(
                credentials=credentials,
                vhost=options.vhost,
                mechanism=options.mechanism,
                frame_max=options.frame_max,
                heartbeat=options.heartbeat,
                client_properties=_client_properties(options.connection_name),
            )
        )
        self.publishers: dict[int, PublisherHandler] = {}
        self.subscriptions: dict[int, SubscriptionHandler] = {}
        self.streams: dict[PublisherHandler | SubscriptionHandler, str] = {}
        self.error: RstreamError | None = None
        self._request_timeout = options.request_timeout
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._ready: asyncio.Future[None] = loop.create_future()
        self._gone: asyncio.Future[None] = loop.create_future()
        self._waiters: dict[int, tuple[asyncio.Future[Any], str]] = {}
        self.is_writable = True
        """Whether data may be written: False while the transport's buffer is full, as the broker reads too slowly."""
        self._writable = asyncio.Event()
        self._writable.set()
        self._ticker: asyncio.TimerHandle | None = None
        self._first_bytes = b""
        self._buffer = memoryview(b"")
        """What is received into."""
        self.renewal: Renewal | None = None
        """What logs in again before a token expires; None where nothing can be asked for another one."""

    @classmethod
    async def open(
        cls,
        endpoint: Endpoint,
        options: ConnectionOptions,
        credentials: Credentials | None = None,
        renew: Callable[[], Awaitable[Credentials]] | None = None,
    ) -> Connection:
        """Connects and logs in, within ``options.connect_timeout`` seconds.

        Without ``credentials``, those of the options are taken, or are asked for before that time begins. ``renew`` is
        asked for others before a token expires. Raises ``ConnectionFailed`` and its subclasses, or the ``ServerError``
        with which the broker refuses.
        """
        if credentials is None:
            given = options.credentials
            credentials = given if isinstance(given, Credentials) else await ask(given)
        # In a separate task: many callers share the connection, so it must not run in the context of this one.
        opening = own_task(cls._open(endpoint, options, credentials))
        try:
            connection = await opening
        except asyncio.CancelledError:
            if opening.done() and not opening.cancelled() and opening.exception() is None:
                opening.result().abort()  # opened just before the cancellation: no caller has it
            raise
        if renew is not None and connection.is_open:
            connection.renewal = Renewal(str(endpoint), renew, connection.authenticate)
            connection.renewal.start(credentials)
        return connection

    @classmethod
    async def _open(cls, endpoint: Endpoint, options: ConnectionOptions, credentials: Credentials) -> Connection:
        deadline = asyncio.get_running_loop().time() + options.connect_timeout
        transport, connection = await open_transport(
            endpoint,
            lambda: cls(endpoint, options, credentials),
            tls=options.tls,
            server_name=options.server_name,
            timeout=options.connect_timeout,
        )
        try:
            async with asyncio.timeout_at(deadline):
                await connection.wait_ready()
        except TimeoutError:
            transport.abort()
            raise ConnectionFailed(
                f"{endpoint} did not finish the stream handshake within {options.connect_timeout:g} s",
                hint=port_hint(endpoint) or Hint.IS_IT_THE_STREAM_PORT,
            ) from None
        except BaseException:
            transport.abort()
            raise
        return connection

    async def wait_ready(self) -> None:
        """Waits until the handshake is done. Raises the error that ended the connection before that."""
        await asyncio.shield(self._ready)

    @property
    def is_open(self) -> bool:
        return self.error is None and self.session.state is State.READY

    @property
    def is_closing(self) -> bool:
        """Whether nothing can be written any more, although the end may not be told yet."""
        return self.error is not None or self._transport is None or self._transport.is_closing()

    async def drain(self) -> None:
        """Waits until the connection is writable or has ended. Raises ``RequestTimeout`` where neither happens."""
        try:
            async with asyncio.timeout(self._request_timeout):
                await self._writable.wait()
        except TimeoutError:
            raise RequestTimeout(f"{self.endpoint} has read nothing for {self._request_timeout:g} s") from None

    @property
    def frame_max(self) -> int:
        """The largest frame that may be sent, in bytes without its size field; 0 for no limit."""
        return self.session.frame_max

    async def request(self, message: c.Request[T], what: str, *, timeout: float | None = None) -> T:
        """Sends a request and returns its response, for which it waits at most ``timeout`` seconds.

        Raises the ``ServerError`` of the response code (``what`` begins its message), ``RequestTimeout``, the error
        with which the connection ended, or ``ConfigurationError`` for a request that does not fit a frame. A cancelled
        request is forgotten; the broker still carries it out.
        """
        self._check_open()
        try:
            correlation_id = self.session.request(message)
        except ConfigurationError as error:
            raise ConfigurationError(f"{what}: {error}", hint=error.hint) from None
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiters[correlation_id] = future, what
        self._flush()
        limit = self._request_timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(limit):
                answer = await future
        except TimeoutError:
            raise RequestTimeout(f"{what}: no answer from {self.endpoint} within {limit:g} s") from None
        finally:
            self._waiters.pop(correlation_id, None)
        if not isinstance(answer, message.response):
            raise ProtocolError(f"{what}: {self.endpoint} answered with {type(answer).__name__}")
        return answer

    async def authenticate(self, credentials: Credentials) -> None:
        """Logs in again with the same user and mechanism, to replace a token before it expires.

        Raises the ``ServerError`` with which the broker refuses; the broker then closes the connection.
        """
        mechanism = self.session.options.mechanism
        what = "the token" if mechanism == OAUTHBEARER else f"user {credentials.username!r}"
        await self.request(sasl_authenticate(mechanism, credentials), what)

    def send(self, message: Any, *, correlation_id: int = 0, code: int = RESPONSE_OK) -> None:
        """Sends a message to which the broker does not reply."""
        self._check_open()
        self.session.send(message, correlation_id=correlation_id, code=code)
        self._flush()

    def write(self, frames: Sequence[bytes]) -> None:
        """Writes encoded frames. Raises the error with which the connection ended."""
        if self.error is not None:
            self._check_open()
        transport = self._transport
        assert transport is not None
        if transport.is_closing():  # a write has failed; connection_lost will follow
            raise ConnectionClosed(f"the connection to {self.endpoint} was lost")
        for frame in frames:  # not writelines: on Python 3.12.0 to 3.13.1 it never calls pause_writing
            transport.write(frame)
        self.session.last_write = self._loop.time()

    async def close(self, *, timeout: float = 5.0) -> None:
        """Sends Close and waits for the answer, at most ``timeout`` seconds. Never raises; may be called repeatedly.

        If this call is cancelled, the connection ends at once.
        """
        try:
            if self.is_open:
                try:
                    await self.request(c.Close(RESPONSE_OK, "OK"), "closing", timeout=timeout)
                except RstreamError as error:
                    logger.debug("closing %s: %s", self.endpoint, error)
                    if self._transport is not None:
                        self._transport.abort()
                self._end(ConnectionClosed(f"the connection to {self.endpoint} was closed by this side"))
            elif self._transport is not None and not self._gone.done():
                self._transport.abort()  # unwritten data is useless now, and a flush could wait for ever
            if self._transport is not None:
                self._transport.close()
                await asyncio.wait([self._gone], timeout=timeout)
                if not self._gone.done():
                    self._transport.abort()
        except asyncio.CancelledError:
            self.abort()
            raise

    def abort(self, why: str = "it did not end in time") -> None:
        """Ends the connection without Close, for a peer that does not answer. All waiting requests fail."""
        self._end(ConnectionClosed(f"the connection to {self.endpoint} was given up: {why}"))
        if self._transport is not None:
            self._transport.abort()

    def _introduction(self) -> str:
        """What the new connection is, for the log: broker, TLS, user, and the node where it has another address."""
        session, options = self.session, self.session.options
        tls = None if self._transport is None else self._transport.get_extra_info("ssl_object")
        secrecy = "no TLS" if tls is None else tls.version()
        user = (
            f"as {options.credentials.username!r}" if options.mechanism == "PLAIN" else f"by SASL {options.mechanism}"
        )
        node = "" if session.advertised in (None, self.endpoint) else f", node {session.advertised}"
        return f"(RabbitMQ {session.server_version}, {secrecy}) {user}, virtual host {options.vhost!r}{node}"

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's are of no such class
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_BUFFER)
        self.session.start(self._loop.time())
        self._flush()

    def get_buffer(self, sizehint: int) -> memoryview:
        self._buffer = self.session.room()
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.error is not None:
            return
        if self.session.state is not State.READY and len(self._first_bytes) < 4:
            self._first_bytes += self._buffer[: min(nbytes, 4)]
        self._receive(nbytes)

    def _receive(self, size: int) -> None:
        try:
            frames = self.session.receive(size, self._loop.time())
        except RstreamError as error:
            self._flush()
            self._end(self._explain(error))
            return
        if self.session.output:
            self._flush()
        if not self._ready.done() and self.session.state is State.READY:
            logger.info("connected to %s %s", self.endpoint, self._introduction())
            self._ready.set_result(None)
            self._tick()
        for frame in frames:
            try:
                self._dispatch(frame)
            except RstreamError as error:
                self._end(self._explain(error))
                return
        if frames and self.session.state is State.CLOSED:
            self._receive(0)  # raises the error that came behind these frames

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, OSError) and not self._ready.done():
            error = connection_error(self.endpoint, exc)
            error.hint = error.hint or self._handshake_hint()
            self._end(error)
        elif not self._ready.done():
            self._end(self._explain(ConnectionFailed(f"{self.endpoint} closed the connection during the handshake")))
        else:
            why = f": {exc}" if exc else ""
            self._end(ConnectionClosed(f"the connection to {self.endpoint} was lost{why}"))
        if not self._gone.done():
            self._gone.set_result(None)

    def pause_writing(self) -> None:
        self.is_writable = False
        self._writable.clear()

    def resume_writing(self) -> None:
        self.is_writable = True
        self._writable.set()
        for publisher in list(self.publishers.values()):
            publisher.on_writable()

    # Inside.

    def _check_open(self) -> None:
        if self.error is not None:
            raise self.error.with_traceback(None)  # without this, each raise adds its frames

    def _flush(self) -> None:
        data = self.session.take_output()
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
            self.session.last_write = self._loop.time()

    def _tick(self) -> None:
        try:
            delay = self.session.tick(self._loop.time())
        except RstreamError as error:
            self._end(error.located(self.endpoint))
            if self._transport is not None:
                self._transport.abort()
            return
        self._flush()
        if delay is not None:
            self._ticker = self._loop.call_later(delay, self._tick)

    def _dispatch(self, frame: c.Frame) -> None:
        message = frame.message
        kind = type(message)
        if kind is c.PublishConfirm:
            publisher = self.publishers.get(message.publisher_id)
            if publisher is not None:
                publisher.on_confirmed(message.publishing_ids)
        elif kind is c.Delivery:
            subscription = self.subscriptions.get(message.subscription_id)
            if subscription is not None:  # None where it was just unsubscribed
                subscription.on_chunk(message)
        elif kind is c.PublishError:
            publisher = self.publishers.get(message.publisher_id)
            if publisher is not None:
                publisher.on_rejected(message.errors)
        elif kind is c.MetadataUpdate:
            self._metadata_update(message)
        elif kind is c.CreditResponse:
            # For an inactive single active consumer, or a subscription that was just ended. Neither is an error.
            logger.debug("credit for subscription %s refused: %s", message.subscription_id, frame.code)
        elif kind is c.ConsumerUpdate:
            self._consumer_update(message, frame.correlation_id or 0)
        elif frame.correlation_id is not None and frame.key & c.RESPONSE_BIT:
            self._resolve(frame)
        else:
            raise ProtocolError(f"unexpected command 0x{frame.key:04x} from the broker")

    def _consumer_update(self, message: c.ConsumerUpdate, correlation_id: int) -> None:
        subscription = self.subscriptions.get(message.subscription_id)
        if subscription is not None:
            subscription.on_consumer_update(message.active, correlation_id)
        elif not self.is_writable:
            raise ProtocolError("the broker sends turns of consumers that do not exist, and reads no answer")
        else:  # just unsubscribed: the broker still waits for an answer
            self.send(c.ConsumerUpdateResponse(c.OffsetSpec(0)), correlation_id=correlation_id)

    def _resolve(self, frame: c.Frame) -> None:
        assert frame.correlation_id is not None
        future, what = self._waiters.get(frame.correlation_id, (None, ""))
        if future is None or future.done():  # cancelled, or too late
            return
        if frame.code == RESPONSE_OK:
            future.set_result(frame.message)
        else:
            future.set_exception(error_from_code(frame.code, what, where=self.endpoint))

    def _metadata_update(self, message: c.MetadataUpdate) -> None:
        logger.debug("stream %r moved or was deleted", message.stream)
        error = error_from_code(message.code, f"stream {message.stream!r} moved or was deleted", where=self.endpoint)
        for handler in [h for h, stream in self.streams.items() if stream == message.stream]:
            handler.on_unavailable(error)

    def _explain(self, error: RstreamError) -> RstreamError:
        """Adds the endpoint to an error. During the handshake, returns one that says which protocol the peer speaks."""
        if isinstance(error, ServerError):
            return error.located(self.endpoint) if error.is_fault else error
        if self._ready.done():
            return error.located(self.endpoint)
        begin = self._first_bytes[:4]
        if begin[:2] == b"\x15\x03":
            return ConnectionFailed(f"{self.endpoint} speaks TLS", hint=Hint.USE_TLS)
        if begin in (b"AMQP", b"HTTP"):
            name = "AMQP" if begin == b"AMQP" else "HTTP"
            return ConnectionFailed(
                f"{self.endpoint} speaks {name}, not the stream protocol",
                hint=port_hint(self.endpoint) or Hint.STREAM_PORT,
            )
        if isinstance(error, ProtocolError):
            words = f"{self.endpoint} does not speak the stream protocol: {error}"
            return ConnectionFailed(words, hint=self._handshake_hint())
        error.hint = error.hint or self._handshake_hint()
        return error.located(self.endpoint)

    def _handshake_hint(self) -> Hint | None:
        """What the peer of a handshake that failed most likely is."""
        if self.session.login_size > MAX_FRAME_BEFORE_OPEN:
            return Hint.LOGIN_TOO_LARGE
        hint = port_hint(self.endpoint)
        is_plain = self._transport is None or self._transport.get_extra_info("sslcontext") is None
        if hint is None and not self._first_bytes and is_plain:
            # Some TLS servers, asyncio's for one, end what is no TLS without an alert.
            return Hint.IS_IT_A_TLS_PORT
        return hint

    def _end(self, error: RstreamError) -> None:
        """Ends the connection: fails all waiting requests and tells all handlers. Only the first error counts."""
        if self.error is not None:
            return
        self.error = error
        self.is_writable = True
        self._writable.set()
        if self._ticker is not None:
            self._ticker.cancel()
        if self.renewal is not None:
            self.renewal.stop()
            self.renewal = None  # they know each other, and a lost connection must not wait for a collection
        if not self._ready.done():
            self._ready.set_exception(error)
            self._ready.exception()  # marks the error as retrieved: ``open`` may have given up
        for future, _ in self._waiters.values():
            if not future.done():
                future.set_exception(error)
        handlers: list[PublisherHandler | SubscriptionHandler] = [
            *self.publishers.values(),
            *self.subscriptions.values(),
        ]
        for handler in handlers:
            handler.on_unavailable(error)
        if self._transport is not None:
            self._transport.close()


def _client_properties(connection_name: str) -> dict[str, str]:
    properties = {
        "product": "rstream",
        "version": __version__,
        "platform": f"Python {sys.version_info.major}.{sys.version_info.minor}",
    }
    if connection_name:
        properties["connection_name"] = connection_name
    return properties
