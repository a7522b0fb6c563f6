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
import re
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
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
_FIELD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_ONCE = ("host", "content-length", "authorization")
"""Fields that a request has once at most: which of two counts, two readers may decide differently."""


class Request(NamedTuple):
    """A GET request."""

    target: str
    """The path with the query, as it came: it begins with a slash."""
    fields: Mapping[str, str]
    """The header, by names in small letters."""
    is_local: bool
    """Whether the client is on this machine."""


class Answer(NamedTuple):
    """What is answered. With the status 401 the login counts as wrong, and the connection ends."""

    status: HTTPStatus
    body: bytes
    content_type: str
    fields: tuple[str, ...] = ()
    """More lines of the header."""


Respond = Callable[[Request], Answer | Coroutine[Any, Any, Answer]]
"""Answers a request, at once or as a coroutine, which must bound its own time. It is cancelled where the connection
ends; that a client has left is noticed when the answer is written. An exception is logged, and answered with 500."""


class HttpServer:
    """The connections of one server. ``connection`` makes the protocol of each, for ``loop.create_server``."""

    def __init__(
        self,
        respond: Respond,
        refuse: Callable[[HTTPStatus], Answer],
        own_names: Iterable[str],
        *,
        has_logins: bool,
    ) -> None:
        """``refuse`` makes the answer for what is no request that ``respond`` gets.

        ``own_names``: host names by which clients may call this machine, beside localhost and addresses.
        ``has_logins``: ``respond`` answers 401 to a request without a right login. Then a client that has logged in
        keeps its connection when there are too many; without logins, only one that waits for an answer does.
        """
        self.respond = respond
        self.refuse = refuse
        self.has_logins = has_logins
        self._own_names = {"localhost", *(name.lower().rstrip(".") for name in own_names)}
        self.connections: dict[HttpConnection, None] = {}
        """Those idle longest come first: each has its place by its last answer, or by when it came."""
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
        self._is_admitted = False
        """Whether the last request was answered, and had a right login where one is needed."""

    @property
    def may_be_evicted(self) -> bool:
        """Whether the connection may be ended to make room for another one."""
        return not (self._is_admitted if self._server.has_logins else self._is_waiting)

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
        self._end_after(LOGIN_TIMEOUT)

    def _make_room(self) -> bool:
        """Where one more is too many, ends the one idle longest of those that may be. Returns whether there is room."""
        connections = self._server.connections
        if len(connections) < MAX_HTTP_CONNECTIONS:
            return True
        evicted = next((other for other in connections if other.may_be_evicted), None)
        if evicted is None:
            return False
        del connections[evicted]
        evicted.abort()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._server.connections.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
        if self._answering is not None:
            self._answering.cancel()

    def data_received(self, data: bytes) -> None:
        if not self._received and self._is_admitted:
            self._end_after(REQUEST_TIMEOUT)
        self._received += data
        self._schedule_answer()

    def pause_writing(self) -> None:
        self._is_full = True
        self._transport.pause_reading()
        self._end_after(REQUEST_TIMEOUT)

    def resume_writing(self) -> None:
        self._is_full = False
        if not self._transport.is_closing():
            self._wait_for_request()
            self._schedule_answer()

    def _end_after(self, seconds: float) -> None:
        """The connection ends after this time, unless something happens."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._transport.abort)

    def _wait_for_request(self) -> None:
        """Limits the time until the next request is whole, of which a part may be there already."""
        self._end_after(REQUEST_TIMEOUT if self._received else IDLE_TIMEOUT)

    def _schedule_answer(self) -> None:
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
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, is_head=self._received.startswith(b"HEAD "))
            return
        head = self._received[:end].decode("latin-1")
        del self._received[: end + 4]
        self._handle_request(head)
        self._schedule_answer()

    def _handle_request(self, head: str) -> None:
        """Answers a request, refuses it, or starts what is to answer it. ``head``: its lines, without the last one."""
        first, *lines = head.split("\r\n")
        verb, *words = first.split(" ")
        is_head = verb == "HEAD"
        fields = _fields_of(lines)
        if fields is None:
            self._refuse(HTTPStatus.BAD_REQUEST, is_head=is_head)
            return
        if (problem := self._problem_of(verb, words, fields)) is not None:
            self._refuse(problem, is_head=is_head)
            return
        target, version = words
        options = [option.strip().lower() for option in fields.get("connection", "").split(",")]
        may_go_on = version == "HTTP/1.1" and "close" not in options
        try:
            answer = self._server.respond(Request(target, fields, self._is_local))
        except Exception:  # else the connection would wait for ever: it has no timer now
            logger.exception("answering a request")
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, is_head=is_head)
            return
        if isinstance(answer, Answer):
            self._send(answer, is_head=is_head, may_go_on=may_go_on)
            return
        self._is_waiting = True
        self._answering = task = self._loop.create_task(answer)
        task.add_done_callback(lambda done: self._send_result(done, is_head=is_head, may_go_on=may_go_on))

    def _problem_of(self, verb: str, words: Sequence[str], fields: Mapping[str, str]) -> HTTPStatus | None:
        """Why a request is refused; None where it is not. ``words``: those of the first line behind the verb."""
        if len(words) != 2 or words[1] not in ("HTTP/1.1", "HTTP/1.0") or not words[0].startswith("/"):
            return HTTPStatus.BAD_REQUEST
        host = fields.get("host")
        if host is None and words[1] == "HTTP/1.1":
            return HTTPStatus.BAD_REQUEST
        if "origin" in fields or (self._is_at_loopback and host and not self._server.is_own(host)):
            return HTTPStatus.FORBIDDEN
        if verb not in ("GET", "HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED
        if fields.get("content-length", "0") != "0" or "transfer-encoding" in fields:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        return None

    def _send_result(self, task: asyncio.Task[Answer], *, is_head: bool, may_go_on: bool) -> None:
        """Sends what a task has answered."""
        self._answering = None
        self._is_waiting = False
        if task.cancelled():
            self._transport.abort()
            return
        error = task.exception()
        if error is not None:
            logger.error("answering a request", exc_info=error)
        if self._transport.is_closing():
            return
        if error is not None:
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, is_head=is_head)
            return
        self._send(task.result(), is_head=is_head, may_go_on=may_go_on)
        self._schedule_answer()

    def _send(self, answer: Answer, *, is_head: bool, may_go_on: bool) -> None:
        self._is_admitted = answer.status is not HTTPStatus.UNAUTHORIZED
        if self in self._server.connections:  # its place among those that are idle is the last one now
            del self._server.connections[self]
            self._server.connections[self] = None
        self._write(answer, is_head=is_head, goes_on=self._is_admitted and may_go_on)

    def _refuse(self, status: HTTPStatus, *, is_head: bool) -> None:
        self._write(self._server.refuse(status), is_head=is_head, goes_on=False)

    def _write(self, answer: Answer, *, is_head: bool, goes_on: bool) -> None:
        status = answer.status
        head = [f"HTTP/1.1 {status.value} {status.phrase}", f"content-length: {len(answer.body)}"]
        head += [f"content-type: {answer.content_type}", "cache-control: no-cache", *answer.fields]
        if not goes_on:
            head.append("connection: close")
        self._wait_for_request()  # before the write, which may set another time
        self._transport.write("\r\n".join([*head, "", ""]).encode() + (b"" if is_head else answer.body))
        if not goes_on:
            self._transport.close()
            self._end_after(REQUEST_TIMEOUT)


def _fields_of(lines: Iterable[str]) -> dict[str, str] | None:
    """The fields of a header, by names in small letters; None where a line is none, or one is there too often."""
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.lower()
        if not colon or _FIELD_NAME.fullmatch(name) is None or (name in _ONCE and name in fields):
            return None
        fields[name] = f"{fields[name]}, {value.strip()}" if name in fields else value.strip()
    return fields
