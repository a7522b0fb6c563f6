"""What waits for one publisher of a sink."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rstream_core.errors import RstreamError
from rstream_core.flow.block import Block
from rstream_core.types import CompressionType


class LanePublisher(Protocol):
    """What a lane needs of ``Publisher``, which says what each of these does."""

    @property
    def stream(self) -> str: ...
    @property
    def error(self) -> RstreamError | None: ...
    @property
    def published(self) -> int: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def sent_again(self) -> int: ...
    async def publish(
        self,
        messages: Sequence[bytes],
        *,
        publishing_ids: Sequence[int] | None = None,
        filter_values: Sequence[str | None] | None = None,
        context: object = None,
        place: int = 0,
        most: int | None = None,
    ) -> Sequence[int]: ...
    async def publish_sub_entry(
        self,
        messages: Sequence[bytes],
        compression: CompressionType = CompressionType.No,
        *,
        publishing_id: int | None = None,
        context: object = None,
        place: int = 0,
    ) -> int: ...
    async def check(self) -> None: ...
    async def flush(self, timeout: float | None = None) -> None: ...


class Lane:
    """One of the streams of a sink: blocks that wait, in their order, for the stream's publisher."""

    def __init__(self) -> None:
        self.publisher: LanePublisher
        """Set once it is opened, and before the first block."""
        self._waiting: list[Block] = []

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return bool(self._waiting)

    def add(self, block: Block) -> None:
        """Puts a block behind those that wait."""
        self._waiting.append(block)

    def take(self) -> list[Block]:
        """Takes out all that waits: as one block for each run of blocks of the same source."""
        waiting, self._waiting = self._waiting, []
        if len(waiting) < 2:
            return waiting
        joined: list[Block] = []
        start = 0
        for at in range(1, len(waiting) + 1):
            if at == len(waiting) or waiting[at].ack is not waiting[start].ack:
                joined.append(waiting[start].join(waiting[start + 1 : at]))
                start = at
        return joined

    def put_back(self, blocks: Sequence[Block]) -> None:
        """Puts blocks before those that wait."""
        self._waiting[:0] = blocks
