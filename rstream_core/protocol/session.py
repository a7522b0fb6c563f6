"""The client's side of one connection, without any I/O.

``receive`` takes bytes and returns the frames that the connection must handle. The session itself does the handshake,
heartbeats, and the answer to a Close; ``take_output`` returns the bytes to write. The time is always an argument, in
seconds. After an error the session is closed, and ``receive`` raises the same error again.

The handshake follows ``_HANDSHAKE``: each state names the one message that may come next.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rstream_core.errors import (
    RESPONSE_OK,
    AuthenticationFailure,
    ConfigurationError,
    HeartbeatMissed,
    ProtocolError,
    SASLMechanismNotSupported,
    ServerClosed,
    UnsupportedByBroker,
    error_from_code,
)
from rstream_core.hints import Hint
from rstream_core.protocol import commands as c
from rstream_core.protocol.framing import MAX_DELIVER_SIZE, FrameBuffer
from rstream_core.protocol.wire import received
from rstream_core.text import harmless
from rstream_core.types import MIN_FRAME_MAX, Credentials, Endpoint

MAX_SERVER_FRAME = 1024 * 1024
"""The largest frame of a broker, in bytes, unless this side may send larger ones. Two kinds of frames have bounds of
their own: a Deliver once there is a subscription, a PublishConfirm according to the messages in flight."""

MAX_VERSION = 100
"""Characters of a broker's version."""

SASL_CHALLENGE = 10
EXTERNAL = "EXTERNAL"
"""The SASL mechanism with which the client certificate identifies the user."""
OAUTHBEARER = "OAUTHBEARER"
"""The SASL mechanism whose login is a token (RFC 7628)."""


class State(enum.Enum):
    """The message that the client waits for."""

    NEW = enum.auto()
    PEER_PROPERTIES = enum.auto()
    SASL_HANDSHAKE = enum.auto()
    SASL_AUTHENTICATE = enum.auto()
    TUNE = enum.auto()
    OPEN = enum.auto()
    COMMAND_VERSIONS = enum.auto()
    READY = enum.auto()
    CLOSED = enum.auto()


_HANDSHAKE: dict[State, tuple[int, str]] = {
    State.PEER_PROPERTIES: (c.Key.PEER_PROPERTIES | c.RESPONSE_BIT, "exchanging properties"),
    State.SASL_HANDSHAKE: (c.Key.SASL_HANDSHAKE | c.RESPONSE_BIT, "asking for SASL mechanisms"),
    State.SASL_AUTHENTICATE: (c.Key.SASL_AUTHENTICATE | c.RESPONSE_BIT, "logging in"),
    State.TUNE: (c.Key.TUNE, "tuning"),
    State.OPEN: (c.Key.OPEN | c.RESPONSE_BIT, "opening the virtual host"),
    State.COMMAND_VERSIONS: (c.Key.EXCHANGE_COMMAND_VERSIONS | c.RESPONSE_BIT, "exchanging command versions"),
}


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """The options of a session."""

    credentials: Credentials = field(default_factory=Credentials)
    vhost: str = "/"
    mechanism: str = "PLAIN"
    frame_max: int = 1024 * 1024
    """The largest frame in bytes; 0 for no limit on this side."""
    heartbeat: int = 10
    """Seconds between heartbeats; 0 for none on this side."""
    client_properties: Mapping[str, str] = field(default_factory=dict)


def negotiate(ours: int, theirs: int) -> int:
    """Returns the smaller of two limits, where 0 means no limit."""
    return min(ours, theirs) if ours and theirs else max(ours, theirs)


