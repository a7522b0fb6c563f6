"""One client's connection: commands in; answers, confirms and chunks out.

Commands are carried out on the event loop in the order in which they arrive, and answered at once; only published
messages wait for their chunk to be written. A subscription sends chunks when it begins, when it gets credit, and when
its stream has a new chunk. While a client does not read its output, the broker does not read from it, and frames that
were read already wait. So the unsent output is bounded by what one frame can ask for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import struct
from collections import deque
from collections.abc import Sequence
from typing import cast

from rstream_core.broker import refusal
from rstream_core.broker.clients import Clients
from rstream_core.broker.commands import Commands
from rstream_core.broker.delivery import Registry
from rstream_core.broker.faults import Faults
from rstream_core.broker.segment import Span
from rstream_core.broker.session import ServerSession
from rstream_core.broker.statistics import Statistics
from rstream_core.broker.streams import Streams
from rstream_core.errors import ChunkError, ProtocolError
from rstream_core.protocol import commands as c

logger = logging.getLogger("rstream_core.broker")

STEP_TIMEOUT = 10.0
"""Seconds for each step of the handshake, and for the answer to a Close."""
WRITE_BUFFER = 64 * 1024
"""Bytes that may wait behind a full socket. Above that, the broker stops reading and sending until all are sent."""

_CONFIRM = struct.Struct(">IHHBi")


class BrokerConnection(asyncio.Protocol):
    """The connection of one client. The server makes one for each."""

    def __init__(self, clients: Clients, streams: Streams, faults: Faults, statistics: Statistics) -> None:
        self._clients = clients
        self._faults = faults
        self._statistics = statistics
        self.loop = asyncio.get_running_loop()
        self.session: ServerSession
        self.transport: asyncio.Transport
        self.peer = ""
        self._is_plain = True
        """Whether data goes to the socket unencrypted, so that sendfile may be used."""
        self._is_full = False
        """Whether the write buffer is full, because the client reads too slowly."""
        self._registry = Registry()
        self._commands = Commands(streams, faults, self._registry)
        self._holds: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closing: asyncio.TimerHandle | None = None
        self._delayed: deque[bytes] = deque()
        self._opened = False
        self._unsent = 0

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's are of no such class
        self.transport = transport
        self._is_plain = transport.get_extra_info("sslcontext") is None
        transport.set_write_buffer_limits(high=WRITE_BUFFER, low=0)
        session = self._clients.admit(self)
        if session is None:
            transport.abort()
            return
        self.session = session
        self._closing = self.loop.call_later(STEP_TIMEOUT, self._give_up_login)

    def connection_lost(self, error: Exception | None) -> None:
        for timer in (self._timer, self._closing):
            if timer is not None:
                timer.cancel()
        self._registry.close_all()
        self._clients.forget(self)

    def pause_writing(self) -> None:
        self._is_full = True
        self.hold("writing")

    def resume_writing(self) -> None:
        self._is_full = False
        self.session.heard(self.loop.time())  # the client reads, so it is alive, although nothing was read from it
        self.release("writing")
        self.loop.call_soon(self._registry.pump)  # later: this may be inside a write, and received frames come first

    def data_received(self, data: bytes) -> None:
        faults = self._faults
        if self._delayed or (faults.is_armed and faults.delay_seconds):
            self._delayed.append(data)
            self.loop.call_later(faults.delay_seconds, self._take_delayed)
            return
        self._receive(data)

    def _take_delayed(self) -> None:
        if self._delayed and not self.transport.is_closing():
            self._receive(self._delayed.popleft())

    def _receive(self, data: bytes) -> None:
        self.session.feed(data, self.loop.time())
        self._handle()

    def _handle(self) -> None:
        """Handles the received frames, until the connection is held (``hold``) or none is left."""
        session = self.session
        before, expired = session.state, session.expires
        if not self._holds:
            for frame in session.frames():
                try:
                    if not session.take(frame):
                        self._commands.carry_out(self, frame)
                except ProtocolError as error:
                    logger.info("%s sent what is no command: %s", self.peer, error)
                    session.close(refusal.UNKNOWN_FRAME, "unknown frame")
                self.flush()
                if self._holds:
                    break
        if session.failure:
            logger.info("%s is turned away: %s", self.peer, session.failure)
            session.failure = ""
        self.flush()
        if session.expires is not expired and self._opened and self._timer is None:
            self._tick()  # without heartbeats, nothing else would end the session with its new token
        if not self._opened and session.state is not before:
            self._advance_handshake()

    def _advance_handshake(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        if self.session.vhost:
            self._opened = True
            self._clients.logged_in(self)
            logger.info("%s logged in as %r", self.peer, self.session.username)
            self._tick()
        else:
            self._closing = self.loop.call_later(STEP_TIMEOUT, self._give_up_login)

    def _give_up_login(self) -> None:
        self.abort(f"did not go on logging in for {STEP_TIMEOUT:.0f} s")

    def _tick(self) -> None:
        if self._faults.heartbeats_stalled:
            self.session.written(self.loop.time())
        if self._holds and not self._is_stuck():  # heartbeats cannot be missed while nothing is read
            self.session.heard(self.loop.time())
        delay = self.session.tick(self.loop.time())
        self._timer = None if delay is None else self.loop.call_later(delay, self._tick)
        if self.session.has_ended:
            self.abort(self.session.failure or "fell silent")
            return
        self.flush()

    def _is_stuck(self) -> bool:
        """Returns whether the client has read nothing since the last call, although unsent data was there.

        In that time only heartbeats can have been added to the unsent data.
        """
        before, self._unsent = self._unsent, self.transport.get_write_buffer_size()
        return "writing" in self._holds and 0 < before <= self._unsent

    # Writing.

    @property
    def is_writable(self) -> bool:
        """Whether more data may be sent."""
        return not self._is_full and not self.transport.is_closing()

    def flush(self) -> None:
        """Writes the session's output, and closes the connection if the session has ended."""
        if data := self.session.take_output():
            self._write((data,))
        ended = self.session.has_ended
        if ended:
            self.transport.close()
        if self._closing is None and (ended or self.session.is_closing):
            self._closing = self.loop.call_later(STEP_TIMEOUT, self.transport.abort)

    def _write(self, parts: Sequence[bytes | memoryview]) -> None:
        if self.transport.is_closing():
            return
        self.session.written(self.loop.time())
        faults = self._faults
        if faults.is_armed and (size := faults.cut_for(b"".join(parts))) is not None:
            self.transport.write(b"".join(parts)[:size])
            self.transport.close()
            return
        # Not writelines: on Python 3.12.0 to 3.13.1 it never calls pause_writing.
        self.transport.write(parts[0] if len(parts) == 1 else b"".join(parts))

    def delivered(self, chunks: int, size: int, parts: Sequence[bytes | memoryview], span: Span | None) -> None:
        """Sends and counts chunks of ``size`` bytes: ``parts``, and then ``span``.

        Raises ``ChunkError`` or ``OSError``.
        """
        self.flush()  # earlier answers go first
        if self.transport.is_closing():  # ``flush`` may have ended the connection
            return
        statistics = self._statistics
        statistics.delivered_chunks += chunks
        statistics.delivered_bytes += size
        if span is not None and self._faults.is_armed:  # faults need to see whole frames
            parts, span = [*parts, span.read()], None
        self._write(parts)
        if span is not None:
            self._write_span(span)

    def _write_span(self, span: Span) -> None:
        """Sends from the file with sendfile as much as the socket takes, and the rest through the transport."""
        sent = 0
        if self._is_plain and not self.transport.get_write_buffer_size():
            with contextlib.suppress(OSError):  # the socket is full, or broken, which the transport will notice
                sent = os.sendfile(
                    self.transport.get_extra_info("socket").fileno(), span.segment.fd, span.position, span.size
                )
        try:
            if sent < span.size and not self.transport.is_closing():
                self.transport.write(span.read(sent))
        except (ChunkError, OSError):
            self.transport.abort()  # in the middle of a frame, no error can be sent
            raise

    def send_confirms(self, publisher_id: int, ids: Sequence[bytes]) -> None:
        drop = False
        faults = self._faults
        if faults.is_armed:
            allowed, drop = faults.confirms_allowed(len(ids))
            ids = ids[:allowed]
        self.flush()
        if ids:
            head = _CONFIRM.pack(9 + 8 * len(ids), c.Key.PUBLISH_CONFIRM, 1, publisher_id, len(ids))
            self._statistics.confirmed += len(ids)
            self._write((head + b"".join(ids),))
        if drop:
            self.transport.close()

    def send_errors(self, publisher_id: int, ids: Sequence[bytes], code: int) -> None:
        errors = [c.MessageError(int.from_bytes(publishing_id), code) for publishing_id in ids]
        self.session.send(c.PublishError(publisher_id, errors))
        self.flush()

    def hold(self, reason: str) -> None:
        """Stops reading and handling frames until every reason is released."""
        if not self._holds and not self.transport.is_closing():
            self.transport.pause_reading()
        self._holds.add(reason)

    def release(self, reason: str) -> None:
        if reason in self._holds:
            self._holds.remove(reason)
            if not self._holds and not self.transport.is_closing():
                self.transport.resume_reading()
                self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if not self.transport.is_closing():
            self._handle()

    def abort(self, why: str) -> None:
        """Ends the connection without a Close. ``why`` is for the log."""
        logger.info("%s %s", self.peer, why)
        self.transport.abort()

    def drop_stream(self, name: str) -> None:
        """Drops the publishers and subscriptions of a stream, and sends a MetadataUpdate."""
        self._registry.close_those_of(name)
        self.session.send(c.MetadataUpdate(refusal.STREAM_NOT_AVAILABLE, name))
        self.flush()
