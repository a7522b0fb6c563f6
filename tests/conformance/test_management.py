"""The management API of both brokers, asked by the same client."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import json
import ssl
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from rstream_cli.management import api as api_module
from rstream_cli.management.address import parse_management_uri
from rstream_cli.management.answers import ListedConsumer, ListedPublisher, Tracking
from rstream_cli.management.api import ManagementApi, open_api
from rstream_core import (
    AuthenticationFailure,
    Client,
    ConnectionOptions,
    Credentials,
    Publisher,
    SingleActiveConsumer,
    StreamDoesNotExist,
    VirtualHostAccessFailure,
)
from tests.brokers import Broker
from tests.clients import PATIENCE, at, client, options, options_for, publish, stream, super_stream, take

__all__ = ["client", "options", "stream", "super_stream"]


@contextlib.contextmanager
def opened(broker: Broker, **changes: Any) -> Iterator[ManagementApi]:
    address = parse_management_uri(broker.management_uri)
    with open_api(options_for(broker, **changes), address, ssl.create_default_context) as api:
        yield api


@pytest.fixture
def api(broker: Broker) -> Iterator[ManagementApi]:
    with opened(broker) as found:
        yield found


async def until(ask: Callable[[], Awaitable[Any]], holds: Callable[[Any], bool]) -> Any:
    """What is told with the next statistics of RabbitMQ, which it gathers every five seconds."""
    async with asyncio.timeout(PATIENCE):
        while not holds(found := await ask()):  # noqa: ASYNC110 - another process is asked again
            await asyncio.sleep(0.2)
    return found


@contextlib.asynccontextmanager
async def publishing(client: Client, stream: str, name: str | None = None) -> AsyncIterator[Publisher]:
    publisher = await client.publisher(stream, name)
    try:
        yield publisher
    finally:
        await publisher.close()


async def test_a_stream_with_its_arguments(client: Client, api: ManagementApi, stream_name: str) -> None:
    given = {
        "max-age": "7D",
        "max-length-bytes": "20000000000",
        "stream-max-segment-size-bytes": "500000",
        "stream-filter-size-bytes": "32",
        "initial-cluster-size": "1",
        "queue-leader-locator": "balanced",
        "no-such": "argument",
    }
    await client.create_stream(stream_name, given)
    try:
        found = await api.stream(stream_name)
        assert found.arguments == {
            "max-age": "7D",
            "max-length-bytes": 20_000_000_000,
            "stream-max-segment-size-bytes": 500_000,
            "stream-filter-size-bytes": 32,
            "initial-cluster-size": 1,
            "queue-leader-locator": "balanced",
        }
        assert (found.name, found.policy, found.policy_arguments) == (stream_name, None, {})
        assert found.replicas == found.online == (found.leader,)
        listed = {each.name: each for each in await api.streams()}
        assert listed[stream_name].arguments == found.arguments
        assert listed[stream_name].replicas == found.replicas
    finally:
        await client.delete_stream(stream_name)
    assert stream_name not in {each.name for each in await api.streams()}


async def test_messages_are_counted(client: Client, api: ManagementApi, stream: str) -> None:
    await publish(client, stream, [b"a", b"b"], [b"c"])
    found = await until(lambda: api.stream(stream), lambda found: found.messages == 3 and found.segments is not None)
    assert found.segments == 1


async def test_pages(client: Client, api: ManagementApi, stream_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{stream_name}-{number}" for number in range(7)]
    for name in names:
        await client.create_stream(name)
    try:
        monkeypatch.setattr(api_module, "PAGE_SIZE", 2)
        found = [each.name for each in await api.streams()]
        assert found == sorted(found)
        assert [name for name in found if name.startswith(stream_name)] == names
    finally:
        for name in names:
            await client.delete_stream(name)


@pytest.mark.parametrize("part", ["a b", "$(id)", "é/ü", "..%2F", "x:y", "?q=1#f", "'\"\\", "\x1b[2J\u202e"])
async def test_names_of_all_kinds(client: Client, api: ManagementApi, stream_name: str, part: str) -> None:
    name = f"{stream_name}-{part}"
    await client.create_stream(name)
    try:
        assert (await api.stream(name)).name == name
        assert (await api.tracking(name)).offsets == {}
        assert name in {each.name for each in await api.streams()}
    finally:
        await client.delete_stream(name)


@pytest.mark.parametrize("name", [".", ".."])
async def test_names_that_a_path_cannot_hold(client: Client, api: ManagementApi, name: str) -> None:
    await client.create_stream(name, exists_ok=True)
    try:
        assert (await api.stream(name)).name == name
    finally:
        await client.delete_stream(name)


async def test_super_streams(api: ManagementApi, super_stream: str) -> None:
    found = await api.super_streams()
    assert super_stream in found
    assert f"{super_stream}-0" not in found
    assert {f"{super_stream}-{number}" for number in range(3)} <= {each.name for each in await api.streams()}


async def test_stored_offsets_and_publishing_ids(client: Client, api: ManagementApi, stream: str) -> None:
    assert await api.tracking(stream) == Tracking({}, {})
    async with publishing(client, stream, "p") as publisher:
        await publisher.publish([b"a", b"b", b"c"])
        await publisher.flush(PATIENCE)
    await client.store_offset(stream, "one", 1)
    await client.store_offset(stream, "two", 2**40)
    found = await until(lambda: api.tracking(stream), lambda found: len(found.offsets) == 2)
    assert found == Tracking({"one": 1, "two": 2**40}, {"p": 3})


async def test_publishers(client: Client, api: ManagementApi, broker: Broker, stream: str) -> None:
    async def of_stream() -> list[ListedPublisher]:
        return [each for each in await api.publishers() if each.stream == stream]

    assert await of_stream() == []
    async with publishing(client, stream, "p") as named, publishing(client, stream):
        await named.publish([b"a", b"b"])
        await named.flush(PATIENCE)
        found = await until(of_stream, lambda found: any(each.confirmed == 2 for each in found))
        by_name = {each.name: each for each in found}
        assert set(by_name) == {"p", None}
        assert (by_name["p"].published, by_name["p"].errored) == (2, 0)
        assert (by_name[None].published, by_name[None].confirmed) == (0, 0)
        assert {each.user for each in found} == {broker.username}
        assert all(each.connection.endswith(f":{broker.port}") for each in found)
    assert await until(of_stream, lambda found: not found) == []


async def test_consumers(client: Client, api: ManagementApi, broker: Broker, stream: str) -> None:
    async def of_stream() -> dict[str | None, ListedConsumer]:
        return {each.name: each for each in await api.consumers() if each.stream == stream}

    await publish(client, stream, [b"a", b"b"], [b"c"])
    reader = await client.subscribe(stream, at(0), properties={"name": "reader"})
    nameless = await client.subscribe(stream, at(3))
    try:
        await take(reader, 3)
        found = await until(of_stream, lambda found: len(found) == 2 and found["reader"].offset == 2)
        assert (found["reader"].consumed, found["reader"].lag) == (2, 0)
        assert found["reader"].is_active
        assert not found["reader"].is_single_active
        assert (found[None].consumed, found[None].lag) == (0, 0)
        assert {each.user for each in found.values()} == {broker.username}
    finally:
        await reader.close()
        await nameless.close()
    assert await until(of_stream, lambda found: not found) == {}


async def test_single_active_consumers(client: Client, api: ManagementApi, super_stream: str) -> None:
    group = SingleActiveConsumer("group", super_stream=super_stream)
    partition = f"{super_stream}-1"

    async def of_partition() -> list[ListedConsumer]:
        return [each for each in await api.consumers() if each.stream == partition]

    members = [await client.subscribe(partition, at(0), single_active=group) for _ in range(2)]
    try:
        found = await until(of_partition, lambda found: sum(each.is_active for each in found) == 1 and len(found) == 2)
        assert {(each.name, each.is_single_active, each.super_stream) for each in found} == {
            ("group", True, super_stream)
        }
    finally:
        for member in members:
            await member.close()


async def test_nodes(api: ManagementApi, stream: str) -> None:
    (node,) = await api.nodes()
    assert node.is_running
    assert not node.disk_alarm
    assert not node.memory_alarm
    assert node.name == (await api.stream(stream)).leader
    assert node.disk_free is not None
    assert node.disk_free_limit is not None


async def test_what_is_not_there(broker: Broker, api: ManagementApi, stream_name: str) -> None:
    with pytest.raises(StreamDoesNotExist):
        await api.stream(stream_name)
    with pytest.raises(StreamDoesNotExist):
        await api.tracking(stream_name)
    with opened(broker, vhost="no such") as elsewhere:
        for ask in (elsewhere.streams, elsewhere.super_streams, elsewhere.consumers, elsewhere.publishers):
            with pytest.raises(VirtualHostAccessFailure):
                await ask()


async def test_a_wrong_login(broker: Broker) -> None:
    for credentials in (Credentials("guest", "no"), Credentials("nobody", "guest"), Credentials("guest", "pä")):
        with opened(broker, credentials=credentials) as api, pytest.raises(AuthenticationFailure):
            await api.streams()


def ask(broker: Broker, path: str) -> Any:
    login = base64.b64encode(f"{broker.username}:{broker.password}".encode()).decode()
    request = urllib.request.Request(f"{broker.management_uri}{path}", headers={"Authorization": f"Basic {login}"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return json.load(answer)


def shape(value: Any) -> Any:
    """The types of an answer: of an object's fields, and of a list's first item."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value[:1]]
    return type(value)


