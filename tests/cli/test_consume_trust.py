"""``consume`` and its kin where nothing may be lost in silence, and nothing waited for in vain.

Ends at which there is no message, what retention took, and what cannot be shown; each kind of broker.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from rstream_core import AMQPMessage, Client, EmbeddedBroker, OffsetNotFound
from tests.brokers import Broker
from tests.cli.conftest import Run, as_lines, run_rstream
from tests.cli.process import ended, interrupt, running, summary_of, told
from tests.clients import options_for, publish, publish_filtered

SMALL = {"max-length-bytes": "20000", "stream-max-segment-size-bytes": "5000"}
"""A stream of about twenty messages of ``LONG``."""
LONG = AMQPMessage(body="x" * 980).encode()
T = TypeVar("T")


RETENTION = 60.0
"""Seconds for a broker to take what is too old; it looks when a segment is full."""


class Aside:
    """What a test does beside the program that it tests: a process for each would take most of its time."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def __call__(self, use: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        async def main() -> T:
            async with Client(options_for(self._broker)) as client:
                return await use(client)

        return asyncio.run(main())

    def store(self, stream: str, *chunks: list[bytes]) -> None:
        self(lambda client: publish(client, stream, *chunks))

    def store_offset(self, stream: str, name: str, offset: int) -> None:
        """Returns when it lies in the stream; it shows before that."""

        async def store(client: Client) -> None:
            before = (await client.stats(stream)).committed_chunk_id
            await client.store_offset(stream, name, offset)
            async with asyncio.timeout(30):
                while (await client.stats(stream)).committed_chunk_id == before:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.01)

        self(store)

    def stored(self, stream: str, name: str) -> int:
        return self(lambda client: client.query_offset(stream, name))

    def lose(self, stream: str, beyond: int = 10) -> int:
        """Publishes until retention has taken that offset; what the stream begins with then."""

        async def lose(client: Client) -> int:
            before = -1
            async with asyncio.timeout(RETENTION):
                while (begins := (await client.stats(stream)).first_offset or 0) <= beyond or begins != before:
                    if begins <= beyond:
                        await publish(client, stream, *[[LONG]] * 10)
                    await asyncio.sleep(0.05)
                    before = begins
            return begins

        return self(lose)


@pytest.fixture
def aside(broker: Broker) -> Aside:
    return Aside(broker)


@pytest.fixture
def stream(aside: Aside, stream_name: str) -> Iterator[str]:
    aside(lambda client: client.create_stream(stream_name))
    yield stream_name
    aside(lambda client: client.delete_stream(stream_name, missing_ok=True))


@pytest.fixture
def small(aside: Aside, stream_name: str) -> Iterator[str]:
    aside(lambda client: client.create_stream(stream_name, SMALL))
    yield stream_name
    aside(lambda client: client.delete_stream(stream_name, missing_ok=True))


@pytest.fixture
def orders(aside: Aside, stream_name: str) -> Iterator[str]:
    """A super stream of two small partitions."""
    aside(lambda client: client.create_super_stream(stream_name, partitions=2, arguments=SMALL))
    yield stream_name
    aside(lambda client: client.delete_super_stream(stream_name, missing_ok=True))


def good(text: str) -> bytes:
    return AMQPMessage(body=text, application_properties={"region": "eu"}).encode()


@pytest.fixture
def three(aside: Aside, stream: str) -> str:
    """0, 1 and 2, and behind them a stored offset."""
    aside.store(stream, [good("0"), good("1"), good("2")])
    aside.store_offset(stream, "me", 2)
    return stream


# --- ends ------------------------------------------------------------------------------------------------------


def test_until_whatever_is_named_as_the_end(run: Run, three: str) -> None:
    facts = json.loads(run("stream", "info", three, "--json").stdout)
    named = {facts["last_offset"], facts["committed_offset"]}
    named.add(int(run("offset", "resolve", three, "last").stdout))
    assert named == {0, 2, 3}
    for offset in named:
        done = run("consume", three, "-o", "first", "--until", str(offset))
        assert (done.returncode, done.stdout) == (0, b"0\n1\n2\n"[: 2 * offset + 2])


@pytest.mark.parametrize("start", ["3", "next", "2100-01-01"])
def test_until_the_end_from_behind_the_last_message(run: Run, three: str, start: str) -> None:
    """Offset 3 is a record of the broker's own."""
    done = run("consume", three, "-o", start, "--until", "3")
    words = f"warning: no message lies between --offset {start} and --until 3: --until is before --offset\n"
    assert (done.returncode, done.stdout, done.stderr.decode()) == (0, b"", "" if start == "3" else words)


