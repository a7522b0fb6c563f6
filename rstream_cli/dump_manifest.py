"""Asks what the manifest of a dump says of its streams.

The stream protocol tells no arguments, and lists no stored offsets: the management API is asked for them where it can
be, as ``stream info`` asks it. Without it, the dump says that they are not known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rstream_cli.stream_facts import API_TIMEOUT, listens
from rstream_cli.version import program_version
from rstream_core.dump.manifest import DumpedStream, Manifest, new_id
from rstream_core.errors import RouteNotFound, RstreamError

if TYPE_CHECKING:
    from rstream_cli.options.connecting import ConnectionSettings
    from rstream_core import Client


async def manifest_of(
    client: Client,
    connection: ConnectionSettings,
    streams: Sequence[str],
    super_stream: str | None,
    selection: Mapping[str, object],
) -> Manifest:
    """Returns the manifest of a dump of these streams, which are the partitions of the super stream, if any."""
    told = await _listed(connection, streams)
    found = []
    for name in streams:
        arguments, offsets = told.get(name, (None, None))
        binding = None if super_stream is None else await _binding(client, super_stream, name)
        found.append(DumpedStream(name, binding, arguments, offsets))
    return Manifest(
        id=new_id(),
        cluster=await client.cluster_name(),
        vhost=client.options.vhost,
        streams=tuple(found),
        super_stream=super_stream,
        selection={key: value for key, value in selection.items() if isinstance(value, str | list | bool)},
        made_by=f"rstream {program_version()}",
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


async def _binding(client: Client, super_stream: str, partition: str) -> str | None:
    """Returns the key of a partition that is named after it, as brokers do, once the broker says so."""
    key = partition.removeprefix(f"{super_stream}-")
    with suppress(RouteNotFound):
        if key != partition and partition in await client.route(super_stream, key):
            return key
    return None


_Told = tuple[Mapping[str, str | int | bool] | None, Mapping[str, int] | None]


async def _listed(connection: ConnectionSettings, streams: Sequence[str]) -> Mapping[str, _Told]:
    """Returns the arguments and the stored offsets of the streams, as far as the management API tells them in time."""
    from rstream_cli.connection_settings import management_uri

    is_given = management_uri(connection.layers) is not None
    found: dict[str, _Told] = {}
    try:
        if not is_given and not await listens(connection):
            return found
        async with asyncio.timeout(API_TIMEOUT):
            with connection.management() as api:
                for name in streams:
                    arguments = {
                        key: value
                        for key, value in (await api.stream(name)).arguments.items()
                        if not isinstance(value, float)
                    }
                    found[name] = arguments, None
                    with suppress(RstreamError):
                        found[name] = arguments, dict((await api.tracking(name)).offsets)
    except (RstreamError, TimeoutError) as error:
        if is_given:
            connection.warn(f"not told by the management API: {str(error) or 'it takes too long'}")
    return found
