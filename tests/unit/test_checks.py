"""Arguments that cannot be right: an error that names the argument, before anybody is asked anything."""

from __future__ import annotations

import asyncio
import pickle
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from rstream_core import (
    AMQPMessage,
    Client,
    CompressionType,
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
from rstream_core.arguments import options_from
from rstream_core.protocol.wire import encode_filter, publish_frame
from rstream_core.types import EARLIEST_TIMESTAMP
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
    "chunk_span": lambda client, name: client.chunk_span(name, FIRST),
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
    what = "reference|publisher_name|subscriber_name|the name of a single active consumer"
    with pytest.raises(error, match=f"^({what}) .*{words}"):
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
        ([("name", "s")], TypeError, "properties is a mapping of str to str, not"),
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
    with pytest.raises(TypeError, match=r"^(an offset|a timestamp, in milliseconds since 1970,) is a whole number"):
        ConsumerOffsetSpecification(kind, offset)


NOW = datetime(2026, 11, 30, 1, 2, 3, 456_789, UTC)
SPECIFICATIONS: tuple[tuple[Any, Any, OffsetType, int | None], ...] = (
    (None, None, OffsetType.FIRST, None),
    (None, 4, OffsetType.OFFSET, 4),
    (None, 0, OffsetType.OFFSET, 0),
    (None, 2**64 - 1, OffsetType.OFFSET, 2**64 - 1),
    (OffsetType.OFFSET, 4, OffsetType.OFFSET, 4),
    (None, NOW, OffsetType.TIMESTAMP, 1_796_000_523_456),
    (OffsetType.TIMESTAMP, NOW, OffsetType.TIMESTAMP, 1_796_000_523_456),
    (None, NOW.astimezone(timezone(timedelta(hours=5))), OffsetType.TIMESTAMP, 1_796_000_523_456),
    (None, NOW.astimezone().replace(tzinfo=None), OffsetType.TIMESTAMP, 1_796_000_523_456),  # local time
    (OffsetType.TIMESTAMP, 1_796_000_523_456, OffsetType.TIMESTAMP, 1_796_000_523_456),
    (OffsetType.TIMESTAMP, 0, OffsetType.TIMESTAMP, 0),
    (OffsetType.TIMESTAMP, 1, OffsetType.TIMESTAMP, 1),  # no time of any stream, in seconds or not
    (OffsetType.TIMESTAMP, 10**8 - 1, OffsetType.TIMESTAMP, 10**8 - 1),
    (OffsetType.TIMESTAMP, EARLIEST_TIMESTAMP, OffsetType.TIMESTAMP, EARLIEST_TIMESTAMP),
    (OffsetType.TIMESTAMP, datetime(1970, 1, 2, tzinfo=UTC), OffsetType.TIMESTAMP, 0),
    (OffsetType.FIRST, 0, OffsetType.FIRST, None),  # as other clients write it
    (OffsetType.NEXT, None, OffsetType.NEXT, None),
)
EAST, WEST = timezone(timedelta(hours=5)), timezone(timedelta(hours=-5))
WRONG_SPECIFICATIONS: tuple[tuple[Any, Any, type[Exception], str], ...] = (
    (OffsetType.OFFSET, None, ConfigurationError, "OFFSET needs an offset"),
    (OffsetType.TIMESTAMP, None, ConfigurationError, "TIMESTAMP needs an offset: a datetime, or milliseconds"),
    (OffsetType.OFFSET, -5, ConfigurationError, "an offset is between 0 and 18446744073709551615, not -5"),
    (None, -5, ConfigurationError, "an offset is between 0 and 18446744073709551615, not -5"),
    (None, 2**64, ConfigurationError, "an offset is between 0 and"),
    (None, True, TypeError, "an offset is a whole number, not True"),
    (
        OffsetType.TIMESTAMP,
        -5,
        ConfigurationError,
        "a timestamp, in milliseconds .* between 0 and .* not -5",
    ),
    (OffsetType.TIMESTAMP, 2**63, ConfigurationError, "a timestamp, in milliseconds since 1970, is between"),
    (OffsetType.TIMESTAMP, 1_796_000_523, ConfigurationError, "1796000523 is in the year 1970: multiply seconds by"),
    (OffsetType.TIMESTAMP, EARLIEST_TIMESTAMP - 1, ConfigurationError, "is in the year 1973"),
    (OffsetType.TIMESTAMP, 10**8, ConfigurationError, "a timestamp is in milliseconds"),
    (OffsetType.TIMESTAMP, datetime(1969, 12, 31, tzinfo=UTC), ConfigurationError, "a timestamp is not before 1970"),
    (
        OffsetType.OFFSET,
        NOW,
        ConfigurationError,
        r"a datetime is for OffsetType\.TIMESTAMP, .*OFFSET",
    ),
    (OffsetType.FIRST, NOW, ConfigurationError, r"a datetime is for OffsetType\.TIMESTAMP, not for OffsetType\.FIRST"),
    (OffsetType.FIRST, 4, ConfigurationError, r"FIRST takes no offset: to start at 4 pass OffsetType\.OFFSET"),
    (OffsetType.LAST, 4, ConfigurationError, "LAST takes no offset"),
    (
        None,
        datetime.min.replace(tzinfo=timezone(timedelta(hours=5))),
        ConfigurationError,
        "this timestamp cannot be converted to UTC",
    ),
    (
        None,
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))),
        ConfigurationError,
        "this timestamp cannot be converted to UTC",
    ),
    (OffsetType.NEXT, 4, ConfigurationError, "NEXT takes no offset"),
    ("first", None, TypeError, r"offset_type is an OffsetType, such as OffsetType\.FIRST, not 'first'"),
    ("Timestamp", 4, TypeError, r"offset_type is an OffsetType, such as OffsetType\.TIMESTAMP, not 'Timestamp'"),
    (1, None, TypeError, r"offset_type is an OffsetType, such as OffsetType\.FIRST, not 1"),
    (0, None, TypeError, r"offset_type is an OffsetType, not 0"),
    ("", None, TypeError, r"offset_type is an OffsetType, not ''"),
    (FIRST, None, TypeError, "is passed as offset_specification"),
)
ENTRANCES: dict[str, Callable[[Client, dict[str, Any]], Any]] = {
    "subscribe": lambda client, how: Consumer(client=client).subscribe("s", print, **how),
    "messages": lambda client, how: anext(Consumer(client=client).messages("s", **how)),
    "chunks": lambda client, how: anext(Consumer(client=client).chunks("s", **how)),
    "super stream": lambda client, how: SuperStreamConsumer(client=client, super_stream="s").subscribe(print, **how),
    "super stream's messages": lambda client, how: anext(
        SuperStreamConsumer(client=client, super_stream="s").messages(**how)
    ),
}


