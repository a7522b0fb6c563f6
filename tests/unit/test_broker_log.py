"""A stream on disk: what is written is read again, and what is damaged is cut off and told of."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rstream_core.broker import bloom
from rstream_core.broker.disk import sync_folder
from rstream_core.broker.log import Cursor, Log, NewChunk
from rstream_core.broker.publishing import ENTRIES_AT, split_filtered
from rstream_core.broker.segment import INDEX_HEAD, INDEX_RECORD, Span
from rstream_core.broker.tracking import MAX_SEQUENCES, Tracking, offset_records, sequence_records
from rstream_core.errors import ChunkError
from rstream_core.protocol.chunk import HEADER, SEGMENT_HEAD, parse_chunk, parse_header

FIRST_SEGMENT = f"{0:020}.segment"


def entry(body: bytes) -> bytes:
    return len(body).to_bytes(4) + body


def append(log: Log, *bodies: bytes, timestamp: int = 1000, **more: Any) -> int:
    chunk = NewChunk([entry(body) for body in bodies], len(bodies), **more)
    assert log.append([chunk], timestamp) == 1
    offset = log.next_offset - len(bodies)
    if log.is_full:
        log.roll(timestamp)
    log.commit()
    return offset


def read(log: Log, cursor: Cursor | None = None, **filters: Any) -> dict[int, bytes]:
    """Every message from there on."""
    found: dict[int, bytes] = {}
    cursor = cursor or log.first()
    while (chunk := cursor.next_chunk(**filters)) is not None:
        header, messages = parse_chunk(whole(chunk))
        found.update(enumerate(messages, header.first_offset))
    cursor.close()
    log.close_unused()
    return found


def whole(chunk: tuple[bytes, memoryview | Span]) -> bytes:
    header, data = chunk
    return header + (data.read() if isinstance(data, Span) else data)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log.create(tmp_path, segment_size=300)


def some_log(directory: Path) -> dict[int, bytes]:
    """Four segments with all that there is: messages, names, filters, stored offsets, snapshots."""
    directory.mkdir(exist_ok=True)
    log = Log.create(directory, segment_size=300)
    for number in range(12):
        append(
            log,
            f"{number}-one".encode(),
            f"{number}-two".encode(),
            timestamp=1000 + number,
            sequences={"writer": number + 1},
            filters={"a"} if number % 2 else set(),
        )
        if number % 3 == 0:
            log.store_offsets(offset_records({"reader": log.next_offset}), 1000 + number)
    log.commit()
    found = read(log)
    log.close()
    assert len(log.segments) > 3
    return found


def test_what_is_written_is_read(log: Log) -> None:
    assert read(log) == {}
    assert append(log, b"a", b"b") == 0
    assert append(log, b"") == 2
    assert read(log) == {0: b"a", 1: b"b", 2: b""}
    assert read(log, log.next()) == {}
    assert read(log, log.at(2)) == {2: b""}


def test_readers_see_what_is_committed(log: Log) -> None:
    log.append([NewChunk([entry(b"a")], 1)], 1000)
    assert read(log) == {}
    assert read(log, log.last()) == {}
    log.commit()
    assert read(log) == read(log, log.last()) == {0: b"a"}


def test_the_files_are_those_of_osiris(tmp_path: Path) -> None:
    log = Log.create(tmp_path)
    append(log, b"body", sequences={"w": 7}, timestamp=5)
    log.close()
    data = (tmp_path / FIRST_SEGMENT).read_bytes()
    assert data[:8] == SEGMENT_HEAD == b"OSIL\0\0\0\1"
    header = parse_header(data[8:56])
    assert header[:5] == (0, 1, 1, 5, 1)
    assert data[56:64] == entry(b"body")
    assert data[64:] == b"\0\1w" + (7).to_bytes(8)
    index = (tmp_path / f"{0:020}.index").read_bytes()
    assert index[:8] == INDEX_HEAD == b"OSII\0\0\0\1"
    assert INDEX_RECORD.unpack(index[8:]) == (0, 5, 1, 8, 0)
    assert INDEX_RECORD.size == 29


def test_opened_again_it_goes_on(tmp_path: Path) -> None:
    expected = some_log(tmp_path)
    log = Log.open(tmp_path, segment_size=300)
    assert log.dropped == []
    assert read(log) == expected
    assert log.tracking.sequence("writer") == 12
    assert log.tracking.offsets["reader"] > 0
    before = log.next_offset
    assert append(log, b"more") == before
    log.close()
    assert read(Log.open(tmp_path)) == {**expected, before: b"more"}


@pytest.mark.parametrize("where", range(24))
def test_every_offset_and_time_is_found(tmp_path: Path, where: int) -> None:
    expected = some_log(tmp_path)
    log = Log.open(tmp_path)
    offset = sorted(expected)[where]
    assert min(read(log, log.at(offset))) in (offset - 1, offset)
    timestamp = 1000 + where // 2
    found = read(log, log.since(timestamp))
    assert found[min(found)] == f"{where // 2}-one".encode()
    assert read(log, log.since(2000)) == {}


def test_retention(log: Log) -> None:
    for number in range(30):
        append(log, b"x" * 50, timestamp=number, sequences={"writer": number})
    before = len(log.segments)
    reader = log.first()
    log.retain(None, 100, 50)
    assert len(log.segments) == before
    log.retain(None, 30, 50)
    assert before > len(log.segments) > 1
    assert min(read(log)) > 0
    log.retain(500, None, 50)
    assert log.size <= 500
    log.retain(0, 0, 10_000)
    assert len(log.segments) == 1
    assert len(list(log.directory.glob("*.segment"))) == len(list(log.directory.glob("*.index"))) == 1
    # Who was reading reads what it had opened, and then what is left.
    assert min(read(log, reader)) == 0
    log.close()
    assert Log.open(log.directory).tracking.sequence("writer") == 29


def test_a_reader_follows_into_new_segments(log: Log) -> None:
    cursor = log.first()
    seen = []
    for number in range(40):
        append(log, f"{number}".encode() * 10)
        chunk = cursor.next_chunk()
        assert chunk is not None
        seen.append(parse_header(chunk[0]).first_offset)
        assert cursor.next_chunk() is None
    assert seen == list(range(40))
    assert len(log.segments) > 5
    cursor.close()
    log.close()


def test_a_chunk_larger_than_what_is_read_ahead(log: Log) -> None:
    append(log, b"small")
    append(log, b"x" * 500_000, b"y" * 200_000)
    append(log, b"small again")
    assert [len(body) for body in read(log).values()] == [5, 500_000, 200_000, 11]
    log.close()


def test_passing_over_is_bounded(log: Log) -> None:
    for _ in range(30):
        append(log, b"m", filters={"other"})
    append(log, b"wanted", filters={"wanted"})
    cursor = log.first()
    tries = 0
    while (found := cursor.next_chunk(frozenset({"wanted"}), patience=10)) is None:
        assert cursor.is_behind()
        tries += 1
    assert tries == 3
    assert parse_chunk(whole(found))[1] == [b"wanted"]
    assert not cursor.is_behind()
    cursor.close()
    log.close()


def test_a_failed_write_leaves_the_log_as_it_was(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    append(log, b"a")
    real = os.pwrite

    def full(fd: int, data: bytes, position: int) -> int:
        real(fd, data[: len(data) // 2], position)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space"):
            log.append([NewChunk([entry(b"lost" * 20)], 1)] * 2, 1000)
    assert append(log, b"b") == 1
    assert read(log) == {0: b"a", 1: b"b"}
    log.close()
    opened = Log.open(log.directory)
    assert read(opened) == {0: b"a", 1: b"b"}


# Damage.


def copy_of(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target


def is_beginning(found: dict[int, bytes], expected: dict[int, bytes]) -> bool:
    return list(found.items()) == list(expected.items())[: len(found)]


def check(directory: Path, expected: dict[int, bytes]) -> tuple[Log, dict[int, bytes]]:
    """Opens what is damaged: what it holds is the beginning; it takes more, and is whole from then on."""
    log = Log.open(directory, segment_size=300)
    found = read(log)
    assert is_beginning(found, expected)
    dropped = log.dropped
    offset = append(log, b"more")
    log.close()
    again = Log.open(directory, segment_size=300)
    assert again.dropped == []
    assert read(again) == {**found, offset: b"more"}
    again.dropped = dropped
    return again, found


@pytest.mark.parametrize("number", [0, 1, -2, -1])
def test_cut_anywhere(tmp_path: Path, number: int) -> None:
    expected = some_log(tmp_path / "whole")
    name = sorted((tmp_path / "whole").glob("*.segment"))[number].name
    size = (tmp_path / "whole" / name).stat().st_size
    lengths = set()
    for length in range(0, size, 7):
        directory = copy_of(tmp_path / "whole", tmp_path / "damaged")
        os.truncate(directory / name, length)
        log, found = check(directory, expected)
        lengths.add(len(found))
        if log.dropped:  # cut between two chunks, it is the next file that does not fit
            assert log.dropped[0].file.name >= name
            assert log.dropped[0].reason
        else:
            assert number == -1
    assert len(lengths) > 1 or number == -1


def contents(directory: Path, kind: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(directory.glob(f"*.{kind}"))]


def test_what_is_damaged_can_be_put_together_again(tmp_path: Path) -> None:
    some_log(tmp_path)
    whole = contents(tmp_path, "segment")
    first = min(tmp_path.glob("*.segment"))
    length_at = len(SEGMENT_HEAD) + 37  # of the chunk's data: it seems to end after the file
    for position in (len(SEGMENT_HEAD) + HEADER.size, len(whole[0]) // 2, length_at):
        data = bytearray(whole[0])
        data[position] ^= 0x80
        first.write_bytes(data)
        Log.open(tmp_path, segment_size=300).close()
        kept = contents(tmp_path, "damaged")
        read = first.read_bytes()
        assert b"".join(kept) in (b"".join([data[len(read) :], *whole[1:]]), b"".join([data, *whole[1:]]))
        assert len(kept) == len(whole)
        for path in tmp_path.glob("*.damaged"):
            path.rename(path.with_suffix(""))
        first.write_bytes(whole[0])
    assert contents(tmp_path, "segment") == whole


def test_a_last_chunk_that_is_not_whole_is_not_kept(tmp_path: Path) -> None:
    some_log(tmp_path)
    last = max(tmp_path.glob("*.segment"))
    os.truncate(last, last.stat().st_size - 1)
    (dropped,) = Log.open(tmp_path, segment_size=300).dropped
    assert not dropped.is_kept
    assert contents(tmp_path, "damaged") == []


@pytest.mark.parametrize("number", [0, -2])
def test_a_flipped_bit_anywhere(tmp_path: Path, number: int) -> None:
    """In the data and in the header, in filters and in trailers: it is found, and nothing after it is believed.

    What is not believed is kept, all of it.
    """
    expected = some_log(tmp_path / "whole")
    name = sorted((tmp_path / "whole").glob("*.segment"))[number].name
    size = (tmp_path / "whole" / name).stat().st_size
    for position in range(number % 2, size, 2):
        directory = copy_of(tmp_path / "whole", tmp_path / "damaged")
        data = bytearray((directory / name).read_bytes())
        data[position] ^= 1 << position % 8
        (directory / name).write_bytes(data)
        log = Log.open(directory, segment_size=300)
        assert len(log.dropped) == 1, position
        dropped = log.dropped[0]
        assert dropped.file.name == name
        assert dropped.position <= max(position, len(SEGMENT_HEAD))
        assert (dropped.size, dropped.is_kept) == (sum(map(len, contents(directory, "damaged"))), True)
        assert is_beginning(read(log), expected)
        assert log.tracking.sequence("writer") <= 12
        log.close()


def test_an_empty_file(tmp_path: Path) -> None:
    expected = some_log(tmp_path / "whole")
    names = [path.name for path in sorted((tmp_path / "whole").glob("*.segment"))]
    for number, name in enumerate(names):
        directory = copy_of(tmp_path / "whole", tmp_path / "damaged")
        (directory / name).write_bytes(b"")
        log, found = check(directory, expected)
        assert log.dropped[0].reason == "it is empty"
        assert (len(found) > 0) == (number > 0)


def test_a_missing_segment(tmp_path: Path) -> None:
    expected = some_log(tmp_path)
    second = sorted(tmp_path.glob("*.segment"))[1]
    second.unlink()
    log, found = check(tmp_path, expected)
    assert log.dropped[0].reason == "the segment before it is missing"
    assert 0 < len(found) < len(expected)


@pytest.mark.parametrize("name", ["zzz", f"{0:020} (copy)", "-1"])
def test_a_file_of_another_name(tmp_path: Path, name: str) -> None:
    """It goes, and takes nothing along."""
    expected = some_log(tmp_path)
    (tmp_path / f"{name}.segment").write_bytes(b"not a segment")
    log, found = check(tmp_path, expected)
    assert found == expected
    assert log.dropped[0].size == 13


@pytest.mark.parametrize("content", [b"", b"OSII", b"x" * 100, None])
def test_an_index_is_made_anew(tmp_path: Path, content: bytes | None) -> None:
    expected = some_log(tmp_path)
    index = sorted(tmp_path.glob("*.index"))[1]
    whole = index.read_bytes()
    index.unlink()
    if content is not None:
        index.write_bytes(content)
    log = Log.open(tmp_path)
    assert log.dropped == []
    assert index.read_bytes() == whole
    assert read(log) == expected


def test_killed_between_a_new_segment_and_its_snapshot(tmp_path: Path) -> None:
    some_log(tmp_path)
    log = Log.open(tmp_path)
    name = tmp_path / f"{log.next_offset:020}.segment"
    name.write_bytes(b"")
    log = Log.open(tmp_path)
    check_snapshot(log)


def test_a_snapshot_that_could_not_be_written_is_written_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then older segments stay: only they know."""
    some_log(tmp_path)
    log = Log.open(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space"):
            log.roll(2000)
        with pytest.raises(OSError, match="No space"):
            append(log, b"refused")
    check_snapshot(log)


def check_snapshot(log: Log) -> None:
    """It is what the next message brings, and then all the rest may go."""
    remembered = log.tracking.sequences.copy(), log.tracking.offsets.copy()
    segments = len(log.segments)
    log.retain(0, None, 3000)
    assert len(log.segments) == segments > 1
    log.append([NewChunk([entry(b"more")], 1)], 3000)
    log.retain(0, None, 3000)
    assert len(log.segments) == 1
    log.close()
    log = Log.open(log.directory)
    assert log.dropped == []
    assert (log.tracking.sequences, log.tracking.offsets) == remembered
    assert list(read(log).values()) == [b"more"]


def full(*_: object, **__: object) -> int:
    raise OSError(28, "No space left on device")


def test_what_was_refused_is_not_there_when_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its index could not be written, and nothing can be taken back on this disk: else a rejected message is there."""
    log = Log.create(tmp_path)
    append(log, b"a")
    real = os.pwrite

    def partly(fd: int, data: bytes, position: int) -> int:
        if fd == log.active.index_fd:
            return full()
        return real(fd, data, position)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", partly)
        patched.setattr(os, "ftruncate", full)
        with pytest.raises(OSError, match="No space"):
            append(log, b"refused")
    log.close()
    log = Log.open(tmp_path)
    assert (log.dropped, read(log)) == ([], {0: b"a"})


def test_a_segment_that_cannot_go_goes_the_next_time(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        append(log, b"x" * 50, timestamp=number)
    before = len(log.segments)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", full)
        with pytest.raises(OSError, match="No space"):
            log.retain(0, None, 50)
    assert len(log.segments) == before
    log.retain(0, None, 50)
    assert len(log.segments) == len(list(log.directory.glob("*.segment"))) == 1


OPTIMIZED = """
import pathlib, sys
from rstream_core.broker.log import Log, NewChunk
log = Log.create(pathlib.Path(sys.argv[1]))
log.append([NewChunk([b"\\0\\0\\0\\1x"], 1)], 1)
log.roll(1)
log.commit()
log.close_unused()
cursor = log.first()
log.retain(0, None, 1)
print(len(log.segments), cursor.next_chunk() is not None)
"""


def test_who_has_not_begun_to_read_can_although_the_segment_goes(tmp_path: Path) -> None:
    """Without assertions too."""
    command = [sys.executable, "-O", "-c", OPTIMIZED, str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1 True\n"


# What a stream remembers.


def test_tracking_goes_through_its_bytes() -> None:
    tracking = Tracking()
    tracking.apply(5, sequence_records({"a": 1, "ü": 2**64 - 1}) + offset_records({"r": 9}))
    assert (tracking.sequence("a"), tracking.sequence("ü"), tracking.sequence("none")) == (1, 2**64 - 1, 0)
    other = Tracking()
    other.replace(tracking.snapshot())
    assert (other.sequences, other.offsets) == (tracking.sequences, tracking.offsets)
    assert other.sequences["a"] == (5, 1)
    for size in range(1, len(tracking.snapshot())):
        try:
            Tracking().replace(tracking.snapshot()[:size])
        except ChunkError:
            continue


def test_who_published_the_longest_ago_is_forgotten() -> None:
    tracking = Tracking()
    for number in range(MAX_SEQUENCES):
        tracking.set_sequence(f"writer-{number}", number, number)
    tracking.set_sequence("writer-0", 1000, 1000)
    tracking.set_sequence("one more", 1001, 1)
    assert len(tracking.sequences) == MAX_SEQUENCES
    assert tracking.sequence("writer-0") == 1000
    assert tracking.sequence("writer-1") == 0


def test_a_segment_that_could_not_be_begun_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log goes on where it is, and nothing of what follows is taken for damage when it is opened again."""
    log = Log.create(tmp_path, segment_size=300)
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.suffix == ".index":
            raise OSError(28, "No space left on device")
        return write(path, data)

    bodies = [f"message {number}".encode() for number in range(30)]
    monkeypatch.setattr(Path, "write_bytes", full)
    for body in bodies[:15]:
        with contextlib.suppress(OSError):
            append(log, body)
        log.commit()
    assert len(list(tmp_path.glob("*.segment"))) == 1
    monkeypatch.setattr(Path, "write_bytes", write)
    for body in bodies[15:]:
        append(log, body)
    assert len(log.segments) > 1
    log.close()
    opened = Log.open(tmp_path, segment_size=300)
    assert opened.dropped == []
    assert list(read(opened).values()) == bodies


def test_a_segment_that_was_given_up_is_passed_over(tmp_path: Path) -> None:
    expected = some_log(tmp_path)
    left = tmp_path / f"{1:020}.segment"
    left.write_bytes(SEGMENT_HEAD)
    opened = Log.open(tmp_path, segment_size=300)
    assert opened.dropped == []
    assert read(opened) == expected
    assert not left.exists()


def test_a_filter_value_that_is_no_text_is_one_that_nobody_asks_for() -> None:
    message = (1).to_bytes(8) + (1).to_bytes(2) + b"\x80" + (1).to_bytes(4) + b"x"
    entries = split_filtered(bytes(ENTRIES_AT) + message)
    assert entries.filters is not None
    bits = bloom.build(set(entries.filters), 16)
    assert not bloom.wanted(bits, {"eu"}, match_unfiltered=False)


@pytest.mark.parametrize("length", range(len(SEGMENT_HEAD)))
def test_a_segment_that_was_not_begun_to_its_end_is_no_damage(tmp_path: Path, length: int) -> None:
    """The last one: nothing of it was confirmed, so nothing of it is kept, and it goes on from there."""
    expected = some_log(tmp_path)
    log = Log.open(tmp_path, segment_size=300)
    log.roll(2000)
    log.close()
    last = max(tmp_path.glob("*.segment"))
    os.truncate(last, length)
    opened, found = check(tmp_path, expected)
    assert found == expected
    (dropped,) = opened.dropped
    assert (dropped.file, dropped.is_kept) == (last, False)
    assert (dropped.position, dropped.size) == (length, 0)
    assert dropped.reason == ("it ends within its head" if length else "it is empty")
    assert contents(tmp_path, "damaged") == []


def test_what_is_just_within_its_bounds_stays(tmp_path: Path) -> None:
    """Bytes and age; beyond them by one, the oldest segment goes, and no other."""
    some_log(tmp_path)
    for bounds in ("bytes", "age"):
        log = Log.open(tmp_path, segment_size=300)
        log.roll(5000)
        names = [segment.path.name for segment in log.segments]
        oldest = log.segments[0].last_timestamp
        if bounds == "bytes":
            log.retain(log.size, None, 10**9)
            assert [segment.path.name for segment in log.segments] == names
            log.retain(log.size - 1, None, 10**9)
        else:
            log.retain(None, 100, oldest + 100)
            assert [segment.path.name for segment in log.segments] == names
            log.retain(None, 100, oldest + 101)
        assert [segment.path.name for segment in log.segments] == names[1:]
        log.close()


def test_what_was_written_of_a_chunk_before_the_disk_was_full_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would stand behind a smaller one that there is space for, and be taken for damage."""
    log = Log.create(tmp_path, segment_size=10**6)
    append(log, b"first")
    pwrite = os.pwrite

    def full(fd: int, data: bytes, position: int) -> int:
        if len(data) > 5000:
            return pwrite(fd, data[:5000], position)
        if len(data) > 1000:
            raise OSError(28, "No space left on device")
        return pwrite(fd, data, position)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space"):
            append(log, bytes(8000))
        assert log.active.path.stat().st_size == log.active.size
        append(log, b"small")
    log.close()
    again = Log.open(tmp_path, segment_size=10**6)
    assert again.dropped == []
    assert list(read(again).values()) == [b"first", b"small"]


def test_a_snapshot_forgets_offsets_that_retention_has_passed_and_no_others(tmp_path: Path) -> None:
    log = Log.create(tmp_path, segment_size=100)
    for number in range(4):
        append(log, bytes(100), timestamp=number)
    log.retain(2 * log.size // 3, None, 10)
    first = log.first_chunk_id
    assert first is not None
    assert first > 0
    log.store_offsets(offset_records({"below": first - 1, "at": first, "above": first + 1}), 10)
    log.roll(10)
    kept = {"at": first, "above": first + 1}
    assert log.tracking.offsets == kept
    log.close()
    assert Log.open(tmp_path, segment_size=100).tracking.offsets == kept


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_length_that_lies_is_damage_unless_nothing_follows(tmp_path: Path, number: int) -> None:
    """A chunk that seems to end behind the file: where others follow, they are kept."""
    log = Log.create(tmp_path, segment_size=10**6)
    places = []
    for body in (b"one", b"two", b"three"):
        places.append(log.active.size)
        append(log, body, body)
    log.close()
    path = tmp_path / FIRST_SEGMENT
    whole = path.read_bytes()
    data = bytearray(whole)
    data[places[number] + 37] ^= 0x40  # the length of the data
    path.write_bytes(data)
    opened = Log.open(tmp_path, segment_size=10**6)
    (dropped,) = opened.dropped
    assert (dropped.position if number else len(SEGMENT_HEAD)) == places[number]
    assert dropped.is_kept is (number < 2)
    assert len(read(opened)) == 2 * number
    kept = contents(tmp_path, "damaged")
    assert kept == ([] if number == 2 else [bytes(data[dropped.position :])])


def test_files_that_somebody_reads_stay_open(tmp_path: Path) -> None:
    log = Log.create(tmp_path, segment_size=1)
    for _ in range(3):
        append(log, b"x")
    cursor = log.first()
    assert cursor.next_chunk() is not None
    log.close_unused()
    assert [segment._fd >= 0 for segment in log.segments] == [True, False, False, False]
    log.segments[0].path.unlink()
    assert cursor.next_chunk() is not None  # reads on
    cursor.close()
    log.segment_size = 10**6
    append(log, b"y")
    assert log.active._fd >= 0
    log.close_unused()
    assert not any(segment._fd >= 0 or segment._index_fd >= 0 for segment in log.segments)


@pytest.mark.parametrize("is_read", [False, True])
def test_a_full_segment_is_closed_unless_somebody_reads_it(tmp_path: Path, is_read: bool) -> None:
    log = Log.create(tmp_path, segment_size=10**6)
    append(log, b"x")
    cursor = log.first() if is_read else None
    full = log.active
    log.roll(1000)
    assert (full._fd >= 0, full._index_fd >= 0) == (is_read, is_read)
    if cursor is not None:
        assert cursor.next_chunk() is not None
        append(log, b"y")
        assert cursor.next_chunk() is not None  # it goes on in the next one, and this one is closed
        assert full._fd < 0
        cursor.close()
    log.close()


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_what_is_closed_gives_its_file_handles_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a segment, and the one with which a directory is synced."""
    opened: list[int] = []
    real = os.open

    def keep(*arguments: Any, **more: Any) -> int:
        opened.append(real(*arguments, **more))
        return opened[-1]

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", keep)
        log = Log.create(tmp_path, durable=True)
        append(log, b"x")
        sync_folder(tmp_path)
        log.close()
    assert len(opened) > 4
    assert not any(map(is_open, opened))


def test_the_end_is_no_chunk(log: Log) -> None:
    """The offset that is to come next: nothing is there, also where a chunk ends just before it."""
    append(log, b"a", b"b")
    assert read(log, log.at(2)) == {}
    assert read(log, log.at(1)) == {0: b"a", 1: b"b"}
    log.close()


def test_a_reader_of_a_segment_that_is_gone_reads_on_when_another_leaves(tmp_path: Path) -> None:
    log = Log.create(tmp_path, segment_size=1)
    append(log, b"x" * 100)
    log.store_offsets(offset_records({"reader": 0}), 1000)
    one, other = log.first(), log.first()
    assert one.next_chunk() is not None
    log.retain(0, None, 2000)
    one.close()
    chunk = other.next_chunk()
    assert chunk is not None
    assert parse_chunk(whole(chunk))[1] == [b"x" * 100]
    other.close()
    log.close()


def test_the_newest_segment_stays_open_for_who_writes_to_it(log: Log) -> None:
    append(log, b"a")
    log.first().close()
    assert log.active._fd >= 0
    log.close()


def test_segments_that_were_read_to_their_end_are_given_back(tmp_path: Path) -> None:
    """Also those that a reader came to from the one before."""
    log = Log.create(tmp_path, segment_size=1)
    for _ in range(3):
        append(log, b"x")
    cursor = log.first()
    while cursor.next_chunk() is not None:
        pass
    cursor.close()
    assert [segment.readers for segment in log.segments] == [0] * 4
    log.close()


def test_who_has_passed_over_the_last_chunk_is_not_behind(log: Log) -> None:
    append(log, b"a", b"b", b"c", filters={"other"})
    cursor = log.first()
    assert cursor.next_chunk(frozenset({"wanted"})) is None
    assert (cursor.offset, cursor.is_behind()) == (3, False)
    cursor.close()
    log.close()


def test_stored_offsets_take_one_offset(log: Log) -> None:
    """However many they are: RabbitMQ's own records do (``test_the_brokers_own_records_are_no_gap``)."""
    append(log, b"a")
    log.store_offsets(offset_records({"one": 0, "two": 0}), 1000)
    assert append(log, b"b") == 2
    assert read(log) == {0: b"a", 2: b"b"}
    log.close()


def test_the_offset_of_the_first_message_is_remembered(tmp_path: Path) -> None:
    """It is 0: retention has not passed it."""
    log = Log.create(tmp_path)
    append(log, b"a")
    log.store_offsets(offset_records({"reader": 0}), 1000)
    log.roll(1000)
    assert log.tracking.offsets == {"reader": 0}
    log.close()
    assert Log.open(tmp_path).tracking.offsets == {"reader": 0}


def test_where_the_last_message_is_gone_the_last_chunk_is_the_end(tmp_path: Path) -> None:
    """The newest segment holds nothing but what is remembered."""
    log = Log.create(tmp_path, segment_size=1)
    append(log, b"a", sequences={"writer": 1})
    log.retain(0, None, 2000)
    assert log.last_user_chunk is None
    assert read(log, log.last()) == {}
    append(log, b"b")
    assert list(read(log, log.last()).values()) == [b"b"]
    log.close()


def test_an_empty_log_is_not_damaged(tmp_path: Path) -> None:
    Log.create(tmp_path).close()
    log = Log.open(tmp_path)
    assert (log.dropped, log.next_offset, len(log.segments)) == ([], 0, 1)
    log.close()


def test_damage_that_cannot_be_put_aside_is_told_as_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full before there is a file to take back; nothing of the segment is lost."""
    some_log(tmp_path)
    first = min(tmp_path.glob("*.segment"))
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    first.write_bytes(data)
    before = contents(tmp_path, "segment")
    real = Path.open

    def no_new_ones(path: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        return full() if "x" in mode else real(path, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", no_new_ones)
    with pytest.raises(OSError, match="No space"):
        Log.open(tmp_path, segment_size=300)
    assert contents(tmp_path, "segment") == before


def test_how_much_is_passed_over_in_one_turn(log: Log) -> None:
    """Of chunks that nobody wants: a broker's loop goes on after 4096 of them."""
    log.segment_size = 10**9
    for _ in range(4096):
        append(log, b"", filters={"other"})
    append(log, b"x", filters={"wanted"})
    cursor = log.first()
    assert cursor.next_chunk(frozenset({"wanted"})) is None
    assert (cursor.offset, cursor.is_behind()) == (4096, True)
    assert cursor.next_chunk(frozenset({"wanted"})) is not None
    cursor.close()
    log.close()


def some_segments(directory: Path) -> list[Path]:
    """Of a log of five messages, one in each, whose oldest was dropped."""
    log = Log.create(directory, segment_size=100)
    for number in range(5):
        append(log, b"m" * 60, timestamp=number)
    log.retain(None, 100, 101)
    log.close()
    found = sorted(directory.glob("*.segment"))
    assert [path.stem.lstrip("0") for path in found] == ["1", "2", "3", "4", "5"]
    return found


ANEW = "no segment is there, and one with offset 5 was: it begins anew at offset 0"
FIRST_GONE = "offsets 1 to 2 are gone: their segments are missing"
LAST_GONE = "offsets from 5 on are gone, and given again: their segments are missing"


@pytest.mark.parametrize(
    ("gone", "told", "starts", "ends"),
    [
        ([], [], 1, 5),
        ([0, 1], [FIRST_GONE], 3, 5),
        ([4], [LAST_GONE], 1, 5),
        ([0, 1, 4], [FIRST_GONE, LAST_GONE], 3, 5),
        ([0, 1, 2, 3, 4], [ANEW], 0, 0),
    ],
)
@pytest.mark.parametrize("kept", ["range and index", "range", "index"])
def test_missing_segments_are_told_of(
    tmp_path: Path, kept: str, gone: list[int], told: list[str], starts: int, ends: int
) -> None:
    """By the file that says which there are; in a folder of an earlier version, by the index that was left behind."""
    segments = some_segments(tmp_path)
    for number in gone:
        segments[number].unlink()
        if kept == "range":
            segments[number].with_suffix(".index").unlink()
    if kept == "index":
        (tmp_path / "segments").unlink()
    log = Log.open(tmp_path, segment_size=100)
    assert (log.missing, log.dropped) == (told, [])
    assert (log.segments[0].first_offset, log.next_offset) == (starts, ends)
    log.close()
    opened = Log.open(tmp_path, segment_size=100)  # told once
    assert (opened.missing, opened.dropped) == ([], [])
    opened.close()


@pytest.mark.parametrize("content", [None, b"", b"x", bytes(20)])
def test_a_folder_that_does_not_say_which_segments_there_are(tmp_path: Path, content: bytes | None) -> None:
    """Of an earlier version, or damaged: then nothing is missed."""
    segments = some_segments(tmp_path)
    path = tmp_path / "segments"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    for gone in (segments[0], segments[4]):
        gone.unlink()
        gone.with_suffix(".index").unlink()
    log = Log.open(tmp_path, segment_size=100)
    assert (log.missing, log.segments[0].first_offset, log.next_offset) == ([], 2, 5)
    log.close()


def test_retention_that_was_cut_short_leaves_nothing_to_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever the process is killed in the middle of it."""
    unlink, pwrite = Path.unlink, os.pwrite
    left = 0

    def kill() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt

    def killed_unlink(path: Path, missing_ok: bool = False) -> None:
        kill()
        unlink(path, missing_ok)

    def killed_pwrite(fd: int, data: bytes, position: int) -> int:
        kill()
        return pwrite(fd, data, position)

    for steps in range(12):  # three files for each of the four that go
        directory = tmp_path / str(steps)
        directory.mkdir()
        some_segments(directory)
        log = Log.open(directory, segment_size=100)
        left = steps
        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", killed_unlink)
            patched.setattr(os, "pwrite", killed_pwrite)
            with pytest.raises(KeyboardInterrupt):
                log.retain(0, None, 0)
        log.close()
        opened = Log.open(directory, segment_size=100)
        assert (opened.missing, opened.dropped) == ([], [])
        opened.close()


def test_where_it_cannot_be_said_which_segments_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk, say: nothing wrong is left, and the rest goes on."""
    some_segments(tmp_path)
    log = Log.open(tmp_path, segment_size=100)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        log.retain(0, None, 0)
    assert not (tmp_path / "segments").exists()
    log.close()
    opened = Log.open(tmp_path, segment_size=100)
    assert (opened.missing, len(opened.segments)) == ([], 1)
    opened.close()


def test_one_write_takes_as_many_chunks_as_the_segment(tmp_path: Path) -> None:
    log = Log.create(tmp_path, segment_size=300)
    chunks = [NewChunk([entry(b"m" * 60)] * 2, 2, {"writer": number}, {"f"}) for number in range(5)]
    assert log.append(chunks, 1000) == 2  # of some 220 bytes each
    assert log.append(chunks[2:], 1000) == 1  # at least one
    assert log.next_offset == 6
    assert log.tracking.sequences == {"writer": (4, 2)}
    remembered = log.tracking.sequences.copy()
    log.close()
    opened = Log.open(tmp_path)
    assert (opened.dropped, opened.next_offset, opened.tracking.sequences) == ([], 6, remembered)
    assert [opened.active.record(number)[0] for number in range(3)] == [0, 2, 4]
    opened.close()
