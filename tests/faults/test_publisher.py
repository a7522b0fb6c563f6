"""Publishing when things go wrong: every message is confirmed or failed, and whoever asked is told once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from rstream_core import (
    AccessRefused,
    Client,
    CompressionType,
    ConfirmationStatus,
    ConnectionClosed,
    ConnectionFailed,
    NotConfirmed,
    Outcome,
    Producer,
    PublisherDoesNotExist,
    RequestTimeout,
    StreamDoesNotExist,
)
from rstream_core.protocol import commands as c
from tests import inside
from tests.brokers import Broker
from tests.clients import PATIENCE, bodies, eventually, read
from tests.proxy import Proxy, options_through


@pytest.fixture
async def through(proxy: Proxy, broker: Broker) -> AsyncIterator[Client]:
    async with Client(options_through(proxy, broker), recovery=None) as opened:
        yield opened


class Told:
    """A callback that counts."""

    def __init__(self) -> None:
        self.statuses: list[ConfirmationStatus] = []

    def __call__(self, status: ConfirmationStatus) -> None:
        self.statuses.append(status)

    @property
    def confirmed(self) -> set[int]:
        return {status.message_id for status in self.statuses if status.is_confirmed}

    def once_for(self, ids: range) -> bool:
        return Counter(status.message_id for status in self.statuses) == Counter(ids)


@pytest.mark.parametrize("size", [1_000, 50_000, 200_000, 600_000])
async def test_a_cut_in_the_middle_of_publishing(through: Client, proxy: Proxy, stream: str, size: int) -> None:
    outcomes: list[Outcome] = []
    publisher = await through.publisher(stream, listener=outcomes.append, max_in_flight=2000)
    proxy.cut_at = proxy.from_client + size

    async def go_on() -> None:
        while True:
            await publisher.publish([b"x" * 100] * 500)

    with pytest.raises((ConnectionClosed, ConnectionFailed)):
        await asyncio.wait_for(go_on(), PATIENCE)
    await publisher.close()
    assert publisher.published == publisher.confirmed + publisher.failed
    assert publisher.in_flight == publisher.in_flight_bytes == 0
    assert publisher.failed > 0
    told = [i for outcome in outcomes for i in outcome.publishing_ids]
    told += [failure.publishing_id for outcome in outcomes for failure in outcome.failed]
    assert sorted(told) == list(range(1, publisher.published + 1))
    failures = [failure for outcome in outcomes for failure in outcome.failed]
    assert all(failure.code == 0 and failure.data == b"x" * 100 and failure.reason for failure in failures)


async def test_every_callback_is_called_once_whatever_the_method(through: Client, proxy: Proxy, stream: str) -> None:
    producer = Producer(client=through, linger=0.001)
    told, entries = Told(), Told()
    await producer.send_wait(stream, b"first")
    proxy.cut_at = proxy.from_client + 30_000
    proxy.refuse()  # or the producer would go on over a new connection, and count from 1 again
    expected = 1
    entries_sent: list[int] = []

    async def go_on() -> None:
        nonlocal expected
        for number in range(100_000):
            expected += 1
            if number % 10 == 7:
                entries_sent.append(expected)
                await producer.send_sub_entry(stream, [b"x" * 50] * 5, CompressionType.No, None, entries)
            elif number % 10 == 5:
                await producer.send_batch(stream, [b"x" * 50], None, told)
            else:
                await producer.send(stream, b"x" * 50, None, told)
            await asyncio.sleep(0)

    with pytest.raises((ConnectionClosed, ConnectionFailed, NotConfirmed)):
        await asyncio.wait_for(go_on(), PATIENCE)
    await producer.close()
    everything = [*told.statuses, *entries.statuses]
    counted = Counter(status.message_id for status in everything)
    assert max(counted.values()) == 1
    last = max(counted)
    assert sorted(counted) == list(range(2, last + 1))
    assert last >= expected - 1
    assert set(entries_sent[:-1]) <= {status.message_id for status in entries.statuses}
    assert any(not status.is_confirmed for status in everything)


async def test_a_sub_entry_that_fails_is_told_once(through: Client, proxy: Proxy, stream: str) -> None:
    producer = Producer(client=through)
    told = Told()
    await producer.send_wait(stream, b"first")
    proxy.broker_may_speak.clear()
    await producer.send_sub_entry(stream, bodies(10), on_publish_confirm=told)
    proxy.cut()
    await eventually(lambda: told.statuses != [])
    assert told.statuses == [ConfirmationStatus(2, False, 0)]
    proxy.broker_may_speak.set()
    await producer.send_wait(stream, b"nobody is owed anything")
    await producer.close()


async def test_what_is_lost_without_a_callback_is_told_by_the_next_call(
    through: Client, proxy: Proxy, stream: str
) -> None:
    producer = Producer(client=through)
    await producer.send_wait(stream, b"first")
    proxy.broker_may_speak.clear()
    await producer.send_batch(stream, bodies(10))
    await producer.send_sub_entry(stream, bodies(5))
    proxy.cut()
    await eventually(lambda: inside.outbox(producer, stream).is_dead)
    proxy.broker_may_speak.set()
    with pytest.raises(NotConfirmed, match="15 earlier messages were not confirmed"):
        await producer.send(stream, b"next")
    await producer.send(stream, b"after")
    await producer.flush(PATIENCE)
    await producer.close()


async def test_close_tells_of_what_is_lost(through: Client, proxy: Proxy, stream: str) -> None:
    producer = Producer(client=through, linger=60)
    for body in bodies(10):
        await producer.send(stream, body)
    proxy.broker_may_speak.clear()  # or it might have confirmed them by then
    await inside.outbox(producer, stream).flush()
    proxy.cut()
    await eventually(lambda: inside.outbox(producer, stream).is_dead)
    with pytest.raises(NotConfirmed, match="earlier messages"):
        await producer.close()
    await producer.close()


async def test_close_within_with_does_not_hide_another_error(
    through: Client, proxy: Proxy, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RuntimeError, match="the first error"):  # noqa: PT012
        async with Producer(client=through, linger=60) as producer:
            await producer.send(stream, b"x")
            proxy.broker_may_speak.clear()
            await inside.outbox(producer, stream).flush()
            proxy.cut()
            await eventually(lambda: inside.outbox(producer, stream).is_dead)
            raise RuntimeError("the first error")
    assert "1 earlier message was not confirmed" in caplog.text


async def test_close_is_bounded_when_confirms_never_come(proxy: Proxy, broker: Broker, stream: str) -> None:
    told = Told()
    async with Client(options_through(proxy, broker), recovery=None) as client:
        producer = Producer(client=client, close_timeout=0.3)
        await producer.send_batch(stream, bodies(10), on_publish_confirm=told)
        await producer.flush(PATIENCE)
        proxy.broker_may_speak.clear()
        await producer.send_batch(stream, bodies(10), on_publish_confirm=told)
        closing = asyncio.create_task(producer.close())
        await eventually(lambda: len(told.statuses) == 20, 8)
        proxy.cut()  # its goodbyes are bounded too, but not as closely
        await asyncio.wait_for(closing, 5)
    assert told.once_for(range(1, 21))
    assert told.confirmed == set(range(1, 11))


async def test_a_name_makes_a_repetition_after_a_cut_harmless(
    through: Client, proxy: Proxy, client: Client, stream: str
) -> None:
    """The whole point of publishing ids: send again from the last one that the broker has."""
    messages = bodies(3000)
    chance = random.Random(5)
    for _ in range(30):
        publisher = await through.publisher(stream, "writer", max_in_flight=200)
        start = publisher.known_publishing_id
        if start == len(messages):
            await publisher.close()
            break
        proxy.cut_at = proxy.from_client + chance.randrange(10_000, 30_000)
        try:
            await publisher.publish(messages[start:], publishing_ids=range(start + 1, len(messages) + 1))
            await publisher.flush(PATIENCE)
        except (ConnectionClosed, ConnectionFailed):
            pass
        proxy.cut_at = None
        await publisher.close()
    assert list((await read(client, stream, 3000)).values()) == messages


async def test_a_broker_that_does_not_read_holds_the_publisher_back(
    through: Client, proxy: Proxy, client: Client, stream: str
) -> None:
    publisher = await through.publisher(stream, max_in_flight=10**9, max_in_flight_bytes=10**9)
    proxy.client_may_speak.clear()
    task = asyncio.create_task(publisher.publish([bytes(100_000)] * 500))
    await asyncio.sleep(0.3)
    assert not task.done()
    assert publisher.published < 300  # what the sockets hold, not what there is
    proxy.client_may_speak.set()
    await asyncio.wait_for(task, 60)
    await publisher.close(60)
    assert publisher.confirmed == 500


async def test_a_producer_that_is_held_back_can_be_cancelled_and_closed(
    proxy: Proxy, broker: Broker, stream: str
) -> None:
    told = Told()
    async with Client(options_through(proxy, broker), recovery=None) as client:
        producer = Producer(client=client, max_in_flight=100, close_timeout=0.3)
        await producer.send_wait(stream, b"first")
        proxy.stall()
        task = asyncio.create_task(producer.send_batch(stream, bodies(1000), on_publish_confirm=told))
        await asyncio.sleep(0)  # the batch goes first
        with pytest.raises(RequestTimeout):
            await producer.send_wait(stream, b"late", timeout=0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(RequestTimeout, match=r"within 0\.1 s"):
            await producer.flush(0.1)
        proxy.cut()
        await asyncio.wait_for(producer.close(), 10)
    assert told.once_for(range(2, 1002))
    assert told.confirmed == set()


async def test_what_a_producer_has_in_flight_is_bounded(through: Client, proxy: Proxy, stream: str) -> None:
    producer = Producer(client=through, max_in_flight=20, batch_size=10, linger=0)
    await producer.send_wait(stream, b"first")
    publisher = inside.outbox(producer, stream).publisher
    proxy.broker_may_speak.clear()

    async def send_all() -> None:
        for body in bodies(2000):
            await producer.send(stream, body)

    sending = asyncio.create_task(send_all())
    await eventually(lambda: publisher.in_flight == 20)
    await asyncio.sleep(0.1)
    assert publisher.in_flight == 20
    assert not sending.done()
    proxy.broker_may_speak.set()
    await asyncio.wait_for(sending, PATIENCE)
    await producer.close()
    assert list((await read(through, stream, 2001)).values()) == [b"first", *bodies(2000)]


async def test_a_stream_that_is_deleted_while_it_is_published_to(client: Client, stream: str) -> None:
    publisher = await client.publisher(stream)
    await publisher.publish(bodies(10))
    await publisher.flush(PATIENCE)

    async def go_on() -> None:
        while True:
            await publisher.publish(bodies(10))
            await asyncio.sleep(0)

    task = asyncio.create_task(go_on())
    await asyncio.sleep(0.05)
    await client.delete_stream(stream)
    with pytest.raises(StreamDoesNotExist, match=stream):
        await asyncio.wait_for(task, PATIENCE)
    await publisher.close()
    assert publisher.published == publisher.confirmed + publisher.failed
    with pytest.raises(StreamDoesNotExist):
        await client.publisher(stream)


async def test_a_stream_that_is_deleted_under_a_producer(client: Client, stream: str) -> None:
    told = Told()
    producer = Producer(client=client)

    async def go_on() -> None:
        while True:
            await producer.send(stream, b"x", on_publish_confirm=told)
            await asyncio.sleep(0)

    task = asyncio.create_task(go_on())
    await eventually(lambda: len(told.statuses) > 100)
    await client.delete_stream(stream)
    with pytest.raises(StreamDoesNotExist, match=stream):
        await asyncio.wait_for(task, 10)
    with pytest.raises(StreamDoesNotExist, match=stream):
        await producer.send_wait(stream, b"x")
    await producer.close()
    assert told.once_for(range(1, len(told.statuses) + 1))
    # The stream may come back, and with it the producer.
    await client.create_stream(stream)
    async with Producer(client=client) as producer:
        await producer.send_wait(stream, b"x")


async def test_send_wait_while_the_stream_is_deleted(client: Client, stream: str) -> None:
    producer = Producer(client=client)
    await producer.send_wait(stream, b"x")
    publisher = inside.outbox(producer, stream).publisher
    await client.delete_stream(stream)
    await eventually(lambda: publisher.error is not None)
    with pytest.raises(StreamDoesNotExist, match=stream):
        await asyncio.wait_for(producer.send_wait(stream, b"y"), 10)
    await producer.close()


async def test_what_the_broker_rejects(through: Client, proxy: Proxy, stream: str) -> None:
    producer = Producer(client=through)
    told = Told()
    await producer.send_wait(stream, b"1")
    publisher = inside.outbox(producer, stream).publisher

    def reject(*ids: int, code: int = 16) -> None:
        errors = tuple(c.MessageError(publishing_id, code) for publishing_id in ids)
        proxy.say(c.encode(c.PublishError(inside.lease_id(publisher), errors)))

    proxy.broker_may_speak.clear()
    waiting = asyncio.create_task(producer.send_wait(stream, b"2", timeout=PATIENCE))
    await asyncio.sleep(0)
    await producer.send_batch(stream, [b"3", b"4", b"5"], on_publish_confirm=told)
    await producer.send_batch(stream, [b"6"])
    reject(2)
    with pytest.raises(AccessRefused, match=stream):
        await waiting
    reject(4, 3, 4, 99, code=17)
    reject(6)
    await eventually(lambda: publisher.failed == 4)
    assert sorted(told.statuses) == [ConfirmationStatus(3, False, 17), ConfirmationStatus(4, False, 17)]
    proxy.broker_may_speak.set()  # the broker's own confirms of those ids come too late
    with pytest.raises(NotConfirmed, match="1 earlier message was not confirmed: access refused"):
        await producer.flush(PATIENCE)
    await producer.flush(PATIENCE)
    await producer.close()
    assert sorted(told.statuses)[2] == ConfirmationStatus(5, True, 1)
    assert (publisher.confirmed, publisher.failed) == (2, 4)


@pytest.mark.parametrize("seed", range(5))
async def test_confirms_in_any_order_and_grouping(client: Client, stream: str, seed: int) -> None:
    chance = random.Random(seed)
    outcomes: list[Outcome] = []
    publisher = await client.publisher(stream, listener=outcomes.append)
    inside.mute(publisher)  # only the test confirms
    ids: list[int] = []
    first = 1
    for _ in range(30):
        count = chance.randrange(1, 20)
        step = chance.choice([1, 1, 1, 3])
        these = range(first, first + count * step, step)
        await publisher.publish(bodies(count), publishing_ids=these if chance.random() < 0.5 else list(these))
        ids += these
        first = these[-1] + chance.randrange(1, 4)
    weights = dict.fromkeys(ids, 1)
    for _ in range(5):
        weights[await publisher.publish_sub_entry(bodies(7))] = 7
    ids = list(weights)
    chance.shuffle(ids)
    rejected: set[int] = set()
    while ids:
        group, ids = ids[: (size := chance.randrange(1, 40))], ids[size:]
        group = sorted(group) if chance.random() < 0.5 else group
        if chance.random() < 0.2:
            rejected |= set(group)
            publisher.on_rejected([c.MessageError(publishing_id, 15) for publishing_id in group])
        else:
            publisher.on_confirmed(group)
        if chance.random() < 0.2:
            publisher.on_confirmed(group)  # again, and some that never were
            publisher.on_confirmed([0, 10**6])
            publisher.on_rejected([c.MessageError(0, 1), c.MessageError(10**6, 1)])
    assert publisher.in_flight == publisher.in_flight_bytes == 0
    assert publisher.failed == sum(weights[i] for i in rejected)
    assert publisher.confirmed == sum(weights.values()) - publisher.failed
    assert Counter(f.publishing_id for o in outcomes for f in o.failed) == Counter({i: weights[i] for i in rejected})
    assert sum(outcome.confirmed for outcome in outcomes) == publisher.confirmed
    await publisher.close()


async def test_who_waits_while_the_producer_is_closed(proxy: Proxy, broker: Broker, stream: str) -> None:
    """They hear that their messages are lost, and are not told to be cancelled."""
    async with Client(options_through(proxy, broker)) as client:
        producer = Producer(client=client, close_timeout=0.5, max_in_flight=1000)
        await producer.send_wait(stream, b"first")
        proxy.stall()
        senders = [asyncio.create_task(producer.send_batch(stream, bodies(1000))) for _ in range(4)]
        await asyncio.sleep(0.1)
        with pytest.raises(NotConfirmed):
            await producer.close()
        answers = await asyncio.gather(*senders, return_exceptions=True)
        assert {type(answer) for answer in answers} <= {NotConfirmed, list}
        assert NotConfirmed in {type(answer) for answer in answers}
        proxy.cut()


async def test_a_publisher_that_the_broker_does_not_know(through: Client, proxy: Proxy, stream: str) -> None:
    publisher = await through.publisher(stream)
    proxy.stall()
    await publisher.publish([b"x"])
    proxy.say(c.encode(c.PublishError(inside.lease_id(publisher), (c.MessageError(1, PublisherDoesNotExist.code),))))
    await eventually(lambda: publisher.error is not None)
    assert isinstance(publisher.error, PublisherDoesNotExist)
    assert (publisher.failed, publisher.in_flight) == (1, 0)
    proxy.resume()
    await publisher.close()


async def test_stored_offsets_wait_for_a_broker_that_reads(proxy: Proxy, broker: Broker, stream: str) -> None:
    async with Client(options_through(proxy, broker, request_timeout=0.5), recovery=None) as client:
        transport = inside.transport(await inside.locator(client).connection())
        assert transport is not None
        proxy.stall()
        waiting = 0

        async def store() -> None:
            nonlocal waiting
            for number in range(1_000_000):
                await client.store_offset(stream, "name" * 50, number)
                waiting = max(waiting, transport.get_write_buffer_size())

        with pytest.raises(RequestTimeout, match="read nothing"):
            await store()
        assert 2**19 < waiting < 2 * 2**20
        proxy.cut()