@pytest.mark.parametrize(("offset_type", "offset", "expected_type", "expected"), SPECIFICATIONS, ids=str)
def test_specifications(offset_type: Any, offset: Any, expected_type: OffsetType, expected: int | None) -> None:
    specification = ConsumerOffsetSpecification(offset_type, offset)
    assert (specification.offset_type, specification.offset) == (expected_type, expected)
    assert specification == ConsumerOffsetSpecification(expected_type, expected)
    assert pickle.loads(pickle.dumps(specification)) == specification
    with pytest.raises(AttributeError):
        specification.offset = 5  # type: ignore[misc]


@pytest.mark.parametrize(("offset_type", "offset", "error", "words"), WRONG_SPECIFICATIONS, ids=str)
def test_wrong_specifications(offset_type: Any, offset: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        ConsumerOffsetSpecification(offset_type, offset)


@pytest.mark.parametrize("entrance", [*ENTRANCES.values()], ids=[*ENTRANCES])
async def test_wrong_specifications_of_options(client: Client, entrance: Callable[[Client, Any], Any]) -> None:
    for offset_type, offset, error, words in WRONG_SPECIFICATIONS:
        with pytest.raises(error, match=words):
            await entrance(client, {"offset_type": offset_type, "offset": offset})
    with pytest.raises(TypeError, match=r"^offset_specification is a ConsumerOffsetSpecification, .* as offset_type"):
        await entrance(client, {"offset_specification": OffsetType.FIRST})
    with pytest.raises(ConfigurationError, match="not both"):
        await entrance(client, {"offset_specification": FIRST, "offset": 4})


MEANT: dict[str, tuple[Call, str]] = {
    "a list of streams": (
        lambda client, s: anext(Consumer(client=client).messages([s])),  # type: ignore[arg-type]
        r"^streams is the name of one stream, or a mapping of names, each to a Con.*, not \['s'\]",
    ),
    "chunks of a list": (
        lambda client, s: anext(Consumer(client=client).chunks([s])),  # type: ignore[arg-type]
        "^streams is the name of one stream, or a mapping",
    ),
    "a mapping to numbers": (
        lambda client, s: anext(Consumer(client=client).messages({s: 4})),  # type: ignore[dict-item]
        "^the value of 's' in streams is a ConsumerOffsetSpecification, not 4",
    ),
    "offsets of partitions as numbers": (
        lambda client, s: SuperStreamConsumer(client=client, super_stream=s).subscribe(print, offsets={"s-0": 4}),  # type: ignore[dict-item]
        r"^offsets\['s-0'\] is a ConsumerOffsetSpecification, not 4",
    ),
    "offsets as a list": (
        lambda client, s: SuperStreamConsumer(client=client, super_stream=s).subscribe(print, offsets=[4]),  # type: ignore[arg-type]
        "^offsets is a mapping of partitions",
    ),
    "no callback": (
        lambda client, s: Consumer(client=client).subscribe(s, None),  # type: ignore[arg-type]
        "^callback is a function, not None",
    ),
    "a callback that is called": (
        lambda client, s: Consumer(client=client).subscribe(s, _made(int)),  # type: ignore[arg-type]
        "^callback is a function, not <coroutine .*: pass the function itself, without calling it",
    ),
    "a super stream's callback": (
        lambda client, s: SuperStreamConsumer(client=client, super_stream=s).subscribe("callback"),  # type: ignore[arg-type]
        "^callback is a function",
    ),
    "a decoder": (
        lambda client, s: Consumer(client=client).subscribe(s, print, decoder=True),  # type: ignore[arg-type]
        "^decoder is a function, not True",
    ),
    "a decoder of messages": (
        lambda client, s: anext(Consumer(client=client).messages(s, decoder="amqp")),  # type: ignore[arg-type]
        "^decoder is a function, not 'amqp'",
    ),
    "a post filter": (
        lambda client, s: Consumer(client=client).subscribe(s, print, post_filter="eu"),  # type: ignore[arg-type]
        "^a post filter is a function, not 'eu'",
    ),
    "a listener": (
        lambda client, s: Consumer(client=client).subscribe(
            s,
            print,
            single_active_consumer=True,
            subscriber_name="n",
            consumer_update_listener=5,  # type: ignore[arg-type]
        ),
        "^consumer_update_listener is a function, not 5",
    ),
    "on_gap": (
        lambda _, s: _made(lambda: Consumer(on_gap=s)),
        "^on_gap is a function, not 's'",
    ),
    "on_recovery": (
        lambda _, s: _made(lambda: Producer(on_recovery=s)),
        "^on_recovery is a function, not 's'",
    ),
    "a confirm callback in the publisher's place": (
        lambda client, s: Producer(client=client).send(s, b"x", print),  # type: ignore[arg-type]
        "^publisher_name is a str, not <built-in function print>; a function is passed as on_publish_confirm",
    ),
    "of a batch": (
        lambda client, s: Producer(client=client).send_batch(s, [b"x"], print),  # type: ignore[arg-type]
        "^publisher_name is a str, .* passed as on_publish_confirm",
    ),
    "of a sub-entry": (
        lambda client, s: Producer(client=client).send_sub_entry(s, [b"x"], CompressionType.No, print),  # type: ignore[arg-type]
        "^publisher_name is a str, .* passed as on_publish_confirm",
    ),
    "a list in its place": (
        lambda client, s: Producer(client=client).send(s, b"x", ["name"]),  # type: ignore[arg-type]
        r"^publisher_name is a str, not \['name'\]",
    ),
    "a list in its place, with an extractor": (
        lambda client, s: Producer(client=client, filter_value_extractor=str).send(s, b"x", ["name"]),  # type: ignore[arg-type]
        r"^publisher_name is a str, not \['name'\]",
    ),
    "a timeout in its place": (
        lambda client, s: Producer(client=client).send_wait(s, b"x", 5),  # type: ignore[arg-type]
        "^publisher_name is a str, not 5",
    ),
    "message and stream swapped": (
        lambda client, s: Producer(client=client).send(AMQPMessage("x"), s),  # type: ignore[arg-type]
        r"^stream is a str, not AMQPMessage\(body=b'x'\)",
    ),
    "a name in the callback's place": (
        lambda client, s: Producer(client=client).send(s, b"x", None, s),
        "^on_publish_confirm is a function, not 's'; a name is a publisher_name",
    ),
    "a batch of one message": (
        lambda client, s: Producer(client=client).send_batch(s, AMQPMessage("x")),  # type: ignore[arg-type]
        "^a batch is a list of messages, not AMQPMessage.*; send and send_wait take a single one",
    ),
    "a batch of bytes": (
        lambda client, s: Producer(client=client).send_batch(s, b"x"),
        "^a batch is a list of messages, not b'x'",
    ),
    "a sub-entry of one message": (
        lambda client, s: Producer(client=client).send_sub_entry(s, AMQPMessage("x")),  # type: ignore[arg-type]
        "^a batch is a list of messages",
    ),
    "a super stream's batch": (
        lambda client, s: SuperStreamProducer(client=client, super_stream=s, routing_extractor=str).send_batch(b"x"),
        "^a batch is a list of messages",
    ),
    "a super stream's sub-entry": (
        lambda client, s: SuperStreamProducer(client=client, super_stream=s, routing_extractor=str).send_sub_entry(
            AMQPMessage("x")  # type: ignore[arg-type]
        ),
        "^a batch is a list of messages",
    ),
    "a filter value extractor": (
        lambda client, s: _made(lambda: Producer(client=client, filter_value_extractor=s)),
        "^filter_value_extractor is a function",
    ),
    "a routing": (
        lambda client, s: _made(lambda: SuperStreamProducer(client=client, super_stream=s, routing="hash")),  # type: ignore[arg-type]
        r"^routing is RouteType\.Hash, RouteType\.PythonHash, RouteType\.Key or a function, not 'hash'",
    ),
    "a routing extractor": (
        lambda client, s: _made(lambda: SuperStreamProducer(client=client, super_stream=s, routing_extractor="id")),  # type: ignore[arg-type]
        "^routing_extractor is a function, not 'id'",
    ),
}


@pytest.mark.parametrize(("call", "words"), [*MEANT.values()], ids=[*MEANT])
async def test_what_was_meant_is_said(client: Client, call: Call, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        await call(client, "s")


async def test_a_mapping_says_where_it_starts(client: Client) -> None:
    """An offset beside it would be left out in silence."""
    for how in ({"offset": 0}, {"offset_type": OffsetType.NEXT}, {"offset_specification": FIRST}):
        with pytest.raises(ConfigurationError, match="do not pass an offset as well"):
            Consumer(client=client).messages({"s": FIRST}, **how)
    with pytest.raises(ConfigurationError, match="streams is empty"):
        Consumer(client=client).chunks({})


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
            encode_filter(value)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a publishing id is no whole number"):
        publish_frame(0, [1.5], [b"x"], [1])  # type: ignore[list-item]


@pytest.mark.parametrize("kind", [Producer, Consumer])
async def test_a_port_may_be_text(kind: type[Producer] | type[Consumer]) -> None:
    """As it comes out of an environment variable."""
    assert kind("h", "5552").client.options.endpoints == (Endpoint("h", 5552),)
    for wrong in ("", "http", "-1", "5552.0", " 5552", "99999999999", "\u0665"):
        with pytest.raises(ConfigurationError, match="port is a number, not "):
            kind("h", wrong)
    with pytest.raises(ConfigurationError, match="port is between 1 and 65535, not 65536"):
        kind("h", "65536")


async def test_a_connection_has_a_name_unless_it_is_empty() -> None:
    def named(view: Producer | Consumer | Client) -> str:
        client = view if isinstance(view, Client) else view.client
        return client.options.connection_name

    assert named(Producer("h")) == "rstream-producer"
    assert named(Consumer("h")) == "rstream-consumer"
    assert named(Client()) == "rstream-client"
    assert named(Producer("h", connection_name="orders")) == "orders"
    assert named(Producer("h", connection_name="")) == ""


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda most: Client(max_publishers_by_connection=most), "max_publishers_by_connection"),
        (lambda most: Client(max_subscribers_by_connection=most), "max_subscribers_by_connection"),
        (lambda most: Producer("h", max_publishers_by_connection=most), "max_publishers_by_connection"),
        (lambda most: Consumer("h", max_subscribers_by_connection=most), "max_subscribers_by_connection"),
    ],
)
async def test_what_a_connection_carries(make: Callable[[Any], object], name: str) -> None:
    make(1)
    make(256)
    for wrong in (0, 257):
        with pytest.raises(ConfigurationError, match=f"{name} is between 1 and 256, not {wrong}"):
            make(wrong)
    with pytest.raises(TypeError, match=f"{name} is a whole number, not '8'"):
        make("8")