def test_until_a_record_of_the_brokers_before_any_message(run: Run, aside: Aside, stream: str) -> None:
    aside.store_offset(stream, "me", 1000)
    done = run("consume", stream, "-o", "first", "--until", "0")
    assert (done.returncode, done.stdout) == (0, b"")


def test_until_a_record_of_the_brokers_among_the_messages(run: Run, aside: Aside, three: str) -> None:
    aside.store(three, [good("4")])
    done = run("consume", three, "-o", "first", "--until", "3", "--name", "other")
    assert (done.returncode, done.stdout) == (0, b"0\n1\n2\n")
    assert aside.stored(three, "other") == 2


@pytest.mark.parametrize("start", ["first", "next", "-1h"])
def test_until_an_offset_that_is_to_come(env: dict[str, str], aside: Aside, three: str, start: str) -> None:
    with running("consume", three, "-o", start, "--until", "5", "--stats", "json", env=env) as consumer:
        told(consumer, lambda line: line["event"] == "progress" and line["elapsed"] > 1.5)  # it has looked once more
        assert consumer.poll() is None
        aside.store(three, [good("4"), good("5"), good("6")])
        code, errors = ended(consumer)
        assert consumer.stdout is not None
        written = consumer.stdout.read()
    before = b"" if start == "next" else b"0\n1\n2\n"
    assert (code, written) == (0, before + b"4\n5\n")
    assert summary_of(errors)["reason"] == "--until is reached"


@pytest.mark.parametrize("start", ["first", "next"])
def test_until_an_offset_that_a_record_of_the_brokers_takes(
    env: dict[str, str], aside: Aside, three: str, start: str
) -> None:
    """No message can come at it any more, and everything before it is there."""
    with running("consume", three, "-o", start, "--until", "4", "--stats", "json", env=env) as consumer:
        told(consumer, lambda line: line["event"] == "progress")
        aside.store_offset(three, "other", 1)
        code, errors = ended(consumer)
        assert consumer.stdout is not None
        assert consumer.stdout.read() == (b"0\n1\n2\n" if start == "first" else b"")
    assert (code, summary_of(errors)["reason"]) == (0, "--until is reached")


def test_until_an_offset_that_is_to_come_where_the_broker_filters(
    env: dict[str, str], run: Run, aside: Aside, broker: Broker, stream: str
) -> None:
    """What it leaves out may be what lies there; only what is there can have been left out."""

    def store(*numbers: int) -> None:
        pairs = [("odd" if number % 2 else "even", AMQPMessage(body=str(number)).encode()) for number in numbers]
        asyncio.run(publish_filtered(options_for(broker), stream, *[[pair] for pair in pairs]))

    store(0, 1, 2, 3, 4)
    words = ("--filter", "odd", "--name", "me", "--stats", "json")
    done = run("consume", stream, "-o", "first", "--until", "4", *words)
    assert (done.returncode, done.stdout) == (0, b"1\n3\n")
    with running("consume", stream, "-o", "first", "--until", "10", *words, env=env) as consumer:
        assert consumer.stdout is not None
        assert consumer.stdout.read(4) == b"1\n3\n"
        told(consumer, lambda line: line["event"] == "progress" and line["elapsed"] > 1.5)
        assert consumer.poll() is None
        interrupt(consumer)
        assert ended(consumer)[0] == 130
    assert aside.stored(stream, "me") <= 4


def test_an_outage_does_not_hold_up_a_signal(tmp_path: Path) -> None:
    """It looks whether the end is there meanwhile, which takes as long as the outage."""
    with EmbeddedBroker(data=tmp_path) as embedded:
        env = {"RSTREAM_URI": embedded.uri}
        assert run_rstream("publish", "s", "--create", "-m", "0", env=env).returncode == 0
        process = running("consume", "s", "-o", "first", "--until", "9", "--stats", "json", env=env)
        consumer = process.__enter__()
        told(consumer, lambda line: line["event"] == "progress" and line["consumed"] == 1)
    try:
        told(consumer, lambda line: line["event"] == "progress" and line["reconnecting"])
        told(consumer, lambda line: line["event"] == "progress" and line["elapsed"] > 3)
        interrupt(consumer)
        assert ended(consumer, timeout=10)[0] == 130
    finally:
        process.__exit__(None, None, None)


