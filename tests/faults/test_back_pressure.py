"""A producer in an outage: what it holds is bounded, callers wait in their order, what is taken back is not sent."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest

from benchmarks.outage import faults_of, measure
from rstream_core import (
    AMQPMessage,
    Client,
    CompressionType,
    ConfirmationStatus,
    ConnectionClosed,
    ConnectionOptions,
    EmbeddedBroker,
    NotConfirmed,
    Producer,
    ProtocolError,
    RequestTimeout,
    StreamDoesNotExist,
    SuperStreamProducer,
    parse_uri,
)
from rstream_core.producers.outbox import Outbox
from rstream_core.protocol import commands as c
from tests import inside
from tests.brokers import Broker
from tests.clients import PATIENCE, bodies, eventually
from tests.proxy import Proxy, options_through
from tests.recovering import stored


@pytest.fixture
async def own_broker() -> AsyncIterator[EmbeddedBroker]:
    async with EmbeddedBroker() as serving:
        yield serving


@pytest.fixture
async def mortal(proxy: Proxy, broker: Broker) -> AsyncIterator[Client]:
    """A client that does not recover, and reaches the broker through the proxy."""
    async with Client(options_through(proxy, broker), recovery=None) as opened:
        yield opened


async def begin_outage(proxy: Proxy, outbox: Outbox) -> None:
    """Over when the publisher knows: it writes nothing more."""
    proxy.refuse()
    proxy.cut()
    await eventually(lambda: not inside.is_attached(outbox.publisher))


async def outbox_of(producer: Producer, stream: str, name: str | None = None) -> Outbox:
    """Opened, with one message that is confirmed."""
    await producer.send_wait(stream, b"first", name, timeout=PATIENCE)
    return inside.outbox(producer, stream, name)


def start(calls: list[Coroutine[Any, Any, Any]]) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(call) for call in calls]


async def hear(tasks: list[asyncio.Task[Any]]) -> list[Any]:
    async with asyncio.timeout(PATIENCE):
        return await asyncio.gather(*tasks, return_exceptions=True)


async def all_wait(outbox: Outbox, count: int) -> None:
    await eventually(lambda: len(inside.waiting(outbox)) == count)


# The bound.


@pytest.mark.parametrize("way", ["a sub-entry", "messages"])
async def test_who_waits_behind_a_rejected_message_is_told(own_broker: EmbeddedBroker, way: str) -> None:
    """It is the last one in flight: no other confirm will come."""
    async with Client(ConnectionOptions(endpoints=(parse_uri(own_broker.uri).endpoint,))) as client:
        await client.create_stream(stream := "s")
        producer = Producer(client=client, max_in_flight=60_000, max_in_flight_bytes=1_000_000)
        outbox = await outbox_of(producer, stream, "writer")
        own_broker.faults.delay(0.3)
        own_broker.faults.answer(c.Key.PUBLISH, 15)
        told: list[ConfirmationStatus] = []
        await producer.send_batch(stream, [b"rejected"], "writer", told.append)
        if way == "messages":
            calls = start([producer.send(stream, bytes(300_000), "writer", told.append) for _ in range(9)])
        else:
            await producer.send_sub_entry(stream, [b"x"] * 40_000, CompressionType.No, "writer", told.append)
            calls = start([producer.send_sub_entry(stream, [b"y"] * 40_000, CompressionType.No, "writer", told.append)])
        await eventually(lambda: bool(inside.waiting(outbox)))
        answers = await hear(calls)
        assert any(isinstance(answer, NotConfirmed) and "was rejected" in str(answer) for answer in answers)
        assert not inside.waiting(outbox)
        own_broker.faults.clear()
        await producer.send_wait(stream, b"after it", "writer", timeout=PATIENCE)
        with contextlib.suppress(NotConfirmed):
            await producer.close()


async def test_a_close_that_is_cancelled_leaves_nobody_waiting(through: Client, proxy: Proxy, stream: str) -> None:
    producer = Producer(client=through, max_in_flight=10)
    outbox = await outbox_of(producer, stream)
    await begin_outage(proxy, outbox)
    told: list[ConfirmationStatus] = []
    calls = start([producer.send(stream, body, None, told.append) for body in bodies(30)])
    await all_wait(outbox, 20)
    closing = asyncio.create_task(producer.close())
    await asyncio.sleep(0.05)
    closing.cancel()
    answers = await hear([*calls, closing])
    assert isinstance(answers[-1], asyncio.CancelledError)
    assert sum(isinstance(answer, NotConfirmed) for answer in answers) >= 20
    assert len(told) == 10
    await producer.close()
    await proxy.accept_again()
    await through.metadata(stream)
    assert all(not connection.publishers for connection in inside.publishing(through).connections)


@pytest.mark.parametrize("steps", range(5))
async def test_a_close_that_is_cancelled_at_once_tells_everybody(through: Client, stream: str, steps: int) -> None:
    """Also where what it starts has not taken its first step."""
    producer = Producer(client=through, linger=60)
    told: list[ConfirmationStatus] = []
    for body in bodies(3):
        await producer.send(stream, body, None, told.append)
    closing = asyncio.create_task(producer.close())
    for _ in range(steps):
        await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    await producer.close()
    await eventually(lambda: len(told) == 3)
    stored_now = await stored(through, stream)
    assert sum(status.is_confirmed for status in told) <= len(stored_now) <= 3
    await eventually(lambda: not any(one.publishers for one in inside.publishing(through).connections))


async def test_no_linger_is_no_busy_loop(
    through: Client, proxy: Proxy, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the broker is away, what is held waits for the job before it."""
    lingered = inside.count_lingers(monkeypatch)
    producer = Producer(client=through, linger=0)
    outbox = await outbox_of(producer, stream)
    await begin_outage(proxy, outbox)
    sending = asyncio.create_task(producer.send_batch(stream, [b"job"]))
    await asyncio.sleep(0)
    await producer.send(stream, b"held")
    before = lingered()
    await asyncio.sleep(0.2)
    assert lingered() - before <= 1
    await proxy.accept_again()
    await asyncio.wait_for(sending, PATIENCE)
    await producer.close()
    assert await stored(through, stream) == [b"first", b"job", b"held"]


