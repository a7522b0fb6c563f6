"""Stores how far it has read, and goes on from there when it is run again, until Ctrl-C."""

import asyncio
import signal

from rstream_core.compat import (
    AMQPMessage,
    Consumer,
    ConsumerOffsetSpecification,
    MessageContext,
    OffsetNotFound,
    OffsetType,
    ServerError,
    StreamDoesNotExist,
    amqp_decoder,
)

BROKER = {"host": "localhost", "port": 5552, "username": "guest", "password": "guest"}
STREAM = "my-test-stream"
count = 0
lock = asyncio.Lock()


async def on_message(msg: AMQPMessage, message_context: MessageContext):
    global count
    consumer = message_context.consumer
    stream = message_context.stream
    async with lock:
        count += 1
        if count % 10 == 0:
            await consumer.store_offset(
                stream=stream, offset=message_context.offset, subscriber_name=message_context.subscriber_name
            )
    print(message_context.offset, msg)


async def consume():
    consumer = Consumer(**BROKER)
    loop = asyncio.get_event_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: asyncio.create_task(consumer.close()))
    await consumer.start()
    offset = 0
    try:
        offset = await consumer.query_offset(stream=STREAM, subscriber_name="subscriber_1") + 1
    except OffsetNotFound:
        print("nothing is stored")
    except StreamDoesNotExist as error:
        print("no stream:", error)
        await consumer.close()
        return
    except ServerError as error:
        print("an error:", error)
    await consumer.subscribe(
        stream=STREAM,
        subscriber_name="subscriber_1",
        callback=on_message,
        decoder=amqp_decoder,
        offset_specification=ConsumerOffsetSpecification(OffsetType.OFFSET, offset),
    )
    await consumer.run()


asyncio.run(consume())
