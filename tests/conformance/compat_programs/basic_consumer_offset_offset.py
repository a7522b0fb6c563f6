"""Reads from an offset on, until Ctrl-C."""

import asyncio
import signal

from rstream_core.compat import Consumer, ConsumerOffsetSpecification, MessageContext, OffsetType, amqp_decoder

BROKER = {"host": "localhost", "port": 5552, "username": "guest", "password": "guest"}
STREAM = "my-test-stream"


async def consume():
    consumer = Consumer(**BROKER)
    loop = asyncio.get_event_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: asyncio.create_task(consumer.close()))

    async def on_message(msg, message_context: MessageContext):
        print(message_context.offset, msg.body)

    await consumer.subscribe(
        stream=STREAM,
        callback=on_message,
        decoder=amqp_decoder,
        offset_specification=ConsumerOffsetSpecification(OffsetType.OFFSET, 7),
    )
    await consumer.run()


asyncio.run(consume())
