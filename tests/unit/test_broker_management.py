"""The embedded broker's management API, against clients that send garbage, too much, or nothing."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from http import HTTPStatus
from http.client import parse_headers
from io import BytesIO
from typing import Any

import pytest

from rstream_core import Client, ConfigurationError, ConnectionOptions, EmbeddedBroker, Endpoint, http_server
from tests.clients import PATIENCE, with_two_addresses

GUEST = f"Basic {base64.b64encode(b'guest:guest').decode()}"


@pytest.fixture
async def broker() -> AsyncIterator[EmbeddedBroker]:
    async with EmbeddedBroker(management_port=0, vhosts=("/", "other")) as found:
        async with Client(ConnectionOptions(endpoints=(Endpoint("127.0.0.1", found.port),))) as client:
            for name in ("b", "a", "c"):
                await client.create_stream(name)
        yield found


class Caller:
    """A connection to the API."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, target: str, *, verb: str = "GET", version: str = "HTTP/1.1", **fields: str) -> None:
        """Sends a request, as guest unless ``authorization`` is given; an empty one leaves the field out."""
        given = {key.replace("_", "-"): value for key, value in fields.items()}
        head = {"host": "localhost", "authorization": GUEST, **given}
        lines = [f"{verb} {target} {version}", *(f"{name}: {value}" for name, value in head.items() if value), "", ""]
        self.writer.write("\r\n".join(lines).encode())

    async def read(self, *, body: bool = True) -> tuple[int, Any, dict[str, str]]:
        async with asyncio.timeout(PATIENCE):
            head = await self.reader.readuntil(b"\r\n\r\n")
            first, _, rest = head.partition(b"\r\n")
            fields = {name.lower(): value for name, value in parse_headers(BytesIO(rest)).items()}
            data = await self.reader.readexactly(int(fields["content-length"])) if body else b""
        return int(first.split()[1]), json.loads(data) if data else None, fields

    async def ask(self, target: str, **fields: str) -> tuple[int, Any]:
        self.send(target, **fields)
        status, content, _ = await self.read()
        return status, content

    async def ended(self) -> None:
        """Returns when the broker has closed the connection."""
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionError):
                while await self.reader.read(1 << 16):
                    pass


@contextlib.asynccontextmanager
async def calling(broker: EmbeddedBroker) -> AsyncIterator[Caller]:
    assert broker.management_uri is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", int(broker.management_uri.rpartition(":")[2]))
    try:
        yield Caller(reader, writer)
    finally:
        writer.transport.abort()


@pytest.fixture
async def caller(broker: EmbeddedBroker) -> AsyncIterator[Caller]:
    async with calling(broker) as found:
        yield found


async def test_requests_on_one_connection(caller: Caller) -> None:
    for _ in range(3):
        status, found = await caller.ask("/api/queues/%2F?columns=name")
        assert (status, found) == (200, [{"name": "a"}, {"name": "b"}, {"name": "c"}])


async def test_requests_that_are_sent_ahead_are_answered_in_their_order(caller: Caller) -> None:
    for name in ("a", "no such", "c"):
        caller.send(f"/api/queues/%2F/{name.replace(' ', '%20')}?x")
    answers = [await caller.read() for _ in range(3)]
    assert [(status, content.get("name")) for status, content, _ in answers] == [(200, "a"), (404, None), (200, "c")]


