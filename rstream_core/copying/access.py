"""What a copy asks of its two clients. ``Client`` lies above this, and hands itself in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from rstream_core.errors import RstreamError
from rstream_core.flow.access import StreamAccess
from rstream_core.publishing.in_flight import Outcome
from rstream_core.publishing.publisher import Publisher
from rstream_core.types import ConnectionOptions, StreamMetadata


class CopyAccess(StreamAccess, Protocol):
    """A client, as a copy sees it. The methods, their errors and their cancellation are those of ``Client``."""

    @property
    def options(self) -> ConnectionOptions: ...

    async def cluster_name(self) -> str: ...

    async def metadata(self, stream: str) -> StreamMetadata: ...

    async def route(self, super_stream: str, routing_key: str) -> list[str]: ...

    async def query_publishing_id(self, stream: str, reference: str) -> int: ...

    async def publisher(
        self,
        stream: str,
        reference: str | None = None,
        *,
        listener: Callable[[Outcome], None] | None = None,
        on_end: Callable[[RstreamError], None] | None = None,
        max_in_flight: int = ...,
        max_in_flight_bytes: int = ...,
        confirm_timeout: float | None = ...,
    ) -> Publisher: ...
