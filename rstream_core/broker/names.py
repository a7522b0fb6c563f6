"""The names of a stream's publishers: the last publishing id of each, written or not, and its hole."""

from __future__ import annotations

from collections.abc import Sequence

from rstream_core.broker.holes import Hole
from rstream_core.broker.ports import Publisher
from rstream_core.broker.publishing import Entries
from rstream_core.broker.tracking import MAX_SEQUENCES

NONE = b""
"""The last id of a name that has published nothing: it sorts before every publishing id."""


class Names:
    """The names of one stream. An id is the eight bytes of a frame."""

    def __init__(self) -> None:
        self.last: dict[str, bytes] = {}
        """The last id of each name that has a publisher."""
        self.holes: dict[str, Hole] = {}
        """The holes of names that had messages rejected."""

    def admit(self, publisher: Publisher, entries: Entries) -> tuple[Entries, Sequence[bytes]]:
        """Returns the entries that fill the hole of their name or come before it, and the ids of those behind it.

        The name must have a hole.
        """
        hole = self.holes[publisher.reference]
        count = hole.admit(publisher, entries.ids)
        if not hole:
            del self.holes[publisher.reference]
        if count == len(entries.ids):
            return entries, ()
        entries, late = entries.split(count)
        return entries, late.ids

    def rejected(self, publisher: Publisher, ids: Sequence[bytes]) -> None:
        """Notes ids that were rejected. Under a name, those that are not stored yet make a hole."""
        if reference := publisher.reference:
            stored = self.last.get(reference, NONE)
            if missing := [publishing_id for publishing_id in ids if publishing_id > stored]:
                self._hole(reference).add(publisher, missing)

    def _hole(self, reference: str) -> Hole:
        """Returns the hole of a name, and makes one if necessary.

        If there are too many, the oldest hole of a name without a publisher is forgotten.
        """
        hole = self.holes.get(reference)
        if hole is None:
            if len(self.holes) >= MAX_SEQUENCES:
                unused = (name for name in self.holes if name not in self.last)
                if (name := next(unused, None)) is not None:
                    del self.holes[name]
            hole = self.holes[reference] = Hole()
        return hole
