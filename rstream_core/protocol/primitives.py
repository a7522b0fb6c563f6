"""The primitive types of the stream protocol: one codec each, and a bounds-checked reader.

A codec is a pair of functions. ``commands`` builds every message from these alone, so this is the only place that reads
lengths. Each length is checked against the remaining bytes before memory is allocated.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rstream_core.checks import MAX_STRING
from rstream_core.errors import ProtocolError

MAX_ELEMENTS = 65_536
"""The most elements of an array or a map that is read, unless its codec says otherwise. It is far more than any answer
has; in Python an element takes up to thirty times its bytes."""

_U8 = struct.Struct(">B")
_U16 = struct.Struct(">H")
_I16 = struct.Struct(">h")
_U32 = struct.Struct(">I")
_I32 = struct.Struct(">i")
_U64 = struct.Struct(">Q")
_I64 = struct.Struct(">q")


class Reader:
    """Reads primitives from a frame; reading past its end is a ``ProtocolError``."""

    __slots__ = ("data", "end", "pos")

    def __init__(self, data: bytes, pos: int = 0) -> None:
        self.data = data
        self.pos = pos
        self.end = len(data)

    @property
    def remaining(self) -> int:
        return self.end - self.pos

    def take(self, size: int) -> bytes:
        start = self.pos
        if size > self.end - start:
            raise ProtocolError(f"the frame ends {size - (self.end - start)} bytes short of a field of {size}")
        self.pos = start + size
        return self.data[start : self.pos]

    def rest(self) -> bytes:
        return self.take(self.end - self.pos)

    def unpack(self, form: struct.Struct) -> Any:
        start = self.pos
        if form.size > self.end - start:
            raise ProtocolError(f"the frame ends within a field of {form.size} bytes")
        self.pos = start + form.size
        return form.unpack_from(self.data, start)[0]

    def text(self, size: int) -> str:
        """Returns ``size`` bytes as text that is only shown: bytes that are not UTF-8 are replaced."""
        return self.take(size).decode(errors="replace")

    def until_the_end(self, element: Codec) -> Iterator[Any]:
        """Yields the elements of an array that ends with the frame. The count before them is ignored."""
        self.unpack(_I32)
        for _ in range(MAX_ELEMENTS):
            if self.pos >= self.end:
                return
            yield element.read(self)
        if self.pos < self.end:
            raise ProtocolError(f"an array of more than {MAX_ELEMENTS} elements")

    def count(self, minimum: int, most: int | None = MAX_ELEMENTS) -> int:
        """Reads the count of an array. Raises ``ProtocolError`` above ``most``, or if the frame is too short for it.

        ``minimum`` is the least number of bytes of an element.
        """
        count: int = self.unpack(_I32)
        if count < 0:  # some encoders write a missing array as -1
            return 0
        if count * minimum > self.end - self.pos:
            raise ProtocolError(f"an array claims {count} elements in {self.end - self.pos} bytes")
        if most is not None and count > most:
            raise ProtocolError(f"an array of {count} elements; {most} are the limit")
        return count


class Codec(NamedTuple):
    """How one type is written and read. ``minimum`` is the least number of bytes that it takes."""

    name: str
    minimum: int
    write: Callable[[bytearray, Any], None]
    read: Callable[[Reader], Any]


def _number(name: str, form: struct.Struct) -> Codec:
    def write(out: bytearray, value: int) -> None:
        try:
            out += form.pack(value)
        except struct.error:
            raise ProtocolError(f"{value!r} is not a {name}") from None

    return Codec(name, form.size, write, lambda reader: reader.unpack(form))


u8 = _number("u8", _U8)
u16 = _number("u16", _U16)
u32 = _number("u32", _U32)
u64 = _number("u64", _U64)
i16 = _number("i16", _I16)
i64 = _number("i64", _I64)


def _write_string(out: bytearray, value: str | None, most: int = MAX_STRING) -> None:
    if value is None:
        out += b"\xff\xff"
        return
    try:
        data = value.encode()
    except UnicodeEncodeError:  # lone surrogates, such as from command line arguments that are not UTF-8
        raise ProtocolError(f"{value!r} cannot be written as UTF-8") from None
    if len(data) > most:
        raise ProtocolError(f"a string of {len(data)} bytes is longer than {most}")
    out += _U16.pack(len(data))
    out += data


def _take_text(reader: Reader, size: int) -> str:
    try:
        return reader.take(size).decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(f"a string is not UTF-8: {error.reason} at byte {error.start}") from None


def _read_string(reader: Reader) -> str | None:
    size: int = reader.unpack(_I16)
    return None if size < 0 else _take_text(reader, size)


def _read_unsigned_string(reader: Reader) -> str:
    return _take_text(reader, reader.unpack(_U16))


nullable_string = Codec("string?", 2, _write_string, _read_string)
string = Codec("string", 2, _write_string, lambda reader: _read_string(reader) or "")
request_string = Codec("string", 2, _write_string, _read_unsigned_string)
"""A string of a request. RabbitMQ reads the length as unsigned: null does not exist, and more than ``MAX_STRING`` bytes
are allowed."""
long_string = Codec("string", 2, lambda out, value: _write_string(out, value, 0xFFFF), _read_unsigned_string)
"""A string of a broker's answer that is a name from a client: up to 65,535 bytes."""
request_text = Codec("text", 2, _write_string, lambda reader: reader.text(reader.unpack(_U16)))
"""A string of a request that is only shown. RabbitMQ accepts any bytes; here, bytes that are not UTF-8 are replaced."""


