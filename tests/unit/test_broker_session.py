"""The broker's side of a connection, byte by byte and without a network; and who of a group is active."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from rstream_core.broker.groups import Group
from rstream_core.broker.session import ServerOptions, ServerSession, State
from rstream_core.protocol import commands as c
from rstream_core.protocol.framing import FrameBuffer
from tests.token_program import KEY, signed

LOGIN: tuple[Any, ...] = (
    c.PeerProperties({}),
    c.SaslHandshake(),
    c.SaslAuthenticate("PLAIN", b"\0guest\0guest"),
    c.Tune(1024 * 1024, 60),
    c.Open("/"),
)


def new_session(*, is_local: bool = True, **options: Any) -> ServerSession:
    return ServerSession(
        ServerOptions(**options), advertised_host="here", advertised_port=5552, is_local=is_local, now=0.0
    )


def said(session: ServerSession) -> list[c.Frame]:
    buffer = FrameBuffer()
    buffer.feed(session.take_output())
    return [c.decode(frame) for frame in buffer.frames()]


def receive(session: ServerSession, data: bytes, now: float) -> list[bytes]:
    """The commands among what is received."""
    session.feed(data, now)
    return [frame for frame in session.frames() if not session.take(frame)]


def logged_in(**options: Any) -> ServerSession:
    session = new_session(**options)
    receive(session, b"".join(c.encode(message) for message in LOGIN), 0.0)
    said(session)
    assert session.state is State.READY
    return session


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_the_handshake(step: int) -> None:
    session = new_session()
    data = b"".join(c.encode(message, correlation_id=number) for number, message in enumerate(LOGIN))
    data += c.encode(c.Metadata(("s",)), correlation_id=9) + c.encode(c.Heartbeat())
    commands = []
    for start in range(0, len(data), step):
        commands += receive(session, data[start : start + step], 0.0)
    assert [c.decode(frame).message for frame in commands] == [c.Metadata(("s",))]
    answers = said(session)
    assert [type(frame.message) for frame in answers] == [
        c.PeerPropertiesResponse,
        c.SaslHandshakeResponse,
        c.SaslAuthenticateResponse,
        c.Tune,
        c.OpenResponse,
    ]
    assert [frame.correlation_id for frame in answers] == [0, 1, 2, None, 4]
    assert answers[-1].message.properties == {"advertised_host": "here", "advertised_port": "5552"}
    assert (session.username, session.vhost) == ("guest", "/")


def test_who_may_log_in_from_where() -> None:
    for options, is_local, code in (
        ({}, True, 1),
        ({}, False, 11),
        ({"loopback_users": ()}, False, 1),
        ({"users": {"guest": "other"}}, True, 8),
    ):
        session = new_session(is_local=is_local, **options)
        receive(session, b"".join(c.encode(message) for message in LOGIN[:3]), 0.0)
        assert said(session)[2].code == code
        assert session.has_ended == (code != 1)


def test_passwords_are_not_shown() -> None:
    assert "secret" not in repr(ServerOptions(users={"alice": "secret"}, token_key=b"secret"))


def test_a_user_cannot_become_another() -> None:
    session = logged_in(users={"guest": "guest", "alice": "secret"})
    receive(session, c.encode(c.SaslAuthenticate("PLAIN", b"\0guest\0guest"), correlation_id=5), 0.0)
    assert said(session)[0].code == 1
    assert not session.has_ended
    receive(session, c.encode(c.SaslAuthenticate("PLAIN", b"\0alice\0secret"), correlation_id=6), 0.0)
    assert said(session)[0].code == 21
    assert session.has_ended


def bearer(token: str) -> c.SaslAuthenticate:
    return c.SaslAuthenticate("OAUTHBEARER", f"n,,\x01auth=Bearer {token}\x01\x01".encode())


def token_of(expires: float, subject: str = "alice") -> str:
    return signed({"sub": subject, "exp": expires})


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (bearer(token_of(1010)), 1),
        (bearer(token_of(999)), 8),
        (bearer("a.b.c"), 8),
        (bearer(""), 8),
        (bearer(token_of(1010, "guest")), 11),
        (c.SaslAuthenticate("OAUTHBEARER", None), 9),
        (c.SaslAuthenticate("OAUTHBEARER", b""), 9),
        (c.SaslAuthenticate("OAUTHBEARER", b"n,,\x01host=h\x01\x01"), 9),
        (c.SaslAuthenticate("OAUTHBEARER", bearer(token_of(1010)).data[:-1]), 9),  # type: ignore[index]
        (c.SaslAuthenticate("OAUTHBEARER", bearer(token_of(1010)).data[1:]), 9),  # type: ignore[index]
        (
            c.SaslAuthenticate(
                "OAUTHBEARER", f"n,,\x01auth=Bearer {token_of(1)}\x01auth=Bearer {token_of(1010)}\x01\x01".encode()
            ),
            9,
        ),
        (c.SaslAuthenticate("PLAIN", f"\0whoever\0{token_of(1010)}".encode()), 1),
        (c.SaslAuthenticate("PLAIN", f"\0alice\0{token_of(999)}".encode()), 8),
        (c.SaslAuthenticate("PLAIN", f"\0whoever\0{token_of(1010, 'guest')}".encode()), 11),
    ],
)
def test_who_may_log_in_with_a_token(message: c.SaslAuthenticate, code: int) -> None:
    session = new_session(is_local=False, token_key=KEY, wall_clock=lambda: 1000.0)
    receive(session, b"".join(c.encode(one) for one in (*LOGIN[:2], message)), 50.0)
    answers = said(session)
    assert answers[1].message.mechanisms == ("PLAIN", "OAUTHBEARER")
    assert answers[2].code == code
    assert session.has_ended == (code != 1)
    assert session.username == ("alice" if code == 1 else "")
    assert session.expires == (60.0 if code == 1 else None)
    without = new_session(is_local=False)
    receive(without, b"".join(c.encode(one) for one in (*LOGIN[:2], message)), 50.0)
    answers = said(without)
    assert answers[1].message.mechanisms == ("PLAIN",)
    assert answers[2].code == (7 if message.mechanism == "OAUTHBEARER" else 8)


@pytest.mark.parametrize("heartbeat", [0, 60])
def test_a_session_ends_with_its_token(heartbeat: int) -> None:
    clock = 1000.0
    session = new_session(token_key=KEY, wall_clock=lambda: clock)
    login = (*LOGIN[:2], bearer(token_of(1010)), c.Tune(1024 * 1024, heartbeat), LOGIN[4])
    receive(session, b"".join(c.encode(message) for message in login), 0.0)
    said(session)
    assert session.tick(4.0) == 6.0
    clock = 1005.0
    receive(session, c.encode(bearer(token_of(1025)), correlation_id=5), 5.0)
    assert said(session)[0].code == 1
    assert session.tick(10.0) == 15.0
    assert not session.has_ended
    assert session.tick(25.0) is None
    assert session.has_ended
    assert session.failure == "the token of 'alice' has expired"
    assert said(session) == []


def test_a_token_of_another_user_is_refused() -> None:
    for again, code in ((bearer(token_of(1025, "bob")), 21), (bearer("x"), 8), (LOGIN[2], 20)):
        session = new_session(token_key=KEY, wall_clock=lambda: 1000.0)
        login = (*LOGIN[:2], bearer(token_of(1010)), *LOGIN[3:])
        receive(session, b"".join(c.encode(message) for message in (*login, again)), 0.0)
        assert said(session)[-1].code == code
        assert session.has_ended


def test_heartbeats() -> None:
    session = logged_in()
    assert session.heartbeat == 60
    assert session.tick(10.0) == 50.0
    assert said(session) == []
    assert session.tick(60.0) == 60.0
    assert [type(frame.message) for frame in said(session)] == [c.Heartbeat]
    session.written(100.0)
    assert session.tick(100.0) == 20.0
    receive(session, c.encode(c.Heartbeat()), 110.0)
    assert session.tick(150.0) == 10.0
    assert not session.has_ended
    assert session.tick(230.0) is None
    assert session.has_ended


def test_no_heartbeats() -> None:
    session = new_session()
    messages = (*LOGIN[:3], c.Tune(0, 0), LOGIN[4])
    receive(session, b"".join(c.encode(message) for message in messages), 0.0)
    assert session.tick(1000.0) is None
    assert not session.has_ended
    assert session.frame_max == 1024 * 1024


def test_what_comes_before_an_oversized_frame_is_heard() -> None:
    session = logged_in()
    commands = receive(session, c.encode(c.Metadata(())) + (2**21).to_bytes(4) + b"\0\x08\0\1", 0.0)
    assert len(commands) == 1
    assert said(session)[0].message == c.Close(14, "frame too large")
    assert session.is_closing
    assert receive(session, c.encode(c.Metadata(())), 0.0) == []


def test_commands_are_handed_out_one_by_one() -> None:
    """Who stops at one finds the next later, and nothing behind it has been done meanwhile."""
    session = logged_in()
    messages = (c.Metadata(()), c.SaslAuthenticate("PLAIN", b"\0guest\0wrong"), c.Close(1, "bye"))
    session.feed(b"".join(c.encode(message, correlation_id=1) for message in messages), 0.0)
    assert [c.decode(frame).message for frame in itertools.islice(session.frames(), 1)] == [c.Metadata(())]
    assert said(session) == []
    session.feed(c.encode(c.Heartbeat()), 0.0)
    (frame,) = itertools.islice(session.frames(), 1)
    assert session.take(frame)
    assert (said(session)[0].code, session.has_ended) == (8, True)


def test_what_follows_no_frame_is_not_kept() -> None:
    session = logged_in()
    for _ in range(100):
        assert receive(session, (2**21).to_bytes(4) + bytes(2**16), 0.0) == []
    assert session.is_closing
    assert len(session._incoming) < 2**17


def test_after_its_close_only_the_answer_counts() -> None:
    session = logged_in()
    session.close(13, "unknown frame")
    assert receive(session, c.encode(c.Metadata(())), 0.0) == []
    receive(session, c.encode(c.CloseResponse()), 0.0)
    assert session.has_ended


# Groups.


class Consumer:
    def __init__(self, name: str, said: list[str]) -> None:
        self.name = name
        self.said = said

    def ask(self, *, active: bool) -> None:
        self.said.append(f"{self.name}{'+' if active else '-'}")


def test_a_plain_group_keeps_its_first() -> None:
    said: list[str] = []
    a, b, third = (Consumer(name, said) for name in "abc")
    group = Group(None)
    for one in (a, b, third):
        group.add(one)
    assert said == ["a+"]
    group.answered(a, active=True)
    group.remove(b)
    assert said == ["a+"]
    group.remove(a)
    assert said == ["a+", "c+"]
    group.remove(third)
    assert not group


def test_a_partitions_group_turns() -> None:
    said: list[str] = []
    a, b, third = (Consumer(name, said) for name in "abc")
    group = Group(1)
    group.add(a)
    group.add(b)
    assert said == ["a+", "a-"]
    group.add(third)  # while the first is still stepping down
    assert said == ["a+", "a-"]
    group.answered(a, active=False)
    assert said == ["a+", "a-", "b+"]
    group.remove(a)  # then the third has its turn
    assert said[3:] == ["b-"]
    group.remove(b)  # goes without an answer
    assert said[4:] == ["c+"]
    group.answered(third, active=True)
    assert group.active is third


def test_a_late_answer_changes_nothing() -> None:
    said: list[str] = []
    a, b = Consumer("a", said), Consumer("b", said)
    group = Group(None)
    group.add(a)
    group.add(b)
    group.answered(b, active=False)
    assert group.active is a
    assert said == ["a+"]
