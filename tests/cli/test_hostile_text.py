"""Text of peers, and of whoever names streams, on every way out: nothing steers a terminal, and no line is forged."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from rstream_cli import terminal
from rstream_cli.environment import Environment
from rstream_cli.exit_status import CommandError
from rstream_cli.options.connecting import ConnectionSettings
from rstream_cli.render.status import StatusLine
from rstream_cli.runner import report, tell_warnings
from rstream_core import Client, ConnectionOptions, EmbeddedBroker, Endpoint, RstreamError, ServerClosed
from rstream_core.protocol import commands as c
from rstream_core.text import harmless
from tests.brokers import Broker
from tests.cli.conftest import run_here, run_rstream
from tests.cli.process import running
from tests.cli.terminal import Terminal
from tests.clients import options_for
from tests.peer import Peer, Say, answer, chunk, deliver, remembered, then

HOSTILE = "\x1b]0;pwned\x07\x1b[31m\x9b2J\u202egnp.exe\u2066\u2028\nfake: ok\r\x08\x7f\t[red]é👩\u200d💻[/]\\n"
SEEN = (
    r"\x1b]0;pwned\x07\x1b[31m\x9b2J\u202egnp.exe\u2066\u2028\nfake: ok\r\x08\x7f\t"
    "[red]é👩\u200d💻[/]"
    r"\n"
)
EXACT = SEEN.removesuffix(r"\n") + r"\\n"
CLOSE = c.encode(c.Close(1, HOSTILE), correlation_id=9)
CLOSES = then(deliver(), CLOSE)
NOW = ("--recover-for", "0")
FIRST = ("-o", "first", "-n", "1", "--timeout", "20s")


def says_of(kind: Any) -> Say:
    """An answer with hostile text in it."""
    return answer(
        {
            c.PartitionsResponse: c.PartitionsResponse((HOSTILE, "s-1")),
            c.RouteResponse: c.RouteResponse((HOSTILE,)),
            c.SaslHandshakeResponse: c.SaslHandshakeResponse((HOSTILE,)),
            c.OpenResponse: c.OpenResponse({"advertised_host": HOSTILE, "advertised_port": "1"}),
            c.PeerPropertiesResponse: c.PeerPropertiesResponse({"product": HOSTILE, "version": "4.3.6"}),
        }[kind]
    )


PARTS: dict[type[Any], Say] = {c.Partitions: says_of(c.PartitionsResponse), c.Route: says_of(c.RouteResponse)}


def _turn(_peer: Peer, request: c.Subscribe, number: int) -> bytes:
    update = c.ConsumerUpdate(request.subscription_id, True)
    return c.encode(c.SubscribeResponse(), correlation_id=number) + c.encode(update, correlation_id=7)


TURN: dict[type[Any], Say] = {
    c.Subscribe: _turn,
    c.QueryOffset: remembered,
    c.ConsumerUpdateResponse: c.encode(c.DeliverCommitted(0, 0, chunk(b"hello"))),
}


LAGGING: dict[type[Any], Say] = {
    c.QueryOffset: answer(c.QueryOffsetResponse(0)),
    c.Subscribe: deliver(chunk(b"a", b"b")),
}


def check(text: str) -> None:
    """Whatever was written is lines that stand for themselves."""
    assert harmless(text, lines=True) == text
    assert not any(line.startswith("fake") for line in text.splitlines()), text


def values(text: str) -> list[Any]:
    """The values of JSON in an output: one a line for programs, as many lines each as they take for a person."""
    found, decoder = [], json.JSONDecoder()
    while text:
        value, end = decoder.raw_decode(text)
        assert text[end] == "\n"
        found.append(value)
        text = text[end + 1 :]
    return found


COMMANDS: tuple[tuple[Mapping[type[Any], Say], tuple[str, ...]], ...] = (
    # What a broker says.
    ({c.Metadata: CLOSE}, ("stream", "info", "s", *NOW)),
    ({c.Metadata: CLOSE}, ("publish", "s", "-m", "x", *NOW)),
    ({c.Publish: CLOSE}, ("publish", "s", "-m", "x", "--stats", "line", *NOW)),
    ({c.Publish: CLOSE}, ("publish", "s", "-m", "x", "--stats", "json", *NOW)),
    ({c.Subscribe: CLOSES}, ("consume", "s", "-o", "first", "--stats", "line", *NOW)),
    ({c.Subscribe: CLOSES}, ("consume", "s", "-o", "first", "--recover-for", "1s")),
    ({c.Subscribe: CLOSES}, ("consume", "s", "-o", "first", "--recover-for", "1s", "--stats", "json")),
    ({c.Metadata: CLOSE}, ("diff", "s", "t", *NOW)),
    ({c.Subscribe: CLOSES}, ("diff", "s", "t", "--stats", "line", *NOW)),
    ({c.Subscribe: CLOSES}, ("diff", "s", "t", "--json", *NOW)),
    ({c.SaslHandshake: says_of(c.SaslHandshakeResponse)}, ("stream", "info", "s")),
    ({c.Open: says_of(c.OpenResponse)}, ("doctor",)),
    ({c.PeerProperties: says_of(c.PeerPropertiesResponse)}, ("doctor",)),
    ({c.PeerProperties: says_of(c.PeerPropertiesResponse)}, ("doctor", "--json")),
    # What others have called streams.
    (PARTS, ("superstream", "info", "s")),
    (PARTS, ("superstream", "info", "s", "--json")),
    (PARTS, ("superstream", "consume", "s", *FIRST, "--stats", "line")),
    ({**PARTS, **TURN}, ("sac-consume", "s", "--name", "n", *FIRST)),
    ({**PARTS, c.DeclarePublisher: CLOSE}, ("superstream", "publish", "s", "--key", "k", "-m", "x", *NOW)),
    ({**PARTS, c.Route: answer(c.RouteResponse(()))}, ("superstream", "route", "s", HOSTILE, "--routing", "key")),
    ({**LAGGING, **PARTS}, ("lag", "s", "--name", HOSTILE, *NOW)),
    ({**LAGGING, **PARTS}, ("lag", "s", "--name", HOSTILE, "--json", *NOW)),
    ({**LAGGING, c.QueryOffset: CLOSE}, ("lag", "s", "--name", "n", *NOW)),
    # What a user, or a script, has passed on.
    ({}, ("stream", "create", HOSTILE, "--argument", "\x1b[31m=1")),
    ({}, ("stream", "delete", HOSTILE, "--yes")),
    ({}, ("stream", "delete", HOSTILE)),
    ({}, ("stream", "info", HOSTILE)),
    ({}, ("stream", "info", HOSTILE, "--json")),
    ({}, ("superstream", "create", HOSTILE, "--routing-keys", f"{HOSTILE},b")),
    ({}, ("offset", "store", HOSTILE, "0", "--name", HOSTILE)),
    ({}, ("offset", "query", HOSTILE, "--name", HOSTILE, "--json")),
    ({}, ("offset", "resolve", HOSTILE, HOSTILE)),
    ({}, ("lag", HOSTILE, "--name", HOSTILE)),
    ({}, ("lag", "s", "--fail-over", HOSTILE)),
    ({}, ("lag", "s", "--listen", HOSTILE)),
    ({}, ("publish", HOSTILE, "-m", "x", "--stats", "line")),
    ({}, ("publish", "s", HOSTILE)),
    ({}, ("publish", "s", "--failed-to", f"/nowhere/{HOSTILE}", "-m", "x")),
    ({}, ("consume", HOSTILE, *FIRST, "--stats", "line")),
    ({}, ("consume", HOSTILE, *FIRST, "--stats", "json")),
    (PARTS, ("diff", HOSTILE, HOSTILE, "--offset", HOSTILE)),
    ({c.Subscribe: CLOSES}, ("diff", HOSTILE, HOSTILE, "--stats", "json", *NOW)),
    ({}, ("diff", "s", "t", "--ignore", HOSTILE)),
    ({}, ("diff", "s", "--to-uri", HOSTILE)),
    ({}, ("diff", "s", "--to-context", HOSTILE)),
    (TURN, ("sac-consume", HOSTILE, "--name", HOSTILE, *FIRST)),
    ({}, ("consume", "s", "-o", HOSTILE)),
    ({}, ("stream", "info", "s", "--vhost", HOSTILE)),
    ({}, ("stream", HOSTILE)),
    ({}, ("stream", "info", "s", f"--{HOSTILE}")),
    ({}, ("stream", "info", "s", HOSTILE)),
    ({}, (HOSTILE,)),
)


@pytest.mark.parametrize("on_terminal", [False, True])
@pytest.mark.parametrize("verbose", [(), ("-vv",)])
@pytest.mark.parametrize(("says", "command"), COMMANDS, ids=[" ".join(command)[:40] for _, command in COMMANDS])
def test_every_way_out(
    says: Mapping[type[Any], Say], command: tuple[str, ...], verbose: tuple[str, ...], on_terminal: bool
) -> None:
    with Peer(says) as peer:
        done = run_here(*command, *verbose, env={"RSTREAM_URI": peer.uri}, terminal=on_terminal)
    check(done.output)
    check(done.errors)
    if "--json" in command:
        values(done.output)
    if "--stats" in command and "json" in command and not verbose:
        told = [json.loads(line) for line in done.errors.splitlines() if line.startswith("{")]
        assert told[-1]["event"] == "summary"


def test_json_stays_exact() -> None:
    with Peer(PARTS) as peer:
        done = run_here("superstream", "info", "s", "--json", env={"RSTREAM_URI": peer.uri}, terminal=True)
        assert [partition["stream"] for partition in json.loads(done.output)["partitions"]] == [HOSTILE, "s-1"]
        done = run_here("consume", HOSTILE, *FIRST, "--stats", "json", env={"RSTREAM_URI": peer.uri}, terminal=True)
        assert json.loads(done.errors.splitlines()[-1])["stream"] == HOSTILE


def test_names_go_to_programs_as_they_are_and_to_people_so_that_they_can_be_told_apart() -> None:
    with Peer(PARTS) as peer:
        command = ("superstream", "route", "s", "key", "--routing", "key")
        assert run_here(*command, env={"RSTREAM_URI": peer.uri}).output == f"key\t{HOSTILE}\n"
        assert run_here(*command, env={"RSTREAM_URI": peer.uri}, terminal=True).output == f"key\t{EXACT}\n"
        table = run_here("superstream", "info", "s", env={"RSTREAM_URI": peer.uri}).output.splitlines()
        assert len(table) == 6
        assert table[2] == EXACT


def test_a_close_reason_forges_no_line() -> None:
    closed = threading.Event()

    def close(_peer: Peer, _request: c.Credit, _number: int) -> bytes:
        closed.set()
        return CLOSE

    def silent_since(_peer: Peer, _request: c.PeerProperties, number: int) -> bytes:
        return (
            b"" if closed.is_set() else c.encode(c.PeerPropertiesResponse({"version": "4.3.6"}), correlation_id=number)
        )

    with Peer({c.Credit: close, c.PeerProperties: silent_since}) as peer:
        arguments = ("consume", "s", "-o", "first", "--credit", "1", "--recover-for", "1s")  # credits go back in halves
        done = run_here(*arguments, env={"RSTREAM_URI": peer.uri})
    first, *_ = done.errors.splitlines()
    assert first.startswith("warning: ")
    assert SEEN in first


def test_tracebacks_and_what_caused_them() -> None:
    errors = io.StringIO()
    env = Environment(io.StringIO(), io.StringIO(), errors, {})
    try:
        try:
            raise KeyError(HOSTILE)
        except KeyError as inner:
            outer = CommandError(HOSTILE, hint=HOSTILE)
            outer.add_note(HOSTILE)
            raise outer from ExceptionGroup(HOSTILE, [inner, ValueError(HOSTILE)])
    except CommandError as error:
        report(error, env=env, verbosity=2)
    text = errors.getvalue()
    check(text)
    assert "direct cause" in text
    assert "Traceback (most recent call last):\n  File" in text
    assert text.splitlines()[-2:] == [f"error: {SEEN}; {SEEN}", f"hint: {SEEN}"]


def test_what_the_core_logs_is_harmless_whoever_listens(caplog: pytest.LogCaptureFixture) -> None:
    """The handler of a program of one's own has no other place for it."""

    async def use(peer: Peer) -> RstreamError:
        client = Client(ConnectionOptions(endpoints=(Endpoint("127.0.0.1", peer.port),)), recovery=None)
        try:
            await client.start()
            await client.metadata(HOSTILE)
        except RstreamError as error:
            return error
        finally:
            await client.close()
        raise AssertionError

    caplog.set_level(logging.DEBUG, "rstream_core")
    for says in ({c.Metadata: CLOSE}, {c.SaslHandshake: says_of(c.SaslHandshakeResponse)}):
        with Peer(says) as peer:
            error = asyncio.run(use(peer))
        check(str(error))
        assert "\n" not in str(error)
        if isinstance(error, ServerClosed):
            assert error.reason == HOSTILE
    for record in caplog.records:
        assert harmless(record.getMessage()) == record.getMessage()


