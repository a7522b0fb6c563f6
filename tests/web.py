"""A web server for tests of clients: each answer is what a test says, byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

Script = Callable[["Visit"], Awaitable[None]]


@dataclass
class Visit:
    """One request: its first line and its header, and where to write the answer."""

    target: str
    header: dict[str, str]
    writer: asyncio.StreamWriter
    reader: asyncio.StreamReader

    async def answer(self, body: bytes | Any, status: str = "200 OK", **header: str) -> None:
        """Writes a whole answer; what is not bytes becomes JSON. ``_`` in the name of a field stands for ``-``."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = {"content-type": "application/json", "content-length": str(len(data))}
        fields |= {name.replace("_", "-"): value for name, value in header.items()}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        await self.write(f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + data)

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def gone(self) -> None:
        """Returns when the client has closed the connection."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(1 << 16):
                pass


@dataclass
class Web:
    """What a server was asked, and over how many connections."""

    port: int = 0
    connections: int = 0
    visits: list[Visit] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a connection has ended."""


@contextlib.asynccontextmanager
async def serving(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[Web]:
    """A server on a free port of this machine, which calls ``script`` for each request."""
    web = Web()
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        web.connections += 1
        try:
            while head := await _head(reader):
                first, *lines = head.split("\r\n")
                pairs = (line.split(": ", 1) for line in lines)
                visit = Visit(first.split(" ")[1], {name.lower(): value for name, value in pairs}, writer, reader)
                web.visits.append(visit)
                await script(visit)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            web.left.set()
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    web.port = server.sockets[0].getsockname()[1]
    try:
        yield web
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _head(reader: asyncio.StreamReader) -> str:
    """The head of a request; an empty one where the client has closed the connection."""
    try:
        return (await reader.readuntil(b"\r\n\r\n")).decode().removesuffix("\r\n\r\n")
    except asyncio.IncompleteReadError:
        return ""
