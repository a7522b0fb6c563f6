"""Small values of the published client: raw messages, filters, what a handler of lost connections is told."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rstream_core.protocol.amqp import AMQPMessage as CoreMessage
from rstream_core.types import FilterConfiguration as CoreFilter

__all__ = ["AtomicInteger", "FilterConfiguration", "MonotonicSeq", "OnClosedErrorInfo", "RawMessage"]


class RawMessage(CoreMessage):
    """Bytes that are stored as they are, with a publishing id if there is one. Both can be set."""

    __slots__ = ("data",)

    def __init__(self, data: bytes, publishing_id: int | None = None) -> None:
        super().__init__(publishing_id=publishing_id)
        self.data = data

    def encode(self) -> bytes:
        return bytes(self.data)

    __bytes__ = encode

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RawMessage):
            return NotImplemented
        return (self.data, self.publishing_id) == (other.data, other.publishing_id)

    __hash__ = None

    def __repr__(self) -> str:
        return f"RawMessage(data={self.data!r:.200}, publishing_id={self.publishing_id})"


@dataclass
class OnClosedErrorInfo:
    """What an ``on_close_handler`` is told."""

    reason: str
    """``Connection Closed``; ``Metadata Update`` where a stream has moved or was deleted."""
    streams: list[str]


class FilterConfiguration:
    """Which messages a consumer wants. See the core's class of this name, whose attributes are methods here."""

    def __init__(
        self,
        values_to_filter: list[str],
        predicate: Callable[[Any], bool] | None = None,
        match_unfiltered: bool = False,
    ) -> None:
        self._values_to_filter = values_to_filter
        self._predicate = predicate
        self._match_unfiltered = match_unfiltered

    def values(self) -> list[str]:
        return self._values_to_filter

    def post_filler(self) -> Callable[[Any], bool] | None:
        """The predicate. (The name is spelled as the published client spells it.)"""
        return self._predicate

    def match_unfiltered(self) -> bool:
        return self._match_unfiltered


def checked_filter(given: FilterConfiguration | CoreFilter) -> CoreFilter:
    """The core's value. Raises ``ValueError`` without a filter value."""
    if isinstance(given, CoreFilter):
        return given
    if not given.values():
        raise ValueError("a FilterConfiguration has at least one filter value")
    return CoreFilter(given.values(), given.post_filler(), given.match_unfiltered())


class MonotonicSeq:
    """Numbers that grow by one, from 1 on."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def next(self) -> int:
        return next(self._numbers)

    def set(self, value: int) -> None:
        """The next number is this one."""
        self._numbers = itertools.count(value)

    def reset(self) -> None:
        self.set(1)


class AtomicInteger:
    """A number that several threads may count up and down."""

    def __init__(self, value: int = 0) -> None:
        self._value = int(value)
        self._lock = threading.Lock()

    def inc(self, d: int = 1) -> int:
        with self._lock:
            self._value += int(d)
            return self._value

    def dec(self, d: int = 1) -> int:
        return self.inc(-d)

    @property
    def value(self) -> int:
        with self._lock:
            return self._value

    def swap_value(self, v: int) -> int:
        """Sets the number, and returns it."""
        with self._lock:
            self._value = int(v)
            return self._value