def _write_bytes(out: bytearray, value: bytes | None) -> None:
    if value is None:
        out += b"\xff\xff\xff\xff"
        return
    out += _I32.pack(len(value))
    out += value


def _read_bytes(reader: Reader) -> bytes | None:
    size: int = reader.unpack(_I32)
    if size < -1:
        raise ProtocolError(f"a field claims {size} bytes")
    return None if size < 0 else reader.take(size)


nullable_bytes = Codec("bytes?", 4, _write_bytes, _read_bytes)
rest_of_frame = Codec("rest", 0, lambda out, value: out.extend(value), Reader.rest)


def array(element: Codec, *, most: int | None = MAX_ELEMENTS) -> Codec:
    """Returns the codec of ``[T]``: a 32-bit count, then the elements; in Python a tuple. See ``Reader.count``."""

    def write(out: bytearray, values: Sequence[Any]) -> None:
        out += _I32.pack(len(values))
        for value in values:
            element.write(out, value)

    def read(reader: Reader) -> tuple[Any, ...]:
        count = reader.count(element.minimum, most)
        return tuple([element.read(reader) for _ in range(count)])

    return Codec(f"[{element.name}]", 4, write, read)


def last_array(element: Codec) -> Codec:
    """Returns the codec of ``[T]`` as the last field of a request: it ignores the count, as RabbitMQ does."""
    return array(element)._replace(read=lambda reader: tuple(reader.until_the_end(element)))


def _write_ids(out: bytearray, values: Sequence[int]) -> None:
    out += _I32.pack(len(values))
    try:
        out += struct.pack(f">{len(values)}Q", *values)
    except struct.error:
        raise ProtocolError("an id is not a u64") from None


def _read_ids(reader: Reader) -> tuple[int, ...]:
    count = reader.count(8, None)
    return struct.unpack(f">{count}Q", reader.take(count * 8))


u64_array = Codec("[u64]", 4, _write_ids, _read_ids)
"""The same format as ``array(u64)``, read and written in one step: confirms are on the hot path."""


def record(make: Callable[..., Any], *fields: Codec) -> Codec:
    """Returns the codec of a sequence of fields; ``make``, a tuple type, in Python."""

    def write(out: bytearray, value: Sequence[Any]) -> None:
        for codec, item in zip(fields, value, strict=True):
            codec.write(out, item)

    def read(reader: Reader) -> Any:
        return make(*[codec.read(reader) for codec in fields])

    name = "{" + ", ".join(codec.name for codec in fields) + "}"
    return Codec(name, sum(codec.minimum for codec in fields), write, read)


def mapping(value: Codec) -> Codec:
    """Returns the codec of ``[key, value]`` with string keys; a dict in Python. The last of two equal keys counts."""

    def write(out: bytearray, values: Mapping[str, Any]) -> None:
        out += _I32.pack(len(values))
        for key, item in values.items():
            string.write(out, key)
            value.write(out, item)

    def read(reader: Reader) -> dict[str, Any]:
        count = reader.count(string.minimum + value.minimum)
        return {string.read(reader): value.read(reader) for _ in range(count)}

    return Codec(f"[string: {value.name}]", 4, write, read)


def last_mapping(text: Codec) -> Codec:
    """Returns the codec of ``[key, value]``, both ``text``, as the last field of a request: see ``last_array``."""
    pair = record(lambda key, value: (key, value), text, text)
    return mapping(text)._replace(read=lambda reader: dict(reader.until_the_end(pair)))
