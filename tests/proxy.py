"""A TCP proxy on loopback that a test can cut, stall, and put words into the mouth of.

A client reaches its broker through it in load balancer mode: the broker advertises itself, and not the proxy.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from rstream_core import ConnectionOptions, Endpoint
from tests.brokers import Broker
from tests.clients import options_for


class Proxy:
    """Forwards to ``target``. One event for each direction says whether bytes may pass."""

    def __init__(self, target: Endpoint, host: str = "127.0.0.1") -> None:
        self._target = target
        self._host = host
        self._writers: list[asyncio.StreamWriter] = []
        self._to_clients: list[asyncio.StreamWriter] = []
        self._to_brokers: list[asyncio.StreamWriter] = []
        self._half_closed: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._place: socket.socket | None = None
        """Holds the port, so that nobody else gets it while no connections are taken."""
        self.client_may_speak = asyncio.Event()
        self.broker_may_speak = asyncio.Event()
        self.from_client = 0
        """Bytes that the clients sent and that were passed on."""
        self.cut_at: int | None = None
        """Cut everything once so many bytes came from the clients."""
        self.from_broker = 0
        """Bytes that the broker sent and that were passed on."""
        self.cut_broker_at: int | None = None
        """Cut everything once so many bytes came from the broker."""
        self.after_cut: Callable[[], None] | None = None
        """Called at once after such a cut, to order the next one before anything more can pass."""
        self.cuts_in_half = False
        """Whether such a cut only says, towards the other side, that nothing more comes."""
        self.piece = 65536
        """Bytes that are passed on at a time."""
        self.delay = 0.0
        """Seconds that each piece is held back."""
        self.accepted = 0
        """Connections that were taken."""
        self.turn_away = 0
        """How many of the next connections to end at once."""
        self.endpoint = target

    async def __aenter__(self) -> Self:
        self.resume()
        place = socket.socket(socket.AF_INET6 if ":" in self._host else socket.AF_INET)
        try:
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            place.bind((self._host, 0))
        except OSError:
            place.close()
            raise
        self._place = place
        self.endpoint = Endpoint(self._host, place.getsockname()[1])
        await self.accept_again()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refuse()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self.cut()  # what a task was about to write
        if self._place is not None:
            self._place.close()

    def resume(self) -> None:
        self.client_may_speak.set()
        self.broker_may_speak.set()

    def stall(self) -> None:
        """Nothing passes any more, and nobody is told."""
        self.client_may_speak.clear()
        self.broker_may_speak.clear()

    def stall_those_there(self) -> asyncio.Event:
        """Nothing passes any more from the clients that are connected now, until the event is set."""
        gate = self.client_may_speak
        gate.clear()
        self.client_may_speak = asyncio.Event()
        self.client_may_speak.set()
        return gate

    def cut(self) -> None:
        """Resets every connection, in both directions."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
        self._to_clients.clear()
        self._to_brokers.clear()

    def half_close(self, *, client: bool) -> None:
        """Says, as if the clients or as if the broker did, that nothing more comes; the other direction stays open."""
        for writer in self._to_brokers if client else self._to_clients:
            self._end_of(writer)

    def _end_of(self, writer: asyncio.StreamWriter) -> None:
        self._half_closed.add(writer)
        if not writer.is_closing():  # uvloop's transport raises then
            writer.write_eof()

    def refuse(self) -> None:
        """Takes no new connections."""
        if self._server is not None:
            self._server.close()

    async def accept_again(self) -> None:
        """Takes connections after ``refuse``, on the same port."""
        self._server = await asyncio.start_server(self._accept, self._host, self.endpoint.port, reuse_port=True)

    def say(self, data: bytes) -> None:
        """Sends this to every client, as if the broker did."""
        for writer in self._to_clients:
            writer.write(data)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.accepted += 1
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.turn_away or not (self._server and self._server.is_serving()):
            self.turn_away = max(0, self.turn_away - 1)
            writer.transport.abort()
            return
        self._writers.append(writer)
        try:
            broker_reader, broker_writer = await asyncio.open_connection(self._target.host, self._target.port)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
            return
        self._writers.append(broker_writer)
        self._to_clients.append(writer)
        self._to_brokers.append(broker_writer)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(
                self._carry(reader, broker_writer, self.client_may_speak, client=True),
                self._carry(broker_reader, writer, self.broker_may_speak, client=False),
            )

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event, *, client: bool
    ) -> None:
        try:
            while True:
                await gate.wait()
                data = await reader.read(self.piece)
                await gate.wait()
                if self.delay:
                    await asyncio.sleep(self.delay)
                if not data:
                    break
                if writer in self._half_closed:
                    continue
                limit = self.cut_at if client else self.cut_broker_at
                passed = self.from_client if client else self.from_broker
                if limit is not None and passed + len(data) > limit:
                    self.cut_at = self.cut_broker_at = None
                    if self.after_cut is not None:
                        self.after_cut()
                    writer.write(data[: limit - passed])
                    await writer.drain()
                    if self.cuts_in_half:
                        self._end_of(writer)
                        continue
                    self.cut()
                    break
                if client:
                    self.from_client += len(data)
                else:
                    self.from_broker += len(data)
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


def options_through(proxy: Proxy, broker: Broker, **changes: Any) -> ConnectionOptions:
    return options_for(broker, endpoints=(proxy.endpoint,), load_balancer_mode=True, **changes)