async def test_no_id_is_left(client: Client, stream: str) -> None:
    """Told in the same words to the one who used the last id, and to those who ask the broker what it was."""
    producer = Producer(client=client)
    last = AMQPMessage(body=b"x", publishing_id=2**64 - 1)
    await producer.send_wait(stream, last, "writer", timeout=PATIENCE)
    for one in (producer, Producer(client=client)):
        told: list[ConfirmationStatus] = []
        for call in (
            one.send_batch(stream, [b"y"], "writer"),
            one.send_sub_entry(stream, [b"y"], CompressionType.No, "writer"),
            one.send_wait(stream, b"y", "writer"),
        ):
            with pytest.raises(ProtocolError, match="no publishing id is left"):
                await call
        await one.send(stream, b"y", "writer", told.append)
        with pytest.raises(ProtocolError, match="no publishing id is left"):
            await one.flush(PATIENCE)
        assert [(status.is_confirmed, status.was_sent) for status in told] == [(False, False)]
        await one.close()


async def test_every_caller_waits_once_the_outbox_is_full(through: Client, proxy: Proxy, stream: str) -> None:
    producer = Producer(client=through, max_in_flight=100)
    outbox = await outbox_of(producer, stream)
    await begin_outage(proxy, outbox)
    calls = start([producer.send(stream, body) for body in bodies(500)])
    await all_wait(outbox, 400)
    assert outbox.unsettled == 100
    assert sum(call.done() for call in calls) <= 100
    late = start([producer.send(stream, b"late")])
    await all_wait(outbox, 401)
    await proxy.accept_again()
    assert set(await hear(calls + late)) == {None}
    await producer.close()
    assert await stored(through, stream) == [b"first", *bodies(500), b"late"]


async def test_a_web_service_in_an_outage(tmp_path: Path) -> None:
    """A short form of the program that loads it."""
    found = await measure(40_000, 4_000, 1000, seconds=0, data=tmp_path)
    assert faults_of(found, 1000) == []
    assert found["returned_in_outage"] > 0


async def test_the_bound_of_bytes_is_never_passed(through: Client, proxy: Proxy, stream: str) -> None:
    producer = Producer(client=through, max_in_flight_bytes=100_000)
    outbox = await outbox_of(producer, stream)
    await begin_outage(proxy, outbox)
    calls = start([producer.send(stream, b"%03d" % number + bytes(1497)) for number in range(200)])
    await all_wait(outbox, 200 - 66)
    assert outbox.unsettled == 66  # of 1,500 bytes: the next one would not fit
    small = start([producer.send(stream, b"small")])  # it would, and does not overtake the others
    await all_wait(outbox, 200 - 66 + 1)
    await proxy.accept_again()
    await hear(calls + small)
    await producer.close()
    assert [body[:3] for body in await stored(through, stream)][1:] == [*(b"%03d" % n for n in range(200)), b"sma"]


