"""The ledger of a publisher against a model: a dict from id to messages. No broker, no clock."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rstream_core import FailedMessage, Outcome
from rstream_core.protocol import commands as c
from rstream_core.protocol.wire import encode_filter, join_entries, publish_frame, split
from rstream_core.publishing.in_flight import Batch, InFlight

UNKNOWN = 10**6
"""Ids up to here are drawn beside those that are in flight: a broker may name any."""


class Ledger(RuleBasedStateMachine):
    @initialize(is_named=st.booleans())
    def begin(self, is_named: bool) -> None:
        self.ledger = InFlight(is_named=is_named, max_messages=20, max_size=100)
        self.is_named = is_named
        self.now = 0.0
        self.next_id = 1
        self.open: dict[int, list[bytes]] = {}
        self.filters: dict[int, str | None] = {}
        self.callers: set[int] = set()
        self.written_at: dict[int, float] = {}
        self.calls = 0
        self.places: dict[int, tuple[int, list[int]]] = {}
        """Of each id: the call that it was published with, and the places of its messages there."""
        self.rejected: list[int] = []
        self.must_recount = False
        self.published = self.confirmed = self.failed = 0

    # What a publisher does.

    @rule(
        steps=st.lists(st.integers(1, 3), min_size=1, max_size=6),
        are_callers=st.booleans(),
        filtered=st.booleans(),
        at=st.integers(0, 50),
    )
    def add(self, steps: list[int], are_callers: bool, filtered: bool, at: int) -> None:
        self.calls += 1
        ids: list[int] = []
        for step in steps:
            self.next_id += step
            ids.append(self.next_id)
        sequence: Sequence[int] = range(ids[0], ids[-1] + 1) if ids[-1] - ids[0] == len(ids) - 1 else ids
        messages = [b"%d" % number for number in ids]
        values = [f"v{number}" if number % 2 else None for number in ids] if filtered else None
        filters = None if values is None else list(map(encode_filter, values))
        frame = publish_frame(1, sequence, messages, list(map(len, messages)), filters)
        self._add(
            Batch(
                sequence,
                frame,
                sum(map(len, messages)),
                are_callers=are_callers,
                context=self.calls,
                place=at,
            )
        )
        for place, number in enumerate(ids):
            self._added(number, [messages[place]], are_callers, None if values is None else values[place], at + place)

    @rule(count=st.integers(1, 5), are_callers=st.booleans(), at=st.integers(0, 50))
    def add_sub_entry(self, count: int, are_callers: bool, at: int) -> None:
        self.calls += 1
        self.next_id += 1
        messages = [b"%d of %d" % (number, self.next_id) for number in range(count)]
        plain = join_entries(messages)
        frame = c.encode(c.Publish(1, (c.PublishedSubBatch(self.next_id, 0, count, len(plain), plain),)))
        self._add(
            Batch((self.next_id,), frame, 7, are_callers=are_callers, sub_entry=messages, context=self.calls, place=at)
        )
        self._added(self.next_id, messages, are_callers, None, at)

    def _add(self, batch: Batch) -> None:
        batch.written_at = self.now
        ledger = self.ledger
        room = ledger.has_room(batch.count, batch.size)
        there = sum(map(len, self.open.values()))
        assert room == (not there or (there + batch.count <= 20 and ledger.size + batch.size <= 100))
        ledger.add(batch)

    def _added(self, number: int, messages: list[bytes], are_callers: bool, value: str | None, at: int) -> None:
        self.places[number] = (self.calls, list(range(at, at + len(messages))))
        self.open[number], self.filters[number], self.written_at[number] = messages, value, self.now
        self.published += len(messages)
        if are_callers:
            self.callers.add(number)

    @rule(seconds=st.floats(0.001, 10))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    # What a broker answers.

    @rule(data=st.data(), strange=st.lists(st.integers(0, UNKNOWN), max_size=3), order=st.randoms())
    def confirm(self, data: st.DataObject, strange: list[int], order: object) -> None:
        chosen = data.draw(st.lists(st.sampled_from(sorted(self.open)), max_size=8)) if self.open else []
        ids = [*chosen, *strange]
        order.shuffle(ids)  # type: ignore[attr-defined]
        known = {number for number in ids if number in self.open}
        outcomes = self.ledger.confirm(ids, self.now)
        assert sum(outcome.confirmed for outcome in outcomes) == sum(len(self.open[number]) for number in known)
        assert [number for outcome in outcomes for number in outcome.publishing_ids] == sorted(known)
        assert all(outcome.failed == () for outcome in outcomes)
        self._have_places(outcomes, sorted(known))
        latencies = {self.now - self.written_at[number] for number in known}
        assert {outcome.latency for outcome in outcomes} == latencies
        for number in known:
            self.confirmed += len(self.open.pop(number))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def confirm_a_run(self, data: st.DataObject) -> None:
        low = data.draw(st.sampled_from(sorted(self.open)))
        known = [number for number in range(low, low + 6) if number in self.open]
        outcomes = self.ledger.confirm(range(low, low + 6), self.now)
        assert sum(outcome.confirmed for outcome in outcomes) == sum(len(self.open[number]) for number in known)
        assert [number for outcome in outcomes for number in outcome.publishing_ids] == known
        self._have_places(outcomes, known)
        for number in known:
            self.confirmed += len(self.open.pop(number))

    @rule(data=st.data(), strange=st.lists(st.integers(0, UNKNOWN), max_size=2), code=st.sampled_from([2, 17, 18, 999]))
    def reject(self, data: st.DataObject, strange: list[int], code: int) -> None:
        chosen = data.draw(st.lists(st.sampled_from(sorted(self.open)), max_size=3)) if self.open else []
        ids = [*chosen, *strange]
        known = [number for number in dict.fromkeys(ids) if number in self.open]
        outcomes = self.ledger.reject([c.MessageError(number, code) for number in ids], self.now)
        self._failed(outcomes, known, code)
        for number in known if self.is_named else ():
            if number in self.callers:
                self.rejected = sorted([*self.rejected, number])
            else:
                self.must_recount = True

    # What a connection, or the end of a publisher, does.

    @rule()
    def fail_behind_rejected(self) -> None:
        behind = [n for n in sorted(self.open) if n in self.callers and self.rejected and n > self.rejected[0]]
        self._failed(self.ledger.fail_behind_rejected("lost", self.now), behind, 0)

    @rule()
    def fail_all(self) -> None:
        self._failed(self.ledger.fail_all("lost", self.now), sorted(self.open), 0)

    def _failed(self, outcomes: list[Outcome], ids: list[int], code: int) -> None:
        told: list[FailedMessage] = [message for outcome in outcomes for message in outcome.failed]
        expected = [(number, data, code, self.filters[number]) for number in ids for data in self.open[number]]
        assert [(one.publishing_id, one.data, one.code, one.filter_value) for one in told] == expected
        assert all(one.reason for one in told)
        assert all(outcome.confirmed == 0 for outcome in outcomes)
        self._have_places(outcomes, ids)
        for number in ids:
            self.failed += len(self.open.pop(number))

    def _have_places(self, outcomes: list[Outcome], ids: list[int]) -> None:
        """Each outcome says with which call its messages came, and where they stood there."""
        told = [(outcome.context, place) for outcome in outcomes for place in outcome.places]
        assert told == [(self.places[number][0], place) for number in ids for place in self.places[number][1]]

    # What a caller publishes again.

    @rule(data=st.data())
    def take_up(self, data: st.DataObject) -> None:
        some = data.draw(st.lists(st.sampled_from(self.rejected), unique=True)) if self.rejected else []
        ids = sorted({*some, data.draw(st.integers(1, self.next_id + 3))})
        complete = all(number in ids for number in self.rejected if number <= ids[-1])
        assert self.ledger.takes_up(ids) == complete
        if complete:
            self.ledger.forget_rejected(ids[-1])
            self.rejected = [number for number in self.rejected if number > ids[-1]]

    @precondition(lambda self: self.rejected)
    @rule(data=st.data())
    def take_up_the_first(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, len(self.rejected)))
        assert self.ledger.takes_up(self.rejected[:count])
        self.ledger.forget_rejected(self.rejected[count - 1])
        del self.rejected[:count]

    @invariant()
    def equations_hold(self) -> None:
        ledger = self.ledger
        assert (ledger.published, ledger.confirmed, ledger.failed) == (self.published, self.confirmed, self.failed)
        assert ledger.messages == sum(map(len, self.open.values()))
        assert ledger.published == ledger.confirmed + ledger.failed + ledger.messages
        assert bool(ledger) == bool(self.open)
        assert ledger.rejected == self.rejected
        assert ledger.must_recount == self.must_recount

    @rule(limit=st.integers(40, 200), most=st.integers(1, 8), publisher_id=st.integers(0, 255))
    def write_again(self, limit: int, most: int, publisher_id: int) -> None:
        again: dict[int, list[bytes]] = {}
        filters: dict[int, str | None] = {}
        for batch in self.ledger.open():
            frames = batch.again(publisher_id, limit, most)
            for frame in frames:
                message = c.decode(frame[4:]).message
                assert message.publisher_id == publisher_id
                is_whole = batch.open == len(batch.ids) and frame[9:] == batch.frame[9:]
                assert len(message.entries) == 1 or len(frame) - 4 <= limit
                assert len(message.entries) <= most or is_whole
                assert isinstance(message, c.PublishFiltered) == batch.has_filters
                for entry in message.entries:
                    if isinstance(entry, c.PublishedSubBatch):
                        again[entry.publishing_id] = split(entry.data, 0, len(entry.data), entry.records) or []
                        continue
                    again[entry.publishing_id] = [entry.data]
                    if isinstance(entry, c.FilteredMessage):
                        filters[entry.publishing_id] = entry.filter_value
        assert again == self.open
        assert list(again) == sorted(again)
        assert filters == {n: value for n, value in self.filters.items() if n in filters}
        assert {n for n in self.open if self.filters[n] is not None} <= set(filters)

    @invariant()
    def the_oldest_is_the_first(self) -> None:
        oldest = self.ledger.oldest
        assert (oldest is None) == (not self.open)
        if oldest is not None:
            assert oldest.written_at == self.written_at[min(self.open)]

    @invariant()
    def batches_add_up(self) -> None:
        assert self.ledger.size == sum(batch.size for batch in self.ledger.open())
        assert self.ledger.batches == len(self.ledger.open())


TestLedger = Ledger.TestCase
