"""What the application is done with, and where the next turn begins."""

from __future__ import annotations

import pytest

from rstream_core.consuming.progress import Progress
from rstream_core.types import Chunk


def hold(progress: Progress, offset: int, count: int = 10) -> Chunk:
    chunk = progress.held = Chunk("s", offset, 0, [b"x"] * count, None)
    return chunk


def take(progress: Progress, offset: int, count: int = 10, *, up_to: int | None = None) -> None:
    hold(progress, offset, count)
    progress.finish(up_to)


def test_a_chunk_is_done_as_a_whole_or_in_part() -> None:
    progress = Progress()
    take(progress, 0)
    assert progress.held is None
    assert progress.processed == 9
    take(progress, 10, up_to=14)
    assert progress.processed == 14
    take(progress, 20, up_to=19)  # nothing of it
    assert progress.processed == 14


@pytest.mark.parametrize(("failed", "processed"), [(10, 9), (13, 12), (19, 18)])
def test_what_failed_is_not_passed(failed: int, processed: int) -> None:
    progress = Progress()
    take(progress, 0)
    hold(progress, 10)
    progress.fail(failed)
    progress.fail(failed + 1)
    progress.finish()
    take(progress, 20)
    assert progress.processed == processed
    progress.begin_turn()
    take(progress, 30)
    assert progress.processed == 39


@pytest.mark.parametrize(("behind", "processed"), [(30, 19), (19, 19), (14, 14), (None, None)])
@pytest.mark.parametrize("is_cut", [False, True])
def test_what_is_taken_back_comes_again(behind: int | None, processed: int | None, is_cut: bool) -> None:
    progress = Progress()
    take(progress, 0)
    progress.begin_turn()
    take(progress, 10)
    hold(progress, 40)
    if is_cut:
        progress.cut_turn()
    progress.take_back(behind)
    assert progress.processed == processed
    progress.finish()  # it lies behind, too
    assert progress.processed == processed
    progress.begin_turn()
    assert progress.last_done(None) == (9 if processed is None else processed)
    take(progress, 50)
    assert progress.processed == 59


def test_what_is_held_when_a_turn_begins_is_none_of_it() -> None:
    progress = Progress()
    chunk = hold(progress, 0)
    assert not progress.is_overdue(chunk)
    progress.begin_turn()
    assert progress.is_overdue(chunk)
    progress.fail(4)
    progress.finish()
    assert progress.processed is None
    take(progress, 10)
    assert progress.processed == 19


def test_a_turn_begins_behind_what_is_stored_or_else_behind_what_was_done() -> None:
    progress = Progress()
    assert progress.last_done(None) is None
    assert progress.last_done(4) == 4
    take(progress, 0)
    progress.end_turn()
    progress.begin_turn()
    assert progress.last_done(None) == 9
    assert progress.last_done(4) == 4  # another member may have gone back on purpose
    assert progress.last_done(12) == 12


def test_what_was_done_in_a_turn_that_was_cut_short_counts_where_less_is_stored() -> None:
    progress = Progress()
    progress.begin_turn()
    take(progress, 0)
    progress.cut_turn()
    progress.begin_turn()
    assert [progress.last_done(stored) for stored in (None, 4, 12)] == [9, 9, 12]
    progress.begin_turn()  # once more, without an end
    assert progress.last_done(4) == 9
    progress.end_turn()
    assert progress.last_done(4) == 4


@pytest.mark.parametrize("is_done", [False, True])
def test_a_turn_that_was_cut_short_before_anything_was_done_begins_again_where_it_began(is_done: bool) -> None:
    """The own start may mean another offset by now, because the stream grows."""
    progress = Progress()
    progress.begin_turn()
    progress.started_at(7)
    if is_done:
        take(progress, 7, 3)
    progress.cut_turn()
    progress.begin_turn()
    assert progress.last_done(None) == (9 if is_done else 6)


def test_an_earlier_turns_start_does_not_count() -> None:
    progress = Progress()
    progress.begin_turn()
    progress.started_at(7)
    progress.begin_turn()
    progress.cut_turn()
    assert progress.last_done(None) is None
