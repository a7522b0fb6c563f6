"""What a client makes of answers as a peer gives them that says what a test wants: offsets of others, long confirms."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import rstream_core.consuming.gap_finder
import rstream_core.consuming.turn_taking
from rstream_core import (
    ChunkError,
    Client,
    ConnectionClosed,
    ConnectionOptions,
    Gap,
    OffsetType,
    RequestTimeout,
    SingleActiveConsumer,
    Subscription,
    parse_uri,
)
from rstream_core.hints import Hint
from rstream_core.protocol import commands as c
from rstream_core.protocol.session import MAX_SERVER_FRAME
from tests import inside
from tests.clients import FIRST, PATIENCE, at, eventually
from tests.peer import Peer, Say, answer, chunk, deliver, metadata, refuse, remembered
from tests.recovering import EAGER


def client_of(peer: Peer) -> Client:
    return Client(ConnectionOptions(endpoints=(parse_uri(peer.uri).endpoint,)), recovery=None)


async def store(query: Say, offset: int = 10) -> None:
    with Peer({c.QueryOffset: query}) as peer:
        async with client_of(peer) as client:
            await client.store_offset("s", "reader", offset, verify_timeout=0.2)


async def test_what_is_stored_shows() -> None:
    await store(remembered)


@pytest.mark.parametrize("other", [9, 11, 0, 2**64 - 1])
async def test_an_offset_that_another_program_has_stored_is_told(other: int) -> None:
    """Further on or further back: it goes on storing over ours, and we over its."""
    with pytest.raises(RequestTimeout, match=f"the broker has offset {other} under 'reader'") as caught:
        await store(answer(c.QueryOffsetResponse(other)))
    assert caught.value.hint is Hint.DOES_ANOTHER_STORE


async def test_an_offset_that_does_not_show_is_told() -> None:
    with pytest.raises(RequestTimeout, match="the broker has no offset under 'reader'") as caught:
        await store(refuse(c.QueryOffset, 19))
    assert caught.value.hint is None


async def test_a_confirm_of_all_that_was_in_flight_is_taken_however_small_frames_are() -> None:
    """RabbitMQ confirms without regard to the frame size."""
    count = MAX_SERVER_FRAME // 8 + 1000
    ids: list[int] = []

    def tune(_peer: Peer, _request: Any, number: int) -> bytes:
        return c.encode(c.SaslAuthenticateResponse(None), correlation_id=number) + c.encode(c.Tune(8192, 60))

    def confirm(_peer: Peer, request: c.Publish, _number: int) -> bytes:
        ids.extend(entry.publishing_id for entry in request.entries)
        return c.encode(c.PublishConfirm(request.publisher_id, tuple(ids))) if len(ids) == count else b""

    with Peer({c.SaslAuthenticate: tune, c.Publish: confirm}) as peer:
        async with client_of(peer) as client:
            publisher = await client.publisher("s", max_in_flight=count)
            async with asyncio.timeout(2 * PATIENCE):
                for start in range(0, count, 10_000):
                    await publisher.publish([b""] * min(10_000, count - start))
                await publisher.flush()
            assert (publisher.confirmed, publisher.failed, publisher.error) == (count, 0, None)
            await publisher.close()


async def test_a_chunk_with_one_flipped_bit_is_not_handed_out() -> None:
    good, bad = chunk(b"good"), bytearray(chunk(b"bad", offset=1))
    bad[-1] ^= 1
    with Peer({c.Subscribe: deliver(good, bytes(bad))}) as peer:
        async with client_of(peer) as client:
            subscription = await client.subscribe("s", FIRST)
            async with asyncio.timeout(PATIENCE):
                assert (await anext(subscription)).offset == 0
                with pytest.raises(ChunkError, match="checksum"):
                    await anext(subscription)
                with pytest.raises(ChunkError, match="checksum"):  # that ended it
                    await anext(subscription)
            await subscription.close()


async def test_what_is_there_has_come_before_the_next_answer() -> None:
    """A broker need not have sent it by the time at which one has subscribed: so another answer is waited for."""
    subscribed: list[int] = []

    def subscribe(_peer: Peer, request: c.Subscribe, number: int) -> bytes:
        subscribed.append(request.subscription_id)
        return c.encode(c.SubscribeResponse(), correlation_id=number)

    def locate(peer: Peer, request: c.Metadata, number: int) -> bytes:
        late = b"".join(c.encode(c.DeliverCommitted(one, 0, chunk(b"late"))) for one in subscribed)
        subscribed.clear()
        return late + metadata(peer.host, peer.port)(peer, request, number)

    with Peer({c.Subscribe: subscribe, c.Metadata: locate}) as peer:
        async with client_of(peer) as client:
            subscription = await client.subscribe("s", FIRST)
            assert await subscription.barrier()
            assert subscription.poll() is not None
            await subscription.close()


@pytest.mark.parametrize("credit", [1, 2])
async def test_chunks_of_which_nothing_is_wanted_cost_no_credit(credit: int) -> None:
    """A broker begins with the chunk that holds the offset, or well before it."""
    left = [chunk(b"%d" % number, offset=number) for number in range(6)]

    def next_ones(subscription_id: int, count: int) -> bytes:
        some, left[:count] = left[:count], []
        return b"".join(c.encode(c.DeliverCommitted(subscription_id, 0, data)) for data in some)

    def subscribe(_peer: Peer, request: c.Subscribe, number: int) -> bytes:
        return c.encode(c.SubscribeResponse(), correlation_id=number) + next_ones(
            request.subscription_id, request.credit
        )

    def more(_peer: Peer, request: c.Credit, _number: int) -> bytes:
        return next_ones(request.subscription_id, request.credit)

    with Peer({c.Subscribe: subscribe, c.Credit: more}) as peer:
        async with client_of(peer) as client:
            subscription = await client.subscribe("s", at(5), credit=credit)
            async with asyncio.timeout(PATIENCE):
                assert (await anext(subscription)).offset == 5
            assert left == []
            await subscription.close()


@pytest.mark.parametrize(("words", "is_active"), [((True,), True), ((True, False), False), ((True, False, True), True)])
async def test_a_turn_that_is_over_before_it_is_answered_never_begins(words: tuple[bool, ...], is_active: bool) -> None:
    """Each word gets its answer, in order, and the last one counts."""
    answered: list[int] = []

    def subscribe(_peer: Peer, request: c.Subscribe, number: int) -> bytes:
        said = [c.encode(c.SubscribeResponse(), correlation_id=number)]
        for at_, word in enumerate(words):
            said.append(c.encode(c.ConsumerUpdate(request.subscription_id, word), correlation_id=100 + at_))
        return b"".join(said)

    def take_answer(_peer: Peer, _answer: c.ConsumerUpdateResponse, number: int) -> bytes:
        answered.append(number)
        return b""

    with Peer({c.Subscribe: subscribe, c.ConsumerUpdateResponse: take_answer}) as peer:
        async with client_of(peer) as client:
            subscription = await client.subscribe("s", FIRST, single_active=SingleActiveConsumer("group"))
            await eventually(lambda: len(answered) == len(words))
            assert answered == [100 + at_ for at_ in range(len(words))]
            assert subscription.active is is_active
            await subscription.close()


async def test_a_chunk_of_an_old_turn_is_none_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """The application took too long for it, and finishes it when its next turn has begun."""
    monkeypatch.setattr(rstream_core.consuming.turn_taking, "FINISH_TIMEOUT", 0.05)
    answered: list[int] = []

    def subscribe(_peer: Peer, request: c.Subscribe, number: int) -> bytes:
        update = c.encode(c.ConsumerUpdate(request.subscription_id, True), correlation_id=100)
        return c.encode(c.SubscribeResponse(), correlation_id=number) + update

    def take_answer(_peer: Peer, _answer: c.ConsumerUpdateResponse, number: int) -> bytes:
        answered.append(number)
        return c.encode(c.DeliverCommitted(0, 0, chunk(b"old"))) if number == 100 else b""

    says: dict[type[Any], Say] = {
        c.Subscribe: subscribe,
        c.ConsumerUpdateResponse: take_answer,
        c.QueryOffset: refuse(c.QueryOffset, 19),
    }
    with Peer(says) as peer:
        async with client_of(peer) as client:
            subscription = await client.subscribe("s", FIRST, single_active=SingleActiveConsumer("group"))
            old = await asyncio.wait_for(anext(subscription), PATIENCE)
            assert subscription.is_wanted(old)
            for word, number in ((False, 101), (True, 102)):
                inside.tell_turn(subscription, word, number)
            await eventually(lambda: answered == [100, 101, 102] and subscription.active)
            assert not subscription.is_wanted(old)
            subscription.finish()
            assert subscription.processed is None
            await subscription.close()


async def test_where_a_stream_begins_is_asked_a_few_times_and_no_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What came behind a jump waits for it, and is handed out where nobody knows."""
    asked: list[str] = []

    async def silent(_connection: object, stream: str) -> int:
        asked.append(stream)
        raise RequestTimeout("no answer")

    monkeypatch.setattr(rstream_core.consuming.gap_finder, "first_offset", silent)
    told: list[Gap] = []
    with Peer({c.Subscribe: deliver(chunk(b"0"), chunk(b"5", offset=5))}) as peer:
        options = ConnectionOptions(endpoints=(parse_uri(peer.uri).endpoint,))
        async with Client(options, recovery=None, on_gap=told.append) as client:
            subscription = await client.subscribe("s", FIRST)
            async with asyncio.timeout(PATIENCE):
                assert [(await anext(subscription)).offset for _ in range(2)] == [0, 5]
            assert asked == ["s"] * rstream_core.consuming.gap_finder.LOOKS
            assert told == []
            assert "are messages of stream 's' missing in offsets 1 to 4? no answer" in caplog.text
            await subscription.close()


