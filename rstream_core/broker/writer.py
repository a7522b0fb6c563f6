"""Writes the messages that are published to a stream, in chunks, and confirms them.

Frames that arrive in one turn of the event loop are written together; ``gathering`` makes chunks of them. A confirm is
sent when its chunk is in the file, which is enough to outlive the process; with ``Fsync.ALWAYS`` when the disk has it,
to outlive the machine: while one sync runs, in a thread, what comes is written and waits for the next, so that one sync
confirms many chunks.

Again as with RabbitMQ, a segment that is full is followed by the next one as soon as there is more to write, and that
is when retention is looked at.

Messages that cannot be written are rejected, and so are later messages of the same name: see ``holes``.

``Writer`` is longer than other classes, since messages are gathered, written, synced, committed and confirmed in this
order: each step may fail, and what that means for the steps behind it is decided in one place.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import islice

from rstream_core.broker.confirms import Confirms, Unsynced, confirm_all, merge, reject_all
from rstream_core.broker.disk import FileSync
from rstream_core.broker.gathering import Gathered, Gatherer
from rstream_core.broker.log import Log
from rstream_core.broker.names import NONE, Names
from rstream_core.broker.ports import Publisher
from rstream_core.broker.publishing import Entries, without_repeats
from rstream_core.broker.refusal import INTERNAL_ERROR, PRECONDITION_FAILED, Refused
from rstream_core.broker.tracking import offset_records

logger = logging.getLogger("rstream_core.broker")

MAX_GATHERED = 1024 * 1024
"""Bytes that are gathered before they are written, unless a single frame has more."""
MAX_WAITING_OFFSETS = 10_000
"""Stored offsets that wait because the disk refused them: the newest names."""
RETRY_INTERVAL = 0.2
"""Seconds before the next attempt after a sync had no file handle."""


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
        self._file_sync = FileSync(executor, keeps_error=fsync is Fsync.ALWAYS)
        self._on_written = on_written
        self._on_rolled = on_rolled
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._names = Names()
        self._gatherer = Gatherer(self._names)
        self._is_in_burst = False
        """Whether full chunks have just been written, with more behind them."""
        self._offsets: dict[str, int] = {}
        self._unsynced = Unsynced()
        self._syncing: asyncio.Task[None] | None = None
        self._failed = False
        self._retired = False

    # Called by connections.

    def declare(self, reference: str) -> None:
        """Called when a publisher of this name begins."""
        last = self._names.last
        if reference and reference not in last and reference in self.log.tracking.sequences:
            last[reference] = self.log.tracking.sequence(reference).to_bytes(8)

    def forget(self, reference: str) -> None:
        """Called when the last publisher of this name has gone. Writes its messages to the log."""
        self.flush()
        self._names.last.pop(reference, None)

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
            names = self._names
            entries, repeated = without_repeats(entries, names.last.get(reference, NONE))
            if reference in names.holes:
                entries, late = names.admit(publisher, entries)
                if late:
                    self._reject(publisher, late, PRECONDITION_FAILED)
        gatherer = self._gatherer
        gatherer.add(publisher, entries)
        if refused:
            self._reject(publisher, refused, PRECONDITION_FAILED)
        if repeated:
            gatherer.add_repeated(publisher, repeated)
        if gatherer.size >= MAX_GATHERED:
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
        if publisher is not None and reference in self._names.holes:
            self._names.holes[reference].release(publisher)
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
        if self._gatherer.has_full and self._gatherer.has_entries_behind:
            self._write_gathered(but_last=True)
            self._is_in_burst = True
        elif self._is_in_burst and not self._gatherer.has_full:
            self._is_in_burst = False  # what arrived while full chunks were written is read after this
        else:
            self.flush()
            return
        self._schedule()

    def _reject(self, publisher: Publisher, ids: Sequence[bytes], code: int) -> None:
        publisher.reject(ids, code)
        self._names.rejected(publisher, ids)

    def flush(self) -> None:
        """Writes what is gathered. More of it is not waited for: the next chunk may be smaller."""
        if self._retired:
            return
        if self._gatherer.has_entries_behind or self._offsets:
            self._gatherer.ease()
        self._is_in_burst = False
        self._write_gathered()

    def _write_gathered(self, *, but_last: bool = False) -> None:
        """All of it, or the chunks that are full."""
        if not self._gatherer and not self._offsets:
            return
        now = int(time.time() * 1000)
        offsets: dict[str, int] = {}
        if but_last:
            chunks = self._gatherer.take_full()
        else:
            chunks = self._gatherer.take_all()
            offsets, self._offsets = self._offsets, {}
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
                    chunks += self._gatherer.take_all()
                self._store_later(offsets)
                offsets = {}
                merge(confirms, self._without_refused(chunks))
                is_changed = bool(confirms) or self.rolled_at is not None
                chunks = []
            else:
                for chunk in chunks[:count]:
                    merge(confirms, chunk.confirms)
                    size += chunk.size
                    self._totals.messages += chunk.records
                    self._totals.size += chunk.size
                del chunks[:count]
            if self._fsync is Fsync.NEVER:
                self._tell_of_roll()
        if offsets and may_roll and not self._failed and self.log.is_full:
            self._roll(now)
        if self._failed:  # gathered before the sync failed: a later sync that succeeds would say nothing of it
            reject_all(merge(confirms, *(chunk.confirms for chunk in chunks)))
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
        confirm_all(confirms)
        self._on_written()

    def _store_later(self, offsets: dict[str, int]) -> None:
        """Keeps offsets that could not be stored for the next flush, within a bound: names may come without an end."""
        self._offsets = {**offsets, **self._offsets}
        surplus = len(self._offsets) - MAX_WAITING_OFFSETS
        if surplus > 0:
            for name in list(islice(self._offsets, surplus)):
                del self._offsets[name]
            logger.error("offsets of %d names cannot be stored in %s, and are lost", surplus, self.log.directory)

    def _without_refused(self, chunks: list[Gathered]) -> Confirms:
        """Rejects what is gathered: nothing of it is in the log. What only repeats what is there is left."""
        self._gatherer.take_back(chunks)
        left: Confirms = {}
        for publisher, ids in merge({}, *(chunk.confirms for chunk in chunks)).items():
            stored = self._names.last.get(publisher.reference, NONE) if publisher.reference else NONE
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
        self._unsynced.add(confirms, size)
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
                waiting = self._unsynced.take()
                written = self.log.next_offset, self.log.last_chunk_id
                try:
                    are_synced = await self._are_synced()
                except BaseException:
                    self._unsynced.put_back(waiting)
                    raise
                if are_synced:
                    self.log.commit(*written)
                    for confirms in waiting:
                        confirm_all(confirms)
                    self._on_written()
                else:
                    for confirms in waiting:
                        reject_all(confirms)
                self._unsynced.release()
        finally:
            self._unsynced.release()  # also after an error

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

    async def sync(self) -> None:
        """Syncs the newest segment in a thread, but not its index, which ``Log.open`` can make again.

        If it raises ``OSError``, ``is_dirty`` stays True.
        """
        self.is_dirty = False
        segment = self.log.active
        try:
            await self._file_sync.sync_in_thread(segment.fd)
        except OSError:
            self.is_dirty = True
            raise
        if segment is self.log.active and not self._retired:
            self._tell_of_roll()

    def _sync_now(self) -> None:
        """Syncs the newest segment in the calling thread. Raises ``OSError``."""
        try:
            self._file_sync.sync(self.log.active.fd)
        except OSError:
            self._heed_sync_error()
            raise

    def _heed_sync_error(self) -> None:
        """After a failed sync, rejects all unsynced messages, and takes no more.

        Nobody knows whether the disk has those messages, and another fsync would not report it.
        """
        error = self._file_sync.error
        if error is None or self._failed:
            return
        self._failed = True
        logger.error("cannot sync %s: %s; the stream takes no more messages, nor offsets", self.log.directory, error)
        for confirms in self._unsynced.take():
            reject_all(confirms)

    def retire(self) -> None:
        """Writes the gathered messages, and nothing later: the stream is being deleted."""
        self.flush()
        self._retired = True
        self.is_dirty = False
        self._unsynced.release()

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
