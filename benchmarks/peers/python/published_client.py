"""The published client, ``rstream`` from PyPI, in the same tasks. Runs in an environment of its own.

Its sending returns before the broker confirms, so the clock stops when the confirm of the last message, or of
each message of each stream's last batch, has come: on one stream the broker confirms in order, and what is stored is
counted besides. What it holds back for half a second in ``send`` is its own doing, and is in its time.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

from rstream import (  # type: ignore[import-not-found]
    AMQPMessage,
    ConfirmationStatus,
    Consumer,
    ConsumerOffsetSpecification,
    MessageContext,
    OffsetType,
    Producer,
    amqp_decoder,
)

from benchmarks.worker import CREDIT, DEADLINE, Stopwatch, Work, parse_work, report


class Confirms:
    """Waits for a number of them."""

    def __init__(self) -> None:
        self._left = self.expected = 0
        self._done = asyncio.Event()

    def __call__(self, status: ConfirmationStatus) -> None:
        if not status.is_confirmed:
            raise RuntimeError(f"message {status.message_id} was refused")
        self._left -= 1
        if not self._left:
            self._done.set()

    def expect(self, count: int) -> Confirms:
        self._left = self.expected = count
        return self

    async def wait(self) -> None:
        await asyncio.wait_for(self._done.wait(), DEADLINE)


async def send_batch(work: Work) -> tuple[int, Stopwatch]:
    """A message object for each body; a callback for the last batch."""
    sent = 0
    confirms = Confirms()
    async with Producer(**server(work)) as producer:
        stopwatch = Stopwatch()
        confirms.expect(
            min(work.messages, work.batch * (len(work.names) - 1) + (work.messages % work.batch or work.batch))
        )
        for name, bodies in zip(itertools.cycle(work.names), work.batches()):
            sent += len(bodies)
            # Of each stream the last batch.
            last = confirms if sent > work.messages - confirms.expected else None
            await producer.send_batch(name, [AMQPMessage(body=body) for body in bodies], on_publish_confirm=last)
        await confirms.wait()
        stopwatch.stop()
    return sent, stopwatch


async def send(work: Work) -> tuple[int, Stopwatch]:
    """One message at a time; a callback for the last one."""
    sent = 0
    confirms = Confirms()
    async with Producer(**server(work)) as producer:
        stopwatch = Stopwatch()
        for bodies in work.batches():
            for body in bodies:
                sent += 1
                last = confirms.expect(1) if sent == work.messages else None
                await producer.send(work.stream, AMQPMessage(body=body), on_publish_confirm=last)
        await confirms.wait()
        stopwatch.stop()
    return sent, stopwatch


async def callback(work: Work) -> tuple[int, Stopwatch]:
    """A callback for each message, which looks at its body."""
    consumed = size = 0
    done = asyncio.Event()
    consumer = Consumer(**server(work))
    await consumer.start()
    stopwatch = Stopwatch()

    def on_message(message: AMQPMessage, _: MessageContext) -> None:
        nonlocal consumed, size
        consumed += 1
        if consumed <= work.messages:
            size += len(message.body)
        if consumed == work.messages:
            stopwatch.stop()
            done.set()

    for name in work.names:
        await consumer.subscribe(
            name,
            on_message,
            decoder=amqp_decoder,
            offset_specification=ConsumerOffsetSpecification(OffsetType.FIRST, None),
            initial_credit=CREDIT,
        )
    await asyncio.wait_for(done.wait(), DEADLINE)
    await consumer.close()
    if size != work.messages * work.size:
        raise RuntimeError(f"{work.messages} bodies of {work.size} bytes came as {size} bytes")
    return work.messages, stopwatch


def server(work: Work) -> dict[str, Any]:
    return {
        "host": work.host,
        "port": work.port,
        "vhost": work.vhost,
        "username": work.username,
        "password": work.password,
    }


TASKS: dict[str, Callable[[Work], Awaitable[tuple[int, Stopwatch]]]] = {
    "send_batch": send_batch,
    "send": send,
    "callback": callback,
}


async def main() -> None:
    work = parse_work(tuple(TASKS))
    report(*await TASKS[work.task](work))


if __name__ == "__main__":
    asyncio.run(main())
