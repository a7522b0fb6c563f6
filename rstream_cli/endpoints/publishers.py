"""The publishers of a run of ``publish``: one of a stream, or one for each partition of a super stream."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.publish_plan import PublishPlan
from rstream_core import Client, Publisher
from rstream_core.client import MAX_IN_FLIGHT_BYTES
from rstream_core.flow.stream_sink import Listener, OnEnd, StreamSink

if TYPE_CHECKING:
    from rstream_core import Router
    from rstream_core.dump.manifest import Manifest

_LEAST_IN_FLIGHT_BYTES = 256 * 1024
"""The least ``max_in_flight_bytes`` of a partition, however many partitions there are."""


class Opened(NamedTuple):
    """What a plan publishes to."""

    publishers: Sequence[Publisher]
    """In the order of the sink's lanes."""
    router: Router | None
    """Of a super stream; its partitions have the order of the lanes."""


async def open_publishers(client: Client, plan: PublishPlan, sink: StreamSink) -> Opened:
    """Opens the publishers as lanes of the sink, and creates the stream where the plan says so.

    Raises ``RstreamError``, and may be cancelled; ``client.close`` then closes what was opened.
    """
    streams: Sequence[str] = [plan.stream]
    router: Router | None = None
    if plan.routing is not None:
        from rstream_core import Router

        router = await Router.open(client, plan.stream)
        streams = router.partitions
    elif plan.create and not await client.stream_exists(plan.stream):
        await client.create_stream(plan.stream, exists_ok=True)
    return Opened([await _open(client, plan, sink, stream, len(streams)) for stream in streams], router)


async def open_for_dump(client: Client, plan: PublishPlan, sink: StreamSink, manifest: Manifest | None) -> Opened:
    """Opens a lane for each stream of a dump, in their order; segments, which have no manifest, are of one stream.

    Raises ``CommandError`` where the target has not as many streams, or has messages that are not from this dump; and
    what ``open_publishers`` raises.
    """
    number = 1 if manifest is None else len(manifest.streams)
    streams: Sequence[str] = [plan.stream]
    if plan.is_super_stream:
        streams = await client.partitions(plan.stream)
        if len(streams) != number:
            text = f"the dump is of {number} partitions, and {plan.stream!r} has {len(streams)}"
            raise CommandError(text, status=ExitStatus.PRECONDITION)
        if manifest is not None:
            await _check_keys(client, plan.stream, streams, manifest)
    elif number > 1:
        raise CommandError(
            f"the dump is of a super stream with {number} partitions",
            hint="create a super stream with as many, and use `rstream superstream publish`",
        )
    elif plan.create and not await client.stream_exists(plan.stream):
        known = None if manifest is None else manifest.streams[0].arguments
        await client.create_stream(
            plan.stream, {key: str(value) for key, value in (known or {}).items()}, exists_ok=True
        )
    publishers = [await _open(client, plan, sink, stream, len(streams)) for stream in streams]
    if not plan.append:
        for publisher in publishers:
            if not publisher.known_publishing_id and await client.last_offset(publisher.stream) is not None:
                raise CommandError(
                    f"stream {publisher.stream!r} holds messages that are not from this dump",
                    hint="--append publishes behind them",
                    status=ExitStatus.PRECONDITION,
                )
    return Opened(publishers, None)


async def _check_keys(client: Client, target: str, partitions: Sequence[str], manifest: Manifest) -> None:
    """Raises ``CommandError`` where a key of the dump is bound to another partition than the one at the same place: its
    messages would be where nobody looks for them. A key that the target does not have is no mistake."""
    for partition, dumped in zip(partitions, manifest.streams, strict=True):
        bound = [] if dumped.binding is None else await client.route(target, dumped.binding)
        if bound and partition not in bound:
            raise CommandError(
                f"routing key {dumped.binding!r} of the dump is bound to {bound[0]!r} in {target!r}, and the partition"
                f" at its place is {partition!r}",
                hint=f"create the super stream with the partitions of {manifest.super_stream!r} in the same order",
                status=ExitStatus.PRECONDITION,
            )


async def _open(client: Client, plan: PublishPlan, sink: StreamSink, stream: str, number: int) -> Publisher:
    """Opens one of so many publishers, which share what may be in flight."""

    def make(listener: Listener, on_end: OnEnd) -> Awaitable[Publisher]:
        return client.publisher(
            stream,
            plan.name,
            listener=listener,
            on_end=on_end,
            max_in_flight=max(plan.max_in_flight // number, 1),
            max_in_flight_bytes=max(MAX_IN_FLIGHT_BYTES // number, _LEAST_IN_FLIGHT_BYTES),
            confirm_timeout=plan.confirm_timeout,
        )

    publisher = await sink.open(make)
    if plan.has_filters:
        publisher.require_filters()
    return publisher
