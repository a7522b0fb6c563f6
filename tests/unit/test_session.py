"""The client's protocol state, walked by hand: no socket, and a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rstream_core.errors import (
    AuthenticationFailure,
    CannotChangeMechanism,
    ConfigurationError,
    FrameSizeExceeded,
    HeartbeatMissed,
    ProtocolError,
    RstreamError,
    SASLAuthenticationFailureLoopback,
    SASLChallenge,
    SASLError,
    SASLMechanismNotSupported,
    ServerClosed,
    UnsupportedByBroker,
    VirtualHostAccessFailure,
)
from rstream_core.hints import Hint
from rstream_core.protocol import commands as c
from rstream_core.protocol.framing import FrameBuffer
from rstream_core.protocol.session import Session, SessionOptions, State, negotiate, sasl_authenticate
from rstream_core.types import Credentials, Endpoint
from tests.receiving import receive
from tests.vectors import vectors

Reply = Callable[[int], bytes]
VERSIONS = ((2, 1, 2), (8, 1, 2), (0x1C, 1, 1))


def responded(message: Any, code: int = 1) -> Reply:
    return lambda correlation_id: c.encode(message, correlation_id=correlation_id, code=code)


def refused(request: type[Any], code: int) -> Reply:
    return lambda correlation_id: c.encode_error(request, correlation_id=correlation_id, code=code)


class Walk:
    """A session, and the broker that the test plays."""

    def __init__(self, **options: Any) -> None:
        self.session = Session(SessionOptions(**options))
        self.sent = FrameBuffer()
        self.session.start(0.0)

    def asked(self) -> list[c.Frame]:
        """What the client wrote since the last look."""
        self.sent.feed(self.session.take_output())
        return [c.decode(frame) for frame in self.sent.frames()]

    def answer(self, reply: Reply, now: float = 0.0) -> list[c.Frame]:
        frames = self.asked()
        correlation_id = next((f.correlation_id for f in reversed(frames) if f.correlation_id is not None), 0)
        return receive(self.session, reply(correlation_id), now)

    def steps(self, version: str = "4.3.6", mechanisms: tuple[str, ...] = ("PLAIN", "EXTERNAL")) -> list[Reply]:
        tune = c.encode(c.Tune(1048576, 60))
        return [
            responded(c.PeerPropertiesResponse({"version": version, "product": "RabbitMQ"})),
            responded(c.SaslHandshakeResponse(mechanisms)),
            responded(c.SaslAuthenticateResponse(None)),
            lambda _: tune,
            responded(c.OpenResponse({"advertised_host": "node", "advertised_port": "5552"})),
            responded(c.ExchangeCommandVersionsResponse(tuple(c.CommandVersions(*v) for v in VERSIONS))),
        ]

    def to(self, state: State) -> Walk:
        for reply in self.steps():
            if self.session.state is state:
                return self
            self.answer(reply)
        assert self.session.state is state
        return self


STATES = [
    State.PEER_PROPERTIES,
    State.SASL_HANDSHAKE,
    State.SASL_AUTHENTICATE,
    State.TUNE,
    State.OPEN,
    State.COMMAND_VERSIONS,
]


def test_the_whole_handshake() -> None:
    walk = Walk(client_properties={"product": "test"}, credentials=Credentials("me", "secret"), vhost="v")
    said = []
    for state, reply in zip(STATES, walk.steps(), strict=True):
        assert walk.session.state is state
        frames = walk.asked()
        said += [frame.message for frame in frames]
        correlation_id = frames[-1].correlation_id if frames else 0
        assert receive(walk.session, reply(correlation_id or 0), 0.0) == []
    assert walk.session.state is State.READY
    assert said == [
        c.PeerProperties({"product": "test"}),
        c.SaslHandshake(),
        c.SaslAuthenticate("PLAIN", b"\0me\0secret"),
        c.Tune(1048576, 10),
        c.Open("v"),
        c.ExchangeCommandVersions(c.supported_versions()),
    ]
    assert walk.session.server_version == "4.3.6"
    assert walk.session.advertised == Endpoint("node", 5552)
    assert walk.session.supports(c.Key.PUBLISH, 2)
    assert not walk.session.supports(c.Key.ROUTE)


def test_the_whole_handshake_byte_by_byte_and_in_one_piece() -> None:
    for size in (1, 1 << 20):
        walk = Walk()
        for reply in walk.steps():
            frames = walk.asked()
            data = reply(next((f.correlation_id or 0 for f in reversed(frames)), 0))
            for at in range(0, len(data), size):
                receive(walk.session, data[at : at + size], 0.0)
        assert walk.session.state is State.READY


def again(message: Any) -> Reply:
    return lambda correlation_id: c.encode(message, correlation_id=correlation_id)


def test_a_captured_login_is_followed() -> None:
    """The broker's side of the first captured connection; only the correlation ids are ours."""
    walk = Walk()
    captured = [v for v in vectors() if ", login: " in v.name and v.sender == "broker"]
    for vector in captured:
        walk.answer(again(c.decode(vector.frame[4:]).message))
    assert walk.session.state is State.READY
    assert walk.session.server_version.startswith("4.3")
    assert walk.session.supports(c.Key.RESOLVE_OFFSET_SPEC)


