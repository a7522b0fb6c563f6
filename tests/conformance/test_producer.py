"""``Producer``: four ways to publish, callbacks, names and ids, bounds, and an end without losses."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from rstream_core import (
    AlreadyClosed,
    AMQPMessage,
    Client,
    CompressionType,
    ConfigurationError,
    ConfirmationStatus,
    ConnectionOptions,
    MessageTooLarge,
    NotConfirmed,
    Producer,
    RequestTimeout,
    amqp_decoder,
)
from rstream_core.callbacks import own_task
from rstream_core.publishing.publisher import Publisher
from rstream_core.timeslice import TimeSlice
from tests import inside
from tests.clients import PATIENCE, bodies, eventually, lose, read

MANY = 2000


async def stored(client: Client, stream: str, count: int) -> list[bytes]:
    return list((await read(client, stream, count)).values())


@pytest.fixture
async def producer(client: Client) -> Producer:
    """Closed by the test."""
    return Producer(client=client)


async def test_send(client: Client, producer: Producer, stream: str) -> None:
    for body in bodies(MANY):
        await producer.send(stream, body)
    await producer.close()
    assert await stored(client, stream, MANY) == bodies(MANY)


async def test_send_batch_returns_ids(client: Client, producer: Producer, stream: str) -> None:
    assert await producer.send_batch(stream, []) == []
    assert await producer.send_batch(stream, bodies(MANY)) == list(range(1, MANY + 1))
    assert await producer.send_batch(stream, [b"x"]) == [MANY + 1]
    await producer.close()
    assert await stored(client, stream, MANY + 1) == [*bodies(MANY), b"x"]


async def test_what_waits_for_nothing_is_written_without_a_task(
    client: Client, producer: Producer, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not before what is held."""
    await producer.send_batch(stream, [b"0"])
    started: list[object] = []

    def noting(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        started.append(work)
        return own_task(work)

    monkeypatch.setattr("rstream_core.producers.job_queue.own_task", noting)
    monkeypatch.setattr(TimeSlice, "is_over", lambda slice_, messages=0: False)
    told: list[ConfirmationStatus] = []
    assert await producer.send_batch(stream, [b"1", b"2"], on_publish_confirm=told.append) == [2, 3]
    assert await producer.send_wait(stream, b"3") == 4
    assert (len(started), [status.message_id for status in told]) == (0, [2, 3])
    await producer.send(stream, b"4")
    assert await producer.send_batch(stream, [b"5"]) == [6]
    assert len(started) == 1
    await producer.close()
    assert await stored(client, stream, 6) == [b"0", b"1", b"2", b"3", b"4", b"5"]


async def test_send_wait_returns_once_it_is_stored(client: Client, producer: Producer, stream: str) -> None:
    for number, body in enumerate(bodies(20)):
        assert await producer.send_wait(stream, body) == number + 1
        assert await client.last_offset(stream) == number
    await producer.close()


@pytest.mark.parametrize("compression", CompressionType)
async def test_send_sub_entry(client: Client, producer: Producer, stream: str, compression: CompressionType) -> None:
    assert await producer.send_sub_entry(stream, bodies(100), compression) == 1
    assert await producer.send_sub_entry(stream, [b"", bytes(300_000)], compression_type=compression) == 2
    await producer.close()
    assert await stored(client, stream, 102) == [*bodies(100), b"", bytes(300_000)]


@pytest.mark.parametrize("compression", [codec for codec in CompressionType if codec is not CompressionType.No])
async def test_a_sub_entry_may_be_larger_than_a_frame_until_it_is_compressed(
    client: Client, producer: Producer, stream: str, compression: CompressionType
) -> None:
    chance = random.Random(compression)
    messages = [b"", chance.randbytes(200_000), b"5 MB of the same " * 300_000, b"", chance.randbytes(7)]
    await producer.send_sub_entry(stream, messages, compression)
    with pytest.raises(MessageTooLarge):
        await producer.send_sub_entry(stream, [chance.randbytes(2_000_000)], compression)
    await producer.close()
    assert await stored(client, stream, 5) == messages


async def test_amqp_messages(client: Client, producer: Producer, stream: str) -> None:
    messages = [AMQPMessage(body=f"hello {number}", application_properties={"n": number}) for number in range(5)]
    await producer.send(stream, messages[0])
    await producer.send_batch(stream, messages[1:3])
    await producer.send_wait(stream, messages[3])
    await producer.send_sub_entry(stream, messages[4:])
    await producer.close()
    found = [amqp_decoder(data) for data in await stored(client, stream, 5)]
    assert found == messages


async def test_what_is_no_message_is_a_type_error(producer: Producer, stream: str) -> None:
    for call in (
        producer.send(stream, "text"),
        producer.send_batch(stream, [b"", 1]),
        producer.send_wait(stream, None),
        producer.send_sub_entry(stream, [object()]),
    ):
        with pytest.raises(TypeError):
            await call
    await producer.close()


async def test_the_order_of_the_calls_is_the_order_of_the_messages(
    client: Client, producer: Producer, stream: str
) -> None:
    chance = random.Random(4)
    expected: list[bytes] = []
    for number in range(300):
        body = str(number).encode()
        match chance.randrange(8):
            case 0:
                await producer.send_batch(stream, [body + b"a", body + b"b"])
                expected += [body + b"a", body + b"b"]
            case 1:
                await producer.send_sub_entry(stream, [body + b"c", body + b"d"], CompressionType.Lz4)
                expected += [body + b"c", body + b"d"]
            case 2 if number % 5 == 0:
                await producer.send_wait(stream, body)
                expected.append(body)
            case _:
                await producer.send(stream, body)
                expected.append(body)
    await producer.close()
    assert await stored(client, stream, len(expected)) == expected


async def test_many_tasks_at_once(client: Client, producer: Producer, stream: str) -> None:
    """Each task's own messages keep their order, whatever the others do."""

    async def task(name: int) -> None:
        for number in range(40):
            body = f"{name} {number}".encode()
            if (name + number) % 3:
                await producer.send(stream, body)
            elif (name + number) % 2:
                await producer.send_batch(stream, [body])
            else:
                await producer.send_sub_entry(stream, [body])

    await asyncio.gather(*map(task, range(50)))
    await producer.close()
    found = [tuple(map(int, body.split())) for body in await stored(client, stream, 2000)]
    for name in range(50):
        assert [number for who, number in found if who == name] == list(range(40))


async def test_several_streams(client: Client, producer: Producer, stream_name: str) -> None:
    names = [f"{stream_name}-{number}" for number in range(5)]
    for name in names:
        await client.create_stream(name)
    await asyncio.gather(*(producer.send(names[number % 5], str(number).encode()) for number in range(100)))
    await producer.close()
    for number, name in enumerate(names):
        assert await stored(client, name, 20) == [str(n).encode() for n in range(number, 100, 5)]
        await client.delete_stream(name)


# Confirmations.


async def test_every_method_calls_back_once_for_each_message(client: Client, producer: Producer, stream: str) -> None:
    told: list[ConfirmationStatus] = []
    later: list[ConfirmationStatus] = []

    async def slowly(status: ConfirmationStatus) -> None:
        await asyncio.sleep(0.01)
        later.append(status)

    await producer.send(stream, b"1", on_publish_confirm=told.append)
    await producer.send(stream, b"2")
    await producer.send(stream, b"3", on_publish_confirm=slowly)
    await producer.send_batch(stream, bodies(100), on_publish_confirm=told.append)
    await producer.send_batch(stream, bodies(10), on_publish_confirm=slowly)
    await producer.send_sub_entry(stream, bodies(10), on_publish_confirm=told.append)
    await producer.send_sub_entry(stream, bodies(10), on_publish_confirm=slowly)
    await producer.close()
    assert sorted(told) == [ConfirmationStatus(i, True, 1) for i in (1, *range(4, 104), 114)]
    assert sorted(later) == [ConfirmationStatus(i, True, 1) for i in (3, *range(104, 114), 115)]


async def test_callbacks_that_raise(producer: Producer, stream: str, caplog: pytest.LogCaptureFixture) -> None:
    told: list[int] = []

    def bad(status: ConfirmationStatus) -> None:
        told.append(status.message_id)
        raise RuntimeError("a sync mistake")

    async def worse(status: ConfirmationStatus) -> None:
        told.append(status.message_id)
        await asyncio.sleep(0)
        raise RuntimeError("an async mistake")

    await producer.send(stream, b"1", on_publish_confirm=bad)
    await producer.send(stream, b"2", on_publish_confirm=worse)
    await producer.send_batch(stream, [b"3", b"4"], on_publish_confirm=bad)
    await producer.close()
    assert sorted(told) == [1, 2, 3, 4]
    assert "a sync mistake" in caplog.text
    assert "an async mistake" in caplog.text


async def test_a_callback_may_publish(client: Client, producer: Producer, stream: str) -> None:
    done = asyncio.Event()

    async def answer(status: ConfirmationStatus) -> None:
        await producer.send_wait(stream, b"answer")
        done.set()

    await producer.send(stream, b"question", on_publish_confirm=answer)
    await asyncio.wait_for(done.wait(), PATIENCE)
    await producer.close()
    assert await stored(client, stream, 2) == [b"question", b"answer"]


# Names and ids.


async def test_a_name_goes_on_where_it_ended(client: Client, arguments: dict[str, Any], stream: str) -> None:
    for start in (0, 3):
        async with Producer(**arguments) as producer:
            ids = await producer.send_batch(stream, bodies(3, f"{start}+"), publisher_name="writer")
            assert ids == [start + 1, start + 2, start + 3]
    assert await client.last_offset(stream) == 5


async def test_explicit_ids_deduplicate_across_reconnects(
    client: Client, arguments: dict[str, Any], stream: str
) -> None:
    for start in (0, 10, 5, 15):
        async with Producer(**arguments) as producer:
            for number in range(start, start + 10):
                message = AMQPMessage(body=str(number), publishing_id=number)
                await producer.send(stream, message, publisher_name="writer")
    found = [amqp_decoder(data).body for data in await stored(client, stream, 25)]
    assert found == bodies(25)


async def test_repeated_ids_are_confirmed_and_stored_once(client: Client, producer: Producer, stream: str) -> None:
    told: list[ConfirmationStatus] = []
    for publishing_id in (1, 2, 2, 1, 3, 3, 3, 10, 4, 11):
        message = AMQPMessage(body=str(publishing_id), publishing_id=publishing_id)
        await producer.send(stream, message, "writer", told.append)
    batch = [AMQPMessage(body="b", publishing_id=publishing_id) for publishing_id in (11, 12, 12, 11)]
    assert await producer.send_batch(stream, batch, "writer", told.append) == [11, 12, 12, 11]
    assert await producer.send_wait(stream, AMQPMessage(body="c", publishing_id=12), "writer") == 12
    assert await producer.send_wait(stream, AMQPMessage(body="d"), "writer") == 13
    await producer.close()
    assert sorted(status.message_id for status in told) == sorted((1, 2, 2, 1, 3, 3, 3, 10, 4, 11, 11, 12, 12, 11))
    assert all(status.is_confirmed for status in told)
    found = [amqp_decoder(data).body for data in await stored(client, stream, 7)]
    assert found == [b"1", b"2", b"3", b"10", b"11", b"b", b"d"]


@pytest.mark.parametrize("name", ["writer", None])
@pytest.mark.parametrize("way", ["one after the other", "in turns"])
async def test_repeated_ids_are_not_one_write_each(
    client: Client,
    producer: Producer,
    stream: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    way: str,
    name: str | None,
) -> None:
    """Under a name the broker would drop the repetitions; without one it looks at no id."""
    writes = 0
    publish = Publisher.publish

    async def count(self: Publisher, *args: Any, **how: Any) -> Any:
        nonlocal writes
        writes += 1
        return await publish(self, *args, **how)

    monkeypatch.setattr(Publisher, "publish", count)
    ids = [number % 5 + 1 for number in range(2500)]
    if way == "one after the other":
        ids.sort()
    told: list[ConfirmationStatus] = []
    for publishing_id in ids:
        await producer.send(stream, AMQPMessage(body=b"x", publishing_id=publishing_id), name, told.append)
    batch = [AMQPMessage(body=b"x", publishing_id=publishing_id) for publishing_id in ids]
    assert await producer.send_batch(stream, batch, name, told.append) == ids
    await producer.flush(PATIENCE)
    assert sorted(status.message_id for status in told) == sorted(ids * 2)
    assert all(status.is_confirmed for status in told)
    assert len(await stored(client, stream, 5 if name else 5000)) == (5 if name else 5000)
    assert writes < 100


async def test_a_repetition_that_is_cancelled_takes_nothing_back(
    client: Client, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the call that fills the batch, and waits for it."""
    gate, begun = asyncio.Event(), asyncio.Event()
    publish = Publisher.publish

    async def later(self: Publisher, *args: Any, **how: Any) -> Any:
        begun.set()
        await gate.wait()
        return await publish(self, *args, **how)

    monkeypatch.setattr(Publisher, "publish", later)
    told: list[ConfirmationStatus] = []
    producer = Producer(client=client, batch_size=2, linger=600)
    await producer.send(stream, AMQPMessage(body=b"first", publishing_id=1), "writer", told.append)
    call = producer.send(stream, AMQPMessage(body=b"again", publishing_id=1), "writer", told.append)
    waiting = asyncio.create_task(call)
    await begun.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.set()
    await producer.flush(PATIENCE)
    assert [(status.message_id, status.is_confirmed) for status in told] == [(1, True)] * 2
    assert [amqp_decoder(data).body for data in await stored(client, stream, 1)] == [b"first"]
    await producer.close()


async def test_messages_without_ids_count_on_from_those_with(client: Client, producer: Producer, stream: str) -> None:
    def message(publishing_id: int | None) -> AMQPMessage:
        return AMQPMessage(body="x", publishing_id=publishing_id)

    batch = [message(publishing_id) for publishing_id in (None, 5, None, None, 20, None)]
    assert await producer.send_batch(stream, batch, "writer") == [1, 5, 6, 7, 20, 21]
    assert await producer.send_wait(stream, b"x", "writer") == 22
    batch = [message(publishing_id) for publishing_id in (30, 25, 30)]
    assert await producer.send_batch(stream, batch, "writer") == [30, 25, 30]
    assert await producer.send_wait(stream, b"x", "writer") == 31
    await producer.close()


async def test_names_are_apart(client: Client, producer: Producer, stream: str) -> None:
    for name in ("one", "two", None):
        message = AMQPMessage(body=str(name), publishing_id=7)
        await producer.send_wait(stream, message, publisher_name=name)
    await producer.close()
    assert await client.last_offset(stream) == 2


async def test_a_name_that_is_too_long(producer: Producer, stream: str) -> None:
    with pytest.raises(ConfigurationError, match="256"):
        await producer.send(stream, b"x", publisher_name="x" * 256)
    await producer.send_wait(stream, b"x", publisher_name="ü" * 127)
    await producer.close()


# Bounds, waits, and the end.


async def test_too_large(client: Client, producer: Producer, stream: str) -> None:
    limit = 1_048_576 - 9 - 12
    for call in (
        producer.send(stream, bytes(limit + 1)),
        producer.send_batch(stream, [b"first", bytes(limit + 1)]),
        producer.send_wait(stream, bytes(limit + 1)),
        producer.send_sub_entry(stream, [bytes(limit + 1)]),
    ):
        with pytest.raises(MessageTooLarge):
            await call
    await producer.send_wait(stream, bytes(limit))
    await producer.close()
    assert await client.last_offset(stream) == 0


async def test_the_linger_gathers_and_then_sends(client: Client, stream: str) -> None:
    producer = Producer(client=client, linger=0.05, batch_size=1_000_000)
    await producer.send_wait(stream, b"first")
    connection = inside.connection(inside.outbox(producer, stream).publisher)
    write = connection.write
    written: list[tuple[float, int]] = []

    def watching(frames: list[bytes]) -> None:
        written.append((time.monotonic(), b"".join(frames).count(b"lingering")))
        write(frames)

    connection.write = watching  # type: ignore[method-assign, assignment]
    start = time.monotonic()
    for _ in range(10):
        await producer.send(stream, b"lingering")
    assert not written
    await eventually(lambda: bool(written))
    ((moment, count),) = written
    assert count == 10
    assert 0.048 <= moment - start < 5  # uvloop counts in whole milliseconds
    await producer.close()


async def test_a_full_batch_does_not_wait_for_the_linger(client: Client, stream: str) -> None:
    producer = Producer(client=client, linger=60, batch_size=10)
    told: list[ConfirmationStatus] = []
    for body in bodies(25):
        await producer.send(stream, body, on_publish_confirm=told.append)
    await eventually(lambda: len(told) == 20)
    await producer.flush(PATIENCE)
    assert len(told) == 25
    await producer.close()


async def test_close_sends_what_is_held_back(client: Client, stream: str) -> None:
    producer = Producer(client=client, linger=60, batch_size=10_000)
    told: list[ConfirmationStatus] = []
    for body in bodies(100):
        await producer.send(stream, body, on_publish_confirm=told.append)
    await producer.close()
    assert len(told) == 100
    assert await stored(client, stream, 100) == bodies(100)
    for call in (producer.send(stream, b""), producer.send_batch(stream, [b""]), producer.send_wait(stream, b"")):
        with pytest.raises(AlreadyClosed):
            await call


async def test_a_cancelled_send_wait_leaves_the_producer_in_order(
    client: Client, producer: Producer, stream: str
) -> None:
    await producer.send_wait(stream, b"0")
    tasks = [asyncio.create_task(producer.send_wait(stream, str(number).encode())) for number in range(1, 101)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])
    assert results[1::2] == list(range(3, 102, 2))
    await producer.close()
    # A cancelled call may have been on its way; what was not cancelled is there, in order.
    last = await client.last_offset(stream)
    assert last is not None
    numbers = list(map(int, await stored(client, stream, last + 1)))
    assert numbers == sorted(set(numbers))
    assert set(range(0, 101, 2)) <= set(numbers)


async def test_send_wait_is_bounded(client: Client, producer: Producer, stream: str) -> None:
    await producer.send_wait(stream, b"")
    publisher = inside.outbox(producer, stream).publisher
    unmute = inside.mute(publisher)
    with pytest.raises(RequestTimeout, match=r"not confirmed within 0\.1 s"):
        await producer.send_wait(stream, b"", timeout=0.1)
    unmute()
    publisher.on_confirmed([2])
    assert await producer.send_wait(stream, b"", timeout=None) == 3
    await producer.close()


async def test_send_wait_is_bounded_before_it_publishes(
    client: Client, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The extractor, the publisher that is opened, and those that came first count, too."""
    never = asyncio.Event()
    hanging = True

    async def extract(message: bytes) -> None:
        if hanging:
            await never.wait()

    producer = Producer(client=client, filter_value_extractor=extract)
    bounded = r"not confirmed within 0\.1 s"
    first = asyncio.create_task(producer.send(stream, b"first"))
    await asyncio.sleep(0)
    with pytest.raises(RequestTimeout, match=bounded):  # for the lock
        await producer.send_wait(stream, b"", timeout=0.1)
    first.cancel()
    await asyncio.wait([first])
    with pytest.raises(RequestTimeout, match=bounded):  # for the extractor
        await producer.send_wait(stream, b"", timeout=0.1)
    hanging = False
    with monkeypatch.context() as patch:
        patch.setattr(client, "publisher", lambda *_, **__: never.wait())
        with pytest.raises(RequestTimeout, match=bounded):
            await producer.send_wait(stream, b"", timeout=0.1)
    assert await producer.send_wait(stream, b"") == 1
    await producer.close()


async def test_a_timeout_of_the_extractor_is_not_that_of_the_call(client: Client, stream: str) -> None:
    def extract(message: bytes) -> str:
        raise TimeoutError("the extractor's own")

    async with Producer(client=client, filter_value_extractor=extract) as producer:
        for timeout in (5, None):
            with pytest.raises(TimeoutError, match="the extractor's own"):
                await producer.send_wait(stream, b"", timeout=timeout)


@pytest.mark.parametrize("by", ["flush", "close"])
async def test_losses_in_several_streams_are_one_error(client: Client, stream: str, by: str) -> None:
    producer = Producer(client=client)
    for number, name in enumerate(("a", "b", None)):
        await producer.send_wait(stream, b"first", publisher_name=name)
        if name:
            await lose(producer, (stream, name), 2 + number)
    await producer.send(stream, b"last")
    with pytest.raises(NotConfirmed, match=r"^5 earlier messages were not confirmed"):
        await getattr(producer, by)()
    assert len(await stored(client, stream, 9)) == 9  # all was published, whoever raised first
    await producer.close()  # and it is told once


async def test_a_flush_that_is_not_done_in_time_tells_of_losses(client: Client, stream: str) -> None:
    producer = Producer(client=client)
    for name in ("a", "b"):
        await producer.send_wait(stream, b"first", publisher_name=name)
    await lose(producer, (stream, "a"), 3)
    publisher = inside.outbox(producer, stream, "b").publisher
    unmute = inside.mute(publisher)
    await producer.send(stream, b"", publisher_name="b")
    flushing = asyncio.create_task(producer.flush())
    await asyncio.sleep(0.1)
    flushing.cancel()  # then the next one is told
    with pytest.raises(asyncio.CancelledError):
        await flushing
    with pytest.raises(NotConfirmed, match=r"^3 earlier .*; and not everything is confirmed within 0\.1 s"):
        await producer.flush(0.1)
    unmute()
    publisher.on_confirmed([2])
    await producer.flush(PATIENCE)
    await producer.close()


async def test_arguments_that_cannot_be() -> None:
    for wrong in ({"batch_size": 0}, {"linger": -1}, {"port": 0}, {"heartbeat": -1}, {"request_timeout": 0}):
        with pytest.raises(ValueError, match=r"\d"):
            Producer(**wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="nonsense"):
        Producer(nonsense=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("wrong", [1.5, "1", -1, 2**64, True])
async def test_a_publishing_id_that_cannot_be(producer: Producer, client: Client, stream: str, wrong: Any) -> None:
    message = AMQPMessage(body=b"wrong", publishing_id=wrong)
    with pytest.raises(ValueError, match="publishing id"):
        await producer.send(stream, message)
    with pytest.raises(ValueError, match="publishing id"):
        await producer.send_batch(stream, [b"never", message])
    await producer.send(stream, b"right")
    await producer.flush(PATIENCE)
    assert list((await read(client, stream, 1)).values()) == [b"right"]


async def test_what_is_held_back_is_bounded_by_bytes(producer: Producer, client: Client, stream: str) -> None:
    await producer.send(stream, b"first")
    (outbox,) = inside.outboxes(producer)
    most = 0
    for _ in range(50):
        await producer.send(stream, bytes(900_000))
        most = max(most, inside.held_bytes(outbox))
    assert most < 2_000_000
    await producer.flush(PATIENCE)


async def test_closing_while_something_connects(options: ConnectionOptions) -> None:
    opening = Client(options)
    starting = asyncio.create_task(opening.start())
    await asyncio.sleep(0.001)
    await opening.close()
    with pytest.raises(AlreadyClosed):
        await starting
    assert all(not connection.is_open for connection in inside.locator(opening).connections)
    with pytest.raises(AlreadyClosed):
        await opening.server_version()
