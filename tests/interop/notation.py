"""Messages as the programs say them, and as this client has them.

A value is a list of its AMQP type and a text that says it exactly: ["ulong", "5"], ["double", its eight bytes in
hexadecimal], ["binary", hexadecimal], ["timestamp", milliseconds], ["null", ""]; or it is ["list", values] or
["map", pairs].
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from typing import Any

from rstream_core import AMQPMessage, Properties
from rstream_core.protocol.amqp_types import (
    Byte,
    Char,
    Float32,
    Int,
    Short,
    Symbol,
    Timestamp,
    UByte,
    UInt,
    ULong,
    UShort,
)

_TYPES: dict[str, tuple[type, Callable[[Any], str], Callable[[str], Any]]] = {
    "null": (type(None), lambda _: "", lambda _: None),
    "boolean": (bool, lambda value: str(value).lower(), lambda text: text == "true"),
    "ubyte": (UByte, str, lambda text: UByte(int(text))),
    "ushort": (UShort, str, lambda text: UShort(int(text))),
    "uint": (UInt, str, lambda text: UInt(int(text))),
    "ulong": (ULong, str, lambda text: ULong(int(text))),
    "byte": (Byte, str, lambda text: Byte(int(text))),
    "short": (Short, str, lambda text: Short(int(text))),
    "int": (Int, str, lambda text: Int(int(text))),
    "long": (int, str, int),
    "float": (
        Float32,
        lambda value: struct.pack(">f", value).hex(),
        lambda text: Float32(struct.unpack(">f", bytes.fromhex(text))[0]),
    ),
    "double": (
        float,
        lambda value: struct.pack(">d", value).hex(),
        lambda text: struct.unpack(">d", bytes.fromhex(text))[0],
    ),
    "char": (Char, str, Char),
    "timestamp": (Timestamp, str, lambda text: Timestamp(int(text))),
    "uuid": (uuid.UUID, str, uuid.UUID),
    "binary": (bytes, bytes.hex, bytes.fromhex),
    "string": (str, str, str),
    "symbol": (Symbol, str, Symbol),
}
_NAMES = {python: name for name, (python, _, _) in _TYPES.items()}

_PROPERTY_TYPES = {
    "user_id": "binary",
    "to": "string",
    "subject": "string",
    "reply_to": "string",
    "content_type": "symbol",
    "content_encoding": "symbol",
    "absolute_expiry_time": "timestamp",
    "creation_time": "timestamp",
    "group_id": "string",
    "group_sequence": "uint",
    "reply_to_group_id": "string",
}
"""Of ``message_id`` and ``correlation_id`` a value says it."""


def say(value: Any) -> list[Any]:
    """A value of this client in the programs' notation."""
    if isinstance(value, list):
        return ["list", [say(item) for item in value]]
    if isinstance(value, dict):
        return ["map", [[say(key), say(item)] for key, item in value.items()]]
    name = _NAMES[type(value)]
    return [name, _TYPES[name][1](value)]


def understand(said: list[Any]) -> Any:
    """The other way."""
    kind, content = said
    if kind == "list":
        return [understand(item) for item in content]
    if kind == "map":
        return {understand(key): understand(item) for key, item in content}
    return _TYPES[kind][2](content)


def say_message(message: AMQPMessage) -> dict[str, Any]:
    """A message as a program says it; what is absent is left out."""
    said: dict[str, Any] = {}
    if message.body is not None:
        said["body"] = message.body.hex()
    elif message.value is not None:
        said["value"] = say(message.value)
    if message.properties is not None:
        fields = {
            name: getattr(message.properties, name) for name in (*_PROPERTY_TYPES, "message_id", "correlation_id")
        }
        said["properties"] = {name: _say_property(name, value) for name, value in fields.items() if value is not None}
    if message.application_properties is not None:
        said["application"] = {name: say(value) for name, value in message.application_properties.items()}
    if message.message_annotations is not None:
        said["annotations"] = {str(name): say(value) for name, value in message.message_annotations.items()}
    return said


def _say_property(name: str, value: Any) -> list[Any]:
    kind = _PROPERTY_TYPES.get(name)
    return say(value) if kind is None else [kind, _TYPES[kind][1](value)]


def understand_message(said: dict[str, Any]) -> AMQPMessage:
    """The message that a program says."""
    properties = {name: understand(value) for name, value in said.get("properties", {}).items()}
    return AMQPMessage(
        bytes.fromhex(said["body"]),
        properties=Properties(**properties) if properties else None,
        application_properties={name: understand(value) for name, value in said.get("application", {}).items()} or None,
        message_annotations={name: understand(value) for name, value in said.get("annotations", {}).items()} or None,
    )


def plain(*bodies: bytes, first_id: int | None = None) -> list[dict[str, Any]]:
    """Messages of a body alone, perhaps with publishing ids that count up."""
    if first_id is None:
        return [{"body": body.hex()} for body in bodies]
    return [{"body": body.hex(), "id": number} for number, body in enumerate(bodies, first_id)]
