"""Reads a stream from its beginning, until Ctrl-C."""

import asyncio
import signal

from rstream_core.compat import AMQPMessage, Consumer, MessageContext, amqp_decoder

BROKER = {"host": "localhost", "port": 5552, "username": "guest", "password": "guest"}
STREAM = "my-test-stream"


async def consume():
    consumer = Consumer(**BROKER)
    loop = asyncio.get_event_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: asyncio.create_task(consumer.close()))

    async def on_message(msg: AMQPMessage, message_context: MessageContext):
        stream = message_context.stream
        print(f"Got message: {msg} from stream {stream}, offset {message_context.offset}")

    await consumer.start()
    await consumer.subscribe(stream=STREAM, callback=on_message, decoder=amqp_decoder)
    await consumer.run()


asyncio.run(consume())