# --- what is gone ------------------------------------------------------------------------------------------------


def test_an_offset_that_is_gone(run: Run, aside: Aside, small: str) -> None:
    begins = aside.lose(small)
    gone = f"offsets 3 to {begins - 1} of stream '{small}' are gone: retention took them"
    done = run("consume", small, "-o", "3", "-n", "1", "-q", "-f", "%o")
    assert (done.returncode, done.stdout, done.stderr.decode()) == (0, str(begins).encode(), f"warning: {gone}\n")
    done = run("consume", small, "-o", "3", "-n", "1", "--on-gap", "fail")
    error = f"error: {gone}\nhint: --on-gap tell goes on with what is there\n"
    assert (done.returncode, done.stdout, done.stderr.decode()) == (9, b"", error)


@pytest.mark.parametrize(("on_gap", "code"), [("tell", 0), ("fail", 9)])
def test_it_is_an_event_and_in_the_summary(run: Run, aside: Aside, small: str, on_gap: str, code: int) -> None:
    begins = aside.lose(small)
    done = run("consume", small, "-o", "3", "-n", "1", "--stats", "json", "--on-gap", on_gap)
    gap = {"event": "gap", "stream": small, "first": 3, "last": begins - 1}
    assert json.loads(done.stderr.splitlines()[0]) == gap
    summary = summary_of(done.stderr)
    assert (done.returncode, summary["exit_code"], summary["gone"]) == (code, code, begins - 3)


@pytest.mark.parametrize("start", ["first", "-5", "@1", "end", "beyond"])
def test_where_nothing_is_gone(run: Run, aside: Aside, small: str, start: str) -> None:
    begins = aside.lose(small)
    start = {"end": str(begins), "beyond": "100000"}.get(start, start)
    done = run("consume", small, "-o", start, "--until", "end", "--on-gap", "fail")
    beyond = f"warning: offset 100000 is beyond the end of stream {small!r}, "
    assert done.returncode == 0
    assert re.fullmatch(f"{re.escape(beyond)}.*\n" if start == "100000" else "", done.stderr.decode())


def test_a_stored_offset_that_is_gone(run: Run, aside: Aside, small: str) -> None:
    async def until_it_is_gone(client: Client) -> int:
        """Message by message: a broker forgets it once retention has long passed it."""
        await publish(client, small, [LONG], [LONG], [LONG])
        await client.store_offset(small, "me", 1, verify_timeout=10)
        async with asyncio.timeout(RETENTION):
            while ((await client.stats(small)).first_offset or 0) <= 2:
                await publish(client, small, [LONG])
        return (await client.stats(small)).first_offset or 0

    begins = aside(until_it_is_gone)
    words = (small, "-o", "stored", "--name", "me", "-n", "1", "-f", "%o")
    done = run("consume", *words, "--on-gap", "fail")
    assert (done.returncode, done.stdout, aside.stored(small, "me")) == (9, b"", 1)
    done = run("consume", *words)
    gone = f"offsets 2 to {begins - 1} of stream '{small}' are gone: retention took them"
    assert (done.returncode, done.stderr.decode()) == (0, f"warning: {gone}\n")
    assert aside.stored(small, "me") == int(done.stdout)
    aside.store(small, [LONG])  # behind the stored offset
    done = run("consume", small, "-o", "stored", "--name", "me", "--until", "end", "--on-gap", "fail")
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_stored_offset_that_the_broker_has_forgotten(run: Run, aside: Aside, small: str) -> None:
    aside.store_offset(small, "me", 1)
    begins = aside.lose(small, 60)
    with pytest.raises(OffsetNotFound):
        aside.stored(small, "me")
    gone = f"offsets 0 to {begins - 1} of stream '{small}' are gone: retention took them"
    why = "no offset is stored under 'me', or it is gone too"
    words = (small, "-o", "stored", "--name", "me", "-n", "1")
    done = run("consume", *words, "--on-gap", "fail")
    hint = f"hint: {why}; --on-gap tell goes on with what is there"
    assert (done.returncode, done.stderr.decode()) == (9, f"error: {gone}\n{hint}\n")
    done = run("consume", *words)
    assert (done.returncode, done.stderr.decode()) == (0, f"warning: {gone} ({why})\n")


