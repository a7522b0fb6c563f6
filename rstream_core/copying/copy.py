"""Copies a stream, or all partitions of a super stream: each by a run of its own.

Nothing is published before all of them are looked at: a copy that must be refused leaves no harm behind. Where one of
them fails, the others stop, and confirm what they have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from rstream_core.callbacks import own_task
from rstream_core.copying.access import CopyAccess
from rstream_core.copying.looking import Looking
from rstream_core.copying.names import Place
from rstream_core.copying.plan import CopyPlan
from rstream_core.copying.resuming import refuse_same
from rstream_core.copying.stream_copy import CopyEvents, StreamCopy, Surroundings
from rstream_core.errors import CopyRefused, LeaderNotAvailable
from rstream_core.flow.stages import Stop
from rstream_core.hints import Hint

DRAIN = 10.0
"""Seconds in which the other streams may confirm what they have, where one fails."""


class Copy:
    """One copy. ``open`` and ``work`` are called once, ``close`` at the end in any case. For one event loop."""

    def __init__(
        self, source: CopyAccess, target: CopyAccess, plan: CopyPlan, events: CopyEvents, surroundings: Surroundings
    ) -> None:
        """``source`` and ``target`` may be the same client."""
        self.copies: Sequence[StreamCopy] = ()
        """The copy of each stream, in the order of the source's partitions; set by ``open``."""
        self._from = source
        self._to = target
        self._plan = plan
        self._events = events
        self._surroundings = surroundings
        self._why: tuple[Stop, float | None] | None = None

    async def open(self) -> None:
        """Finds the streams, looks how far each is copied, decides where to begin, and opens both sides.

        Raises ``CopyRefused`` before anything is changed, the errors of ``Client.subscribe`` and ``Client.publisher``,
        and ``OffsetsGone``. May be cancelled.
        """
        pairs = await self._pairs()
        for source, targets in pairs:
            for target in targets:
                refuse_same(source, target)
        looks = [Looking(self._plan, self._from, self._to, pair) for pair in pairs]
        for looking in looks:
            await looking.find()
        begun = {
            place.stream
            for looking in looks
            for place, last_id in zip(looking.targets, looking.last_ids, strict=True)
            if last_id
        }
        for looking in looks:
            await looking.decide([place.stream in begun for place in looking.targets])
        surroundings = replace(self._surroundings, publishers=sum(len(targets) for _, targets in pairs))
        copies = self.copies = [
            StreamCopy(self._plan, self._from, self._to, looking, self._events, surroundings) for looking in looks
        ]
        for copy in copies:
            await copy.begin()

    async def _pairs(self) -> list[tuple[Place, list[Place]]]:
        """Returns each stream of the source, with the streams that it is copied to."""
        plan = self._plan
        names = await self._from.partitions(plan.source) if plan.is_super else [plan.source]
        onto = await self._to.partitions(plan.target) if plan.to_super else [plan.target]
        sources = [await _place_of(self._from, name) for name in names]
        targets = [await _place_of(self._to, name) for name in onto]
        if plan.keys is not None:
            return [(source, targets) for source in sources]
        if len(sources) != len(targets):
            raise CopyRefused(
                f"{plan.source!r} has {_partitions(plan.is_super, sources)}, and {plan.target!r} has"
                f" {_partitions(plan.to_super, targets)}",
                hint=Hint.COPY_BY_KEY,
            )
        return [(source, [target]) for source, target in zip(sources, targets, strict=True)]

    async def work(self) -> Stop:
        """Copies, and returns why there was no more: the first error counts, which is that of the ``Stop``."""
        if self._why is not None:
            self.stop(*self._why)
        tasks = [own_task(copy.work()) for copy in self.copies]
        failed: Stop | None = None
        try:
            pending = set(tasks)
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    why = task.result()
                    if failed is None and why.error is not None:
                        failed = why
                        self.stop(Stop("another partition failed", "error"), DRAIN)
        finally:
            for task in tasks:
                task.cancel()
            if any(not task.done() for task in tasks):
                await asyncio.wait(tasks, timeout=1.0)
        if failed is not None:
            return failed
        return self._why[0] if self._why is not None else tasks[-1].result()

    def stop(self, why: Stop, drain: float | None = None) -> None:
        """Ends the copy from outside. The first reason counts. May be called at any time, and repeatedly."""
        if self._why is None:
            self._why = why, drain
        for copy in self.copies:
            copy.stop(why, drain)

    async def close(self) -> None:
        """Ends both sides of each stream. May be repeated."""
        await asyncio.gather(*(copy.close() for copy in self.copies))


def _partitions(is_super: bool, places: Sequence[Place]) -> str:
    return f"{len(places)} partition{'s' if len(places) > 1 else ''}" if is_super else "no partitions"


async def _place_of(client: CopyAccess, stream: str) -> Place:
    """Returns where a stream is. Raises ``StreamDoesNotExist``, and ``LeaderNotAvailable`` where nobody has it now."""
    metadata = await client.metadata(stream)
    nodes = frozenset(str(node) for node in (metadata.leader, *metadata.replicas) if node is not None)
    if not nodes:
        raise LeaderNotAvailable(f"stream {stream!r} has no leader at the moment")
    options = client.options
    return Place(await client.cluster_name(), options.vhost, stream, nodes, options.tls is not None)
