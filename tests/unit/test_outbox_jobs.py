"""How an outbox numbers messages, and what becomes of ids that repeat."""

from __future__ import annotations

import pytest

from rstream_core import MessageTooLarge
from rstream_core.producers.losses import LossCount
from rstream_core.producers.outbox_jobs import (
    Confirms,
    Job,
    Told,
    batch_job,
    encode_batch,
    ends_of_runs,
    explicit_id,
    keep_first_of_each_id,
    number_ids,
)
from rstream_core.publishing.in_flight import Outcome
from rstream_core.types import ConfirmationStatus


def test_a_message_that_is_too_large_is_named() -> None:
    assert encode_batch([], 3) == []
    assert encode_batch([b"a", b"abc"], 3) == [b"a", b"abc"]
    with pytest.raises(MessageTooLarge, match="message 2 of 3 takes 4 bytes") as caught:
        encode_batch([b"a", b"abcd", b"abcde"], 3)
    assert caught.value.position == 1


def test_ids_count_on_from_a_messages_own() -> None:
    assert number_ids([None, 10, None, None, 3], 7) == [7, 10, 11, 12, 3]


class WithId:
    def __init__(self, publishing_id: object) -> None:
        self.publishing_id = publishing_id


@pytest.mark.parametrize("given", [-1, 2**64, True, "1", 1.5])
def test_what_is_no_id(given: object) -> None:
    with pytest.raises(ValueError, match="a publishing id is an int"):
        explicit_id(WithId(given))


def test_runs_of_growing_ids() -> None:
    assert ends_of_runs(range(5, 9)) == [4]
    assert ends_of_runs([1, 2, 2, 5, 3]) == [2, 4, 5]


async def test_a_batch_without_ids_is_counted() -> None:
    ids, job = batch_job([b"a", b"b"], 2, [None, None], 5, None, None, has_name=True)
    assert (ids, job.ids, job.brings_ids) == (range(5, 7), range(5, 7), False)


async def test_ids_of_its_own_count_only_under_a_name() -> None:
    ids, job = batch_job([b"a", b"b"], 2, [9, None], 5, None, None, has_name=True)
    assert (ids, job.ids, job.brings_ids) == ([9, 10], [9, 10], True)
    told: list[ConfirmationStatus] = []
    ids, job = batch_job([b"a", b"b"], 2, [9, None], 5, told.append, None, has_name=False)
    assert (ids, job.ids, job.brings_ids) == ([9, 10], range(5, 7), False)
    assert isinstance(job.callbacks, list)
    for callback, counted in zip(job.callbacks, job.ids, strict=True):
        assert callback is not None
        callback(ConfirmationStatus(counted, True))
    assert [status.message_id for status in told] == [9, 10]  # as the messages came


async def test_what_repeats_an_id_is_left_out_and_told_with_the_first() -> None:
    told: list[tuple[str, int]] = []

    def note(name: str) -> Told:
        return lambda status: told.append((name, status.message_id))

    job = Job(
        [b"a", b"bb", b"ccc"],
        6,
        [1, 2, 1],
        [
            lambda status: told.append(("a", status.message_id)),
            None,
            lambda status: told.append(("c", status.message_id)),
        ],
        filter_values=["x", "y", "z"],
    )
    keep_first_of_each_id(job)
    assert (job.ids, job.messages, job.filter_values, job.size) == ([1, 2], [b"a", b"bb"], ["x", "y"], 3)
    assert job.ends_with_repetition
    losses = LossCount()
    confirms = Confirms(losses)
    confirms.register(job, 0, 2)
    confirms.settle(Outcome(2, 0.0, (), [1, 2]))
    assert told == [("a", 1), ("c", 1)]
    assert not losses.count
