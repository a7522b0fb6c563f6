"""The requests that create, delete and describe streams and super streams, as functions over a locator.

Each checks its arguments first: ``TypeError`` or ``ConfigurationError`` before the broker is asked. Questions are asked
again after a lost connection; a request that changes something is sent once, and may have been carried out where the
call was cancelled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rstream_core.checks import MAX_NAME, check_name, check_properties, check_text, check_texts, check_whole
from rstream_core.connecting.connection import Connection
from rstream_core.connecting.locator import Locator
from rstream_core.consuming.offsets import stats_of
from rstream_core.errors import (
    ConfigurationError,
    PreconditionFailed,
    ProtocolError,
    StreamAlreadyExists,
    StreamDoesNotExist,
    SuperStreamSubject,
)
from rstream_core.protocol import commands as c
from rstream_core.protocol.routing import MAX_PARTITIONS, partitions_by_keys, partitions_by_number
from rstream_core.types import StreamStats

_NUMBERS = frozenset(
    {"max-length-bytes", "stream-max-segment-size-bytes", "initial-cluster-size", "stream-filter-size-bytes"}
)
"""The arguments of streams that brokers read as numbers."""


async def require(locator: Locator, key: c.Key, since: str, feature: str, *, version: int = 1) -> None:
    """Raises ``UnsupportedByBroker`` unless the broker knows a command. ``since``: the RabbitMQ release with it."""
    (await locator.again(locator.connection)).session.require(key, since, feature, version)


# Streams.


async def create_stream(
    locator: Locator, stream: str, arguments: Mapping[str, object] | None, *, exists_ok: bool
) -> None:
    """See ``Client.create_stream``."""
    check_name("stream", stream)
    message = c.Create(stream, stream_arguments(arguments))
    try:
        await locator.command(message, f"stream {stream!r}")
    except StreamAlreadyExists:
        if not exists_ok:
            raise


async def delete_stream(locator: Locator, stream: str, *, missing_ok: bool) -> None:
    """See ``Client.delete_stream``."""
    check_name("stream", stream)
    try:
        await locator.command(c.Delete(stream), f"stream {stream!r}")
    except StreamDoesNotExist:
        if not missing_ok:
            raise


async def stream_stats(locator: Locator, stream: str) -> StreamStats:
    """See ``Client.stats``."""
    check_name("stream", stream)
    await require(locator, c.Key.STREAM_STATS, "3.11", "reading a stream's statistics")
    return stats_of((await locator.ask(c.StreamStats(stream), f"stream {stream!r}")).stats)


def stream_arguments(arguments: Mapping[str, object] | None) -> dict[str, str]:
    """Returns stream arguments with their values as strings, which they are on the wire."""
    if not isinstance(arguments, Mapping | None):
        raise TypeError(f"arguments are a mapping, not {arguments!r:.80}")
    told: dict[str, str] = {}
    for key, value in (arguments or {}).items():
        if not isinstance(value, str | int | float):
            raise TypeError(f"arguments[{key!r:.80}] is a str or a number, not {value!r:.80}")
        told[key] = str(value).lower() if isinstance(value, bool) else str(value)
        if key in _NUMBERS and not (told[key].isascii() and told[key].isdigit()):  # RabbitMQ would hang up
            raise ConfigurationError(f"arguments[{key!r}] is a whole number, without a unit, not {told[key]!r:.80}")
    check_properties("arguments", told)
    return told


# Super streams.


async def create_super_stream(
    locator: Locator,
    super_stream: str,
    partitions: int | None,
    routing_keys: Sequence[str] | None,
    arguments: Mapping[str, object] | None,
    *,
    exists_ok: bool,
) -> list[str]:
    """See ``Client.create_super_stream``. Returns the names of the partitions."""
    check_name("super_stream", super_stream)
    names, keys = names_and_keys(super_stream, partitions, routing_keys)
    told = stream_arguments(arguments)
    await require(locator, c.Key.CREATE_SUPER_STREAM, "3.13", "creating a super stream")
    what = SuperStreamSubject(super_stream)
    try:
        await locator.command(c.CreateSuperStream(super_stream, names, keys, told), what)
    except StreamAlreadyExists:
        if not exists_ok:
            raise
        if sorted(await partitions_of(locator, super_stream)) != sorted(names):
            raise PreconditionFailed(f"{what} exists with other partitions") from None
    return names


def names_and_keys(
    super_stream: str, partitions: int | None, routing_keys: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """Returns the names of a new super stream's partitions and the routing key of each.

    One of the two arguments is given; else raises ``ConfigurationError``.
    """
    if partitions is not None and routing_keys is None:
        names, keys = partitions_by_number(super_stream, check_whole("partitions", partitions, 1, MAX_PARTITIONS))
    elif routing_keys is not None and partitions is None:
        check_texts("routing_keys", routing_keys)
        names, keys = partitions_by_keys(super_stream, routing_keys)
    else:
        what = "neither" if partitions is None else "both"
        raise ConfigurationError(
            f"pass partitions (n_partitions) or routing_keys (binding_keys), one a partition; {what} was given"
        )
    for name in names:
        check_name("the name of a partition", name)
    return names, keys


async def delete_super_stream(locator: Locator, super_stream: str, *, missing_ok: bool) -> None:
    """See ``Client.delete_super_stream``."""
    check_name("super_stream", super_stream)
    await require(locator, c.Key.DELETE_SUPER_STREAM, "3.13", "deleting a super stream")
    try:
        await locator.command(c.DeleteSuperStream(super_stream), SuperStreamSubject(super_stream))
    except StreamDoesNotExist:
        if not missing_ok:
            raise


async def partitions_of(locator: Locator, super_stream: str) -> list[str]:
    """See ``Client.partitions``."""
    check_name("super_stream", super_stream)
    await require(locator, c.Key.PARTITIONS, "3.11", "super streams")
    what = SuperStreamSubject(super_stream)
    streams = await _ask_for_streams(locator, c.Partitions(super_stream), what)
    if not streams:
        raise StreamDoesNotExist(f"{what} has no partitions")
    return streams


async def route(locator: Locator, super_stream: str, routing_key: str) -> list[str]:
    """See ``Client.route``."""
    check_name("super_stream", super_stream)
    check_text("routing_key", routing_key)
    await require(locator, c.Key.ROUTE, "3.11", "super streams")
    return await _ask_for_streams(locator, c.Route(routing_key, super_stream), SuperStreamSubject(super_stream))


async def _ask_for_streams(
    locator: Locator, message: c.Request[c.PartitionsResponse | c.RouteResponse], what: str
) -> list[str]:
    """Returns the streams in the broker's answer. Raises ``ProtocolError`` for a name that no stream can have."""

    async def ask(connection: Connection) -> list[str]:
        streams = (await connection.request(message, what)).streams
        for stream in streams:
            if not 0 < len(stream.encode()) <= MAX_NAME:
                raise ProtocolError(f"{what}: {connection.endpoint} names a stream that cannot exist: {stream!r:.80}")
        return list(streams)

    return await locator.use(ask)
