"""Python types for the AMQP 1.0 types that Python itself does not have.

A decoded value is encoded as the same type again. Each of Python's own types stands for one wire type:

====================  =========================================================================
``None``              null
``bool``              boolean
``int``               long; ulong above 2**63-1; beyond 2**64-1 or below -2**63 it is a ``ValueError``
``float``             double
``str``               string
``bytes``             binary (``bytearray`` and ``memoryview`` too, when encoding)
``uuid.UUID``         uuid
``datetime``          timestamp, when encoding; a naive one is a ``ValueError``
``list``, ``tuple``   list (decodes to ``list``)
``dict``              map (a map that a ``dict`` cannot hold is an ``AmqpMap``, see ``amqp_codec``)
====================  =========================================================================

The subclasses here stand for the other wire types. They **compare and hash as their base type** -
``ULong(5) == 5 == Byte(5)`` and ``Symbol("a") == "a"`` - so that most programs can ignore them. The type shows in
``type(value)`` and in ``repr(value)``, such as ``ULong(5)``; ``str(value)`` is just ``5``.
Arithmetic gives plain Python numbers. All are immutable except :class:`Array`.
"""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Iterable
from typing import Any, ClassVar, Final, Self, TypeAlias

__all__ = [
    "TYPE_NAMES",
    "AmqpValue",
    "Array",
    "Byte",
    "Char",
    "Decimal32",
    "Decimal64",
    "Decimal128",
    "Described",
    "Float32",
    "Int",
    "Short",
    "Symbol",
    "Timestamp",
    "UByte",
    "UInt",
    "ULong",
    "UShort",
]

AmqpValue: TypeAlias = Any
"""A value of any type in the table above or of a class below."""

TYPE_NAMES: Final = frozenset(
    (
        "null",
        "boolean",
        "ubyte",
        "ushort",
        "uint",
        "ulong",
        "byte",
        "short",
        "int",
        "long",
        "float",
        "double",
        "decimal32",
        "decimal64",
        "decimal128",
        "char",
        "timestamp",
        "uuid",
        "binary",
        "string",
        "symbol",
        "list",
        "map",
        "array",
    )
)
"""The names of the primitive types in the specification: the types that an :class:`Array` can hold."""

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND: Final = dt.timedelta(milliseconds=1)


class _Integer(int):
    """An integer of a fixed width. Raises ``ValueError`` for a number that does not fit."""

    __slots__ = ()
    low: ClassVar[int] = 0
    high: ClassVar[int] = 0

    def __new__(cls, value: int = 0) -> Self:
        self = super().__new__(cls, value)
        if not cls.low <= self <= cls.high:
            raise ValueError(f"{int(self)} does not fit {cls.__name__} ({cls.low} to {cls.high})")
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({int.__repr__(self)})"

    def __str__(self) -> str:
        return int.__repr__(self)


class UByte(_Integer):
    """ubyte: 0 to 255."""

    __slots__ = ()
    high = 2**8 - 1


class UShort(_Integer):
    """ushort: 0 to 65535."""

    __slots__ = ()
    high = 2**16 - 1


class UInt(_Integer):
    """uint: 0 to 2**32-1."""

    __slots__ = ()
    high = 2**32 - 1


class ULong(_Integer):
    """ulong: 0 to 2**64-1."""

    __slots__ = ()
    high = 2**64 - 1


class Byte(_Integer):
    """byte: -128 to 127."""

    __slots__ = ()
    low = -(2**7)
    high = 2**7 - 1


class Short(_Integer):
    """short: -32768 to 32767."""

    __slots__ = ()
    low = -(2**15)
    high = 2**15 - 1


class Int(_Integer):
    """int: -2**31 to 2**31-1. (A plain Python ``int`` is a long.)"""

    __slots__ = ()
    low = -(2**31)
    high = 2**31 - 1


