"""What became of messages that are not stored, for ``publish``: ``--failed-to``, and who is told what.

With ids of the user's own (``--id-from``), the ids are noted: a rejected one may be lost to every later run under the
same name, since the broker drops and confirms all ids up to the last one that it has stored.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from rstream_cli.render import words
from rstream_cli.render.display import Display, Severity
from rstream_core import AMQPMessage, Outcome
from rstream_core.flow.block import Block


class FailedFile:
    """``--failed-to``: the messages that may not be stored, as lines for ``publish --json``."""

    def __init__(self, file: BinaryIO, *, raw: bool) -> None:
        self._file = file
        """Opened for appending: what is there may be the only copies of messages of earlier runs."""
        self._raw = raw
        self._has_begun = False
        self.name = str(file.name)

    def add(self, stream: str, messages: Sequence[bytes], filters: Sequence[str | None] | None, reason: str) -> None:
        """Writes encoded messages with the reason of their failure."""
        from rstream_cli.records.envelope import to_json

        lines = []
        for data, value in zip(messages, filters or [None] * len(messages), strict=True):
            message = AMQPMessage(data) if self._raw else AMQPMessage.from_bytes(data)
            lines.append(to_json(message, stream=stream, filter_value=value, failed=reason))
        if not self._has_begun and _is_cut_off(self.name):
            lines.insert(0, b"")  # otherwise the first line would be lost with the one that is cut off
        self._has_begun = True
        rest = memoryview(b"\n".join([*lines, b""]))
        while rest:  # unbuffered: after an error on a full disk, a buffer would fail again at the end
            rest = rest[self._file.write(rest) :]


def _is_cut_off(path: str) -> bool:
    """Returns whether a file's last line has no end, as a kill or a full disk leaves it."""
    if not os.path.isfile(path) or not os.access(path, os.R_OK):
        return False
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        return size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"


@dataclass(slots=True)
class Losses:
    """The ids of the user's own that are not stored, of one stream."""

    stream: str
    failed_ids: list[int] = field(default_factory=list)
    rejected_ids: list[int] = field(default_factory=list)
    """The failed ids that the broker rejected, so that they are not stored."""
    last_known: int | None = None
    """After a rejection, the last id that the broker had at the end; None if it is unknown."""

    @property
    def passed_ids(self) -> list[int]:
        """Rejected ids that cannot be stored any more under this name, since the broker has a later one."""
        last = self.last_known
        return [] if last is None else sorted(number for number in self.rejected_ids if number <= last)

    @property
    def doubtful_ids(self) -> list[int]:
        """Rejected ids that may not be storable any more: the broker's last id is unknown."""
        return sorted(self.rejected_ids) if self.last_known is None else []


class PublishReport:
    """The messages of a run that are not stored, or may not be."""

    def __init__(
        self,
        display: Display,
        failed_file: FailedFile | None,
        *,
        name: str | None,
        has_ids: bool,
        ids_are_numbers: bool,
    ) -> None:
        """``name``: the publisher's. ``has_ids``: whether the user chose the ids; ``ids_are_numbers``: whether they
        are those of the records."""
        self.reason = ""
        """The first reason for which messages failed."""
        self.file_error: OSError | None = None
        """The error after which nothing more was written to ``--failed-to``."""
        self.unsent = 0
        """Messages that were read and not passed to a publisher."""
        self.losses: list[Losses] = []
        """One for each lane."""
        self._display = display
        self._file = failed_file
        self.name = name
        """The publisher's; that of a dump is known once its manifest is read."""
        self.is_partial = False
        """Whether something of the input was left out that is no record."""
        self._has_ids = has_ids
        self._ids_are_numbers = ids_are_numbers
        self._unsent_ids: list[int] = []

    @property
    def is_rejected(self) -> bool:
        """Whether the broker has rejected an id of the user's own."""
        return any(lane.rejected_ids for lane in self.losses)

    @property
    def may_leave_out(self) -> bool:
        """Whether another run under the name leaves rejected messages out, or may do so."""
        return any(lane.passed_ids or lane.doubtful_ids for lane in self.losses)

    def add_failed(self, lane: int, outcome: Outcome) -> None:
        """Notes the messages of an outcome that failed."""
        failed, losses = outcome.failed, self.losses[lane]
        reason = failed[0].reason
        self.reason = self.reason or reason
        if self._has_ids:
            ids = [message.publishing_id for message in failed]
            losses.failed_ids += ids
            if failed[0].code:
                losses.rejected_ids += ids
        self._write(
            losses.stream, [message.data for message in failed], [message.filter_value for message in failed], reason
        )

    def add_unsent(self, stream: str, block: Block) -> None:
        """Notes messages that were not passed to a publisher."""
        self.unsent += block.count
        self._unsent_ids += block.ids or ()
        self._write(stream, block.messages, block.filters, "not published")

    def named_ids(self) -> str:
        """With ids of the user's own: a text that names those of all messages that are not confirmed."""
        return self._named(sorted(self._unsent_ids + [number for lane in self.losses for number in lane.failed_ids]))

    def tell_of_repetitions(self, again: int, *, sub_entries: bool) -> None:
        """Warns of messages that may be stored twice. They do not change the exit code."""
        if not again:
            return
        why = "the broker does not deduplicate sub-entries reliably" if sub_entries else "--name prevents that"
        line = f"sent again after lost connections, up to {words.copies(again)} may be stored beside the first"
        self._display.event("sent_again", f"{line}; {why}", Severity.WARNING, messages=again)

    def tell_of_holes(self) -> None:
        """Warns of rejected records that another run under this name skips, or may skip."""
        for lane in self.losses:
            last = lane.last_known
            if passed := lane.passed_ids:
                why = f"the broker's last publishing id of {self.name!r} is {last}"
                self._tell_of_hole(lane, passed, "skips", why)
            if doubtful := lane.doubtful_ids:
                why = f"the broker did not say its last publishing id of {self.name!r}"
                self._tell_of_hole(lane, doubtful, "may skip", why)

    def _tell_of_hole(self, lane: Losses, numbers: list[int], skips: str, why: str) -> None:
        which = self._named(numbers)
        were, them = ("was", "it") if len(numbers) == 1 else ("were", "them")
        line = f"stream {lane.stream!r}: {which} {were} rejected; another run under this name {skips} {them}"
        line += f", because {why}"
        if self._file is not None and self.file_error is None:
            line += f"; only {self._file.name} still holds {them}"
        self._display.event(
            "passed",
            line,
            Severity.WARNING,
            stream=lane.stream,
            which=which,
            messages=len(numbers),
            last=lane.last_known,
        )

    def _named(self, numbers: Sequence[int]) -> str:
        """Returns a text that names records by their publishing ids."""
        what = "record" if self._ids_are_numbers else "publishing id"
        return f"{what}{'' if len(numbers) == 1 else 's'} {words.ranges(numbers)}"

    def _write(self, stream: str, messages: Sequence[bytes], filters: Sequence[str | None] | None, reason: str) -> None:
        if self._file is None or self.file_error is not None:
            return
        try:
            self._file.add(stream, messages, filters, reason)
        except OSError as error:
            self.file_error = OSError(error.errno, error.strerror, self._file.name)
