"""Reads all partitions of a super stream, until Ctrl-C. It creates one before it starts, behind a load balancer."""

import asyncio
import signal

from rstream_core.compat import AMQPMessage, MessageContext, SuperStreamConsumer, amqp_decoder

BROKER = {"host": "localhost", "port": 5552, "username": "guest", "password": "guest"}
STREAM = "my-test-stream"


async def consume():
    consumer = SuperStreamConsumer(**BROKER, super_stream=STREAM, load_balancer_mode=True)
    loop = asyncio.get_event_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: asyncio.create_task(consumer.close()))

    async def on_message(msg: AMQPMessage, message_context: MessageContext):
        print(f"{message_context.stream} {message_context.offset} {msg}")

    await consumer.create_super_stream(STREAM, exists_ok=True, n_partitions=3)
    await consumer.start()
    await consumer.subscribe(callback=on_message, decoder=amqp_decoder)
    await consumer.run()


asyncio.run(consume())
