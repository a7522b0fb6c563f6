"""What ``test_published_client.py`` runs under the published client's interpreter; prints one JSON object."""

import asyncio
import json
import sys

from rstream import (
    AMQPMessage,
    CompressionType,
    Consumer,
    ConsumerOffsetSpecification,
    OffsetType,
    Producer,
    RawMessage,
    RouteType,
    SuperStreamConsumer,
    SuperStreamCreationOption,
    SuperStreamProducer,
    amqp_decoder,
)
from rstream.exceptions import OffsetNotFound, StreamAlreadyExists, StreamDoesNotExist

HOST, PORT, USER, PASSWORD, STREAM = sys.argv[1], int(sys.argv[2]), *sys.argv[3:6]
LOGIN = {"host": HOST, "port": PORT, "username": USER, "password": PASSWORD}
PATIENCE = 20


async def until(condition):
    for _ in range(PATIENCE * 100):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError


async def consume(stream, spec, count):
    found = []

    def callback(message, context):
        found.append((bytes(message), context.offset) if isinstance(message, bytes) else (message, context.offset))

    async with Consumer(**LOGIN) as consumer:
        await consumer.subscribe(stream, callback, offset_specification=spec)
        await until(lambda: len(found) >= count)
    return found


async def publish(results):
    confirmed = []
    async with Producer(**LOGIN) as producer:
        await producer.create_stream(STREAM)
        results["created"] = await producer.stream_exists(STREAM)
        try:
            await producer.create_stream(STREAM)
        except StreamAlreadyExists as error:
            results["exists"] = type(error).__name__

        async def on_confirm(status):
            confirmed.append(status.is_confirmed)

        await producer.send_batch(STREAM, [b"%d" % number for number in range(300)], on_publish_confirm=on_confirm)
        await until(lambda: len(confirmed) == 300)
        for number in range(20):
            message = RawMessage(b"named %d" % number, number + 1)
            await producer.send(STREAM, message, publisher_name="writer", on_publish_confirm=on_confirm)
        await until(lambda: len(confirmed) == 320)
        results["confirmed"] = sum(confirmed)
        confirmed.clear()
        messages = [RawMessage(b"sub %d" % number) for number in range(10)]
        await producer.send_sub_entry(STREAM, messages, CompressionType.Gzip, on_publish_confirm=on_confirm)
        await until(lambda: confirmed)
        results["sub_entry"] = "confirmed" if all(confirmed) else "failed"


async def read(results):
    first = ConsumerOffsetSpecification(OffsetType.FIRST, None)
    found = await consume(STREAM, first, 330)
    results["consumed"] = [body.decode() for body, _ in found[:320]]
    results["in_sub_entry"] = [body.decode() for body, _ in found[320:330]]
    middle = (await consume(STREAM, ConsumerOffsetSpecification(OffsetType.OFFSET, 150), 1))[0]
    results["from_the_middle"] = [middle[0].decode(), middle[1]]
    async with Consumer(**LOGIN) as consumer:
        await consumer.store_offset(STREAM, "reader", 41)
        results["stored"] = await consumer.query_offset(STREAM, "reader")
        try:
            await consumer.query_offset(STREAM, "nobody")
        except OffsetNotFound as error:
            results["not_stored"] = type(error).__name__


async def super_stream(results):
    name = f"{STREAM}-super"
    option = SuperStreamCreationOption(n_partitions=3)
    confirmed = []

    async def key_of(message):
        return message.application_properties["id"]

    async def on_confirm(status):
        confirmed.append(status.is_confirmed)

    async with SuperStreamProducer(
        **LOGIN,
        super_stream=name,
        super_stream_creation_option=option,
        routing=RouteType.Hash,
        routing_extractor=key_of,
    ) as producer:
        for number in range(30):
            message = AMQPMessage(body=b"m", application_properties={"id": f"key-{number}"})
            await producer.send(message, on_publish_confirm=on_confirm)
        await until(lambda: len(confirmed) == 30)
    found = []
    async with SuperStreamConsumer(**LOGIN, super_stream=name) as consumer:
        await consumer.subscribe(
            lambda message, context: found.append(message),
            decoder=amqp_decoder,
            offset_specification=ConsumerOffsetSpecification(OffsetType.FIRST, None),
        )
        await until(lambda: len(found) == 30)
        results["super_stream"] = [sum(confirmed), len(found)]
    async with Producer(**LOGIN) as producer:
        await producer.delete_stream(STREAM)
        try:
            await producer.delete_stream(STREAM)
        except StreamDoesNotExist as error:
            results["deleted"] = type(error).__name__
    async with SuperStreamProducer(**LOGIN, super_stream=name, routing_extractor=key_of) as producer:
        await producer.delete_super_stream(name)


async def main():
    results = {}
    await publish(results)
    await read(results)
    await super_stream(results)
    print(json.dumps(results))


asyncio.run(asyncio.wait_for(main(), 110))
