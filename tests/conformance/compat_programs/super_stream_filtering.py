"""Publishes with filter values to a super stream, and reads the messages of one of them, until Ctrl-C."""

import asyncio
import signal

from rstream_core.compat import (
    AMQPMessage,
    FilterConfiguration,
    MessageContext,
    RouteType,
    SuperStreamConsumer,
    SuperStreamCreationOption,
    SuperStreamProducer,
    amqp_decoder,
)

BROKER = {"host": "localhost", "port": 5552, "username": "guest", "password": "guest"}
STREAM = "my-test-stream"
MESSAGES = 20


async def filter_value_extractor(message: AMQPMessage) -> str:
    return message.application_properties["region"]


async def routing_extractor(message: AMQPMessage) -> str:
    return message.application_properties["id"]


async def publish():
    async with SuperStreamProducer(
        **BROKER,
        super_stream=STREAM,
        super_stream_creation_option=SuperStreamCreationOption(n_partitions=3),
        routing=RouteType.Hash,
        routing_extractor=routing_extractor,
        filter_value_extractor=filter_value_extractor,
    ) as producer:
        for region in ("New York", "California"):
            for i in range(MESSAGES):
                properties = {"region": region, "id": str(i)}
                await producer.send(AMQPMessage(body=b"hello: %d" % i, application_properties=properties))


async def consume():
    consumer = SuperStreamConsumer(**BROKER, super_stream=STREAM)
    loop = asyncio.get_event_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: asyncio.create_task(consumer.close()))

    async def on_message(msg: AMQPMessage, message_context: MessageContext):
        print("Application property: " + str(msg.application_properties[b"region"]))

    await consumer.start()
    await consumer.subscribe(
        callback=on_message,
        decoder=amqp_decoder,
        filter_input=FilterConfiguration(
            values_to_filter=["California"],
            predicate=lambda message: message.application_properties[b"region"] == b"California",
        ),
    )
    await consumer.run()


asyncio.run(publish())
asyncio.run(consume())
