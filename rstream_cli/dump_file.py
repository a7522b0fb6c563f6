"""``--output-file`` of a dump: a file that a run goes on with, behind its last whole chunk.

It is read from the beginning before anything is written, and every checksum is checked. What is not whole at its end is
cut off then; where whole records follow damage, nothing is changed, as that needs a decision. One program at a time
writes to a file, which its lock sees to: also where the other one was killed.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.render import words
from rstream_core.dump.manifest import Manifest
from rstream_core.dump.reading import DumpedChunk, DumpReader, Item
from rstream_core.errors import DumpError
from rstream_core.protocol.chunk import HEADER

_BLOCK = 1024 * 1024
_TOLD_FROM = 1 << 30
"""Bytes from which on the user is told that a file is being checked."""


@dataclass(slots=True)
class LastChunk:
    """The last chunk of a stream in a dump."""

    end: int
    """The offset behind its last wanted message."""
    header: bytes
    """The bytes of its header: a chunk with another one is of another stream."""


@dataclass(slots=True)
class DumpFile:
    """A file that is open for writing, and locked. ``close`` is due at the end."""

    path: str
    descriptor: int
    is_made: bool
    """Whether this has made the file; otherwise it was there."""
    manifest: Manifest | None = None
    """What is there already says so; None in a new file."""
    is_compressed: bool = False
    whole: int = 0
    """Bytes that are whole records."""
    size: int = 0
    last: dict[int, LastChunk] = field(default_factory=dict)
    """By the index of the stream in the manifest."""

    @classmethod
    def open(cls, path: str, tell: Callable[[str], None]) -> DumpFile:
        """Opens, locks and checks a file, or makes it. Raises ``CommandError``, and leaves the file as it was."""
        try:
            descriptor, is_made = _open(path)
        except OSError as error:
            raise CommandError(f"--output-file: {path}: {error.strerror}") from None
        file = cls(path, descriptor, is_made)
        try:
            file._check(tell)
        except OSError as error:
            file.close()
            raise CommandError(f"--output-file: {path}: {error.strerror}") from None
        except BaseException:
            file.close()
            raise
        return file

    def begin(self) -> None:
        """Cuts off what is not whole, and goes to the end. Raises ``OSError``."""
        os.ftruncate(self.descriptor, self.whole)
        os.lseek(self.descriptor, self.whole, os.SEEK_SET)

    def sync(self) -> None:
        """Returns once the file is on the disk, and its name too where this has made it. Raises ``OSError``."""
        os.fsync(self.descriptor)
        if self.is_made:
            folder = os.open(os.path.dirname(os.path.realpath(self.path)), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def close(self) -> None:
        """Gives up the lock. A file in which nothing was written is removed, if this has made it."""
        if self.descriptor < 0:
            return
        with suppress(OSError):
            if self.is_made and not os.fstat(self.descriptor).st_size:
                os.unlink(self.path)
        os.close(self.descriptor)
        self.descriptor = -1

    def _check(self, tell: Callable[[str], None]) -> None:
        found = os.fstat(self.descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise CommandError(
                f"--output-file: {self.path} is no regular file", hint="without it, a dump goes to stdout"
            )
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = f"--output-file: another program writes to {self.path}"
            raise CommandError(text, status=ExitStatus.PRECONDITION) from None
        if not _is_at(self.path, found):  # whoever had the lock has made it, and removed it as it stayed empty
            text = f"--output-file: another program has removed {self.path} in this moment"
            raise CommandError(text, hint="run this again", status=ExitStatus.PRECONDITION)
        self.size = os.fstat(self.descriptor).st_size
        if self.size >= _TOLD_FROM:
            tell(f"checking {self.path} ({words.size(self.size)}) from its beginning")
        if self.size:
            self._read()

    def _read(self) -> None:
        reader = DumpReader()
        damage: DumpError | None = None
        while True:
            data = os.read(self.descriptor, _BLOCK)
            if not data:
                break
            reader.feed(data)
            while True:
                try:
                    item = reader.read()
                except DumpError as error:
                    if damage is None:
                        damage, self.whole = error, reader.whole
                    if error.position == 0 or not error.may_go_on:
                        raise self._refusal(error) from None
                    continue
                if item is None:
                    break
                if damage is not None:
                    raise self._refusal(damage)
                self._note(item)
            if reader.is_segment:
                raise CommandError(
                    f"--output-file: {self.path} is a segment of a broker", status=ExitStatus.PRECONDITION
                )
            self.is_compressed = reader.is_compressed
        if damage is None:
            self.whole = reader.whole
        if self.manifest is None:  # cut off within the manifest: there is nothing to go on with
            self.whole, self.is_compressed = 0, False
            if not reader.begins_dump:
                text = f"--output-file: {self.path} is no dump, and is not overwritten"
                raise CommandError(text, status=ExitStatus.PRECONDITION)

    def _note(self, item: Item) -> None:
        if isinstance(item, Manifest):
            self.manifest = item
        elif isinstance(item, DumpedChunk):
            header = item.data[item.begin - HEADER.size : item.begin]
            self.last[item.stream] = LastChunk(item.end, header)

    def _refusal(self, error: DumpError) -> CommandError:
        if error.position == 0:
            text = f"--output-file: {self.path} is no dump, and is not overwritten: {error}"
            return CommandError(text, status=ExitStatus.PRECONDITION)
        where = "" if error.position is None else f"byte {error.position}: "
        return CommandError(
            f"--output-file: {self.path}: {where}{error}",
            hint="it is left as it is: `rstream dump verify` shows what is whole; begin another file",
            status=ExitStatus.BAD_RECORD,
        )


def _open(path: str) -> tuple[int, bool]:
    """Returns the descriptor of a file, and whether it was made. Raises ``OSError``."""
    flags = os.O_RDWR | os.O_CLOEXEC
    with suppress(FileNotFoundError):
        return os.open(path, flags), False
    try:
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666), True
    except FileExistsError:  # it was made in this moment, or is a link to one that is yet to be made
        return os.open(path, flags | os.O_CREAT, 0o666), False


def _is_at(path: str, found: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), found)
    except FileNotFoundError:
        return False
