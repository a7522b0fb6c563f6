"""This project's core, used as a program would use it: one task per way of publishing and consuming."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

from benchmarks.worker import CREDIT, DEADLINE, RoundTrips, Stopwatch, Work, parse_work, report
from rstream_core import (
    AMQPMessage,
    Client,
    ConnectionOptions,
    Consumer,
    ConsumerOffsetSpecification,
    Credentials,
    Endpoint,
    MessageContext,
    OffsetType,
    Producer,
    amqp_decoder,
)
from rstream_core.protocol.amqp import bodies_of, encode_bodies

FIRST = ConsumerOffsetSpecification(OffsetType.FIRST)


async def publish(work: Work) -> tuple[int, Stopwatch]:
    """``Publisher.publish``: bodies are encoded and handed over in batches; streams take turns."""
    async with Client(options(work)) as client:
        publishers = [await client.publisher(name) for name in work.names]
        stopwatch = Stopwatch()
        for publisher, bodies in zip(itertools.cycle(publishers), work.batches(), strict=False):
            await publisher.publish(encode_bodies(bodies))
        for publisher in publishers:
            await publisher.flush(DEADLINE)
        stopwatch.stop()
        for publisher in publishers:
            await publisher.close()
        return sum(publisher.confirmed for publisher in publishers), stopwatch


async def send_batch(work: Work) -> tuple[int, Stopwatch]:
    """``Producer.send_batch``: a message object for each body."""
    sent = 0
    async with Producer(**server(work)) as producer:
        stopwatch = Stopwatch()
        for bodies in work.batches():
            sent += len(await producer.send_batch(work.stream, [AMQPMessage(body=body) for body in bodies]))
        await producer.flush(DEADLINE)
        stopwatch.stop()
        return sent, stopwatch


async def send(work: Work) -> tuple[int, Stopwatch]:
    """``Producer.send``: one message at a time."""
    sent = 0
    async with Producer(**server(work)) as producer:
        stopwatch = Stopwatch()
        for bodies in work.batches():
            for body in bodies:
                await producer.send(work.stream, AMQPMessage(body=body))
                sent += 1
        await producer.flush(DEADLINE)
        stopwatch.stop()
        return sent, stopwatch


async def consume(work: Work) -> tuple[int, Stopwatch]:
    """``Client.subscribe``: chunk after chunk, and the bodies of its messages; of several streams at once."""
    consumed = size = 0
    done = asyncio.Event()

    async def read(client: Client, name: str) -> None:
        nonlocal consumed, size
        async with await client.subscribe(name, FIRST, credit=CREDIT) as subscription:
            async for chunk in subscription:
                bodies = bodies_of(chunk.messages)
                consumed += len(bodies)
                size += sum(len(body) for body in bodies if body is not None)
                if consumed >= work.messages:
                    stopwatch.stop()
                    done.set()
                    break

    async with Client(options(work)) as client:
        await client.start()
        stopwatch = Stopwatch()
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
            readers = [group.create_task(read(client, name)) for name in work.names]
            await done.wait()
            for reader in readers:
                reader.cancel()
    if size != consumed * work.size:
        raise RuntimeError(f"{consumed} bodies of {work.size} bytes came as {size} bytes")
    return consumed, stopwatch


async def callback(work: Work) -> tuple[int, Stopwatch]:
    """``Consumer.subscribe`` with ``amqp_decoder``: a callback for each message, which looks at its body."""
    consumed = size = 0
    async with Consumer(**server(work)) as consumer:
        stopwatch = Stopwatch()

        def on_message(message: Any, _: MessageContext) -> None:
            nonlocal consumed, size
            consumed += 1
            if consumed <= work.messages:  # the rest of the last chunk comes too
                size += len(message.body)
            if consumed == work.messages:
                stopwatch.stop()
                consumer.stop()

        await consumer.subscribe(
            work.stream, on_message, decoder=amqp_decoder, offset_specification=FIRST, initial_credit=CREDIT
        )
        await asyncio.wait_for(consumer.run(), DEADLINE)
    if size != work.messages * work.size:
        raise RuntimeError(f"{work.messages} bodies of {work.size} bytes came as {size} bytes")
    return work.messages, stopwatch


async def messages(work: Work) -> tuple[int, Stopwatch]:
    """``Consumer.messages``: an ``async for`` over the messages, which looks at their bodies."""
    consumed = size = 0
    async with Consumer(**server(work)) as consumer:
        stopwatch = Stopwatch()
        iterator = consumer.messages(
            work.stream, decoder=amqp_decoder, offset_specification=FIRST, initial_credit=CREDIT
        )
        async with aclosing(iterator):
            async for message, _ in iterator:
                consumed += 1
                size += len(message.body)
                if consumed == work.messages:
                    break
        stopwatch.stop()
    if size != work.messages * work.size:
        raise RuntimeError(f"{work.messages} bodies of {work.size} bytes came as {size} bytes")
    return consumed, stopwatch


async def send_wait(work: Work) -> tuple[int, Stopwatch]:
    """``Producer.send_wait``: the confirm of each message is waited for before the next one."""
    sent = 0
    async with Producer(**server(work)) as producer:
        stopwatch = RoundTrips()
        for bodies in work.batches():
            for body in bodies:
                began = time.perf_counter()
                await producer.send_wait(work.stream, AMQPMessage(body=body))
                stopwatch.times.append(time.perf_counter() - began)
                sent += 1
        stopwatch.stop()
        return sent, stopwatch


def options(work: Work) -> ConnectionOptions:
    return ConnectionOptions(
        endpoints=(Endpoint(work.host, work.port),),
        credentials=Credentials(work.username, work.password),
        vhost=work.vhost,
    )


def server(work: Work) -> dict[str, Any]:
    return {
        "host": work.host,
        "port": work.port,
        "vhost": work.vhost,
        "username": work.username,
        "password": work.password,
    }


TASKS: dict[str, Callable[[Work], Awaitable[tuple[int, Stopwatch]]]] = {
    "publish": publish,
    "send_batch": send_batch,
    "send": send,
    "consume": consume,
    "callback": callback,
    "messages": messages,
    "send_wait": send_wait,
}


async def main() -> None:
    work = parse_work(tuple(TASKS))
    report(*await TASKS[work.task](work))


if __name__ == "__main__":
    asyncio.run(main())
