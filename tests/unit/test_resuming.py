"""Where a copy begins, and when it must not; and the names of copies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rstream_core import ConfigurationError, CopyRefused
from rstream_core.copying.names import Place, check_prefix, copy_name
from rstream_core.copying.resuming import Found, Target, begin_at

SOURCE = Place("rabbit@a", "/", "s", frozenset({"a:5552"}))
OTHERS = [Place("rabbit@a", "/", f"t-{number}", frozenset({"a:5552"})) for number in range(2)]


def target(last_id: int = 0, last_offset: int | None = None, *, begun: bool | None = None, number: int = 0) -> Target:
    return Target(OTHERS[number], last_id, last_offset, bool(last_id) if begun is None else begun)


def found(*targets: Target, **changes: Any) -> Found:
    values: dict[str, Any] = {
        "source": SOURCE,
        "name": "copy-s-0",
        "first_offset": 0,
        "last_offset": 99,
        "mark": None,
        "is_marked": True,
        "targets": targets or (target(),),
    }
    return Found(**{**values, **changes})


def test_a_new_copy_begins_where_it_is_to() -> None:
    assert begin_at(found()) is None
    assert begin_at(found(start=7)) == 7
    assert begin_at(found(last_offset=None, first_offset=None)) is None
    assert begin_at(found(target(0, 5), is_appended=True, start=7)) == 7


def test_a_target_that_was_made_anew_gets_all_whatever_the_mark_says() -> None:
    assert begin_at(found(mark=50)) is None
    assert begin_at(found(mark=50, start=7, skips=True)) == 7


def test_a_copy_goes_on_behind_the_last_id() -> None:
    assert begin_at(found(target(40, 39), mark=0)) == 40
    assert begin_at(found(target(100, 99), mark=99)) == 100
    assert begin_at(found(target(40, 39), mark=70)) == 40  # all messages go there: the target says it best


def test_what_was_left_out_is_not_read_again() -> None:
    assert begin_at(found(target(40, 9), mark=70, skips=True)) == 70
    assert begin_at(found(target(40, 9), mark=20, skips=True)) == 40
    assert begin_at(found(target(40, 9), mark=None, first_offset=40, skips=True)) == 40


def test_with_several_targets_it_goes_on_at_the_mark() -> None:
    both = target(40, 9), target(80, 9, number=1)
    assert begin_at(found(*both, mark=30, skips=True)) == 30
    assert begin_at(found(*both, mark=None, first_offset=80, skips=True)) is None
    assert begin_at(found(*both, mark=None, is_marked=False, skips=True)) is None


def test_with_one_of_several_targets_made_anew_it_begins_again() -> None:
    """What is missing there lies anywhere before the mark; the other one drops what it has."""
    both = target(0, None, begun=False), target(80, 9, number=1)
    assert begin_at(found(*both, mark=30, skips=True)) is None
    assert begin_at(found(*both, mark=30, skips=True, start=5)) == 5


def test_messages_of_others_are_refused() -> None:
    with pytest.raises(CopyRefused, match="holds messages, and none of them under the name of this copy, 'copy-s-0'"):
        begin_at(found(target(0, 5)))
    with pytest.raises(CopyRefused, match="'t-1' holds messages"):
        begin_at(found(target(40, 9), target(0, 3, number=1), mark=5, skips=True))
    # Another partition of the source was copied there.
    assert begin_at(found(target(0, 5, begun=True))) is None


def test_another_start_is_told_from_messages_of_others() -> None:
    with pytest.raises(CopyRefused, match="has a copy of 's' already, under the name 'copy-s-9': one from offset 7"):
        begin_at(found(target(0, 5), start=7, other="copy-s-9"))


@pytest.mark.parametrize(
    ("last_offset", "mark", "words"),
    [(None, 3, "is empty"), (38, 3, "ends at offset 38"), (99, None, "does not have the mark"), (39, None, "the mark")],
)
def test_a_source_that_was_made_anew_is_refused(last_offset: int | None, mark: int | None, words: str) -> None:
    with pytest.raises(CopyRefused, match=f"{words}.*deleted and made anew"):
        begin_at(found(target(40, 39), last_offset=last_offset, mark=mark))


def test_without_a_mark_only_the_end_shows_it() -> None:
    assert begin_at(found(target(40, 39), is_marked=False)) == 40
    with pytest.raises(CopyRefused):
        begin_at(found(target(101, 39), is_marked=False))


def test_retention_may_take_the_mark() -> None:
    """A broker drops stored offsets that lie before the first message."""
    assert begin_at(found(target(40, 39), mark=None, first_offset=40)) == 40
    assert begin_at(found(target(40, 39), mark=None, first_offset=60)) == 40
    assert begin_at(found(target(40, 39), mark=None, first_offset=None)) == 40


def test_a_source_that_was_made_anew_and_cut_by_retention_is_refused() -> None:
    """Its messages 20 to 39 would be confirmed and dropped."""
    with pytest.raises(CopyRefused, match=r"does not have the mark of that copy: .* made anew, or retention took it"):
        begin_at(found(target(40, 39), mark=None, first_offset=20))
    both = target(10, 9), target(40, 9, number=1)
    with pytest.raises(CopyRefused, match="does not have the mark"):
        begin_at(found(*both, mark=None, first_offset=20, skips=True))


def test_a_target_that_has_forgotten_the_name_is_refused() -> None:
    """RabbitMQ keeps the last ids of some hundred names of a stream."""
    with pytest.raises(CopyRefused, match="'t-0' holds messages, and none of them under that name"):
        begin_at(found(target(0, 500), mark=39, is_appended=True))
    for begun in ({"mark": 7, "start": 7}, {"mark": 7, "first_offset": 8}, {"mark": 7, "skips": True}):
        begin_at(found(target(0, 500), is_appended=True, **begun))  # perhaps nothing was copied


def test_the_same_stream_is_refused() -> None:
    same = replace(target(), place=replace(SOURCE, nodes=frozenset({"b:5552", "a:5552"})))
    with pytest.raises(CopyRefused, match="same stream"):
        begin_at(found(same, is_appended=True))
    for other in (
        replace(SOURCE, vhost="other"),
        replace(SOURCE, stream="S"),
        replace(SOURCE, cluster="b"),
        replace(SOURCE, nodes=frozenset({"b:5552"})),  # another cluster of the same name
    ):
        assert begin_at(found(replace(target(), place=other))) is None


def test_the_same_stream_is_refused_where_only_one_side_has_tls() -> None:
    """Its nodes then advertise another port."""
    same = replace(SOURCE, nodes=frozenset({"a:5551"}), is_tls=True)
    with pytest.raises(CopyRefused, match="same stream"):
        begin_at(found(replace(target(), place=same), is_appended=True))
    other = replace(SOURCE, nodes=frozenset({"b:5551"}), is_tls=True)
    assert begin_at(found(replace(target(), place=other))) is None


def test_a_name_says_all_that_decides_about_ids() -> None:
    names = {
        copy_name(place, targets, start, selection, prefix)
        for place in (SOURCE, *OTHERS, replace(SOURCE, vhost="v"), replace(SOURCE, cluster="c"))
        for targets in (OTHERS[:1], OTHERS, OTHERS[::-1], [SOURCE], [replace(SOURCE, cluster="c")])
        for start in ("first", "0", "5")
        for selection in ("", "grep x", "grep\nx")
        for prefix in (None, "nightly")
    }
    assert len(names) == 5 * 5 * 3 * 3 * 2
    assert copy_name(SOURCE, OTHERS, "first", "") == copy_name(replace(SOURCE, nodes=frozenset()), OTHERS, "first", "")
    assert copy_name(SOURCE, OTHERS, "first", "").startswith("copy-s-")
    assert copy_name(SOURCE, OTHERS, "first", "", "nightly").startswith("nightly-")


def test_a_name_stays_as_it_is_from_version_to_version() -> None:
    """Otherwise copies that have begun could not go on."""
    assert copy_name(SOURCE, OTHERS, "first", "") == "copy-s-ef45359a654bd15ba0fa"


def test_a_name_has_255_bytes_at_most() -> None:
    for stream in ("x" * 255, "é" * 127, "€" * 85):
        assert len((copy_name(replace(SOURCE, stream=stream), OTHERS, "first", "") + "~").encode()) <= 255
    assert len(copy_name(SOURCE, OTHERS, "first", "", check_prefix("x" * 200)).encode()) <= 255
    for prefix in ("", "x" * 201, "€" * 67):
        with pytest.raises(ConfigurationError):
            check_prefix(prefix)
