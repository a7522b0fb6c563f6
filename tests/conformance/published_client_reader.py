"""Run with the published client: reads so many messages of a stream, and prints what it makes of each."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from rstream import (  # type: ignore[import-not-found]
    AMQPMessage,
    Consumer,
    ConsumerOffsetSpecification,
    MessageContext,
    OffsetType,
    amqp_decoder,
)

FIELDS = (
    "message_id",
    "user_id",
    "to",
    "subject",
    "reply_to",
    "correlation_id",
    "content_type",
    "content_encoding",
    "absolute_expiry_time",
    "creation_time",
    "group_id",
    "group_sequence",
    "reply_to_group_id",
)


def plain(value: Any) -> Any:
    """As JSON can hold it: the client gives bytes for strings."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    return value


async def main(host: str, port: str, username: str, password: str, stream: str, count: str) -> None:
    found: list[dict[str, Any]] = []
    consumer = Consumer(host=host, port=int(port), username=username, password=password)

    async def on_message(message: AMQPMessage, context: MessageContext) -> None:
        properties = message.properties
        found.append(
            {
                "offset": context.offset,
                "body": plain(message.body if isinstance(message.body, bytes) else b"".join(message.data)),
                "properties": properties and {field: plain(getattr(properties, field)) for field in FIELDS},
                "application_properties": plain(message.application_properties),
            }
        )
        if len(found) == int(count):
            consumer.stop()

    await consumer.start()
    first = ConsumerOffsetSpecification(OffsetType.FIRST)
    await consumer.subscribe(stream, on_message, decoder=amqp_decoder, offset_specification=first)
    async with asyncio.timeout(30):
        await consumer.run()
    await consumer.close()
    print(json.dumps(found))


asyncio.run(main(*sys.argv[1:]))
