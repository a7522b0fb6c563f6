"""Publishes and consumes at the same time, is told of lost connections, and goes on after them."""

import asyncio
import logging

from rstream_core.compat import (
    AMQPMessage,
    BackOffRecoveryStrategy,
    ConfirmationStatus,
    Consumer,
    ConsumerOffsetSpecification,
    MessageContext,
    OffsetType,
    OnClosedErrorInfo,
    Producer,
    RouteType,
    SuperStreamConsumer,
    SuperStreamCreationOption,
    SuperStreamProducer,
    amqp_decoder,
)

BROKER = {"host": "localhost", "port": 5552, "username": "guest", "password": "guest"}
STREAM = "my-test-stream"
MESSAGES = 30
logging.getLogger("rstream_core").setLevel(logging.ERROR)
confirmed = consumed = 0
done = asyncio.Event()


async def on_close(info: OnClosedErrorInfo) -> None:
    print(f"closed: {info.streams}, {info.reason}")


async def on_publish_confirm(confirmation: ConfirmationStatus) -> None:
    global confirmed
    confirmed += confirmation.is_confirmed


async def on_message(msg: AMQPMessage, message_context: MessageContext) -> None:
    global consumed
    consumed += 1
    if consumed == 2 * MESSAGES:
        done.set()


async def routing_extractor(message: AMQPMessage) -> str:
    return message.application_properties["id"]


async def main():
    option = SuperStreamCreationOption(n_partitions=2)
    common = {**BROKER, "on_close_handler": on_close, "recovery_strategy": BackOffRecoveryStrategy()}
    producer = Producer(**common, max_publishers_by_connection=2)
    super_producer = SuperStreamProducer(
        **common,
        super_stream=STREAM,
        super_stream_creation_option=option,
        routing=RouteType.Hash,
        routing_extractor=routing_extractor,
    )
    consumer = Consumer(**common, max_subscribers_by_connection=2)
    super_consumer = SuperStreamConsumer(**common, super_stream=STREAM, super_stream_creation_option=option)
    every = (producer, super_producer, consumer, super_consumer)
    for one in every:
        await one.start()
    await producer.create_stream(STREAM + "-plain", exists_ok=True)
    start = ConsumerOffsetSpecification(OffsetType.FIRST, None)
    await consumer.subscribe(
        stream=STREAM + "-plain", callback=on_message, decoder=amqp_decoder, offset_specification=start
    )
    await super_consumer.subscribe(callback=on_message, decoder=amqp_decoder, offset_specification=start)
    for i in range(MESSAGES):
        message = AMQPMessage(body=b"hello: %d" % i, application_properties={"id": f"{i}"})
        await producer.send_wait(stream=STREAM + "-plain", message=message)
        await super_producer.send(message=message, on_publish_confirm=on_publish_confirm)
    await asyncio.wait_for(done.wait(), 20)
    await producer.delete_stream(STREAM + "-plain")
    for one in every:
        await one.close()
    print(f"confirmed {confirmed}, consumed {consumed}")


asyncio.run(main())
