"""The broker's side of one connection, without any I/O.

``feed`` takes bytes, ``frames`` yields the complete frames, and ``take`` handles those that concern the session: the
handshake, heartbeats, the answer to the broker's Close. All other frames are commands of an open connection.
``take_output`` returns the bytes to write. Once ``has_ended`` is True and they are written, close the connection. The
time is always an argument, in seconds.

Until a client is logged in and tuned, an unexpected frame ends the connection without an answer, as in RabbitMQ;
afterwards an invalid frame is answered with a Close. Also as in RabbitMQ, some frames may come twice, and a client may
leave out its Tune.
"""

from __future__ import annotations

import enum
import hmac
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rstream_core.broker import refusal
from rstream_core.errors import FrameSizeExceeded, ProtocolError
from rstream_core.protocol import commands as c
from rstream_core.protocol.framing import FrameBuffer
from rstream_core.protocol.session import OAUTHBEARER, negotiate
from rstream_core.tokens import verified
from rstream_core.types import MAX_FRAME_BEFORE_OPEN
from rstream_core.version import __version__

SERVER_VERSION = "4.3.0"
"""The RabbitMQ whose protocol this is: clients ask for it to know what they may use."""
MECHANISMS = ("PLAIN",)
TOKEN_MECHANISMS = (*MECHANISMS, OAUTHBEARER)
"""Those of a broker that takes tokens."""
_BEARER = b"auth=Bearer "


class State(enum.Enum):
    """The step that the broker waits for."""

    PROPERTIES = enum.auto()
    HANDSHAKE = enum.auto()
    LOGIN = enum.auto()
    TUNE = enum.auto()
    OPEN = enum.auto()
    READY = enum.auto()
    CLOSING = enum.auto()
    """The broker has sent a Close, and waits for the answer."""
    ENDED = enum.auto()


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """The options that all sessions of a broker share."""

    users: Mapping[str, str] = field(default_factory=lambda: {"guest": "guest"}, repr=False)
    """Passwords by name."""
    vhosts: Collection[str] = ("/",)
    loopback_users: Collection[str] = ("guest",)
    """Users that may log in from this machine only."""
    frame_max: int = 1024 * 1024
    heartbeat: int = 60
    token_key: bytes | None = field(default=None, repr=False)
    """The key with which tokens are signed (HS256); None: no tokens are taken."""
    wall_clock: Callable[[], float] = time.time
    """Seconds since 1970, by which tokens expire."""

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """The SASL mechanisms that are offered."""
        return MECHANISMS if self.token_key is None else TOKEN_MECHANISMS


class Login(NamedTuple):
    """What a login is worth."""

    code: int
    username: str = ""
    expires: float | None = None
    """When it ends, in seconds since 1970; None for one that does not."""


def check_login(options: ServerOptions, username: str, password: bytes, *, is_local: bool) -> Login:
    """Checks a user's password, which may be a token. ``is_local``: the login comes from this machine."""
    if login := check_token(options, password, is_local=is_local):  # as in RabbitMQ, the name does not count then
        return login
    expected = options.users.get(username)
    if expected is None or not hmac.compare_digest(expected.encode(), password):
        return Login(refusal.AUTHENTICATION_FAILURE, username)
    return _from_where(options, Login(refusal.OK, username), is_local=is_local)


def check_token(options: ServerOptions, text: bytes, *, is_local: bool) -> Login | None:
    """Checks a token; None for what is none of this broker's."""
    key = options.token_key
    token = None if key is None else verified(text.decode(errors="replace"), key, options.wall_clock())
    if token is None:
        return None
    return _from_where(options, Login(refusal.OK, token.subject, token.expires), is_local=is_local)


def _from_where(options: ServerOptions, login: Login, *, is_local: bool) -> Login:
    if login.username in options.loopback_users and not is_local:
        return Login(refusal.LOOPBACK_ONLY, login.username)
    return login


