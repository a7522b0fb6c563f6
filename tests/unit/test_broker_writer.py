"""What the only writer of a log confirms, rejects and shows, where the disk fails it at one step or another."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rstream_core.broker import gathering as broker_gathering
from rstream_core.broker import writer as broker_writer
from rstream_core.broker.delivery import BrokerPublisher
from rstream_core.broker.gathering import MAX_BATCH, MIN_BATCH
from rstream_core.broker.log import Log
from rstream_core.broker.publishing import Entries
from rstream_core.broker.refusal import Refused
from rstream_core.broker.tracking import MAX_SEQUENCES
from rstream_core.broker.writer import Fsync, Totals, Writer
from rstream_core.protocol.chunk import parse_header
from tests.clients import eventually

ROLLING = 100
"""A segment size that one message fills."""
BODY = bytes(200)


class Publisher:
    """Keeps what it is told."""

    def __init__(self, reference: str = "") -> None:
        self.reference = reference
        self.confirmed: list[int] = []
        self.rejected: list[int] = []

    def confirm(self, ids: Sequence[bytes]) -> None:
        self.confirmed += map(int.from_bytes, ids)

    def reject(self, ids: Sequence[bytes], code: int) -> None:
        self.rejected += map(int.from_bytes, ids)

    def hold(self) -> None: ...
    def release(self) -> None: ...


def message(number: int) -> Entries:
    return Entries([number.to_bytes(8)], [len(BODY).to_bytes(4) + BODY])


Make = Callable[..., Writer]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with ThreadPoolExecutor(1) as executor:

        def make(
            fsync: Fsync, segment_size: int = 10**6, on_rolled: Callable[[int], None] = lambda now: None
        ) -> Writer:
            log = Log.create(tmp_path, segment_size=segment_size)
            return Writer(log, fsync, executor, lambda: None, on_rolled, Totals())

        yield make


class Disk:
    """``os.fsync`` fails while ``broken``, and waits in threads other than the test's while it is ``held``."""

    def __init__(self) -> None:
        self.broken = False
        self.held = False
        self.go_on = threading.Event()
        self._thread = threading.get_ident()

    def sync(self, fd: int) -> None:
        if self.held and threading.get_ident() != self._thread:
            assert self.go_on.wait(10)
            return
        if self.broken:
            raise OSError(5, "Input/output error")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(os, "fsync", disk.sync)
    return disk


def full(*_: object) -> int:
    raise OSError(28, "No space left on device")


class Space:
    """``os.pwrite`` has no space for more than ``left`` bytes at once."""

    def __init__(self) -> None:
        self.left = 10**9
        self._pwrite = os.pwrite

    def write(self, fd: int, data: bytes, position: int) -> int:
        return full() if len(data) > self.left else self._pwrite(fd, data, position)


@pytest.fixture
def space(monkeypatch: pytest.MonkeyPatch) -> Space:
    space = Space()
    monkeypatch.setattr(os, "pwrite", space.write)
    return space


def small(number: int) -> Entries:
    """One that there is space for where there is none for ``message``."""
    return Entries([number.to_bytes(8)], [b"\0\0\0\1x"])


def bad_sub_entry(number: int) -> Entries:
    """A frame with one, as the broker cuts it."""
    return Entries([], [], refused=(number.to_bytes(8),))


def publish(writer: Writer, publisher: Publisher, *messages: Entries) -> tuple[list[int], list[int]]:
    """One chunk each; what is confirmed now, and rejected."""
    publisher.confirmed, publisher.rejected = [], []
    for one in messages:
        writer.publish(publisher, one)
        writer.flush()
    return publisher.confirmed, publisher.rejected


