"""Looks how far the copy of one stream is, and decides where it goes on. Nothing is changed here."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from rstream_core.copying.access import CopyAccess
from rstream_core.copying.names import UNMARKED, Place, copy_name
from rstream_core.copying.plan import CopyPlan
from rstream_core.copying.resuming import Found, Target, begin_at
from rstream_core.errors import OffsetNotFound, UnsupportedByBroker
from rstream_core.flow.opening import resolve_start
from rstream_core.types import OffsetType

FIRST = "first"
"""Stands for the start of a copy in its name, where it begins at the first message."""


class Looking:
    """What is found of one stream of the source, and of the streams that it is copied to."""

    def __init__(
        self, plan: CopyPlan, source: CopyAccess, target: CopyAccess, places: tuple[Place, Sequence[Place]]
    ) -> None:
        """``places``: the stream that is copied, and the ones that it is copied to."""
        self.source, self.targets = places
        self.name = ""
        """Under which the copy publishes, and stores how far it has come."""
        self.is_marked = True
        """Whether it stores that: it may not be allowed to."""
        self.mark: int | None = None
        """The offset that is stored in the source under the name; None for none."""
        self.start: int | None = None
        """The offset that the caller wants to begin at; None for the first message."""
        self.begins: int | None = None
        """The offset that it begins at; None for the first message."""
        self.is_resumed = False
        """Whether an earlier run has published under the name."""
        self.first: int | None = None
        """The first offset that the source still has; None where it is unknown."""
        self.last: int | None = None
        """The offset of the source's last message; None where it is empty."""
        self._plan = plan
        self._from = source
        self._to = target
        self._found: Sequence[tuple[int, int | None]] = ()

    async def find(self) -> None:
        """Looks how far the copy is. Nothing is changed."""
        stream = self.source.stream
        self.start = await self._resolved_start()
        name = self._name_of(FIRST if self.start is None else str(self.start))
        self.mark = await self._stored(name)
        self._found = await self._look_at_targets(name)
        if self.mark is None and not any(last for last, _ in self._found):
            unmarked = await self._look_at_targets(name + UNMARKED)
            if any(last for last, _ in unmarked):
                name, self.is_marked, self._found = name + UNMARKED, False, unmarked
        self.name = name
        self.is_resumed = any(last for last, _ in self._found)
        with suppress(UnsupportedByBroker):
            self.first = (await self._from.stats(stream)).first_offset
        self.last = await self._from.last_offset(stream)

    @property
    def last_ids(self) -> Sequence[int]:
        """After ``find``: the last publishing id that each target has under the name; 0 for none."""
        return [last for last, _ in self._found]

    async def decide(self, is_begun: Sequence[bool]) -> None:
        """After ``find``: decides where to begin. ``is_begun``: whether the copy of any stream of the source has
        published to each target. Raises ``CopyRefused``."""
        plan = self._plan
        if self.start is not None and self.is_marked and self.mark is None and not self.is_resumed:
            is_begun = [False for _ in is_begun]  # the start of this stream has moved, and that of others has not
        targets = [
            Target(place, last_id, last_offset, begun)
            for place, (last_id, last_offset), begun in zip(self.targets, self._found, is_begun, strict=True)
        ]
        other = None
        if self.start is not None and not self.is_resumed:
            default = self._name_of(FIRST)
            other = default if any(last for last, _ in await self._look_at_targets(default)) else None
        self.begins = begin_at(
            Found(
                self.source,
                self.name,
                self.first,
                self.last,
                self.mark,
                self.is_marked,
                targets,
                start=self.start,
                is_appended=plan.is_appended,
                skips=plan.skips,
                other=other,
            )
        )

    def _name_of(self, start: str) -> str:
        """What decides where a message goes is a part of it: under one name, a key has one lane."""
        plan = self._plan
        selection = plan.selection if plan.keys is None else f"{plan.selection}\n{plan.keys.what}"
        return copy_name(self.source, self.targets, start, selection, plan.name)

    async def _resolved_start(self) -> int | None:
        """A start that moves is resolved now: copies that begin at different offsets never share a name."""
        start = self._plan.start
        if start is None:
            return None
        spec = await resolve_start(self._from, self.source.stream, start)
        if spec.offset_type is OffsetType.OFFSET:
            return spec.offset or 0
        return await self._from.resolve_offset(self.source.stream, spec)

    async def _stored(self, name: str) -> int | None:
        try:
            return await self._from.query_offset(self.source.stream, name)
        except OffsetNotFound:
            return None

    async def _look_at_targets(self, name: str) -> Sequence[tuple[int, int | None]]:
        """Returns of each target its last publishing id under the name, and the offset of its last message."""
        return [
            (await self._to.query_publishing_id(place.stream, name), await self._to.last_offset(place.stream))
            for place in self.targets
        ]
