"""Publishing goes on after lost connections: once for each message where there is a name, and never a wrong count."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import replace

import pytest

from rstream_core import (
    AuthenticationFailure,
    Backoff,
    Client,
    CompressionType,
    ConfirmationStatus,
    ConnectionClosed,
    ConnectionFailed,
    Credentials,
    NotConfirmed,
    Outcome,
    Producer,
    Publisher,
    Recovery,
    RecoveryEvent,
    RequestTimeout,
    RstreamError,
    StreamDoesNotExist,
)
from rstream_core.protocol import commands as c
from tests import inside
from tests.brokers import Broker
from tests.clients import FIRST, PATIENCE, bodies, eventually
from tests.proxy import Proxy, options_through
from tests.recovering import EAGER, GIVEN_UP, LOST, RECOVERED, Events, cut_now_and_then, stored


class Ledger:
    """A listener that counts what was told of each id."""

    def __init__(self) -> None:
        self.confirmed: Counter[int] = Counter()
        self.failed: Counter[int] = Counter()

    def __call__(self, outcome: Outcome) -> None:
        self.confirmed.update(outcome.publishing_ids)
        self.failed.update(failure.publishing_id for failure in outcome.failed)

    def holds_for(self, publisher: Publisher) -> None:
        assert publisher.published == publisher.confirmed + publisher.failed + publisher.in_flight
        told = self.confirmed + self.failed
        assert sorted(told) == list(range(1, publisher.published - publisher.in_flight + 1))
        assert max(told.values(), default=1) == 1


@pytest.mark.parametrize("seed", range(3))
async def test_with_a_name_each_message_is_stored_once_and_in_order(
    through: Client, proxy: Proxy, client: Client, stream: str, events: Events, seed: int
) -> None:
    chance = random.Random(seed)
    messages = bodies(20_000, "x" * 50)
    ledger = Ledger()
    publisher = await through.publisher(stream, "writer", listener=ledger, max_in_flight=2000)
    cutting = cut_now_and_then(proxy, chance, 10_000, 300_000)
    low = 0
    async with asyncio.timeout(60):
        while low < len(messages):
            high = low + chance.randrange(1, 700)
            await publisher.publish(messages[low:high])
            low = high
        cutting.cancel()
        proxy.cut_at = None
        await publisher.flush()
    ledger.holds_for(publisher)
    assert (publisher.confirmed, publisher.failed, publisher.sent_again) == (20_000, 0, 0)
    await publisher.close()
    assert await stored(client, stream) == messages
    assert len(events) >= 6
    assert events.states == [LOST, RECOVERED] * (len(events) // 2)
    assert {(event.stream, event.what) for event in events} == {(stream, "publisher")}
    assert all(isinstance(event.error, ConnectionClosed) for event in events)
    assert all(event.attempts >= 1 and event.seconds > 0 for event in events[1::2])


async def test_without_a_name_each_message_is_stored_at_least_once(
    through: Client, proxy: Proxy, client: Client, stream: str
) -> None:
    messages = bodies(10_000, "x" * 50)
    ledger = Ledger()
    publisher = await through.publisher(stream, listener=ledger, max_in_flight=2000)
    proxy.broker_may_speak.clear()  # the first are stored, and the client does not know
    await publisher.publish(messages[:500])
    await eventually_stored(client, stream, 500)
    proxy.cut()
    proxy.resume()
    cutting = cut_now_and_then(proxy, random.Random(7), 50_000, 200_000)
    async with asyncio.timeout(60):
        for low in range(500, len(messages), 500):
            await publisher.publish(messages[low : low + 500])
        cutting.cancel()
        proxy.cut_at = None
        await publisher.flush()
    ledger.holds_for(publisher)
    assert (publisher.confirmed, publisher.failed) == (10_000, 0)
    await publisher.close()
    found = await stored(client, stream)
    assert set(found) == set(messages)
    assert 500 <= len(found) - len(messages) <= publisher.sent_again
    firsts = list(dict.fromkeys(found))
    assert firsts == messages  # in order, but for repetitions


async def test_frames_are_cut_anew_for_a_node_that_takes_smaller_ones(
    through: Client, proxy: Proxy, client: Client, stream: str, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are written again, and those of a call that was under way: a larger one would end the connection."""
    messages = bodies(2000, "x" * 50)
    ledger = Ledger()
    publisher = await through.publisher(stream, "writer", listener=ledger, max_in_flight=1000)
    proxy.broker_may_speak.clear()
    publishing = asyncio.create_task(publisher.publish(messages))
    await eventually(lambda: publisher.in_flight == 1000)
    inside.offer_small_frames(monkeypatch, 5000)
    proxy.cut()
    proxy.resume()
    await asyncio.wait_for(publishing, PATIENCE)
    await publisher.flush(PATIENCE)
    ledger.holds_for(publisher)
    assert (publisher.confirmed, publisher.failed) == (2000, 0)
    assert inside.connection(publisher).frame_max == 5000
    assert events.states == [LOST, RECOVERED]
    await publisher.close()
    assert await stored(client, stream) == messages