def begin_turn(_peer: Peer, request: c.Subscribe, number: int) -> bytes:
    """Takes a subscription, and begins its turn."""
    update = c.encode(c.ConsumerUpdate(request.subscription_id, True), correlation_id=100)
    return c.encode(c.SubscribeResponse(), correlation_id=number) + update


async def test_credits_wait_for_the_next_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """While another has its turn none is given: RabbitMQ complains of them, and counts them all the same.

    The turn is over as soon as the application has finished what it holds.
    """
    monkeypatch.setattr(rstream_core.consuming.turn_taking, "FINISH_TIMEOUT", 600.0)
    answered: list[int] = []
    given: list[int] = []

    def subscribe(_peer: Peer, request: c.Subscribe, number: int) -> bytes:
        update = c.encode(c.ConsumerUpdate(request.subscription_id, True), correlation_id=100)
        return c.encode(c.SubscribeResponse(), correlation_id=number) + update

    def take_answer(_peer: Peer, _answer: c.ConsumerUpdateResponse, number: int) -> bytes:
        answered.append(number)
        chunks = (chunk(b"1"), chunk(b"2", offset=1)) if number == 100 else ()
        return b"".join(c.encode(c.DeliverCommitted(0, 0, data)) for data in chunks)

    def more(_peer: Peer, request: c.Credit, _number: int) -> bytes:
        given.append(request.credit)
        return b""

    says: dict[type[Any], Say] = {
        c.Subscribe: subscribe,
        c.ConsumerUpdateResponse: take_answer,
        c.QueryOffset: refuse(c.QueryOffset, 19),
        c.Credit: more,
    }
    with Peer(says) as peer:
        async with client_of(peer) as client:
            group = SingleActiveConsumer("group")
            subscription = await client.subscribe("s", FIRST, credit=2, single_active=group)
            await asyncio.wait_for(anext(subscription), PATIENCE)
            await eventually(lambda: len(inside.undelivered(subscription)) == 1)
            inside.tell_turn(subscription, False, 101)
            subscription.finish()
            await eventually(lambda: answered == [100, 101])
            assert subscription.poll() is None
            await inside.round_trip(subscription)  # whatever it has sent has come by now
            assert given == []
            inside.tell_turn(subscription, True, 102)
            await eventually(lambda: answered == [100, 101, 102])
            await eventually(lambda: sum(given) == 2)
            await subscription.close()