def assert_part(ours: Any, theirs: Any, path: str) -> None:
    """All that is told by one is told by the other, in the same types."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in ours:
            assert key in theirs, f"{path}.{key}"
            assert_part(ours[key], theirs[key], f"{path}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and ours and theirs:
        assert_part(ours[0], theirs[0], f"{path}[]")
    else:
        assert ours == theirs, path


async def test_answers_are_shaped_as_those_of_rabbitmq(embedded: Broker, rabbitmq: Broker, stream_name: str) -> None:
    found: list[dict[str, Any]] = []
    for broker in (embedded, rabbitmq):
        loop = asyncio.get_running_loop()
        async with _used(broker, stream_name):
            # The first numbers come with the first statistics.
            of_stream = functools.partial(loop.run_in_executor, None, ask, broker, f"/api/queues/%2F/{stream_name}")
            await until(of_stream, lambda found: {"messages", "policy"} <= found.keys())
            paths = {
                "stream": f"/api/queues/%2F/{stream_name}",
                "page": "/api/queues/%2F?page=1&page_size=1&columns=name,type,arguments",
                "all": "/api/queues/%2F?columns=name,members,online",
                "exchanges": "/api/exchanges/%2F?columns=name,arguments&page=1&page_size=1",
                "consumers": "/api/stream/consumers/%2F",
                "publishers": f"/api/stream/publishers/%2F/{quote(stream_name)}",
                "tracking": f"/api/stream/%2F/{stream_name}/tracking",
                "nodes": "/api/nodes",
                "chosen": "/api/nodes?columns=name,running,disk_free_alarm,mem_alarm,disk_free,disk_free_limit",
            }
            answers = {name: shape(await loop.run_in_executor(None, ask, broker, path)) for name, path in paths.items()}
        answers["page"]["items"] = [
            {key: kind for key, kind in answers["page"]["items"][0].items() if key != "arguments"}
        ]
        answers["exchanges"]["items"] = []
        found.append(answers)
    assert_part(found[0], found[1], "")
    assert found[0]["chosen"] == found[1]["chosen"]


@contextlib.asynccontextmanager
async def _used(broker: Broker, name: str) -> AsyncIterator[None]:
    options: ConnectionOptions = options_for(broker)
    async with Client(options) as client:
        await client.create_stream(name)
        try:
            async with publishing(client, name, "p") as publisher, await client.subscribe(name, at(0)):
                await publisher.publish([b"a"])
                await publisher.flush(PATIENCE)
                await client.store_offset(name, "r", 0)
                yield
        finally:
            await client.delete_stream(name)