async def test_what_is_unconfirmed_can_be_failed_instead(
    proxy: Proxy, broker: Broker, client: Client, stream: str, events: Events
) -> None:
    ledger = Ledger()
    policy = Recovery(seconds=PATIENCE, resend=False, backoff=EAGER.backoff)
    async with Client(options_through(proxy, broker), recovery=policy, on_recovery=events) as through:
        publisher = await through.publisher(stream, listener=ledger, max_in_flight=2000)
        await publisher.publish(bodies(100, "a"))
        await publisher.flush(PATIENCE)
        proxy.broker_may_speak.clear()
        await publisher.publish(bodies(50, "b"))
        proxy.cut()
        await eventually(lambda: publisher.failed == 50)
        assert publisher.error is None
        proxy.broker_may_speak.set()
        await asyncio.wait_for(publisher.publish(bodies(10, "c")), PATIENCE)
        await publisher.flush(PATIENCE)
        ledger.holds_for(publisher)
        assert sorted(ledger.failed) == list(range(101, 151))
        named = await through.publisher(stream, "writer")
        proxy.broker_may_speak.clear()
        await named.publish(bodies(5, "d"))
        proxy.cut()
        proxy.broker_may_speak.set()
        await named.flush(PATIENCE)
        assert (named.confirmed, named.failed) == (5, 0)
        await named.close()
        await publisher.close()
    found = Counter(await stored(client, stream))
    assert all(found[body] == 1 for body in [*bodies(100, "a"), *bodies(10, "c"), *bodies(5, "d")])


async def test_ids_sub_entries_and_filter_values_are_sent_again_as_they_were(
    through: Client, proxy: Proxy, client: Client, stream: str
) -> None:
    ledger = Ledger()
    publisher = await through.publisher(stream, "writer", listener=ledger)
    await publisher.publish([b"first"])
    await publisher.flush(PATIENCE)
    proxy.stall()  # nothing of what follows arrives
    await publisher.publish([b"a", b"b", b"c", b"d"], publishing_ids=[5, 7, 8, 20])
    await publisher.publish([b"e", b"f", b"g"], filter_values=["eu", None, "us"])
    await publisher.publish_sub_entry(bodies(100, "s"), CompressionType.Gzip)
    publisher.on_confirmed([7])
    publisher.on_rejected([c.MessageError(22, 17)])
    proxy.cut()
    proxy.resume()
    await publisher.flush(PATIENCE)
    assert (publisher.confirmed, publisher.failed, publisher.published) == (107, 1, 108)
    assert sorted(ledger.confirmed.elements()) == [1, 5, 7, 8, 20, 21, 23, 24]
    assert ledger.failed == Counter([22])
    await publisher.close()
    assert await stored(client, stream) == [b"first", b"a", b"c", b"d", b"e", b"g", *bodies(100, "s")]
    async with await client.subscribe(stream, FIRST, filter_values=["nowhere"]) as subscription:
        assert b"e" not in [message for chunk in [await subscription.next_there_is()] if chunk for message in chunk[3]]


