"""Publishes batches, and tells how many messages that were in a second."""

import asyncio
import time

from rstream_core.compat import AMQPMessage, Producer

BROKER = {"host": "localhost", "port": 5552, "username": "guest", "password": "guest"}
STREAM = "my-test-stream"
LOOPS = 10
BATCH = 100


async def publish():
    async with Producer(**BROKER) as producer:
        await producer.create_stream(STREAM, exists_ok=True)
        begin = time.perf_counter()
        for _ in range(LOOPS):
            batch = [AMQPMessage(body=b"hello: %d" % i) for i in range(BATCH)]
            await producer.send_batch(stream=STREAM, batch=batch)
        seconds = time.perf_counter() - begin
        count = LOOPS * BATCH
        print(f"Sent {count} messages in {seconds:.4f} seconds. {count / seconds:.4f} messages per second")


asyncio.run(publish())
