"""What users' functions raise stays with them, and each runs in the context of the call that it was given to."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import pytest

from rstream_core import (
    Client,
    ConfirmationStatus,
    ConnectionOptions,
    Consumer,
    ConsumerOffsetSpecification,
    EventContext,
    MessageContext,
    Outcome,
    Producer,
    RecoveryEvent,
    RstreamError,
)
from rstream_core.callbacks import own_task
from tests import inside
from tests.brokers import Broker
from tests.clients import FIRST, PATIENCE, arguments_for, bodies, eventually, options_for, publish
from tests.proxy import Proxy, options_through
from tests.recovering import EAGER, stored

Failed = pytest.fail.Exception
"""A ``BaseException``, as that of other test frameworks is."""

caller: ContextVar[object] = ContextVar("caller", default=None)


class _Marker:
    """What a context variable keeps alive."""


def cancelled() -> object:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    return future.result()


def fail() -> object:
    pytest.fail("the callback's own verdict")


async def cancelled_later() -> None:
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.cancel)
    await future


async def fail_later() -> None:
    await asyncio.sleep(0)
    fail()


RAISING = [
    pytest.param(lambda: 1 / 0, None, id="exception"),
    pytest.param(cancelled, None, id="cancelled"),
    pytest.param(fail, Failed, id="fail"),
    pytest.param(cancelled_later, None, id="async-cancelled"),
    pytest.param(fail_later, Failed, id="async-fail"),
]


@pytest.fixture
async def producer(client: Client) -> AsyncIterator[Producer]:
    async with Producer(client=client) as opened:
        yield opened


# Confirms.


@pytest.mark.parametrize(("raising", "raised"), RAISING)
async def test_what_a_confirm_callback_raises(
    client: Client,
    stream: str,
    caplog: pytest.LogCaptureFixture,
    raising: Callable[[], Any],
    raised: type[BaseException] | None,
) -> None:
    """Everybody else is told, and those who share the connection notice nothing."""
    told: list[int] = []

    def confirmed(status: ConfirmationStatus) -> Awaitable[None] | None:
        told.append(status.message_id)
        return raising() if status.message_id == 3 else None

    innocent = await client.publisher(stream)
    producer = Producer(client=client)
    for body in bodies(100):
        await producer.send(stream, body, on_publish_confirm=confirmed)
    await innocent.publish([b"innocent"] * 1000)
    await innocent.flush(PATIENCE)
    assert innocent.confirmed == 1000
    if raised is None:
        await producer.flush(PATIENCE)
        await producer.close()
        assert len([record for record in caplog.records if "on_publish_confirm failed" in record.message]) == 1
    else:
        await eventually(lambda: len(told) == 100)
        with pytest.raises(raised):
            await producer.close()
        await producer.close()  # told once
        assert not caplog.records
    assert sorted(told) == list(range(1, 101))
    await innocent.close()
    assert sorted(await stored(client, stream)) == sorted([*bodies(100), *[b"innocent"] * 1000])


@pytest.mark.parametrize("call", ["flush", "send", "send_wait", "send_batch"])
async def test_the_next_call_that_waits_raises_what_a_callback_let_out(
    producer: Producer, stream: str, call: str
) -> None:
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "flush": producer.flush,
        "send": lambda: producer.send(stream, b"y"),
        "send_wait": lambda: producer.send_wait(stream, b"y"),
        "send_batch": lambda: producer.send_batch(stream, [b"y"]),
    }
    told = asyncio.Event()

    def confirmed(status: ConfirmationStatus) -> None:
        told.set()
        fail()

    await producer.send(stream, b"x", on_publish_confirm=confirmed)
    await asyncio.wait_for(told.wait(), PATIENCE)
    with pytest.raises(Failed):
        await calls[call]()
    await calls[call]()
    await producer.flush(PATIENCE)


@pytest.mark.parametrize("which", [{2}, set(range(1, 11))], ids=["one", "all"])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("later", [False, True], ids=["sync", "async"])
def test_what_ends_the_program_leaves_the_event_loop(
    broker: Broker, stream_name: str, kind: type[BaseException], later: bool, which: set[int]
) -> None:
    """``asyncio.run`` raises it, and until then nobody was forgotten; the program's own clean-up is not cut short."""
    told: list[int] = []
    has_ended = False

    async def leave() -> None:
        raise kind

    def confirmed(status: ConfirmationStatus) -> Awaitable[None] | None:
        told.append(status.message_id)
        if status.message_id not in which:
            return None
        if later:
            return leave()
        raise kind

    async def main() -> None:
        nonlocal has_ended
        async with Client(options_for(broker)) as client:
            await client.create_stream(stream_name)
            producer = Producer(client=client)
            try:
                await producer.send_batch(stream_name, bodies(10), on_publish_confirm=confirmed)
                await asyncio.sleep(PATIENCE)
            finally:
                await producer.close()
                await client.delete_stream(stream_name)
                has_ended = True

    with pytest.raises(kind):
        asyncio.run(main())
    assert told == list(range(1, 11))
    assert has_ended