@pytest.mark.parametrize(("name", "doubtful"), [(None, 13), ("writer", 10)])
async def test_what_may_be_stored_twice_is_counted(
    through: Client, proxy: Proxy, stream: str, name: str | None, doubtful: int
) -> None:
    """With a name only what is in sub-entries: the broker drops the rest."""
    publisher = await through.publisher(stream, name)
    await publisher.publish([b"first"])
    await publisher.flush(PATIENCE)
    proxy.broker_may_speak.clear()
    await publisher.publish([b"a", b"b", b"c", b"d"])
    await publisher.publish_sub_entry(bodies(10, "s"))
    publisher.on_confirmed([3])
    proxy.cut()
    proxy.resume()
    await publisher.flush(PATIENCE)
    assert (publisher.confirmed, publisher.sent_again) == (15, doubtful)
    await publisher.close()


async def test_ids_behind_a_rejected_one_are_not_taken(through: Client, proxy: Proxy, stream: str) -> None:
    """Where the broker has gone on, that one cannot be published any more: it would be dropped, and confirmed."""
    publisher = await through.publisher(stream, "writer")
    proxy.broker_may_speak.clear()
    await publisher.publish([b"1", b"2", b"3"], publishing_ids=[1, 2, 3])
    publisher.on_rejected([c.MessageError(2, 17)])
    assert not publisher.is_stopped
    proxy.broker_may_speak.set()
    with pytest.raises(NotConfirmed, match="publishing id 2 of 'writer' in stream"):
        await publisher.publish([b"4"], publishing_ids=[4])
    with pytest.raises(NotConfirmed, match="until it is published again"):
        await publisher.publish_sub_entry([b"4"])
    assert publisher.is_stopped
    with pytest.raises(NotConfirmed, match="the broker has gone on to 3: it would drop it"):
        await publisher.publish([b"2", b"3"], publishing_ids=[2, 3])
    assert (publisher.confirmed, publisher.failed, publisher.published) == (2, 1, 3)
    await publisher.close()


async def test_ids_behind_a_rejected_one_are_not_sent_again(
    through: Client, proxy: Proxy, client: Client, stream: str
) -> None:
    """The broker that they come to may have stored nothing of it: then they are published again in their order."""
    ledger = Ledger()
    publisher = await through.publisher(stream, "writer", listener=ledger)
    await publisher.publish([b"first"])
    await publisher.flush(PATIENCE)
    proxy.stall()  # nothing of what follows arrives
    await publisher.publish([b"2", b"3", b"4"], publishing_ids=[2, 3, 4])
    await publisher.publish([b"5", b"6"], publishing_ids=[5, 6])
    publisher.on_rejected([c.MessageError(3, 17)])
    proxy.cut()
    proxy.resume()
    await publisher.flush(PATIENCE)
    assert sorted(ledger.confirmed.elements()) == [1, 2]
    assert sorted(ledger.failed.elements()) == [3, 4, 5, 6]
    assert await stored(client, stream) == [b"first", b"2"]
    with pytest.raises(NotConfirmed, match="until it is published again"):
        await publisher.publish([b"2", b"4"], publishing_ids=[2, 4])
    await publisher.publish([b"3", b"4", b"5", b"6"], publishing_ids=[3, 4, 5, 6])
    await publisher.flush(PATIENCE)
    assert (publisher.confirmed, publisher.failed, publisher.published) == (6, 4, 10)
    await publisher.close()
    assert await stored(client, stream) == [b"first", b"2", b"3", b"4", b"5", b"6"]


async def test_who_lets_the_publisher_count_may_go_on(
    through: Client, proxy: Proxy, client: Client, stream: str
) -> None:
    publisher = await through.publisher(stream, "writer")
    proxy.broker_may_speak.clear()
    await publisher.publish([b"1", b"2", b"3"])
    publisher.on_rejected([c.MessageError(2, 17)])
    proxy.broker_may_speak.set()
    assert list(await publisher.publish([b"4"])) == [4]
    await publisher.flush(PATIENCE)
    assert (publisher.confirmed, publisher.failed) == (3, 1)
    await publisher.close()
    assert await stored(client, stream) == [b"1", b"2", b"3", b"4"]


