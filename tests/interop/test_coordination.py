"""What clients agree on beside messages: filters, partitions, publishing ids, stored offsets, whose turn it is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from rstream_core import (
    AMQPMessage,
    Client,
    ConnectionOptions,
    Consumer,
    EventContext,
    MessageContext,
    OffsetNotFound,
    RouteNotFound,
    Router,
)
from rstream_core.protocol.amqp import bodies_of, encode_bodies
from tests.brokers import Broker
from tests.clients import FIRST, PATIENCE, at, read
from tests.interop.languages import LANGUAGES, Language, having
from tests.interop.notation import plain
from tests.interop.ours import LAST, store
from tests.interop.programs import Program, ProgramError, Programs

NAME = "shared"


async def end(client: Client, stream: str) -> int:
    """Stores the last message; returns its offset."""
    await store(client, stream, *encode_bodies([LAST]))
    offset = await client.last_offset(stream)
    assert offset is not None
    return offset


# --- Filters -------------------------------------------------------------------------------------------------

VALUES = ("eu", "us", None, "ü")
"""Filter values that neither broker's Bloom filter takes for each other, nor for none."""


@having("filters")
async def test_they_filter_what_we_write(them: Program, client: Client, stream: str) -> None:
    publisher = await client.publisher(stream)
    for value in VALUES:  # each a chunk, or several
        bodies = [f"{value} {number}".encode() for number in range(20)]
        await publisher.publish(encode_bodies(bodies), filter_values=[value] * len(bodies))
        await publisher.flush(PATIENCE)
    await publisher.publish(encode_bodies([LAST]), filter_values=["eu"])
    await publisher.flush(PATIENCE)
    await publisher.close()

    async def found(**arguments: Any) -> list[str]:
        answer = await them.ask("read", stream=stream, offset=0, last=LAST.decode(), **arguments)
        return [bytes.fromhex(message["body"]).decode() for message in answer["messages"]]

    def wanted(*values: str | None) -> list[str]:
        return [f"{value} {number}" for value in values for number in range(20)]

    assert await found(filters=["eu"]) == wanted("eu")
    assert await found(filters=["eu", "ü"]) == wanted("eu", "ü")
    assert await found(filters=["eu"], match_unfiltered=True) == wanted("eu", None)


@having("filters")
async def test_we_filter_what_they_write(them: Program, client: Client, stream: str) -> None:
    for value in VALUES:
        bodies = [f"{value} {number}".encode() for number in range(20)]
        await them.ask("publish", stream=stream, messages=plain(*bodies), filter=value)
    await them.ask("publish", stream=stream, messages=plain(LAST), filter="eu")

    async def found(*values: str, match_unfiltered: bool = False) -> list[str]:
        async with await client.subscribe(
            stream, FIRST, filter_values=values, match_unfiltered=match_unfiltered
        ) as subscription:
            texts: list[str] = []
            async with asyncio.timeout(PATIENCE):
                while not texts or texts[-1] != LAST.decode():
                    chunk = await anext(subscription)
                    texts += [body.decode() for body in bodies_of(chunk.messages) if body is not None]
        return texts[:-1]

    def wanted(*values: str | None) -> list[str]:
        return [f"{value} {number}" for value in values for number in range(20)]

    assert await found("eu") == wanted("eu")
    assert await found("eu", "ü") == wanted("eu", "ü")
    assert await found("eu", match_unfiltered=True) == wanted("eu", None)


# --- Super streams -------------------------------------------------------------------------------------------

KEYS = [f"key-{number}" for number in range(990)] + ["", "日本", "ü", "😀", " ", "a" * 1000, "0", "A", "\n", "-1"]


async def by_partition(client: Client, super_stream: str, counts: dict[str, int]) -> dict[str, list[str]]:
    """What the partitions hold, which is to be so many messages each."""
    found = {}
    for partition in await client.partitions(super_stream):
        count = counts.get(partition, 0)
        messages = await read(client, partition, count) if count else {}
        assert await client.last_offset(partition) == (count - 1 if count else None), partition
        found[partition] = [AMQPMessage.from_bytes(data).body.decode() for data in messages.values()]  # type: ignore[union-attr]
    return found


def chosen_by(partitions: tuple[str, ...], choose: Callable[[str], str], keys: list[str]) -> dict[str, list[str]]:
    return {partition: [key for key in keys if choose(key) == partition] for partition in partitions}


@contextlib.asynccontextmanager
async def super_stream_of(client: Client, name: str, **how: Any) -> AsyncIterator[Router]:
    await client.create_super_stream(name, **how)
    try:
        yield await Router.open(client, name)
    finally:
        await client.delete_super_stream(name, missing_ok=True)


