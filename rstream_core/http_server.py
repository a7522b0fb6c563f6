"""A small HTTP/1.1 server: GET requests, one after another on a connection.

For the embedded broker's management API, and for the metrics of ``rstream lag``: for clients of this project,
Prometheus, and people with curl. A peer may send little and must read what it asks for: requests have no body, what it
sends ahead waits in the socket, and a silent connection is closed. All connections of a server share one turn of the
event loop: whatever they ask for, whoever else uses the loop waits for one answer.

Web pages have no access: a request with an ``Origin`` is refused, and at a loopback address one whose ``Host`` names
another machine, as that of a page does which has let its own name resolve to this one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple, cast

from rstream_core.addresses import is_loopback

logger = logging.getLogger("rstream_core")

MAX_HTTP_CONNECTIONS = 100
MAX_HEAD = 16 * 1024
"""Bytes of a request."""
REQUEST_TIMEOUT = 10.0
"""Seconds in which a request comes whole, and its answer is read."""
LOGIN_TIMEOUT = 5.0
"""Seconds in which the first request of a connection comes whole, with a login where one is needed."""
IDLE_TIMEOUT = 60.0
"""Seconds between two requests on a connection."""
_WRITE_BUFFER = 64 * 1024


class Request(NamedTuple):
    """A GET request."""

    target: str
    """The path with the query, as it came: it begins with a slash."""
    fields: Mapping[str, str]
    """The header, by names in small letters."""
    is_local: bool
    """Whether the client is on this machine."""


class Answer(NamedTuple):
    """What is answered. With the status 401 the connection counts as not logged in, and ends."""

    status: HTTPStatus
    body: bytes
    content_type: str
    fields: tuple[str, ...] = ()
    """More lines of the header."""


Respond = Callable[[Request], Answer | Coroutine[Any, Any, Answer]]
"""Answers a request, at once or as a coroutine, which must bound its own time. It is cancelled where the connection
ends; that a client has left is noticed when the answer is written."""


class HttpServer:
    """The connections of one server. ``connection`` makes the protocol of each, for ``loop.create_server``."""

    def __init__(self, respond: Respond, refuse: Callable[[HTTPStatus], Answer], own_names: Iterable[str]) -> None:
        """``refuse`` makes the answer for what is no request that ``respond`` gets.

        ``own_names``: host names by which clients may call this machine, beside localhost and addresses.
        """
        self.respond = respond
        self.refuse = refuse
        self._own_names = {"localhost", *(name.lower().rstrip(".") for name in own_names)}
        self.connections: dict[HttpConnection, None] = {}
        """In the order in which they came."""
        self.turns = Turns()

    def connection(self) -> HttpConnection:
        """Returns the protocol for a new connection."""
        return HttpConnection(self)

    def close(self) -> None:
        """Ends all connections."""
        for connection in list(self.connections):
            connection.abort()

    def is_own(self, host: str) -> bool:
        """Whether the header field ``host`` names this machine, as a web page's own host name does not."""
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        return name.lower().rstrip(".") in self._own_names or is_loopback(name)


