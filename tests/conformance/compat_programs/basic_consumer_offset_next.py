"""Reads what is published from now on, until Ctrl-C."""

import asyncio
import signal

from rstream_core.compat import Consumer, ConsumerOffsetSpecification, OffsetType, Producer

BROKER = {"host": "localhost", "port": 5552, "username": "guest", "password": "guest"}
STREAM = "my-test-stream"


async def consume():
    consumer = Consumer(**BROKER)
    loop = asyncio.get_event_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: asyncio.create_task(consumer.close()))
    await consumer.subscribe(
        stream=STREAM,
        callback=lambda msg, context: print(context.offset, msg.decode()),
        offset_specification=ConsumerOffsetSpecification(OffsetType.NEXT),
    )
    async with Producer(**BROKER) as producer:
        await producer.send_wait(STREAM, b"news")
    await consumer.run()


asyncio.run(consume())
