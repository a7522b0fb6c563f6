"""The chunks of a subscription that wait: what is handed out or dropped, and how many credits are free by that."""

from __future__ import annotations

import pytest

from rstream_core.consuming.arrivals import MORE_CHUNKS, Arrivals
from rstream_core.errors import ChunkError, ProtocolError
from rstream_core.protocol import chunk as chunks
from rstream_core.protocol.amqp_sections import encode_bodies
from rstream_core.protocol.chunk import PlainChunk, build_chunk
from rstream_core.protocol.commands import Delivery
from rstream_core.types import Chunk, ConsumerOffsetSpecification, OffsetType

PREFIX = b"the frame before it"


def delivery(first: int, *messages: bytes, timestamp: int = 0, kind: int = 0, committed: int | None = None) -> Delivery:
    data = build_chunk(messages, first_offset=first, timestamp=timestamp, kind=kind)
    return Delivery(1, committed, PREFIX + data, len(PREFIX))


def arrivals(*deliveries: Delivery, credit: int = 10) -> Arrivals:
    found = Arrivals("s", credit)
    for each in deliveries:
        found.add(each)
    return found


def all_of(found: Arrivals) -> list[tuple[int, list[bytes]]]:
    taken = []
    while (chunk := found.take()[0]) is not None:
        assert isinstance(chunk, Chunk)
        taken.append((chunk.offset, chunk.messages))
    return taken


def test_in_the_order_of_their_arrival() -> None:
    found = arrivals(delivery(3, b"a", b"b", timestamp=17, committed=2), delivery(5, b"c"))
    assert found.take() == (Chunk("s", 3, 17, [b"a", b"b"], 2), 0)
    assert (found.chunk_end, found.seen, found.has_pieces) == (5, 5, False)
    assert found.take() == (Chunk("s", 5, 0, [b"c"], None), 0)
    assert found.take() == (None, 0)


def test_what_arrives_is_told_with_the_offset_behind_it() -> None:
    found = Arrivals("s", 1)
    header, end = found.add(delivery(3, b"a", b"b"))
    assert header is not None
    assert (header.first_offset, header.records, end) == (3, 2, 5)
    assert found.add(delivery(2**64 - 1, b"last"))[1] == 2**64 - 1


def test_messages_before_the_start_are_dropped_and_whole_chunks_cost_no_credit() -> None:
    found = arrivals(delivery(0, b"0", b"1"), delivery(2, b"2"), delivery(3, b"3", b"4", b"5"))
    found.start_at(ConsumerOffsetSpecification(OffsetType.OFFSET, 4))
    chunk, free = found.take()
    assert chunk is not None
    assert (chunk.offset, chunk.messages, free) == (4, [b"4", b"5"], 2)


def test_chunks_before_the_time_are_dropped_until_one_is_not() -> None:
    found = arrivals(delivery(0, b"0", timestamp=9), delivery(1, b"1", timestamp=10), delivery(2, b"2", timestamp=5))
    found.start_at(ConsumerOffsetSpecification(OffsetType.TIMESTAMP, 10))
    assert all_of(found) == [(1, [b"1"]), (2, [b"2"])]


def test_nothing_is_handed_out_twice() -> None:
    found = arrivals(delivery(0, b"0", b"1"), delivery(1, b"1", b"2"), delivery(0, b"0"))
    assert not found.is_behind
    assert all_of(found) == [(0, [b"0", b"1"]), (2, [b"2"])]
    assert found.is_behind  # the last of them


def test_the_records_of_the_broker_are_no_messages() -> None:
    found = arrivals(delivery(0, b"tracking", kind=1), delivery(1, b"1"))
    chunk, free = found.take()
    assert chunk is not None
    assert (chunk.offset, free) == (1, 1)


def test_a_chunk_that_is_held_holds_those_behind_it() -> None:
    found = arrivals(delivery(0, b"0"), delivery(5, b"5"), delivery(6, b"6"))
    asked: list[int] = []

    def is_held(offset: int) -> bool:
        asked.append(offset)
        return offset >= 5

    assert found.take(is_held)[0] is not None
    assert found.take(is_held) == (None, 0)
    assert asked == [0, 5]
    assert [offset for offset, _ in all_of(found)] == [5, 6]


def in_pieces(monkeypatch: pytest.MonkeyPatch, first: int, *messages: bytes) -> Delivery:
    """A chunk of which each message is a piece of its own."""
    monkeypatch.setattr(chunks, "PIECE_BYTES", 1)
    return delivery(first, *messages)