@pytest.mark.parametrize("bounds", [{"max_in_flight": 1}, {"max_in_flight": 7}, {"max_in_flight_bytes": 10}])
async def test_small_bounds_stop_nobody_for_good(
    through: Client, proxy: Proxy, stream: str, bounds: dict[str, int]
) -> None:
    producer = Producer(client=through, linger=60, **bounds)  # type: ignore[arg-type]
    outbox = await outbox_of(producer, stream)
    await begin_outage(proxy, outbox)
    calls = start([producer.send_batch(stream, bodies(20, "batch ")), *(producer.send(stream, b) for b in bodies(30))])
    await asyncio.sleep(0)
    await proxy.accept_again()
    sizes = [len(answer or ()) for answer in await hear(calls)]
    assert sizes == [20] + 30 * [0]
    await producer.close()
    assert await stored(through, stream) == [b"first", *bodies(20, "batch "), *bodies(30)]


async def test_the_order_of_the_calls_is_kept_by_those_who_wait(through: Client, proxy: Proxy, stream: str) -> None:
    producer = Producer(client=through, max_in_flight=20)
    outbox = await outbox_of(producer, stream, "writer")
    await begin_outage(proxy, outbox)
    calls: list[Coroutine[Any, Any, Any]] = []
    for number in range(300):
        body = str(number).encode()
        match number % 7:
            case 0:
                calls.append(producer.send_batch(stream, [body + b"a", body + b"b"], "writer"))
            case 3:
                calls.append(producer.send_sub_entry(stream, [body + b"a", body + b"b"], CompressionType.No, "writer"))
            case 5:
                calls.append(producer.send_wait(stream, body + b"a", "writer", timeout=None))
            case _:
                calls.append(producer.send(stream, body + b"a", "writer"))
    tasks = start(calls)
    await eventually(lambda: len(inside.waiting(outbox)) > 200)
    assert outbox.unsettled <= 21
    await proxy.accept_again()
    answers = await hear(tasks)
    assert {type(answer) for answer in answers} == {type(None), int, list}
    await producer.close()
    found = await stored(through, stream)
    numbers = [int(body[:-1]) for body in found[1:]]
    assert numbers == sorted(numbers)
    assert len(found) == 1 + 300 + sum(number % 7 in (0, 3) for number in range(300))


async def test_one_full_stream_holds_up_no_other(client: Client, stream: str) -> None:
    other = f"{stream}-other"
    await client.create_stream(other)
    producer = Producer(client=client, max_in_flight=10)
    outbox = await outbox_of(producer, stream)
    with unconfirmed(outbox):
        calls = start([producer.send(stream, body) for body in bodies(50)])
        await all_wait(outbox, 40)
        for body in bodies(100):
            await asyncio.wait_for(producer.send(other, body), PATIENCE)
        await asyncio.wait_for(producer.send_wait(stream, b"", "a name", timeout=None), PATIENCE)
    await hear(calls)
    await producer.close()
    assert await stored(client, other) == bodies(100)
    await client.delete_stream(other)


class unconfirmed:  # noqa: N801
    """Confirms that come for this publisher wait until it is left."""

    def __init__(self, outbox: Outbox) -> None:
        publisher = outbox.publisher
        self._handlers, self._id = inside.connection(publisher).publishers, inside.lease_id(publisher)
        self._handler = publisher
        self._kept: list[Any] = []

    def __enter__(self) -> None:
        self._handlers[self._id] = self  # type: ignore[assignment]

    def __exit__(self, *_: object) -> None:
        self._handlers[self._id] = self._handler
        for ids in self._kept:
            self._handler.on_confirmed(ids)

    def on_confirmed(self, ids: Any) -> None:
        self._kept.append(ids)

    def on_writable(self) -> None:
        self._handler.on_writable()

    def on_unavailable(self, error: Any) -> None:
        self._handler.on_unavailable(error)