async def test_who_asks_ahead_keeps_nobody_waiting(broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are answered in between, and the broker's clients have their turn after each answer."""
    turns, ahead = [0], 500
    answered: list[int] = []
    answer = broker._running._management.answer

    def count(target: str, login: str, *, is_local: bool) -> tuple[HTTPStatus, Any]:
        answered.append(turns[0])
        return answer(target, login, is_local=is_local)

    def turn() -> None:
        turns[0] += 1
        asyncio.get_running_loop().call_soon(turn)

    monkeypatch.setattr(broker._running._management, "answer", count)
    async with calling(broker) as greedy, calling(broker) as greedy_too, calling(broker) as other:
        asyncio.get_running_loop().call_soon(turn)
        for caller in (greedy, greedy_too):
            for _ in range(ahead):
                caller.send("/api/queues/%2F", verb="HEAD")
        while len(answered) < 10:  # noqa: ASYNC110 - the other end of the connection
            await asyncio.sleep(0)
        assert (await other.ask("/api/queues/%2F/a"))[0] == 200
        assert len(answered) < ahead
        for caller in (greedy, greedy_too):
            for _ in range(ahead):
                assert (await caller.read(body=False))[0] == 200
    assert len(answered) == 2 * ahead + 1
    assert len(set(answered)) == len(answered)


async def test_no_more_is_read_while_answers_wait(broker: EmbeddedBroker) -> None:
    async with calling(broker) as caller:
        for _ in range(6_000):
            caller.send("/api/nodes", verb="HEAD")
        most, answers = 0, 0
        while answers < 6_000:
            answers += 1
            assert (await caller.read(body=False))[0] == 200
            (connection,) = broker._running._management.server.connections
            most = max(most, len(connection._received))
        assert 0 < most <= 1 << 19


async def test_a_head_byte_by_byte(caller: Caller) -> None:
    for byte in f"GET /api/queues/%2F/a HTTP/1.1\r\nHost: localhost\r\nAuthorization: {GUEST}\r\n\r\n".encode():
        caller.writer.write(bytes([byte]))
        await caller.writer.drain()
        await asyncio.sleep(0)
    assert (await caller.read())[0] == 200


async def test_head_and_close(caller: Caller) -> None:
    caller.send("/api/queues/%2F", verb="HEAD")
    status, _, fields = await caller.read(body=False)
    assert (status, int(fields["content-length"]) > 2) == (200, True)
    caller.send("/api/queues/%2F", connection="close")
    assert (await caller.read())[2]["connection"] == "close"
    await caller.ended()


async def test_http_1_0(caller: Caller) -> None:
    caller.send("/api/queues/%2F", version="HTTP/1.0")
    assert (await caller.read())[0] == 200
    await caller.ended()


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/", 404),
        ("/api", 404),
        ("/api/overview", 404),
        ("/api/queues", 404),
        ("/api/queues/none", 404),
        ("/api/queues/other/a", 404),
        ("/api/queues/other", 200),
        ("/api/stream/%2F/none/tracking", 404),
        ("/api/stream/consumers/none", 404),
        ("//queues/%2F", 404),
        ("/../api/nodes", 404),
        ("/api/nodes", 200),
        ("/api/exchanges/%2F", 200),
        ("/api/queues/%FF", 400),
        ("/api/queues/%2F?columns=%FF", 400),
        ("/api/queues/%2F?page=0", 400),
        ("/api/queues/%2F?page=-1", 400),
        ("/api/queues/%2F?page=2", 400),
        ("/api/queues/%2F?page=1&page_size=501", 400),
        ("/api/queues/%2F?page=1&page_size=99999999999999999999", 400),
        ("/api/queues/%2F?" + "&".join(f"a{n}=b" for n in range(21)), 400),
        ("/api/queues/%2F?page=3&page_size=1", 200),
        ("http://[/api/queues/%2F", 400),
    ],
)
async def test_targets(caller: Caller, target: str, status: int) -> None:
    assert (await caller.ask(target))[0] == status


@pytest.mark.parametrize(
    "login",
    [
        "",
        "Basic",
        "Basic !",
        "Bearer guest:guest",
        *(
            f"Basic {base64.b64encode(text).decode()}"
            for text in (b"", b"guest", b"guest:", b"guest:other", b"other:guest", b"guest:guest\0", b"\xff:\xff")
        ),
    ],
)
async def test_logins_that_are_refused(caller: Caller, login: str) -> None:
    caller.send("/api/nodes", authorization=login)
    status, _, fields = await caller.read()
    assert (status, fields["www-authenticate"], fields["connection"]) == (401, 'Basic realm="rstream"', "close")
    await caller.ended()


async def test_a_login_that_is_refused_later_ends_the_connection(caller: Caller) -> None:
    assert (await caller.ask("/api/nodes"))[0] == 200
    assert (await caller.ask("/api/nodes", authorization="Basic x"))[0] == 401
    await caller.ended()


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        *(
            ({"host": host}, 200)
            for host in (
                "localhost",
                "LOCALHOST.:15672",
                "127.0.0.1",
                "127.0.0.1:1",
                "127.8.8.8:1",
                "[::1]",
                "[::1]:1",
                "rabbit-1:1",
            )
        ),
        *(
            ({"host": host}, 403)
            for host in (
                "evil.example",
                "evil.example:15672",
                "localhost.evil.example",
                "127.0.0.1.evil.example",
                "localhost@evil.example",
                "192.0.2.1",
                "[2001:db8::1]:15672",
                "[",
                ":15672",
            )
        ),
        ({"host": ""}, 400),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost:15672"}, 403),
        ({"host": "evil.example", "authorization": ""}, 403),
    ],
)
async def test_web_pages_are_refused_here(fields: dict[str, str], status: int) -> None:
    """A page's host name may lead to this machine, and a page may ask for what is not its own."""
    async with EmbeddedBroker(management_port=0, advertised_host="rabbit-1") as broker, calling(broker) as caller:
        caller.send("/api/nodes", **fields)
        assert (await caller.read())[0] == status
        if status != 200:
            await caller.ended()


