"""Lost connections, as programs of the published client see to them by ``rstream_core.compat``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rstream_core import Client, ConnectionClosed, NotConfirmed, compat
from rstream_core.compat.recovery import IReliableEntity
from tests import inside
from tests.brokers import Broker
from tests.clients import PATIENCE, arguments_for, eventually, publish, read
from tests.proxy import Proxy


@pytest.fixture
def through(proxy: Proxy, broker: Broker) -> dict[str, Any]:
    """Arguments of producers and consumers that reach the broker through the proxy."""
    where = {"host": proxy.endpoint.host, "port": proxy.endpoint.port, "load_balancer_mode": True}
    return {**arguments_for(broker), **where}


class Seen(list[tuple[bytes, int]]):
    """A callback that keeps messages with their offsets."""

    def __call__(self, message: bytes, context: compat.MessageContext) -> None:
        self.append((message, context.offset))


class Own(compat.RecoveryStrategy):
    """A strategy as programs write them."""

    def __init__(self, attempts: int = 1) -> None:
        super().__init__()
        self.attempts = attempts
        self.asked: list[tuple[IReliableEntity, str, str, int]] = []
        self.is_done = asyncio.Event()

    async def recover(
        self,
        entity: IReliableEntity,
        stream: str,
        error: Exception,
        attempt: int,
        recovery_fun: Callable[[], Awaitable[Any]],
    ) -> None:
        self.asked.append((entity, stream, type(error).__name__, attempt))
        for _ in range(self.attempts):
            if await entity.stream_exists(stream):
                await entity.clean_list(stream)
                await recovery_fun()
        self.is_done.set()


async def test_a_handler_is_told_once_of_a_connection(
    proxy: Proxy, through: dict[str, Any], client: Client, stream: str
) -> None:
    """With all its streams; and the consumer goes on where it was."""
    other = f"{stream}-2"
    await client.create_stream(other)
    await publish(client, stream, [b"0", b"1"])
    await publish(client, other, [b"2"])
    told: list[compat.OnClosedErrorInfo] = []

    async def on_close(info: compat.OnClosedErrorInfo) -> None:
        await asyncio.sleep(0)
        told.append(info)

    seen = Seen()
    async with compat.Consumer(**through, on_close_handler=on_close) as consumer:
        await consumer.subscribe(stream, seen)
        await consumer.subscribe(other, seen)
        await eventually(lambda: len(seen) == 3)
        proxy.cut()
        await eventually(lambda: bool(told))
        await publish(client, stream, [b"3"])
        await eventually(lambda: len(seen) == 4)
    assert told == [compat.OnClosedErrorInfo("Connection Closed", [stream, other])]
    assert sorted(seen) == [(b"0", 0), (b"1", 1), (b"2", 0), (b"3", 2)]
    await client.delete_stream(other)


async def test_a_producer_goes_on(proxy: Proxy, through: dict[str, Any], client: Client, stream: str) -> None:
    told: list[compat.OnClosedErrorInfo] = []
    strategy = compat.BackOffRecoveryStrategy()
    async with compat.Producer(**through, on_close_handler=told.append, recovery_strategy=strategy) as producer:
        await producer.send_wait(stream, b"0")
        proxy.cut()
        await eventually(lambda: bool(told))
        await producer.send_wait(stream, b"1", timeout=15)
    assert told == [compat.OnClosedErrorInfo("Connection Closed", [stream])]
    assert list((await read(client, stream, 2)).values()) == [b"0", b"1"]


async def test_version_0_is_told_the_error_and_recovers_by_itself(
    proxy: Proxy, through: dict[str, Any], client: Client, stream: str
) -> None:
    """As its readme says: it does not reconnect. The handler closes the consumer, and so ``run`` returns."""
    await publish(client, stream, [b"0"])
    reasons: list[Exception] = []

    async def on_connection_closed(reason: Exception) -> None:
        reasons.append(reason)
        await consumer.close()

    consumer = compat.Consumer(**through, connection_closed_handler=on_connection_closed)
    seen = Seen()
    for attempt in (1, 2):
        await consumer.start()
        await consumer.subscribe(stream, seen)
        running = asyncio.create_task(consumer.run())
        await eventually(lambda attempt=attempt: len(seen) == attempt)  # type: ignore[misc]
        proxy.cut()
        async with asyncio.timeout(PATIENCE):
            await running
        assert [isinstance(reason, ConnectionClosed) for reason in reasons] == [True] * attempt
    assert seen == [(b"0", 0)] * 2


async def test_version_0_recovers_nothing(proxy: Proxy, through: dict[str, Any], client: Client, stream: str) -> None:
    """Where the handler only takes note; a strategy beside it does what it is for."""
    told: list[Exception] = []
    async with compat.Consumer(**through, connection_closed_handler=told.append) as consumer:
        await consumer.subscribe(stream, Seen())
        running = asyncio.create_task(consumer.run())
        proxy.cut()
        await eventually(lambda: bool(told))
        await eventually(lambda: not inside.subscriptions(consumer), 2)
        assert not running.done()
    await running
    strategy = compat.BackOffRecoveryStrategy()
    seen = Seen()
    async with compat.Consumer(
        **through, connection_closed_handler=told.append, recovery_strategy=strategy
    ) as consumer:
        await consumer.subscribe(stream, seen)
        proxy.cut()
        await eventually(lambda: len(told) == 2)
        await publish(client, stream, [b"0"])
        await eventually(lambda: bool(seen))


async def test_a_disabled_strategy(proxy: Proxy, through: dict[str, Any], client: Client, stream: str) -> None:
    """Nothing recovers; and where nobody else is told, ``run`` raises."""
    consumer = compat.Consumer(**through, recovery_strategy=compat.BackOffRecoveryStrategy(enable=False))
    await consumer.start()
    await consumer.subscribe(stream, Seen())
    running = asyncio.create_task(consumer.run())
    proxy.cut()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(ConnectionClosed):
            await running
    await consumer.subscribe(stream, Seen())  # it is forgotten, and no StreamAlreadySubscribed
    await consumer.close()


async def test_a_consumer_with_a_strategy_of_the_programs(
    proxy: Proxy, through: dict[str, Any], client: Client, stream: str
) -> None:
    await publish(client, stream, [b"0", b"1"])
    strategy = Own()
    seen = Seen()
    consumer = compat.Consumer(**through, recovery_strategy=strategy)
    async with consumer:
        await consumer.subscribe(stream, seen)
        running = asyncio.create_task(consumer.run())
        await eventually(lambda: len(seen) == 2)
        for count in (3, 4):
            strategy.is_done.clear()
            proxy.cut()
            async with asyncio.timeout(PATIENCE):
                await strategy.is_done.wait()
            await publish(client, stream, [b"%d" % (count - 1)])
            await eventually(lambda count=count: len(seen) == count)  # type: ignore[misc]
        assert not running.done()
    await running
    assert seen == [(b"%d" % number, number) for number in range(4)]
    assert strategy.asked == [(consumer, stream, "ConnectionClosed", 1)] * 2


async def test_a_producer_with_a_strategy_of_the_programs(
    proxy: Proxy, through: dict[str, Any], client: Client, stream: str
) -> None:
    """What was not confirmed is told; the next message opens a publisher again."""
    strategy = Own()
    told: list[compat.ConfirmationStatus] = []
    async with compat.Producer(**through, recovery_strategy=strategy) as producer:
        await producer.send_wait(stream, b"0")
        proxy.broker_may_speak.clear()
        await producer.send_batch(stream, [b"1"], on_publish_confirm=told.append)
        await producer.send_batch(stream, [b"2"])
        proxy.cut()
        proxy.resume()
        async with asyncio.timeout(PATIENCE):
            await strategy.is_done.wait()
        assert told == [compat.ConfirmationStatus(2, False, -1)]
        with pytest.raises(NotConfirmed):  # of the message without a callback
            await producer.send_wait(stream, b"3")
        await producer.send_wait(stream, b"4")
    assert strategy.asked == [(producer, stream, "ConnectionClosed", 1)]


async def test_a_super_stream_with_a_strategy_of_the_programs(
    proxy: Proxy, through: dict[str, Any], client: Client, super_stream: str
) -> None:
    partitions = await client.partitions(super_stream)
    strategy = Own()
    seen = Seen()
    async with compat.SuperStreamConsumer(**through, super_stream=super_stream, recovery_strategy=strategy) as consumer:
        await consumer.subscribe(seen)
        proxy.cut()
        await eventually(lambda: len(strategy.asked) == 3)
        for partition in partitions:
            await publish(client, partition, [b"0"])
        await eventually(lambda: len(seen) == 3)
        await consumer.unsubscribe()
        await consumer.subscribe(seen)
        await eventually(lambda: len(seen) == 6)
    assert sorted(stream for _, stream, _, _ in strategy.asked) == sorted(partitions)


async def test_a_strategy_that_fails_is_logged_and_ends_with_close(
    proxy: Proxy, through: dict[str, Any], stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Own):
        async def recover(self, *arguments: Any, **options: Any) -> None:
            self.is_done.set()
            raise ValueError("no idea")

    class Endless(Own):
        async def recover(self, *arguments: Any, **options: Any) -> None:
            self.is_done.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.attempts = 0

    for strategy in (Failing(), Endless()):
        async with compat.Consumer(**through, recovery_strategy=strategy) as consumer:
            await consumer.subscribe(stream, Seen())
            proxy.cut()
            async with asyncio.timeout(PATIENCE):
                await strategy.is_done.wait()
        assert strategy.attempts == isinstance(strategy, Failing)
    assert [record.message for record in caplog.records].count("the recovery strategy failed") == 1
