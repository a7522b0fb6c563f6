"""The HTTP server where answers are to come; tests/unit/test_broker_management.py has the rest of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus

import pytest

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
    http = HttpServer(respond, refuse, [])
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


async def test_an_answer_that_fails_is_500_and_ends_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(request: Request) -> Answer:
        raise RuntimeError("a fault")

    with caplog.at_level(logging.ERROR, "rstream_core"):
        async with serving(fail) as (_, calling), calling() as caller:
            caller.send("/")
            assert await caller.read() == (500, "Internal Server Error")
            await caller.ended()
    assert [record.getMessage() for record in caplog.records] == ["answering a request"]


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