async def test_users_of_the_broker_log_in() -> None:
    users = {"al:ice": "x", "bob": "p:w"}
    async with EmbeddedBroker(management_port=0, users=users) as broker, calling(broker) as caller:
        bob = f"Basic {base64.b64encode(b'bob:p:w').decode()}"
        assert (await caller.ask("/api/nodes", authorization=bob))[0] == 200
        assert (await caller.ask("/api/nodes"))[0] == 401  # guest


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x00\x00\x00\x0a\r\n\r\n", 400),
        (b"GET /api/nodes\r\n\r\n", 400),
        (b"GET api/nodes HTTP/1.1\r\n\r\n", 400),
        (b"GET /api/nodes HTTP/2\r\n\r\n", 400),
        (b"GET /api/nodes HTTP/1.1\r\n\r\n", 400),
        (b"DELETE /api/queues/%2F/a HTTP/1.1\r\nhost: localhost\r\n\r\n", 405),
        (b"POST /api/nodes HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n", 405),
        (b"GET /api/nodes HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n", 413),
        (b"GET /api/nodes HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n", 413),
        (b"GET /" + b"a" * http_server.MAX_HEAD, 431),
        (b"GET /" + b"a" * http_server.MAX_HEAD + b" HTTP/1.1\r\n\r\n", 431),
    ],
)
async def test_what_is_no_request(caller: Caller, data: bytes, status: int) -> None:
    caller.writer.write(data)
    assert (await caller.read())[0] == status
    await caller.ended()


async def test_who_falls_silent_is_left(broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "REQUEST_TIMEOUT", 0.1)
    async with calling(broker) as caller:
        assert (await caller.ask("/api/nodes"))[0] == 200
        caller.writer.write(b"GET /api/nodes HTTP/1.1\r\n")
        await caller.ended()


@pytest.mark.parametrize("data", [b"", b"GET /api/nodes HTTP/1.1\r\n"], ids=["nothing", "half"])
async def test_who_does_not_log_in_is_left_sooner(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    assert http_server.LOGIN_TIMEOUT < http_server.REQUEST_TIMEOUT
    monkeypatch.setattr(http_server, "LOGIN_TIMEOUT", 0.1)
    monkeypatch.setattr(http_server, "REQUEST_TIMEOUT", 2 * PATIENCE)
    monkeypatch.setattr(http_server, "IDLE_TIMEOUT", 2 * PATIENCE)
    async with calling(broker) as caller:
        caller.writer.write(data)
        await caller.ended()


async def test_who_asks_no_more_is_left(broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "IDLE_TIMEOUT", 0.1)
    async with calling(broker) as caller:
        assert (await caller.ask("/api/nodes"))[0] == 200
        await caller.ended()


async def test_who_does_not_read_is_left(broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the broker takes in no more of the requests than the socket and one buffer hold."""
    monkeypatch.setattr(http_server, "REQUEST_TIMEOUT", 0.3)
    running = broker._running
    async with calling(broker) as caller:
        while not running._management.server.connections:  # noqa: ASYNC110 - the other end of the connection
            await asyncio.sleep(0.01)
        (connection,) = running._management.server.connections
        request = f"GET /api/queues/%2F HTTP/1.1\r\nHost: localhost\r\nAuthorization: {GUEST}\r\n\r\n".encode()
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE):
                while running._management.server.connections:
                    caller.writer.write(request * 100)
                    assert connection._transport.get_write_buffer_size() < 1 << 20
                    assert len(connection._received) < 1 << 20
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.05):
                            await caller.writer.drain()
        assert not running._management.server.connections


async def test_connections_are_bounded(broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "MAX_HTTP_CONNECTIONS", 2)
    async with calling(broker) as one, calling(broker) as two:
        for caller in (one, two):
            assert (await caller.ask("/api/nodes"))[0] == 200
        async with calling(broker) as three:
            await three.ended()
        assert (await one.ask("/api/nodes"))[0] == 200


async def test_who_does_not_log_in_makes_room(broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "MAX_HTTP_CONNECTIONS", 3)
    async with calling(broker) as known, calling(broker) as silent:
        assert (await known.ask("/api/nodes"))[0] == 200
        async with calling(broker) as half:
            half.writer.write(b"GET /api/nodes HTTP/1.1\r\n")
            for left in (silent, half):
                async with calling(broker) as new:
                    assert (await new.ask("/api/nodes"))[0] == 200
                    await left.ended()
            assert (await known.ask("/api/nodes"))[0] == 200


async def test_the_end_of_the_broker_ends_its_connections() -> None:
    broker = EmbeddedBroker(management_port=0)
    await broker.start()
    async with calling(broker) as caller:
        assert (await caller.ask("/api/nodes"))[0] == 200
        await broker.stop()
        await caller.ended()


async def test_ports_and_addresses() -> None:
    async with EmbeddedBroker() as broker:
        assert broker.management_uri is None
        with pytest.raises(ConfigurationError, match="cannot listen"):
            await EmbeddedBroker(management_port=broker.port).start()
    for wrong in (-1, 65_536, "15672", True):
        with pytest.raises(ConfigurationError, match="management_port"):
            EmbeddedBroker(management_port=wrong)  # type: ignore[arg-type]


async def test_a_name_with_several_addresses_has_one_port_at_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with_two_addresses(monkeypatch)
    async with EmbeddedBroker(host="localhost", management_port=0) as broker:
        running = broker._running
        for server in (running._server, running._management_server):
            assert server is not None
            assert sorted(sock.getsockname()[0] for sock in server.sockets) == ["127.0.0.1", "127.0.0.2"]
            assert len({sock.getsockname()[1] for sock in server.sockets}) == 1