class ServerSession:
    """One connection's protocol state."""

    def __init__(
        self, options: ServerOptions, *, advertised_host: str, advertised_port: int, is_local: bool, now: float
    ) -> None:
        self.options = options
        self.state = State.PROPERTIES
        self.username = ""
        self.vhost = ""
        self.failure = ""
        """Why the client was refused, for the log; never contains a password."""
        self.client_properties: Mapping[str, str] = {}
        self.frame_max = options.frame_max
        self.heartbeat = options.heartbeat
        self.advertised_host = advertised_host
        self.advertised_port = advertised_port
        self.deliver_version = 1
        """The newest Deliver that the client understands."""
        self.expires: float | None = None
        """When the login ends, unless the client logs in again; None for a password."""
        self._is_local = is_local
        self._mechanism = ""
        self._incoming = FrameBuffer(MAX_FRAME_BEFORE_OPEN, max_deliver_size=MAX_FRAME_BEFORE_OPEN)
        self._is_garbled = False
        """Whether the input is damaged, so that the start of the next frame is unknown."""
        self._output: list[bytes] = []
        self._next_correlation_id = 0
        self._last_read = self._last_write = now

    @property
    def has_ended(self) -> bool:
        return self.state is State.ENDED

    @property
    def is_closing(self) -> bool:
        """Whether the broker has sent a Close and waits for the answer."""
        return self.state is State.CLOSING

    def take_output(self) -> bytes:
        """Returns the bytes to write, and forgets them."""
        data = b"".join(self._output)
        self._output.clear()
        return data

    def send(self, message: Any, *, correlation_id: int = 0, code: int = refusal.OK) -> None:
        """Queues a message."""
        self._output.append(c.encode(message, correlation_id=correlation_id, code=code))

    def refuse(self, request: type[Any], correlation_id: int, code: int) -> None:
        """Queues an answer with a response code and no fields."""
        self._output.append(c.encode_error(request, correlation_id=correlation_id, code=code))

    def request(self, message: Any) -> int:
        """Queues a request to the client, and returns its correlation id."""
        correlation_id = self._next_correlation_id
        self._next_correlation_id = (correlation_id + 1) & 0xFFFFFFFF
        self.send(message, correlation_id=correlation_id)
        return correlation_id

    def close(self, code: int, reason: str) -> None:
        """Queues a Close, which the client must answer; before the connection is open, ends the session without one."""
        if self.state is State.READY:
            self.request(c.Close(code, reason))
            self.state = State.CLOSING
        elif self.state is not State.CLOSING:
            self.state = State.ENDED

    def end(self) -> None:
        """Ends the session: the output that is queued now is the last."""
        self.state = State.ENDED

    def feed(self, data: bytes, now: float) -> None:
        """Takes received bytes."""
        self._last_read = now
        if not (self.has_ended or self._is_garbled):
            self._incoming.feed(data)

    def frames(self) -> Iterator[bytes]:
        """Yields the complete frames, without their size field. A caller that stops early gets the rest next time."""
        if self._is_garbled:  # what follows is not looked at
            return
        try:
            for frame in self._incoming.frames():
                yield frame
                if self.has_ended:
                    return
        except FrameSizeExceeded as error:
            self._is_garbled = True
            self.failure = str(error)
            self.close(refusal.FRAME_TOO_LARGE, "frame too large")
        except ProtocolError as error:
            self._is_garbled = True
            self.failure = str(error)
            self.close(refusal.UNKNOWN_FRAME, "unknown frame")

    def take(self, frame: bytes) -> bool:
        """Handles a frame that concerns the session, and returns True; returns False for any other command.

        Raises ``ProtocolError`` for an invalid frame.
        """
        key = int.from_bytes(frame[:2])
        if self.state is State.READY and key not in _HERE:
            return False
        self._advance(key, frame)
        return True

    def written(self, now: float) -> None:
        """Notes that bytes were written: no heartbeat is due for one interval."""
        self._last_write = now

    def heard(self, now: float) -> None:
        """Notes that the client is alive, although nothing was read: restarts the wait for its heartbeats."""
        self._last_read = now

    def tick(self, now: float) -> float | None:
        """Queues a heartbeat if one is due, and returns the seconds until the next call; None for never.

        Ends the session if nothing was read for two intervals, or when the token has expired. As in RabbitMQ, the
        client is told nothing.
        """
        if self.state not in (State.READY, State.CLOSING):
            return None
        if self.expires is not None and now >= self.expires:
            self.failure = f"the token of {self.username!r} has expired"
            self.state = State.ENDED
            return None
        left = None if self.expires is None else max(self.expires - now, 0.001)
        if not self.heartbeat:
            return left
        if now - self._last_read >= 2 * self.heartbeat:
            self.state = State.ENDED
            return None
        if now - self._last_write >= self.heartbeat:
            self.send(c.Heartbeat())
            self._last_write = now
        due = min(self._last_write + self.heartbeat, self._last_read + 2 * self.heartbeat)
        delay = max(due - now, 0.001)
        return delay if left is None else min(delay, left)

    def _advance(self, key: int, frame: bytes) -> None:
        if self.state is State.CLOSING:
            if key == c.Key.CLOSE | c.RESPONSE_BIT:
                self.end()
            elif key == c.Key.CLOSE:
                self.send(c.CloseResponse(), correlation_id=c.decode(frame).correlation_id or 0)
                self.end()
            return
        decoded = c.decode(frame)
        match self.state, decoded.message:
            case _, c.Heartbeat():
                pass
            case State.READY, c.SaslAuthenticate():
                self._log_in_again(decoded.message, decoded.correlation_id or 0)
            case State.PROPERTIES | State.HANDSHAKE, c.PeerProperties(properties):
                self.client_properties = properties
                self.send(c.PeerPropertiesResponse(_properties()), correlation_id=decoded.correlation_id or 0)
                self.state = State.HANDSHAKE
            case State.HANDSHAKE | State.LOGIN, c.SaslHandshake():
                self.send(c.SaslHandshakeResponse(self.options.mechanisms), correlation_id=decoded.correlation_id or 0)
                self.state = State.LOGIN
            case State.LOGIN, c.SaslAuthenticate():
                self._log_in(decoded.message, decoded.correlation_id or 0)
            case State.TUNE | State.OPEN, c.Tune(frame_max, heartbeat):
                # The client's values count, as in RabbitMQ, but the frame size never exceeds the one offered.
                self.frame_max = negotiate(frame_max, self.options.frame_max)
                self.heartbeat = heartbeat
                self.state = State.OPEN
            case State.TUNE | State.OPEN, c.Open(vhost):
                if self.state is State.TUNE:  # a client that left out Tune sends no heartbeats
                    self.heartbeat = 0
                self._open(vhost, decoded.correlation_id or 0)
            case _:
                self.failure = f"a {type(decoded.message).__name__} in the state {self.state.name}"
                self.state = State.ENDED

    def _log_in(self, message: c.SaslAuthenticate, correlation_id: int) -> None:
        login = self._check(message)
        self.send(c.SaslAuthenticateResponse(None), correlation_id=correlation_id, code=login.code)
        if login.code != refusal.OK:
            self.state = State.ENDED
            return
        self.username, self.expires, self._mechanism = login.username, self._expiry(login), message.mechanism
        self.send(c.Tune(self.options.frame_max, self.options.heartbeat))
        self.state = State.TUNE

    def _log_in_again(self, message: c.SaslAuthenticate, correlation_id: int) -> None:
        """Checks refreshed credentials. Mechanism and user must stay the same."""
        login = Login(refusal.CANNOT_CHANGE_MECHANISM)
        if message.mechanism == self._mechanism:
            login = self._check(message)
            if login.code == refusal.OK and login.username != self.username:
                login = Login(refusal.CANNOT_CHANGE_USERNAME)
        self.send(c.SaslAuthenticateResponse(None), correlation_id=correlation_id, code=login.code)
        if login.code != refusal.OK:
            self.state = State.ENDED
            return
        self.expires = self._expiry(login)

    def _check(self, message: c.SaslAuthenticate) -> Login:
        if message.mechanism not in self.options.mechanisms:
            self.failure = f"login with {message.mechanism!r}, which is not offered"
            return Login(refusal.MECHANISM_NOT_SUPPORTED)
        if message.mechanism == OAUTHBEARER:
            return self._check_bearer(message.data or b"")
        parts = (message.data or b"").split(b"\0")
        if len(parts) != 3 or parts[0]:  # RabbitMQ refuses a login with an authorization identity
            self.failure = "a login that holds no name and no password"
            return Login(refusal.SASL_ERROR)
        username = parts[1].decode(errors="replace")
        login = check_login(self.options, username, parts[2], is_local=self._is_local)
        if login.code == refusal.AUTHENTICATION_FAILURE:
            is_known = username in self.options.users
            self.failure = f"wrong password of {username!r}" if is_known else f"there is no user {username!r}"
        return self._noted(login)

    def _check_bearer(self, data: bytes) -> Login:
        """Checks a login as RFC 7628 has it: a header of GS2, and fields that each end in a 1."""
        header, *fields = data.split(b"\x01")
        tokens = [field.removeprefix(_BEARER) for field in fields if field.startswith(_BEARER)]
        if not header.startswith(b"n,") or not data.endswith(b"\x01\x01") or len(tokens) != 1:
            self.failure = "a login that holds no token"
            return Login(refusal.SASL_ERROR)
        login = check_token(self.options, tokens[0], is_local=self._is_local)
        if login is None:
            self.failure = "a token that has expired, or is not signed with this broker's key"
            return Login(refusal.AUTHENTICATION_FAILURE)
        return self._noted(login)

    def _noted(self, login: Login) -> Login:
        if login.code == refusal.LOOPBACK_ONLY:
            self.failure = f"{login.username!r} may log in from this machine only"
        return login

    def _expiry(self, login: Login) -> float | None:
        """When a login ends, in seconds of the session's time."""
        return None if login.expires is None else self._last_read + login.expires - self.options.wall_clock()

    def _open(self, vhost: str, correlation_id: int) -> None:
        if vhost not in self.options.vhosts:
            self.failure = f"there is no virtual host {vhost!r}"
            self.refuse(c.Open, correlation_id, refusal.VHOST_ACCESS_FAILURE)
            self.state = State.ENDED
            return
        properties = {"advertised_host": self.advertised_host, "advertised_port": str(self.advertised_port)}
        self.send(c.OpenResponse(properties), correlation_id=correlation_id)
        self.vhost = vhost
        incoming = self._incoming
        incoming.max_frame_size = incoming.max_deliver_size = incoming.max_confirm_size = self.frame_max
        self.state = State.READY


_HERE = frozenset({c.Key.HEARTBEAT, c.Key.SASL_AUTHENTICATE})
"""The commands that concern the session on an open connection."""


def _properties() -> dict[str, str]:
    return {
        "product": "rstream embedded broker",
        "version": SERVER_VERSION,
        "platform": "Python",
        "information": f"rstream {__version__}; for development and tests",
    }
