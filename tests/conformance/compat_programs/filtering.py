"""Publishes with filter values, and reads the messages of one of them, until Ctrl-C."""

import asyncio
import signal

from rstream_core.compat import AMQPMessage, Consumer, FilterConfiguration, MessageContext, Producer, amqp_decoder

BROKER = {"host": "localhost", "port": 5552, "username": "guest", "password": "guest"}
STREAM = "my-test-stream"
MESSAGES = 20


async def filter_value_extractor(message: AMQPMessage) -> str:
    return message.application_properties["region"]


async def publish():
    async with Producer(**BROKER, filter_value_extractor=filter_value_extractor) as producer:
        await producer.create_stream(STREAM, exists_ok=True)
        for region in ("New York", "California"):
            for i in range(MESSAGES):
                await producer.send(
                    stream=STREAM,
                    message=AMQPMessage(body=b"hello: %d" % i, application_properties={"region": region}),
                )


async def consume():
    filters = ["California"]
    consumer = Consumer(**BROKER)
    loop = asyncio.get_event_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: asyncio.create_task(consumer.close()))

    async def on_message(msg: AMQPMessage, message_context: MessageContext):
        print("Application property: " + str(msg.application_properties[b"region"]))

    await consumer.start()
    await consumer.subscribe(
        stream=STREAM,
        callback=on_message,
        decoder=amqp_decoder,
        filter_input=FilterConfiguration(
            values_to_filter=filters,
            predicate=lambda message: message.application_properties[b"region"] == filters[0].encode("utf-8"),
            match_unfiltered=False,
        ),
    )
    await consumer.run()


asyncio.run(publish())
asyncio.run(consume())
