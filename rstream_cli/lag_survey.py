"""Asks a broker how far consumers are behind, once for each refresh, and remembers what does not change.

A refresh asks for the stored offsets of a stream by one request for a name (pipelined), or by one of the management API
for all names; reads the stream's last chunk; asks where the stream begins, if somebody is behind; and reads one chunk
for each place that a stored offset leads to and that is in no chunk known already. So a refresh of consumers that stand
still, or that read the last chunk, takes one subscription a stream, however many names there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from rstream_cli.exit_status import CommandError, ExitStatus, first_error
from rstream_cli.kinds import find_streams
from rstream_cli.lags import Lag, Lags, Place, Places, Unknown, begins_at, following, lag_of, rows_of
from rstream_cli.management.errors import ManagementUnavailable
from rstream_cli.names import Kind
from rstream_core import (
    AccessRefused,
    ChunkSpan,
    Client,
    ConnectionClosed,
    ConnectionFailed,
    ConsumerOffsetSpecification,
    CredentialsFailed,
    LeaderNotAvailable,
    OffsetNotFound,
    OffsetType,
    RequestTimeout,
    RstreamError,
    ServerError,
    StreamDoesNotExist,
    StreamNotAvailable,
)

if TYPE_CHECKING:
    from rstream_cli.management.answers import ListedConsumer
    from rstream_cli.management.api import ManagementApi

STREAMS_AT_ONCE = 16
"""Streams that are asked at the same time."""
QUERIES_AT_ONCE = 64
"""Queries for stored offsets that wait for their answers at the same time."""
READS_AT_ONCE = 8
"""Chunks that are read at the same time."""
REMEMBERED_FOR = 600.0
"""Seconds after which a place is read again: the stream may have been deleted and made anew under its name."""

T = TypeVar("T")
R = TypeVar("R")

_WITHOUT_LEADER = (LeaderNotAvailable, StreamNotAvailable)
_OF_ONE_STREAM = (AccessRefused, RequestTimeout, StreamDoesNotExist, *_WITHOUT_LEADER)
"""Errors that say nothing about other streams."""
_OF_ALL = (CredentialsFailed, ManagementUnavailable)
"""Errors of connecting that are no other for the next stream."""
_LAST = ConsumerOffsetSpecification(OffsetType.LAST)


class _Seen(NamedTuple):
    """What was asked of one stream at first."""

    stored: Mapping[str, int]
    end: ChunkSpan | None


class LagSurvey:
    """The lags in one stream or super stream. For one refresh at a time.

    ``names``: those that are asked for by the stream protocol; empty for all that ``api`` knows.
    """

    def __init__(
        self,
        client: Client,
        target: str,
        names: Sequence[str],
        api: ManagementApi | None,
        now: Callable[[], float],
    ) -> None:
        if bool(names) == (api is not None):
            raise ValueError("either names or the management API")
        self._client = client
        self._target = target
        self._names = names
        self._api = api
        self._now = now
        self._queries = asyncio.Semaphore(QUERIES_AT_ONCE)
        self._reads = asyncio.Semaphore(READS_AT_ONCE)
        self._remembered: dict[str, dict[Place, float]] = {}
        """By stream, the places that the last refresh has used, and when each was read: seconds since 1970."""
        self._leaderless: set[str] = set()
        """The streams that the last refresh has found without a leader."""
        self._is_impatient = False
        """Whether this refresh has waited for a leader in vain."""

    async def refresh(self) -> Lags:
        """Asks for all lags now.

        A stream that cannot be asked is among the unknown ones, also where its node alone cannot be reached. Where none
        can be asked, raises the error of the first; and at once one that is about more than a stream:
        ``ManagementUnavailable``, ``AuthenticationFailure``, or ``ConnectionFailed`` where no node answers. Raises
        ``StreamDoesNotExist`` where there is neither stream nor super stream. May be cancelled.
        """
        self._is_impatient = False
        super_stream, streams = await find_streams(self._client, [self._target], Kind.EITHER)
        unknown: list[Unknown] = []
        seen = await self._of_each(streams, self._see, unknown)
        stored = {stream: each.stored for stream, each in seen.items()}
        asked: dict[str, dict[str, int | None]] = {stream: {} for stream in seen}
        for stream, name, offset in rows_of(stored, self._names or None):
            asked[stream][name] = offset

        at = self._now()

        async def lags(stream: str) -> list[Lag]:
            return await self._lags(stream, asked[stream], seen[stream].end, at)

        found = await self._of_each(seen, lags, unknown)
        self._leaderless = {each.stream for each in unknown if isinstance(each.error, _WITHOUT_LEADER)}
        if unknown and not found:
            raise unknown[0].error
        self._remembered = {stream: kept for stream, kept in self._remembered.items() if stream in found}
        known = sorted((lag for each in found.values() for lag in each), key=lambda lag: lag.rank)
        ends = {stream: end.last for stream in found if (end := seen[stream].end) is not None}
        return Lags(self._target, super_stream, streams, at, known, unknown, ends)

    async def others(self, lags: Lags) -> list[ListedConsumer]:
        """Consumers that have no stored offset under their name, as the management API tells; none without it."""
        if self._api is None:
            return []
        stored = {(lag.stream, lag.name) for lag in lags.known if lag.stored is not None}
        found = [one for one in await self._api.consumers() if one.stream in lags.streams]
        return [one for one in found if (one.stream, one.name) not in stored]

    async def _of_each(
        self, streams: Collection[str], ask: Callable[[str], Awaitable[T]], unknown: list[Unknown]
    ) -> dict[str, T]:
        """The answers of the streams that can be asked; the others are added to ``unknown``."""
        room = asyncio.Semaphore(STREAMS_AT_ONCE)

        async def one(stream: str) -> T | Unknown:
            async with room:
                try:
                    return await ask(stream)
                except RstreamError as error:
                    if not await self._is_of_one_stream(stream, error):
                        raise
                    self._is_impatient = self._is_impatient or isinstance(error, _WITHOUT_LEADER)
                    return Unknown(stream, error)

        answers = dict(zip(streams, await _all(one, streams), strict=True))
        unknown += [answer for answer in answers.values() if isinstance(answer, Unknown)]
        return {stream: answer for stream, answer in answers.items() if not isinstance(answer, Unknown)}

    async def _is_of_one_stream(self, stream: str, error: RstreamError) -> bool:
        """Whether an error says nothing about other streams.

        A lost or refused connection does not, where the broker still tells where the stream is: it was to another node.
        Raises the error of that question.
        """
        if isinstance(error, (ConnectionFailed, ConnectionClosed)) and not isinstance(error, _OF_ALL):
            with suppress(*_OF_ONE_STREAM):
                await self._client.metadata(stream)
            return True
        return isinstance(error, _OF_ONE_STREAM) or (isinstance(error, ServerError) and error.is_fault)

    async def _check_leader(self, stream: str) -> None:
        """Raises an error for a stream without a leader, at once: other questions wait some seconds for one.

        A place among those that are asked at the same time is not to be taken by many such streams, one after another.
        """
        if (await self._client.metadata(stream)).leader is None:
            raise LeaderNotAvailable(f"stream {stream!r} has no leader at the moment")

    async def _see(self, stream: str) -> _Seen:
        if self._is_impatient or stream in self._leaderless:
            await self._check_leader(stream)
        stored = await self._stored(stream)  # before the end: a consumer may store while it is asked for
        return _Seen(stored, await self._client.chunk_span(stream, _LAST))

    async def _stored(self, stream: str) -> Mapping[str, int]:
        """The stored offsets of a stream, by name."""
        if self._api is not None:
            return (await self._api.tracking(stream)).offsets

        async def query(name: str) -> int | None:
            async with self._queries:
                try:
                    return await self._client.query_offset(stream, name)
                except OffsetNotFound:
                    return None

        offsets = zip(self._names, await _all(query, self._names), strict=True)
        return {name: offset for name, offset in offsets if offset is not None}

    async def _lags(self, stream: str, stored: Mapping[str, int | None], end: ChunkSpan | None, at: float) -> list[Lag]:
        behind = [offset for offset in stored.values() if end is not None and following(offset) <= end.last]
        first, places = 0, Places(())
        if behind:
            assert end is not None
            first = await self._first(stream, min(map(following, behind)))
            places = await self._places(stream, {begins_at(offset, first) for offset in behind}, end, at)
        else:
            self._remembered.pop(stream, None)
        return [lag_of(stream, name, offset, end, first, places, at) for name, offset in stored.items()]

    async def _first(self, stream: str, offset: int) -> int:
        """Where the stream begins, if that is behind ``offset``, else 0."""
        gap = await self._client.find_gap(stream, offset)
        return 0 if gap is None else gap.last + 1

    async def _places(self, stream: str, offsets: Iterable[int], end: ChunkSpan, at: float) -> Places:
        """Where the first messages from these offsets on lie: in the last chunk, remembered, or read now."""
        remembered = {
            place: read_at
            for place, read_at in self._remembered.get(stream, {}).items()
            if place.span.last <= end.last and at - read_at < REMEMBERED_FOR
        }
        known = Places([*remembered, Place(end.first, end)])
        found = {offset: known.find(offset) for offset in offsets}

        async def read(offset: int) -> Place | None:
            spec = ConsumerOffsetSpecification(OffsetType.OFFSET, offset)
            async with self._reads:
                span = await self._client.chunk_span(stream, spec)
            return None if span is None else Place(offset, span)

        places = [place for place in await _all(read, [key for key, place in found.items() if place is None]) if place]
        used = {place for place in found.values() if place in remembered}
        self._remembered[stream] = {place: remembered.get(place, at) for place in (*used, *places)}
        return Places([*used, *places, Place(end.first, end)])


def check_names(lags: Lags, names: Sequence[str]) -> None:
    """Raises an error for a name of which no offset is stored anywhere; not where a stream could not be asked."""
    if lags.unknown:
        return
    known = {lag.name for lag in lags.known if lag.stored is not None}
    missing = next((name for name in names if name not in known), None)
    if missing is not None:
        kind = "stream" if lags.super_stream is None else "any partition of super stream"
        raise CommandError(
            f"no offset is stored as {missing!r} in {kind} {lags.target!r}",
            hint="`rstream offset list` tells the names, where the management API can be asked",
            status=ExitStatus.NOT_FOUND,
        )


async def _all(ask: Callable[[R], Awaitable[T]], things: Iterable[R]) -> list[T]:
    """The answers, in order. An error cancels the others, and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_awaited(ask, thing)) for thing in things]
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None
    return [task.result() for task in tasks]


async def _awaited(ask: Callable[[R], Awaitable[T]], thing: R) -> T:
    return await ask(thing)
