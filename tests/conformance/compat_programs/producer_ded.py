"""Publishes the same ids twice under a name: the broker keeps one message of each."""

import asyncio

from rstream_core.compat import AMQPMessage, Producer, RawMessage

BROKER = {"host": "localhost", "port": 5552, "username": "guest", "password": "guest"}
STREAM = "my-test-stream"
MESSAGES = 50


async def publish():
    for _ in range(2):
        async with Producer(**BROKER) as producer:
            await producer.create_stream(STREAM, exists_ok=True)
            for i in range(MESSAGES):
                message = AMQPMessage(body=b"hello: %d" % i)
                message.publishing_id = i + 1
                await producer.send(STREAM, message, publisher_name="orders")
            raw = [RawMessage(b"raw", publishing_id=MESSAGES + 1)] * 2
            await producer.send_batch(STREAM, raw, publisher_name="orders")
    print("sent", 2 * (MESSAGES + 2))


asyncio.run(publish())