@pytest.mark.parametrize("method", ["send", "send_batch", "send_wait", "send_sub_entry"])
async def test_a_full_partition_holds_up_only_those_who_have_something_for_it(
    client: Client, super_stream: str, method: str
) -> None:
    def route(message: bytes, partitions: Any) -> Any:
        return partitions if message == b"everywhere" else partitions[int(message[:1])]

    producer = SuperStreamProducer(client=client, super_stream=super_stream, routing=route, max_in_flight=10)
    for number in range(3):
        await producer.send_wait(b"%d first" % number)
    outbox = inside.outbox(producer, f"{super_stream}-0", None)
    many = method in ("send_batch", "send_sub_entry")

    def call(*messages: bytes) -> Coroutine[Any, Any, Any]:
        found: Coroutine[Any, Any, Any] = getattr(producer, method)(messages if many else messages[0])
        return found

    with unconfirmed(outbox):
        full = start([producer.send(body) for body in bodies(40, "0 ")])
        await all_wait(outbox, 30)
        behind = start([call(b"everywhere", b"1 too"), call(b"0 last")])
        await all_wait(outbox, 32)
        for number in range(100):
            await asyncio.wait_for(call(b"%d %d" % (1 + number % 2, number)), PATIENCE)
        assert not any(task.done() for task in behind)
    assert not [answer for answer in await hear(full + behind) if isinstance(answer, BaseException)]
    await producer.close()
    assert await stored(client, f"{super_stream}-0") == [b"0 first", *bodies(40, "0 "), b"everywhere", b"0 last"]
    for number in (1, 2):
        found = [body for body in await stored(client, f"{super_stream}-{number}") if body != b"1 too"]
        wanted = [b"%d %d" % (number, n) for n in range(100) if 1 + n % 2 == number]
        assert found == [b"%d first" % number, b"everywhere", *wanted]


# What is taken back.


@pytest.mark.parametrize("name", [None, "writer"])
async def test_calls_that_are_cancelled_anywhere_are_not_sent(
    through: Client, proxy: Proxy, stream: str, name: str | None
) -> None:
    producer = Producer(client=through, max_in_flight=60, batch_size=10)
    outbox = await outbox_of(producer, stream, name)
    await begin_outage(proxy, outbox)
    told: dict[bytes, list[ConfirmationStatus]] = {body: [] for body in bodies(300)}
    tasks = start([producer.send(stream, body, name, told[body].append) for body in bodies(300)])
    await all_wait(outbox, 240)
    cancelled = [
        body for number, body in enumerate(bodies(300)) if (number % 3 == 0 or number < 40) and tasks[number].cancel()
    ]
    answers = await hear([task for task in tasks if task.cancelling()])
    assert {type(answer) for answer in answers} == {asyncio.CancelledError}
    assert len(cancelled) >= 80 + 4  # the last ones of each batch, which wait for it, and those who wait for room
    for body in cancelled:
        (status,) = told[body]
        assert (status.is_confirmed, status.response_code, status.was_sent) == (False, 0, False)
    await proxy.accept_again()
    await hear(tasks)
    await producer.send_wait(stream, b"last", name, timeout=None)
    await producer.close()
    kept = [body for body in bodies(300) if body not in cancelled]
    assert await stored(through, stream) == [b"first", *kept, b"last"]
    ids = [status.message_id for body in kept for status in told[body]]
    assert len(ids) == len(kept)
    assert ids == sorted(set(ids))
    assert all(status.is_confirmed for body in kept for status in told[body])


@pytest.mark.parametrize("method", ["send_batch", "send_wait", "send_sub_entry"])
async def test_a_queued_call_that_is_cancelled_is_not_sent(
    through: Client, proxy: Proxy, stream: str, method: str
) -> None:
    producer = Producer(client=through)
    outbox = await outbox_of(producer, stream)
    await begin_outage(proxy, outbox)
    many = method != "send_wait"
    call = getattr(producer, method)
    keyword = {} if many else {"timeout": None}
    tasks = start([call(stream, [body] if many else body, **keyword) for body in bodies(30)])
    await eventually(lambda: len(inside.jobs(outbox)) == 30)
    for task in tasks[::2]:  # the first one's is being carried out
        task.cancel()
    await hear(tasks[::2])
    assert outbox.unsettled == 15
    await proxy.accept_again()
    assert not [answer for answer in await hear(tasks[1::2]) if isinstance(answer, BaseException)]
    await producer.close()  # nobody is owed anything
    assert await stored(through, stream) == [b"first", *bodies(30)[1::2]]


