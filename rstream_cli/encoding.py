"""From records of the input to encoded messages: one function for a list, chosen once by the options.

Plain bodies take the core's fast path. Headers, properties and annotations that are the same for every message are
encoded once, and stand before each body as they are: a message is a row of sections, and the body comes last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rstream_cli.exit_status import CommandError
from rstream_cli.publishing import Encoder
from rstream_cli.records.envelope import EnvelopeError, from_json, value_to_json
from rstream_core import AmqpError, AMQPMessage
from rstream_core.protocol.amqp import encode_bodies

_EMPTY_BODY = len(AMQPMessage(b"").encode())

Encoded = tuple[list[bytes], list[int] | None, list[tuple[int, str]]]


@dataclass(frozen=True, slots=True)
class Extras:
    """What ``--header``, ``--property`` and ``--annotation`` put on every message."""

    headers: dict[str, Any] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)
    annotations: dict[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.headers or self.properties or self.annotations)

    def message(self) -> AMQPMessage:
        """A message with nothing else. Raises CommandError for what AMQP cannot hold there."""
        document = {
            "properties": {name: value_to_json(value) for name, value in self.properties.items()},
            "headers": {name: value_to_json(value) for name, value in self.headers.items()},
            "annotations": {name: value_to_json(value) for name, value in self.annotations.items()},
        }
        import orjson

        try:
            message = from_json(orjson.dumps(document)).message
            message.encode()
        except (EnvelopeError, ValueError, TypeError) as error:
            raise CommandError(f"--property, --header or --annotation: {error}") from None
        return message


def plain_encoder(extras: Extras, *, raw: bool, skip_empty: bool) -> Encoder:
    """Records that are bodies; ``raw``: that are whole messages in a codec of the user's own."""
    encode = _body_encoder(extras, raw=raw)

    def plain(records: list[bytes], number: int, room: int, stop_at_bad: bool) -> Encoded:
        numbers = None
        if skip_empty:
            filled = list(filter(None, records))
            if len(filled) < len(records):
                numbers = [number + index for index, record in enumerate(records) if record]
            records = filled
        if room < len(records):
            records = records[:room]
        return encode(records), numbers, []

    return plain


def _body_encoder(extras: Extras, *, raw: bool) -> Callable[[list[bytes]], list[bytes]]:
    if raw:
        return lambda records: records
    if not extras:
        return encode_bodies
    sections = extras.message().encode()[:-_EMPTY_BODY]
    return lambda records: [sections + message for message in encode_bodies(records)]


def json_encoder(extras: Extras, *, raw: bool) -> Encoder:
    """Records that are envelopes. What the options say goes over what the envelope says, name by name."""
    extra = extras.message() if extras else None

    def one(line: bytes) -> bytes:
        message = from_json(line).message
        if extra is not None:
            _overlay(message, extra)
        if not raw:
            return message.encode()
        body = message.body
        if body is None or message != AMQPMessage(body):
            raise EnvelopeError('with --codec raw a record has a "body" or a "body_base64" and nothing else')
        return body

    def envelopes(records: list[bytes], number: int, room: int, stop_at_bad: bool) -> Encoded:
        messages: list[bytes] = []
        numbers: list[int] = []
        bad: list[tuple[int, str]] = []
        for at, line in enumerate(records, number):
            if len(messages) >= room:
                break
            if not line or line.isspace():
                continue
            try:
                messages.append(one(line))
            except (EnvelopeError, AmqpError, ValueError, TypeError) as error:
                bad.append((at, str(error)))
                if stop_at_bad:
                    break
            else:
                numbers.append(at)
        return messages, numbers, bad

    return envelopes


def _overlay(message: AMQPMessage, extra: AMQPMessage) -> None:
    if extra.application_properties:
        message.application_properties = (message.application_properties or {}) | extra.application_properties
    if extra.message_annotations:
        message.message_annotations = (message.message_annotations or {}) | extra.message_annotations
    if extra.properties:
        properties = message.properties
        if properties is None:
            message.properties = extra.properties
            return
        for name in type(properties).__slots__:
            value = getattr(extra.properties, name)
            if value is not None:
                setattr(properties, name, value)
