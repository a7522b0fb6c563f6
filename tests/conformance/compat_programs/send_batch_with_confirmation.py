"""Publishes a batch, and keeps the ids that are confirmed."""

import asyncio

from rstream_core.compat import AMQPMessage, ConfirmationStatus, Producer

BROKER = {"host": "localhost", "port": 5552, "username": "guest", "password": "guest"}
STREAM = "my-test-stream"
MESSAGES = 200
confirmed = set()


def on_publish_confirm(confirmation: ConfirmationStatus) -> None:
    if confirmation.is_confirmed:
        confirmed.add(confirmation.message_id)


async def publish():
    async with Producer(**BROKER) as producer:
        await producer.create_stream(STREAM, exists_ok=True)
        batch = [AMQPMessage(body=b"hello: %d" % i) for i in range(MESSAGES)]
        ids = await producer.send_batch(stream=STREAM, batch=batch, on_publish_confirm=on_publish_confirm)
    print("all confirmed:", confirmed == set(ids))


asyncio.run(publish())