WRONG: dict[str, Reply] = {
    "a peer properties response": responded(c.PeerPropertiesResponse({})),
    "a mechanism list": responded(c.SaslHandshakeResponse(())),
    "a login": responded(c.SaslAuthenticateResponse(None)),
    "a tune": lambda _: c.encode(c.Tune(1, 1)),
    "an open response": responded(c.OpenResponse({})),
    "command versions": responded(c.ExchangeCommandVersionsResponse(())),
    "metadata": responded(c.MetadataResponse((), ())),
    "a confirm": lambda _: c.encode(c.PublishConfirm(0, (1,))),
    "a chunk": lambda _: c.encode(c.DeliverCommitted(0, 0, b"")),
    "a request": lambda correlation_id: c.encode(c.Create("s", {}), correlation_id=correlation_id),
    "a Tune with the bit of a response": lambda _: bytes.fromhex("0000000c 80140001 00100000 0000003c"),
    "an unknown command": lambda _: bytes.fromhex("00000004 007f0001"),
    "an unknown version": lambda _: bytes.fromhex("00000004 00170009"),
    "a frame that is too short": lambda _: bytes.fromhex("00000002 0017"),
    "HTTP": lambda _: b"HTTP/1.1 400 Bad Request\r\n",
    "AMQP": lambda _: b"AMQP\0\0\x09\x01",
    "TLS": lambda _: bytes.fromhex("1503030002022800"),
}
OWN = dict(zip(STATES, list(WRONG)[:6], strict=True))


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
@pytest.mark.parametrize("wrong", WRONG)
def test_anything_else_is_a_protocol_error(state: State, wrong: str) -> None:
    if OWN[state] == wrong:
        return
    walk = Walk().to(state)
    with pytest.raises(ProtocolError):
        walk.answer(WRONG[wrong])
    assert walk.session.state is State.CLOSED


@pytest.mark.parametrize("state", [s for s in STATES if s is not State.TUNE], ids=lambda state: state.name)
def test_an_answer_to_another_request_is_a_protocol_error(state: State) -> None:
    walk = Walk().to(state)
    reply = walk.steps()[STATES.index(state)]
    with pytest.raises(ProtocolError, match="another request"):
        walk.answer(lambda correlation_id: reply(correlation_id + 1))


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_heartbeats_are_passed_over_everywhere(state: State) -> None:
    walk = Walk().to(state)
    assert receive(walk.session, c.encode(c.Heartbeat()), 1.0) == []
    assert walk.session.state is state


@pytest.mark.parametrize("state", [*STATES, State.READY], ids=lambda state: state.name)
def test_a_close_is_answered_and_raised_everywhere(state: State) -> None:
    walk = Walk().to(state)
    walk.asked()
    with pytest.raises(ServerClosed, match="going home") as caught:
        receive(walk.session, c.encode(c.Close(15, "going home"), correlation_id=99), 1.0)
    assert (caught.value.code, caught.value.reason) == (15, "going home")
    assert walk.session.state is State.CLOSED
    assert walk.asked() == [c.Frame(c.CloseResponse(), 99, 1, 0x8016)]


