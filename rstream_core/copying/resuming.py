"""Where a copy begins, and when it must not: decided from what was found, without I/O.

What is at stake, seen on RabbitMQ 4.3: after id 5001 under a name, messages with the ids 1 to 10 are all confirmed, and
not stored. A copy that trusts the confirms would lose them without a word. So a copy begins only where each message
that it will publish has an id above the last one of its name.

The target's own last id says how far the target is: the id of a message is its offset in the source + 1, so that 0
always means none. A stream that was deleted and made again has the same name as before, and other messages. A *mark*
shows that of the source: before its first message, a copy stores an offset there under its name, and that offset is
gone with the stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rstream_core.copying.names import Place
from rstream_core.errors import CopyRefused
from rstream_core.hints import Hint


@dataclass(frozen=True, slots=True)
class Target:
    """What was found of one stream that a copy publishes to."""

    place: Place
    last_id: int
    """The last publishing id under the copy's name; 0 for none."""
    last_offset: int | None
    """The offset of its last message; None where it is empty."""
    is_begun: bool
    """Whether this copy has published to it before, from any partition of its source."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was found of one stream that is copied, and of all its targets."""

    source: Place
    name: str
    first_offset: int | None
    """The first offset that the source still has; None where it is unknown."""
    last_offset: int | None
    """The offset of its last message; None where it is empty."""
    mark: int | None
    """The offset that is stored in the source under the name: all before it is done with. None where there is none."""
    is_marked: bool
    """Whether the copy stores such offsets. It may not be allowed to."""
    targets: Sequence[Target]
    start: int | None = None
    """The offset at which the caller wants to begin; None for the first message."""
    is_appended: bool = False
    """Whether the targets may hold messages of others."""
    skips: bool = False
    """Whether not every message goes to each target, so that the mark may lie behind the last id."""
    other: str | None = None
    """The name of a copy from the first message, where it has published to a target; None where it has not."""


def refuse_same(source: Place, target: Place) -> None:
    """Raises ``CopyRefused`` where both are the same stream: each message would be copied without end."""
    if source.is_same(target):
        raise CopyRefused(f"the source and the target are the same stream, {source.stream!r}")


def begin_at(found: Found) -> int | None:
    """Returns the offset at which to begin; None for the first message. Raises ``CopyRefused``."""
    for target in found.targets:
        refuse_same(found.source, target.place)
    for target in found.targets:
        _refuse_messages_of_others(found, target)
    last_id = max(target.last_id for target in found.targets)
    if not last_id:
        _refuse_forgotten_ids(found)
        return found.start
    _refuse_another_source(found, last_id)
    if not found.skips:
        return last_id
    if any(not target.last_id for target in found.targets) or found.mark is None:
        # Perhaps nothing of the source goes there; perhaps the target was made anew, and all of it is missing.
        one_target = len(found.targets) == 1
        return last_id if one_target else found.start
    return max(found.mark, last_id) if len(found.targets) == 1 else found.mark


def _refuse_messages_of_others(found: Found, target: Target) -> None:
    if target.is_begun or found.is_appended or target.last_offset is None:
        return
    stream = target.place.stream
    if found.other is not None:
        raise CopyRefused(
            f"stream {stream!r} has a copy of {found.source.stream!r} already, under the name {found.other!r}: one from"
            f" offset {found.start} would store its messages a second time",
            hint=Hint.COPY_GOES_ON,
        )
    raise CopyRefused(
        f"stream {stream!r} holds messages, and none of them under the name of this copy, {found.name!r}",
        hint=Hint.COPY_APPENDS,
    )


def _refuse_forgotten_ids(found: Found) -> None:
    """A broker forgets the last ids of names where a stream has too many: messages would be stored a second time."""
    begun = max(found.start or 0, found.first_offset or 0)
    if found.skips or found.mark is None or found.mark <= begun:
        return  # perhaps nothing was copied
    for target in found.targets:
        if target.last_offset is not None:
            raise CopyRefused(
                f"stream {found.source.stream!r} was copied up to about offset {found.mark} under the name"
                f" {found.name!r}, and stream {target.place.stream!r} holds messages, and none of them under that name:"
                " it was deleted and made anew, or its broker has forgotten the name",
                hint=Hint.COPY_OF_ANOTHER,
            )


def _refuse_another_source(found: Found, last_id: int) -> None:
    """The broker would confirm, and drop, all that another stream has up to the last id."""
    source = found.source.stream
    end = -1 if found.last_offset is None else found.last_offset
    if end + 1 < last_id:
        was = "is empty" if end < 0 else f"ends at offset {end}"
        raise CopyRefused(
            f"stream {source!r} {was}, and was copied up to offset {last_id - 1} under the name {found.name!r}: it was"
            " deleted and made anew",
            hint=Hint.COPY_OF_ANOTHER,
        )
    # A broker drops offsets that lie before the first message. But where that is at the last id, nothing can be lost.
    if found.is_marked and found.mark is None and found.first_offset is not None and found.first_offset < last_id:
        perhaps = ", or retention took it" if found.first_offset else ""
        raise CopyRefused(
            f"stream {source!r} was copied up to offset {last_id - 1} under the name {found.name!r}, and does not have"
            f" the mark of that copy: it was deleted and made anew{perhaps}",
            hint=Hint.COPY_OF_ANOTHER,
        )
