"""What a source of streams asks of a client. ``Client`` lies above the flow, and hands itself in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rstream_core.consuming.gaps import Gap
from rstream_core.consuming.subscription import SingleActiveConsumer, Subscription
from rstream_core.types import ConsumerOffsetSpecification, StreamStats


class StreamAccess(Protocol):
    """A client, as a source sees it. The methods, their errors and their cancellation are those of ``Client``."""

    async def last_offset(self, stream: str) -> int | None: ...

    async def tail_offset(self, stream: str, count: int) -> int | None: ...

    async def resolve_offset(self, stream: str, spec: ConsumerOffsetSpecification) -> int: ...

    async def find_gap(self, stream: str, offset: int) -> Gap | None: ...

    async def stats(self, stream: str) -> StreamStats: ...

    async def partitions(self, super_stream: str) -> list[str]: ...

    async def query_offset(self, stream: str, reference: str) -> int: ...

    async def store_offset(
        self, stream: str, reference: str, offset: int, *, verify_timeout: float | None = None
    ) -> None: ...

    async def subscribe(
        self,
        stream: str,
        spec: ConsumerOffsetSpecification,
        *,
        credit: int,
        filter_values: Sequence[str],
        match_unfiltered: bool,
        single_active: SingleActiveConsumer | None,
        at_leader: bool,
        fail_on_gap: bool,
    ) -> Subscription: ...
