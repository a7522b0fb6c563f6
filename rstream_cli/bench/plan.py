"""What a process of a benchmark is told to do, as one object of JSON on its stdin."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rstream_cli.bench.payload import Size
from rstream_core.client import MAX_IN_FLIGHT
from rstream_core.consuming.credits import DEFAULT_CREDIT

DRAIN_TIMEOUT = 10.0
"""Seconds in which what is published must be confirmed at the end."""
SETTLE_TIMEOUT = 10.0
"""Seconds without a message, after which a consumer no longer waits for what was confirmed."""
MAX_LINE = 64 * 1024 * 1024
"""Bytes of a line between the processes: one may hold a body of ``payload.MAX_SIZE`` in base64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What both kinds of load are told."""

    run: int
    """Names the run, in the head of each message: 0 to ``payload.RUNS`` - 1."""
    warm_up: float
    """Seconds at the beginning that count for no rate and no latency."""
    duration: float | None
    """Seconds of the load behind the warm-up; None: until the messages are published, or consumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publishing(Part):
    """One process' producers. Each publishes to all ``streams``: one, or the partitions of a super stream."""

    streams: list[str]
    producers: list[int]
    """Their numbers, 0 to ``payload.PRODUCERS`` - 1."""
    size: Size
    batch: int
    """Messages that are published in one go."""
    rate: float | None = None
    """Messages a second of each producer; None: as fast as the broker confirms."""
    counts: list[int] | None = None
    """Messages of each producer; None: until the duration is over."""
    max_in_flight: int = MAX_IN_FLIGHT
    compression: str | None = None
    """The name of a ``CompressionType``: batches are sub-entries."""

    def count_of(self, producer: int) -> int | None:
        """How many messages a producer publishes; None: no fixed number."""
        return None if self.counts is None else self.counts[self.producers.index(producer)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Consuming(Part):
    """One process' consumers."""

    consumers: list[list[str]]
    """The streams of each."""
    credit: int = DEFAULT_CREDIT
    starts_at_end: bool = False
    """Whether to read only what is published from now on; otherwise from the first message on."""
    has_producers: bool = False
    """Whether others publish meanwhile, and ``ConsumeLoad.expect`` will be called."""
    size: Size | None = None
    """What the run's messages are like; None: they are somebody else's, and only offsets are checked."""
    expected: Mapping[str, int] = field(default_factory=dict)
    """How many messages of the run each stream holds, as far as that is known."""
    until: Mapping[str, int] = field(default_factory=dict)
    """The last offset to read of each stream, where offsets are checked."""
    count: int | None = None
    """Messages after which a consumer has done with a stream."""

    @property
    def reads_bodies(self) -> bool:
        """Whether bodies are enough to check messages."""
        return self.size is None or self.size.body is None


def to_json(part: Part) -> dict[str, Any]:
    """Returns an object of JSON that ``from_json`` takes."""
    told = asdict(part)
    size = told.get("size")
    if size is not None and size["body"] is not None:
        size["body"] = base64.b64encode(size["body"]).decode("ascii")
    return {"kind": type(part).__name__, **told}


def from_json(told: dict[str, Any]) -> Part:
    """Returns the part that ``to_json`` was given."""
    kind = told.pop("kind")
    size = told.get("size")
    if size is not None:
        body = None if size["body"] is None else base64.b64decode(size["body"])
        told["size"] = Size(size["least"], size["most"], body)
    return Publishing(**told) if kind == "Publishing" else Consuming(**told)
