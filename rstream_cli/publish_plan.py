"""What a run of ``publish`` is to do: the checked options, as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from rstream_cli.encoding import Encoder
from rstream_cli.input import BLOCK_SIZE
from rstream_cli.parsing import Rate
from rstream_cli.records.framing_in import RecordReader
from rstream_core import CompressionType, RouteType
from rstream_core.flow import gate
from rstream_core.flow.fitting import SUB_ENTRY_TARGET
from rstream_core.flow.stream_sink import Batching

_SHORT_MESSAGE = 20
"""Bytes: how much input ``--rate`` takes for a number of messages."""
_LEAST_BLOCK_SIZE = 512
_SLOW_BLOCK_SIZES = {"send": 16 * 1024, "wait": 4 * 1024}
"""The block sizes in bytes of the methods that publish message by message."""


@dataclass(frozen=True, slots=True)
class PublishPlan:
    """The checked options of a run."""

    stream: str
    """The stream; with ``routing`` the super stream."""
    encoder: Encoder
    reader: RecordReader | None
    """The framing of the sources; None: the records are ``inline``."""
    sources: Sequence[str] = ()
    inline: Sequence[bytes] = ()
    method: str = "batch"
    compression: CompressionType = CompressionType.No
    batch_size: int = 1000
    linger: float = 0.02
    name: str | None = None
    has_ids: bool = False
    """Whether the user chose the publishing ids (``--id-from``)."""
    ids_are_numbers: bool = False
    """Whether the publishing ids are the numbers of the records."""
    has_filters: bool = False
    """Whether the options set filter values, which older brokers do not support."""
    routing: RouteType | None = None
    is_dump: bool = False
    """Whether the sources are a dump: it says the ids, and the name under which it is published."""
    is_super_stream: bool = False
    """Whether a dump goes to the partitions of a super stream."""
    append: bool = False
    """Whether a dump may go into a stream that holds messages of others."""
    create: bool = False
    rate: Rate | None = None
    count: int | None = None
    max_in_flight: int = 50_000
    confirm_timeout: float = 30.0
    drain_timeout: float = 10.0
    skip_bad: bool = False
    failed_to: BinaryIO | None = None
    raw: bool = False
    input_size: int | None = None

    @property
    def sub_entries(self) -> CompressionType | None:
        """The compression of sub-entries; None where none are published."""
        return self.compression if self.method == "sub-entry" else None

    @property
    def batching(self) -> Batching:
        """How messages are gathered: with ``--rate``, in no larger batches than the gate lets through at a time."""
        rate = self.rate
        messages = 1 if self.method in ("send", "wait") else self.batch_size
        enough = None
        if rate is not None and rate.messages_per_second is not None:
            messages = min(messages, max(int(rate.messages_per_second / gate.SLICES), 1))
        if rate is not None and rate.bytes_per_second is not None:
            enough = rate.bytes_per_second / gate.SLICES
        return Batching(
            messages=messages,
            size=None if self.sub_entries is None else SUB_ENTRY_TARGET,
            enough=enough,
            linger=self.linger,
            sub_entries=self.sub_entries,
            confirm_each=self.method == "wait",
        )

    @property
    def input_settings(self) -> dict[str, int]:
        """Settings for reading ahead: little for slow methods, so that little is left after a signal."""
        block_size = _SLOW_BLOCK_SIZES.get(self.method, BLOCK_SIZE)
        rate = self.rate
        if rate is not None:
            per_second = rate.bytes_per_second or (rate.messages_per_second or 1.0) * _SHORT_MESSAGE
            block_size = min(block_size, max(int(per_second / 10), _LEAST_BLOCK_SIZE))
        return {} if block_size == BLOCK_SIZE else {"block_size": block_size, "ahead": 1}
