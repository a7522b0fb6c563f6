"""Publishes to a super stream by keys that are bound to its partitions."""

import asyncio

from rstream_core.compat import AMQPMessage, RouteType, SuperStreamCreationOption, SuperStreamProducer

BROKER = {"host": "localhost", "port": 5552, "username": "guest", "password": "guest"}
STREAM = "my-test-stream"
KEYS = ["key1", "key2", "key3"]


async def routing_extractor(message: AMQPMessage) -> str:
    return message.application_properties["key"]


async def publish():
    async with SuperStreamProducer(
        **BROKER,
        routing_extractor=routing_extractor,
        routing=RouteType.Key,
        super_stream=STREAM,
        super_stream_creation_option=SuperStreamCreationOption(n_partitions=0, binding_keys=KEYS),
    ) as producer:
        for i in range(30):
            message = AMQPMessage(body=b"hello: %d" % i, application_properties={"key": KEYS[i % 3]})
            await producer.send(message)
    print("published 30")


asyncio.run(publish())