def test_retention_overtakes_a_reader(env: dict[str, str], aside: Aside, small: str) -> None:
    """One whose stdout nobody reads: what is missing between the lines is what was told."""
    aside.store(small, *[[LONG]] * 10)
    words = ("-o", "first", "--credit", "1", "-f", f"%o {'%s' * 200}\n", "--idle-timeout", "1s", "--stats", "json")
    with running("consume", small, *words, env=env) as consumer:
        assert consumer.stdout is not None
        assert consumer.stdout.read(1) == b"0"
        aside.lose(small, 40)
        lines = consumer.stdout.read().splitlines()
        code, errors = ended(consumer)
    seen = [0, *(int(line.split()[0]) for line in lines[1:])]
    events = [line for line in map(json.loads, errors.splitlines()) if line["event"] == "gap"]
    assert code == 0
    assert events
    lost = [offset for event in events for offset in range(event["first"], event["last"] + 1)]
    assert sorted([*seen, *lost]) == list(range(seen[-1] + 1))
    assert summary_of(errors)["gone"] == len(lost)


def test_partitions_are_named(run: Run, aside: Aside, orders: str) -> None:
    begins = aside.lose(f"{orders}-1")
    gone = f"offsets 0 to {begins - 1} of stream '{orders}-1' are gone: retention took them"
    why = " (no offset is stored under 'me', or it is gone too)"
    done = run("superstream", "consume", orders, "-o", "stored", "--name", "me", "--until", "end")
    assert (done.returncode, done.stderr.decode()) == (0, f"warning: {gone}{why}\n")
    done = run("sac-consume", orders, "--name", "group", "--until", "end", "--on-gap", "fail")
    assert (done.returncode, done.stdout) == (9, b"")
    lost = rf"offsets 0 to \d+ of stream '{orders}-1' are gone"  # storing may have made room, too
    assert re.search(f"^error: {lost}", done.stderr.decode(), re.MULTILINE)
    done = run("sac-consume", orders, "--name", "other", "-o", "first", "--until", "end", "--on-gap", "fail")
    assert (done.returncode, "gone" in done.stderr.decode()) == (0, False)
    done = run("sac-consume", orders, "--name", "group", "--until", "end")
    assert done.returncode == 0
    assert re.search(f"^warning: {lost}", done.stderr.decode(), re.MULTILINE)


def test_all_that_was_asked_for_is_gone(run: Run, aside: Aside, small: str) -> None:
    """The stream holds nothing any more, and yet there was something to read."""

    async def empty(client: Client) -> int | None:
        await publish(client, small, [b"1"], [b"2"])
        for number in range(3000):
            await client.store_offset(small, f"{number % 50}{'n' * 200}", 1_000_000 + number)
            if number % 100 == 99 and await client.last_offset(small) is None:
                return None
        return await client.last_offset(small)

    assert aside(empty) is None
    done = run("consume", small, "-o", "0", "--until", "end", "--on-gap", "fail")
    assert (done.returncode, done.stderr[:20]) == (9, b"error: offsets 0 to ")
    done = run("consume", small, "-o", "0", "--until", "end")
    assert (done.returncode, done.stderr[:22]) == (0, b"warning: offsets 0 to ")


# --- what cannot be shown ------------------------------------------------------------------------------------------

NO_AMQP = b"\x01not AMQP"
NO_HEADERS = AMQPMessage(body="us").encode() + b"\x00Sx\xff"
"""The body can be shown, what follows it cannot."""


@pytest.fixture
def mixed(aside: Aside, stream: str) -> str:
    """Offsets 0, 2 and 5 are messages, and what lies between is none."""
    aside.store(stream, [good("0"), NO_AMQP, good("2"), NO_AMQP, NO_AMQP, good("5"), NO_AMQP])
    return stream


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ((), b"0\n2\n5\n"),
        (("--output", "len32"), b"\0\0\0\x010\0\0\0\x012\0\0\0\x015"),
        (("-f", "%o %s\n"), b"0 0\n2 2\n5 5\n"),
        (("--unbuffered",), b"0\n2\n5\n"),
        (("--filter", "eu", "--filter-from", ".headers.region", "--match-unfiltered"), b"0\n2\n5\n"),
        (("-n", "2"), b"0\n2\n"),
        (("--json",), None),
    ],
    ids=str,
)
def test_what_is_no_message_can_be_skipped(
    run: Run, aside: Aside, mixed: str, options: tuple[str, ...], shown: bytes | None
) -> None:
    words = (mixed, "-o", "first", "--until", "end", "--on-error", "skip", "--name", "me", "--stats", "json")
    done = run("consume", *words, *options)
    if shown is None:
        assert [json.loads(line)["offset"] for line in done.stdout.splitlines()] == [0, 2, 5]
    else:
        assert done.stdout == shown
    bad, last = ([1], 2) if "-n" in options else ([1, 3, 4, 6], 6)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["offset"] for line in lines if line["event"] == "skipped"] == bad
    summary = summary_of(done.stderr)
    assert (done.returncode, summary["exit_code"], summary["bad"]) == (3, 3, len(bad))
    assert summary["consumed"] == (2 if "-n" in options else 3)
    assert (summary["last_offset"], summary["stored_offset"], aside.stored(mixed, "me")) == (last, last, last)