def test_what_a_broker_of_ones_own_warns_of() -> None:
    """With a status line, and without one."""
    errors = io.StringIO()
    env = Environment(io.StringIO(), io.StringIO(), errors, {})
    status_line = StatusLine(env, EmbeddedBroker())
    logger = logging.getLogger("rstream_core")
    before = logger.handlers[:], logger.propagate
    try:
        for warn in (ConnectionSettings(env).warn, status_line.warn):
            tell_warnings(warn)
            logger.warning("%s", HOSTILE)
    finally:
        logger.handlers[:], logger.propagate = before
    assert errors.getvalue() == f"warning: {SEEN}\n"
    assert status_line._notes.get_nowait() == f"warning: {SEEN}"


async def test_partitions_that_anybody_may_make(broker: Broker, stream_name: str) -> None:
    """As a broker has them: whoever may create a super stream chooses the names."""
    keys = [
        "\x1b[31mred\x1b[0m",
        "\x9b2J",
        "\u202egnp.exe",
        "a\tb\x07",
        "[red]",
    ]  # line breaks are the one thing it takes out
    async with Client(options_for(broker)) as client:
        names = await client.create_super_stream(stream_name, routing_keys=keys)
        try:
            env = {"RSTREAM_URI": broker.uri}
            for command in (
                ("superstream", "info", stream_name),
                ("superstream", "consume", stream_name, "-o", "first", "--until", "end", "--stats", "line", "-vv"),
                ("superstream", "publish", stream_name, "--key", "k", "-m", "x", "-vv"),
            ):
                done = await asyncio.to_thread(run_rstream, *command, env=env)
                assert done.returncode == 0
                check(done.stdout.decode())
                check(done.stderr.decode())
            route = ("superstream", "route", stream_name, "--routing", "key", "--", *keys)
            done = await asyncio.to_thread(run_rstream, *route, env=env)
            assert done.stdout.decode() == "".join(f"{key}\t{name}\n" for key, name in zip(keys, names, strict=True))
        finally:
            await client.delete_super_stream(stream_name)


