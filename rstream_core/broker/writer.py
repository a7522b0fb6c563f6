"""Gathers the messages that are published to a stream into chunks, writes these, and confirms the messages.

Frames that arrive in one turn of the event loop are written together, as chunks of the sizes that RabbitMQ's have: its
writer takes what waits for it, at most so many entries at a time, twice as many the next time where there were more,
and half as many where nothing was left. A confirm is sent when its chunk is in the file, which is enough to outlive
the process; with ``Fsync.ALWAYS`` when the disk has it, to outlive the machine: while one sync runs, in a thread, what
comes is written and waits for the next, so that one sync confirms many chunks.

Again as with RabbitMQ, a segment that is full is followed by the next one as soon as there is more to write, and that
is when retention is looked at.

Messages that cannot be written are rejected, and so are later messages of the same name: see ``holes``.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import islice

from rstream_core.broker.holes import Hole
from rstream_core.broker.log import Log, NewChunk
from rstream_core.broker.ports import Publisher
from rstream_core.broker.publishing import Entries, without_repeats
from rstream_core.broker.refusal import INTERNAL_ERROR, PRECONDITION_FAILED, Refused
from rstream_core.broker.tracking import MAX_SEQUENCES, offset_records

logger = logging.getLogger("rstream_core.broker")

MIN_BATCH, MAX_BATCH = 32, 8192
"""Entries of a chunk behind which there are more: the fewest and the most. They are those of RabbitMQ."""
MAX_GATHERED = 1024 * 1024
"""Bytes that are gathered before they are written, unless a single frame has more."""
MAX_UNSYNCED = 16 * 1024 * 1024
"""Bytes that may wait for a sync, counting ``_ID`` for each id; above that, publishing connections are not read."""
_ID = 64
"""Bytes that an unconfirmed publishing id takes in memory, also that of an empty or a repeated message."""
MAX_WAITING_OFFSETS = 10_000
"""Stored offsets that wait because the disk refused them: the newest names."""
RETRY_INTERVAL = 0.2
"""Seconds before the next attempt after a sync had no file handle."""
_NONE = b""
"""The last id of a name that has published nothing: it sorts before every publishing id."""


class Fsync(enum.Enum):
    """When data is synced to disk: before each confirm, once a second, or whenever the system does it."""

    ALWAYS = "always"
    INTERVAL = "interval"
    NEVER = "never"


@dataclass(slots=True)
class Totals:
    """Messages and bytes stored since the start, including those of deleted streams."""

    messages: int = 0
    size: int = 0


Confirms = dict[Publisher, list[bytes]]
"""Publishing ids that wait for a confirm or a rejection, by publisher."""


@dataclass(slots=True)
class _Gathered(NewChunk):
    """Entries that are not written yet."""

    size: int = 0
    """Bytes."""
    has_unfiltered: bool = False
    """Whether a publisher had no filter values to give."""
    confirms: Confirms = field(default_factory=dict)
    written: dict[str, bytes] = field(default_factory=dict)
    """The last id of each of its names before it."""

    def add(self, data: list[bytes], records: list[int] | None, filters: list[str] | None) -> None:
        self.entries += data
        self.records += len(data) if records is None else sum(records)
        self.size += sum(map(len, data))
        if filters is None:
            self.has_unfiltered = True
        else:
            self.filters.update(filters)

    def finish(self) -> None:
        """Nothing more comes."""
        if self.filters == {""}:
            self.filters = set()
        elif self.filters and self.has_unfiltered:
            self.filters.add("")


class Writer:
    """Writes to the log of one stream. Nothing else writes to it."""

    def __init__(
        self,
        log: Log,
        fsync: Fsync,
        executor: Executor,
        on_written: Callable[[], None],
        on_rolled: Callable[[int], None],
        totals: Totals,
    ) -> None:
        """``on_written`` is called when readers can see more; ``on_rolled`` with the time when a new segment began.

        By then the new segment holds the tracking data, and is synced to disk unless ``fsync`` is ``NEVER``: so older
        segments may be deleted.
        """
        self.log = log
        self._totals = totals
        self.is_dirty = False
        """Whether data was written since the last sync began."""
        self.rolled_at: int | None = None
        """The time in milliseconds when the newest segment began; None once it is synced."""
        self._fsync = fsync
        self._executor = executor
        self._on_written = on_written
        self._on_rolled = on_rolled
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._chunk = _Gathered()
        self._full: list[_Gathered] = []
        """The chunks before it, which take no more."""
        self._batch = MIN_BATCH
        """Entries that make a chunk full."""
        self._is_in_burst = False
        """Whether full chunks have just been written, with more behind them."""
        self._bytes = 0
        """In all of them."""
        self._offsets: dict[str, int] = {}
        self._last: dict[str, bytes] = {}
        """The last id of each name, written or not."""
        self._holes: dict[str, Hole] = {}
        """The holes of names that had messages rejected."""
        self._unsynced: list[Confirms] = []
        self._unsynced_bytes = 0
        self._held: set[Publisher] = set()
        self._syncing: asyncio.Task[None] | None = None
        self._disk = threading.Lock()
        """Held by the thread that runs fsync."""
        self._sync_error: OSError | None = None
        """With ``Fsync.ALWAYS``, the error of the first failed sync. Guarded by ``_disk``."""
        self._failed = False
        self._retired = False

    # Called by connections.

    def declare(self, reference: str) -> None:
        """Called when a publisher of this name begins."""
        if reference and reference not in self._last and reference in self.log.tracking.sequences:
            self._last[reference] = self.log.tracking.sequence(reference).to_bytes(8)

    def forget(self, reference: str) -> None:
        """Called when the last publisher of this name has gone. Writes its messages to the log."""
        self.flush()
        self._last.pop(reference, None)

    def publish(self, publisher: Publisher, entries: Entries) -> None:
        """Takes entries; they are confirmed or rejected later. Those behind a hole of their name are rejected now."""
        if self._retired:  # publishers get the answer that the stream is gone
            return
        if self._failed:
            publisher.reject([*entries.ids, *entries.refused], INTERNAL_ERROR)
            return
        reference, refused = publisher.reference, entries.refused
        repeated: list[bytes] = []
        if reference:
            entries, repeated = without_repeats(entries, self._last.get(reference, _NONE))
            if reference in self._holes:
                entries = self._admit(publisher, entries)
        self._gather(publisher, entries)
        if refused:
            self._reject(publisher, refused, PRECONDITION_FAILED)
        if repeated:  # confirmed with the chunks that may hold what they repeat
            self._chunk.confirms.setdefault(publisher, []).extend(repeated)
        if self._bytes + self._chunk.size >= MAX_GATHERED:
            self._write_gathered()
        else:
            self._schedule()

    def store_offset(self, reference: str, offset: int) -> None:
        self._offsets[reference] = offset
        self._schedule()

    def offset(self, reference: str) -> int | None:
        """Returns the offset that is stored under a name. Raises ``Refused`` or ``OSError``, as ``sequence`` does."""
        self._make_certain()
        return self.log.tracking.offsets.get(reference)

    def sequence(self, reference: str, publisher: Publisher | None = None) -> int:
        """Returns the last publishing id of a name; 0 where there is none.

        A client that gets this id need not publish it again, so the answer must be as reliable as a confirm.
        ``publisher`` is the publisher of this name that asks, if any: it may then go on behind a hole. Raises
        ``Refused`` or ``OSError``.
        """
        self._make_certain()
        if publisher is not None and reference in self._holes:
            self._holes[reference].release(publisher)
        return self.log.tracking.sequence(reference)

    def _make_certain(self) -> None:
        """Writes the gathered data, and syncs it if confirms wait for that. Raises ``Refused`` or ``OSError``."""
        self.flush()
        if (self._unsynced or self._is_syncing) and not self._failed:
            self._sync_now()
        if self._failed:
            raise Refused(INTERNAL_ERROR, "what is stored of this stream is not known")

    @property
    def has_unsynced(self) -> bool:
        """Whether data waits for a sync. Until then the file must stay open, or the system might drop its error."""
        return bool(self._unsynced)

    # Writing.

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        """Writes full chunks at once. What is behind them waits for the next read, which may make it full as well."""
        self._scheduled = False
        if self._retired:
            return
        if self._full and self._chunk.entries:
            self._write_gathered(but_last=True)
            self._is_in_burst = True
        elif self._is_in_burst and not self._full:  # what arrived while full chunks were written is read after this
            self._is_in_burst = False
        else:
            self.flush()
            return
        self._schedule()

    def _gather(self, publisher: Publisher, entries: Entries) -> None:
        ids, data, records, filters, _ = entries
        reference = publisher.reference
        start = 0
        while start < len(ids):
            chunk = self._chunk
            end = start + self._batch - len(chunk.entries)
            part = slice(start, end)
            chunk.add(data[part], records and records[part], filters if filters is None else filters[part])
            taken = ids[part]
            if reference:
                chunk.written.setdefault(reference, self._last.get(reference, _NONE))
                self._last[reference] = taken[-1]
                chunk.sequences[reference] = int.from_bytes(taken[-1])
            chunk.confirms.setdefault(publisher, []).extend(taken)
            if len(chunk.entries) >= self._batch:
                self._close_chunk()
                self._batch = min(MAX_BATCH, self._batch * 2)
            start = end

    def _close_chunk(self) -> None:
        self._chunk.finish()
        self._full.append(self._chunk)
        self._bytes += self._chunk.size
        self._chunk = _Gathered()

    def _admit(self, publisher: Publisher, entries: Entries) -> Entries:
        """Returns the entries that fill the hole of their name or come before it, and rejects those behind it."""
        hole = self._holes[publisher.reference]
        count = hole.admit(publisher, entries.ids)
        if not hole:
            del self._holes[publisher.reference]
        if count == len(entries.ids):
            return entries
        entries, late = entries.split(count)
        self._reject(publisher, late.ids, PRECONDITION_FAILED)
        return entries

    def _reject(self, publisher: Publisher, ids: Sequence[bytes], code: int) -> None:
        """Rejects ids. Under a name, those that are not stored yet make a hole."""
        publisher.reject(ids, code)
        if reference := publisher.reference:
            stored = self._last.get(reference, _NONE)
            if missing := [publishing_id for publishing_id in ids if publishing_id > stored]:
                self._hole(reference).add(publisher, missing)

    def _hole(self, reference: str) -> Hole:
        """Returns the hole of a name, and makes one if necessary.

        If there are too many, the oldest hole of a name without a publisher is forgotten.
        """
        hole = self._holes.get(reference)
        if hole is None:
            if len(self._holes) >= MAX_SEQUENCES:
                unused = (name for name in self._holes if name not in self._last)
                if (name := next(unused, None)) is not None:
                    del self._holes[name]
            hole = self._holes[reference] = Hole()
        return hole

    def flush(self) -> None:
        """Writes what is gathered. More of it is not waited for: the next chunk may be smaller."""
        if self._retired:
            return
        if self._chunk.entries or self._offsets:
            self._batch = max(MIN_BATCH, self._batch // 2)
        self._is_in_burst = False
        self._write_gathered()

    @property
    def _has_gathered(self) -> bool:
        return bool(self._full or self._chunk.confirms or self._offsets)

    def _write_gathered(self, *, but_last: bool = False) -> None:
        """All of it, or the chunks that are full."""
        if not self._has_gathered:
            return
        now = int(time.time() * 1000)
        offsets: dict[str, int] = {}
        if not but_last:
            self._finish_last()
            offsets, self._offsets = self._offsets, {}
        chunks, self._full, self._bytes = self._full, [], 0
        confirms: Confirms = {}
        size = 0
        is_changed = may_roll = True
        while chunks and not self._failed:
            if may_roll and self.log.is_full and chunks[0].entries:
                may_roll = self._roll(now)
                if not may_roll:
                    continue
            try:
                count = self.log.append(chunks, now) if chunks[0].entries else 1
            except OSError as error:
                logger.error("cannot write to %s: %s", self.log.directory, error)  # noqa: TRY400
                if but_last:  # it is behind what is rejected
                    self._finish_last()
                    chunks += self._full
                    self._full, self._bytes = [], 0
                self._store_later(offsets)
                offsets = {}
                _add(confirms, self._without_refused(chunks))
                is_changed = bool(confirms) or self.rolled_at is not None
                chunks = []
            else:
                for chunk in chunks[:count]:
                    _add(confirms, chunk.confirms)
                    size += chunk.size
                    self._totals.messages += chunk.records
                    self._totals.size += chunk.size
                del chunks[:count]
            if self._fsync is Fsync.NEVER:
                self._tell_of_roll()
        if offsets and may_roll and not self._failed and self.log.is_full:
            self._roll(now)
        if self._failed:  # gathered before the sync failed: a later sync that succeeds would say nothing of it
            _reject(_add(confirms, *(chunk.confirms for chunk in chunks)))
            return
        if not is_changed:
            return
        # From here on the chunk is stored: later errors are logged, and take nothing back.
        if offsets:
            try:
                self.log.store_offsets(offset_records(offsets), now)
            except OSError as error:
                logger.error("cannot store offsets in %s: %s", self.log.directory, error)  # noqa: TRY400
                self._store_later(offsets)
        self.is_dirty = True
        if self._fsync is Fsync.ALWAYS:
            self._wait_for_sync(confirms, size)
            return
        if self._fsync is Fsync.NEVER:
            self._tell_of_roll()
        self.log.commit()
        _confirm(confirms)
        self._on_written()

    def _store_later(self, offsets: dict[str, int]) -> None:
        """Keeps offsets that could not be stored for the next flush, within a bound: names may come without an end."""
        self._offsets = {**offsets, **self._offsets}
        surplus = len(self._offsets) - MAX_WAITING_OFFSETS
        if surplus > 0:
            for name in list(islice(self._offsets, surplus)):
                del self._offsets[name]
            logger.error("offsets of %d names cannot be stored in %s, and are lost", surplus, self.log.directory)

    def _finish_last(self) -> None:
        """Only a chunk that is the only one may be without entries, where there are but repetitions."""
        if self._chunk.entries or not self._full:
            self._close_chunk()
        elif self._chunk.confirms:
            _add(self._full[-1].confirms, self._chunk.confirms)
            self._chunk = _Gathered()

    def _without_refused(self, chunks: list[_Gathered]) -> Confirms:
        """Rejects what is gathered: nothing of it is in the log. What only repeats what is there is left."""
        for chunk in reversed(chunks):
            self._last.update(chunk.written)
        left: Confirms = {}
        for publisher, ids in _add({}, *(chunk.confirms for chunk in chunks)).items():
            stored = self._last.get(publisher.reference, _NONE) if publisher.reference else _NONE
            self._reject(publisher, [one for one in ids if one > stored], INTERNAL_ERROR)
            if repeated := [one for one in ids if one <= stored]:
                left[publisher] = repeated
        return left

    def _roll(self, now: int) -> bool:
        """Begins a new segment. Where it cannot, the log goes on in the old one, and False is returned."""
        full = self.log.active
        try:
            if self._fsync is not Fsync.NEVER:
                self._sync_now()  # later syncs are for the new segment only
            self.log.roll(now)
        except OSError as error:
            logger.error("cannot begin a new segment in %s: %s", self.log.directory, error)  # noqa: TRY400
            if self.log.active is full:
                return False  # else it has begun, and gets its snapshot before anything else
        self.rolled_at = now
        return True

    def _tell_of_roll(self) -> None:
        """What a new segment remembers is as safe as it gets."""
        if self.rolled_at is not None and not self.log.lacks_snapshot:
            now, self.rolled_at = self.rolled_at, None
            self._on_rolled(now)

    # Syncing.

    def _wait_for_sync(self, confirms: Confirms, size: int) -> None:
        self._unsynced.append(confirms)
        self._unsynced_bytes += size + _ID * sum(map(len, confirms.values()))
        if self._unsynced_bytes > MAX_UNSYNCED:
            for publisher in confirms.keys() - self._held:
                self._held.add(publisher)
                publisher.hold()
        if not self._is_syncing:
            # Not an eager task: a roll in this turn must come first, and syncs without a thread.
            self._syncing = asyncio.Task(self._sync_unsynced(), loop=self._loop)

    @property
    def _is_syncing(self) -> bool:
        """Whether the task of ``_sync_unsynced`` runs."""
        return self._syncing is not None and not self._syncing.done()

    async def _sync_unsynced(self) -> None:
        """Syncs until all is synced. Confirms the synced messages, and lets readers see them."""
        try:
            while self._unsynced and not self._retired:
                waiting, self._unsynced, self._unsynced_bytes = self._unsynced, [], 0
                written = self.log.next_offset, self.log.last_chunk_id
                try:
                    are_synced = await self._are_synced()
                except BaseException:
                    self._unsynced[:0] = waiting  # the next sync is for them
                    raise
                if are_synced:
                    self.log.commit(*written)
                    for confirms in waiting:
                        _confirm(confirms)
                    self._on_written()
                else:
                    for confirms in waiting:
                        _reject(confirms)
                self._release_held()
        finally:
            self._release_held()  # also after an error

    async def _are_synced(self) -> bool:
        """Returns whether a sync has succeeded; False if the disk failed. Without a file handle, tries again."""
        while not self._failed and not self._retired:
            try:
                await self.sync()
            except OSError:
                self._heed_sync_error()
                if not self._failed:
                    await asyncio.sleep(RETRY_INTERVAL)
            else:
                return not self._failed  # another sync may have failed meanwhile
        return False

    def _release_held(self) -> None:
        held, self._held = self._held, set()
        for publisher in held:
            publisher.release()

    async def sync(self) -> None:
        """Syncs the newest segment in a thread, but not its index, which ``Log.open`` can make again.

        If it raises ``OSError``, ``is_dirty`` stays True.
        """
        self.is_dirty = False
        segment = self.log.active
        try:
            fd = segment.fd
            if not await self._is_synced_in_thread(fd):
                self._sync_file(fd)
        except OSError:
            self.is_dirty = True
            raise
        if segment is self.log.active and not self._retired:
            self._tell_of_roll()

    def _sync_now(self) -> None:
        """Syncs the newest segment in the calling thread. Raises ``OSError``."""
        try:
            self._sync_file(self.log.active.fd)
        except OSError:
            self._heed_sync_error()
            raise

    def _sync_file(self, fd: int) -> None:
        """Syncs a file; may be called from any thread.

        The system reports an error only to one fsync. So with ``Fsync.ALWAYS`` the first error is kept, and later calls
        raise it.
        """
        with self._disk:
            if self._sync_error is not None:
                raise self._sync_error
            try:
                os.fsync(fd)
            except OSError as error:
                if self._fsync is Fsync.ALWAYS:
                    self._sync_error = error
                raise

    async def _is_synced_in_thread(self, fd: int) -> bool:
        """Syncs a file in a thread. Returns False where there is no thread or file handle; raises ``OSError``."""
        try:
            handles = [os.dup(fd)]
        except OSError:
            return False
        try:
            job = self._loop.run_in_executor(self._executor, self._sync_and_close, handles)
        except RuntimeError:  # the job may be queued nevertheless: the side that pops the handle closes it
            with contextlib.suppress(IndexError):
                os.close(handles.pop())
            return False
        await job
        return True

    def _sync_and_close(self, handles: list[int]) -> None:
        try:
            fd = handles.pop()
        except IndexError:
            return
        try:
            self._sync_file(fd)
        finally:
            os.close(fd)

    def _heed_sync_error(self) -> None:
        """After a failed sync, rejects all unsynced messages, and takes no more.

        Nobody knows whether the disk has those messages, and another fsync would not report it.
        """
        error = self._sync_error
        if error is None or self._failed:
            return
        self._failed = True
        logger.error("cannot sync %s: %s; the stream takes no more messages, nor offsets", self.log.directory, error)
        unsynced, self._unsynced = self._unsynced, []
        for confirms in unsynced:
            _reject(confirms)

    def retire(self) -> None:
        """Writes the gathered messages, and nothing later: the stream is being deleted."""
        self.flush()
        self._retired = True
        self.is_dirty = False
        self._release_held()

    async def close(self) -> None:
        """Writes the gathered messages, and waits for the syncs."""
        self.flush()
        while self._syncing is not None and not self._syncing.done():
            await asyncio.wait([self._syncing])
        if self._fsync is Fsync.INTERVAL and self.is_dirty:
            try:
                await self.sync()
            except OSError as error:
                logger.error("cannot sync %s: %s", self.log.directory, error)  # noqa: TRY400


def _add(confirms: Confirms, *others: Confirms) -> Confirms:
    """Takes what others hold, which is not theirs any more: nothing is copied where one has all of it."""
    for other in others:
        for publisher, ids in other.items():
            if (own := confirms.setdefault(publisher, ids)) is not ids:
                own += ids
    return confirms


def _confirm(confirms: Confirms) -> None:
    for publisher, ids in confirms.items():
        publisher.confirm(ids)


def _reject(confirms: Confirms) -> None:
    for publisher, ids in confirms.items():
        publisher.reject(ids, INTERNAL_ERROR)
