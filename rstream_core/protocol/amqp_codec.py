"""Decodes and encodes AMQP 1.0 values.

Two tables carry the specification (part 1, "Types"): ``_DECODERS`` has one entry for each constructor code,
and ``_ENCODERS`` one for each Python type. :mod:`~rstream_core.protocol.amqp_types` says which Python type
stands for which wire type.

Each value is encoded in its shortest form, except negative ints and longs, which some clients misread in one byte.
Elements of an array share one constructor: numbers have full width there, since not every reader knows the short forms
in arrays; strings, lists and maps have the short form if all of them fit it.

Decoded bytes may be hostile. Any fault - a cut off value, a wrong size or count, an unknown constructor, text that is
not UTF-8, a symbol that is not ASCII, nesting deeper than :data:`MAX_DEPTH`, more values than :data:`MAX_VALUES`, more
than :data:`MAX_ZERO_WIDTH_ELEMENTS` array elements without bytes, more than :data:`MAX_KEYED_BYTES` of maps that become
an :class:`AmqpMap`, a repeated key of a map - raises :class:`~rstream_core.errors.AmqpError`, and no other error. Sizes
and counts are checked against the remaining bytes before memory is allocated.

A map decodes to a ``dict``, or to an :class:`AmqpMap` where a ``dict`` cannot hold it: where two keys differ only by
their AMQP type, such as ``True`` and ``1``, or a key is a list, a map or an array.

The module is longer than others, so that both tables can be compared with the specification, and with each other, in
one place.
"""

from __future__ import annotations

import datetime as dt
import struct
import uuid
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, ValuesView
from typing import Any, Final, TypeAlias

