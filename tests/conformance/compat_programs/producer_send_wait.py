"""Publishes messages one by one, and waits for each confirm."""

import asyncio

from rstream_core.compat import AMQPMessage, Producer

BROKER = {"host": "localhost", "port": 5552, "username": "guest", "password": "guest"}
STREAM = "my-test-stream"
MESSAGES = 20


async def publish():
    async with Producer(**BROKER) as producer:
        await producer.create_stream(STREAM, exists_ok=True)
        for i in range(MESSAGES):
            number = await producer.send_wait(stream=STREAM, message=AMQPMessage(body=b"hello: %d" % i))
            print("stored", number)


asyncio.run(publish())
