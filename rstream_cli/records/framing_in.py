"""Input framings: cut blocks of bytes into whole records.

A reader takes blocks of any size, from one byte up, and returns the records that are complete by then. It works on
blocks, never on single bytes: ``DelimiterReader`` costs little more than one ``bytes.split`` for each block. Each byte
is copied a fixed number of times, even if a record of hundreds of megabytes arrives in small blocks. Between calls a
reader keeps one unfinished record, bounded by ``max_record``. Bytes are not changed, and an empty record is a record.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NoReturn, Protocol

from rstream_core.protocol.amqp_sections import PlainMessages
from rstream_core.protocol.wire import lines_of

DEFAULT_MAX_RECORD = 16 * 1024 * 1024
"""The default for the largest record in bytes: far more than a frame can hold."""

_U32 = struct.Struct(">I")


class RecordError(ValueError):
    """A record of the input is bad.

    ``number`` is its position in the input, from 1, counted over all files. ``before`` holds the good records that the
    same call found before it, so that none is lost. The reader has skipped the bad record: ``feed(b"")`` goes on after
    it, with the rest of the block.
    """

    def __init__(self, number: int, message: str, before: Sequence[bytes] = ()) -> None:
        self.number = number
        self.message = message
        self.before = list(before)
        super().__init__(f"record {number}: {message}")


class RecordReader(Protocol):
    """A framing of the input. Not safe for several threads at once."""

    @property
    def count(self) -> int:
        """The number of records so far, over all files, including empty and bad ones."""

    def feed(self, block: bytes) -> list[bytes]:
        """Takes a block of any size, and returns the records that are complete now, in order.

        Raises RecordError for a record larger than ``max_record``, as soon as that is certain.
        """

    def finish(self) -> list[bytes]:
        """Ends a file: returns its last record if that has no delimiter behind it.

        After that, the reader takes the next file; numbers go on. Raises RecordError for a record that is cut off or
        too large; call it again after that.
        """


def _checked_limit(max_record: int) -> int:
    if max_record < 0:
        raise ValueError(f"max_record is at least 0, not {max_record}")
    return max_record


class DelimiterReader:
    """Reads records that end in ``delimiter``, one byte or several. The last record may lack it.

    ``crlf`` strips one carriage return from the end of each record. ``skip_empty`` drops records that are then empty;
    they still count in the numbers. ``max_record`` is in bytes without the delimiter. Raises ValueError for an empty
    delimiter or a negative ``max_record``.
    """

    def __init__(
        self,
        delimiter: bytes = b"\n",
        *,
        skip_empty: bool = False,
        crlf: bool = False,
        max_record: int = DEFAULT_MAX_RECORD,
    ) -> None:
        if not delimiter:
            raise ValueError("the delimiter is empty")
        self.count = 0
        self._delimiter = delimiter
        # A block may end in the start of a delimiter: all of its proper prefixes, the longest first.
        self._prefixes = tuple(delimiter[:size] for size in range(len(delimiter) - 1, 0, -1))
        self._skip_empty = skip_empty
        self._crlf = crlf
        self._max_record = _checked_limit(max_record)
        self._unfinished = bytearray()  # the start of a record, without any part of a delimiter
        self._carry = b""  # the end of the last block, if a delimiter may have begun there
        self._dropping = False  # inside a record that was reported as too large
        self._unchecked: list[bytes] = []  # records behind a bad one, not returned yet

    def feed(self, block: bytes) -> list[bytes]:
        """Take a block and give the records it completes; RecordError as :class:`RecordReader` says."""
        if self._carry:
            block = self._carry + block
            self._carry = b""
        records = block.split(self._delimiter)
        rest = records.pop()
        if records:
            self._complete_first(records)
        if rest:
            if self._prefixes:
                rest = self._hold_back(rest)
            if not self._dropping:
                self._unfinished += rest
        # Only the first record can be longer than its block, so in most blocks no record has to be checked.
        suspect = len(block) > self._max_record or (bool(records) and len(records[0]) > self._max_record)
        records = self._deliver(records, suspect=suspect)
        # One more byte is allowed with ``crlf``: it may be a carriage return, which is stripped later.
        if len(self._unfinished) > self._max_record + self._crlf:
            self._unfinished = bytearray()
            self._dropping = True
            self.count += 1
            raise self._too_large(records)
        return records

    def feed_plain(self, block: bytes) -> PlainMessages | None:
        """Takes a block, and returns the records that are complete now as plain messages, which are not split.

        None where nothing was taken: ``feed`` must look at each record of this block.
        """
        if self._crlf or self._skip_empty or self._prefixes or self._dropping or self._unchecked:
            return None
        behind = block.rfind(self._delimiter) + 1
        data, end = block, behind
        if end and self._unfinished:
            data = b"".join((self._unfinished, memoryview(block)[:behind]))
            end = len(data)
        messages = lines_of(data, 0, end, self._delimiter)
        if messages is None or max(messages.most, len(block) - behind) > self._max_record:
            return None
        self._unfinished = bytearray(memoryview(block)[behind:])
        self.count += len(messages)
        return messages

    def finish(self) -> list[bytes]:
        """Returns the last record if it has no delimiter behind it, and prepares for the next file."""
        last = [] if self._dropping else [bytes(self._unfinished + self._carry)]
        self._unfinished = bytearray()
        self._carry = b""
        self._dropping = False
        return self._deliver([record for record in last if record], suspect=True)

    def _complete_first(self, records: list[bytes]) -> None:
        """Puts the start from earlier blocks in front of the first record, or drops the rest of one too large."""
        if self._dropping:
            self._dropping = False
            del records[0]
        elif self._unfinished:
            self._unfinished += records[0]
            records[0] = bytes(self._unfinished)
            self._unfinished = bytearray()

    def _hold_back(self, rest: bytes) -> bytes:
        """Returns ``rest`` without a possible start of a delimiter, which is kept for the next block."""
        for prefix in self._prefixes:
            if rest.endswith(prefix):
                self._carry = prefix
                return rest[: -len(prefix)]
        return rest

    def _deliver(self, records: list[bytes], *, suspect: bool) -> list[bytes]:
        """Finishes whole records: strips carriage returns, checks the limit (``suspect``), counts, drops empty ones."""
        if self._crlf:
            records = [record.removesuffix(b"\r") for record in records]
        if self._unchecked:
            records = self._unchecked + records
            self._unchecked = []
            suspect = True
        if suspect:
            limit = self._max_record
            for index, record in enumerate(records):
                if len(record) > limit:
                    self._unchecked = records[index + 1 :]
                    self.count += index + 1
                    raise self._too_large(self._without_empty(records[:index]))
        self.count += len(records)
        return self._without_empty(records)

    def _without_empty(self, records: list[bytes]) -> list[bytes]:
        return list(filter(None, records)) if self._skip_empty else records

    def _too_large(self, before: list[bytes]) -> RecordError:
        return RecordError(self.count, f"larger than the limit of {self._max_record} bytes", before)


class Len32Reader:
    """Reads records that follow their length: four bytes, unsigned, big endian.

    ``max_record`` is in bytes without the length. A greater length is refused before any of the record is kept. Raises
    ValueError for a negative ``max_record``.
    """

    def __init__(self, *, max_record: int = DEFAULT_MAX_RECORD) -> None:
        self.count = 0
        self._max_record = _checked_limit(max_record)
        self._buffer = bytearray()  # an unfinished record with its length, or data behind a bad one
        self._wanted = 0  # no record is complete before the buffer has this many bytes
        self._to_drop = 0  # bytes still to come of a refused record; the buffer is then empty

    def feed(self, block: bytes) -> list[bytes]:
        """Take a block and give the records it completes; RecordError as :class:`RecordReader` says."""
        if self._to_drop:
            dropped = min(self._to_drop, len(block))
            self._to_drop -= dropped
            block = block[dropped:]
        if self._buffer:
            self._buffer += block
            if len(self._buffer) < self._wanted:
                return []
            block = bytes(self._buffer)
            self._buffer = bytearray()
        records: list[bytes] = []
        append, unpack, limit = records.append, _U32.unpack_from, self._max_record
        position, end, self._wanted = 0, len(block), 4
        while (start := position + 4) <= end:
            (size,) = unpack(block, position)
            if size > limit:
                self._refuse(block, start, size, records)
            stop = start + size
            if stop > end:
                self._wanted = 4 + size
                break
            append(block[start:stop])
            position = stop
        self._buffer += block[position:]
        self.count += len(records)
        return records

    def finish(self) -> list[bytes]:
        """Ends a file. Raises RecordError unless that is the end of a record."""
        records = self.feed(b"")  # records behind a bad one, if any
        left, wanted = len(self._buffer), self._wanted
        self._buffer = bytearray()
        self._to_drop = 0
        if left:
            self.count += 1
            if left < 4:
                message = f"cut off: the input ends after {left} of the 4 bytes of its length"
            else:
                message = f"cut off: the input ends after {left - 4} of its {wanted - 4} bytes"
            raise RecordError(self.count, message, records)
        return records

    def _refuse(self, block: bytes, start: int, size: int, before: list[bytes]) -> NoReturn:
        rest = block[start:]
        self._to_drop = max(size - len(rest), 0)
        self._buffer += rest[size:]
        self._wanted = 0
        self.count += len(before) + 1
        message = f"its length, {size} bytes, is above the limit of {self._max_record} bytes"
        raise RecordError(self.count, message, before)


class WholeReader:
    """Reads each file as one record, also an empty file. ``max_record`` is in bytes; ValueError if negative."""

    def __init__(self, *, max_record: int = DEFAULT_MAX_RECORD) -> None:
        self.count = 0
        self._max_record = _checked_limit(max_record)
        self._content = bytearray()
        self._dropping = False

    def feed(self, block: bytes) -> list[bytes]:
        """Takes a block, and returns no record before the end. RecordError as :class:`RecordReader` says."""
        if not self._dropping:
            self._content += block
            if len(self._content) > self._max_record:
                self._content = bytearray()
                self._dropping = True
                self.count += 1
                raise RecordError(self.count, f"larger than the limit of {self._max_record} bytes")
        return []

    def finish(self) -> list[bytes]:
        """Returns the file, unless it was too large, and prepares for the next one."""
        if self._dropping:
            self._dropping = False
            return []
        content = bytes(self._content)
        self._content = bytearray()
        self.count += 1
        return [content]