class Timestamp(_Integer):
    """timestamp: milliseconds since 1970-01-01T00:00Z, -2**63 to 2**63-1."""

    __slots__ = ()
    low = -(2**63)
    high = 2**63 - 1

    @classmethod
    def from_datetime(cls, when: dt.datetime) -> Self:
        """Returns ``when`` rounded down to a millisecond. Raises ``ValueError`` where it has no time zone."""
        if when.tzinfo is None or when.utcoffset() is None:
            raise ValueError(f"a time without a time zone cannot become a timestamp: {when!r}")
        return cls((when - _EPOCH) // _MILLISECOND)

    def to_datetime(self) -> dt.datetime:
        """Returns a ``datetime`` in UTC. Raises ``ValueError`` outside the years 1 to 9999."""
        try:
            return _EPOCH + dt.timedelta(milliseconds=int(self))
        except OverflowError:
            raise ValueError(f"{self} ms is outside the years that datetime knows") from None


class Float32(float):
    """float: an IEEE 754 binary32. The value is rounded to it; ``ValueError`` where it is too large."""

    __slots__ = ()

    def __new__(cls, value: float = 0.0) -> Self:
        try:
            (rounded,) = struct.unpack(">f", struct.pack(">f", value))
        except OverflowError:
            raise ValueError(f"{value!r} does not fit Float32") from None
        return super().__new__(cls, rounded)

    def __repr__(self) -> str:
        return f"Float32({float.__repr__(self)})"

    def __str__(self) -> str:
        return float.__repr__(self)


class Char(str):
    """char: one Unicode code point; ``ValueError`` for any other length, and for a lone surrogate."""

    __slots__ = ()

    def __new__(cls, value: str) -> Self:
        if len(value) != 1 or "\ud800" <= value <= "\udfff":
            raise ValueError(f"a Char is one Unicode code point, not {str(value)!r}")
        return super().__new__(cls, value)

    def __repr__(self) -> str:
        return f"Char({str.__repr__(self)})"


class Symbol(str):
    """symbol: a word of ASCII characters; ``ValueError`` for anything else."""

    __slots__ = ()

    def __new__(cls, value: str = "") -> Self:
        if not value.isascii():
            raise ValueError(f"a Symbol is ASCII only, not {str(value)!r}")
        return super().__new__(cls, value)

    def __repr__(self) -> str:
        return f"Symbol({str.__repr__(self)})"


class _Decimal(bytes):
    """An IEEE 754 decimal as its bytes, big endian, not interpreted; ``ValueError`` for another length."""

    __slots__ = ()
    width: ClassVar[int] = 0

    def __new__(cls, value: bytes) -> Self:
        if not isinstance(value, bytes | bytearray | memoryview):
            raise TypeError(f"{cls.__name__} takes the {cls.width} bytes of its encoding, not {value!r}")
        self = super().__new__(cls, value)
        if len(self) != cls.width:
            raise ValueError(f"{cls.__name__} takes {cls.width} bytes, not {len(self)}")
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({bytes.__repr__(self)})"


class Decimal32(_Decimal):
    """decimal32: 4 bytes, not interpreted."""

    __slots__ = ()
    width = 4


class Decimal64(_Decimal):
    """decimal64: 8 bytes, not interpreted."""

    __slots__ = ()
    width = 8


class Decimal128(_Decimal):
    """decimal128: 16 bytes, not interpreted."""

    __slots__ = ()
    width = 16


class Array(list[Any]):
    """array: elements of one type.

    ``type_name`` is that type, one of :data:`TYPE_NAMES`; another name raises ``ValueError``. Elements may be any
    values that can be encoded as that type, such as plain numbers in ``Array([1, 2], "uint")``. They are checked when
    the array is encoded, and decode as the type's own class (``UInt``). For an array of described values,
    ``descriptors`` has their common descriptors, the outermost first, and the elements are the values without them.
    Compares as a list: only the elements count.
    """

    __slots__ = ("descriptors", "type_name")
    __hash__ = None

    def __init__(self, items: Iterable[Any] = (), type_name: str = "null", *, descriptors: Iterable[Any] = ()) -> None:
        if type_name not in TYPE_NAMES:
            raise ValueError(f"no such AMQP type: {type_name!r}")
        super().__init__(items)
        self.type_name = type_name
        self.descriptors: tuple[Any, ...] = tuple(descriptors)

    def __repr__(self) -> str:
        described = f", descriptors={self.descriptors!r}" if self.descriptors else ""
        return f"Array({list.__repr__(self)}, {self.type_name!r}{described})"


class Described:
    """A value with a descriptor, which says what it means. Two are equal if both parts are.

    Hashable if its parts are.
    """

    __slots__ = ("descriptor", "value")

    descriptor: Any
    """Usually a :class:`ULong` or a :class:`Symbol`."""
    value: Any

    def __init__(self, descriptor: Any, value: Any) -> None:
        object.__setattr__(self, "descriptor", descriptor)
        object.__setattr__(self, "value", value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Described value cannot be changed: {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a Described value cannot be changed: {name}")

    def __reduce__(self) -> tuple[type[Described], tuple[Any, Any]]:
        return Described, (self.descriptor, self.value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Described):
            return NotImplemented
        return bool(self.descriptor == other.descriptor and self.value == other.value)

    def __hash__(self) -> int:
        return hash((self.descriptor, self.value))

    def __repr__(self) -> str:
        return f"Described({self.descriptor!r}, {self.value!r})"