class Session:
    """One connection's protocol state."""

    def __init__(self, options: SessionOptions) -> None:
        self.options = options
        self.state = State.NEW
        self.server_properties: Mapping[str, str] = {}
        self.advertised: Endpoint | None = None
        """The endpoint that the broker advertises in its answer to Open."""
        self.frame_max = 0
        self.heartbeat = 0
        self.login_size = 0
        """Bytes of the login's frame, from when it is sent until it is answered."""
        self._versions: dict[int, c.CommandVersions] = {}
        self._incoming = FrameBuffer(MAX_SERVER_FRAME, max_deliver_size=MAX_SERVER_FRAME)
        self.output: list[bytes] = []
        """Frames that ``take_output`` returns."""
        self._next_correlation_id = 0
        self._last_read = 0.0
        self.last_write = 0.0
        """When bytes were written, by the session or the caller, who sets it: no heartbeat is due for one interval."""
        self._expected_correlation_id = 0
        self._failure: Exception | None = None

    def start(self, now: float) -> None:
        """Begins the handshake."""
        self._last_read = self.last_write = now
        self._ask(State.PEER_PROPERTIES, c.PeerProperties(self.options.client_properties))

    def take_output(self) -> bytes:
        """Returns the bytes to write, and forgets them."""
        data = b"".join(self.output)
        self.output.clear()
        return data

    def send(self, message: Any, *, correlation_id: int = 0, code: int = RESPONSE_OK) -> None:
        """Queues a message. ``ConfigurationError`` for one that is larger than the frames that were agreed on."""
        frame = c.encode(message, correlation_id=correlation_id, code=code)
        if 0 < self.frame_max < len(frame) - 4:  # a broker would close the connection
            raise ConfigurationError(
                f"a request of {len(frame) - 4} bytes does not fit the agreed frame size of {self.frame_max} bytes",
                hint=Hint.FRAME_LIMIT,
            )
        if type(message) is c.Subscribe:  # before that, nobody has asked for chunks
            self._incoming.max_deliver_size = MAX_DELIVER_SIZE
        self.output.append(frame)

    def request(self, message: c.Request[object]) -> int:
        """Queues a request and returns its correlation id."""
        correlation_id = self._next_correlation_id
        self._next_correlation_id = (correlation_id + 1) & 0xFFFFFFFF
        self.send(message, correlation_id=correlation_id)
        return correlation_id

    def room(self) -> memoryview:
        """Returns memory to receive into, which ``receive`` must follow."""
        return self._incoming.room()

    def receive(self, size: int, now: float) -> list[c.Frame]:
        """Takes the first bytes of what ``room`` has returned, and returns the frames that the connection must handle.

        A chunk comes as a ``Delivery``.

        Raises ``ProtocolError`` for bytes that do not follow the protocol, ``ServerError`` where the broker refuses a
        step of the handshake, and ``ServerClosed`` where it closes (the answer is then in the output). Any of these
        closes the session. If frames came before the error, they are returned, and the next call raises the error.
        """
        if self._failure is not None:
            raise self._failure
        self._incoming.filled(size)
        self._last_read = now
        frames: list[c.Frame] = []
        try:
            for raw in self._incoming.frames():
                frame = received(raw) or c.decode(raw)
                message = frame.message
                if type(message) is c.Heartbeat:
                    continue
                if type(message) is c.Close:
                    self.send(c.CloseResponse(), correlation_id=frame.correlation_id or 0)
                    raise ServerClosed(message.code, message.reason)
                if self.state is State.READY:
                    frames.append(frame)
                else:
                    self._advance(frame)
        except Exception as error:
            self.state = State.CLOSED
            self._failure = error
            if not frames:
                raise
        return frames

    def expect_confirms(self, most: int) -> None:
        """Allows PublishConfirm frames with up to ``most`` publishing ids."""
        incoming = self._incoming
        incoming.max_confirm_size = max(incoming.max_confirm_size, MAX_SERVER_FRAME + 8 * most)

    def tick(self, now: float) -> float | None:
        """Queues a heartbeat if one is due, and returns the seconds until the next call; None for never.

        Raises ``HeartbeatMissed`` when nothing was read for two intervals.
        """
        if not self.heartbeat or self.state is not State.READY:
            return None
        silence = now - self._last_read
        if silence >= 2 * self.heartbeat:
            self.state = State.CLOSED
            self._failure = HeartbeatMissed(f"the broker sent nothing for {silence:.0f} s")
            raise self._failure
        if now - self.last_write >= self.heartbeat:
            self.send(c.Heartbeat())
            self.last_write = now
        due = min(self.last_write + self.heartbeat, self._last_read + 2 * self.heartbeat)
        return max(due - now, 0.001)

    @property
    def server_version(self) -> str:
        return self.server_properties.get("version", "unknown")

    def supports(self, key: int, version: int = 1) -> bool:
        """Returns whether the broker understands this version of a command."""
        known = self._versions.get(key)
        return known is not None and known.minimum <= version <= known.maximum

    def require(self, key: int, since: str, what: str, version: int = 1) -> None:
        """Raises ``UnsupportedByBroker`` unless the broker understands the command; the message names ``since``."""
        if not self.supports(key, version):
            raise UnsupportedByBroker(f"{what} needs RabbitMQ {since}; this broker is {self.server_version}")

    def _ask(self, state: State, message: Any) -> None:
        self.state = state
        self._expected_correlation_id = self.request(message)

    def _advance(self, frame: c.Frame) -> None:
        expected, doing = _HANDSHAKE[self.state]
        key = frame.key
        if key != expected:
            raise ProtocolError(f"while {doing}, the broker sent command 0x{key:04x}")
        if frame.correlation_id is not None and frame.correlation_id != self._expected_correlation_id:
            raise ProtocolError(f"while {doing}, the broker answered another request")
        if frame.code != RESPONSE_OK and not (frame.code == SASL_CHALLENGE and self.state is State.SASL_AUTHENTICATE):
            raise self._refusal(frame.code)
        message = frame.message
        match self.state:
            case State.PEER_PROPERTIES:
                _check_version(message.properties.get("version", ""))
                self.server_properties = message.properties
                self._ask(State.SASL_HANDSHAKE, c.SaslHandshake())
            case State.SASL_HANDSHAKE:
                self._authenticate(message.mechanisms)
            case State.SASL_AUTHENTICATE:
                self.login_size = 0
                if frame.code == SASL_CHALLENGE:
                    if self.options.mechanism == OAUTHBEARER:  # says why, and would end in an AuthenticationFailure
                        raise AuthenticationFailure("the broker refuses the token", hint=Hint.IS_IT_VALID_HERE)
                    raise error_from_code(frame.code, f"logging in with {self.options.mechanism}")
                self.state = State.TUNE
            case State.TUNE:
                self._tune(message)
            case State.OPEN:
                self.advertised = _advertised(message.properties)
                self._after_open()
            case _:
                self._versions = {entry.key: entry for entry in message.versions}
                self.state = State.READY

    def _refusal(self, code: int) -> Exception:
        if self.state is State.OPEN:
            return error_from_code(code, f"virtual host {self.options.vhost!r}")
        if self.state is State.SASL_AUTHENTICATE:
            if code == AuthenticationFailure.code and self.options.mechanism == EXTERNAL:
                return AuthenticationFailure(
                    "the broker has no user for this client certificate", hint=Hint.WHOSE_CERTIFICATE
                )
            if code == AuthenticationFailure.code and self.options.mechanism == OAUTHBEARER:
                return AuthenticationFailure("the broker refuses the token", hint=Hint.IS_IT_VALID_HERE)
            return error_from_code(code, f"user {self.options.credentials.username!r}")
        return error_from_code(code, _HANDSHAKE[self.state][1])

    def _authenticate(self, offered: tuple[str, ...]) -> None:
        mechanism = self.options.mechanism
        if mechanism not in offered:
            names = harmless(", ".join(offered)) or "no SASL mechanism"
            hint = Hint.USE_PLAIN_FOR_TOKENS if mechanism == OAUTHBEARER else None
            raise SASLMechanismNotSupported(f"the broker offers {names}, not {mechanism}", hint=hint)
        login = sasl_authenticate(mechanism, self.options.credentials)
        self.login_size = frame_size(login)
        self._ask(State.SASL_AUTHENTICATE, login)

    def _tune(self, theirs: c.Tune) -> None:
        if 0 < theirs.frame_max < MIN_FRAME_MAX:
            raise ProtocolError(
                f"the broker allows frames of {theirs.frame_max} bytes only; {MIN_FRAME_MAX} are needed"
            )
        self.frame_max = negotiate(self.options.frame_max, theirs.frame_max)
        self.heartbeat = negotiate(self.options.heartbeat, theirs.heartbeat)
        # The negotiated size bounds the frames of this side. A broker's frames may be longer, such as a PublishError
        # for a Publish of that size, so its limit is never lowered.
        self._incoming.max_frame_size = max(self.frame_max, MAX_SERVER_FRAME)
        self.send(c.Tune(self.frame_max, self.heartbeat))
        self._ask(State.OPEN, c.Open(self.options.vhost))

    def _after_open(self) -> None:
        release = _release(self.server_version)
        if release < (3, 11):  # older brokers close on this command
            self.state = State.READY
            return
        self._ask(State.COMMAND_VERSIONS, c.ExchangeCommandVersions(c.supported_versions(release)))


