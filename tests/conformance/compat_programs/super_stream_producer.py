"""Publishes to a super stream by the hash of a key, and creates it first."""

import asyncio

from rstream_core.compat import AMQPMessage, RouteType, SuperStreamCreationOption, SuperStreamProducer

BROKER = {"host": "localhost", "port": 5552, "username": "guest", "password": "guest"}
STREAM = "my-test-stream"
MESSAGES = 60


async def routing_extractor(message: AMQPMessage) -> str:
    return message.application_properties["id"]


async def publish():
    async with SuperStreamProducer(
        **BROKER,
        routing_extractor=routing_extractor,
        super_stream=STREAM,
        super_stream_creation_option=SuperStreamCreationOption(n_partitions=3),
        routing=RouteType.Hash,
    ) as producer:
        for i in range(MESSAGES):
            message = AMQPMessage(body=b"hello: %d" % i, application_properties={"id": f"{i}"})
            await producer.send(message)
    print("published", MESSAGES)


asyncio.run(publish())
