"""Reads bytes as they are stored, until Ctrl-C."""

import asyncio
import signal

from rstream_core.compat import Consumer, MessageContext

BROKER = {"host": "localhost", "port": 5552, "username": "guest", "password": "guest"}
STREAM = "my-test-stream"


async def consume():
    consumer = Consumer(**BROKER)
    loop = asyncio.get_event_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: asyncio.create_task(consumer.close()))

    def on_message(msg: bytes, message_context: MessageContext):
        print(msg, message_context.offset)

    await consumer.subscribe(stream=STREAM, callback=on_message)
    await consumer.run()


asyncio.run(consume())
