"""The limit: what a broker gives and takes over a socket, with as little Python around it as can be.

Nothing here is shared with ``rstream_core``. Frames to publish are encoded before the clock starts, and of
what arrives only the counts are looked at: the number of ids in a confirm, the number of records in a chunk.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable

from benchmarks.worker import CREDIT, DEADLINE, Stopwatch, Work, parse_work, report

DECLARE_PUBLISHER, PUBLISH, CONFIRM, DELETE_PUBLISHER = 1, 2, 3, 6
SUBSCRIBE, DELIVER, GIVE_CREDIT, CREATE, DELETE = 7, 8, 9, 13, 14
PEER_PROPERTIES, SASL_HANDSHAKE, SASL_AUTHENTICATE, TUNE, OPEN, CLOSE = 17, 18, 19, 20, 21, 22
OK = 1

RECEIVE = 1024 * 1024
OFFSET_FIRST, OFFSET_LAST = 1, 2
RECORDS_AT = 4 + 4 + 1 + 4
"""In a Deliver: size, key and version, subscription id; then magic, kind and the number of entries."""
FIRST_OFFSET_AT = RECORDS_AT + 4 + 8 + 8
"""After the number of records, the time and the epoch."""

_HEAD = struct.Struct(">IHH")
_U32 = struct.Struct(">I")


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack(">H", len(data)) + data


class Wire:
    """A blocking connection, logged in."""

    def __init__(self, work: Work) -> None:
        self.socket = socket.create_connection((work.host, work.port), timeout=DEADLINE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        self._correlation = 0
        self._log_in(work)

    def _log_in(self, work: Work) -> None:
        self.ask(PEER_PROPERTIES, _U32.pack(0))
        self.ask(SASL_HANDSHAKE)
        secret = f"\0{work.username}\0{work.password}".encode()
        self.ask(SASL_AUTHENTICATE, text("PLAIN") + _U32.pack(len(secret)) + secret)
        key, tune = self._next_frame()
        if key != TUNE:
            raise RuntimeError(f"the broker sent command {key} instead of Tune")
        self.notify(TUNE, tune[:8])
        self.ask(OPEN, text(work.vhost))

    def notify(self, key: int, content: bytes = b"") -> None:
        self.socket.sendall(_HEAD.pack(4 + len(content), key, 1) + content)

    def ask(self, key: int, content: bytes = b"", accept: tuple[int, ...] = (OK,)) -> None:
        """Sends a request; raises unless the next frame is its answer, with an accepted code."""
        self._correlation += 1
        self.notify(key, _U32.pack(self._correlation) + content)
        got, answer = self._next_frame()
        code = struct.unpack_from(">H", answer, 4)[0] if len(answer) >= 6 else 0
        if got != key | 0x8000 or code not in accept:
            raise RuntimeError(f"the broker answered command {key} with command {got:#x}, code {code}")

    def _next_frame(self) -> tuple[int, bytes]:
        buffer = self._buffer
        while len(buffer) < 4 or len(buffer) < 4 + _U32.unpack_from(buffer)[0]:
            data = self.socket.recv(65536)
            if not data:
                raise RuntimeError("the broker closed the connection")
            buffer += data
        size, key, _ = _HEAD.unpack_from(buffer)
        content = bytes(buffer[8 : 4 + size])
        del buffer[: 4 + size]
        return key, content

    def take_frames(self, on_frame: Callable[[int, memoryview], bool]) -> None:
        """Calls ``on_frame(key, frame)``, the frame with its size, for all that arrives until it returns True."""
        store = bytearray(4 * RECEIVE)
        store[: len(self._buffer)] = self._buffer
        start, stop = 0, len(self._buffer)
        view = memoryview(store)
        while True:
            while stop - start >= 8:
                size, key, _ = _HEAD.unpack_from(store, start)
                end = start + 4 + size
                if end > stop:
                    if 4 + size > len(store):
                        raise RuntimeError(f"a frame of {size} bytes is more than a benchmark's chunk should be")
                    break
                if on_frame(key, view[start:end]):
                    return
                start = end
            if len(store) - stop < RECEIVE:
                store[: stop - start] = store[start:stop]
                start, stop = 0, stop - start
            received = self.socket.recv_into(view[stop:])
            if not received:
                raise RuntimeError("the broker closed the connection")
            stop += received

    def close(self) -> None:
        try:
            self.notify(CLOSE, struct.pack(">IH", self._correlation + 1, OK) + text("OK"))
        finally:
            self.socket.close()


def encode_frames(work: Work) -> list[bytes]:
    """Every Publish frame of the task, as publisher 0."""
    head = b"\x00\x53\x75"
    frames: list[bytes] = []
    next_id = 1
    for bodies in work.batches():
        parts: list[bytes] = []
        for publishing_id, body in enumerate(bodies, next_id):
            sized = b"\xa0" + bytes([len(body)]) if len(body) < 256 else b"\xb0" + _U32.pack(len(body))
            message = head + sized + body
            parts += (struct.pack(">QI", publishing_id, len(message)), message)
        next_id += len(bodies)
        entries = b"".join(parts)
        frames.append(_HEAD.pack(9 + len(entries), PUBLISH, 1) + struct.pack(">BI", 0, len(bodies)) + entries)
    return frames


def publish(work: Work) -> tuple[int, Stopwatch]:
    """Writes in one thread, counts confirms in another. The broker alone holds it back."""
    frames = encode_frames(work)
    wire = Wire(work)
    wire.ask(DECLARE_PUBLISHER, b"\0" + text("") + text(work.stream))
    confirmed = 0

    def on_frame(key: int, frame: memoryview) -> bool:
        nonlocal confirmed
        if key == CONFIRM:
            confirmed += _U32.unpack_from(frame, 9)[0]
        elif key == CLOSE:
            raise RuntimeError("the broker ended the connection")
        return confirmed >= work.messages

    def write() -> None:
        for frame in frames:
            wire.socket.sendall(frame)

    stopwatch = Stopwatch()
    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    wire.take_frames(on_frame)
    stopwatch.stop()
    writer.join()
    wire.close()
    return confirmed, stopwatch


def consume(work: Work) -> tuple[int, Stopwatch]:
    """Subscribes to a stream that is full already, and counts the records that the chunks' headers tell of."""
    wire = Wire(work)
    consumed = 0
    credit = _HEAD.pack(7, GIVE_CREDIT, 1) + struct.pack(">BH", 0, 1)

    def on_frame(key: int, frame: memoryview) -> bool:
        nonlocal consumed
        if key == DELIVER:
            wire.socket.sendall(credit)
            consumed += _U32.unpack_from(frame, RECORDS_AT)[0]
        elif key == CLOSE:
            raise RuntimeError("the broker ended the connection")
        return consumed >= work.messages

    stopwatch = Stopwatch()
    wire.notify(SUBSCRIBE, subscription(work.stream, OFFSET_FIRST, CREDIT))
    wire.take_frames(on_frame)
    stopwatch.stop()
    wire.close()
    return consumed, stopwatch