def test_what_came_before_a_close_is_not_lost() -> None:
    """A broker may confirm, and close in the same segment."""
    walk = Walk().to(State.READY)
    confirm = c.encode(c.PublishConfirm(0, (1,)))
    frames = receive(walk.session, confirm + c.encode(c.Close(1, "bye"), correlation_id=1), 1.0)
    assert [frame.message for frame in frames] == [c.PublishConfirm(0, (1,))]
    with pytest.raises(ServerClosed):
        receive(walk.session, b"", 1.0)
    assert walk.session.state is State.CLOSED


@pytest.mark.parametrize(
    ("state", "request_type", "code", "error", "words"),
    [
        (State.PEER_PROPERTIES, c.PeerProperties, 15, RstreamError, "properties"),
        (State.SASL_HANDSHAKE, c.SaslHandshake, 13, RstreamError, "SASL"),
        (State.SASL_AUTHENTICATE, c.SaslAuthenticate, 8, AuthenticationFailure, "'me'"),
        (State.SASL_AUTHENTICATE, c.SaslAuthenticate, 9, SASLError, "'me'"),
        (State.SASL_AUTHENTICATE, c.SaslAuthenticate, 7, SASLMechanismNotSupported, "'me'"),
        (State.SASL_AUTHENTICATE, c.SaslAuthenticate, 11, SASLAuthenticationFailureLoopback, "own host"),
        (State.SASL_AUTHENTICATE, c.SaslAuthenticate, 20, CannotChangeMechanism, "'me'"),
        (State.SASL_AUTHENTICATE, c.SaslAuthenticate, 999, RstreamError, "999"),
        (State.OPEN, c.Open, 12, VirtualHostAccessFailure, "'here'"),
        (State.COMMAND_VERSIONS, c.ExchangeCommandVersions, 13, RstreamError, "versions"),
    ],
)
def test_a_refusal_is_the_error_of_its_code(
    state: State, request_type: type[Any], code: int, error: type[RstreamError], words: str
) -> None:
    walk = Walk(credentials=Credentials("me", "hush"), vhost="here").to(state)
    with pytest.raises(error, match=words) as caught:
        walk.answer(refused(request_type, code))
    assert "hush" not in str(caught.value)
    assert walk.session.state is State.CLOSED


def test_a_challenge_is_refused_by_name() -> None:
    walk = Walk().to(State.SASL_AUTHENTICATE)
    with pytest.raises(SASLChallenge):
        walk.answer(responded(c.SaslAuthenticateResponse(b"Please tell me your password"), code=10))


def test_a_challenge_is_no_answer_to_anything_else() -> None:
    walk = Walk().to(State.OPEN)
    with pytest.raises(SASLChallenge):
        walk.answer(refused(c.Open, 10))


def test_external_sends_no_data() -> None:
    walk = Walk(mechanism="EXTERNAL").to(State.SASL_AUTHENTICATE)
    assert walk.asked()[-1].message == c.SaslAuthenticate("EXTERNAL", None)


@pytest.mark.parametrize("mechanism", ["PLAIN", "EXTERNAL", "AMQPLAIN"])
def test_a_mechanism_that_is_not_offered(mechanism: str) -> None:
    walk = Walk(mechanism=mechanism).to(State.SASL_HANDSHAKE)
    with pytest.raises(SASLMechanismNotSupported, match="SCRAM"):
        walk.answer(responded(c.SaslHandshakeResponse(("SCRAM",))))


def test_no_mechanism_at_all() -> None:
    walk = Walk().to(State.SASL_HANDSHAKE)
    with pytest.raises(SASLMechanismNotSupported, match="no SASL mechanism"):
        walk.answer(responded(c.SaslHandshakeResponse(())))


def test_a_mechanism_that_this_side_does_not_know() -> None:
    walk = Walk(mechanism="SCRAM").to(State.SASL_HANDSHAKE)
    with pytest.raises(ConfigurationError, match="SCRAM"):
        walk.answer(responded(c.SaslHandshakeResponse(("SCRAM",))))


@pytest.mark.parametrize("credentials", [Credentials("a\0b", "c"), Credentials("a", "b\0c")])
def test_a_nul_byte_cannot_be_part_of_plain_credentials(credentials: Credentials) -> None:
    walk = Walk(credentials=credentials).to(State.SASL_HANDSHAKE)
    with pytest.raises(AuthenticationFailure, match="NUL"):
        walk.answer(responded(c.SaslHandshakeResponse(("PLAIN",))))


