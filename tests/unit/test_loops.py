"""Used from a second loop, from another thread, or after a fork: each public coroutine says so, and by its cause."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import pytest

from rstream_core import (
    Client,
    ConfigurationError,
    Consumer,
    Producer,
    Publisher,
    Subscription,
    SuperStreamConsumer,
    SuperStreamProducer,
)
from rstream_core.loops import LoopGuard
from tests.brokers import Broker
from tests.clients import FIRST, arguments_for, options_for

ADMINISTRATION: dict[str, tuple[Any, ...]] = {
    "start": (),
    "close": (),
    "update_password": ("secret",),
    "stream_exists": ("s",),
    "create_stream": ("s",),
    "delete_stream": ("s",),
    "create_super_stream": ("s",),
    "delete_super_stream": ("s",),
    "partitions": (),
    "query_offset": ("s", "r"),
    "store_offset": ("s", "r", 1),
}
ARGUMENTS: dict[type[Any], dict[str, tuple[Any, ...]]] = {
    Client: {
        "server_version": (),
        "cluster_name": (),
        "copy": ("s", "t"),
        "query_publishing_id": ("s", "r"),
        "metadata": ("s",),
        "stats": ("s",),
        "last_offset": ("s",),
        "tail_offset": ("s", 1),
        "chunk_span": ("s", FIRST),
        "partitions": ("s",),
        "route": ("s", "k"),
        "resolve_offset": ("s", FIRST),
        "find_gap": ("s", 1),
        "publisher": ("s",),
        "subscribe": ("s", FIRST),
    },
    Producer: {
        "send": ("s", b"x"),
        "send_batch": ("s", [b"x"]),
        "send_wait": ("s", b"x"),
        "confirmed": ("s", b"x", None, []),
        "send_sub_entry": ("s", [b"x"]),
        "flush": (),
    },
    Consumer: {"run": (), "subscribe": ("s", print), "unsubscribe": (0,)},
    SuperStreamProducer: {
        "send": (b"x",),
        "send_batch": ([b"x"],),
        "send_wait": (b"x",),
        "send_sub_entry": ([b"x"],),
        "flush": (),
    },
    SuperStreamConsumer: {"run": (), "subscribe": (print,), "unsubscribe": ()},
    Publisher: {
        "publish": ([b"x"],),
        "publish_sub_entry": ([b"x"],),
        "last_publishing_id": (),
        "flush": (),
        "close": (),
    },
    Subscription: {"barrier": (), "nothing_to_come": (), "next_there_is": (), "close": ()},
}
WITHOUT_A_LOOP = {"stream", "open", "attach", "check", "raise_error", "give_way"}
"""``stream`` tells what is known here; it is a coroutine for the sake of other clients. The core calls the rest."""
KEYWORDS: dict[str, dict[str, Any]] = {"create_super_stream": {"partitions": 1}}

Use = Callable[[], Awaitable[object]]


def calls(target: Any) -> dict[str, Use]:
    """All its public coroutines."""
    found: dict[str, Use] = {}
    for name, method in inspect.getmembers(target, inspect.iscoroutinefunction):
        if not name.startswith("_") and name not in WITHOUT_A_LOOP:
            arguments = ARGUMENTS[type(target)].get(name, ADMINISTRATION.get(name))
            assert arguments is not None, f"{type(target).__name__}.{name} is not looked at"
            found[name] = partial(method, *arguments, **KEYWORDS.get(name, {}))
    for name in ("messages", "chunks"):
        if hasattr(target, name):
            streams = ("s",) if isinstance(target, Consumer) else ()
            found[name] = getattr(target, name)(*streams).__anext__
    if isinstance(target, Subscription):
        found["anext"] = target.__anext__
    return found


async def told(target: Any) -> dict[str, str]:
    """What each of its coroutines says; nothing of those that went wrong in another way."""
    words = {}
    for name, use in calls(target).items():
        try:
            async with asyncio.timeout(1):
                await use()
        except ConfigurationError as error:
            words[name] = str(error)
        except Exception as error:  # noqa: BLE001 - to be seen by the test
            words[name] = repr(error)
        else:
            words[name] = "nothing"
    return words


def check(words: dict[str, str], cause: str) -> None:
    assert {name: said for name, said in words.items() if cause not in said} == {}


def ignore(*_: object) -> None:
    pass


class Used:
    """Objects of each kind, in the middle of their work."""

    def __init__(self, broker: Broker) -> None:
        how = arguments_for(broker)
        self.client = Client(options_for(broker))
        self.producer = Producer(**how, linger=60.0)
        self.consumer = Consumer(**how)
        self.super_producer = SuperStreamProducer(**how, super_stream="loops-super", routing_extractor=str, linger=60.0)
        self.super_consumer = SuperStreamConsumer(**how, super_stream="loops-super")
        self.messages = self.consumer.messages("loops")
        self.publisher: Publisher
        self.subscription: Subscription

    @property
    def all(self) -> list[Any]:
        return [
            *(self.client, self.producer, self.consumer, self.super_producer, self.super_consumer),
            *(self.publisher, self.subscription),
        ]

    async def begin(self) -> None:
        """With a message that is held back: the next one would be put beside it."""
        await self.client.create_stream("loops")
        await self.client.create_super_stream("loops-super", partitions=1)
        await self.producer.send("loops", b"x")
        await self.super_producer.send(b"x")
        await self.consumer.subscribe("loops", ignore)
        await self.super_consumer.subscribe(ignore)
        self.publisher = await self.client.publisher("loops")
        self.subscription = await self.client.subscribe("loops", FIRST)

    async def end(self) -> None:
        await self.messages.aclose()
        await self.publisher.close()
        await self.subscription.close()
        for used in (self.super_consumer, self.consumer, self.super_producer, self.producer):
            await used.close()
        await self.client.delete_stream("loops")
        await self.client.delete_super_stream("loops-super")
        await self.client.close()


@pytest.fixture
def used(embedded: Broker) -> Iterator[tuple[asyncio.Runner, Used]]:
    """And the loop that they were used on, which does not run in the test."""
    with asyncio.Runner() as runner:
        objects = Used(embedded)
        runner.run(objects.begin())
        yield runner, objects
        runner.run(objects.end())


def test_a_second_loop(used: tuple[asyncio.Runner, Used]) -> None:
    for target in used[1].all:
        check(asyncio.run(told(target)), "belongs to another event loop, which no longer runs")


def test_another_thread(used: tuple[asyncio.Runner, Used]) -> None:
    runner, objects = used

    async def elsewhere(target: Any) -> dict[str, str]:
        return await asyncio.to_thread(asyncio.run, told(target))

    for target in objects.all:
        check(runner.run(elsewhere(target)), "belongs to the event loop of another thread")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
@pytest.mark.parametrize("when", ["between", "inside of the loop"])
def test_after_a_fork(used: tuple[asyncio.Runner, Used], when: str) -> None:
    """Also where the parent's loop was running: its copy seems to run in the child."""
    runner, objects = used

    async def inside() -> dict[str, str]:
        return forked(objects)

    found = forked(objects) if when == "between" else runner.run(inside())
    check(found, "was used before this process was forked: make one in each process")
    assert len(found) > 60