async def test_a_wait_that_is_over_leaves_nothing_in_the_queue(through: Client, proxy: Proxy, stream: str) -> None:
    producer = Producer(client=through, max_in_flight=100)
    outbox = await outbox_of(producer, stream)
    await begin_outage(proxy, outbox)
    for _ in range(3):
        answers = await hear(start([producer.send_wait(stream, b"late", timeout=0.2) for _ in range(300)]))
        assert {type(answer) for answer in answers} == {RequestTimeout}
        assert all("not confirmed within 0.2 s; it was not sent, and will not be" in str(error) for error in answers)
        assert outbox.unsettled == len(inside.jobs(outbox)) == len(inside.waiting(outbox)) == 0
    await proxy.accept_again()
    assert await producer.send_wait(stream, b"last", timeout=PATIENCE) > 1
    await producer.close()
    assert await stored(through, stream) == [b"first", b"last"]


async def test_a_super_stream_tells_that_nothing_was_sent(through: Client, proxy: Proxy, super_stream: str) -> None:
    producer = SuperStreamProducer(client=through, super_stream=super_stream, routing=lambda _, partitions: partitions)
    await producer.send_wait(b"first", timeout=PATIENCE)
    outboxes = inside.outboxes(producer)
    proxy.refuse()
    proxy.cut()
    await eventually(lambda: not any(inside.is_attached(outbox.publisher) for outbox in outboxes))
    with pytest.raises(RequestTimeout, match="it was not sent"):
        await producer.send_wait(b"late", timeout=0.1)
    assert sum(outbox.unsettled for outbox in outboxes) == 0
    await proxy.accept_again()
    await producer.send_wait(b"last", timeout=PATIENCE)
    await producer.close()
    for number in range(3):
        assert await stored(through, f"{super_stream}-{number}") == [b"first", b"last"]