def sasl_authenticate(mechanism: str, credentials: Credentials) -> c.SaslAuthenticate:
    """Returns the login message.

    Raises ``ConfigurationError`` for an unknown mechanism, and ``AuthenticationFailure`` for texts that it cannot
    carry.
    """
    if mechanism == EXTERNAL:
        return c.SaslAuthenticate(mechanism, None)
    if mechanism == OAUTHBEARER:
        return c.SaslAuthenticate(mechanism, _bearer(credentials.password))
    if mechanism != "PLAIN":
        raise ConfigurationError(f"SASL mechanism {mechanism} is not PLAIN, EXTERNAL or OAUTHBEARER")
    if "\0" in credentials.username or "\0" in credentials.password:
        raise AuthenticationFailure("a user name or password with a NUL byte cannot be sent")
    try:
        return c.SaslAuthenticate(mechanism, f"\0{credentials.username}\0{credentials.password}".encode())
    except UnicodeEncodeError:  # lone surrogates, such as from an environment that is not UTF-8
        raise AuthenticationFailure("a user name or password that is not UTF-8 cannot be sent") from None


def _bearer(token: str) -> bytes:
    """The login of OAUTHBEARER. A token is of printable ASCII: anything else could end it, and begin another field."""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise AuthenticationFailure("a token is printable ASCII without blanks: this one cannot be sent")
    return f"n,,\x01auth=Bearer {token}\x01\x01".encode()


