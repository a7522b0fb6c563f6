"""Arguments that cannot be right: an error that names the argument, before anybody is asked anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from rstream_core import (
    Client,
    ConfigurationError,
    ConnectionOptions,
    Consumer,
    ConsumerOffsetSpecification,
    Credentials,
    Endpoint,
    FilterConfiguration,
    OffsetType,
    Producer,
    SingleActiveConsumer,
    SuperStreamConsumer,
    SuperStreamProducer,
)
from rstream_core.publisher import _encode_filter, publish_frame
from tests.clients import FIRST, listening

LONG = "ä" * 128
"""256 bytes in 128 characters."""
FITS = "ä" * 127 + "x"
BAD_NAMES: tuple[tuple[Any, type[Exception], str], ...] = (
    (LONG, ConfigurationError, "at most 255 bytes, not 256"),
    ("", ConfigurationError, "is empty"),
    ("\udcff", ConfigurationError, "UTF-8"),
    (None, TypeError, "is a str, not None"),
    (b"s", TypeError, "is a str, not b's'"),
    (1, TypeError, "is a str, not 1"),
)
HUGE = "x" * 40_000


class Asked(Exception):
    """The argument was taken, and a broker would have been asked."""


@pytest.fixture
async def nobody() -> AsyncIterator[dict[str, Any]]:
    """Where a program would connect to, and must not."""
    asked = False

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked = True
        writer.close()

    async with listening(serve) as endpoint:
        yield {"host": endpoint.host, "port": endpoint.port}
        await asyncio.sleep(0)
        assert not asked


@pytest.fixture
async def client(nobody: dict[str, Any]) -> AsyncIterator[Client]:
    async with Client(ConnectionOptions(endpoints=(Endpoint(**nobody),)), recovery=None) as opened:
        yield opened


Call = Callable[[Client, Any], Awaitable[Any]]

STREAMS: dict[str, Call] = {
    "create_stream": lambda client, name: client.create_stream(name),
    "delete_stream": lambda client, name: client.delete_stream(name),
    "stream_exists": lambda client, name: client.stream_exists(name),
    "metadata": lambda client, name: client.metadata(name),
    "stats": lambda client, name: client.stats(name),
    "last_offset": lambda client, name: client.last_offset(name),
    "tail_offset": lambda client, name: client.tail_offset(name, 1),
    "store_offset": lambda client, name: client.store_offset(name, "r", 1),
    "query_offset": lambda client, name: client.query_offset(name, "r"),
    "resolve_offset": lambda client, name: client.resolve_offset(name, FIRST),
    "publisher": lambda client, name: client.publisher(name),
    "subscribe": lambda client, name: client.subscribe(name, FIRST),
    "send": lambda client, name: Producer(client=client).send(name, b"x"),
    "send_wait": lambda client, name: Producer(client=client).send_wait(name, b"x"),
    "send_batch": lambda client, name: Producer(client=client).send_batch(name, [b"x"]),
    "Consumer.subscribe": lambda client, name: Consumer(client=client).subscribe(name, print),
}
REFERENCES: dict[str, Call] = {
    "publisher": lambda client, name: client.publisher("s", name),
    "store_offset": lambda client, name: client.store_offset("s", name, 1),
    "query_offset": lambda client, name: client.query_offset("s", name),
    "send": lambda client, name: Producer(client=client).send("s", b"x", name),
    "Consumer.store_offset": lambda client, name: Consumer(client=client).store_offset("s", name, 1),
    "Consumer.subscribe": lambda client, name: Consumer(client=client).subscribe("s", print, subscriber_name=name),
    "single active": lambda client, name: client.subscribe("s", FIRST, single_active=SingleActiveConsumer(name)),
    "SuperStreamConsumer.subscribe": lambda client, name: SuperStreamConsumer(
        client=client, super_stream="s"
    ).subscribe(print, subscriber_name=name),
}
SUPER_STREAMS: dict[str, Call] = {
    "create": lambda client, name: client.create_super_stream(name, partitions=1),
    "delete": lambda client, name: client.delete_super_stream(name),
    "partitions": lambda client, name: client.partitions(name),
    "route": lambda client, name: client.route(name, "k"),
    "single active": lambda client, name: client.subscribe(
        "s", FIRST, single_active=SingleActiveConsumer("n", name or "")
    ),
    "producer": lambda client, name: _made(
        lambda: SuperStreamProducer(client=client, super_stream=name, routing_extractor=str)
    ),
    "consumer": lambda client, name: _made(lambda: SuperStreamConsumer(client=client, super_stream=name)),
}


async def _made(make: Callable[[], Any]) -> None:
    make()


@pytest.mark.parametrize(("name", "error", "words"), BAD_NAMES)
@pytest.mark.parametrize("call", [*STREAMS.values()], ids=[*STREAMS])
async def test_names_of_streams(client: Client, call: Call, name: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"^stream .*{words}"):
        await call(client, name)


@pytest.mark.parametrize(("name", "error", "words"), BAD_NAMES)
@pytest.mark.parametrize("call", [*REFERENCES.values()], ids=[*REFERENCES])
async def test_names_that_offsets_and_ids_are_kept_under(
    client: Client, call: Call, name: Any, error: type[Exception], words: str
) -> None:
    if name is None and call not in (REFERENCES["store_offset"], REFERENCES["query_offset"]):
        return  # that is no name there
    with pytest.raises(error, match=f"^(reference|subscriber_name|the name of a single active consumer) .*{words}"):
        await call(client, name)


@pytest.mark.parametrize(("name", "error", "words"), BAD_NAMES)
@pytest.mark.parametrize("call", [*SUPER_STREAMS.values()], ids=[*SUPER_STREAMS])
async def test_names_of_super_streams(
    client: Client, call: Call, name: Any, error: type[Exception], words: str
) -> None:
    if name is None and call is SUPER_STREAMS["single active"]:
        return
    with pytest.raises(error, match=f"^super_stream .*{words}"):
        await call(client, name)


OTHERS: dict[str, tuple[Call, type[Exception], str]] = {
    "an offset to store": (lambda client, _: client.store_offset("s", "r", 1.5), TypeError, "offset is a whole"),  # type: ignore[arg-type]
    "a large offset": (lambda client, _: client.store_offset("s", "r", 2**64), ValueError, "offset is between 0"),
    "a negative offset": (lambda client, _: client.store_offset("s", "r", -1), ValueError, "offset is between 0"),
    "a tail": (lambda client, _: client.tail_offset("s", 1.5), TypeError, "count is a whole"),  # type: ignore[arg-type]
    "a specification": (lambda client, _: client.subscribe("s", OffsetType.FIRST), TypeError, "offset specification"),  # type: ignore[arg-type]
    "credit": (lambda client, _: client.subscribe("s", FIRST, credit=1.5), TypeError, "credit is a whole"),  # type: ignore[arg-type]
    "no credit": (lambda client, _: client.subscribe("s", FIRST, credit=0), ValueError, "credit is between 1"),
    "a filter value": (
        lambda client, _: client.subscribe("s", FIRST, filter_values=[1]),  # type: ignore[list-item]
        TypeError,
        "one of filter_values is a str, not 1",
    ),
    "one filter value": (
        lambda client, _: client.subscribe("s", FIRST, filter_values="eu"),
        TypeError,
        "filter_values is a list of str",
    ),
    "an iterator of filter values": (
        lambda client, _: client.subscribe("s", FIRST, filter_values=iter(["eu"])),  # type: ignore[arg-type]
        TypeError,
        "filter_values is a list of str, not a list_iterator",
    ),
    "a long filter value": (
        lambda client, _: client.subscribe("s", FIRST, filter_values=[HUGE]),
        ValueError,
        "one of filter_values takes at most 32767 bytes, not 40000",
    ),
    "a property": (
        lambda client, _: client.subscribe("s", FIRST, properties={"a": 1}),  # type: ignore[dict-item]
        TypeError,
        r"properties\['a'\] is a str, not 1",
    ),
    "a flag": (
        lambda client, _: client.subscribe("s", FIRST, filter_values=["eu"], match_unfiltered="false"),  # type: ignore[arg-type]
        TypeError,
        "match_unfiltered is True or False, not 'false'",
    ),
    "a consumer's property": (
        lambda client, _: Consumer(client=client).subscribe("s", print, properties={"a": 1}),  # type: ignore[dict-item]
        TypeError,
        r"properties\['a'\] is a str, not 1",
    ),
    "a consumer's filter value": (
        lambda client, _: Consumer(client=client).subscribe("s", print, filter_values=[1]),  # type: ignore[list-item]
        TypeError,
        "values_to_filter is a str, not 1",
    ),
    "a consumer's offset": (
        lambda client, _: Consumer(client=client).subscribe("s", print, offset_type=OffsetType.OFFSET, offset=1.5),  # type: ignore[arg-type]
        TypeError,
        "an offset is a whole number, not 1.5",
    ),
    "a super stream consumer's offset": (
        lambda client, _: SuperStreamConsumer(client=client, super_stream="s").subscribe(
            print,
            offset_type=OffsetType.OFFSET,
            offset=1.5,  # type: ignore[arg-type]
        ),
        TypeError,
        "an offset is a whole number, not 1.5",
    ),
    "a property's key": (
        lambda client, _: client.subscribe("s", FIRST, properties={1: "a"}),  # type: ignore[dict-item]
        TypeError,
        "a key of properties is a str, not 1",
    ),
    "an argument's key": (
        lambda client, _: client.create_stream("s", {1: "a"}),  # type: ignore[dict-item]
        TypeError,
        "a key of arguments is a str",
    ),
    "a long argument": (
        lambda client, _: client.create_stream("s", {"max-age": HUGE}),
        ValueError,
        r"arguments\['max-age'\] takes at most",
    ),
    "partitions": (
        lambda client, _: client.create_super_stream("s", partitions=1.5),  # type: ignore[arg-type]
        TypeError,
        "partitions is a whole number, not 1.5",
    ),
    "a routing key": (
        lambda client, _: client.create_super_stream("s", routing_keys=[1]),  # type: ignore[list-item]
        TypeError,
        "one of routing_keys is a str",
    ),
    "one routing key": (
        lambda client, _: client.create_super_stream("s", routing_keys="abc"),
        TypeError,
        "routing_keys is a list of str",
    ),
    "a partition's name": (
        lambda client, _: client.create_super_stream("s" * 254, partitions=1),
        ValueError,
        "the name of a partition takes at most 255 bytes, not 256",
    ),
    "a key to route": (lambda client, _: client.route("s", 1), TypeError, "routing_key is a str"),  # type: ignore[arg-type]
    "what an extractor gives": (
        lambda client, _: Producer(client=client, filter_value_extractor=lambda _: 1).send("s", b"x"),  # type: ignore[arg-type, return-value]
        TypeError,
        "the filter value of a message is a str, not 1",
    ),
    "max_in_flight": (lambda client, _: client.publisher("s", max_in_flight=0), ValueError, "max_in_flight is between"),
    "a gap of a number": (lambda client, _: client.find_gap(5, 0), TypeError, "stream is a str"),  # type: ignore[arg-type]
    "a gap of no stream": (lambda client, _: client.find_gap("", 0), ConfigurationError, "stream is empty"),
    "a gap from below 0": (lambda client, _: client.find_gap("s", -5), ConfigurationError, "offset is between 0"),
    "a gap from between": (lambda client, _: client.find_gap("s", 1.5), TypeError, "offset is a whole number"),  # type: ignore[arg-type]
    "a password": (lambda client, _: client.update_password(5), TypeError, "password is a str"),  # type: ignore[arg-type]
    "a long password": (lambda client, _: client.update_password(HUGE), ConfigurationError, "password takes at most"),
    "a list of arguments": (
        lambda client, _: client.create_stream("s", [1]),  # type: ignore[arg-type]
        TypeError,
        "arguments are a mapping",
    ),
    "an argument that is None": (
        lambda client, _: client.create_stream("s", {"max-age": None}),
        TypeError,
        "arguments.'max-age'. is a str or a number, not None",
    ),
    "a codec": (
        lambda client, _: Producer(client=client).send_sub_entry("s", [b"x"], "gzip"),  # type: ignore[arg-type]
        TypeError,
        "a compression is a CompressionType, not 'gzip'",
    ),
    "a callback": (
        lambda client, _: Producer(client=client).send_batch("s", [b"x"], on_publish_confirm=5),  # type: ignore[arg-type]
        TypeError,
        "on_publish_confirm is a function, not 5",
    ),
}


@pytest.mark.parametrize("name", ["max_in_flight", "max_in_flight_bytes"])
@pytest.mark.parametrize("given", [0, -1, 1.5, "x", None])
async def test_the_bounds_of_a_producer(client: Client, name: str, given: Any) -> None:
    with pytest.raises((TypeError, ConfigurationError), match=f"{name} is"):
        Producer(client=client, **{name: given})


@pytest.mark.parametrize(("call", "error", "words"), [*OTHERS.values()], ids=[*OTHERS])
async def test_other_arguments(client: Client, call: Call, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        await call(client, None)


SUBSCRIBING: dict[str, Callable[[Client, dict[str, Any]], Awaitable[object]]] = {
    "client": lambda client, properties: client.subscribe("s", FIRST, properties=properties),
    "consumer": lambda client, properties: Consumer(client=client).subscribe("s", print, properties=properties),
    "super stream": lambda client, properties: SuperStreamConsumer(client=client, super_stream="s").subscribe(
        print, properties=properties
    ),
}


@pytest.mark.parametrize("subscribe", [*SUBSCRIBING.values()], ids=[*SUBSCRIBING])
@pytest.mark.parametrize(
    ("properties", "error", "words"),
    [
        ({"single-active-consumer": True}, TypeError, r"\['single-active-consumer'\] is the str 'true' or 'false'"),
        ({"single-active-consumer": 1}, TypeError, "is the str 'true' or 'false', not 1"),
        ({"single-active-consumer": None}, TypeError, "is the str 'true' or 'false', not None"),
        ({"single-active-consumer": "1"}, ConfigurationError, "is 'true' or 'false', not '1'"),
        ({"single-active-consumer": "yes"}, ConfigurationError, "is 'true' or 'false', not 'yes'"),
        ({"single-active-consumer": ""}, ConfigurationError, "is 'true' or 'false', not ''"),
        ({"match-unfiltered": "1"}, ConfigurationError, r"\['match-unfiltered'\] is 'true' or 'false', not '1'"),
        ({"match-unfiltered": True}, TypeError, r"\['match-unfiltered'\] is the str 'true' or 'false', not True"),
        (
            {"x-single-active-consumer": "true"},
            ConfigurationError,
            "brokers ignore the property 'x-single-active-consumer'; it is called 'single-active-consumer'",
        ),
        ({"x-single-active-consumer": True}, ConfigurationError, "it is called 'single-active-consumer'"),
        ({"single_active_consumer": "true"}, ConfigurationError, "it is called 'single-active-consumer'"),
        ({"Single-Active-Consumer": "true"}, ConfigurationError, "it is called 'single-active-consumer'"),
        ({"super_stream": "s"}, ConfigurationError, "it is called 'super-stream'"),
        ({"Name": "s"}, ConfigurationError, "it is called 'name'"),
        ({"match_unfiltered": "true"}, ConfigurationError, "it is called 'match-unfiltered'"),
        ({"single-active-consumer": "true"}, ConfigurationError, "a single active consumer needs a"),
        ({"single-active-consumer": "TRUE"}, ConfigurationError, "a single active consumer needs a"),
    ],
)
async def test_properties_that_a_broker_would_ignore(
    client: Client,
    subscribe: Callable[[Client, dict[str, Any]], Awaitable[object]],
    properties: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        await subscribe(client, properties)


@pytest.mark.parametrize("flag", ["single_active_consumer", "match_unfiltered", "fail_on_gap"])
@pytest.mark.parametrize("given", ["false", "true", 1, None])
async def test_flags_are_true_or_false(client: Client, flag: str, given: Any) -> None:
    options: dict[str, Any] = {flag: given, "filter_values": ["eu"], "subscriber_name": "g"}
    with pytest.raises(TypeError, match=f"^{flag} is True or False, not {given!r}$"):
        await Consumer(client=client).subscribe("s", print, **options)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"connection_name": HUGE}, ConfigurationError, "connection_name takes at most 7000 bytes, not 40000"),
        ({"credentials": Credentials("u", 5)}, TypeError, "password is a str"),  # type: ignore[arg-type]
        ({"credentials": Credentials(None)}, TypeError, "username is a str"),  # type: ignore[arg-type]
        ({"connection_name": 1}, TypeError, "connection_name is a str"),
        ({"connection_name": "\udcff"}, ConfigurationError, "connection_name cannot be written"),
        ({"vhost": LONG}, ConfigurationError, "vhost takes at most 255 bytes, not 256"),
        ({"vhost": None}, TypeError, "vhost is a str"),
        ({"heartbeat": 1.5}, TypeError, "heartbeat is a whole number"),
        ({"heartbeat": -1}, ConfigurationError, "heartbeat is between 0"),
        ({"heartbeat": 2**32}, ConfigurationError, "heartbeat is between 0"),
        ({"frame_max": 1}, ConfigurationError, "frame_max is 0, for no limit, or at least 1000, not 1"),
        ({"frame_max": 999}, ConfigurationError, "at least 1000"),
        ({"frame_max": -1}, ConfigurationError, "frame_max is between 0"),
        ({"frame_max": 1e6}, TypeError, "frame_max is a whole number"),
        ({"endpoints": (Endpoint("a\0b", 1),)}, ConfigurationError, "is not a host name"),
        ({"endpoints": (Endpoint("a\x1b", 1),)}, ConfigurationError, "is not a host name"),
        ({"endpoints": (Endpoint("", 1),)}, ConfigurationError, "is not a host name"),
        ({"endpoints": (Endpoint("a", 65536),)}, ConfigurationError, "port is between 1 and 65535, not 65536"),
        ({"endpoints": (Endpoint("a", 1.5),)}, TypeError, "port is a whole number"),  # type: ignore[arg-type]
        ({"endpoints": (Endpoint(None, 1),)}, TypeError, "host is a str"),  # type: ignore[arg-type]
    ],
)
def test_connection_options(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        ConnectionOptions(**options)
    ConnectionOptions(frame_max=1000, vhost=FITS, connection_name="x" * 7000, heartbeat=2**31 - 1)
    ConnectionOptions(frame_max=0, credentials=Credentials())


@pytest.mark.parametrize("offset", [1.5, 1.0, "1", b"1"])
@pytest.mark.parametrize("kind", [OffsetType.OFFSET, OffsetType.TIMESTAMP, OffsetType.FIRST])
def test_offsets_are_whole_numbers(kind: OffsetType, offset: Any) -> None:
    with pytest.raises(TypeError, match="an offset is a whole number"):
        ConsumerOffsetSpecification(kind, offset)
    with pytest.raises(TypeError, match="offset_type is an OffsetType"):
        ConsumerOffsetSpecification("first")  # type: ignore[arg-type]


def test_filter_configurations() -> None:
    with pytest.raises(TypeError, match="one of values_to_filter is a str, not 1"):
        FilterConfiguration(values_to_filter=[1])  # type: ignore[list-item]


async def test_names_that_just_fit_are_taken(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a check that is too strict would show nowhere."""

    async def ask(*_: Any) -> None:
        raise Asked

    for name in ("again", "when_elected", "use", "command", "connection"):
        monkeypatch.setattr(client._locator, name, ask)
    for call in (*STREAMS.values(), *REFERENCES.values()):
        with pytest.raises(Asked):
            await call(client, FITS)
    for call in (SUPER_STREAMS["partitions"], SUPER_STREAMS["route"], SUPER_STREAMS["delete"]):
        with pytest.raises(Asked):
            await call(client, FITS)


def test_what_is_published_with_a_message() -> None:
    for value, error in ((1, TypeError), (b"eu", TypeError), (HUGE, ValueError), ("\udcff", ValueError)):
        with pytest.raises(error, match=r"^a filter value "):
            _encode_filter(value)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a publishing id is no whole number"):
        publish_frame(0, [1.5], [b"x"], 1)  # type: ignore[list-item]