async def test_what_a_publishers_own_functions_raise(
    client: Client, proxy: Proxy, broker: Broker, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    def listen(outcome: Outcome) -> None:
        fail() if outcome.confirmed else cancelled()

    def end(_: RstreamError) -> None:
        cancelled()

    async with Client(options_through(proxy, broker), recovery=None) as through:
        publisher = await through.publisher(stream, listener=listen, on_end=end)
        other = await through.publisher(stream)
        await publisher.publish([b"x"])
        with pytest.raises(Failed):
            await publisher.flush(PATIENCE)
        proxy.stall()
        await publisher.publish([b"y"])
        proxy.cut()
        await eventually(lambda: other.error is not None)
        assert (publisher.confirmed, publisher.failed) == (1, 1)
        failures = [record.message for record in caplog.records if "failed" in record.message]
        assert len(failures) == 2
        await publisher.close()
        await other.close()


# Recoveries.


@pytest.mark.parametrize(("raising", "raised"), RAISING[:3])
async def test_what_on_recovery_raises(
    proxy: Proxy, broker: Broker, stream: str, raising: Callable[[], Any], raised: type[BaseException] | None
) -> None:
    through = Client(options_through(proxy, broker), recovery=EAGER, on_recovery=lambda event: raising())
    publishers = [await through.publisher(stream, name) for name in ("one", "two")]
    proxy.cut()
    for publisher in publishers:
        await publisher.publish([b"x"])
        await publisher.flush(PATIENCE)
        await publisher.close()
    if raised is None:
        await through.close()
    else:
        with pytest.raises(raised):
            await through.close()
    assert all(publisher.confirmed == 1 for publisher in publishers)


# Messages, and turns.


async def test_a_consumers_callback_that_fails_a_test(client: Client, stream: str) -> None:
    """``run`` raises it; where nobody runs, ``close`` does."""
    await publish(client, stream, bodies(3))
    for closes in (False, True):
        called = asyncio.Event()

        def callback(message: object, context: MessageContext, called: asyncio.Event = called) -> None:
            called.set()
            fail()

        consumer = Consumer(client=client)
        await consumer.subscribe(stream, callback)
        if closes:
            await asyncio.wait_for(called.wait(), PATIENCE)
        else:
            with pytest.raises(Failed):
                await asyncio.wait_for(consumer.run(), PATIENCE)
            await consumer.close()
            continue
        with pytest.raises(Failed):
            await consumer.close()
        await consumer.close()


async def test_a_consumer_update_listener_that_fails_a_test(client: Client, stream: str) -> None:
    """It reaches whoever runs the consumer; the broker gets its answer, and the turn goes on meanwhile."""

    def listen(active: bool, event: EventContext) -> None:
        if active:
            fail()

    consumer = Consumer(client=client)
    await consumer.subscribe(
        stream,
        lambda message, context: None,
        subscriber_name="group",
        single_active_consumer=True,
        consumer_update_listener=listen,
    )
    with pytest.raises(Failed):
        await asyncio.wait_for(consumer.run(), PATIENCE)
    await consumer.close()


# Contexts.


async def test_each_confirm_comes_in_the_context_of_its_call(producer: Producer, stream: str) -> None:
    found: list[tuple[object, object]] = []

    def confirmed(mine: object) -> Callable[[ConfirmationStatus], None]:
        return lambda status: found.append((mine, caller.get()))

    def confirmed_later(mine: object) -> Callable[[ConfirmationStatus], Awaitable[None]]:
        async def note(status: ConfirmationStatus) -> None:
            await asyncio.sleep(0)
            found.append((mine, caller.get()))

        return note

    async def request(number: int) -> None:
        caller.set(number)
        await producer.send(stream, b"x", on_publish_confirm=confirmed(number))
        await producer.send(stream, b"x", on_publish_confirm=confirmed_later(number))
        await producer.send_batch(stream, [b"x", b"y"], on_publish_confirm=confirmed(number))
        await producer.send_sub_entry(stream, [b"x", b"y"], on_publish_confirm=confirmed(number))

    await asyncio.gather(*map(request, range(10)))
    await producer.flush(PATIENCE)
    await eventually(lambda: len(found) == 50)
    assert all(mine == seen for mine, seen in found)


async def test_the_callbacks_of_one_call_do_not_see_each_others_variables(producer: Producer, stream: str) -> None:
    seen: list[object] = []

    def confirmed(status: ConfirmationStatus) -> None:
        seen.append(caller.get())
        caller.set(status.message_id)

    caller.set("the call")
    await producer.send_batch(stream, bodies(3), on_publish_confirm=confirmed)
    await producer.flush(PATIENCE)
    assert seen == ["the call"] * 3


async def test_a_callback_may_be_called_before_it_has_returned(
    proxy: Proxy, broker: Broker, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It ends the connection, and hears from in there what that does to the others."""
    told: list[bool] = []
    depth, deepest = 0, 0

    def confirmed(status: ConfirmationStatus) -> None:
        nonlocal depth, deepest
        depth += 1
        deepest = max(deepest, depth)
        told.append(status.is_confirmed)
        if len(told) == 1:
            inside.connection(outbox.publisher).abort()
        depth -= 1

    async with Client(options_through(proxy, broker), recovery=None) as client:
        producer = Producer(client=client)
        await producer.send_wait(stream, b"first")
        outbox = inside.outbox(producer, stream)
        proxy.broker_may_speak.clear()
        (first, *_) = await producer.send_batch(stream, bodies(10), on_publish_confirm=confirmed)
        outbox.publisher.on_confirmed([first])
        await eventually(lambda: len(told) == 10)
        assert deepest == 2
        await producer.close()
    assert not caplog.records


async def test_who_ends_a_connection_when_told_of_a_loss_is_told_once_of_each(
    options: ConnectionOptions, stream: str
) -> None:
    told: list[tuple[str, str]] = []

    def lost(event: RecoveryEvent) -> None:
        told.append((event.what, event.state.value))
        client.abort()

    async with Client(options, recovery=None, on_recovery=lost) as client:
        publisher = await client.publisher(stream)
        subscription = await client.subscribe(stream, FIRST)
        inside.connection(publisher).abort()
        await eventually(lambda: publisher.error is not None and subscription.error is not None)
    assert sorted(told) == sorted(
        [(what, state) for what in ("publisher", "subscription") for state in ("lost", "given up")]
    )


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there are no eager tasks before Python 3.12")
async def test_the_cores_own_tasks_are_never_eager() -> None:
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
    begun = False

    async def begin() -> None:
        nonlocal begun
        begun = True

    task = own_task(begin())
    assert not begun
    await task
    assert begun


async def test_a_connection_holds_nothing_of_whoever_came_first(broker: Broker, client: Client, stream: str) -> None:
    """Nor do the tasks and timers of the core: the first request of a service lives no longer than the others."""
    producer = Producer(**arguments_for(broker))
    consumer = Consumer(**arguments_for(broker))
    got = asyncio.Event()

    async def first_request() -> weakref.ref[object]:
        marker = _Marker()
        caller.set(marker)
        await producer.send(stream, b"x", on_publish_confirm=lambda status: None)
        await producer.send_wait(stream, b"y", timeout=None)  # asyncio keeps a timer that was cancelled, for its time
        await consumer.start()
        return weakref.ref(marker)

    marker = await asyncio.create_task(first_request())
    await consumer.subscribe(stream, lambda message, context: got.set())
    await asyncio.wait_for(got.wait(), PATIENCE)
    await producer.send_wait(stream, b"z", timeout=PATIENCE)
    gc.collect()
    assert marker() is None
    await producer.close()
    await consumer.close()


async def test_other_functions_have_the_context_that_they_were_given_in(
    proxy: Proxy, broker: Broker, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    found: dict[str, object] = {}

    def on_recovery(event: RecoveryEvent) -> None:
        found.setdefault("on_recovery", caller.get())

    def on_update(active: bool, event: EventContext) -> ConsumerOffsetSpecification:
        found.setdefault("listener", caller.get())
        return FIRST

    def callback(message: object, context: MessageContext) -> None:
        found.setdefault("callback", caller.get())

    caller.set("who made it")
    consumer = Consumer(client=Client(options_through(proxy, broker), recovery=EAGER, on_recovery=on_recovery))
    caller.set("who started it")
    await consumer.start()
    caller.set("who subscribed")
    await consumer.subscribe(
        stream,
        callback,
        subscriber_name="group",
        single_active_consumer=True,
        consumer_update_listener=on_update,
    )
    caller.set("somebody else")
    async with Producer(client=consumer.client) as producer:
        await producer.send_wait(stream, b"x", timeout=PATIENCE)
    await eventually(lambda: len(found) == 2)
    proxy.cut()
    await eventually(lambda: len(found) == 3)
    assert found == {"on_recovery": "who made it", "listener": "who subscribed", "callback": "who subscribed"}
    await consumer.close()
    await consumer.client.close()