@having("hash routing")
async def test_the_hash_of_1000_keys(them: Program, client: Client, stream_name: str) -> None:
    async with super_stream_of(client, stream_name, partitions=7) as router:
        ours = chosen_by(router.partitions, router.by_hash, KEYS)
        assert all(ours.values())
        assert await them.ask("route", stream=stream_name, by="hash", keys=KEYS) == {"confirmed": 1000}
        counts = {partition: len(keys) for partition, keys in ours.items()}
        assert await by_partition(client, stream_name, counts) == ours


@having("key routing")
async def test_the_bindings_of_1000_keys(them: Program, client: Client, stream_name: str) -> None:
    bound = ["eu", "us", "日本", "ü", "a" * 100]
    keys = [bound[number * number % len(bound)] for number in range(1000)]
    async with super_stream_of(client, stream_name, routing_keys=bound) as router:
        routes = {key: (await router.by_binding(key))[0] for key in bound}
        ours = chosen_by(router.partitions, routes.__getitem__, keys)
        assert await them.ask("route", stream=stream_name, by="key", keys=keys) == {"confirmed": 1000}
        counts = {partition: len(found) for partition, found in ours.items()}
        assert await by_partition(client, stream_name, counts) == ours


@having("key routing")
async def test_a_key_that_is_not_bound(them: Program, client: Client, stream_name: str) -> None:
    async with super_stream_of(client, stream_name, routing_keys=["eu"]) as router:
        with pytest.raises(RouteNotFound):
            await router.by_binding("us")
        with pytest.raises(ProgramError):
            await them.ask("route", stream=stream_name, by="key", keys=["us"])
        assert await client.last_offset(router.partitions[0]) is None


# --- Publishing ids ------------------------------------------------------------------------------------------


@having("publishing ids")
async def test_we_go_on_where_they_stopped(them: Program, client: Client, stream: str) -> None:
    bodies = [b"%d" % number for number in range(1, 16)]
    await them.ask("publish", stream=stream, name=NAME, messages=plain(*bodies[:10], first_id=1))
    publisher = await client.publisher(stream, NAME)
    assert publisher.known_publishing_id == 10
    await publisher.publish(encode_bodies(bodies[5:]), publishing_ids=range(6, 16))
    await publisher.flush(PATIENCE)
    assert (publisher.confirmed, publisher.failed) == (10, 0)
    await publisher.close()
    assert await them.ask("sequence", stream=stream, name=NAME) == {"sequence": 15}
    assert await end(client, stream) == 15
    assert list((await read(client, stream, 16)).values()) == encode_bodies([*bodies, LAST])


@having("publishing ids")
async def test_they_go_on_where_we_stopped(them: Program, client: Client, stream: str) -> None:
    bodies = [b"%d" % number for number in range(1, 16)]
    publisher = await client.publisher(stream, NAME)
    await publisher.publish(encode_bodies(bodies[:10]), publishing_ids=range(1, 11))
    await publisher.flush(PATIENCE)
    await publisher.close()
    assert await them.ask("sequence", stream=stream, name=NAME) == {"sequence": 10}
    answer = await them.ask("publish", stream=stream, name=NAME, messages=plain(*bodies[5:], first_id=6))
    assert answer == {"confirmed": 10}
    publisher = await client.publisher(stream, NAME)
    assert publisher.known_publishing_id == 15
    await publisher.close()
    assert await end(client, stream) == 15
    assert list((await read(client, stream, 16)).values()) == encode_bodies([*bodies, LAST])


# --- Stored offsets ------------------------------------------------------------------------------------------


@having("stored offsets")
async def test_we_resume_where_they_stored(them: Program, client: Client, stream: str) -> None:
    bodies = [b"%d" % number for number in range(20)]
    await store(client, stream, *encode_bodies(bodies))
    with pytest.raises(OffsetNotFound):
        await client.query_offset(stream, NAME)
    await them.ask("store", stream=stream, name=NAME, offset=11)
    await eventually_stored(client, stream, 11)
    found = await read(client, stream, 8, at(await client.query_offset(stream, NAME) + 1))
    assert found == dict(enumerate(encode_bodies(bodies[12:]), 12))


@having("stored offsets")
async def test_they_resume_where_we_stored(them: Program, client: Client, stream: str) -> None:
    bodies = [b"%d" % number for number in range(20)]
    await store(client, stream, *encode_bodies(bodies))
    await end(client, stream)
    assert await them.ask("stored", stream=stream, name=NAME) == {"offset": None}
    await client.store_offset(stream, NAME, 11, verify_timeout=PATIENCE)
    assert await them.ask("stored", stream=stream, name=NAME) == {"offset": 11}
    answer = await them.ask("read", stream=stream, offset=12, last=LAST.decode())
    expected = [{"offset": number, "body": body.hex()} for number, body in enumerate(bodies[12:], 12)]
    assert answer == {"messages": expected}


