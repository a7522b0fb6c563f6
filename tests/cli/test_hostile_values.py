"""What a peer says that cannot be true, or follows no protocol: commands end in 6, and one line says whose fault."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from rstream_core.protocol import commands as c
from tests.cli.conftest import run_here
from tests.peer import Peer, Say, answer, chunk, deliver, metadata, refuse, then

UNKNOWN_CODES = (0, 13, 14, 99, 65535)

INFO = ("stream", "info", "s", "--recover-for", "0")
SUPER_INFO = ("superstream", "info", "s")
ROUTE = ("superstream", "route", "s", "k", "--routing", "key")
CONSUME = ("consume", "s", "-o", "first", "-n", "5", "--timeout", "20s", "--recover-for", "0")
PUBLISH = ("publish", "s", "-m", "x", "--recover-for", "0")
NAMED = ("publish", "s", "-m", "x", "--name", "n", "--recover-for", "0")
QUERY = ("offset", "query", "s", "--name", "n", "--recover-for", "0")
RESOLVE = ("offset", "resolve", "s", "next")
LAG = ("lag", "s", "--name", "n", "--recover-for", "0")
CREATE = ("stream", "create", "s")
DELETE = ("stream", "delete", "s", "--yes")


def tuned(frame_max: int) -> Say:
    return lambda _peer, _request, number: (
        c.encode(c.SaslAuthenticateResponse(None), correlation_id=number) + c.encode(c.Tune(frame_max, 60))
    )


def damaged() -> bytes:
    data = bytearray(chunk(b"hello"))
    data[-1] ^= 1
    return bytes(data)


def opened(**properties: str) -> Say:
    return answer(c.OpenResponse(properties))


def told(version: str) -> Say:
    return answer(c.PeerPropertiesResponse({"version": version}))


def subscribed(said: bytes) -> Say:
    return then(deliver(), said)


GARBAGE = {
    "an unknown command": bytes.fromhex("00000004 007f0001"),
    "a frame without a version": bytes.fromhex("00000002 0017"),
    "an oversized frame": bytes.fromhex("7fffffff 00030001"),
    "an oversized chunk": bytes.fromhex("ffffffff 00080001"),
    "an array that is not there": bytes.fromhex("00000009 00030001 00 7fffffff"),
    "a client's command": c.encode(c.Create("what?", {})),
    "text": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "a turn that nobody asked for": c.encode(c.ConsumerUpdate(0, True), correlation_id=7),
    "a close": c.encode(c.Close(99, "no\nfake: ok"), correlation_id=7),
    "more chunks than asked for": c.encode(c.DeliverCommitted(0, 0, chunk(b"x"))) * 200,
}

CASES: dict[str, tuple[Mapping[type[Any], Say], tuple[tuple[str, ...], ...]]] = {
    "a port over 65535": ({c.Metadata: metadata("127.0.0.1", 70_000)}, (INFO, CONSUME, PUBLISH, RESOLVE, QUERY, LAG)),
    "port 0": ({c.Metadata: metadata("127.0.0.1", 0)}, (INFO, CONSUME, PUBLISH)),
    "a host with NUL": ({c.Metadata: metadata("a\0b", 5552)}, (INFO, CONSUME, PUBLISH, SUPER_INFO)),
    "a host with ESC": ({c.Metadata: metadata("\x1b]0;x\x07", 5552)}, (INFO, CONSUME)),
    "a host without end": ({c.Metadata: metadata("a" * 32_000, 5552)}, (INFO, CONSUME)),
    "no host": ({c.Metadata: metadata("", 5552)}, (INFO, CONSUME)),
    "an advertised port ²": (
        {c.Open: opened(advertised_host="h", advertised_port="²")},
        (INFO, ("doctor",), (*CONSUME, "--load-balancer")),
    ),
    "an advertised port of 5,000 digits": ({c.Open: opened(advertised_host="h", advertised_port="1" * 5000)}, (INFO,)),
    "an advertised port over 65535": ({c.Open: opened(advertised_host="h", advertised_port="65536")}, (INFO,)),
    "an advertised host with NUL": ({c.Open: opened(advertised_host="a\0", advertised_port="1")}, (INFO, ("doctor",))),
    "a version ².1": ({c.PeerProperties: told("².1")}, (INFO, ("doctor",), PUBLISH)),
    "a version of 5,000 digits": ({c.PeerProperties: told("9" * 5000)}, (INFO, CONSUME)),
    "a version with ESC": ({c.PeerProperties: told("3.9\x1b[31m")}, (SUPER_INFO,)),
    "frames of 1 byte": ({c.SaslAuthenticate: tuned(1)}, (PUBLISH, INFO)),
    "a damaged chunk": ({c.Subscribe: deliver(damaged())}, (CONSUME, INFO)),
    "an offset past the last one": ({c.Subscribe: deliver(chunk(b"a", b"b", offset=2**64 - 1))}, (CONSUME,)),
    "an offset that is a time": (
        {c.ResolveOffsetSpec: answer(c.ResolveOffsetSpecResponse(c.OffsetSpec(5, -5)))},
        (RESOLVE, ("consume", "s", "-o", "next", "--timeout", "20s", "--recover-for", "60s")),
    ),
    "a partition without a name": (
        {c.Partitions: answer(c.PartitionsResponse(("",)))},
        (SUPER_INFO, ROUTE, ("superstream", "consume", "s", *CONSUME[2:])),
    ),
    "a partition with a long name": ({c.Partitions: answer(c.PartitionsResponse(("p" * 256,)))}, (SUPER_INFO,)),
    "a route without a name": ({c.Route: answer(c.RouteResponse(("",)))}, (ROUTE,)),
    "another answer": ({c.StreamStats: answer(c.CreateResponse())}, (INFO,)),
    "an answer that is cut off": (
        {c.Partitions: lambda _p, _r, number: bytes.fromhex("00000008 80190001") + number.to_bytes(4)},
        (SUPER_INFO, ROUTE),
    ),
    **{f"{what} after a subscription": ({c.Subscribe: subscribed(said)}, (CONSUME,)) for what, said in GARBAGE.items()},
    **{
        f"{what} while a stream is asked for": ({c.Metadata: said}, (INFO, PUBLISH))
        for what, said in GARBAGE.items()
        if not what.startswith(("more", "a turn"))
    },
}


@pytest.mark.parametrize(
    ("says", "command"),
    [pytest.param(says, command, id=f"{name}: {command[0]}") for name, (says, use) in CASES.items() for command in use],
)
def test_a_fault_of_the_peer_ends_in_6_and_names_it(says: Mapping[type[Any], Say], command: tuple[str, ...]) -> None:
    check(says, command)


REQUESTS: dict[type[Any], tuple[str, ...]] = {
    c.PeerProperties: INFO,
    c.SaslHandshake: INFO,
    c.SaslAuthenticate: INFO,
    c.Open: INFO,
    c.ExchangeCommandVersions: INFO,
    c.StreamStats: INFO,
    c.Subscribe: CONSUME,
    c.DeclarePublisher: PUBLISH,
    c.QueryPublisherSequence: NAMED,
    c.QueryOffset: QUERY,
    c.ResolveOffsetSpec: RESOLVE,
    c.Create: CREATE,
    c.Delete: DELETE,
    c.Partitions: SUPER_INFO,
    c.Route: ROUTE,
    c.CreateSuperStream: ("superstream", "create", "s", "--partitions", "2"),
    c.DeleteSuperStream: ("superstream", "delete", "s", "--yes"),
}


@pytest.mark.parametrize("code", UNKNOWN_CODES)
def test_a_code_that_nobody_knows_ends_in_6_and_names_who_said_it(code: int) -> None:
    for request, command in REQUESTS.items():
        check({request: refuse(request, code)}, command)
    check({c.Metadata: metadata("127.0.0.1", 5552, code=code)}, INFO)
    moved = c.encode(c.MetadataUpdate(code, "s"))
    check({c.Subscribe: subscribed(moved)}, CONSUME)


def check(says: Mapping[type[Any], Say], command: tuple[str, ...], status: int = 6) -> None:
    with Peer(says) as peer:
        done = run_here(*command, env={"RSTREAM_URI": peer.uri})
    seen = done.output if command[0] == "doctor" else done.errors
    assert done.status == status, done
    assert peer.endpoint in seen, seen
    assert "internal error" not in done.errors + seen
    assert all(line.startswith(("error: ", "hint: ")) for line in done.errors.splitlines()), done
    assert done.errors.count("error: ") == (command[0] != "doctor"), done
    assert "\x1b" not in done.errors + done.output


def test_messages_for_which_no_publishing_id_is_left_are_not_confirmed() -> None:
    check({c.QueryPublisherSequence: answer(c.QueryPublisherSequenceResponse(2**64 - 1))}, NAMED, status=7)


def test_a_route_to_what_is_no_partition() -> None:
    """It may have been added since."""
    with Peer({c.Route: answer(c.RouteResponse(("elsewhere",)))}) as peer:
        command = ("superstream", "publish", "s", "--routing", "key", "--key", "k", "-m", "x")
        done = run_here(*command, env={"RSTREAM_URI": peer.uri})
    assert (done.status, done.errors) == (
        8,
        "error: record 1: routing key 'k' is bound to 'elsewhere', which was no partition when the run began\n",
    )


def test_a_peer_that_says_what_a_broker_says_is_one() -> None:
    """Else what is above would show nothing."""
    one = ("consume", "s", "-o", "first", "-n", "1")
    commands = {one if command is CONSUME else command for command in REQUESTS.values()}
    for command in (*commands, PUBLISH, ("doctor",)):
        with Peer() as peer:
            done = run_here(*command, env={"RSTREAM_URI": peer.uri})
            assert done.status == 0, (command, done)
