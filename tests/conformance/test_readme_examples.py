"""The examples of the client readme run, unchanged but for their import line.

They lie in readme_examples/, each with a note of the slips that had to be mended. Each runs as a program of its
own, every warning an error: with the broker's address in place of localhost:5552, with this test's stream names in
place of the example's, and, where it waits some seconds before it ends, as long as it takes. Where the readme
describes and shows no code ("Same is valid also for send_batch", the load balancer), the test is the example.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rstream_core import (
    AdvertisedHostUnreachable,
    AMQPMessage,
    Client,
    CompressionType,
    ConfirmationStatus,
    Consumer,
    ConsumerOffsetSpecification,
    MessageContext,
    OffsetNotFound,
    OffsetType,
    Producer,
    StreamDoesNotExist,
    amqp_decoder,
)
from rstream_core.broker import EmbeddedBroker
from rstream_core.protocol.routing import partition_index
from tests.brokers import Broker
from tests.certificates import Authority
from tests.clients import publish
from tests.conftest import OwnRabbitMQ
from tests.referees import referee

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = Path(__file__).parent / "readme_examples"
PATIENCE = 30.0


def arguments(broker: Broker) -> dict[str, Any]:
    """How the tests themselves connect."""
    return {
        "host": broker.host,
        "port": broker.port,
        "username": broker.username,
        "password": broker.password,
        "vhost": broker.vhost,
    }


def example(name: str, broker: Broker, **names: str) -> str:
    """An example's program for this broker; `names` replaces the stream names that it uses."""
    text = (EXAMPLES / f"{name}.py").read_text()
    assert not re.search(r"^(from|import) rstream\b", text, re.MULTILINE)
    where = f"{broker.host!r}, {broker.port}, vhost={broker.vhost!r}"
    replacements = {
        "Producer('localhost',": f"Producer({where},",
        "host='localhost'": f"host={broker.host!r}",
        "port=5552": f"port={broker.port}",
        "port=5551": f"port={broker.port}",
        "vhost='/'": f"vhost={broker.vhost!r}",
        "username='guest'": f"username={broker.username!r}",
        "password='guest'": f"password={broker.password!r}",
    }
    for old, new in replacements.items():
        text = text.replace(old, new)
    for old, new in names.items():
        text, count = re.subn(rf"(['\"]){old}\1", repr(new), text)
        assert count, f"{name}.py names no stream {old}"
    return text


# The example of offset tracking is cancelled, or exits, and closes nothing.
UNCLOSED = ("-W", "ignore:unclosed:ResourceWarning")


def command(program: str, *options: str) -> list[str]:
    return [sys.executable, "-u", "-W", "error", *options, "-c", program]


