"""The HTTP server where answers are to come; tests/unit/test_broker_management.py has the rest of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus

import pytest

from rstream_core import http_server
from rstream_core.http_server import Answer, HttpServer, Request, Respond
from tests.clients import PATIENCE

Calling = Callable[[], contextlib.AbstractAsyncContextManager["Caller"]]


def text(status: HTTPStatus, words: str) -> Answer:
    return Answer(status, words.encode(), "text/plain")


def refuse(status: HTTPStatus) -> Answer:
    return text(status, status.phrase)


@contextlib.asynccontextmanager
async def serving(
    respond: Respond,
) -> AsyncIterator[tuple[HttpServer, Callable[[], contextlib.AbstractAsyncContextManager[Caller]]]]:
    http = HttpServer(respond, refuse, [], has_logins=False)
    server = await asyncio.get_running_loop().create_server(http.connection, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    @contextlib.asynccontextmanager
    async def calling() -> AsyncIterator[Caller]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield Caller(reader, writer)
        finally:
            writer.transport.abort()

    try:
        yield http, calling
    finally:
        server.close()
        http.close()


class Caller:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, target: str, *, verb: str = "GET") -> None:
        self.writer.write(f"{verb} {target} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())

    async def read(self, *, body: bool = True) -> tuple[int, str]:
        async with asyncio.timeout(PATIENCE):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            length = int(head.partition("content-length: ")[2].split("\r\n")[0])
            return int(head.split()[1]), (await self.reader.readexactly(length)).decode() if body else ""

    async def ended(self) -> None:
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionError):
                while await self.reader.read(1 << 16):
                    pass


async def test_answers_that_are_to_come_keep_their_order_and_hold_nobody_else_up() -> None:
    may_go = asyncio.Event()

    async def later(request: Request) -> Answer:
        await may_go.wait()
        return text(HTTPStatus.OK, request.target)

    def respond(request: Request) -> object:
        return text(HTTPStatus.OK, request.target) if request.target.startswith("/now") else later(request)

    async with serving(respond) as (_, calling), calling() as one, calling() as other:  # type: ignore[arg-type]
        for target in ("/now/1", "/later/2", "/now/3"):
            one.send(target)
        one.send("/later/4", verb="HEAD")
        one.send("/now/5")
        assert await one.read() == (200, "/now/1")
        other.send("/now")
        assert await other.read() == (200, "/now")
        may_go.set()
        assert [await one.read() for _ in range(2)] == [(200, "/later/2"), (200, "/now/3")]
        assert await one.read(body=False) == (200, "")
        assert await one.read() == (200, "/now/5")


async def _fail_later(request: Request) -> Answer:
    raise RuntimeError("a fault")


def _fail_at_once(request: Request) -> Answer:
    raise RuntimeError("a fault")


@pytest.mark.parametrize("fail", [_fail_at_once, _fail_later])
async def test_an_answer_that_fails_is_500_and_ends_the_connection(
    caplog: pytest.LogCaptureFixture, fail: Respond
) -> None:
    with caplog.at_level(logging.ERROR, "rstream_core"):
        async with serving(fail) as (http, calling), calling() as caller:
            caller.send("/")
            assert await caller.read() == (500, "Internal Server Error")
            await caller.ended()
            assert not http.connections
    assert [record.getMessage() for record in caplog.records] == ["answering a request"]


@pytest.mark.parametrize("fail", [_fail_at_once, _fail_later])
async def test_no_refusal_of_head_has_a_body(fail: Respond) -> None:
    async with serving(fail) as (_, calling):
        for request, status in (
            (b"HEAD / HTTP/1.1\r\nhost: localhost\r\n\r\n", b"500"),
            (b"HEAD / HTTP/1.1\r\nhost: localhost\r\norigin: null\r\n\r\n", b"403"),
            (b"HEAD / HTTP/1.1\r\n\r\n", b"400"),
            (b"HEAD /" + b"a" * http_server.MAX_HEAD, b"431"),
        ):
            async with calling() as caller, asyncio.timeout(PATIENCE):
                caller.writer.write(request)
                answer = await caller.reader.readuntil(b"\r\n\r\n")
                assert answer.split()[1] == status
                assert b"\r\ncontent-length: 0\r\n" not in answer
                assert await caller.reader.read() == b""


def echo(request: Request) -> Answer:
    return text(HTTPStatus.OK, request.target)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET / HTTP/1.0\r\n", 200),
        ("GET / HTTP/1.0\r\nhost: localhost\r\n", 200),
        ("GET / HTTP/1.1\r\nhost:\r\n", 200),
        ("GET / HTTP/1.1\r\nhost: localhost\r\naccept: a\r\naccept: b\r\n", 200),
        ("GET / HTTP/1.1\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: localhost\r\nHost: localhost\r\n", 400),
        ("GET / HTTP/1.0\r\nhost: evil.example\r\nhost: localhost\r\n", 400),
        ("GET / HTTP/1.1\r\nhost : localhost\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ncontent-length: 0\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length : 5\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: localhost\r\nno field\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: localhost\r\n: no name\r\n", 400),
    ],
)
async def test_which_fields_a_request_has(head: str, status: int) -> None:
    async with serving(echo) as (_, calling), calling() as caller:
        caller.writer.write(f"{head}\r\n".encode())
        assert (await caller.read())[0] == status


@pytest.mark.parametrize("option", ["close", "Close", "keep-alive, close", "x,close"])
async def test_who_wants_no_more_is_closed(option: str) -> None:
    async with serving(echo) as (_, calling), calling() as caller:
        caller.writer.write(f"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: {option}\r\n\r\n".encode())
        assert (await caller.read())[0] == 200
        await caller.ended()


async def test_a_part_of_a_request_behind_another_one_is_to_be_whole_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "REQUEST_TIMEOUT", 0.1)
    monkeypatch.setattr(http_server, "IDLE_TIMEOUT", 2 * PATIENCE)
    async with serving(echo) as (_, calling), calling() as caller:
        caller.writer.write(b"GET /1 HTTP/1.1\r\nhost: localhost\r\n\r\nGET /2 HTTP/1.1\r\n")
        assert await caller.read() == (200, "/1")
        await caller.ended()


async def test_without_logins_who_is_idle_longest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks now and then holds no place for ever; whoever waits for an answer keeps it."""
    monkeypatch.setattr(http_server, "MAX_HTTP_CONNECTIONS", 3)
    may_go = asyncio.Event()

    async def later(request: Request) -> Answer:
        await may_go.wait()
        return text(HTTPStatus.OK, request.target)

    def respond(request: Request) -> object:
        return later(request) if request.target == "/later" else echo(request)

    async with (
        serving(respond) as (http, calling),  # type: ignore[arg-type]
        calling() as waiting,
        calling() as one,
        calling() as two,
    ):
        for caller in (waiting, one, two, one):
            caller.send("/")
            assert (await caller.read())[0] == 200
        waiting.send("/later")
        two.send("/")
        assert (await two.read())[0] == 200
        async with calling() as new:
            await one.ended()
            new.send("/later")
            async with calling() as newer:
                await two.ended()
                newer.send("/later")
                async with asyncio.timeout(PATIENCE):
                    while sum(not each.may_be_evicted for each in http.connections) < 3:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                async with calling() as refused:
                    await refused.ended()
                may_go.set()
                for caller in (waiting, new, newer):
                    assert await caller.read() == (200, "/later")


async def test_the_end_of_the_server_cancels_what_is_to_come() -> None:
    state: list[str] = []

    async def never(request: Request) -> Answer:
        state.append("asked")
        try:
            await asyncio.Event().wait()
        finally:
            state.append("cancelled")
        raise AssertionError

    async with serving(never) as (http, calling), calling() as caller:
        caller.send("/")
        async with asyncio.timeout(PATIENCE):
            while not state:  # noqa: ASYNC110 - the other end of the connection
                await asyncio.sleep(0.01)
        http.close()
        await caller.ended()
        await asyncio.sleep(0)
        assert state == ["asked", "cancelled"]
        assert not http.connections