# Bodies.

BODIES = (b"plain", "\u4f60\u597d é 👩\u200d💻".encode(), b"two\nlines\tand a tab", HOSTILE.encode(), b"\xff\x9b\xc3")
SHOWN = {
    BODIES[0]: "plain",
    BODIES[1]: "\u4f60\u597d é 👩\u200d💻",
    BODIES[2]: "two\nlines\tand a tab",
    BODIES[3]: r"\x1b]0;pwned\x07\x1b[31m\u009b2J\u202egnp.exe\u2066\u2028" + "\n"
    r"fake: ok\r\x08\x7f" + "\t[red]é👩\u200d💻[/]\\n",
    BODIES[4]: r"\xff\x9b\xc3",
}
READ = ("consume", "s", "-o", "first", "-n", str(len(BODIES)), "--timeout", "20s")
RED = "\x1b[31m"


def consumed(*options: str, terminal: bool) -> bytes:
    with Peer({c.Subscribe: deliver(chunk(*BODIES))}) as peer:
        done = run_here(*READ, *options, env={"RSTREAM_URI": peer.uri}, terminal=terminal)
    assert done.status == 0
    return done.data


@pytest.mark.parametrize(
    ("options", "shown", "plain"),
    [
        ((), "".join(f"{text}\n" for text in SHOWN.values()), b"".join(body + b"\n" for body in BODIES)),
        (("-0",), "".join(rf"{text}\x00" for text in SHOWN.values()), b"".join(body + b"\0" for body in BODIES)),
        (
            ("-d", f"{RED}|"),
            "".join(f"{text}{RED}|" for text in SHOWN.values()),
            b"".join(body + RED.encode() + b"|" for body in BODIES),
        ),
        (
            ("--format", f"{RED}%s|%S|%t\n"),
            "".join(f"{RED}{text}|{len(body)}|s\n" for body, text in SHOWN.items()),
            b"".join(b"%b%b|%d|s\n" % (RED.encode(), body, len(body)) for body in BODIES),
        ),
        (("--output", "raw"), None, b"".join(BODIES)),
    ],
)
def test_bodies_are_visible_on_a_terminal_and_bytes_elsewhere(
    options: tuple[str, ...], shown: str | None, plain: bytes
) -> None:
    assert consumed(*options, terminal=False) == plain
    assert consumed(*options, terminal=True) == (plain if shown is None else shown.encode())


