"""A peer that can say anything: it serves the stream protocol as a broker would, but for what a test has it say.

It runs in a thread of its own, so that a command line in another process can talk to it. It has one stream, or super
stream, of whatever name it is asked for, with one message.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from rstream_core import AMQPMessage
from rstream_core.protocol import commands as c
from rstream_core.protocol.chunk import build_chunk
from rstream_core.protocol.framing import FrameBuffer

Speak = Callable[["Peer", Any, int], bytes]
"""A function of the peer, the request, and its correlation id."""
Say = bytes | Speak
"""What to say to a request."""


def answer(message: Any, code: int = 1) -> Speak:
    """An answer of this code; the fields are those of the message."""
    return lambda _peer, _request, number: c.encode(message, correlation_id=number, code=code)


def refuse(request: type[Any], code: int) -> Speak:
    """An answer that is a code and nothing more."""
    return lambda _peer, _request, number: c.encode_error(request, correlation_id=number, code=code)


def chunk(*bodies: bytes, offset: int = 0) -> bytes:
    """A chunk of AMQP messages with these bodies."""
    messages = [AMQPMessage(body).encode() for body in bodies]
    return build_chunk(messages, first_offset=offset, timestamp=1_700_000_000_000)


class Peer:
    """Listens on loopback while it is entered."""

    def __init__(self, says: Mapping[type[Any], Say] | None = None, *, host: str | None = None) -> None:
        """``says``: what it says to a kind of request, in the place of a broker's answer.

        ``host``: how it calls itself.
        """
        self._says: dict[type[Any], Say] = {**_ANSWERS, **(says or {})}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.host = host or "127.0.0.1"
        self._connections: list[socket.socket] = []
        self._lock = threading.Lock()
        self.stored: int | None = None

    @property
    def endpoint(self) -> str:
        """Where it listens, as errors are to name it."""
        return f"127.0.0.1:{self.port}"

    @property
    def uri(self) -> str:
        return f"rabbitmq-stream://guest:guest@{self.endpoint}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            for connection in self._connections:
                connection.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._connections.append(connection)
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        buffer = FrameBuffer()
        try:
            while data := connection.recv(65536):
                buffer.feed(data)
                for raw in buffer.frames():
                    frame = c.decode(raw)
                    said = self._says.get(type(frame.message), b"")
                    if callable(said):
                        said = said(self, frame.message, frame.correlation_id or 0)
                    connection.sendall(said)
        except OSError:
            pass  # the other side has had enough


def deliver(*chunks: bytes) -> Speak:
    """Takes a subscription, and delivers these."""

    def say(_peer: Peer, request: c.Subscribe, number: int) -> bytes:
        frames = [c.encode(c.SubscribeResponse(), correlation_id=number)]
        frames += [c.encode(c.DeliverCommitted(request.subscription_id, 0, data)) for data in chunks]
        return b"".join(frames)

    return say


def then(first: Speak, said: bytes) -> Speak:
    """Says something behind what is said first."""

    def say(peer: Peer, request: Any, number: int) -> bytes:
        return first(peer, request, number) + said

    return say


def _remember(peer: Peer, request: c.StoreOffset, _number: int) -> bytes:
    peer.stored = request.offset
    return b""


def remembered(peer: Peer, request: c.QueryOffset, number: int) -> bytes:
    """The offset that was stored last; that there is none, before."""
    if peer.stored is None:
        return refuse(c.QueryOffset, 19)(peer, request, number)
    return answer(c.QueryOffsetResponse(peer.stored))(peer, request, number)


def _own_metadata(peer: Peer, request: c.Metadata, number: int) -> bytes:
    return metadata(peer.host, peer.port)(peer, request, number)


def metadata(host: str, port: int, *, code: int = 1) -> Callable[[Peer, Any, int], bytes]:
    """Every stream has its leader, and a replica, there."""

    def say(_peer: Peer, request: c.Metadata, number: int) -> bytes:
        brokers = (c.BrokerAddress(0, host, port),)
        locations = tuple(c.StreamLocation(stream, code, 0, (0,)) for stream in request.streams)
        return c.encode(c.MetadataResponse(brokers, locations), correlation_id=number)

    return say


def _tune(_peer: Peer, _request: Any, number: int) -> bytes:
    return c.encode(c.SaslAuthenticateResponse(None), correlation_id=number) + c.encode(c.Tune(1048576, 60))


def _open(peer: Peer, _request: Any, number: int) -> bytes:
    properties = {"advertised_host": peer.host, "advertised_port": str(peer.port)}
    return c.encode(c.OpenResponse(properties), correlation_id=number)


def _confirm(_peer: Peer, request: c.Publish | c.PublishFiltered, _number: int) -> bytes:
    ids = tuple(entry.publishing_id for entry in request.entries)
    return c.encode(c.PublishConfirm(request.publisher_id, ids))


_ANSWERS: dict[type[Any], Say] = {
    c.PeerProperties: answer(c.PeerPropertiesResponse({"product": "RabbitMQ", "version": "4.3.6"})),
    c.SaslHandshake: answer(c.SaslHandshakeResponse(("PLAIN",))),
    c.SaslAuthenticate: _tune,
    c.Open: _open,
    c.ExchangeCommandVersions: answer(c.ExchangeCommandVersionsResponse(c.supported_versions())),
    c.Metadata: _own_metadata,
    c.StreamStats: answer(c.StreamStatsResponse({"first_chunk_id": 0, "committed_chunk_id": 0})),
    c.Subscribe: deliver(chunk(b"hello")),
    c.Unsubscribe: answer(c.UnsubscribeResponse()),
    c.ResolveOffsetSpec: answer(c.ResolveOffsetSpecResponse(c.OffsetSpec(4, 0))),
    c.QueryOffset: answer(c.QueryOffsetResponse(0)),
    c.StoreOffset: _remember,
    c.DeclarePublisher: answer(c.DeclarePublisherResponse()),
    c.QueryPublisherSequence: answer(c.QueryPublisherSequenceResponse(0)),
    c.Publish: _confirm,
    c.PublishFiltered: _confirm,
    c.DeletePublisher: answer(c.DeletePublisherResponse()),
    c.Create: answer(c.CreateResponse()),
    c.Delete: answer(c.DeleteResponse()),
    c.CreateSuperStream: answer(c.CreateSuperStreamResponse()),
    c.DeleteSuperStream: answer(c.DeleteSuperStreamResponse()),
    c.Partitions: answer(c.PartitionsResponse(("p-0", "p-1"))),
    c.Route: answer(c.RouteResponse(("p-0",))),
    c.Close: answer(c.CloseResponse()),
}
