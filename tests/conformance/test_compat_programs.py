"""Programs as those of the published client's own examples, written here for ``rstream_core.compat``.

Each lies in compat_programs/ and does what an example of that client's repository does. It runs in this process, with
this test's broker and stream; those that read until Ctrl-C get it when they have printed enough.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import re
import signal
import subprocess
import types
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from rstream_core import AMQPMessage, Client, StreamDoesNotExist
from rstream_core.protocol.amqp import body_of
from rstream_core.protocol.routing import python_partition_index
from tests.brokers import Broker
from tests.clients import arguments_for, options_for, publish, read
from tests.recovering import stored

PROGRAMS = Path(__file__).with_name("compat_programs")
PATIENCE = 30

T = TypeVar("T")


class Lines(io.StringIO):
    """What a program prints. Raises SIGINT at so many lines."""

    def __init__(self, count: int | None) -> None:
        super().__init__()
        self._left = count

    def write(self, text: str) -> int:
        if self._left is not None:
            self._left -= text.count("\n")
            if self._left <= 0:
                self._left = None
                signal.raise_signal(signal.SIGINT)
        return super().write(text)


def source(name: str, broker: Broker, stream: str) -> str:
    """A program for this broker and stream."""
    text = (PROGRAMS / f"{name}.py").read_text()
    for line in (f"BROKER = {arguments_for(broker)!r}", f"STREAM = {stream!r}"):
        constant = line.partition("=")[0]
        assert len(re.findall(f"^{constant}=", text, re.MULTILINE)) == 1
        text = re.sub(f"^{constant}=.*$", line.replace("\\", r"\\"), text, flags=re.MULTILINE)
    return text


@contextlib.contextmanager
def limited() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def logging_as_before() -> Iterator[None]:
    logger = logging.getLogger("rstream_core")
    before = logger.level
    try:
        yield
    finally:
        logger.setLevel(before)


def run(name: str, broker: Broker, stream: str, *, until: int | None = None) -> list[str]:
    """Runs a program to its end, and returns its lines. ``until``: how many it prints before it gets Ctrl-C."""
    printed = Lines(until)
    program = types.ModuleType("__main__")
    with contextlib.redirect_stdout(printed), limited(), logging_as_before():
        exec(compile(source(name, broker, stream), f"{name}.py", "exec"), vars(program))
    return printed.getvalue().splitlines()


def ask(broker: Broker, question: Callable[[Client], Awaitable[T]]) -> T:
    async def answer() -> T:
        async with Client(options_for(broker)) as client:
            return await question(client)

    return asyncio.run(answer())


@pytest.fixture
def stream(broker: Broker, stream_name: str) -> Iterator[str]:
    """A name that the test may give to a stream or a super stream."""
    yield stream_name

    async def delete(client: Client) -> None:
        await client.delete_stream(stream_name, missing_ok=True)
        with contextlib.suppress(StreamDoesNotExist):
            await client.delete_super_stream(stream_name)

    ask(broker, delete)


def bodies_in(broker: Broker, stream: str) -> list[bytes | None]:
    return [body_of(message) for message in ask(broker, lambda client: stored(client, stream))]


def filled(broker: Broker, stream: str, count: int, body: Callable[[int], bytes]) -> None:
    async def fill(client: Client) -> None:
        await client.create_stream(stream, exists_ok=True)
        await publish(client, stream, map(body, range(count)))

    ask(broker, fill)


def amqp(number: int) -> bytes:
    return AMQPMessage(b"%d" % number).encode()


def hellos(count: int) -> list[bytes]:
    return [b"hello: %d" % number for number in range(count)]


@pytest.mark.parametrize(
    ("name", "printed", "expected"),
    [
        ("producer_send", ["sent 500"], hellos(500)),
        ("producer_send_wait", [f"stored {number}" for number in range(1, 21)], hellos(20)),
        ("producer_send_batch", None, hellos(100) * 10),
        ("send_with_confirmation", ["confirmed 200"], hellos(200)),
        ("send_batch_with_confirmation", ["all confirmed: True"], hellos(200)),
        ("producer_sub_entry_batch", ["sent 200"], hellos(20) * 10),
    ],
)
def test_publishing(name: str, printed: list[str] | None, expected: list[bytes], broker: Broker, stream: str) -> None:
    lines = run(name, broker, stream)
    assert printed is None or lines == printed
    assert bodies_in(broker, stream) == expected


def test_publishing_bytes(broker: Broker, stream: str) -> None:
    (line,) = run("producer_send_batch_binary", broker, stream)
    assert line.startswith("Sent 1000 messages in ")
    assert ask(broker, lambda client: stored(client, stream)) == [b"hello"] * 1000


def test_deduplication(broker: Broker, stream: str) -> None:
    assert run("producer_ded", broker, stream) == ["sent 104"]
    messages = ask(broker, lambda client: read(client, stream, 51))
    assert [body_of(message) for message in list(messages.values())[:-1]] == hellos(50)
    assert messages[50] == b"raw"


def test_consuming(broker: Broker, stream: str) -> None:
    filled(broker, stream, 10, amqp)
    lines = run("basic_consumer", broker, stream, until=10)
    assert lines == [f"Got message: b'{number}' from stream {stream}, offset {number}" for number in range(10)]
    assert run("basic_consumer_offset_offset", broker, stream, until=3) == ["7 b'7'", "8 b'8'", "9 b'9'"]
    assert run("basic_consumer_binary", broker, stream, until=10)[3] == f"{amqp(3)!r} 3"
    assert run("basic_consumer_offset_next", broker, stream, until=1) == ["10 news"]


def test_filters(broker: Broker, stream: str) -> None:
    lines = run("filtering", broker, stream, until=20)
    assert lines == ["Application property: b'California'"] * 20


def test_filters_of_a_super_stream(broker: Broker, stream: str) -> None:
    lines = run("super_stream_filtering", broker, stream, until=20)
    assert lines == ["Application property: b'California'"] * 20


def test_offset_tracking(broker: Broker, stream: str) -> None:
    (line,) = run("offset_tracking", broker, stream)
    assert line.startswith("no stream: ")
    filled(broker, stream, 25, amqp)
    lines = run("offset_tracking", broker, stream, until=26)
    assert lines[:2] == ["nothing is stored", "0 b'0'"]
    assert ask(broker, lambda client: client.query_offset(stream, "subscriber_1")) == 19
    assert run("offset_tracking", broker, stream, until=5)[0] == "20 b'20'"


def test_super_streams(broker: Broker, stream: str) -> None:
    assert run("super_stream_producer", broker, stream) == ["published 60"]
    lines = run("super_stream_consumer", broker, stream, until=60)
    keys: dict[str, set[str]] = {}
    for line in lines:
        partition, _, body = line.split(" ", 2)
        keys.setdefault(partition, set()).add(body.strip("b'").removeprefix("hello: "))
    expected: dict[str, set[str]] = {}
    for number in range(60):
        expected.setdefault(f"{stream}-{python_partition_index(str(number), 3)}", set()).add(str(number))
    assert keys == expected


def test_a_super_stream_by_keys(broker: Broker, stream: str) -> None:
    assert run("super_stream_producer_key", broker, stream) == ["published 30"]
    for place in range(3):
        assert bodies_in(broker, f"{stream}-key{place + 1}") == hellos(30)[place::3]


def test_single_active_consumers(broker: Broker, stream: str) -> None:
    """The second time, each goes on behind the offset that the first time has stored."""
    for _ in range(2):
        run("super_stream_producer", broker, stream)
    first = run("single_active_consumer", broker, stream, until=120)
    run("super_stream_producer", broker, stream)
    second = run("single_active_consumer", broker, stream, until=60)
    places = [tuple(line.split(" ")[:2]) for line in first + second]
    assert (len(first), len(second), len(set(places))) == (120, 60, 180)


def test_a_reliable_client(broker: Broker, stream: str) -> None:
    lines = run("reliable_client", broker, stream)
    assert lines[-1] == "confirmed 30, consumed 60"
    told = [f"closed: ['{stream}-plain'], Metadata Update"] * (len(lines) - 1)
    assert lines[:-1] == told


# --- the same programs, run by the published client --------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "until", "count"),
    [
        ("send_batch_with_confirmation", None, 0),
        ("producer_ded", None, 0),
        ("basic_consumer", 10, 10),
        ("filtering", 20, 0),
        ("offset_tracking", 26, 25),
        ("super_stream_producer_key", None, 0),
    ],
)
def test_the_published_client_prints_the_same(
    published_python: Path, embedded: Broker, stream_name: str, name: str, until: int | None, count: int
) -> None:
    """With the import changed back: so they are programs of that client, and compat does what it does."""
    if count:
        filled(embedded, stream_name, count, amqp)
    program = source(name, embedded, stream_name).replace("rstream_core.compat", "rstream")
    command = [str(published_python), "-u", "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process, limited():
        assert process.stdout is not None
        theirs = [process.stdout.readline() for _ in range(until or 0)]
        if until is not None:
            process.send_signal(signal.SIGINT)
        rest, errors = process.communicate()
    assert process.returncode == 0, errors
    lines = "".join((*theirs, rest)).splitlines()
    ours = f"{stream_name}-ours"
    if count:
        filled(embedded, ours, count, amqp)
    assert [line.replace(ours, stream_name) for line in run(name, embedded, ours, until=until)] == lines