async def test_publishing_waits_while_it_recovers(through: Client, proxy: Proxy, stream: str, events: Events) -> None:
    publisher = await through.publisher(stream, "writer")
    await publisher.publish([b"a"])
    await publisher.flush(PATIENCE)
    proxy.refuse()
    proxy.cut()
    await eventually(lambda: events.states == [LOST])
    task = asyncio.create_task(publisher.publish([b"b"]))
    entry = asyncio.create_task(publisher.publish_sub_entry([b"c"]))
    given_up = asyncio.create_task(publisher.publish([b"never"]))
    await asyncio.sleep(0.1)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    assert not task.done()
    assert publisher.published == 1
    await proxy.accept_again()
    await asyncio.wait_for(asyncio.gather(task, entry), PATIENCE)
    await publisher.flush(PATIENCE)
    assert (publisher.confirmed, publisher.error) == (3, None)
    assert events.states == [LOST, RECOVERED]
    assert events[1].seconds > 0.1
    await publisher.close()


async def test_a_write_that_notices_first(through: Client, stream: str, client: Client) -> None:
    """The transport is closing, and nobody has been told yet: what is written then is not lost."""
    publisher = await through.publisher(stream, "writer")
    transport = inside.transport(inside.connection(publisher))
    assert transport is not None
    transport.abort()
    await publisher.publish([b"a"])
    await publisher.publish_sub_entry([b"b"])
    await publisher.flush(PATIENCE)
    assert publisher.sent_again == 0
    await publisher.close()
    assert await stored(client, stream) == [b"a", b"b"]


async def test_a_policy_that_is_used_up(proxy: Proxy, broker: Broker, stream: str, events: Events) -> None:
    ended: list[RstreamError] = []
    ledger = Ledger()
    policy = Recovery(seconds=3.5, backoff=EAGER.backoff)
    async with Client(options_through(proxy, broker), recovery=policy, on_recovery=events) as through:
        publisher = await through.publisher(stream, "writer", listener=ledger, on_end=ended.append)
        proxy.broker_may_speak.clear()
        await publisher.publish(bodies(10))
        proxy.refuse()
        proxy.cut()
        await eventually(lambda: LOST in events.states)
        with pytest.raises(ConnectionFailed):
            await asyncio.wait_for(publisher.publish([b"x"]), PATIENCE)
        ledger.holds_for(publisher)
        assert (publisher.failed, ended) == (10, [publisher.error])
        assert events.states == [LOST, GIVEN_UP]
        assert events[1].error is publisher.error
        assert events[1].attempts > 1
        assert 3.4 < events[1].seconds < 10
        await publisher.flush(PATIENCE)
        await publisher.close()
    policy = Recovery(backoff=Backoff(attempts=3, initial=0.01))
    events.clear()
    await proxy.accept_again()
    proxy.resume()
    async with Client(options_through(proxy, broker), recovery=policy, on_recovery=events) as through:
        publisher = await through.publisher(stream)
        proxy.refuse()
        proxy.cut()
        await eventually(lambda: events.states == [LOST, GIVEN_UP])
        assert events[1].attempts == 3
        await publisher.close()


async def test_a_broker_that_ends_each_connection_over_the_same_frame_is_given_up(
    proxy: Proxy, broker: Broker, stream: str, events: Events
) -> None:
    """Recovered each time, and nothing confirmed: that is one outage."""
    policy = Recovery(backoff=Backoff(attempts=5, initial=0.01))
    async with Client(options_through(proxy, broker), recovery=policy, on_recovery=events) as through:
        publisher = await through.publisher(stream, "writer")
        await publisher.publish([b"x"])
        await publisher.flush(PATIENCE)
        length = len(b"\0" * 25_000)

        def cut_again() -> None:
            proxy.cut_at = proxy.from_client + length

        proxy.after_cut = cut_again
        cut_again()
        await publisher.publish([bytes(100_000)])
        await publisher.flush(PATIENCE)
        proxy.after_cut = proxy.cut_at = None
        assert isinstance(publisher.error, (ConnectionClosed, ConnectionFailed))
        assert publisher.failed == 1
        assert sum(event.attempts for event in events) == 5
        await publisher.close()


async def test_a_stream_that_is_deleted_during_an_outage(
    through: Client, proxy: Proxy, client: Client, stream: str, events: Events
) -> None:
    publisher = await through.publisher(stream, "writer")
    proxy.refuse()
    proxy.cut()
    await eventually(lambda: events.states == [LOST])
    await client.delete_stream(stream)
    await proxy.accept_again()
    with pytest.raises(StreamDoesNotExist, match=stream):
        await asyncio.wait_for(publisher.publish([b"x"]), PATIENCE)
    assert events.states == [LOST, GIVEN_UP]
    await publisher.close()