async def eventually_stored(client: Client, stream: str, offset: int) -> None:
    """Nobody tells when a broker has stored an offset."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(OffsetNotFound):
                if await client.query_offset(stream, NAME) == offset:
                    return
            await asyncio.sleep(0.01)


# --- Groups --------------------------------------------------------------------------------------------------


class Ours:
    """This client as a member of a group; has the ways of a ``Program``."""

    name = "Python"

    def __init__(self, client: Client) -> None:
        self.events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._consumer = Consumer(client=client)

    async def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        if do == "leave":
            await self._consumer.close()
            return {}
        await self._consumer.subscribe(
            arguments["stream"],
            self._on_message,
            offset_specification=FIRST,
            single_active_consumer=True,
            subscriber_name=arguments["name"],
            consumer_update_listener=self._on_turn,
        )
        return {}

    async def event(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE):
            return await self.events.get()

    def _on_turn(self, is_active: bool, context: EventContext) -> None:
        self.events.put_nowait({"event": "turn", "active": is_active})

    async def _on_message(self, message: bytes, context: MessageContext) -> None:
        await self._consumer.store_offset(context.stream, subscriber_name=NAME, offset=context.offset)
        body = AMQPMessage.from_bytes(message).body
        assert body is not None
        self.events.put_nowait({"event": "message", "offset": context.offset, "body": body.hex()})


Member = Ours | Program


async def has_turn(member: Member, others: Sequence[Member], client: Client, stream: str, offset: int) -> int:
    """The member is active, alone, and gets what is published now; returns the offset behind that, once it is stored.

    ``offset`` is where the one before it has stopped: there may be stored offsets in between, but no messages.
    """
    assert await member.event() == {"event": "turn", "active": True}, member.name
    bodies = [f"{member.name} {number}".encode() for number in range(10)]
    await store(client, stream, *encode_bodies(bodies))
    for body in bodies:
        event = await member.event()
        assert (event["event"], event["body"]) == ("message", body.hex()), (member.name, event)
        assert event["offset"] >= offset, member.name
        offset = event["offset"] + 1
    await eventually_stored(client, stream, offset - 1)
    heard = {other.name: other.events.get_nowait() for other in (member, *others) if not other.events.empty()}
    assert not heard, f"{member.name} is active, and these heard something: {heard}"
    return offset


async def leave(member: Member) -> None:
    """Nothing comes after it but, from some, that the turn has ended."""
    await member.ask("leave")
    while not member.events.empty():
        assert member.events.get_nowait() == {"event": "turn", "active": False}, member.name


ORDERS = [
    ("python", "java", "go", "rust"),
    ("rust", "go", "java", "python"),
    ("java", "rust", "python", "go"),
    ("go", "python", "rust", "java"),
]
"""Each language hands over to each other one."""


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
async def test_a_group_of_all_languages(
    order: tuple[str, ...],
    program_of: Callable[[Language], Program],
    options: ConnectionOptions,
    client: Client,
    stream: str,
) -> None:
    """One is active at a time; when it leaves, the next one goes on behind what it has stored."""
    by_name = {language.name: language for language in LANGUAGES}
    async with Client(options) as own:
        members: list[Member] = [Ours(own) if name == "python" else program_of(by_name[name]) for name in order]
        try:
            for member in members:
                await member.ask("join", stream=stream, name=NAME)
            offset = 0
            for number, member in enumerate(members):
                offset = await has_turn(member, members[number + 1 :], client, stream, offset)
                await leave(member)
        except BaseException:
            for member in members:
                if isinstance(member, Program):
                    member.usable = False  # perhaps still a member
            raise


@having("single active consumers")
async def test_we_go_on_when_one_of_them_crashes(
    language: Language,
    programs: Programs,
    them: Program,
    broker: Broker,
    options: ConnectionOptions,
    client: Client,
    stream: str,
) -> None:
    crashing = Program(language, programs.product(language), broker)
    try:
        async with Client(options) as own:
            members: list[Member] = [crashing, Ours(own), them]
            for member in members:
                await member.ask("join", stream=stream, name=NAME)
            offset = await has_turn(crashing, members[1:], client, stream, 0)
            crashing.kill()
            offset = await has_turn(members[1], members[2:], client, stream, offset)
            await leave(members[1])
            await has_turn(them, [], client, stream, offset)
            await leave(them)
    finally:
        crashing.usable = False
        crashing.close()
