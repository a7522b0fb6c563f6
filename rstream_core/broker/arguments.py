"""Parses a stream's arguments: knows, accepts and refuses the same ones as RabbitMQ."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple, Self

from rstream_core.broker.log import SEGMENT_SIZE
from rstream_core.broker.refusal import PRECONDITION_FAILED, Refused

MAX_SEGMENT_SIZE = 3_000_000_000
FILTER_SIZES = range(16, 256)
_LOCATORS = ("client-local", "balanced", "least-leaders", "random")
_UNITS = {"Y": 31_536_000, "M": 2_592_000, "D": 86_400, "h": 3_600, "m": 60, "s": 1}


class Arguments(NamedTuple):
    """The known arguments of a stream; None for one that was not given. Streams with equal ones count as the same."""

    max_age: int | None = None
    """Seconds."""
    max_length_bytes: int | None = None
    max_segment_size: int | None = None
    filter_size: int | None = None
    initial_cluster_size: int | None = None
    leader_locator: str | None = None

    @classmethod
    def parse(cls, given: Mapping[str, str]) -> Self:
        """Raises ``Refused`` for a wrong value. Unknown arguments are ignored, as in RabbitMQ."""
        segment_size = _number(given, "stream-max-segment-size-bytes")
        filter_size = _number(given, "stream-filter-size-bytes")
        cluster_size = _number(given, "initial-cluster-size")
        locator = given.get("queue-leader-locator")
        if segment_size is not None and segment_size > MAX_SEGMENT_SIZE:
            raise Refused(PRECONDITION_FAILED, f"a segment has at most {MAX_SEGMENT_SIZE} bytes")
        if filter_size is not None and filter_size not in FILTER_SIZES:
            raise Refused(PRECONDITION_FAILED, "a filter has 16 to 255 bytes")
        if cluster_size is not None and cluster_size < 1:
            raise Refused(PRECONDITION_FAILED, "a stream has at least one replica")
        if locator is not None and locator not in _LOCATORS:
            raise Refused(PRECONDITION_FAILED, f"unknown leader locator {locator!r}")
        return cls(
            _seconds(given.get("max-age")),
            _number(given, "max-length-bytes"),
            segment_size,
            filter_size,
            cluster_size,
            locator,
        )

    @property
    def segment_size(self) -> int:
        return SEGMENT_SIZE if self.max_segment_size is None else max(self.max_segment_size, 1)


def _number(given: Mapping[str, str], key: str) -> int | None:
    text = given.get(key)
    if text is None:
        return None
    if not re.fullmatch(r"[+-]?[0-9]{1,20}", text):  # RabbitMQ ends the connection
        raise Refused(PRECONDITION_FAILED, f"{key} is a number, not {text!r}")
    return int(text)


def _seconds(text: str | None) -> int | None:
    """Returns the seconds of a text such as ``7D``; None for any other text, as in RabbitMQ."""
    match = re.fullmatch(r"([0-9]{1,10})([YMDhms])", text or "")
    return int(match[1]) * _UNITS[match[2]] if match else None