async def test_a_stream_that_is_deleted_ends_it_at_once(through: Client, client: Client, stream: str) -> None:
    publisher = await through.publisher(stream, "writer")
    await client.delete_stream(stream)
    await eventually(lambda: publisher.error is not None, 10)
    assert isinstance(publisher.error, StreamDoesNotExist)
    await publisher.close()


async def test_a_password_that_is_refused_ends_it_at_once(
    through: Client, proxy: Proxy, broker: Broker, stream: str, events: Events
) -> None:
    publisher = await through.publisher(stream, "writer")
    options = inside.locator(through).options
    inside.locator(through).options = replace(options, credentials=Credentials(broker.username, "another"))
    proxy.cut()
    await eventually(lambda: publisher.error is not None, 10)
    assert isinstance(publisher.error, AuthenticationFailure)
    assert events.states == [LOST, GIVEN_UP]
    await publisher.close()


async def test_close_during_an_outage(through: Client, proxy: Proxy, stream: str, events: Events) -> None:
    ledger = Ledger()
    publisher = await through.publisher(stream, "writer", listener=ledger)
    proxy.broker_may_speak.clear()
    await publisher.publish(bodies(10))
    proxy.refuse()
    proxy.cut()
    await eventually(lambda: events.states == [LOST])
    waiting = asyncio.create_task(publisher.publish([b"x"]))
    start = time.monotonic()
    await publisher.close(0.2)
    assert 0.15 < time.monotonic() - start < 8  # less than the default, and than the recovery's time
    ledger.holds_for(publisher)
    assert publisher.failed == 10
    assert events.states == [LOST, GIVEN_UP]
    with pytest.raises(RstreamError):
        await asyncio.wait_for(waiting, PATIENCE)
    assert inside.recovering(through) == set()


async def test_close_waits_for_a_recovery(through: Client, proxy: Proxy, stream: str, events: Events) -> None:
    publisher = await through.publisher(stream, "writer")
    proxy.broker_may_speak.clear()
    await publisher.publish(bodies(10))
    proxy.refuse()
    proxy.cut()
    await eventually(lambda: events.states == [LOST])
    closing = asyncio.create_task(publisher.close())
    await asyncio.sleep(0.05)
    proxy.resume()
    await proxy.accept_again()
    await asyncio.wait_for(closing, PATIENCE)
    assert (publisher.confirmed, publisher.failed) == (10, 0)


async def test_a_client_that_is_closed_ends_its_recoveries(proxy: Proxy, broker: Broker, stream: str) -> None:
    client = Client(options_through(proxy, broker), recovery=EAGER)
    publisher = await client.publisher(stream, "writer")
    subscription = await client.subscribe(stream, FIRST)
    proxy.refuse()
    proxy.cut()
    await eventually(lambda: len(inside.recovering(client)) == 2)
    waiting = asyncio.gather(publisher.publish([b"x"]), anext(subscription), return_exceptions=True)
    await asyncio.wait_for(client.close(), 5)
    assert [type(result) for result in await asyncio.wait_for(waiting, 5)] == [ConnectionClosed] * 2
    assert inside.recovering(client) == set()
    await publisher.close()
    await subscription.close()


async def test_an_outage_is_not_held_against_the_confirm_timeout(
    through: Client, proxy: Proxy, stream: str, events: Events
) -> None:
    outcomes: list[Outcome] = []
    publisher = await through.publisher(stream, "writer", listener=outcomes.append, confirm_timeout=3.5)
    proxy.broker_may_speak.clear()
    await publisher.publish(bodies(10))
    proxy.refuse()
    proxy.cut()
    await eventually(lambda: events.states == [LOST])
    await asyncio.sleep(4)
    assert (publisher.error, publisher.in_flight, outcomes) == (None, 10, [])
    proxy.resume()
    await proxy.accept_again()
    await publisher.flush(PATIENCE)
    assert events.has_outages(1)
    assert (publisher.confirmed, publisher.failed, publisher.error) == (10, 0, None)
    assert all(0 <= outcome.latency < 3.5 and not outcome.failed for outcome in outcomes)  # since the last writing
    proxy.broker_may_speak.clear()
    begin = time.monotonic()
    await publisher.publish([b"x"])
    await eventually(lambda: publisher.error is not None, 10)
    assert time.monotonic() - begin >= 3.4
    assert isinstance(publisher.error, NotConfirmed)  # but it holds again afterwards
    assert str(publisher.error) == "the broker did not confirm within 3.5 s"
    assert (publisher.confirmed, publisher.failed, publisher.in_flight) == (10, 1, 0)
    assert [message.data for message in outcomes[-1].failed] == [b"x"]
    proxy.resume()
    await publisher.close()