@pytest.mark.parametrize(
    ("seconds", "error"), [(-1.0, ValueError), (float("nan"), ValueError), ("1", TypeError), (None, TypeError)]
)
async def test_an_idle_timeout_that_cannot_be(seconds: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="idle_timeout"):
        Client(idle_timeout=seconds)
    await Client(idle_timeout=0).close()


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (
            "amqp://guest:secret@localhost:5672/",
            "^a URI begins with rabbitmq-stream:// or rabbitmq-stream[+]tls://, not",
        ),
        ("rabbitmq-stream://guest:secret@:5552", "^the URI names no host$"),
        ("localhost:5552", "^host is a name or an address alone: pass 5552 as the port$"),
    ],
)
@pytest.mark.parametrize("make", [Producer, Consumer])
def test_a_host_that_is_more_than_one(make: Callable[..., object], host: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as raised:
        make(host)
    assert "secret" not in str(raised.value)


def test_a_uri_in_place_of_a_host() -> None:
    options = options_from("rabbitmq-stream://app:se%40cret@rabbit-1:1234/a%2fb", 5552, "name", heartbeat=5)
    assert options == ConnectionOptions(
        endpoints=(Endpoint("rabbit-1", 1234),),
        credentials=Credentials("app", "se@cret"),
        vhost="a/b",
        heartbeat=5,
        connection_name="name",
    )
    options = options_from("rabbitmq-stream://rabbit-1", 5552, "", username="app", password="secret", vhost="v")
    assert options.endpoints == (Endpoint("rabbit-1", 5552),)
    assert (options.credentials, options.vhost, options.tls) == (Credentials("app", "secret"), "v", None)
    assert Client("rabbitmq-stream://app:x@rabbit-1").options.credentials == Credentials("app", "x")
    assert Client("rabbitmq-stream://rabbit-1").options.connection_name == "rstream-client"


def test_tls_by_a_uri_verifies_the_broker() -> None:
    context = options_from("rabbitmq-stream+tls://rabbit-1", 5552, "").tls
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    own = ssl.create_default_context()
    options = options_from("rabbitmq-stream+tls://rabbit-1", 5552, "", tls=own)
    assert (options.tls, options.endpoints) == (own, (Endpoint("rabbit-1", 5551),))


@pytest.mark.parametrize(
    ("uri", "given", "words"),
    [
        ("rabbitmq-stream://h:1", {"port": 1}, "^the port is that of the URI"),
        ("rabbitmq-stream://app@h", {"username": "app"}, "^the URI has the username"),
        ("rabbitmq-stream://app:secret@h", {"password": "x"}, "^the URI has the password: pass no other one$"),
        ("rabbitmq-stream://h/v", {"vhost": "v"}, "^the URI has the vhost"),
        (
            "rabbitmq-stream://h",
            {"tls": ssl.create_default_context()},
            r"^with tls, a URI begins with rabbitmq-stream\+tls",
        ),
    ],
)
@pytest.mark.parametrize("make", [Producer, Consumer])
def test_what_a_uri_says_is_said_once(make: Callable[..., object], uri: str, given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as raised:
        make(uri, **given)
    assert "secret" not in str(raised.value)


def test_both_names_of_a_keyword() -> None:
    context = ssl.create_default_context()
    for given in ({"tls": context, "mechanism": "EXTERNAL"}, {"ssl_context": context, "mechanism": "EXTERNAL"}):
        options = options_from("h", 1, "", **given)  # type: ignore[arg-type]
        assert (options.tls, options.mechanism) == (context, "EXTERNAL")
    assert options_from("h", 1, "", sasl_configuration_mechanism="EXTERNAL").mechanism == "EXTERNAL"
    assert options_from("h", 1, "", tls=context, ssl_context=None).tls is context
    with pytest.raises(ConfigurationError, match=r"^pass tls or ssl_context, which are the same$"):
        options_from("h", 1, "", tls=context, ssl_context=context)
    with pytest.raises(ConfigurationError, match=r"^pass mechanism or sasl_configuration_mechanism"):
        options_from("h", 1, "", mechanism="PLAIN", sasl_configuration_mechanism="PLAIN")


def test_a_uri_where_only_a_host_can_be() -> None:
    uri = "rabbitmq-stream://guest:secret@rabbit-1"
    with pytest.raises(ConfigurationError, match=r"^a host is a name or an address, and no URI") as raised:
        ConnectionOptions(endpoints=(Endpoint(uri, 5552),))
    assert "secret" not in str(raised.value)
    for no_uri in ("rabbit-1", "rabbit-1:5552", ""):
        with pytest.raises(ConfigurationError, match=r"^a URI begins with rabbitmq-stream://"):
            Client(no_uri)


@pytest.mark.parametrize("value", ["20GB", -1, 1.5, "", True])
async def test_arguments_that_are_numbers(client: Client, value: Any) -> None:
    """RabbitMQ hangs up where they are none."""
    with pytest.raises(ConfigurationError, match=r"^arguments\['max-length-bytes'\] is a whole number, without a unit"):
        await client.create_stream("s", {"max-length-bytes": value})


@pytest.mark.parametrize("given", [{}, {"n_partitions": 2, "binding_keys": ["a", "b"]}])
async def test_partitions_by_one_of_two(client: Client, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"one a partition; (neither|both) was given"):
        await Producer(client=client).create_super_stream("s", **given)