def test_lengths_are_visible_too() -> None:
    plain = b"".join(len(body).to_bytes(4) + body for body in BODIES)
    assert consumed("--output", "len32", terminal=False) == plain
    text = consumed("--output", "len32", terminal=True).decode()
    assert harmless(text, lines=True) == text
    assert text.startswith(r"\x00\x00\x00\x05plain")


def test_json_on_a_terminal_is_the_same_json() -> None:
    plain = consumed("--json", terminal=False)
    shown = consumed("--json", terminal=True)
    check(shown.decode())
    assert values(shown.decode()) == [json.loads(line) for line in plain.splitlines()]
    assert shown.count(b"\n") > plain.count(b"\n")
    assert consumed("--json", "--pretty", "never", terminal=True).count(b"\n") == plain.count(b"\n")
    assert consumed("--json", "--pretty", "always", terminal=False) != plain


def test_on_a_real_terminal() -> None:
    with (
        Peer({c.Subscribe: deliver(chunk(*BODIES))}) as peer,
        Terminal() as screen,
        running(*READ, env={"RSTREAM_URI": peer.uri, "TERM": "xterm"}, stdout=screen.descriptor) as process,
    ):
        assert process.wait(30) == 0
        screen.read_until(SHOWN[BODIES[4]])
        assert screen.shown == "".join(f"{text}\n" for text in SHOWN.values()).replace("\n", "\r\n")


