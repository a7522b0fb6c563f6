"""A client that says just what a test wants it to say, for what no well-behaved client would send.

It speaks in the frames of ``protocol.commands`` and reads whatever comes, in its order.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

import pytest

from rstream_core.protocol import commands as c
from rstream_core.protocol.framing import FrameBuffer
from tests.brokers import Broker
from tests.clients import PATIENCE


class Wire:
    """One connection. ``async with Wire(broker)`` logs in; ``await Wire(broker).connect()`` does not."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.tune = c.Tune(0, 0)
        """What the broker proposed."""
        self.server_properties: dict[str, str] = {}
        self._frames = FrameBuffer()
        self.waiting: list[c.Frame] = []
        self._next = 0

    async def __aenter__(self) -> Self:
        await self.connect()
        await self.log_in()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def connect(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(self.broker.host, self.broker.port)
        return self

    def close(self) -> None:
        self.writer.transport.abort()

    async def log_in(
        self, *, tune: c.Tune | None = None, vhost: str | None = None, versions: tuple[c.CommandVersions, ...] = ()
    ) -> c.Frame:
        """The handshake to its end; the answer to Open. Versions are exchanged only where some are given."""
        self.server_properties = dict((await self.ask(c.PeerProperties({}))).message.properties)
        await self.ask(c.SaslHandshake())
        secret = f"\0{self.broker.username}\0{self.broker.password}".encode()
        assert (await self.ask(c.SaslAuthenticate("PLAIN", secret))).code == 1
        self.tune = (await self.take(c.Tune)).message
        self.send(tune or self.tune)
        answer = await self.ask(c.Open(self.broker.vhost if vhost is None else vhost))
        if versions:
            await self.ask(c.ExchangeCommandVersions(versions))
        return answer

    def send(self, message: Any, correlation_id: int = 0, code: int = 1) -> None:
        self.send_bytes(c.encode(message, correlation_id=correlation_id, code=code))

    def send_bytes(self, data: bytes) -> None:
        self.writer.write(data)

    async def ask(self, message: Any) -> c.Frame:
        """The answer, whatever its code; what else comes before it waits for ``take``."""
        self._next += 1
        number = self._next
        self.send(message, number)
        passed: list[c.Frame] = []
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    frame = await self.next_frame()
                    # A server's own request has a correlation id too, and no bit of a response.
                    if frame.correlation_id == number and frame.key & c.RESPONSE_BIT:
                        return frame
                    passed.append(frame)
        finally:
            self.waiting[:0] = passed

    async def code(self, message: Any) -> int:
        """The code of the answer."""
        return (await self.ask(message)).code

    async def take(self, kind: type[Any]) -> c.Frame:
        """The next frame, which must hold a message of this kind. Heartbeats are passed over."""
        async with asyncio.timeout(PATIENCE):
            while True:
                frame = await self.next_frame()
                if type(frame.message) is not c.Heartbeat or kind is c.Heartbeat:
                    break
        assert type(frame.message) is kind, f"{frame} instead of {kind.__name__}"
        return frame

    async def confirmed(self, count: int) -> list[int]:
        """The next ``count`` publishing ids: a busy broker may confirm what came in one frame in several."""
        ids: list[int] = []
        while len(ids) < count:
            ids += (await self.take(c.PublishConfirm)).message.publishing_ids
        return ids

    async def find(self, kind: type[Any]) -> c.Frame:
        """The next frame of this kind; what comes before it waits for ``take``."""
        passed: list[c.Frame] = []
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    frame = await self.next_frame()
                    if type(frame.message) is kind:
                        return frame
                    passed.append(frame)
        finally:
            self.waiting[:0] = passed

    async def next_frame(self) -> c.Frame:
        """Raises ``ConnectionError`` where the connection ends."""
        while not self.waiting:
            data = await self.reader.read(1 << 16)
            if not data:
                raise ConnectionResetError("the broker closed the connection")
            self._frames.feed(data)
            for raw in self._frames.frames():
                frame = c.decode(raw)
                self.waiting.append(frame._replace(key=int.from_bytes(raw[:2])))
        return self.waiting.pop(0)

    async def ended(self) -> list[c.Frame]:
        """All frames until the broker closes the connection; that of this side is closed then too."""
        frames: list[c.Frame] = []
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    frames.append(await self.next_frame())
        except ConnectionError:
            return frames
        finally:
            self.close()


@pytest.fixture
async def wire(broker: Broker) -> AsyncIterator[Wire]:
    """Logged in."""
    async with Wire(broker) as opened:
        yield opened


@pytest.fixture
async def there(wire: Wire, stream_name: str) -> AsyncIterator[str]:
    """A stream, by a broker that ``wire`` talks to."""
    assert await wire.code(c.Create(stream_name, {})) == 1
    yield stream_name
    async with Wire(wire.broker) as other:
        await other.ask(c.Delete(stream_name))
