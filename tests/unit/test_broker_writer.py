"""What the only writer of a log confirms, rejects and shows, where the disk fails it at one step or another."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rstream_core.broker.delivery import BrokerPublisher
from rstream_core.broker.log import Log
from rstream_core.broker.publishing import Entries
from rstream_core.broker.refusal import Refused
from rstream_core.broker.writer import Fsync, Totals, Writer
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
    writer, publisher = make(Fsync.ALWAYS, 3 * len(BODY)), Publisher()
    disk.held = True
    writer.publish(publisher, message(1))
    writer.flush()
    await asyncio.sleep(0)  # it is being synced
    writer.publish(publisher, message(2))
    writer.flush()
    disk.broken = True
    writer.publish(publisher, message(3))  # fills the segment
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
    assert writer.offset("reader") is None


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
    writer.publish(publisher, message(1))
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


async def test_what_follows_a_part_that_could_not_be_written_is_known(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame that needs two chunks, of which the second is stored: it is not stored again."""
    monkeypatch.setattr("rstream_core.broker.writer.MAX_ENTRIES", 2)
    writer, publisher = make(Fsync.NEVER), Publisher("writer")
    append = Log.append

    def once(log: Log, *arguments: Any, **more: Any) -> int:
        monkeypatch.setattr(Log, "append", append)
        return full()

    monkeypatch.setattr(Log, "append", once)
    ids = [number.to_bytes(8) for number in (1, 2, 3)]
    writer.publish(publisher, Entries(ids, [b"\0\0\0\1x"] * 3))
    writer.flush()
    assert (publisher.confirmed, publisher.rejected) == ([3], [1, 2])
    writer.publish(publisher, message(3))
    writer.flush()
    assert publisher.confirmed == [3, 3]
    assert writer.log.next_offset == 1


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
    monkeypatch.setattr("rstream_core.broker.writer.MAX_UNSYNCED", 100)
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