def forked(objects: Used) -> dict[str, str]:
    """What all of them say in a child."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            for target in objects.all:
                for name, said in asyncio.run(told(target)).items():
                    os.write(writing, f"{type(target).__name__}.{name}\t{said}\n".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as lines:
        found = dict(line.rstrip("\n").split("\t", 1) for line in lines)
    os.waitpid(pid, 0)
    return found


def test_an_iterator_that_was_begun(used: tuple[asyncio.Runner, Used]) -> None:
    runner, objects = used

    async def begin() -> None:
        await objects.client.store_offset("loops", "n", 1)  # the loop had a turn
        await asyncio.wait((asyncio.ensure_future(anext(objects.messages)),), timeout=0.01)

    async def elsewhere() -> None:
        with pytest.raises(ConfigurationError, match="this consumer belongs to another event loop"):
            await anext(objects.messages)
        with pytest.raises(ConfigurationError, match="this consumer belongs to another event loop"):
            await objects.messages.aclose()

    runner.run(begin())
    asyncio.run(elsewhere())


def test_made_outside_of_any_loop(embedded: Broker) -> None:
    """It belongs to the loop of its first use, and after ``close`` it is closed everywhere."""
    producer = Producer(**arguments_for(embedded))

    async def use() -> None:
        assert await producer.stream_exists("no such stream") is False
        await producer.close()

    asyncio.run(use())
    asyncio.run(producer.close())


def test_a_loop_that_goes_on_in_another_thread() -> None:
    """It is the same loop."""
    guard = LoopGuard("it")

    async def use() -> None:
        guard.check()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(use())

    async def there() -> None:
        await asyncio.to_thread(loop.run_until_complete, use())

    asyncio.run(there())
    loop.run_until_complete(use())
    loop.close()
    with pytest.raises(ConfigurationError, match=r"^it belongs to another event loop"):
        asyncio.run(use())
