"""A file of a dump is locked and checked; nothing is removed but a file that was made here and stayed empty."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from rstream_cli.dump_file import DumpFile
from rstream_cli.exit_status import CommandError, ExitStatus


def opened(path: Path) -> DumpFile:
    return DumpFile.open(str(path), lambda text: None)


def test_a_file_that_stays_empty_is_removed_where_it_was_made(tmp_path: Path) -> None:
    new, there = tmp_path / "new", tmp_path / "there"
    there.touch()
    for path in (new, there):
        file = opened(path)
        assert path.exists()
        file.close()
    assert [path.exists() for path in (new, there)] == [False, True]
    file = opened(new)
    os.write(file.descriptor, b"x")
    file.close()
    assert new.exists()


def test_what_is_no_regular_file_is_left_where_it_is(tmp_path: Path) -> None:
    """A device has no size, as an empty file has none: /dev/null was removed once."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(CommandError, match="is no regular file"):
        opened(path)
    assert path.is_fifo()


def test_a_file_that_was_removed_before_it_was_locked_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, lock = tmp_path / "d", fcntl.flock

    def late(descriptor: int, how: int) -> None:
        path.unlink()
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(CommandError, match="has removed") as raised:
        opened(path)
    assert raised.value.status is ExitStatus.PRECONDITION