def test_where_bytes_of_utf8_are_control_characters() -> None:
    """\u00db is C3 9B in UTF-8, and 9B begins a sequence on a terminal of eight bits."""
    latin = terminal.Bodies("iso8859-1")
    assert latin.show("\u00db\u4f60\n".encode()) == b"\xdb\\u4f60\n"
    assert latin.show_json('{"a":"\u00db\u4f60\x9b"}\n'.encode()) == b'{"a":"\xdb\\u4f60\\u009b"}\n'


# URIs where names belong.

URI = "rabbitmq-stream://user:s3/cr@t@localhost/"


@pytest.mark.parametrize(
    "uri",
    [URI, URI.upper().replace("S3/CR@T", "s3/cr@t"), f" {URI}", URI.replace("://", "+tls://"), "amqp://u:s3/cr@t@h"],
)
@pytest.mark.parametrize(
    "command",
    [
        ("stream", "create", "URI"),
        ("stream", "delete", "URI", "--yes"),
        ("stream", "info", "URI"),
        ("publish", "URI", "-m", "x"),
        ("publish", "s", "URI"),
        ("publish", "s", "--name", "URI", "-m", "x"),
        ("consume", "URI"),
        ("consume", "s", "--name", "URI"),
        ("sac-consume", "URI", "--name", "n"),
        ("sac-consume", "s", "--name", "URI"),
        ("superstream", "create", "URI", "--partitions", "1"),
        ("superstream", "delete", "URI", "--yes"),
        ("superstream", "info", "URI"),
        ("superstream", "route", "URI", "k"),
        ("superstream", "publish", "URI", "--key", "k", "-m", "x"),
        ("superstream", "consume", "URI"),
        ("offset", "store", "URI", "1", "--name", "n"),
        ("offset", "store", "s", "1", "--name", "URI"),
        ("offset", "query", "URI", "--name", "n"),
        ("offset", "resolve", "URI", "first"),
        ("doctor", "--stream", "URI"),
        ("stream", "info", "s", "--host", "URI"),
    ],
)
def test_a_uri_where_a_name_belongs_is_refused_without_its_password(command: tuple[str, ...], uri: str) -> None:
    done = run_here(*(uri if word == "URI" else word for word in command))
    assert done.status == 2, done
    assert "s3" not in done.errors + done.output
    assert "URI" in done.errors.splitlines()[0]
    assert "--uri" in done.errors.splitlines()[1]


@pytest.mark.parametrize(
    "command",
    [
        (URI,),
        ("stream", URI),
        ("stream", "info", "s", URI),
        ("stream", "info", "s", "--port", URI),
        ("offset", "store", "s", URI, "--name", "n"),
        ("publish", "s", "--uri", URI, "-5"),
        ("consume", "s", "-o", URI),
    ],
)
def test_no_error_shows_the_password_of_a_uri(command: tuple[str, ...]) -> None:
    done = run_here(*command)
    assert done.status == 2
    assert "s3" not in done.errors


def test_the_stream_of_the_environment() -> None:
    done = run_here("consume", env={"RSTREAM_STREAM": URI})
    assert done.status == 2
    assert "s3" not in done.errors


@pytest.mark.parametrize("name", ["a:b", "http://example.com/a", "rabbitmq-stream", "urn:a@b", "mqtt://sensors"])
def test_names_that_look_like_a_uri_by_half_are_names(name: str) -> None:
    with Peer() as peer:
        assert run_here("stream", "info", name, env={"RSTREAM_URI": peer.uri}).status == 0
