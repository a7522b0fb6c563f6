"""What ``info`` tells of a stream: gathered from the stream protocol and, where it can be asked, the management API.

The API is asked at the address that the user has given, else where it listens by default if something answers there.
Without it, less is told; it is never an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rstream_core.errors import RstreamError
from rstream_core.types import ConsumerOffsetSpecification, OffsetType, StreamMetadata, StreamStats

if TYPE_CHECKING:
    from rstream_cli.management.answers import ListedConsumer, ListedPublisher, ListedStream
    from rstream_cli.management.api import ManagementApi
    from rstream_cli.options.connecting import ConnectionSettings
    from rstream_core import Client

PROBE_TIMEOUT = 1.0
"""Seconds in which something must listen where the API is by default."""
API_TIMEOUT = 5.0
"""Seconds for all that is asked there."""
AGE_TIMEOUT = 2.0
"""Seconds for a chunk, of which only the time is wanted."""


@dataclass(frozen=True)
class Facts:
    """What the stream protocol tells of one stream; None where it is not known."""

    metadata: StreamMetadata
    stats: StreamStats
    last_offset: int | None

    @property
    def messages(self) -> int | None:
        """An estimate: offsets have gaps where the broker has records of its own."""
        if self.metadata.leader is None:
            return None
        if self.last_offset is None or self.stats.first_offset is None:
            return 0
        return max(self.last_offset - self.stats.first_offset + 1, 0)


@dataclass(frozen=True)
class Listed:
    """What the management API tells of streams. Readers and publishers are None where its plugin for them is off."""

    streams: Mapping[str, ListedStream] = field(default_factory=dict)
    consumers: list[ListedConsumer] | None = None
    publishers: list[ListedPublisher] | None = None

    def readers_of(self, stream: str) -> list[ListedConsumer] | None:
        """The subscriptions of a stream, by name; None where they are not known."""
        if self.consumers is None:
            return None
        return sorted((one for one in self.consumers if one.stream == stream), key=lambda one: one.name or "")

    def publishers_of(self, stream: str) -> list[ListedPublisher] | None:
        """The publishers of a stream, by name; None where they are not known."""
        if self.publishers is None:
            return None
        return sorted((one for one in self.publishers if one.stream == stream), key=lambda one: one.name or "")


async def facts_of(client: Client, stream: str) -> Facts:
    """Asks for the nodes and the first and last offsets of a stream; the offsets are unknown without a leader."""
    metadata = await client.metadata(stream)
    if metadata.leader is None:
        return Facts(metadata, StreamStats(None, None), None)
    return Facts(metadata, await client.stats(stream), await client.last_offset(stream))


async def times_of(client: Client, facts: Facts) -> tuple[int | None, int | None]:
    """When the first and the last chunk were written, in milliseconds since 1970; None where it is not known."""
    if not facts.messages:
        return None, None
    stream = facts.metadata.stream
    return await _time_of(client, stream, OffsetType.FIRST), await _time_of(client, stream, OffsetType.LAST)


async def _time_of(client: Client, stream: str, place: OffsetType) -> int | None:
    with suppress(RstreamError, TimeoutError):
        async with asyncio.timeout(AGE_TIMEOUT):
            async with await client.subscribe(stream, ConsumerOffsetSpecification(place), credit=1) as subscription:
                async for chunk in subscription:
                    return chunk.timestamp
    return None


async def listed_of(connection: ConnectionSettings, stream: str | None) -> Listed | None:
    """What the management API tells of a stream, or of all; None where it cannot be asked.

    Warns where the user has said where it is.
    """
    from rstream_cli.connection_settings import management_uri

    is_given = management_uri(connection.layers) is not None
    try:
        if not is_given and not await listens(connection):
            return None
        async with asyncio.timeout(API_TIMEOUT):
            with connection.management() as api:
                return await _ask(api, stream)
    except (RstreamError, TimeoutError) as error:
        if is_given:
            connection.warn(f"not told by the management API: {str(error) or 'it takes too long'}")
        return None


async def _ask(api: ManagementApi, stream: str | None) -> Listed:
    from rstream_cli.management.errors import ManagementUnavailable

    found = await api.streams() if stream is None else [await api.stream(stream)]
    streams = {each.name: each for each in found}
    try:
        return Listed(streams, await api.consumers(), await api.publishers())
    except ManagementUnavailable:
        return Listed(streams)


async def listens(connection: ConnectionSettings) -> bool:
    """Whether anything listens where the API is by default, and a password may go. It costs no import of HTTP."""
    from rstream_cli.management.address import default_addresses

    options = connection.options
    with suppress(RstreamError, OSError, UnicodeError):  # a label of a host's name may be too long
        address = default_addresses(options.endpoints, tls=options.tls is not None)[0]
        async with asyncio.timeout(PROBE_TIMEOUT):
            _, writer = await asyncio.open_connection(address.host, address.port)
        writer.transport.abort()
        return True
    return False


def record_of(facts: Facts, listed: Listed | None) -> dict[str, Any]:
    """The fields of ``--json``; null for what is not known."""
    metadata, stats = facts.metadata, facts.stats
    name = metadata.stream
    told = None if listed is None else listed.streams.get(name)
    readers = None if listed is None else listed.readers_of(name)
    publishers = None if listed is None else listed.publishers_of(name)
    return {
        "stream": name,
        "leader": None if metadata.leader is None else str(metadata.leader),
        "replicas": [str(replica) for replica in metadata.replicas],
        "first_offset": stats.first_offset,
        "committed_chunk_id": stats.committed_chunk_id,
        "committed_offset": stats.committed_offset,
        "last_offset": facts.last_offset,
        "messages": facts.messages,
        "arguments": None if told is None else dict(told.arguments),
        "policy": None if told is None else told.policy,
        "policy_arguments": None if told is None else dict(told.policy_arguments),
        "segments": None if told is None else told.segments,
        "replica_nodes": None if told is None else told.replicas,
        "online_nodes": None if told is None else told.online,
        "readers": None
        if readers is None
        else [{"name": one.name, "active": one.is_active, "connection": one.connection} for one in readers],
        "publishers": None
        if publishers is None
        else [{"name": one.name, "connection": one.connection} for one in publishers],
    }