def run(program: str, *options: str, status: int = 0) -> str:
    """Runs a program to its end and gives what it printed; nothing may be on stderr where it succeeds."""
    done = subprocess.run(command(program, *options), capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == status, done.stderr
    if status == 0:  # an example that exits from within a task has asyncio's word on it
        assert done.stderr == ""
    return done.stdout


def until_told(text: str) -> str:
    """An example that waits a moment and ends: the moment lasts until it gets a line, on any machine."""
    text, count = re.subn(r"await asyncio\.sleep\(\d\)", "await asyncio.to_thread(input)", text)
    assert count == 1
    return text


@asynccontextmanager
async def started(program: str, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program that runs meanwhile."""
    process = await asyncio.create_subprocess_exec(
        *command(program, *options),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def lines(process: asyncio.subprocess.Process, count: int) -> list[str]:
    """The next lines that it prints."""
    assert process.stdout is not None
    return [(await process.stdout.readline()).decode() for _ in range(count)]


@asynccontextmanager
async def producer(broker: Broker, stream: str, **options: Any) -> AsyncIterator[Producer]:
    """A producer with its stream, which goes away afterwards."""
    async with Producer(**arguments(broker), **options) as made:
        await made.create_stream(stream, exists_ok=True)
        try:
            yield made
        finally:
            await made.flush()
            await made.delete_stream(stream, missing_ok=True)


async def read(broker: Broker, stream: str, count: int) -> list[AMQPMessage]:
    """The first `count` messages of a stream, after which there must be no more; the stream is deleted."""
    found: list[AMQPMessage] = []
    async with Consumer(**arguments(broker)) as consumer, asyncio.timeout(PATIENCE):
        try:
            async for chunk in consumer.chunks(stream):
                found += map(amqp_decoder, chunk.messages)
                if len(found) >= count:
                    break
        finally:
            await consumer.delete_stream(stream)
    assert len(found) == count
    return found


async def bodies(broker: Broker, stream: str, count: int) -> list[bytes | None]:
    return [message.body for message in await read(broker, stream, count)]


# --- Publishing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["send", "send_wait", "send_batch"])
async def test_publishing(name: str, broker: Broker, stream_name: str) -> None:
    assert await asyncio.to_thread(run, example(name, broker, mystream=stream_name)) == ""
    assert await bodies(broker, stream_name, 100) == [f"hello: {i}".encode() for i in range(100)]


async def test_publishing_sub_entries(broker: Broker, stream_name: str) -> None:
    mixing = f"{stream_name}-mixing"
    async with producer(broker, stream_name), producer(broker, mixing):
        text = example("send_sub_entry", broker, mystream=stream_name, mixing=mixing)
        assert await asyncio.to_thread(run, text) == ""
        assert await bodies(broker, mixing, 20) == [f"a:{i}".encode() for i in range(10)] * 2


@pytest.mark.parametrize("compression", list(CompressionType))
async def test_sub_entries_with_every_codec(broker: Broker, stream_name: str, compression: CompressionType) -> None:
    messages = [AMQPMessage(body=f"a:{i}") for i in range(10)]
    async with producer(broker, stream_name) as made:
        await made.send_sub_entry(stream_name, compression_type=compression, sub_entry_messages=messages)
        await made.flush()
        assert await read(broker, stream_name, 10) == messages


async def test_publishing_with_confirmation(broker: Broker, stream_name: str) -> None:
    # The readme warns that notifications may be lost when the producer ends. Here close() waits for them.
    printed = await asyncio.to_thread(run, example("confirmation", broker, mystream=stream_name))
    ids = re.findall(r"^message id: (\d+) is confirmed$", printed, re.MULTILINE)
    assert len(printed.splitlines()) == 100
    assert sorted(map(int, ids)) == list(range(1, 101))
    assert await bodies(broker, stream_name, 100) == [f"hello: {i}".encode() for i in range(100)]


@pytest.mark.parametrize("kind", ["function", "coroutine function"])
async def test_send_batch_with_confirmation(broker: Broker, stream_name: str, kind: str) -> None:
    statuses: list[ConfirmationStatus] = []

    async def confirmed_later(confirmation: ConfirmationStatus) -> None:
        await asyncio.sleep(0)
        statuses.append(confirmation)

    callback = statuses.append if kind == "function" else confirmed_later
    async with Producer(**arguments(broker)) as made:
        await made.create_stream(stream_name)
        batch = [AMQPMessage(body=f"hello: {i}") for i in range(100)]
        ids = await made.send_batch(stream_name, batch, on_publish_confirm=callback)
    assert sorted(status.message_id for status in statuses) == list(ids)
    assert all(status.is_confirmed for status in statuses)
    assert len(await bodies(broker, stream_name, 100)) == 100


async def test_create_stream_again(broker: Broker, stream_name: str) -> None:
    async with producer(broker, stream_name) as made:
        await made.create_stream(stream_name, exists_ok=True)
        await made.delete_stream(stream_name, missing_ok=True)
        await made.delete_stream(stream_name, missing_ok=True)
        with pytest.raises(StreamDoesNotExist):
            await made.delete_stream(stream_name)
        await made.create_stream(stream_name, arguments={"max-length-bytes": 10_000_000})


async def test_publishing_to_a_super_stream(broker: Broker, stream_name: str) -> None:
    referee("uamqp")
    async with Producer(**arguments(broker)) as made:
        partitions = await made.create_super_stream(stream_name, partitions=3)
        try:
            printed = await asyncio.to_thread(run, example("super_stream", broker, mixing=stream_name))
            assert len(re.findall(r"^message id: \d+ is confirmed$", printed, re.MULTILINE)) == 1000
            wanted: dict[str, list[bytes | None]] = {partition: [] for partition in partitions}
            for i in range(1000):
                wanted[partitions[partition_index(str(i), 3)]].append(f"a:{i}".encode())
            for partition in partitions:
                assert await bodies(broker, partition, len(wanted[partition])) == wanted[partition]
        finally:
            await made.delete_super_stream(stream_name)


# --- Consuming -----------------------------------------------------------------------------------------------


async def test_consuming(broker: Broker, stream_name: str) -> None:
    async with producer(broker, stream_name) as made:
        await made.send_batch(stream_name, [AMQPMessage(body=f"hello: {i}") for i in range(3)])
        async with started(example("consume", broker, mystream=stream_name)) as process:
            printed = await lines(process, 3)
            process.send_signal(signal.SIGINT)  # the example's way to end
            rest, errors = await process.communicate()
        assert printed == [f"Got message: hello: {i}from stream {stream_name}offset: {i}\n" for i in range(3)]
        assert (process.returncode, rest, errors) == (0, b"", b"")


async def test_consuming_from_a_superstream(client: Client, broker: Broker, super_stream: str) -> None:
    for number in range(3):
        await publish(client, f"{super_stream}-{number}", [AMQPMessage(body=f"a:{number}").encode()])
    text = example("superstream_consume", broker, mixing=super_stream)
    async with started(until_told(text), *UNCLOSED) as process:
        printed = await lines(process, 4)
        rest, errors = await process.communicate(b"\n")
    assert printed[0] == "consume\n"
    assert sorted(printed[1:]) == [f"Got message: a:{n}from stream {super_stream}-{n}offset: 0\n" for n in range(3)]
    assert (process.returncode, rest, errors) == (0, b"", b"")


async def test_offset_tracking(broker: Broker, stream_name: str) -> None:
    async with producer(broker, stream_name) as made, Consumer(**arguments(broker)) as consumer:
        await made.send_batch(stream_name, [AMQPMessage(body=str(i)) for i in range(2600)])
        await made.flush()
        await consumer.client.store_offset(stream_name, "subscriber-1", 500, verify_timeout=PATIENCE)
        text = until_told(example("offset_tracking", broker, mixing=stream_name))
        async with started(text, *UNCLOSED) as process:
            printed = "".join(await lines(process, 2100))
            # The broker does not tell of the 2,000th's.
            while await consumer.query_offset(stream_name, "subscriber-1") != 2499:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            rest, errors = await process.communicate(b"\n")
        got = [int(text) for text in re.findall(r"^Got message: (\d+)from stream", printed, re.MULTILINE)]
        assert got == list(range(500, 2600))
        assert (process.returncode, rest, errors) == (0, b"", b"")
        assert await consumer.query_offset(stream_name, "subscriber-1") == 2499


async def test_offset_tracking_without_an_offset(broker: Broker, stream_name: str) -> None:
    async with producer(broker, stream_name) as made, Consumer(**arguments(broker)) as consumer:
        await made.send_wait(stream_name, b"")
        printed = await asyncio.to_thread(
            run, example("offset_tracking", broker, mixing=stream_name), *UNCLOSED, status=1
        )
        assert printed.startswith("ValueError: ")
        assert "subscriber-1" in printed
        with pytest.raises(OffsetNotFound):
            await consumer.query_offset(stream_name, subscriber_name="subscriber-1")


async def test_offset_tracking_without_a_stream(broker: Broker, stream_name: str) -> None:
    async with Consumer(**arguments(broker)) as consumer:
        printed = await asyncio.to_thread(
            run, example("offset_tracking", broker, mixing=stream_name), *UNCLOSED, status=1
        )
        assert printed.startswith("ValueError: ")
        with pytest.raises(StreamDoesNotExist):
            await consumer.query_offset(stream_name, subscriber_name="subscriber-1")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, 0),
        ({"offset_type": OffsetType.FIRST}, 0),
        ({"offset_type": OffsetType.OFFSET, "offset": 7}, 7),
        ({"offset_type": OffsetType.TIMESTAMP, "offset": 1}, 0),
        ({"offset_specification": ConsumerOffsetSpecification(OffsetType.OFFSET, 7)}, 7),
        ({"offset_specification": ConsumerOffsetSpecification(OffsetType.FIRST, None)}, 0),
    ],
    ids=str,
)
async def test_where_a_consumer_starts(broker: Broker, stream_name: str, spec: dict[str, Any], expected: int) -> None:
    seen: list[int] = []
    async with producer(broker, stream_name) as made, Consumer(**arguments(broker)) as consumer:
        await made.send_batch(stream_name, [AMQPMessage(body=str(i)) for i in range(10)])
        await made.flush()

        def on_message(_msg: AMQPMessage, context: MessageContext) -> None:
            seen.append(context.offset)
            if context.offset == 9:
                consumer.stop()

        await consumer.subscribe(stream_name, on_message, decoder=amqp_decoder, initial_credit=2, **spec)
        async with asyncio.timeout(PATIENCE):
            await consumer.run()
    assert seen == list(range(expected, 10))


async def test_next_is_what_comes_from_now_on(broker: Broker, stream_name: str) -> None:
    seen: list[bytes] = []
    async with producer(broker, stream_name) as made, Consumer(**arguments(broker)) as consumer:
        await made.send_wait(stream_name, b"before")

        def on_message(data: bytes, _context: MessageContext) -> None:
            seen.append(data)
            consumer.stop()

        number = await consumer.subscribe(stream_name, on_message, offset_type=OffsetType.NEXT, subscriber_name="me")
        assert await consumer.stream("me") == stream_name
        await made.send_wait(stream_name, b"after")
        async with asyncio.timeout(PATIENCE):
            await consumer.run()
        await consumer.unsubscribe(number)
    assert seen == [b"after"]


# --- TLS and load balancers ----------------------------------------------------------------------------------


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A certificate for the broker, which the client shows as well, and who signed it."""
    return Authority.make(tmp_path).for_broker()


@pytest.fixture
def tls_broker(own_rabbitmq: OwnRabbitMQ, certificates: Path) -> Broker:
    """A broker by its TLS port."""
    plain = own_rabbitmq("--tls", str(certificates))
    assert plain.tls_port is not None
    return dataclasses.replace(plain, port=plain.tls_port)


@pytest.mark.slow
async def test_connecting_with_ssl(tls_broker: Broker, certificates: Path, stream_name: str) -> None:
    text = example("ssl_connection", tls_broker, mystream=stream_name)
    text = text.replace("/path/to/certificate.pem", str(certificates / "cert.pem"))
    text = text.replace("/path/to/key.pem", str(certificates / "key.pem"))
    # The example's SSLContext() verifies nothing, and Python says that it is deprecated. It works all the same.
    ignored = [f"ignore:ssl.{name}:DeprecationWarning" for name in ("SSLContext", "PROTOCOL_TLS")]
    printed = await asyncio.to_thread(run, text, *(part for each in ignored for part in ("-W", each)))
    assert printed == ""

    verifying = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    async with Consumer(**arguments(tls_broker), ssl_context=verifying) as consumer, asyncio.timeout(PATIENCE):
        async for message, context in consumer.messages(stream_name):
            assert (message, context.offset) == (b"over TLS", 0)
            break


@pytest.mark.slow
async def test_load_balancer_mode(own_rabbitmq: OwnRabbitMQ, stream_name: str) -> None:
    # The broker calls itself by a name that nobody here knows, as one behind a load balancer does.
    hidden = own_rabbitmq("--advertised-host", "rabbit-1.invalid")
    async with producer(hidden, stream_name, load_balancer_mode=True) as made:
        await made.send_wait(stream_name, AMQPMessage(body="through the balancer"))
        async with Consumer(**arguments(hidden), load_balancer_mode=True) as consumer, asyncio.timeout(PATIENCE):
            async for message, _ in consumer.messages(stream_name, decoder=amqp_decoder):
                assert str(message) == "through the balancer"
                break
        async with Producer(**arguments(hidden)) as lost:
            with pytest.raises(AdvertisedHostUnreachable, match=r"advertises rabbit-1\.invalid"):
                await lost.send_wait(stream_name, b"")


# --- uamqp's types -------------------------------------------------------------------------------------------


async def test_properties_of_uamqp(broker: Broker, stream_name: str) -> None:
    # From the super stream example, whose messages carry an id.
    uamqp = referee("uamqp")
    async with producer(broker, stream_name) as made:
        for i in range(3):
            amqp_message = AMQPMessage(
                body=f"a:{i}",
                properties=uamqp.message.MessageProperties(message_id=i, subject="eu", content_type="text/plain"),
                application_properties={"n": i},
            )
            await made.send(stream_name, message=amqp_message)
        await made.flush()
        for i, message in enumerate(await read(broker, stream_name, 3)):
            assert str(message) == f"a:{i}"
            assert message.properties is not None
            assert message.properties.message_id == i
            assert message.properties.subject == "eu"
            assert message.properties.content_type == "text/plain"
            assert message.application_properties == {"n": i}
            assert message.to_uamqp().properties.message_id == i


async def test_whole_messages_of_uamqp(broker: Broker, stream_name: str) -> None:
    uamqp = referee("uamqp")
    properties = uamqp.message.MessageProperties(message_id="one", reply_to="there")
    message = uamqp.Message(b"whole", properties=properties, application_properties={"k": "v"})
    async with producer(broker, stream_name) as made:
        await made.send_wait(stream_name, message)
        await made.send_batch(stream_name, [uamqp.Message(b"in a batch")])
        await made.send_sub_entry(stream_name, [uamqp.Message(b"in a sub-entry")], CompressionType.Gzip)
        await made.flush()
        first, second, third = await read(broker, stream_name, 3)
    assert first.properties is not None
    assert (first.body, first.properties.message_id, first.properties.reply_to) == (b"whole", "one", "there")
    assert first.application_properties == {"k": "v"}
    assert (second.body, third.body) == (b"in a batch", b"in a sub-entry")
    assert list(first.to_uamqp().get_data()) == [b"whole"]


# --- The programs of our own documentation -------------------------------------------------------------------


def programs(file: str) -> list[str]:
    """The complete programs among a page's Python blocks."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / file).read_text(), re.MULTILINE | re.DOTALL)
    return [block for block in blocks if "asyncio.run(" in block]


@pytest.mark.parametrize("file", ["README.md", "docs/python.md"])
async def test_our_own_programs(broker: Broker, stream_name: str, file: str) -> None:
    login = f"username={broker.username!r}, password={broker.password!r}, vhost={broker.vhost!r}"
    credentials = f"credentials=Credentials({broker.username!r}, {broker.password!r}), vhost={broker.vhost!r}"
    found = programs(file)
    assert found
    names = {name: f"{stream_name}-{name}" for name in ("events", "events-copy", "orders")}
    with EmbeddedBroker() as backup:
        try:
            for text in found:
                program = re.sub(
                    r'(Producer|Consumer)\((\s*)"localhost"', rf"\1(\2{broker.host!r}, {broker.port}, {login}", text
                )
                program = re.sub(
                    r'endpoints=\(Endpoint\("localhost", 5552\),\)',
                    f"endpoints=(Endpoint({broker.host!r}, {broker.port}),), {credentials}",
                    program,
                )
                assert program != text
                program = program.replace('"backup.example.com", 5552', f"'127.0.0.1', {backup.port}")
                for name, own in names.items():
                    program = program.replace(f'"{name}"', repr(own))
                await asyncio.to_thread(run, f"from rstream_core import Credentials\n{program}")
        finally:
            async with Producer(**arguments(broker)) as made:
                await made.delete_stream(names["events"], missing_ok=True)
                await made.delete_stream(names["events-copy"], missing_ok=True)
                await made.delete_super_stream(names["orders"], missing_ok=True)


# --- Imports -------------------------------------------------------------------------------------------------


def test_importing_the_core_imports_nothing_heavy() -> None:
    heavy = ("uamqp", "typer", "rich", "cramjam", "orjson", "rstream_cli")
    assert run(f"import sys, rstream_core; print([m for m in {heavy!r} if m in sys.modules])") == "[]\n"


def test_publishing_without_uamqp_does_not_import_it(broker: Broker, stream_name: str) -> None:
    text = example("send", broker, mystream=stream_name)
    assert run(f"{text}\nimport sys\nprint('uamqp' in sys.modules)") == "False\n"
    asyncio.run(bodies(broker, stream_name, 100))
