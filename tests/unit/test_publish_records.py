"""The source of ``publish``: numbers, bad records, ``--count``, several files, and where it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from rstream_cli.encoding import Encoded, Encoder, Extras, Looks, encode_bodies_alone, plain_encoder
from rstream_cli.endpoints.records import Records
from rstream_cli.exit_status import CommandError
from rstream_cli.input import Input, InputError, Read
from rstream_cli.records.csv_in import CsvReader
from rstream_cli.records.framing_in import DelimiterReader, Len32Reader, RecordReader, WholeReader
from rstream_core.flow.acks import Account, Verdict
from rstream_core.flow.block import Block
from rstream_core.flow.stages import Stop


class Inputs:
    """What was read, without a thread."""

    def __init__(self, *reads: tuple[bytes, int]) -> None:
        self.reads = [Read(data, source) for data, source in reads]
        self.error: InputError | None = None
        self.stopped_early = False
        self.goes_on = False

    @property
    def is_over(self) -> bool:
        return not self.reads and not self.goes_on

    def start(self, wake: Callable[[], None]) -> None:
        pass

    def take(self) -> Read | None:
        return self.reads.pop(0) if self.reads else None

    def stop(self) -> None:
        self.stopped_early = True


def parity(records: list[bytes], number: int, room: int, stop_at_bad: bool) -> Encoded:
    """An encoder for which records with a ``!`` are bad, and empty ones are skipped."""
    messages: list[bytes] = []
    numbers: list[int] = []
    bad: list[tuple[int, str]] = []
    for at, record in enumerate(records, number):
        if len(messages) >= room:
            break
        if b"!" in record:
            bad.append((at, "it has a !"))
            if stop_at_bad:
                break
        elif record:
            messages.append(record)
            numbers.append(at)
    return Encoded(messages, numbers, bad)


class World:
    def __init__(
        self,
        *reads: tuple[bytes, int],
        encoder: Encoder = parity,
        reader: RecordReader | None = None,
        most: int | None = None,
        skip: bool = False,
        **more: Any,
    ) -> None:
        self.account = Account()
        self.told: list[tuple[int, str]] = []
        self.places: list[str] = []
        self.cuts = 0
        self.inputs = Inputs(*reads)
        self.is_skipping = skip
        settings: dict[str, Any] = {
            "inputs": cast("Input", self.inputs),
            "reader": reader or DelimiterReader(),
            "sources": ["-"],
            "inline": (),
            "ids_are_numbers": False,
        }
        self.source = Records(
            encoder,
            self.account,
            most=most,
            skip_bad=skip,
            size=lambda messages: sum(map(len, messages)),
            tell_bad=self.tell,
            on_cut=self.cut,
            **{**settings, **more},
        )

    def tell(self, number: int, why: str) -> Stop | None:
        self.told.append((number, why))
        self.places.append(self.source.name_of(number))
        return None if self.is_skipping else Stop(why, "bad message", CommandError(why))

    def cut(self) -> None:
        self.cuts += 1

    def blocks(self) -> list[Block]:
        found = []
        while (block := self.source.poll()) is not None:
            found.append(block)
        return found

    def messages(self) -> list[bytes]:
        return [message for block in self.blocks() for message in block.messages]

    def positions(self) -> list[Sequence[int]]:
        return [block.positions for block in self.blocks()]


@pytest.mark.parametrize("most", [None, 0, 1, 3, 4, 6, 9])
def test_records_that_stay_in_their_block_are_counted_like_others(most: int | None) -> None:
    reads = ((b"a\nbb\nc", 0), (b"cc\n\n", 0), (b"ddd", 0), (b"", 0), (b"e\n", 1), (b"", 1))
    encoders = [plain_encoder(Extras(), Looks(), raw=False, skip_empty=skip) for skip in (False, True)]
    assert encoders[0] is encode_bodies_alone is not encoders[1]
    worlds = [World(*reads, encoder=encoder, most=most, sources=["-", "x"]) for encoder in (encoders[0], split_alone)]
    blocks = [world.blocks() for world in worlds]
    for one, other in zip(*blocks, strict=True):
        assert (list(one.messages), one.positions) == (list(other.messages), other.positions)
    assert (
        worlds[0].source.size == worlds[1].source.size == sum(map(len, [b"a", b"bb", b"ccc", b"", b"ddd", b"e"][:most]))
    )
    assert worlds[0].account == worlds[1].account
    assert worlds[0].source.end == worlds[1].source.end


def split_alone(records: list[bytes], number: int, room: int, stop_at_bad: bool) -> Encoded:
    """Is another function, and so gets lists."""
    return encode_bodies_alone(records, number, room, stop_at_bad)


def test_numbers_go_on_over_all_reads() -> None:
    world = World(
        (b"a\nb\nc", 0),
        (b"c\nd\n", 0),
        (b"e", 0),
        (b"", 0),
        encoder=plain_encoder(Extras(), Looks(), raw=True, skip_empty=False),
    )
    blocks = world.blocks()
    assert [(list(block.messages), block.positions) for block in blocks] == [
        ([b"a", b"b"], range(1, 3)),
        ([b"cc", b"d"], range(3, 5)),
        ([b"e"], range(5, 6)),
    ]
    assert world.source.end == Stop("end of input")
    assert (world.account.read, world.account.open) == (5, 5)
    assert (world.source.size, world.source.done) == (6, 10)


def test_nothing_is_there_yet() -> None:
    world = World()
    world.inputs.goes_on = True
    assert world.source.poll() is None
    assert world.source.end is None
    world.inputs.reads.append(Read(b"a\n", 0))
    assert world.messages() == [b"a"]
    world.inputs.goes_on = False
    assert world.source.poll() is None
    assert world.source.end == Stop("end of input")


def test_skipped_empty_records_are_not_handed_out() -> None:
    world = World((b"a\n\nb\n\n\nc\n", 0))
    assert world.positions() == [[1, 3, 6]]
    assert world.account.read == 3


def test_a_range_is_one() -> None:
    assert World((b"\na\nb\n", 0)).positions() == [range(2, 4)]


def test_bad_records_are_done_with_at_once() -> None:
    world = World((b"a\n!\nb\n!\n", 0), (b"!\n", 0), skip=True)
    assert world.positions() == [[1, 3]]
    assert world.told == [(number, "it has a !") for number in (2, 4, 5)]
    assert (world.account.read, world.account.by[Verdict.BAD], world.account.open) == (5, 3, 2)


def test_a_run_ends_at_a_bad_record_after_what_is_before_it() -> None:
    world = World((b"a\nb\n!\nc\n!\n", 0))
    first = world.source.poll()
    assert first is not None
    assert first.positions == range(1, 3)
    assert (world.account.read, world.told, world.source.end) == (2, [], None)
    assert world.source.poll() is None
    assert world.source.end is not None
    assert (world.source.end.kind, world.told) == ("bad message", [(3, "it has a !")])
    assert (world.account.read, world.account.by[Verdict.BAD]) == (3, 1)
    assert world.source.poll() is None


@pytest.mark.parametrize("skip", [True, False])
def test_a_record_that_cannot_be_framed(skip: bool) -> None:
    world = World((b"a\n" + b"x" * 20 + b"\nb\n", 0), reader=DelimiterReader(max_record=10), skip=skip)
    assert world.messages() == ([b"a", b"b"] if skip else [b"a"])
    assert world.told == [(2, "larger than the limit of 10 bytes")]
    assert world.account.by[Verdict.BAD] == 1


@pytest.mark.parametrize(
    ("most", "messages", "told", "reason"),
    [
        (1, [b"a"], [], "--count is reached"),
        (2, [b"a", b"b"], [2], "--count is reached"),
        (3, [b"a", b"b", b"c"], [2], "--count is reached"),
        (4, [b"a", b"b", b"c"], [2, 5], "end of input"),
    ],
)
@pytest.mark.parametrize("read", [100, 1, 3])
def test_what_is_bad_leaves_the_room_to_others(
    most: int, messages: list[bytes], told: list[int], reason: str, read: int
) -> None:
    data = b"a\n!\nb\nc\n!\n"
    reads = [(data[at : at + read], 0) for at in range(0, len(data), read)]
    world = World(*reads, most=most, skip=True)
    assert world.messages() == messages
    assert [number for number, _ in world.told] == told
    assert world.source.end is not None
    assert world.source.end.reason == reason


def test_what_turns_bad_later_leaves_its_room_to_what_was_read_with_it() -> None:
    """A message that is too large, say: the records behind it were framed already, and none is lost."""
    world = World((b"a\nb\nc\nd\n", 0), most=2)
    first = world.source.poll()
    assert first is not None
    assert list(first.messages) == [b"a", b"b"]
    first.ack.done([1], Verdict.BAD)
    second = world.source.poll()
    assert second is not None
    assert (list(second.messages), second.positions) == ([b"c"], range(3, 4))
    assert world.source.poll() is None
    assert world.source.end == Stop("--count is reached", "count")


def test_places_within_files() -> None:
    world = World((b"a\n!\n", 0), (b"", 0), (b"b\n", 1), (b"!", 1), (b"", 1), skip=True, sources=["-", "second"])
    assert world.messages() == [b"a", b"b"]
    assert world.places == ["standard input: record 2", "second: record 2"]
    assert [number for number, _ in world.told] == [2, 4]


def test_a_file_that_cannot_be_read_ends_it_behind_what_was_read() -> None:
    world = World((b"a\n", 0))
    world.inputs.error = error = InputError("file: gone")
    assert world.messages() == [b"a"]
    assert world.source.end == Stop("file: gone", "error", error)


@pytest.mark.parametrize(
    ("reads", "reader", "cuts"),
    [
        ((b"n,body\n2,",), CsvReader([b"body"]), 1),
        ((b"n,body\n2,\n",), CsvReader([b"body"]), 0),
        ((b"n,body\n2,", b""), CsvReader([b"body"]), 0),
        ((b"a",), WholeReader(), 1),
        ((b"a", b""), WholeReader(), 0),
        ((), WholeReader(), 0),
    ],
)
def test_a_record_that_is_cut_off_may_be_empty(reads: Sequence[bytes], reader: RecordReader, cuts: int) -> None:
    """A file that has ended, or of which nothing was read, is not cut off."""
    world = World(*((data, 0) for data in reads), reader=reader)
    world.source.stop()
    world.messages()
    assert world.cuts == cuts


@pytest.mark.parametrize(
    ("data", "reader", "cuts"),
    [
        (b"a\nb", DelimiterReader(), 1),
        (b"a\n", DelimiterReader(), 0),
        (b"\0\0\0\1a\0\0", Len32Reader(), 1),
        (b"\0\0\0\1a", Len32Reader(), 0),
    ],
)
@pytest.mark.parametrize("is_stopped", [True, False])
def test_a_stop_that_cuts_a_record_off_is_told(data: bytes, reader: RecordReader, cuts: int, is_stopped: bool) -> None:
    world = World((data, 0), reader=type(reader)())
    if is_stopped:
        world.source.stop()
    assert world.messages() == [b"a"]
    assert world.cuts == (cuts if is_stopped else 0)
    assert world.source.end == Stop("end of input")


def test_inline_records() -> None:
    world = World(inputs=None, reader=None, inline=[b"a", b"", b"b"], ids_are_numbers=True)
    (block,) = world.blocks()
    assert (list(block.messages), block.positions, block.ids) == ([b"a", b"b"], [1, 3], [1, 3])
    assert world.source.end == Stop("all messages are published")


def test_columns_of_the_encoder() -> None:
    def encode(records: list[bytes], number: int, room: int, stop_at_bad: bool) -> Encoded:
        return Encoded(records, None, ids=(7, 9), filters=("x", None), keys=(b"k", b"l"))

    (block,) = World((b"a\nb\n", 0), encoder=encode).blocks()
    assert (block.ids, block.filters, block.keys) == ((7, 9), ("x", None), (b"k", b"l"))