async def test_a_stream_that_moves(through: Client, proxy: Proxy, client: Client, stream: str, events: Events) -> None:
    """The broker's notice, without a lost connection; what it still says of the old publisher means nothing."""
    publisher = await through.publisher(stream, "writer")
    other = await through.publisher(stream, "other")
    assert inside.connection(publisher) is inside.connection(other)
    connection = inside.connection(publisher)
    proxy.broker_may_speak.clear()
    await publisher.publish(bodies(10))
    rejected = tuple(c.MessageError(number, 18) for number in range(1, 11))
    proxy.say(
        c.encode(c.MetadataUpdate(6, stream)) + c.encode(c.PublishError(inside.lease_id(publisher), rejected)),
    )
    await eventually(lambda: events.states == [LOST, LOST])
    proxy.resume()
    await publisher.flush(PATIENCE)
    assert (publisher.confirmed, publisher.failed) == (10, 0)
    await eventually(lambda: len(events) == 4)
    assert inside.connection(publisher).is_open
    assert connection.is_open or inside.connection(publisher) is not connection
    await other.publish([b"x"])
    await other.flush(PATIENCE)
    await publisher.close()
    await other.close()
    assert sorted(await stored(client, stream)) == sorted([*bodies(10), b"x"])


async def test_a_stalled_broker_is_left_after_two_heartbeats(
    proxy: Proxy, broker: Broker, stream: str, events: Events
) -> None:
    options = options_through(proxy, broker, heartbeat=2)  # not 1: a pause of this machine might look like two
    async with Client(options, recovery=EAGER, on_recovery=events) as through:
        publisher = await through.publisher(stream, "writer")
        proxy.stall()
        await publisher.publish(bodies(10))
        await eventually(lambda: events.states == [LOST], 8)
        proxy.cut()
        proxy.resume()
        await publisher.flush(PATIENCE)
        assert publisher.confirmed == 10
        await publisher.close()


async def test_a_producer_goes_on(through: Client, proxy: Proxy, client: Client, stream: str) -> None:
    """All four methods, callbacks, and nothing that has to be done about it."""
    told: list[ConfirmationStatus] = []
    cutting = cut_now_and_then(proxy, random.Random(11), 5_000, 40_000)
    async with asyncio.timeout(60), Producer(client=through, linger=0.001) as producer:
        for number in range(3000):
            body = b"%d" % number
            if number % 100 == 50:
                await producer.send_wait(stream, body, "writer", timeout=PATIENCE)
            elif number % 10 == 5:
                await producer.send_batch(stream, [body], "writer", told.append)
            else:
                await producer.send(stream, body, "writer", told.append)
            if number % 20 == 0:
                await asyncio.sleep(0)
        await producer.flush()
        cutting.cancel()
        proxy.cut_at = None
    assert all(status.is_confirmed for status in told)
    assert len({status.message_id for status in told}) == len(told) == 2970
    assert await stored(client, stream) == bodies(3000)


async def test_a_timeout_during_an_outage_says_so(through: Client, proxy: Proxy, stream: str) -> None:
    async with Producer(client=through, close_timeout=0.2) as producer:
        await producer.send_wait(stream, b"a")
        proxy.refuse()
        proxy.cut()
        with pytest.raises(RequestTimeout):
            await producer.send_wait(stream, b"b", timeout=0.2)
        with pytest.raises(RequestTimeout):
            await producer.flush(0.1)
        await proxy.accept_again()
        await producer.send_wait(stream, b"c", timeout=PATIENCE)


