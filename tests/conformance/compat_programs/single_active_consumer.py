"""One consumer of a group reads each partition, from the offset that the group has stored, until Ctrl-C."""

import asyncio
import signal
from collections import defaultdict

from rstream_core.compat import (
    AMQPMessage,
    ConsumerOffsetSpecification,
    EventContext,
    MessageContext,
    OffsetNotFound,
    OffsetSpecification,
    OffsetType,
    SuperStreamConsumer,
    amqp_decoder,
)

BROKER = {"host": "localhost", "port": 5552, "username": "guest", "password": "guest"}
STREAM = "my-test-stream"


async def on_message(msg: AMQPMessage, message_context: MessageContext):
    await message_context.consumer.store_offset(
        stream=message_context.stream,
        offset=message_context.offset,
        subscriber_name=message_context.subscriber_name,
    )
    print(f"{message_context.stream} {message_context.offset} {msg}")


async def consumer_update_handler(is_active: bool, event_context: EventContext) -> OffsetSpecification:
    if is_active:
        try:
            stored = await event_context.consumer.query_offset(
                stream=event_context.stream, subscriber_name=event_context.reference
            )
            return OffsetSpecification(OffsetType.OFFSET, stored + 1)
        except OffsetNotFound:
            pass
    return OffsetSpecification(OffsetType.OFFSET, 0)


async def consume():
    consumer = SuperStreamConsumer(**BROKER, super_stream=STREAM)
    loop = asyncio.get_event_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: asyncio.create_task(consumer.close()))
    properties = defaultdict(str)
    properties["single-active-consumer"] = "true"
    properties["name"] = "consumer-group-1"
    properties["super-stream"] = STREAM
    await consumer.subscribe(
        callback=on_message,
        offset_specification=ConsumerOffsetSpecification(offset_type=OffsetType.FIRST),
        decoder=amqp_decoder,
        properties=properties,
        subscriber_name="consumer-group-1",
        consumer_update_listener=consumer_update_handler,
    )
    await consumer.run()


asyncio.run(consume())