from rstream_core.errors import AmqpError
from rstream_core.protocol.amqp_types import (
    AmqpValue,
    Array,
    Byte,
    Char,
    Decimal32,
    Decimal64,
    Decimal128,
    Described,
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

__all__ = [
    "MAX_DEPTH",
    "MAX_KEYED_BYTES",
    "MAX_VALUES",
    "MAX_ZERO_WIDTH_ELEMENTS",
    "AmqpMap",
    "decode_value",
    "decode_values",
    "encode_value",
    "map_of",
    "skip_value",
]

MAX_DEPTH: Final = 64
"""How many lists, maps, arrays and descriptions may be nested, when encoding and when decoding."""

MAX_ZERO_WIDTH_ELEMENTS: Final = 65_536
"""How many array elements without bytes one decoded value may have, in all its arrays together."""

MAX_VALUES: Final = 1 << 20
"""How many values one decoded value may contain. It is more than fit a message of the default frame size. An unpacked
sub-entry has room for 64 times as many one-byte values, each of which takes up to a hundred bytes in Python."""

MAX_KEYED_BYTES: Final = 1 << 20
"""How many bytes of one decoded value may be maps that become an :class:`AmqpMap`. An ``AmqpMap`` also keeps its keys
encoded, so a map inside a key is stored once more for each map around it, and counts each time."""

_State: TypeAlias = list[int]
"""[levels left, zero-width elements left, values left, bytes of maps with encoded keys left] of one decode."""
_Decoder: TypeAlias = Callable[[bytes, int, _State], tuple[Any, int]]
_U32: Final = struct.Struct(">I")
_LONG: Final = 1 << 20
_MAX_U32: Final = 2**32 - 1


# --- maps that a dict cannot hold ---------------------------------------------------------------------


class AmqpMap(Mapping[Any, Any]):
    """A map with keys that may differ only by their AMQP types: ``1``, ``Int(1)``, ``True`` and ``1.0`` are four keys.

    Decoding returns one only for a map that a ``dict`` cannot hold. The constructor takes pairs or a mapping, and keeps
    their order. Keys may also be lists, maps and arrays. It raises ``ValueError`` if two keys have the same type and
    value (AMQP 1.0 part 1, 1.6.23; their encoding does not matter, and a NaN equals no other key), and the
    ``TypeError`` or ``ValueError`` of :func:`encode_value` for a key without an AMQP type.

    A lookup needs a key of the wire type: a plain ``1`` finds the long, ``Int(1)`` the int, and a list or a tuple finds
    a list. It compares with any mapping: keys by their AMQP types, values as in Python, in any order. It is immutable
    and has no hash. Lists in its values may be changed, but lists in its keys must not be. It is encoded without
    converting its keys, also in a section with a key type of its own.
    """

    __slots__ = ("_index", "_keys", "_levels", "_pairs")

    _pairs: tuple[tuple[Any, Any], ...]
    _keys: list[bytes]
    """The encoded keys: the same bytes mean the same type and value."""
    _index: dict[bytes, int]
    """The position of the first pair with each encoded key."""
    _levels: int
    """An upper bound on how deeply the keys are nested."""

    def __init__(self, pairs: Mapping[Any, Any] | Iterable[tuple[Any, Any]] = ()) -> None:
        if isinstance(pairs, Mapping):
            pairs = pairs.items()
        self._fill(tuple((key, value) for key, value in pairs), MAX_DEPTH - 1)

    def _fill(self, pairs: tuple[tuple[Any, Any], ...], levels: int) -> None:
        keys = [_encode(key, levels) for key, _ in pairs]
        index: dict[bytes, int] = {}
        for at, encoded in enumerate(keys):
            if index.setdefault(encoded, at) != at:
                key = pairs[at][0]
                if key == key:  # noqa: PLR0124 - a NaN does not equal itself
                    raise ValueError(f"two keys of a map are equal: {key!r:.80}")
        self._pairs, self._keys, self._index, self._levels = pairs, keys, index, levels

    @classmethod
    def _decoded(cls, pairs: tuple[tuple[Any, Any], ...], levels: int) -> AmqpMap:
        """Makes a map of decoded pairs. ``levels`` is how many levels of nesting were left for its keys.

        Raises ``ValueError`` like the constructor. With ``levels`` the encoder can reuse the encoded keys. Otherwise
        maps in keys of maps in keys, as in a hostile message, would be encoded once more at each level.
        """
        self = cls.__new__(cls)
        self._fill(pairs, levels)
        return self

    def _encoded_keys(self, levels: int) -> list[bytes]:
        return self._keys if levels >= self._levels else [_encode(key, levels) for key, _ in self._pairs]

    def __getitem__(self, key: Any) -> Any:
        at = self._index.get(encode_value(key))
        if at is None:
            raise KeyError(key)
        return self._pairs[at][1]

    def __iter__(self) -> Iterator[Any]:
        return iter([key for key, _ in self._pairs])

    def __len__(self) -> int:
        return len(self._pairs)

    def items(self) -> ItemsView[Any, Any]:
        """All pairs, in order."""
        return _Items(self)

    def values(self) -> ValuesView[Any]:
        """All values, in the order of the pairs."""
        return _Values(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        if len(self) != len(other):
            return False
        if not isinstance(other, AmqpMap):
            try:
                other = AmqpMap(other)
            except (TypeError, ValueError):  # keys that no AMQP map has
                return False
        return self._sorted() == other._sorted()

    __hash__ = None  # type: ignore[assignment]

    def __or__(self, other: Mapping[Any, Any]) -> AmqpMap:
        """Returns the pairs of both maps; for a key of both, the pair of ``other``."""
        if not isinstance(other, Mapping):
            return NotImplemented
        added = AmqpMap(other)
        kept = [pair for key, pair in zip(self._keys, self._pairs, strict=True) if key not in added._index]
        return AmqpMap([*kept, *added._pairs])

    def _sorted(self) -> list[tuple[bytes, Any]]:
        values = [value for _, value in self._pairs]
        return sorted(zip(self._keys, values, strict=True), key=lambda pair: pair[0])

    def __reduce__(self) -> tuple[type[AmqpMap], tuple[Any]]:
        return AmqpMap, (self._pairs,)

    def __repr__(self) -> str:
        return f"AmqpMap({list(self._pairs)!r})"


class _Items(ItemsView[Any, Any]):
    """Iterates over the pairs themselves, without a lookup of each key: several NaNs are several keys."""

    _mapping: AmqpMap

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return iter(self._mapping._pairs)  # noqa: SLF001 - of this module


class _Values(ValuesView[Any]):
    _mapping: AmqpMap

    def __iter__(self) -> Iterator[Any]:
        return iter([value for _, value in self._mapping._pairs])  # noqa: SLF001 - of this module


def map_of(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any] | AmqpMap:
    """Returns the pairs as a ``dict`` if that can hold all of them, or else as an :class:`AmqpMap`, which may raise."""
    pairs = tuple(pairs)
    try:
        entries = dict(pairs)
    except TypeError:  # a key that Python cannot hash
        return AmqpMap(pairs)
    return entries if len(entries) == len(pairs) else AmqpMap(pairs)


# --- decoding -------------------------------------------------------------------------------------


def decode_value(
    buffer: bytes | bytearray | memoryview, offset: int = 0, *, end: int | None = None
) -> tuple[AmqpValue, int]:
    """Returns the value that starts at ``offset``, and the offset just after it.

    Bytes from ``end`` on (default: the end of the buffer) are not read. Bytes between the value and ``end`` are
    allowed. A buffer other than ``bytes`` is copied.

    Raises :class:`AmqpError` for the faults that the module's docstring names, and ``ValueError`` for a negative
    offset.
    """
    if offset < 0:
        raise ValueError(f"an offset is at least 0, not {offset}")
    data = bytes(buffer) if end is None else bytes(buffer[:end])
    return _decode(data, offset, [MAX_DEPTH, MAX_ZERO_WIDTH_ELEMENTS, MAX_VALUES, MAX_KEYED_BYTES])


def decode_values(data: bytes, offsets: Iterable[int]) -> list[AmqpValue]:
    """Returns the values at these offsets. The bounds apply to all of them together. Raises as :func:`decode_value`."""
    state = [MAX_DEPTH, MAX_ZERO_WIDTH_ELEMENTS, MAX_VALUES, MAX_KEYED_BYTES]
    return [_decode(data, offset, state)[0] for offset in offsets]


def _decode(data: bytes, offset: int, state: _State) -> tuple[AmqpValue, int]:
    try:
        return _DECODERS[data[offset]](data, offset + 1, state)
    except (IndexError, struct.error):
        raise AmqpError("the value is cut short", len(data)) from None
    except UnicodeDecodeError as error:
        raise AmqpError(f"text that is not {error.encoding.upper()}: {error.reason}") from None


def skip_value(data: bytes, offset: int) -> int:
    """Returns the offset just after the value at ``offset``. Uses only the sizes: the contents are not read.

    A descriptor and its value count as one value. Raises :class:`AmqpError` where the value is cut off, or its
    constructor is unknown.
    """
    size = len(data)
    missing = 1  # values to pass; a description needs one more: its descriptor
    while missing:
        if offset >= size:
            raise AmqpError("the value is cut short", size)
        code = data[offset]
        if not code:
            offset += 1
            missing += 1
            continue
        if code not in _CODE_NAMES:
            raise AmqpError(f"no AMQP type has the constructor 0x{code:02x}", offset)
        width = _WIDTHS[code >> 4]
        offset += 1
        if width < 0:
            width = int.from_bytes(data[offset : offset - width], "big") - width
        offset += width
        missing -= 1
        if offset > size:
            raise AmqpError("the value is cut short", size)
    return offset


_WIDTHS: Final = (-9, -9, -9, -9, 0, 1, 2, 4, 8, 16, -1, -4, -1, -4, -1, -4)
"""The number of bytes after the constructor, by its upper half. -1 and -4 mean a size of 1 or 4 bytes, and then as many
bytes as that says."""


def _unknown(data: bytes, pos: int, _state: _State) -> tuple[Any, int]:
    raise AmqpError(f"no AMQP type has the constructor 0x{data[pos - 1]:02x}", pos - 1)


def _constant(value: Any) -> _Decoder:
    return lambda _data, pos, _state: (value, pos)


def _fixed(layout: str, make: Callable[[Any], Any] | None = None) -> _Decoder:
    unpack_from = struct.Struct(layout).unpack_from
    width = struct.calcsize(layout)
    if make is None:
        return lambda data, pos, _state: (unpack_from(data, pos)[0], pos + width)
    return lambda data, pos, _state: (make(unpack_from(data, pos)[0]), pos + width)


def _integer(cls: type[int]) -> Callable[[int], int]:
    """Returns a function that makes instances without a range check: the width on the wire has ensured the range."""
    new = int.__new__
    return lambda value: new(cls, value)


def _boolean(data: bytes, pos: int, _state: _State) -> tuple[bool, int]:
    octet = data[pos]
    if octet > 1:
        raise AmqpError(f"a boolean is 0 or 1, not {octet}", pos)
    return octet == 1, pos + 1


def _char(data: bytes, pos: int, _state: _State) -> tuple[Char, int]:
    (point,) = _U32.unpack_from(data, pos)
    try:
        return Char(chr(point)), pos + 4
    except (ValueError, OverflowError):
        raise AmqpError(f"0x{point:x} is not a Unicode code point", pos) from None


def _uuid(data: bytes, pos: int, _state: _State) -> tuple[uuid.UUID, int]:
    end = pos + 16
    if end > len(data):
        raise AmqpError("the value is cut short", len(data))
    return uuid.UUID(bytes=data[pos:end]), end


def _variable(size_width: int, make: Callable[[bytes], Any] | None) -> _Decoder:
    def decode(data: bytes, pos: int, _state: _State) -> tuple[Any, int]:
        start = pos + size_width
        end = start + (data[pos] if size_width == 1 else _U32.unpack_from(data, pos)[0])
        if end > len(data):
            raise AmqpError("the value is cut short", len(data))
        if make is _text and end - start > _LONG:
            return str(memoryview(data)[start:end], "utf-8"), end  # without a copy of the bytes
        content = data[start:end]
        return content if make is None else make(content), end

    return decode


def _text(content: bytes) -> str:
    return content.decode()


def _symbol(content: bytes) -> Symbol:
    return Symbol(content.decode("ascii"))


def _described(data: bytes, pos: int, state: _State) -> tuple[Described, int]:
    _enter(state, pos)
    _count(state, 1, pos)
    descriptor, pos = _DECODERS[data[pos]](data, pos + 1, state)
    value, pos = _DECODERS[data[pos]](data, pos + 1, state)
    state[0] += 1
    return Described(descriptor, value), pos


def _enter(state: _State, pos: int) -> None:
    if not state[0]:
        raise AmqpError(f"nested more than {MAX_DEPTH} deep", pos)
    state[0] -= 1


def _count(state: _State, values: int, pos: int) -> None:
    state[2] -= values
    if state[2] < 0:
        raise AmqpError(f"more than {MAX_VALUES} values in one", pos)


def _extent(data: bytes, pos: int, width: int) -> tuple[int, int, int]:
    """Returns count, start of the elements, and end of the list, map or array whose size is at ``pos``."""
    if width == 1:
        size, count = data[pos], data[pos + 1]
    else:
        size, count = int.from_bytes(data[pos : pos + 4], "big"), _U32.unpack_from(data, pos + 4)[0]
    start = pos + 2 * width
    end = pos + width + size
    if end > len(data):
        raise AmqpError("the value is cut short", len(data))
    if start > end:
        raise AmqpError(f"a size of {size} leaves no room for the count", pos)
    return count, start, end


def _elements(data: bytes, pos: int, width: int, state: _State) -> tuple[list[Any], int]:
    _enter(state, pos)
    count, at, end = _extent(data, pos, width)
    if count > end - at:
        raise AmqpError(f"{count} elements do not fit {end - at} bytes", pos)
    _count(state, count, pos)
    values = []
    for _ in range(count):
        value, at = _DECODERS[data[at]](data, at + 1, state)
        values.append(value)
        if at > end:
            break
    if at != end:
        raise AmqpError("the elements do not end where their size says", at)
    state[0] += 1
    return values, end


def _list(width: int) -> _Decoder:
    return lambda data, pos, state: _elements(data, pos, width, state)


def _map(width: int) -> _Decoder:
    def decode(data: bytes, pos: int, state: _State) -> tuple[dict[Any, Any] | AmqpMap, int]:
        flat, end = _elements(data, pos, width, state)
        if len(flat) % 2:
            raise AmqpError("a map with a key that has no value", pos)
        try:
            entries = dict(zip(flat[::2], flat[1::2], strict=True))
        except TypeError:  # a key that Python cannot hash
            pass
        else:
            if 2 * len(entries) == len(flat):
                return entries, end
        state[3] -= end - pos
        if state[3] < 0:
            raise AmqpError(f"more than {MAX_KEYED_BYTES} bytes of maps whose keys are no keys of a dict", pos)
        try:
            return AmqpMap._decoded(tuple(zip(flat[::2], flat[1::2], strict=True)), state[0] - 1), end  # noqa: SLF001
        except ValueError as error:
            raise AmqpError(str(error), pos) from None

    return decode


def _array(width: int) -> _Decoder:
    def decode(data: bytes, pos: int, state: _State) -> tuple[Array, int]:
        _enter(state, pos)
        count, at, end = _extent(data, pos, width)
        if not count and at == end:  # some encoders leave out the constructor of an empty array
            state[0] += 1
            return Array(), end
        descriptors: list[Any] = []
        while (code := data[at]) == 0:
            if len(descriptors) >= state[0]:
                raise AmqpError(f"nested more than {MAX_DEPTH} deep", at)
            descriptor, at = _DECODERS[data[at + 1]](data, at + 2, state)
            descriptors.append(descriptor)
        at += 1
        if code not in _CODE_NAMES:
            raise AmqpError(f"no AMQP type has the constructor 0x{code:02x}", at - 1)
        if code >> 4 == 4:
            state[1] -= count
            if state[1] < 0:
                raise AmqpError(f"more than {MAX_ZERO_WIDTH_ELEMENTS} array elements without bytes", pos)
        elif count > end - at:
            raise AmqpError(f"{count} elements do not fit {end - at} bytes", pos)
        _count(state, count, pos)
        decode_element = _DECODERS[code]
        values = []
        for _ in range(count):
            value, at = decode_element(data, at, state)
            values.append(value)
            if at > end:
                break
        if at != end:
            raise AmqpError("the elements do not end where their size says", at)
        state[0] += 1
        return Array(values, _CODE_NAMES[code], descriptors=descriptors), end

    return decode


def _empty_list(_data: bytes, pos: int, _state: _State) -> tuple[list[Any], int]:
    return [], pos


_CONSTRUCTORS: Final[dict[int, tuple[str, _Decoder]]] = {
    0x40: ("null", _constant(None)),
    0x41: ("boolean", _constant(True)),
    0x42: ("boolean", _constant(False)),
    0x56: ("boolean", _boolean),
    0x50: ("ubyte", _fixed(">B", _integer(UByte))),
    0x60: ("ushort", _fixed(">H", _integer(UShort))),
    0x70: ("uint", _fixed(">I", _integer(UInt))),
    0x52: ("uint", _fixed(">B", _integer(UInt))),
    0x43: ("uint", _constant(UInt(0))),
    0x80: ("ulong", _fixed(">Q", _integer(ULong))),
    0x53: ("ulong", _fixed(">B", _integer(ULong))),
    0x44: ("ulong", _constant(ULong(0))),
    0x51: ("byte", _fixed(">b", _integer(Byte))),
    0x61: ("short", _fixed(">h", _integer(Short))),
    0x71: ("int", _fixed(">i", _integer(Int))),
    0x54: ("int", _fixed(">b", _integer(Int))),
    0x81: ("long", _fixed(">q")),
    0x55: ("long", _fixed(">b")),
    0x72: ("float", _fixed(">f", Float32)),
    0x82: ("double", _fixed(">d")),
    0x74: ("decimal32", _fixed(">4s", Decimal32)),
    0x84: ("decimal64", _fixed(">8s", Decimal64)),
    0x94: ("decimal128", _fixed(">16s", Decimal128)),
    0x73: ("char", _char),
    0x83: ("timestamp", _fixed(">q", _integer(Timestamp))),
    0x98: ("uuid", _uuid),
    0xA0: ("binary", _variable(1, None)),
    0xB0: ("binary", _variable(4, None)),
    0xA1: ("string", _variable(1, _text)),
    0xB1: ("string", _variable(4, _text)),
    0xA3: ("symbol", _variable(1, _symbol)),
    0xB3: ("symbol", _variable(4, _symbol)),
    0x45: ("list", _empty_list),
    0xC0: ("list", _list(1)),
    0xD0: ("list", _list(4)),
    0xC1: ("map", _map(1)),
    0xD1: ("map", _map(4)),
    0xE0: ("array", _array(1)),
    0xF0: ("array", _array(4)),
}
"""The constructor codes: the name of the type, and the function that decodes the bytes after the code."""

_CODE_NAMES: Final = {code: name for code, (name, _) in _CONSTRUCTORS.items()}
_DECODERS: Final[list[_Decoder]] = [_unknown] * 256
_DECODERS[0x00] = _described
for _code, (_name, _decoder) in _CONSTRUCTORS.items():
    _DECODERS[_code] = _decoder


# --- encoding -------------------------------------------------------------------------------------


def encode_value(value: AmqpValue) -> bytes:
    """Returns the encoding of ``value``, of a type in :mod:`~rstream_core.protocol.amqp_types`; see the module.

    Raises ``TypeError`` for a Python type that stands for no AMQP type, and ``ValueError`` for a number that
    no AMQP type holds, a time without a time zone, text with lone surrogates, or nesting deeper than
    :data:`MAX_DEPTH`.
    """
    return _encode(value, MAX_DEPTH)


def _encode(value: Any, levels: int) -> bytes:
    encoder = _ENCODERS.get(type(value))
    if encoder is None:
        for base in type(value).__mro__:
            if encoder := _ENCODERS.get(base):
                break
        else:
            raise TypeError(f"no AMQP type for {type(value).__name__}: {value!r:.80}")
    return encoder(value, levels)


def _inner(levels: int) -> int:
    if not levels:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    return levels - 1


def _sized(code: int, content: bytes) -> bytes:
    """Encodes a binary, string or symbol. ``code`` is the short form's code; that of the long form is 0x10 more."""
    size = len(content)
    if size < 256:
        return bytes((code, size)) + content
    if size > _MAX_U32:
        raise ValueError(f"{size} bytes are more than AMQP can count")
    return bytes((code + 0x10,)) + _U32.pack(size) + content


def _counted(code: int, count: int, content: bytes) -> bytes:
    """Encodes a list, map or array; ``code`` as in ``_sized``. The size includes the count."""
    size = len(content)
    if size < 255 and count < 256:
        return bytes((code, size + 1, count)) + content
    if size > _MAX_U32 - 4 or count > _MAX_U32:
        raise ValueError(f"{size} bytes, {count} elements are more than AMQP can count")
    return bytes((code + 0x10,)) + struct.pack(">II", size + 4, count) + content


def _encode_int(value: int, _levels: int) -> bytes:
    if 0 <= value <= 127:  # see ``_short_or_long`` for negative numbers
        return struct.pack(">Bb", 0x55, value)
    if -(2**63) <= value < 2**63:
        return struct.pack(">Bq", 0x81, value)
    if 0 < value < 2**64:
        return struct.pack(">BQ", 0x80, value)
    raise ValueError(f"{int(value)} does not fit 64 bits")


def _packed(code: int, layout: str) -> Callable[[Any, int], bytes]:
    pack = struct.Struct(">B" + layout).pack
    return lambda value, _levels: pack(code, value)


def _short_or_long(zero: int | None, short: int, long: int, layout: str) -> Callable[[Any, int], bytes]:
    """Returns the encoder of uint, ulong or int: no bytes for 0 (``zero``), one byte if possible, or else full width.

    A negative int or long has full width, too: the Go client (1.8) reads the short form without the sign, -1 as 255,
    and so does the Rust client (0.11) with an int.
    """
    small = struct.Struct(">Bb" if zero is None else ">BB").pack
    full = struct.Struct(">B" + layout).pack
    high = 127 if zero is None else 255

    def encode(value: int, _levels: int) -> bytes:
        if zero is not None and value == 0:
            return bytes((zero,))
        return small(short, value) if 0 <= value <= high else full(long, value)

    return encode


def _encode_list(value: list[Any] | tuple[Any, ...], levels: int) -> bytes:
    if not value:
        return b"\x45"
    levels = _inner(levels)
    return _counted(0xC0, len(value), b"".join([_encode(item, levels) for item in value]))


def _map_content(value: dict[Any, Any] | AmqpMap, levels: int) -> bytes:
    parts = []
    if not isinstance(value, dict):
        for encoded, item in zip(value._encoded_keys(levels), value.values(), strict=True):  # noqa: SLF001
            parts.append(encoded)
            parts.append(_encode(item, levels))
        return b"".join(parts)
    for key, item in value.items():
        parts.append(_encode(key, levels))
        parts.append(_encode(item, levels))
    return b"".join(parts)


def _encode_map(value: dict[Any, Any] | AmqpMap, levels: int) -> bytes:
    return _counted(0xC1, 2 * len(value), _map_content(value, _inner(levels)))


def _encode_described(value: Described, levels: int) -> bytes:
    levels = _inner(levels)
    return b"\x00" + _encode(value.descriptor, levels) + _encode(value.value, levels)


def _encode_array(value: Array, levels: int) -> bytes:
    return _counted(0xE0, len(value), _array_content(value, _inner(levels)))


def _timestamp(value: int | dt.datetime) -> Timestamp:
    return Timestamp.from_datetime(value) if isinstance(value, dt.datetime) else Timestamp(value)


def _code_point(value: str) -> int:
    return ord(Char(value))


_FIXED_ELEMENTS: Final[dict[str, tuple[int, struct.Struct, Callable[[Any], Any]]]] = {
    "ubyte": (0x50, struct.Struct(">B"), UByte),
    "ushort": (0x60, struct.Struct(">H"), UShort),
    "uint": (0x70, struct.Struct(">I"), UInt),
    "ulong": (0x80, struct.Struct(">Q"), ULong),
    "byte": (0x51, struct.Struct(">b"), Byte),
    "short": (0x61, struct.Struct(">h"), Short),
    "int": (0x71, struct.Struct(">i"), Int),
    "long": (0x81, struct.Struct(">q"), int),
    "float": (0x72, struct.Struct(">f"), Float32),
    "double": (0x82, struct.Struct(">d"), float),
    "boolean": (0x56, struct.Struct(">?"), bool),
    "decimal32": (0x74, struct.Struct(">4s"), Decimal32),
    "decimal64": (0x84, struct.Struct(">8s"), Decimal64),
    "decimal128": (0x94, struct.Struct(">16s"), Decimal128),
    "char": (0x73, struct.Struct(">I"), _code_point),
    "timestamp": (0x83, struct.Struct(">q"), _timestamp),
    "uuid": (0x98, struct.Struct(">16s"), lambda value: value.bytes),
}
"""Array elements of a fixed width: the constructor, the layout, and the function that converts an element for it."""

_ELEMENT_TYPES: Final[dict[str, type | tuple[type, ...]]] = {
    "null": type(None),
    "boolean": bool,
    "float": (float, int),
    "double": (float, int),
    "decimal32": Decimal32,
    "decimal64": Decimal64,
    "decimal128": Decimal128,
    "char": str,
    "timestamp": (int, dt.datetime),
    "uuid": uuid.UUID,
    "binary": (bytes, bytearray, memoryview),
    "string": str,
    "symbol": str,
    "list": (list, tuple),
    "map": (dict, AmqpMap),
    "array": Array,
}
"""The Python types of an array's elements, by the name of the AMQP type; ``int`` for names that are not listed."""

_VARIABLE_CODES: Final = {
    "binary": 0xA0,
    "string": 0xA1,
    "symbol": 0xA3,
    "list": 0xC0,
    "map": 0xC1,
    "array": 0xE0,
}


def _array_content(value: Array, levels: int) -> bytes:
    """Returns the bytes after the count: descriptors, constructor, elements."""
    name = value.type_name
    expected = _ELEMENT_TYPES.get(name, int)
    for item in value:
        if not isinstance(item, expected) or (isinstance(item, bool) and name != "boolean"):
            raise TypeError(f"not an element for an array of {name}: {item!r:.80}")
    if len(value.descriptors) > levels:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    head = b"".join([b"\x00" + _encode(descriptor, levels) for descriptor in value.descriptors])
    if name == "null":
        if len(value) > MAX_ZERO_WIDTH_ELEMENTS:
            raise ValueError(f"more than {MAX_ZERO_WIDTH_ELEMENTS} array elements without bytes")
        return head + b"\x40"
    if name in _FIXED_ELEMENTS:
        code, layout, make = _FIXED_ELEMENTS[name]
        try:
            elements = b"".join([layout.pack(make(item)) for item in value])
        except struct.error:
            raise ValueError(f"an element does not fit an array of {name}") from None
        return head + bytes((code,)) + elements
    return head + _variable_elements(name, value, levels)


def _variable_elements(name: str, value: Array, levels: int) -> bytes:
    code = _VARIABLE_CODES[name]
    counts: list[int] | None = None
    if name == "binary":
        contents = [bytes(item) for item in value]
    elif name == "string":
        contents = [item.encode() for item in value]
    elif name == "symbol":
        contents = [Symbol(item).encode() for item in value]
    else:
        inner = _inner(levels) if value else levels
        counts = [2 * len(item) if name == "map" else len(item) for item in value]
        if name == "list":
            contents = [b"".join([_encode(member, inner) for member in item]) for item in value]
        elif name == "map":
            contents = [_map_content(item, inner) for item in value]
        else:
            contents = [_array_content(item, inner) for item in value]
    sizes = [len(content) for content in contents]
    if counts is None:
        if max(sizes, default=0) < 256:
            return bytes((code,)) + b"".join([bytes((len(part),)) + part for part in contents])
        return bytes((code + 0x10,)) + b"".join([_U32.pack(len(part)) + part for part in contents])
    if max(sizes, default=0) < 255 and max(counts, default=0) < 256:
        return bytes((code,)) + b"".join(
            [bytes((len(part) + 1, count)) + part for part, count in zip(contents, counts, strict=True)]
        )
    return bytes((code + 0x10,)) + b"".join(
        [struct.pack(">II", len(part) + 4, count) + part for part, count in zip(contents, counts, strict=True)]
    )


_ENCODERS: Final[dict[type, Callable[[Any, int], bytes]]] = {
    type(None): lambda _value, _levels: b"\x40",
    bool: lambda value, _levels: b"\x41" if value else b"\x42",
    UByte: _packed(0x50, "B"),
    UShort: _packed(0x60, "H"),
    UInt: _short_or_long(0x43, 0x52, 0x70, "I"),
    ULong: _short_or_long(0x44, 0x53, 0x80, "Q"),
    Byte: _packed(0x51, "b"),
    Short: _packed(0x61, "h"),
    Int: _short_or_long(None, 0x54, 0x71, "i"),
    int: _encode_int,
    Float32: _packed(0x72, "f"),
    float: _packed(0x82, "d"),
    Decimal32: _packed(0x74, "4s"),
    Decimal64: _packed(0x84, "8s"),
    Decimal128: _packed(0x94, "16s"),
    Char: lambda value, _levels: struct.pack(">BI", 0x73, ord(value)),
    Timestamp: _packed(0x83, "q"),
    dt.datetime: lambda value, _levels: struct.pack(">Bq", 0x83, Timestamp.from_datetime(value)),
    uuid.UUID: lambda value, _levels: b"\x98" + value.bytes,
    bytes: lambda value, _levels: _sized(0xA0, value),
    bytearray: lambda value, _levels: _sized(0xA0, bytes(value)),
    memoryview: lambda value, _levels: _sized(0xA0, bytes(value)),
    str: lambda value, _levels: _sized(0xA1, value.encode()),
    Symbol: lambda value, _levels: _sized(0xA3, value.encode()),
    list: _encode_list,
    tuple: _encode_list,
    dict: _encode_map,
    AmqpMap: _encode_map,
    Array: _encode_array,
    Described: _encode_described,
}
"""The encoder of each Python type. For a subclass, the encoder of its first base in the table is used."""
