"""The primitive types of the stream protocol: one codec each, and a bounds-checked reader.

A codec is a pair of functions. ``commands`` builds every message from these and nothing else,
so this is the only place where a length is trusted, and it never is: each is checked against
the bytes that are there before anything is allocated.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rstream_core.errors import ProtocolError

MAX_STRING = 0x7FFF
"""The length of a string is a signed 16-bit number of bytes."""
MAX_ELEMENTS = 65_536
"""Of an array or a map that is read, unless it says otherwise: far more than any answer has, and in Python an element
takes up to thirty times its bytes."""

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

    def count(self, minimum: int, most: int | None = MAX_ELEMENTS) -> int:
        """The count of an array of at most ``most`` elements, which take at least ``minimum`` bytes each."""
        count: int = self.unpack(_I32)
        if count < 0:  # some encoders write a missing array as -1
            return 0
        if count * minimum > self.end - self.pos:
            raise ProtocolError(f"an array claims {count} elements in {self.end - self.pos} bytes")
        if most is not None and count > most:
            raise ProtocolError(f"an array of {count} elements; {most} are the limit")
        return count


class Codec(NamedTuple):
    """How one type is written and read; ``minimum`` is the fewest bytes it can take."""

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
i64 = _number("i64", _I64)


def _write_string(out: bytearray, value: str | None) -> None:
    if value is None:
        out += b"\xff\xff"
        return
    try:
        data = value.encode()
    except UnicodeEncodeError:  # bytes of a command line that were no UTF-8 become lone surrogates
        raise ProtocolError(f"{value!r} cannot be written as UTF-8") from None
    if len(data) > MAX_STRING:
        raise ProtocolError(f"a string of {len(data)} bytes is longer than {MAX_STRING}")
    out += _I16.pack(len(data))
    out += data


def _read_string(reader: Reader) -> str | None:
    size: int = reader.unpack(_I16)
    if size < 0:
        return None
    try:
        return reader.take(size).decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(f"a string is not UTF-8: {error.reason} at byte {error.start}") from None


nullable_string = Codec("string?", 2, _write_string, _read_string)
string = Codec("string", 2, _write_string, lambda reader: _read_string(reader) or "")


def _write_bytes(out: bytearray, value: bytes | None) -> None:
    if value is None:
        out += b"\xff\xff\xff\xff"
        return
    out += _I32.pack(len(value))
    out += value


def _read_bytes(reader: Reader) -> bytes | None:
    size: int = reader.unpack(_I32)
    return None if size < 0 else reader.take(size)


nullable_bytes = Codec("bytes?", 4, _write_bytes, _read_bytes)
rest_of_frame = Codec("rest", 0, lambda out, value: out.extend(value), Reader.rest)


def array(element: Codec, *, most: int | None = MAX_ELEMENTS) -> Codec:
    """``[T]``: a 32-bit count, then the elements; a tuple in Python. ``most``: see ``Reader.count``."""

    def write(out: bytearray, values: Sequence[Any]) -> None:
        out += _I32.pack(len(values))
        for value in values:
            element.write(out, value)

    def read(reader: Reader) -> tuple[Any, ...]:
        count = reader.count(element.minimum, most)
        return tuple([element.read(reader) for _ in range(count)])

    return Codec(f"[{element.name}]", 4, write, read)


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
"""As ``array(u64)``, in one step: confirms are on the hot path."""


def record(make: Callable[..., Any], *fields: Codec) -> Codec:
    """Fields one after another; a tuple type in Python."""

    def write(out: bytearray, value: Sequence[Any]) -> None:
        for codec, item in zip(fields, value, strict=True):
            codec.write(out, item)

    def read(reader: Reader) -> Any:
        return make(*[codec.read(reader) for codec in fields])

    name = "{" + ", ".join(codec.name for codec in fields) + "}"
    return Codec(name, sum(codec.minimum for codec in fields), write, read)


def mapping(value: Codec) -> Codec:
    """``[key, value]`` with string keys; a dict in Python. The last of two equal keys counts."""

    def write(out: bytearray, values: Mapping[str, Any]) -> None:
        out += _I32.pack(len(values))
        for key, item in values.items():
            string.write(out, key)
            value.write(out, item)

    def read(reader: Reader) -> dict[str, Any]:
        count = reader.count(string.minimum + value.minimum)
        return {string.read(reader): value.read(reader) for _ in range(count)}

    return Codec(f"[string: {value.name}]", 4, write, read)