def frame_size(message: Any) -> int:
    """Bytes of a message's frame, without those that hold its size."""
    return len(c.encode(message)) - 4


def _check_version(version: str) -> None:
    """Raises ``ProtocolError`` for a version that is too long or not printable ASCII, as it is shown to people."""
    if len(version) > MAX_VERSION or not version.isascii() or not version.isprintable():
        raise ProtocolError(f"the broker sent a version that cannot be read: {version[:MAX_VERSION]!r}")


def _release(version: str) -> tuple[int, ...]:
    """Returns (4, 0) for ``4.0.5``. A version that cannot be parsed counts as new: (99,)."""
    parts = version.split(".")[:2]
    return tuple(map(int, parts)) if all(part.isdigit() for part in parts) else (99,)


def _advertised(properties: Mapping[str, str]) -> Endpoint | None:
    """Returns the endpoint that the broker advertises, if any. Raises ``ProtocolError`` for an impossible one."""
    host, port = properties.get("advertised_host"), properties.get("advertised_port")
    if not host or not port:
        return None
    if not re.fullmatch(r"[0-9]{1,5}", port):
        raise ProtocolError(f"the broker advertises a port that is not a number: {port[:20]!r}")
    endpoint = Endpoint(host, int(port))
    if endpoint.problem:
        raise ProtocolError(f"the broker advertises an address that cannot exist: {endpoint.problem}")
    return endpoint