def test_a_password_that_is_not_utf8() -> None:
    walk = Walk(credentials=Credentials("a", "sec\udcffret")).to(State.SASL_HANDSHAKE)
    with pytest.raises(AuthenticationFailure, match="UTF-8") as caught:
        walk.answer(responded(c.SaslHandshakeResponse(("PLAIN",))))
    assert "sec" not in str(caught.value)


@pytest.mark.parametrize("version", ["3.9.29", "3.10.8"])
def test_a_broker_before_3_11_is_not_asked_for_versions(version: str) -> None:
    walk = Walk()
    for reply in walk.steps(version=version)[:5]:
        walk.answer(reply)
    assert walk.session.state is State.READY
    assert walk.asked() == []
    with pytest.raises(UnsupportedByBroker, match=rf"3\.11; this broker is {version}"):
        walk.session.require(c.Key.STREAM_STATS, "3.11", "statistics")


@pytest.mark.parametrize("version", ["3.11.0", "3.13.7", "4.0.0-rc.1", "10.0", "weird", ""])
def test_any_other_version_is_asked(version: str) -> None:
    walk = Walk()
    for reply in walk.steps(version=version)[:5]:
        walk.answer(reply)
    assert walk.session.state is State.COMMAND_VERSIONS


def test_a_broker_that_does_not_tell_its_version() -> None:
    walk = Walk()
    walk.answer(responded(c.PeerPropertiesResponse({})))
    assert walk.session.server_version == "unknown"


def test_versions_are_found_by_key_and_not_by_position() -> None:
    walk = Walk().to(State.COMMAND_VERSIONS)
    rows = tuple(c.CommandVersions(key, 1, 2 if key == 2 else 1) for key in range(0x1F, 0, -1))
    walk.answer(responded(c.ExchangeCommandVersionsResponse(rows)))
    assert walk.session.supports(c.Key.PUBLISH, 2)
    assert not walk.session.supports(c.Key.DELIVER, 2)
    assert not walk.session.supports(c.Key.PUBLISH, 3)
    walk.session.require(c.Key.PUBLISH, "3.13", "filtering", version=2)


@pytest.mark.parametrize(
    ("properties", "advertised"),
    [
        ({}, None),
        ({"advertised_host": "h"}, None),
        ({"advertised_port": "1"}, None),
        ({"advertised_host": "", "advertised_port": ""}, None),
        ({"advertised_host": "h", "advertised_port": "1"}, Endpoint("h", 1)),
    ],
)
def test_the_advertised_endpoint(properties: dict[str, str], advertised: Endpoint | None) -> None:
    walk = Walk().to(State.OPEN)
    walk.answer(responded(c.OpenResponse(properties)))
    assert walk.session.advertised == advertised


@pytest.mark.parametrize("port", ["x", "²", "-1", "0", "65536", "1" * 5000, " 1", "1_0", "\u0661"])
def test_an_advertised_port_that_cannot_exist(port: str) -> None:
    walk = Walk().to(State.OPEN)
    with pytest.raises(ProtocolError, match="advertises"):
        walk.answer(responded(c.OpenResponse({"advertised_host": "h", "advertised_port": port})))


@pytest.mark.parametrize("host", ["a\0b", "\x1b[31m", "a\nb", "\u202eb", "a" * 256])
def test_an_advertised_host_that_cannot_exist(host: str) -> None:
    walk = Walk().to(State.OPEN)
    with pytest.raises(ProtocolError, match="advertises"):
        walk.answer(responded(c.OpenResponse({"advertised_host": host, "advertised_port": "1"})))


@pytest.mark.parametrize("version", ["²", "².1", "1.²", "9" * 5000, "4.3\x1b[31m", "4.3\n"])
def test_a_version_that_makes_no_sense(version: str) -> None:
    walk = Walk()
    with pytest.raises(ProtocolError, match="version"):
        walk.answer(walk.steps(version=version)[0])


