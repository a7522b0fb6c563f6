"""Serves the management API over HTTP/1.1: GET requests with a login, one after another on a connection.

A small server, for the clients of this project and for people with curl. A peer may send little and must read what it
asks for: requests have no body, what it sends ahead waits in the socket, and a silent connection is closed. All
connections share one turn of the event loop: whatever they ask for, the broker's clients wait for one answer.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
from collections import deque
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from rstream_core.broker import refusal
from rstream_core.broker.checks import is_loopback
from rstream_core.broker.listing import BadRequest, Missing, Question, answer
from rstream_core.broker.session import ServerOptions, check_login
from rstream_core.broker.streams import Streams

logger = logging.getLogger("rstream_core.broker")

MAX_HTTP_CONNECTIONS = 100
MAX_HEAD = 16 * 1024
"""Bytes of a request."""
REQUEST_TIMEOUT = 10.0
"""Seconds in which a request comes whole, and its answer is read."""
LOGIN_TIMEOUT = 5.0
"""Seconds in which the first request of a connection comes whole, with a login."""
IDLE_TIMEOUT = 60.0
"""Seconds between two requests on a connection."""
_WRITE_BUFFER = 64 * 1024


class Management:
    """Answers the requests of all connections."""

    def __init__(self, streams: Streams, options: ServerOptions, own_names: Iterable[str]) -> None:
        """``own_names`` are host names that the broker was given: clients may call it by them."""
        self._streams = streams
        self._options = options
        self._own_names = {"localhost", *(name.lower().rstrip(".") for name in own_names)}
        self.connections: dict[HttpConnection, None] = {}
        """In the order in which they came."""
        self._turns = Turns()

    def connection(self) -> HttpConnection:
        """Returns the protocol for a new connection."""
        return HttpConnection(self.connections, self._turns, self.answer, self.is_own)

    def close(self) -> None:
        """Ends all connections."""
        for connection in list(self.connections):
            connection.abort()

    def is_own(self, host: str) -> bool:
        """Whether the header field ``host`` names this machine, as a web page's own host name does not."""
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        return name.lower().rstrip(".") in self._own_names or is_loopback(name)

    def answer(self, target: str, login: str, *, is_local: bool) -> tuple[HTTPStatus, Any]:
        """Returns status and content for a GET of ``target``. ``login`` is the header field ``authorization``."""
        if not login:
            return HTTPStatus.UNAUTHORIZED, None
        reason = self._refusal(login, is_local=is_local)
        if reason is not None:
            return HTTPStatus.UNAUTHORIZED, {"error": "not_authorised", "reason": reason}
        try:
            question = _question(target)
            return HTTPStatus.OK, answer(question, self._streams, self._options.vhosts)
        except Missing:
            return HTTPStatus.NOT_FOUND, {"error": "Object Not Found", "reason": "Not Found"}
        except (BadRequest, ValueError) as error:
            return HTTPStatus.BAD_REQUEST, {"error": "bad_request", "reason": str(error)}

    def _refusal(self, login: str, *, is_local: bool) -> str | None:
        scheme, _, value = login.partition(" ")
        try:
            text = base64.b64decode(value.strip(), validate=True).decode() if scheme.lower() == "basic" else ""
        except (binascii.Error, UnicodeDecodeError):
            text = ""
        username, colon, password = text.partition(":")
        code = check_login(self._options, username, password.encode(), is_local=is_local).code
        if colon and code == refusal.OK:
            return None
        return "User can only log in via localhost" if code == refusal.LOOPBACK_ONLY else "Not_Authorized"


def _question(target: str) -> Question:
    parts = urlsplit(target)
    root, *path = [unquote(segment, errors="strict") for segment in parts.path.removeprefix("/").split("/")]
    if root != "api":
        raise Missing
    return Question(path, dict(parse_qsl(parts.query, max_num_fields=20, errors="strict")))


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

    def __init__(
        self,
        connections: dict[HttpConnection, None],
        turns: Turns,
        respond: Callable[..., tuple[HTTPStatus, Any]],
        is_own: Callable[[str], bool],
    ) -> None:
        self._connections = connections
        self._turns = turns
        self._respond = respond
        self._is_own = is_own
        self._transport: asyncio.Transport
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self._is_local = False
        self._is_at_loopback = False
        """Whether the client has connected to a loopback address, as web pages in a browser on this machine may."""
        self._is_full = False
        """Whether the client has not read the last answer yet."""
        self._is_waiting = False
        """Whether a request waits for its turn."""
        self.is_logged_in = False
        """Whether a request had a login that is right."""

    def abort(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        if not peer or not self._make_room():
            transport.abort()
            return
        self._connections[self] = None
        self._is_local = is_loopback(peer[0])
        self._is_at_loopback = is_loopback(transport.get_extra_info("sockname")[0])
        transport.set_write_buffer_limits(high=_WRITE_BUFFER, low=0)
        self._wait(LOGIN_TIMEOUT)

    def _make_room(self) -> bool:
        """Ends the oldest connection without a login where one more is too many. Returns whether there is room."""
        if len(self._connections) < MAX_HTTP_CONNECTIONS:
            return True
        oldest = next((other for other in self._connections if not other.is_logged_in), None)
        if oldest is None:
            return False
        del self._connections[oldest]
        oldest.abort()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()

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
        self._turns.add(self)

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
        if "origin" in fields or (self._is_at_loopback and fields.get("host") and not self._is_own(fields["host"])):
            self._refuse(HTTPStatus.FORBIDDEN)
            return
        if words[0] not in ("GET", "HEAD"):
            self._refuse(HTTPStatus.METHOD_NOT_ALLOWED)
            return
        if fields.get("content-length", "0") != "0" or "transfer-encoding" in fields:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return
        status, content = self._respond(words[1], fields.get("authorization", ""), is_local=self._is_local)
        self.is_logged_in = status is not HTTPStatus.UNAUTHORIZED
        goes_on = self.is_logged_in and words[2] == "HTTP/1.1" and fields.get("connection", "").lower() != "close"
        self._write(status, content, is_head=words[0] == "HEAD", goes_on=goes_on)

    def _refuse(self, status: HTTPStatus) -> None:
        self._write(status, {"error": status.phrase, "reason": status.phrase}, is_head=False, goes_on=False)

    def _write(self, status: HTTPStatus, content: Any, *, is_head: bool, goes_on: bool) -> None:
        body = b"" if content is None else json.dumps(content, separators=(",", ":")).encode()
        head = [f"HTTP/1.1 {status.value} {status.phrase}", f"content-length: {len(body)}"]
        head += ["content-type: application/json", "cache-control: no-cache"]
        if status is HTTPStatus.UNAUTHORIZED:
            head.append('www-authenticate: Basic realm="rstream"')
        if not goes_on:
            head.append("connection: close")
        self._wait(IDLE_TIMEOUT)  # before the write, which may set a shorter time
        self._transport.write("\r\n".join([*head, "", ""]).encode() + (b"" if is_head else body))
        if not goes_on:
            self._transport.close()
            self._wait(REQUEST_TIMEOUT)