def count(work: Work) -> tuple[int, Stopwatch]:
    """How many messages a stream holds that had nothing but messages: its last chunk tells."""
    wire = Wire(work)
    held = 0

    def on_frame(key: int, frame: memoryview) -> bool:
        nonlocal held
        if key == DELIVER:
            (first_offset,) = struct.unpack_from(">Q", frame, FIRST_OFFSET_AT)
            held = first_offset + _U32.unpack_from(frame, RECORDS_AT)[0]
        return key == DELIVER

    stopwatch = Stopwatch()
    wire.notify(SUBSCRIBE, subscription(work.stream, OFFSET_LAST, 1))
    wire.take_frames(on_frame)
    wire.close()
    return held, stopwatch


def subscription(stream: str, offset_type: int, credit: int) -> bytes:
    """What a Subscribe holds, correlation id and all."""
    return struct.pack(">IB", 0xFFFF, 0) + text(stream) + struct.pack(">HHI", offset_type, credit, 0)


def create(work: Work) -> tuple[int, Stopwatch]:
    """Makes the stream anew."""
    wire = Wire(work)
    stopwatch = Stopwatch()
    wire.ask(CREATE, text(work.stream) + _U32.pack(0))
    wire.close()
    return 0, stopwatch


def delete(work: Work) -> tuple[int, Stopwatch]:
    """Takes the stream away."""
    wire = Wire(work)
    stopwatch = Stopwatch()
    wire.ask(DELETE, text(work.stream))
    wire.close()
    return 0, stopwatch


TASKS = {"publish": publish, "consume": consume, "create": create, "delete": delete, "count": count}


def main() -> None:
    work = parse_work(tuple(TASKS))
    report(*TASKS[work.task](work))


if __name__ == "__main__":
    main()
