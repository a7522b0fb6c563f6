"""Super streams: administration, routes, and ``SuperStreamProducer``."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from rstream_core import (
    AlreadyClosed,
    AMQPMessage,
    Client,
    CompressionType,
    ConfigurationError,
    ConfirmationStatus,
    MessageTooLarge,
    NotConfirmed,
    PreconditionFailed,
    Producer,
    RequestTimeout,
    RouteNotFound,
    Router,
    RouteType,
    StreamAlreadyExists,
    StreamDoesNotExist,
    SuperStreamConsumer,
    SuperStreamProducer,
    UnsupportedByBroker,
)
from rstream_core.producers.superstream import MAX_CACHED_ROUTES
from rstream_core.protocol import commands as c
from rstream_core.protocol.routing import partition_index
from rstream_core.protocol.session import Session
from tests import inside
from tests.clients import PATIENCE, bodies, lose, read


@pytest.fixture
async def orders(client: Client, stream_name: str) -> AsyncIterator[str]:
    """A super stream of three partitions, bound to 0, 1 and 2."""
    await client.create_super_stream(stream_name, partitions=3)
    yield stream_name
    await client.delete_super_stream(stream_name, missing_ok=True)


@pytest.fixture
async def regions(client: Client, stream_name: str) -> AsyncIterator[str]:
    """A super stream with routing keys, one of them not ASCII."""
    await client.create_super_stream(stream_name, routing_keys=["eu", "us", "日本"])
    yield stream_name
    await client.delete_super_stream(stream_name, missing_ok=True)


def text_of(message: Any) -> str:
    return str(message, "utf-8") if isinstance(message, bytes) else str(message)


async def stored(client: Client, stream: str, expected: Sequence[bytes]) -> None:
    """The stream holds exactly this."""
    if not expected:
        assert await client.last_offset(stream) is None
        return
    assert list((await read(client, stream, len(expected))).values()) == list(expected)
    assert await client.last_offset(stream) == len(expected) - 1


async def by_hash(client: Client, super_stream: str, messages: Sequence[bytes]) -> None:
    """Each partition holds the messages whose text it is for, in their order."""
    partitions = await client.partitions(super_stream)
    for number, partition in enumerate(partitions):
        wanted = [m for m in messages if partition_index(m, len(partitions)) == number]
        await stored(client, partition, wanted)


# --- Administration ------------------------------------------------------------------------------------------


async def test_create_and_delete(client: Client, stream_name: str) -> None:
    names = [f"{stream_name}-{number}" for number in range(3)]
    assert await client.create_super_stream(stream_name, partitions=3, arguments={"max-age": "1D"}) == names
    assert await client.partitions(stream_name) == names
    assert await client.route(stream_name, "1") == [names[1]]
    assert await client.route(stream_name, "7") == []
    assert all([await client.stream_exists(name) for name in names])
    with pytest.raises(StreamAlreadyExists, match=f"^super stream '{stream_name}': the super stream exists already$"):
        await client.create_super_stream(stream_name, partitions=3)
    assert await client.create_super_stream(stream_name, partitions=3, exists_ok=True) == names
    with pytest.raises(PreconditionFailed, match="other partitions"):
        await client.create_super_stream(stream_name, partitions=2, exists_ok=True)
    await client.delete_super_stream(stream_name)
    assert not await client.stream_exists(names[0])
    await client.delete_super_stream(stream_name, missing_ok=True)
    for call in (client.delete_super_stream(stream_name), client.partitions(stream_name)):
        with pytest.raises(
            StreamDoesNotExist, match=f"^super stream '{stream_name}': the super stream does not exist$"
        ):
            await call


async def test_routing_keys_and_names_that_are_not_ascii(client: Client, stream_name: str) -> None:
    name = f"größe {stream_name}"
    names = await client.create_super_stream(name, routing_keys=["日本", "é ü", "eu"])
    try:
        assert names == [f"{name}-日本", f"{name}-é ü", f"{name}-eu"]
        assert sorted(await client.partitions(name)) == sorted(names)
        assert await client.route(name, "日本") == [names[0]]
        assert await client.route(name, "é ü") == [names[1]]
    finally:
        await client.delete_super_stream(name)


async def test_many_partitions_are_in_the_order_of_their_numbers(client: Client, stream_name: str) -> None:
    names = await client.create_super_stream(stream_name, partitions=12)
    try:
        assert await client.partitions(stream_name) == names  # 10 after 9, not after 1
    finally:
        await client.delete_super_stream(stream_name)


@pytest.mark.parametrize("arguments", [{}, {"partitions": 1, "routing_keys": ["a"]}, {"partitions": 0}])
async def test_partitions_that_cannot_be(client: Client, stream_name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        await client.create_super_stream(stream_name, **arguments)


@pytest.mark.parametrize("by", ["producer", "super stream producer", "consumer"])
async def test_partitions_by_the_names_of_the_published_client(client: Client, stream_name: str, by: str) -> None:
    """``create_super_stream(name, n_partitions, binding_keys, arguments, exists_ok)``."""
    kinds: dict[str, Producer | SuperStreamProducer | SuperStreamConsumer] = {
        "producer": Producer(client=client),
        "super stream producer": SuperStreamProducer(
            super_stream=stream_name, client=client, routing_extractor=lambda message: "x"
        ),
        "consumer": SuperStreamConsumer(super_stream=stream_name, client=client),
    }
    view = kinds[by]
    numbers = [f"{stream_name}-0", f"{stream_name}-1"]
    assert await view.create_super_stream(stream_name, 2, None, {"max-age": "1D"}) == numbers
    assert await view.create_super_stream(stream_name, n_partitions=2, exists_ok=True) == numbers
    with pytest.raises(StreamAlreadyExists):
        await view.create_super_stream(stream_name, 2, None, None, False)
    await view.delete_super_stream(stream_name)
    assert await view.create_super_stream(stream_name, 0, ["a", "b"]) == [f"{stream_name}-a", f"{stream_name}-b"]
    await view.delete_super_stream(stream_name)
    wrong: list[dict[str, Any]] = [
        {"n_partitions": 2, "partitions": 2},
        {"binding_keys": ["a"], "routing_keys": ["a"]},
        {"n_partitions": 2, "binding_keys": ["a"]},
        {"n_partitions": 0},
        {},
    ]
    for arguments in wrong:
        with pytest.raises(ConfigurationError):
            await view.create_super_stream(stream_name, **arguments)
    for other in kinds.values():
        await other.close()


async def test_a_producer_creates_and_deletes(client: Client, stream_name: str) -> None:
    async with Producer(client=client) as producer:
        assert len(await producer.create_super_stream(stream_name, routing_keys=["a", "b"])) == 2
        await producer.create_super_stream(stream_name, routing_keys=["a", "b"], exists_ok=True)
        await producer.delete_super_stream(stream_name)
        await producer.delete_super_stream(stream_name, missing_ok=True)


@pytest.mark.parametrize(
    ("key", "call", "version"),
    [
        (c.Key.CREATE_SUPER_STREAM, lambda client: client.create_super_stream("x", partitions=1), r"3\.13"),
        (c.Key.DELETE_SUPER_STREAM, lambda client: client.delete_super_stream("x"), r"3\.13"),
        (c.Key.PARTITIONS, lambda client: client.partitions("x"), r"3\.11"),
        (c.Key.ROUTE, lambda client: client.route("x", "y"), r"3\.11"),
    ],
)
async def test_a_broker_that_is_too_old(
    client: Client, monkeypatch: pytest.MonkeyPatch, key: c.Key, call: Any, version: str
) -> None:
    supports = Session.supports
    monkeypatch.setattr(
        Session, "supports", lambda session, asked, version=1: asked != key and supports(session, asked, version)
    )
    with pytest.raises(UnsupportedByBroker, match=f"needs RabbitMQ {version}"):
        await call(client)


# --- Router --------------------------------------------------------------------------------------------------


async def test_router(client: Client, regions: str) -> None:
    router = await Router.open(client, regions)
    assert sorted(router.partitions) == sorted(f"{regions}-{key}" for key in ("eu", "us", "日本"))
    for key in ("a", "日本", ""):
        assert router.by_hash(key) == router.by_hash(key.encode()) == router.partitions[partition_index(key, 3)]
    assert await router.by_binding("日本") == (f"{regions}-日本",)
    with pytest.raises(RouteNotFound, match="no partition for routing key 'asia'"):
        await router.by_binding("asia")


async def test_the_broker_is_asked_once_for_a_key(
    client: Client, regions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    route = client.route

    async def counted(super_stream: str, key: str) -> list[str]:
        asked.append(key)
        return await route(super_stream, key)

    monkeypatch.setattr(client, "route", counted)
    router = await Router.open(client, regions)
    for key in ("eu", "us", "eu", "us", "eu"):
        await router.by_binding(key)
    assert asked == ["eu", "us"]


async def test_the_cache_of_routes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()

    async def route(super_stream: str, key: str) -> list[str]:
        return ["p"]

    monkeypatch.setattr(client, "route", route)
    router = Router(client, "s", ["p"])
    for number in range(2 * MAX_CACHED_ROUTES + 10):
        await router.by_binding(str(number))
    assert len(inside.routes(router)) <= MAX_CACHED_ROUTES


async def test_no_such_super_stream(client: Client, stream_name: str) -> None:
    with pytest.raises(StreamDoesNotExist):
        await Router.open(client, stream_name)


# --- SuperStreamProducer -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["function", "coroutine function"])
@pytest.mark.parametrize("method", ["send", "send_batch", "send_wait", "send_sub_entry"])
async def test_hash_routing(client: Client, orders: str, method: str, kind: str) -> None:
    async def later(message: Any) -> str:
        await asyncio.sleep(0)
        return text_of(message)

    extractor = text_of if kind == "function" else later
    messages = bodies(60, "hello")
    async with SuperStreamProducer(client=client, super_stream=orders, routing_extractor=extractor) as producer:
        if method in ("send", "send_wait"):
            for message in messages:
                await getattr(producer, method)(message)
        elif method == "send_batch":
            await producer.send_batch(messages[:50])
            await producer.send_batch(messages[50:])
            await producer.send_batch([])
        else:
            await producer.send_sub_entry(messages[:50], CompressionType.Gzip)
            await producer.send_sub_entry(messages[50:])
        await producer.flush(PATIENCE)
    await by_hash(client, orders, messages)


async def test_key_routing(client: Client, regions: str) -> None:
    keys = ["eu", "us", "日本", "eu"]
    async with SuperStreamProducer(
        client=client, super_stream=regions, routing=RouteType.Key, routing_extractor=text_of
    ) as producer:
        for key in keys:
            await producer.send(key.encode())
        await producer.send_batch([key.encode() for key in keys])
        with pytest.raises(RouteNotFound, match="'asia'"):
            await producer.send(b"asia")
        with pytest.raises(RouteNotFound, match="'asia'"):
            await producer.send_batch([b"eu", b"asia"])
    for key, count in (("eu", 4), ("us", 2), ("日本", 2)):
        await stored(client, f"{regions}-{key}", [key.encode()] * count)


@pytest.mark.parametrize("kind", ["function", "coroutine function"])
async def test_a_routing_function(client: Client, orders: str, kind: str) -> None:
    def to_both_ends(message: bytes, partitions: Sequence[str]) -> list[str]:
        return [partitions[0], partitions[-1]]

    async def later(message: bytes, partitions: Sequence[str]) -> list[str]:
        return to_both_ends(message, partitions)

    statuses: list[ConfirmationStatus] = []
    routing = to_both_ends if kind == "function" else later
    async with SuperStreamProducer(client=client, super_stream=orders, routing=routing) as producer:
        await producer.send(b"a", on_publish_confirm=statuses.append)
        await producer.send_wait(b"b")
        await producer.send_batch([b"c"])
        await producer.send_sub_entry([b"d"])
    assert [status.is_confirmed for status in statuses] == [True, True]
    for number, expected in enumerate([[b"a", b"b", b"c", b"d"], [], [b"a", b"b", b"c", b"d"]]):
        await stored(client, f"{orders}-{number}", expected)


@pytest.mark.parametrize("choice", ["elsewhere", [], ["elsewhere"]])
async def test_a_routing_function_that_chooses_no_partition(client: Client, orders: str, choice: Any) -> None:
    async with SuperStreamProducer(client=client, super_stream=orders, routing=lambda m, p: choice) as producer:
        with pytest.raises(RouteNotFound, match="the routing function chose"):
            await producer.send(b"x")


async def test_slow_extractors_do_not_change_the_order(client: Client, orders: str) -> None:
    chance = random.Random(5)

    async def slow(message: bytes) -> str:
        for _ in range(chance.randrange(5)):
            await asyncio.sleep(0)
        return str(int(message) % 5)

    async with SuperStreamProducer(
        client=client, super_stream=orders, routing_extractor=slow, batch_size=7
    ) as producer:
        calls: list[Any] = []
        for number in range(400):
            body = str(number).encode()
            if number % 10 == 0:
                calls.append(producer.send_batch([body]))
            elif number % 25 == 0:
                calls.append(producer.send_wait(body))
            elif number % 33 == 0:
                calls.append(producer.send_sub_entry([body]))
            else:
                calls.append(producer.send(body))
        await asyncio.gather(*calls)
    for number in range(3):
        wanted = [body for body in bodies(400) if partition_index(str(int(body) % 5), 3) == number]
        await stored(client, f"{orders}-{number}", wanted)


async def test_every_message_is_confirmed_once(client: Client, orders: str) -> None:
    statuses: list[ConfirmationStatus] = []
    async with SuperStreamProducer(client=client, super_stream=orders, routing_extractor=text_of) as producer:
        for message in bodies(30):
            await producer.send(message, on_publish_confirm=statuses.append)
        await producer.send_batch(bodies(30), on_publish_confirm=statuses.append)
    assert len(statuses) == 60
    assert all(status.is_confirmed for status in statuses)


async def test_the_callback_is_the_second_argument(client: Client, orders: str) -> None:
    """As in the published client."""
    statuses: list[ConfirmationStatus] = []
    async with SuperStreamProducer(client=client, super_stream=orders, routing_extractor=text_of) as producer:
        await producer.send(b"a", statuses.append)
        await producer.send_batch([b"b", b"c"], statuses.append)
    assert [status.is_confirmed for status in statuses] == [True] * 3


@pytest.mark.parametrize("by", ["flush", "close", "send_batch"])
async def test_losses_in_several_partitions_are_one_error(client: Client, orders: str, by: str) -> None:
    producer = SuperStreamProducer(client=client, super_stream=orders, routing=lambda m, partitions: partitions)
    await producer.send_wait(b"first")
    for number, partition in enumerate(await producer.partitions()):
        await lose(inside.producer_of(producer), (partition, None), 1 + number)
    call = producer.send_batch([b"x"]) if by == "send_batch" else getattr(producer, by)()
    with pytest.raises(NotConfirmed, match=r"^6 earlier messages were not confirmed"):
        await call
    await producer.close()  # told once


async def test_losses_do_not_hide_another_error(client: Client, orders: str) -> None:
    producer = SuperStreamProducer(client=client, super_stream=orders, routing=lambda m, p: p[len(m) % 2])
    await producer.send_wait(b"12")
    await lose(inside.producer_of(producer), ((await producer.partitions())[0], None), 2)
    with pytest.raises(NotConfirmed, match=r"^2 earlier .*; and message 1 of 1 takes") as caught:
        await producer.send_batch([b"12", bytes(1024 * 1024 + 1)])
    assert isinstance(caught.value.__cause__, MessageTooLarge)
    assert caught.value.__cause__.position == 1
    await producer.close()


async def test_send_wait_is_bounded_as_a_whole(client: Client, orders: str, monkeypatch: pytest.MonkeyPatch) -> None:
    never = asyncio.Event()

    async def extract(message: bytes) -> str:
        if message == b"slow":
            await never.wait()
        return "1"

    async def hang(*_: object) -> None:
        await never.wait()

    async def is_bounded(message: bytes) -> None:
        with pytest.raises(RequestTimeout, match=rf"super stream '{orders}': not confirmed within 0\.1 s"):
            await asyncio.wait_for(producer.send_wait(message, timeout=0.1), PATIENCE)

    producer = SuperStreamProducer(client=client, super_stream=orders, routing=RouteType.Key, routing_extractor=extract)
    for question in ("partitions", "route"):
        with monkeypatch.context() as patch:
            patch.setattr(client, question, hang)
            await is_bounded(b"")
    await is_bounded(b"slow")
    other = asyncio.create_task(producer.send(b"slow"))
    await asyncio.sleep(0)
    await is_bounded(b"")  # behind the other
    other.cancel()
    await asyncio.wait([other])
    with monkeypatch.context() as patch:
        patch.setattr(client, "publisher", lambda *_, **__: hang())
        await is_bounded(b"")
    await producer.send_wait(b"")
    await producer.close()
    await stored(client, f"{orders}-1", [b""])


async def test_a_super_stream_producer_creates_and_deletes(arguments: dict[str, Any], stream_name: str) -> None:
    """Its own super stream, or, as in the published client, one that is named."""
    producer = SuperStreamProducer(super_stream=stream_name, routing_extractor=text_of, **arguments)
    try:
        names = await producer.create_super_stream(partitions=2)
        assert names == await producer.partitions() == [f"{stream_name}-0", f"{stream_name}-1"]
        assert await producer.stream_exists(names[1])
        await producer.update_password(arguments["password"])
        await producer.delete_super_stream(stream_name)
        assert not await producer.stream_exists(names[1])
        await producer.create_super_stream(stream_name, routing_keys=["a", "b", "c"])
        assert len(await producer.partitions()) == 3  # they are not those from before
        await producer.send_wait(b"x")
    finally:
        await producer.delete_super_stream(missing_ok=True)
        await producer.close()


async def test_explicit_ids_deduplicate_in_each_partition(
    client: Client, arguments: dict[str, Any], orders: str
) -> None:
    messages = [AMQPMessage(body=str(number), publishing_id=number) for number in range(1, 101)]
    for part in (messages[:70], messages, messages[50:]):
        async with SuperStreamProducer(super_stream=orders, routing_extractor=text_of, **arguments) as producer:
            for message in part[:20]:
                await producer.send(message, publisher_name="app")
            await producer.send_batch(part[20:], publisher_name="app")
    for number in range(3):
        wanted = [m.encode() for m in messages if partition_index(str(m), 3) == number]
        await stored(client, f"{orders}-{number}", wanted)


async def test_filter_values_go_along(client: Client, orders: str) -> None:
    async with SuperStreamProducer(
        client=client, super_stream=orders, routing_extractor=text_of, filter_value_extractor=text_of
    ) as producer:
        await producer.send(b"a")
        await producer.send_batch([b"b", b"c"])
        with pytest.raises(ConfigurationError, match="filter values"):
            await producer.send_sub_entry([b"d"])
    await by_hash(client, orders, [b"a", b"b", b"c"])


async def test_too_large_names_the_place_in_the_batch(client: Client, orders: str) -> None:
    large = bytes(1024 * 1024)
    async with SuperStreamProducer(
        client=client, super_stream=orders, routing_extractor=lambda message: str(len(message))
    ) as producer:
        with pytest.raises(MessageTooLarge) as caught:
            await producer.send_batch([b"1", b"12", b"123", b"1234", large, b"12345"])
        assert caught.value.position == 4


async def test_an_extractor_that_raises_sends_nothing(client: Client, orders: str) -> None:
    def fail(message: bytes) -> str:
        raise LookupError("no key")

    async with SuperStreamProducer(client=client, super_stream=orders, routing_extractor=fail) as producer:
        for call in (producer.send(b"a"), producer.send_batch([b"a"]), producer.send_wait(b"a")):
            with pytest.raises(LookupError):
                await call
    await by_hash(client, orders, [])


async def test_no_such_super_stream_to_publish_to(arguments: dict[str, Any], stream_name: str) -> None:
    with pytest.raises(StreamDoesNotExist, match=stream_name):
        async with SuperStreamProducer(super_stream=stream_name, routing_extractor=text_of, **arguments):
            pass


async def test_partitions_and_close(client: Client, orders: str) -> None:
    producer = SuperStreamProducer(client=client, super_stream=orders, routing_extractor=text_of)
    assert await producer.partitions() == [f"{orders}-{number}" for number in range(3)]
    await producer.close()
    await producer.close()
    for call in (producer.send(b"a"), producer.send_batch([b"a"]), producer.partitions(), producer.start()):
        with pytest.raises(AlreadyClosed):
            await call


async def test_arguments_that_cannot_be() -> None:
    with pytest.raises(ConfigurationError, match="routing_extractor is needed"):
        SuperStreamProducer(super_stream="s")
    with pytest.raises(ConfigurationError, match="pass no routing_extractor"):
        SuperStreamProducer(super_stream="s", routing=lambda m, p: p, routing_extractor=text_of)
    with pytest.raises(TypeError, match="unexpected argument: nonsense"):
        SuperStreamProducer(super_stream="s", routing_extractor=text_of, nonsense=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("routing", list(RouteType))
@pytest.mark.parametrize("key", [None, 5])
async def test_a_routing_key_that_is_none(client: Client, orders: str, routing: RouteType, key: Any) -> None:
    how: dict[str, Any] = {"routing": routing, "routing_extractor": lambda _: key}
    producer = SuperStreamProducer(client=client, super_stream=orders, **how)
    with pytest.raises(TypeError, match=f"^the routing_extractor returned {key}: a routing key is a str$"):
        await producer.send(b"x")
    await producer.close()