class Turns:
    """Lets connections answer one request after another, a single one in each turn of the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[HttpConnection] = deque()
        self._is_next_called = False

    def add(self, connection: HttpConnection) -> None:
        """Calls ``answer_one`` when those that came before have had their turn."""
        self._waiting.append(connection)
        self._call_next()

    def _call_next(self) -> None:
        if self._waiting and not self._is_next_called:
            self._is_next_called = True
            self._loop.call_soon(self._next)

    def _next(self) -> None:
        self._is_next_called = False
        try:
            self._waiting.popleft().answer_one()
        finally:
            self._call_next()


class HttpConnection(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._transport: asyncio.Transport
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self._answering: asyncio.Task[Answer] | None = None
        self._is_local = False
        self._is_at_loopback = False
        """Whether the client has connected to a loopback address, as web pages in a browser on this machine may."""
        self._is_full = False
        """Whether the client has not read the last answer yet."""
        self._is_waiting = False
        """Whether a request waits for its turn, or for its answer."""
        self.is_logged_in = False
        """Whether the last request had a login that is right, or needed none."""

    def abort(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        if not peer or not self._make_room():
            transport.abort()
            return
        self._server.connections[self] = None
        self._is_local = is_loopback(peer[0])
        self._is_at_loopback = is_loopback(transport.get_extra_info("sockname")[0])
        transport.set_write_buffer_limits(high=_WRITE_BUFFER, low=0)
        self._wait(LOGIN_TIMEOUT)

    def _make_room(self) -> bool:
        """Ends the oldest connection without a login where one more is too many. Returns whether there is room."""
        connections = self._server.connections
        if len(connections) < MAX_HTTP_CONNECTIONS:
            return True
        oldest = next((other for other in connections if not other.is_logged_in), None)
        if oldest is None:
            return False
        del connections[oldest]
        oldest.abort()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._server.connections.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
        if self._answering is not None:
            self._answering.cancel()

    def data_received(self, data: bytes) -> None:
        if not self._received and self.is_logged_in:
            self._wait(REQUEST_TIMEOUT)
        self._received += data
        self._look()

    def pause_writing(self) -> None:
        self._is_full = True
        self._transport.pause_reading()
        self._wait(REQUEST_TIMEOUT)

    def resume_writing(self) -> None:
        self._is_full = False
        if not self._transport.is_closing():
            self._wait(IDLE_TIMEOUT)
            self._look()

    def _wait(self, seconds: float) -> None:
        """The connection ends after this time, unless something happens."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._transport.abort)

    def _look(self) -> None:
        """Waits for a turn where a request is there, and reads on where there is none."""
        if self._is_full or self._is_waiting or self._transport.is_closing():
            return
        if b"\r\n\r\n" not in self._received and len(self._received) <= MAX_HEAD:
            self._transport.resume_reading()
            return
        self._is_waiting = True
        self._transport.pause_reading()
        if self._timer is not None:
            self._timer.cancel()  # it is not the client that others wait for
        self._server.turns.add(self)

    def answer_one(self) -> None:
        """Answers the request that waits."""
        self._is_waiting = False
        if self._transport.is_closing():
            return
        end = self._received.find(b"\r\n\r\n")
        if not 0 <= end <= MAX_HEAD:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return
        head = self._received[:end].decode("latin-1")
        del self._received[: end + 4]
        self._take(head)
        self._look()

    def _take(self, head: str) -> None:
        first, *lines = head.split("\r\n")
        words = first.split(" ")
        if len(words) != 3 or words[2] not in ("HTTP/1.1", "HTTP/1.0") or not words[1].startswith("/"):
            self._refuse(HTTPStatus.BAD_REQUEST)
            return
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        host = fields.get("host")
        if "origin" in fields or (self._is_at_loopback and host and not self._server.is_own(host)):
            self._refuse(HTTPStatus.FORBIDDEN)
            return
        if words[0] not in ("GET", "HEAD"):
            self._refuse(HTTPStatus.METHOD_NOT_ALLOWED)
            return
        if fields.get("content-length", "0") != "0" or "transfer-encoding" in fields:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return
        may_go_on = words[2] == "HTTP/1.1" and fields.get("connection", "").lower() != "close"
        answer = self._server.respond(Request(words[1], fields, self._is_local))
        if isinstance(answer, Answer):
            self._answer(answer, is_head=words[0] == "HEAD", may_go_on=may_go_on)
            return
        self._is_waiting = True
        self._answering = task = self._loop.create_task(answer)
        task.add_done_callback(lambda done: self._answered(done, is_head=words[0] == "HEAD", may_go_on=may_go_on))

    def _answered(self, task: asyncio.Task[Answer], *, is_head: bool, may_go_on: bool) -> None:
        self._answering = None
        self._is_waiting = False
        if task.cancelled():
            self._transport.abort()
            return
        if error := task.exception():
            logger.error("answering a request", exc_info=error)
            answer, may_go_on = self._server.refuse(HTTPStatus.INTERNAL_SERVER_ERROR), False
        else:
            answer = task.result()
        if not self._transport.is_closing():
            self._answer(answer, is_head=is_head, may_go_on=may_go_on)
            self._look()

    def _answer(self, answer: Answer, *, is_head: bool, may_go_on: bool) -> None:
        self.is_logged_in = answer.status is not HTTPStatus.UNAUTHORIZED
        self._write(answer, is_head=is_head, goes_on=self.is_logged_in and may_go_on)

    def _refuse(self, status: HTTPStatus) -> None:
        self._write(self._server.refuse(status), is_head=False, goes_on=False)

    def _write(self, answer: Answer, *, is_head: bool, goes_on: bool) -> None:
        status = answer.status
        head = [f"HTTP/1.1 {status.value} {status.phrase}", f"content-length: {len(answer.body)}"]
        head += [f"content-type: {answer.content_type}", "cache-control: no-cache", *answer.fields]
        if not goes_on:
            head.append("connection: close")
        self._wait(IDLE_TIMEOUT)  # before the write, which may set a shorter time
        self._transport.write("\r\n".join([*head, "", ""]).encode() + (b"" if is_head else answer.body))
        if not goes_on:
            self._transport.close()
            self._wait(REQUEST_TIMEOUT)
