"""The ledger of a publisher, by example; tests/property/test_in_flight.py compares it with a model."""

from __future__ import annotations

from rstream_core.protocol import commands as c
from rstream_core.protocol.placed import Packed
from rstream_core.protocol.wire import publish_frame
from rstream_core.publishing.in_flight import Batch, InFlight


def batch(ids: range, *, are_callers: bool = True) -> Batch:
    messages = [b"%d" % number for number in ids]
    frame = publish_frame(1, ids, messages, list(map(len, messages)))
    return Batch(ids, frame, 10 * len(ids), are_callers=are_callers)


def ledger_of(*, is_named: bool = True) -> InFlight:
    return InFlight(is_named=is_named, max_messages=100, max_size=1000)


def ledger_with_rejected(*ids: int, is_named: bool = True, are_callers: bool = True) -> InFlight:
    ledger = ledger_of(is_named=is_named)
    ledger.add(batch(range(1, 10), are_callers=are_callers))
    ledger.reject([c.MessageError(number, 2) for number in ids], 1.0)
    return ledger


def again(one: Batch) -> list[int]:
    """The ids that are sent again."""
    frames = one.again(7, 1000, 100)
    return [entry.publishing_id for frame in frames for entry in c.decode(frame[4:]).message.entries]


def test_rejected_ids_are_taken_up_in_order() -> None:
    ledger = ledger_with_rejected(7, 3, 5)
    assert ledger.rejected == [3, 5, 7]
    assert not ledger.takes_up([5, 7])
    assert not ledger.takes_up([4])
    assert ledger.takes_up([2])
    assert ledger.takes_up([3, 4, 5, 6])
    ledger.forget_rejected(6)
    assert ledger.rejected == [7]


def test_without_a_reference_nothing_has_to_be_taken_up() -> None:
    ledger = ledger_with_rejected(3, is_named=False)
    assert (ledger.rejected, ledger.must_recount, ledger.failed) == ([], False, 1)


def test_ids_that_the_publisher_counted_are_counted_again() -> None:
    ledger = ledger_with_rejected(3, are_callers=False)
    assert (ledger.rejected, ledger.must_recount, ledger.failed) == ([], True, 1)


def test_what_follows_a_rejected_id_fails_if_the_caller_chose_its_id() -> None:
    ledger = ledger_with_rejected(3)
    ledger.add(batch(range(10, 12), are_callers=False))
    ledger.add(batch(range(12, 14)))
    failed = [[message.publishing_id for message in one.failed] for one in ledger.fail_behind_rejected("lost", 2.0)]
    assert failed == [[4, 5, 6, 7, 8, 9], [12, 13]]
    assert list(map(again, ledger.open())) == [[1, 2], [10, 11]]
    assert (ledger.messages, ledger.size, ledger.batches) == (4, 110, 2)


def test_each_batch_has_an_outcome_with_its_own_latency() -> None:
    ledger = ledger_of(is_named=False)
    for written_at, ids in enumerate((range(1, 4), range(4, 7), range(7, 10))):
        one = batch(ids, are_callers=False)
        one.written_at = float(written_at)
        ledger.add(one)
    outcomes = ledger.confirm(range(2, 8), 10.0)
    assert [(one.confirmed, one.latency, list(one.publishing_ids)) for one in outcomes] == [
        (2, 10.0, [2, 3]),
        (3, 9.0, [4, 5, 6]),
        (1, 8.0, [7]),
    ]
    assert ledger.confirm(range(2, 8), 11.0) == []
    assert ledger.oldest is ledger.open()[0]
    assert (ledger.last_id, ledger.messages) == (9, 3)


def test_a_sub_entry_that_is_passed_on_whole_fails_unseen() -> None:
    """It is not what it claims: to unpack it would raise in a callback of the connection."""
    ledger = InFlight(is_named=True, max_messages=100, max_size=1000)
    packed = Packed(b"this is not gzip", 0, 16, 3, 50, 1)
    ledger.add(Batch((7,), b"frame", packed.size, are_callers=True, sub_entry=packed))
    (outcome,) = ledger.fail_all("closed", 0.0)
    assert [(failed.publishing_id, failed.data, failed.reason) for failed in outcome.failed] == [(7, b"", "closed")] * 3
    assert (ledger.failed, ledger.messages, ledger.batches) == (3, 0, 0)