def test_pieces_are_handed_out_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    found = arrivals(in_pieces(monkeypatch, 3, b"one", b"two"), delivery(5, b"three"))
    assert found.take() == (Chunk("s", 3, 0, [b"one"], None), 0)
    assert (found.has_pieces, found.chunk_end, found.seen) == (True, 5, 4)
    assert found.take() == (Chunk("s", 4, 0, [b"two"], None), 0)
    assert not found.has_pieces
    assert found.take(lambda _: True) == (None, 0)


def test_the_pieces_of_a_chunk_are_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    found = arrivals(in_pieces(monkeypatch, 3, b"one", b"two"))
    assert found.take()[0] is not None
    assert found.take(lambda _: True)[0] is not None


@pytest.mark.parametrize("is_holding", [False, True])
@pytest.mark.parametrize("has_pieces", [False, True])
def test_what_is_dropped_frees_its_credits(has_pieces: bool, is_holding: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """But that of a chunk of which a piece is held: it is free when the piece is finished."""
    found = arrivals(in_pieces(monkeypatch, 0, b"one", b"two", b"three"), delivery(3, b"x"), delivery(4, b"y"))
    found.take()
    if not has_pieces:
        found.take()
        found.take()
    assert found.has_pieces == has_pieces
    assert found.drop(is_holding=is_holding) == 2 + (has_pieces and not is_holding)
    assert (found.take(), found.has_pieces) == ((None, 0), False)


def test_the_newest_are_dropped_first() -> None:
    found = arrivals(*[delivery(offset, b"x") for offset in range(5)])
    assert found.drop_newest(5) is None
    assert found.drop_newest(3) == 3
    assert found.drop_newest(-1) == 0
    assert found.take() == (None, 0)


def test_damaged_data_end_what_is_handed_out() -> None:
    good, bad = delivery(0, b"good"), delivery(1, b"bad")
    flipped = bad._replace(frame=bad.frame[:-1] + b"?")
    found = arrivals(good, flipped, delivery(2, b"behind it"))
    assert found.take()[0] is not None
    with pytest.raises(ChunkError, match="checksum of chunk 1"):
        found.take()
    assert found.take() == (None, 0)


def test_a_header_that_cannot_be_read_is_an_error_in_its_turn() -> None:
    found = arrivals(delivery(0, b"good"))
    assert found.add(Delivery(1, None, b"no chunk", 0)) == (None, 0)
    assert found.take(lambda offset: offset > 0)[0] is not None
    with pytest.raises(ChunkError, match="8 bytes is shorter"):
        found.take(lambda _: True)
    found.add(Delivery(1, None, b"no chunk", 0))
    assert found.drop_newest(0) is None


@pytest.mark.parametrize("credit", [1, 10])
def test_a_broker_that_sends_far_more_than_it_may(credit: int) -> None:
    found = arrivals(*[delivery(offset, b"x") for offset in range(2 * credit + MORE_CHUNKS + 1)], credit=credit)
    with pytest.raises(ProtocolError, match="sends more of stream 's'"):
        found.add(delivery(1000, b"x"))


def test_plain_messages_come_by_their_bodies_to_whoever_wants_them_so() -> None:
    plain, other = encode_bodies([b"a", b"bb", b"c"]), b"no message"
    found = arrivals(
        delivery(0, *plain, timestamp=17, committed=2), delivery(2, *plain), delivery(5, other), delivery(6, *plain)
    )
    found.start_at(ConsumerOffsetSpecification(OffsetType.OFFSET, 1))
    chunk, _ = found.take(as_plain=True)
    assert isinstance(chunk, PlainChunk)
    assert (chunk.messages.bodies, chunk.last_offset) == ([b"bb", b"c"], 2)
    assert chunk[:3] == ("s", 1, 17)
    assert chunk[4:] == (2,)
    chunk, _ = found.take(as_plain=True)  # its first message was handed out before
    assert isinstance(chunk, PlainChunk)
    assert (chunk.offset, chunk.messages.bodies) == (3, [b"bb", b"c"])
    assert found.take(as_plain=True)[0] == Chunk("s", 5, 0, [other], None)
    assert found.take()[0] == Chunk("s", 6, 0, plain, None)


def test_a_plain_chunk_that_is_damaged_is_not_handed_out() -> None:
    good, bad = delivery(0, *encode_bodies([b"a"])), delivery(1, *encode_bodies([b"b", b"c"]))
    found = arrivals(good, bad._replace(frame=bad.frame[:-1] + b"C"))
    assert found.take(as_plain=True)[0] is not None
    with pytest.raises(ChunkError, match="checksum"):
        found.take(as_plain=True)