@pytest.mark.parametrize(("offset", "begins"), [(0, 1), (10, 11), (2**64 - 2, 2**64 - 1), (2**64 - 1, 2**64 - 1)])
async def test_a_turn_is_to_begin_behind_what_is_stored(offset: int, begins: int) -> None:
    """The broker is told so, and need not send what is before it; behind the last offset there is none."""
    wanted: list[c.OffsetSpec] = []

    def take_answer(_peer: Peer, told: c.ConsumerUpdateResponse, _number: int) -> bytes:
        wanted.append(told.offset_spec)
        return b""

    says: dict[type[Any], Say] = {
        c.Subscribe: begin_turn,
        c.ConsumerUpdateResponse: take_answer,
        c.QueryOffset: answer(c.QueryOffsetResponse(offset)),
    }
    with Peer(says) as peer:
        async with client_of(peer) as client:
            subscription = await client.subscribe("s", FIRST, single_active=SingleActiveConsumer("group"))
            await eventually(lambda: bool(wanted))
            assert wanted == [c.OffsetSpec(OffsetType.OFFSET, begins)]
            await subscription.close()


async def test_a_turn_that_is_begun_again_begins_at_the_same_place() -> None:
    """After a turn that was cut short, in which more was processed than could be stored."""
    wanted: list[int] = []

    def take_answer(_peer: Peer, told: c.ConsumerUpdateResponse, _number: int) -> bytes:
        wanted.append(told.offset_spec.offset)
        return c.encode(c.DeliverCommitted(0, 0, chunk(*[b"x"] * 10))) if len(wanted) == 1 else b""

    says: dict[type[Any], Say] = {
        c.Subscribe: begin_turn,
        c.ConsumerUpdateResponse: take_answer,
        c.QueryOffset: answer(c.QueryOffsetResponse(4)),
    }
    with Peer(says) as peer:
        options = ConnectionOptions(endpoints=(parse_uri(peer.uri).endpoint,))
        async with Client(options, recovery=EAGER) as client:
            subscription = await client.subscribe("s", FIRST, single_active=SingleActiveConsumer("group"))
            assert (await asyncio.wait_for(anext(subscription), PATIENCE)).offset == 5
            subscription.finish()
            inside.lose(subscription, ConnectionClosed("lost"))
            await eventually(lambda: wanted == [5, 10] and subscription.active)
            inside.tell_turn(subscription, True, 200)
            await eventually(lambda: len(wanted) == 3)
            assert wanted == [5, 10, 10]
            await subscription.close()