@pytest.mark.parametrize("frame_max", [1, 22, 999])
def test_frames_that_hold_no_request(frame_max: int) -> None:
    walk = Walk().to(State.TUNE)
    with pytest.raises(ProtocolError, match=f"frames of {frame_max} bytes only; 1000 are needed"):
        walk.answer(lambda _: c.encode(c.Tune(frame_max, 60)))


@pytest.mark.parametrize("frame_max", [0, 1000])
def test_frames_that_hold_a_request(frame_max: int) -> None:
    walk = Walk(frame_max=0).to(State.TUNE)
    walk.answer(lambda _: c.encode(c.Tune(frame_max, 60)))
    assert walk.session.frame_max == frame_max
    names = {"single-active-consumer": "true", "name": "n" * 255, "super-stream": "s" * 255}
    largest = c.Subscribe(255, "p" * 255, c.OffsetSpec(4, 2**64 - 1), 0x7FFF, names)
    assert not frame_max or len(c.encode(largest, correlation_id=1)) - 4 <= frame_max


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed"), [(0, 0, 0), (0, 5, 5), (5, 0, 5), (5, 6, 5), (6, 5, 5), (5, 5, 5)]
)
def test_negotiation(ours: int, theirs: int, agreed: int) -> None:
    assert negotiate(ours, theirs) == agreed
    walk = Walk(frame_max=ours * 1000, heartbeat=ours).to(State.TUNE)
    walk.answer(lambda _: c.encode(c.Tune(theirs * 1000, theirs)))
    assert (walk.session.frame_max, walk.session.heartbeat) == (agreed * 1000, agreed)
    assert walk.asked()[0].message == c.Tune(agreed * 1000, agreed)


SUBSCRIBE = c.Subscribe(1, "s", c.OffsetSpec(1), 10, {})


def test_a_large_deliver_is_taken_and_a_large_rest_is_not() -> None:
    walk = Walk(frame_max=5000).to(State.READY)
    walk.session.request(SUBSCRIBE)
    chunk = bytes(20 * 1024 * 1024)
    (frame,) = receive(walk.session, c.encode(c.DeliverCommitted(1, 2, chunk)), 0.0)
    assert frame.message[:2] == (1, 2)
    assert frame.message.frame[frame.message.start :] == chunk
    with pytest.raises(FrameSizeExceeded):
        receive(walk.session, bytes.fromhex("7fffffff 00030001"), 0.0)


def test_a_huge_frame_is_refused_before_login() -> None:
    for key in ("8011", "0008", "0003"):
        with pytest.raises(FrameSizeExceeded):
            receive(Walk().session, bytes.fromhex(f"00200000 {key}0001"), 0.0)


def test_frames_are_as_large_as_what_was_asked_for() -> None:
    deliver, confirm, other = (bytes.fromhex(f"00200000 {key}0001") for key in ("0008", "0003", "800f"))
    for head in (deliver, confirm, other):  # of two megabytes, where nobody publishes or consumes
        with pytest.raises(FrameSizeExceeded):
            receive(Walk().to(State.READY).session, head, 0.0)
    for head, size in ((deliver, 0x200000), (confirm, 0x200000)):
        walk = Walk().to(State.READY)
        walk.session.request(SUBSCRIBE)
        walk.session.expect_confirms(200_000)  # a publisher with so many in flight
        assert receive(walk.session, head + bytes(size - 5), 0.0) == []
        with pytest.raises(FrameSizeExceeded):
            receive(Walk().to(State.READY).session, other, 0.0)


# Heartbeats: 10 seconds, by a clock that only the test moves.


def beating(heartbeat: int = 10) -> Walk:
    walk = Walk(heartbeat=heartbeat).to(State.READY)
    walk.session.last_write = 0.0
    walk.asked()
    return walk


def test_a_heartbeat_is_sent_after_one_interval_without_writing() -> None:
    walk = beating()
    assert walk.session.tick(0.0) == 10.0
    assert walk.session.tick(4.0) == 6.0
    assert walk.asked() == []
    assert walk.session.tick(10.0) == 10.0
    assert [frame.message for frame in walk.asked()] == [c.Heartbeat()]
    assert walk.session.tick(10.5) == 9.5
    assert walk.asked() == []


def test_anything_written_puts_the_heartbeat_off() -> None:
    walk = beating()
    walk.session.last_write = 9.0
    assert walk.session.tick(10.0) == pytest.approx(9.0)
    assert walk.asked() == []