async def test_a_failed_write_does_not_show_what_waits_for_its_sync(
    make: Make, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, publisher = make(Fsync.ALWAYS), Publisher()
    disk.held = True
    writer.publish(publisher, message(1))
    writer.flush()
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        writer.publish(publisher, message(2))
        writer.flush()
    assert (publisher.confirmed, publisher.rejected) == ([], [2])
    assert writer.log.committed == 0
    disk.go_on.set()
    await writer.close()
    assert (publisher.confirmed, publisher.rejected) == ([1], [2])
    assert writer.log.committed == 1


async def test_a_failed_sync_of_a_full_segment_confirms_nothing(make: Make, disk: Disk) -> None:
    """Neither what is being synced: the system tells of an error once, and the sync under way did not hear of it."""
    writer, publisher = make(Fsync.ALWAYS, 2 * len(BODY)), Publisher()
    disk.held = True
    writer.publish(publisher, message(1))
    writer.flush()
    await asyncio.sleep(0)  # it is being synced
    writer.publish(publisher, message(2))
    writer.flush()
    disk.broken = True
    writer.publish(publisher, message(3))  # the segment is full
    threading.Timer(0.1, disk.go_on.set).start()  # it waits for the sync under way
    writer.flush()
    assert (publisher.confirmed, publisher.rejected) == ([], [2, 3])
    disk.broken, disk.held = False, False
    await writer.close()
    assert (publisher.confirmed, publisher.rejected) == ([], [2, 3, 1])
    assert writer.log.committed == 0


async def test_nothing_is_shown_after_a_failed_sync(make: Make, disk: Disk) -> None:
    writer, publisher = make(Fsync.ALWAYS), Publisher()
    disk.broken = True
    writer.publish(publisher, message(1))
    await writer.close()
    disk.broken = False
    writer.store_offset("reader", 5)
    writer.publish(publisher, message(2))
    await writer.close()
    assert (publisher.confirmed, publisher.rejected) == ([], [1, 2])
    assert writer.log.committed == 0
    with pytest.raises(Refused):
        writer.offset("reader")


async def test_a_name_is_told_its_last_id_when_the_disk_has_it(make: Make, disk: Disk) -> None:
    """Who asks begins behind it: what is lost then is lost for good."""
    writer, publisher = make(Fsync.ALWAYS), Publisher("writer")
    disk.held = True
    writer.publish(publisher, message(7))
    disk.broken = True
    with pytest.raises(OSError, match="Input/output"):
        writer.sequence("writer")
    with pytest.raises(Refused):
        writer.sequence("writer")
    disk.go_on.set()
    await writer.close()
    assert (publisher.confirmed, publisher.rejected) == ([], [7])


async def test_an_error_that_a_sync_under_way_is_told_is_known_to_who_asks(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system tells one of those who sync; the loop has not heard of it when it syncs too."""
    writer, publisher = make(Fsync.ALWAYS), Publisher("writer")
    begun = threading.Event()

    def sync(fd: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            begun.set()
            time.sleep(0.1)
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", sync)
    writer.publish(publisher, message(7))
    writer.flush()
    await asyncio.sleep(0)
    assert begun.wait(10)
    with pytest.raises(OSError, match="Input/output"):
        writer.sequence("writer")
    await writer.close()
    assert (publisher.confirmed, publisher.rejected) == ([], [7])


@pytest.mark.parametrize("is_broken", [False, True], ids=["it is synced", "it cannot be"])
@pytest.mark.parametrize("fsync", [Fsync.ALWAYS, Fsync.INTERVAL])
async def test_older_segments_go_when_the_new_one_is_synced(
    make: Make, disk: Disk, fsync: Fsync, is_broken: bool
) -> None:
    """It holds what is remembered of them."""
    rolled: list[int] = []
    writer, publisher = make(fsync, ROLLING, rolled.append), Publisher("writer")
    for number in (1, 2):
        writer.publish(publisher, message(number))
        writer.flush()
    assert len(writer.log.segments) == 2
    assert rolled == []
    disk.broken = is_broken
    await writer.close()
    assert len(rolled) == (not is_broken)


def no_handle(*_: object, **__: object) -> int:
    raise OSError(24, "Too many open files")


async def test_out_of_file_handles_it_is_synced_all_the_same(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no error of the disk's."""
    writer, publisher = make(Fsync.ALWAYS), Publisher()
    monkeypatch.setattr(os, "dup", no_handle)
    for number in (1, 2):
        writer.publish(publisher, message(number))
        await writer.close()
    assert (publisher.confirmed, publisher.rejected) == ([1, 2], [])


async def test_where_a_file_cannot_be_opened_to_sync_it_is_tried_again(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rstream_core.broker.writer.RETRY_INTERVAL", 0.05)
    writer, publisher = make(Fsync.ALWAYS, ROLLING), Publisher("writer")
    writer.publish(publisher, message(1))
    writer.flush()
    writer.log.active.close()
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", no_handle)
        await asyncio.sleep(0.1)
        with pytest.raises(OSError, match="Too many"):
            writer.sequence("writer")
    assert (publisher.confirmed, publisher.rejected) == ([], [])
    await writer.close()
    assert (publisher.confirmed, publisher.rejected) == ([1], [])


@pytest.mark.parametrize("fsync", [Fsync.NEVER, Fsync.INTERVAL])
async def test_what_is_stored_is_confirmed_though_the_segment_cannot_end(
    make: Make, disk: Disk, monkeypatch: pytest.MonkeyPatch, fsync: Fsync
) -> None:
    writer, publisher = make(fsync, ROLLING), Publisher()
    with monkeypatch.context() as patched:
        if fsync is Fsync.NEVER:
            patched.setattr(Path, "write_bytes", full)
        disk.broken = True
        writer.publish(publisher, message(1))
        writer.flush()
        assert (publisher.confirmed, publisher.rejected) == ([1], [])
        assert (writer.log.committed, len(writer.log.segments)) == (1, 1)
        disk.broken = False
    writer.publish(publisher, message(2))
    writer.flush()
    assert publisher.confirmed == [1, 2]
    assert len(writer.log.segments) == 2


async def test_an_offset_that_cannot_be_stored_rejects_no_messages(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, publisher = make(Fsync.NEVER), Publisher()
    with monkeypatch.context() as patched:
        patched.setattr(Log, "store_offsets", full)
        writer.store_offset("reader", 5)
        writer.publish(publisher, message(1))
        writer.flush()
    assert (publisher.confirmed, publisher.rejected) == ([1], [])
    assert writer.offset("reader") == 5  # the next flush stores it


async def test_offsets_that_cannot_be_stored_are_not_gathered_for_ever(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rstream_core.broker.writer.MAX_WAITING_OFFSETS", 3)
    writer = make(Fsync.NEVER)
    with monkeypatch.context() as patched:
        patched.setattr(Log, "store_offsets", full)
        for number in range(5):
            writer.store_offset(f"reader-{number}", number)
            writer.flush()
        writer.store_offset("reader-2", 9)
        writer.flush()
    assert [line for line in caplog.messages if line.endswith("and are lost")] == [
        f"offsets of 1 names cannot be stored in {writer.log.directory}, and are lost"
    ] * 2
    writer.flush()
    assert writer.log.tracking.offsets == {"reader-2": 9, "reader-3": 3, "reader-4": 4}


async def test_what_could_not_be_synced_is_synced_the_next_time(make: Make, disk: Disk) -> None:
    writer, publisher = make(Fsync.INTERVAL), Publisher()
    writer.publish(publisher, message(1))
    writer.flush()
    disk.broken = True
    with pytest.raises(OSError, match="Input/output"):
        await writer.sync()
    assert writer.is_dirty
    await writer.close()  # tells of it in the log
    disk.broken = False
    await writer.sync()
    assert not writer.is_dirty


@pytest.mark.parametrize("segment_size", [1, 10**6])
@pytest.mark.parametrize("at_once", [True, False])
async def test_what_follows_a_part_that_could_not_be_written_is_rejected(
    make: Make, monkeypatch: pytest.MonkeyPatch, segment_size: int, at_once: bool
) -> None:
    """Of a burst whose chunks are written at different times, or go to different segments."""
    monkeypatch.setattr(broker_gathering, "MIN_BATCH", 2)
    writer, publisher = make(Fsync.NEVER, segment_size), Publisher("writer")
    append = Log.append

    def once(log: Log, *arguments: Any, **more: Any) -> int:
        monkeypatch.setattr(Log, "append", append)
        return full()

    monkeypatch.setattr(Log, "append", once)
    ids = [number.to_bytes(8) for number in (1, 2, 3)]
    writer.publish(publisher, Entries(ids, [b"\0\0\0\1x"] * 3))
    if at_once:
        writer.flush()
    else:
        await eventually(lambda: bool(publisher.rejected))
    assert (publisher.confirmed, publisher.rejected) == ([], [1, 2, 3])
    assert writer.log.next_offset == 0
    writer.publish(publisher, Entries(ids, [b"\0\0\0\1x"] * 3))
    writer.flush()
    assert publisher.confirmed == [1, 2, 3]
    assert sum(sizes(writer)) == 3


def test_each_publisher_that_waits_holds_its_connection() -> None:
    class Connection:
        def __init__(self) -> None:
            self.reasons: set[str] = set()
            self.hold, self.release = self.reasons.add, self.reasons.discard

    connection = Connection()
    stream: Any = None
    one, two = (BrokerPublisher(connection, number, "", stream) for number in (1, 2))  # type: ignore[arg-type]
    one.hold()
    two.hold()
    one.release()
    assert connection.reasons
    two.release()
    assert not connection.reasons


async def test_a_deleted_stream_holds_nobody(make: Make, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = make(Fsync.ALWAYS)
    monkeypatch.setattr("rstream_core.broker.confirms.MAX_UNSYNCED", 100)
    held: list[str] = []
    publisher = Publisher()
    monkeypatch.setattr(publisher, "hold", lambda: held.append("held"))
    monkeypatch.setattr(publisher, "release", held.clear)
    writer.publish(publisher, message(1))
    writer.flush()
    assert held
    writer.retire()
    await eventually(lambda: not held)
    await writer.close()


# Holes: what a name's sequence does not pass.


@pytest.mark.parametrize("fsync", Fsync)
async def test_a_sequence_does_not_pass_what_could_not_be_written(make: Make, space: Space, fsync: Fsync) -> None:
    """A second run with the same name finds that the first one's last message is missing, and all behind it."""
    writer, publisher = make(fsync), Publisher("writer")
    space.left = 150
    for one in (small(1), message(2), small(3), small(4)):
        writer.publish(publisher, one)
        writer.flush()
    await writer.close()
    assert (publisher.confirmed, publisher.rejected) == ([1], [2, 3, 4])
    assert writer.sequence("writer") == 1
    space.left = 10**9
    assert publish(writer, publisher, small(3)) == ([], [3])
    publish(writer, publisher, message(2), small(3), small(4), small(5))
    await writer.close()
    assert (publisher.confirmed, publisher.rejected) == ([2, 3, 4, 5], [])
    assert writer.log.next_offset == writer.sequence("writer") == 5


async def test_a_hole_is_one_of_its_name_alone(make: Make, space: Space) -> None:
    writer, other, unnamed = make(Fsync.NEVER), Publisher("other"), Publisher()
    space.left = 150
    assert publish(writer, Publisher("writer"), message(1)) == ([], [1])
    assert publish(writer, other, small(2)) == ([2], [])
    assert publish(writer, unnamed, message(1), small(2), small(3)) == ([2, 3], [1])


async def test_a_hole_is_one_for_all_publishers_of_its_name(make: Make, space: Space) -> None:
    """Also for one that is declared later: a client may take up its work so, with what was behind the hole."""
    writer, one, two = make(Fsync.NEVER), Publisher("writer"), Publisher("writer")
    space.left = 150
    assert publish(writer, one, message(1), small(2)) == ([], [1, 2])
    assert publish(writer, two, small(3)) == ([], [3])
    writer.forget("writer")
    three = Publisher("writer")
    writer.declare("writer")
    assert publish(writer, three, small(4)) == ([], [4])
    assert publish(writer, three, small(1), small(3)) == ([1], [3])  # 2 is missing still
    assert publish(writer, three, small(2), small(3), small(4), small(5)) == ([2, 3, 4, 5], [])


async def test_who_asks_where_a_name_stands_may_leave_a_hole_behind(make: Make, space: Space) -> None:
    """It has given up what was rejected. Who has not asked, and has more under way, has not."""
    writer, old, new = make(Fsync.NEVER), Publisher("writer"), Publisher("writer")
    space.left = 150
    assert publish(writer, old, small(1), message(2), small(3), small(9)) == ([1], [2, 3, 9])
    assert writer.sequence("writer") == 1
    assert publish(writer, new, small(5)) == ([], [5])
    assert writer.sequence("writer", new) == 1
    assert publish(writer, new, small(4)) == ([4], [])
    assert publish(writer, old, small(10)) == ([], [10])
    assert publish(writer, new, small(9), message(11)) == ([9], [11])
    assert publish(writer, new, small(12)) == ([], [12])  # it has not asked since
    assert publish(writer, new, small(10), small(11), small(12)) == ([10, 11, 12], [])


async def test_what_is_stored_is_confirmed_though_it_comes_with_what_cannot_be(make: Make, space: Space) -> None:
    """A repetition is no reason for a hole."""
    writer, publisher = make(Fsync.NEVER), Publisher("writer")
    publish(writer, publisher, small(1), small(2))
    space.left = 150
    writer.publish(publisher, small(1))
    assert publish(writer, publisher, message(3)) == ([1], [3])
    space.left = 10**9
    assert publish(writer, publisher, small(2), message(3)) == ([2, 3], [])


async def test_a_sub_entry_that_cannot_be_leaves_a_hole(make: Make) -> None:
    writer, publisher = make(Fsync.NEVER), Publisher("writer")
    assert publish(writer, publisher, small(1), bad_sub_entry(2), small(3)) == ([1], [2, 3])
    assert publish(writer, publisher, bad_sub_entry(1)) == ([], [1])
    assert publish(writer, publisher, small(2), small(3)) == ([2, 3], [])


async def test_more_is_missing_than_is_remembered(make: Make, space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing goes on behind it, until somebody asks."""
    monkeypatch.setattr("rstream_core.broker.holes.MAX_RUNS", 2)
    writer, publisher = make(Fsync.NEVER), Publisher("writer")
    space.left = 0
    assert publish(writer, publisher, *map(small, (1, 3, 5, 7))) == ([], [1, 3, 5, 7])
    space.left = 10**9
    assert publish(writer, publisher, *map(small, (1, 3, 8, 7, 5))) == ([1, 3], [8, 7, 5])
    assert writer.sequence("writer", publisher) == 3
    assert publish(writer, publisher, *map(small, (5, 7, 8))) == ([5, 7, 8], [])


async def test_holes_are_not_gathered_for_ever(make: Make, space: Space) -> None:
    writer = make(Fsync.NEVER)
    space.left = 0
    for number in range(1000):
        publish(writer, Publisher(f"writer-{number}"), small(1))
        writer.forget(f"writer-{number}")
    assert len(writer._names.holes) == MAX_SEQUENCES
    assert "writer-999" in writer._names.holes


# Ways for a sync to fail.


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there are no eager tasks before Python 3.12")
async def test_a_sync_is_no_eager_task(make: Make, disk: Disk) -> None:
    """It would be of the old segment, which the loop syncs too, and would wait for."""
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
    rolled: list[int] = []
    writer, publisher = make(Fsync.ALWAYS, ROLLING, rolled.append), Publisher()
    disk.held = True
    writer.publish(publisher, message(1))
    writer.flush()
    assert len(writer.log.segments) == 2
    disk.go_on.set()
    await asyncio.wait_for(writer.close(), 10)
    assert (len(rolled), publisher.confirmed) == (1, [1])


async def test_without_a_thread_it_is_synced_all_the_same(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    handles = len(os.listdir("/proc/self/fd"))
    writer, publisher = make(Fsync.ALWAYS), Publisher()
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    for number in (1, 2):
        writer.publish(publisher, message(number))
        await writer.close()
    assert (publisher.confirmed, publisher.rejected) == ([1, 2], [])
    writer.log.close()
    assert len(os.listdir("/proc/self/fd")) == handles


async def test_what_ends_a_sync_leaves_nobody_without_an_answer(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rstream_core.broker.confirms.MAX_UNSYNCED", 100)
    writer, publisher = make(Fsync.ALWAYS), Publisher()
    held: list[str] = []
    monkeypatch.setattr(publisher, "hold", lambda: held.append("held"))
    monkeypatch.setattr(publisher, "release", held.clear)
    with monkeypatch.context() as patched:

        def out_of_memory(fd: int) -> int:
            raise MemoryError

        patched.setattr(os, "dup", out_of_memory)
        writer.publish(publisher, message(1))
        writer.flush()
        assert held
        assert writer._syncing is not None
        await asyncio.wait([writer._syncing])
        assert isinstance(writer._syncing.exception(), MemoryError)
    assert not held
    writer.publish(publisher, message(2))
    await writer.close()
    assert (publisher.confirmed, publisher.rejected) == ([1, 2], [])


async def test_an_offset_is_told_when_the_disk_has_it(make: Make, disk: Disk) -> None:
    """Who has it verified goes on behind it, elsewhere too."""
    writer = make(Fsync.ALWAYS)
    disk.broken = True
    writer.store_offset("reader", 5)
    with pytest.raises(OSError, match="Input/output"):
        writer.offset("reader")
    with pytest.raises(Refused):
        writer.offset("reader")
    await writer.close()


@pytest.mark.parametrize("fsync", [Fsync.ALWAYS, Fsync.INTERVAL])
async def test_older_segments_stay_until_a_late_snapshot_is_synced(
    make: Make, monkeypatch: pytest.MonkeyPatch, fsync: Fsync
) -> None:
    """The new segment has begun, and there was no space for its snapshot."""
    rolled: list[int] = []
    writer, publisher = make(fsync, ROLLING, rolled.append), Publisher("writer")
    writer.publish(publisher, message(1))
    writer.flush()
    with monkeypatch.context() as patched:
        patched.setattr(Log, "_write_snapshot", lambda log, _: len(log.segments) < 2 or full())
        writer.publish(publisher, message(2))
        writer.flush()
        await writer.close()
        assert (len(writer.log.segments), publisher.rejected, rolled) == (2, [2], [])
    writer.store_offset("reader", 1)
    await writer.close()
    assert writer.rolled_at is None
    assert len(rolled) == 1


def wanted(writer: Writer, *filters: str, match_unfiltered: bool = False) -> int:
    """How many chunks a subscription with these filters gets."""
    cursor, count = writer.log.first(), 0
    while cursor.next_chunk(frozenset(filters), match_unfiltered) is not None:
        count += 1
    cursor.close()
    return count


@pytest.mark.parametrize(
    ("published", "unfiltered"),
    [
        ((["eu"], None), 1),  # by two publishers, of which one knows no filter values
        ((None, ["eu"]), 1),
        ((["eu", ""],), 1),
        ((["eu"],), 0),
        ((None,), 1),
        (([""],), 1),
    ],
)
async def test_a_chunk_tells_whether_it_holds_messages_without_a_filter_value(
    make: Make, published: tuple[list[str] | None, ...], unfiltered: int
) -> None:
    writer = make(Fsync.NEVER)
    number = 0
    for filters in published:
        ids = [(number := number + 1).to_bytes(8) for _ in filters or [""]]
        writer.publish(Publisher(), Entries(ids, [b"\0\0\0\1x"] * len(ids), filters=filters))
    writer.flush()
    assert wanted(writer, "us", match_unfiltered=True) == unfiltered
    assert wanted(writer, "us") == 0
    assert wanted(writer, "eu") == sum("eu" in (filters or ()) for filters in published)
    # The next chunk begins anew.
    writer.publish(Publisher(), Entries([number.to_bytes(8)], [b"\0\0\0\1x"], filters=["asia"]))
    writer.flush()
    assert wanted(writer, "us", match_unfiltered=True) == unfiltered
    assert wanted(writer, "asia") == 1


def sizes(writer: Writer) -> list[int]:
    """Messages in each chunk."""
    cursor, found = writer.log.first(), []
    while (chunk := cursor.next_chunk()) is not None:
        found.append(parse_header(chunk[0]).records)
    cursor.close()
    return found


def some(count: int, first: int = 1, size: int = 0) -> Entries:
    ids = [number.to_bytes(8) for number in range(first, first + count)]
    return Entries(ids, [size.to_bytes(4) + bytes(size)] * count)


@pytest.mark.parametrize(
    ("bursts", "chunks"),
    [
        ((1,), [1]),
        ((31,), [31]),
        ((32,), [32]),
        ((33,), [32, 1]),
        ((32, 32, 32), [32, 32, 32]),
        ((33, 33, 33, 100), [32, 1, 32, 1, 32, 1, 32, 64, 4]),
        ((1, 1, 1, 1000), [1, 1, 1, 32, 64, 128, 256, 512, 8]),
        ((4999, 4999), [32, 64, 128, 256, 512, 1024, 2048, 935, 2048, 2951]),
        ((8160 + 2 * 8192 + 1,), [32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 8192, 1]),
    ],
)
async def test_chunks_grow_in_a_burst(make: Make, bursts: tuple[int, ...], chunks: list[int]) -> None:
    """As measured with RabbitMQ, where each burst waited for its confirms."""
    writer, publisher = make(Fsync.NEVER), Publisher("name")
    number = 0
    for count in bursts:
        writer.publish(publisher, some(count, number + 1))
        number += count
        await eventually(lambda: len(publisher.confirmed) == number)  # noqa: B023
    assert sizes(writer) == chunks
    assert publisher.confirmed == list(range(1, number + 1))
    assert writer.sequence("name") == number
    assert [offset for offset, _ in writer.log.tracking.sequences.values()] == [number - chunks[-1]]


async def test_the_chunks_of_a_burst_that_is_read_in_parts(make: Make) -> None:
    """What is read right behind it belongs to it."""
    loop = asyncio.get_running_loop()
    writer, publisher = make(Fsync.NEVER), Publisher()
    writer.publish(publisher, some(40))
    loop.call_soon(writer.publish, publisher, some(100, 41))  # as a read in the turn in which the 32 are written
    await eventually(lambda: len(publisher.confirmed) == 140)
    assert sizes(writer) == [32, 64, 44]
    writer.publish(publisher, some(1, 141))  # not a burst any more: written in the next turn
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(publisher.confirmed) == 141


async def test_large_messages_are_written_before_there_are_many(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_writer, "MAX_GATHERED", 1000)
    writer, publisher = make(Fsync.NEVER), Publisher()
    for number in range(10):
        writer.publish(publisher, some(1, number + 1, size=400))
    assert sizes(writer) == [3, 3, 3]
    writer.flush()
    assert sizes(writer) == [3, 3, 3, 1]


async def test_each_chunk_has_what_is_in_it(make: Make) -> None:
    """Filter values, and the last id of each name: a reader of the log may end with any chunk."""
    writer, publisher = make(Fsync.NEVER), Publisher("name")
    entries = some(40)
    writer.publish(publisher, entries._replace(filters=["eu"] * MIN_BATCH + ["us"] * 8))
    writer.flush()
    assert sizes(writer) == [32, 8]
    assert (wanted(writer, "eu"), wanted(writer, "us"), wanted(writer, "eu", "us")) == (1, 1, 2)
    assert (wanted(writer, "eu", match_unfiltered=True), wanted(writer, "x")) == (1, 0)
    writer.log.close()
    path = writer.log.directory / f"{0:020}.segment"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    opened = Log.open(writer.log.directory)
    assert (opened.next_offset, opened.tracking.sequences) == (32, {"name": (0, 32)})
    opened.close()


async def test_repetitions_are_confirmed_with_what_they_repeat(make: Make) -> None:
    """Also where they come behind chunks that are full."""
    writer, publisher = make(Fsync.NEVER), Publisher("name")
    writer.publish(publisher, some(32))
    writer.publish(publisher, some(8, 10))
    assert publisher.confirmed == []
    writer.flush()
    assert publisher.confirmed == [*range(1, 33), *range(10, 18)]
    writer.publish(publisher, some(1))
    writer.flush()
    assert publisher.confirmed[-1] == 1
    assert sizes(writer) == [32]


async def test_the_largest_chunk_can_be_counted() -> None:
    assert MAX_BATCH < 2**16


@pytest.mark.parametrize("fsync", list(Fsync))
async def test_a_new_segment_begins_with_what_needs_it(make: Make, fsync: Fsync) -> None:
    """As RabbitMQ's: what is full stays the newest until there is more, and only then older ones may go."""
    rolled: list[int] = []
    writer, publisher = make(fsync, 1000, rolled.append), Publisher("writer")
    for number in range(1, 5):  # of about 280 bytes
        writer.publish(publisher, message(number))
        writer.flush()
    assert (len(writer.log.segments), rolled) == (1, [])
    writer.publish(publisher, message(5))
    writer.flush()
    assert len(writer.log.segments) == 2
    await writer.close()
    assert len(rolled) == 1
    assert publisher.confirmed == [1, 2, 3, 4, 5]


async def test_a_burst_is_divided_among_segments(make: Make) -> None:
    writer, publisher = make(Fsync.NEVER, 5000), Publisher()
    writer.publish(publisher, some(1000, size=100))
    writer.flush()
    assert [segment.first_offset for segment in writer.log.segments] == [0, 96, 224, 480, 992]
    assert publisher.confirmed == list(range(1, 1001))
    assert writer.log.committed == 1000