async def test_what_is_abandoned_leaves_no_listener_behind() -> None:
    """Nobody waits for its answer any more."""
    entered, left = asyncio.Event(), asyncio.Event()

    async def listener(subscription: Subscription, active: bool) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    with Peer({c.Subscribe: begin_turn}) as peer:
        async with client_of(peer) as client:
            group = SingleActiveConsumer("group", listener=listener)
            subscription = await client.subscribe("s", FIRST, single_active=group)
            await asyncio.wait_for(entered.wait(), PATIENCE)
            subscription.abandon()
            await asyncio.wait_for(left.wait(), PATIENCE)
            await eventually(lambda: not inside.consuming(client).connections)


async def test_a_listener_that_closes_leaves_nothing_behind_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the application holds a chunk of an old turn, and the connection is lost as well."""
    monkeypatch.setattr(rstream_core.consuming.turn_taking, "FINISH_TIMEOUT", 0.05)
    turns: list[bool] = []
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def listener(subscription: Subscription, active: bool) -> None:
        turns.append(active)
        if turns == [True, False, True]:
            entered.set()
            await go_on.wait()
            await subscription.close()

    def subscribe(_peer: Peer, request: c.Subscribe, number: int) -> bytes:
        update = c.encode(c.ConsumerUpdate(request.subscription_id, True), correlation_id=100)
        return c.encode(c.SubscribeResponse(), correlation_id=number) + update

    says: dict[type[Any], Say] = {
        c.Subscribe: subscribe,
        c.ConsumerUpdateResponse: c.encode(c.DeliverCommitted(0, 0, chunk(b"held"))),
        c.QueryOffset: refuse(c.QueryOffset, 19),
    }
    with Peer(says) as peer:
        options = ConnectionOptions(endpoints=(parse_uri(peer.uri).endpoint,))
        async with Client(options, recovery=EAGER) as client:
            group = SingleActiveConsumer("group", listener=listener)
            subscription = await client.subscribe("s", FIRST, single_active=group)
            await asyncio.wait_for(anext(subscription), PATIENCE)
            for word, number in ((False, 101), (True, 102)):
                inside.tell_turn(subscription, word, number)
            await asyncio.wait_for(entered.wait(), PATIENCE)
            monkeypatch.setattr(rstream_core.consuming.turn_taking, "FINISH_TIMEOUT", 600.0)
            inside.lose(subscription, ConnectionClosed("lost"))
            go_on.set()
            await eventually(lambda: subscription.is_closed and not inside.recovering(client))
