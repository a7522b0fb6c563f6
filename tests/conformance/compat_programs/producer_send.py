"""Publishes messages one by one: they are gathered, and go out a moment later."""

import asyncio

from rstream_core.compat import AMQPMessage, Producer

BROKER = {"host": "localhost", "port": 5552, "username": "guest", "password": "guest"}
STREAM = "my-test-stream"
MESSAGES = 500


async def publish():
    async with Producer(**BROKER) as producer:
        await producer.create_stream(STREAM, exists_ok=True)
        for i in range(MESSAGES):
            await producer.send(stream=STREAM, message=AMQPMessage(body=bytes(f"hello: {i}", "utf-8")))
    print(f"sent {MESSAGES}")


asyncio.run(publish())