async def test_a_listener_that_fails_is_logged(
    proxy: Proxy, broker: Broker, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: RecoveryEvent) -> None:
        raise RuntimeError("the listener's own")

    async with Client(options_through(proxy, broker), recovery=EAGER, on_recovery=fail) as through:
        publisher = await through.publisher(stream, "writer")
        proxy.cut()
        await publisher.publish([b"x"])
        await publisher.flush(PATIENCE)
        await publisher.close()
    assert "on_recovery failed" in caplog.text


async def test_a_name_is_not_used_with_ids_that_may_still_arrive(
    proxy: Proxy, broker: Broker, client: Client, stream: str
) -> None:
    """A publisher ended by its timeout has bytes on their way: its successor counts on behind them."""
    told: list[ConfirmationStatus] = []
    async with Client(options_through(proxy, broker), max_publishers_by_connection=1) as through:
        first = await through.publisher(stream, "writer")  # whose confirm may take its time
        await first.publish([b"first"])
        await first.close()
        publisher = await through.publisher(stream, "writer", confirm_timeout=0.3)
        stalled = proxy.stall_those_there()
        for questions in inside.locator(through).connections:
            questions.abort()
        await publisher.publish(bodies(5, "old"))
        await eventually(lambda: publisher.error is not None)
        async with Producer(client=through) as producer:
            await producer.send_batch(stream, [], "writer")  # opens it
            stalled.set()
            await eventually_stored(client, stream, 6)
            await producer.send_batch(stream, bodies(5, "new"), "writer", told.append)
            await producer.flush(PATIENCE)
        await publisher.close()
    assert [status.is_confirmed for status in told] == [True] * 5
    assert await stored(client, stream) == [b"first", *bodies(5, "old"), *bodies(5, "new")]


async def eventually_stored(client: Client, stream: str, count: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while len(await stored(client, stream)) < count:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


async def test_what_names_have_published_is_remembered_within_a_bound(
    client: Client, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rstream_core.publisher_opener.MAX_NAMES", 2)
    for name in ("a", "b", "a", "c"):
        publisher = await client.publisher(stream, name)
        await publisher.close()
    assert [name for _, name in inside.named(client)] == ["a", "c"]


async def test_a_password_that_ends_during_an_outage(proxy: Proxy, broker: Broker, stream: str, events: Events) -> None:
    """A function is asked for the credentials each time, and may fail for a while."""
    right = Credentials(broker.username, broker.password)
    asked: list[str] = []

    def credentials() -> Credentials:
        asked.append("")
        if len(asked) == 4:
            raise LookupError("no token yet")
        return right

    options = options_through(proxy, broker)
    async with Client(replace(options, credentials=credentials), recovery=EAGER, on_recovery=events) as through:
        publisher = await through.publisher(stream, "writer")
        assert len(asked) == 2
        assert broker.password not in repr(through.options)
        proxy.cut()
        await publisher.publish(bodies(3))
        await publisher.flush(PATIENCE)
        assert len(asked) >= 5
        assert events.states == [LOST, RECOVERED]
        await through.update_password(broker.password)
        assert through.options.credentials is credentials
        await publisher.close()

    def broken() -> Credentials:
        raise LookupError("no token")

    async with Client(replace(options, credentials=broken), recovery=None) as through:
        with pytest.raises(ConnectionFailed, match="the function for the credentials failed: LookupError"):
            await through.start()


async def test_clients_that_lose_a_node_at_once_do_not_come_back_at_once(
    proxy: Proxy, broker: Broker, stream: str
) -> None:
    """The first attempts are spread over a part of a second, at random."""
    spread = Recovery(seconds=100 * PATIENCE, spread=PATIENCE / 3)
    events = Events()
    async with Client(options_through(proxy, broker), recovery=spread, on_recovery=events) as through:
        publishers = [await through.publisher(stream) for _ in range(20)]
        proxy.cut()
        await eventually(lambda: events.states.count(RECOVERED) == 20)
        waits = sorted(event.seconds for event in events if event.state is RECOVERED)
        assert waits[-1] - waits[0] > PATIENCE / 30  # 20 of PATIENCE / 3 at random: less, once in 10**17
        await asyncio.gather(*(publisher.close() for publisher in publishers))
