"""Publishes sub-entries, compressed and not."""

import asyncio

from rstream_core.compat import AMQPMessage, CompressionType, Producer

BROKER = {"host": "localhost", "port": 5552, "username": "guest", "password": "guest"}
STREAM = "my-test-stream"
LOOPS = 5
BATCH = 20


async def publish():
    async with Producer(**BROKER) as producer:
        await producer.create_stream(STREAM, exists_ok=True)
        for _ in range(LOOPS):
            messages = [AMQPMessage(body=b"hello: %d" % i) for i in range(BATCH)]
            for compression in (CompressionType.Gzip, CompressionType.No):
                await producer.send_sub_entry(STREAM, compression_type=compression, sub_entry_messages=messages)
    await producer.close()
    print("sent", 2 * LOOPS * BATCH)


asyncio.run(publish())