def test_each_is_told(run: Run, mixed: str) -> None:
    done = run("consume", mixed, "-o", "first", "--until", "end", "--on-error", "skip", "--stats", "line")
    warnings = [line for line in done.stderr.decode().splitlines() if line.startswith("warning: ")]
    start = f"warning: the message at offset 1 of stream '{mixed}' is skipped: it is not AMQP 1.0: "
    assert len(warnings) == 4
    assert warnings[0].startswith(start)
    summary = done.stderr.decode().splitlines()[-1]
    assert "; bad 4; " in summary


@pytest.mark.parametrize("command", ["consume", "sac-consume"])
def test_without_it_the_run_stops_before_that_one(run: Run, aside: Aside, mixed: str, command: str) -> None:
    words = (mixed, "-o", "first", "--name", "me", "--until", "end")
    done = run(command, *words)
    assert (done.returncode, done.stdout) == (8, b"0\n")
    error, hint = done.stderr.decode().splitlines()[-2:]
    assert error.startswith(f"error: the message at offset 1 of stream '{mixed}' is not AMQP 1.0: ")
    assert "--codec raw" in hint
    assert "--on-error skip" in hint
    assert aside.stored(mixed, "me") == 0
    done = run(command, mixed, "-o", "stored", "--name", "me", "--until", "end", "--on-error", "skip")
    assert (done.returncode, done.stdout, aside.stored(mixed, "me")) == (3, b"2\n5\n", 6)


@pytest.mark.parametrize(
    ("bad", "options", "why"),
    [
        (NO_HEADERS, ("--json",), "is not AMQP 1.0"),
        (NO_HEADERS, ("-f", "%h"), "is not AMQP 1.0"),
        (NO_HEADERS, ("--filter", "eu", "--filter-from", ".headers.region", "--match-unfiltered"), "is not AMQP 1.0"),
    ],
)
def test_wherever_it_is_looked_into(
    run: Run, aside: Aside, stream: str, bad: bytes, options: tuple[str, ...], why: str
) -> None:
    aside.store(stream, [good("0"), bad, good("2")])
    words = (stream, "-o", "first", "--until", "end", "--name", "me", *options)
    done = run("consume", *words)
    assert done.returncode == 8, done.stderr
    assert as_lines(done.stderr).startswith(f"error: the message at offset 1 of stream '{stream}' {why}")
    assert aside.stored(stream, "me") == 0
    done = run("consume", *words, "--on-error", "skip", "--stats", "json")
    summary = summary_of(done.stderr)
    assert (done.returncode, summary["consumed"], summary["bad"], summary["stored_offset"]) == (3, 2, 1, 2)


@pytest.mark.parametrize("options", [(), ("-n", "1")])
def test_a_whole_chunk_that_cannot_be_shown(run: Run, aside: Aside, stream: str, options: tuple[str, ...]) -> None:
    aside.store(stream, [NO_AMQP] * 20_000 + [good("last")])
    done = run("consume", stream, "-o", "first", "--until", "end", "--on-error", "skip", *options)
    assert (done.returncode, done.stdout) == (3, b"last\n")
    assert done.stderr.decode().splitlines()[-1] == "warning: there are more such lines; the summary counts them"
    assert done.stderr.count(b"\n") == 20


def test_super_streams(run: Run, aside: Aside, orders: str) -> None:
    aside.store(f"{orders}-0", [good("a")])
    aside.store(f"{orders}-1", [NO_AMQP, good("b")])
    words = (orders, "-o", "first", "--until", "end")
    done = run("superstream", "consume", *words)
    assert done.returncode == 8
    assert f"the message at offset 0 of stream '{orders}-1' is not AMQP" in done.stderr.decode()
    for command in (("superstream", "consume"), ("sac-consume", "--name", "g")):
        done = run(*command, *words, "--on-error", "skip")
        assert (done.returncode, sorted(done.stdout.split())) == (3, [b"a", b"b"])
