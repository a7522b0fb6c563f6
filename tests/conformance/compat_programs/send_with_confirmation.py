"""Publishes messages, and is told of each that it was stored."""

import asyncio

from rstream_core.compat import AMQPMessage, ConfirmationStatus, Producer

BROKER = {"host": "localhost", "port": 5552, "username": "guest", "password": "guest"}
STREAM = "my-test-stream"
MESSAGES = 200
confirmed = 0
all_confirmed = asyncio.Event()


async def on_publish_confirm(confirmation: ConfirmationStatus) -> None:
    global confirmed
    if confirmation.is_confirmed and confirmation.response_code == 0:
        confirmed += 1
        if confirmed == MESSAGES:
            all_confirmed.set()
    else:
        print(f"message {confirmation.message_id} is lost: {confirmation.response_code}")


async def publish():
    async with Producer(**BROKER) as producer:
        await producer.create_stream(STREAM, exists_ok=True)
        for i in range(MESSAGES):
            message = AMQPMessage(body=b"hello: %d" % i)
            await producer.send(stream=STREAM, message=message, on_publish_confirm=on_publish_confirm)
        await asyncio.wait_for(all_confirmed.wait(), 10)
    print("confirmed", confirmed)


asyncio.run(publish())