def test_two_intervals_of_silence_are_an_error() -> None:
    walk = beating()
    walk.session.last_write = 19.0
    assert walk.session.tick(19.5) == pytest.approx(0.5)
    with pytest.raises(HeartbeatMissed, match="20 s"):
        walk.session.tick(20.0)
    assert walk.session.state is State.CLOSED
    assert walk.session.tick(99.0) is None


@pytest.mark.parametrize("data", [c.encode(c.Heartbeat()), b"\0"])
def test_any_byte_counts_as_a_sign_of_life(data: bytes) -> None:
    walk = beating()
    receive(walk.session, data, 15.0)
    assert walk.session.tick(34.0) is not None
    with pytest.raises(HeartbeatMissed):
        walk.session.tick(35.0)


def test_no_heartbeat_means_none() -> None:
    walk = Walk(heartbeat=0).to(State.TUNE)
    walk.answer(lambda _: c.encode(c.Tune(0, 0)))
    walk.answer(responded(c.OpenResponse({})))
    walk.answer(responded(c.ExchangeCommandVersionsResponse(())))
    walk.asked()
    assert walk.session.tick(1e9) is None
    assert walk.asked() == []


def test_no_heartbeat_before_the_end_of_the_handshake() -> None:
    assert Walk(heartbeat=1).to(State.OPEN).session.tick(100.0) is None


def test_a_tick_never_asks_to_be_called_at_once_for_ever() -> None:
    walk = beating()
    walk.session.last_write = 20.0
    receive(walk.session, b"", 19.9999999)
    delay = walk.session.tick(19.9999999)
    assert delay is not None
    assert delay > 0


# Ready.


def test_frames_of_the_application_come_out_in_order() -> None:
    walk = Walk().to(State.READY)
    messages = [c.PublishConfirm(1, range(1, 3)), c.MetadataUpdate(6, "s"), c.PublishConfirm(1, (3,))]
    data = b"".join(map(c.encode, messages)) + c.encode(c.Heartbeat())
    assert [frame.message for frame in receive(walk.session, data, 0.0)] == messages


def test_correlation_ids_count_up_and_wrap() -> None:
    walk = Walk().to(State.READY)
    first = walk.session.request(c.Metadata(()))
    assert walk.session.request(c.Metadata(())) == first + 1
    walk.session._next_correlation_id = 0xFFFFFFFF
    assert walk.session.request(c.Metadata(())) == 0xFFFFFFFF
    assert walk.session.request(c.Metadata(())) == 0


def test_a_closed_session_takes_no_bytes() -> None:
    walk = Walk().to(State.READY)
    with pytest.raises(ServerClosed):
        receive(walk.session, c.encode(c.Close(1, "bye"), correlation_id=1), 0.0)
    with pytest.raises(RstreamError):
        receive(walk.session, c.encode(c.PublishConfirm(1, (1,))), 0.0)


def test_credentials_show_in_no_repr() -> None:
    assert "hush" not in repr(sasl_authenticate("PLAIN", Credentials("user", "hush")))
    options = SessionOptions(credentials=Credentials("me", "hush"))
    assert "hush" not in repr(options)


def test_a_message_that_does_not_fit_a_frame_is_not_sent() -> None:
    session = Walk(frame_max=2000).to(State.READY).session
    session.take_output()
    room = 2000 - len(c.encode(c.Create("s", {"a": ""}))) + 4
    session.request(c.Create("s", {"a": "x" * room}))
    assert len(session.take_output()) == 2004
    with pytest.raises(
        ConfigurationError, match=r"^a request of 2001 bytes does not fit the agreed frame size of 2000 b"
    ) as e:
        session.request(c.Create("s", {"a": "x" * (room + 1)}))
    assert e.value.hint is Hint.FRAME_LIMIT
    assert session.take_output() == b""


def test_without_a_limit_every_message_fits() -> None:
    walk = Walk(frame_max=0).to(State.TUNE)
    walk.answer(lambda _: c.encode(c.Tune(0, 60)))
    walk.session.take_output()
    many = c.Create("s", {f"a{number}": "x" * 30_000 for number in range(40)})
    walk.session.send(many)
    assert walk.session.take_output() == c.encode(many)