async def test_an_opening_that_is_too_slow_is_told_as_not_sent(
    client: Client, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = asyncio.Event()
    monkeypatch.setattr(client, "publisher", lambda *_, **__: never.wait())
    producer = Producer(client=client)
    with pytest.raises(RequestTimeout, match="it was not sent"):
        await producer.send_wait(stream, b"late", timeout=0.1)
    await producer.close()


async def test_a_message_that_may_be_stored_is_not_told_as_not_sent(through: Client, proxy: Proxy, stream: str) -> None:
    producer = Producer(client=through)
    await outbox_of(producer, stream)
    proxy.broker_may_speak.clear()
    with pytest.raises(RequestTimeout, match=r"not confirmed within 0\.1 s$"):
        await producer.send_wait(stream, b"second", timeout=0.1)
    proxy.resume()
    await producer.close()
    assert await stored(through, stream) == [b"first", b"second"]


@pytest.mark.parametrize("has_callback", [True, False])
async def test_a_batch_of_which_a_part_is_written(
    through: Client, proxy: Proxy, stream: str, has_callback: bool
) -> None:
    told: list[ConfirmationStatus] = []
    producer = Producer(client=through, max_in_flight=100)
    outbox = await outbox_of(producer, stream)
    proxy.stall()
    task = asyncio.create_task(
        producer.send_batch(stream, bodies(1000), on_publish_confirm=told.append if has_callback else None)
    )
    await eventually(lambda: outbox.publisher.in_flight == 100)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert outbox.unsettled == 100
    proxy.resume()
    await producer.flush(PATIENCE) if has_callback else await flush_with_losses(producer, 900)
    await producer.send_wait(stream, b"last")
    await producer.close()
    assert await stored(through, stream) == [b"first", *bodies(100), b"last"]
    if has_callback:
        assert Counter(status.message_id for status in told) == Counter(range(2, 1002))
        assert {status.message_id for status in told if status.is_confirmed} == set(range(2, 102))
        assert {status.message_id for status in told if not status.was_sent} == set(range(102, 1002))


async def flush_with_losses(producer: Producer, count: int) -> None:
    with pytest.raises(NotConfirmed, match=f"^{count} earlier messages were not confirmed: cancelled before"):
        await producer.flush(PATIENCE)


async def test_a_flush_waits_for_what_was_there_before_what_was_taken_back(
    through: Client, proxy: Proxy, stream: str
) -> None:
    producer = Producer(client=through)
    outbox = await outbox_of(producer, stream)
    await begin_outage(proxy, outbox)
    first, last = start([producer.send_batch(stream, [b"1"]), producer.send_batch(stream, [b"2"])])
    await eventually(lambda: len(inside.jobs(outbox)) == 2)
    flushing = asyncio.create_task(outbox.flush())
    await asyncio.sleep(0)
    last.cancel()
    await hear([last])
    assert not flushing.done()
    await proxy.accept_again()
    await hear([flushing])
    assert first.done()
    await producer.close()
    assert await stored(through, stream) == [b"first", b"1"]


# The end.


@pytest.mark.parametrize("how", ["connection", "confirm timeout"])
async def test_who_waits_when_the_publisher_fails_is_told(mortal: Client, proxy: Proxy, stream: str, how: str) -> None:
    told: list[ConfirmationStatus] = []
    timeout = 0.3 if how == "confirm timeout" else None
    producer = Producer(client=mortal, max_in_flight=20, confirm_timeout=timeout)
    outbox = await outbox_of(producer, stream)
    proxy.stall()
    tasks = start([producer.send(stream, body, None, told.append) for body in bodies(100)])
    await all_wait(outbox, 80)
    if how == "connection":
        proxy.cut()
    answers = Counter(map(type, await hear(tasks)))
    failure = ConnectionClosed if how == "connection" else NotConfirmed
    assert answers[failure] >= 80
    assert answers.keys() <= {failure, type(None)}
    assert len(told) == 20  # those that were taken
    proxy.resume()
    proxy.cut()
    await producer.close()


async def test_who_waits_when_the_stream_is_deleted_is_told(client: Client, stream: str) -> None:
    producer = Producer(client=client, max_in_flight=10)
    outbox = await outbox_of(producer, stream)
    confirmations: list[ConfirmationStatus] = []
    with unconfirmed(outbox):
        tasks = start([producer.send(stream, body, None, confirmations.append) for body in bodies(50)])
        await all_wait(outbox, 40)
        await client.delete_stream(stream)
        answers = await hear(tasks)
    assert sum(isinstance(answer, StreamDoesNotExist) for answer in answers) >= 40
    await producer.close()


async def test_close_lets_in_who_waits(through: Client, proxy: Proxy, stream: str) -> None:
    producer = Producer(client=through, max_in_flight=20, linger=60, close_timeout=PATIENCE)
    outbox = await outbox_of(producer, stream)
    await begin_outage(proxy, outbox)
    tasks = start([producer.send(stream, body) for body in bodies(95)])
    await all_wait(outbox, 75)
    closing = asyncio.create_task(producer.close())
    await asyncio.sleep(0)
    await proxy.accept_again()
    assert set(await hear([*tasks, closing])) == {None}
    assert await stored(through, stream) == [b"first", *bodies(95)]


async def test_close_does_not_wait_for_ever_for_those_who_wait(through: Client, proxy: Proxy, stream: str) -> None:
    told: list[ConfirmationStatus] = []
    producer = Producer(client=through, max_in_flight=20, close_timeout=0.2)
    outbox = await outbox_of(producer, stream)
    await begin_outage(proxy, outbox)
    tasks = start([producer.send(stream, body, None, told.append) for body in bodies(100)])
    await all_wait(outbox, 80)
    (answer,) = await hear([asyncio.create_task(producer.close())])
    assert answer is None  # all have callbacks
    refused = [answer for answer in await hear(tasks) if isinstance(answer, NotConfirmed)]
    assert len(refused) >= 80
    assert len(told) == 20
    assert not any(status.was_sent for status in told)
    await proxy.accept_again()
    assert await stored(through, stream) == [b"first"]


async def test_cancelled_callers_leave_no_room_unused(through: Client, proxy: Proxy, stream: str) -> None:
    """Cancelled in the very moment in which it is their turn."""
    producer = Producer(client=through, max_in_flight=4, linger=0)
    outbox = await outbox_of(producer, stream)
    for number in itertools.count():
        tasks = start([producer.send(stream, b"%d" % number) for _ in range(50)])
        await eventually(lambda tasks=tasks: inside.coming(outbox)[0] > 0 or all(task.done() for task in tasks))  # type: ignore[misc]
        came = inside.coming(outbox)[0]
        for task in tasks[::3]:
            task.cancel()
        await hear(tasks)
        if number > 20 and (came or number > 200):
            break
    assert (*inside.coming(outbox), len(inside.waiting(outbox))) == (0, 0, 0, 0)
    await producer.flush(PATIENCE)
    assert outbox.unsettled == inside.queued_bytes(outbox) == 0
    await producer.close()
