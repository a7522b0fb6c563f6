"""The limit: what a broker gives and takes over a socket, with as little Python around it as can be.

Nothing here is shared with ``rstream_core``. Frames to publish are encoded before the clock starts, and sent again and
again with the same ids, which mean nothing to a broker without a publisher's name; of what arrives only the counts are
looked at: the number of ids in a confirm, the number of records in a chunk.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

from benchmarks.worker import CREDIT, DEADLINE, RoundTrips, Stopwatch, Work, make_bodies, parse_work, report

DECLARE_PUBLISHER, PUBLISH, CONFIRM, DELETE_PUBLISHER = 1, 2, 3, 6
SUBSCRIBE, DELIVER, GIVE_CREDIT, CREATE, DELETE = 7, 8, 9, 13, 14
PEER_PROPERTIES, SASL_HANDSHAKE, SASL_AUTHENTICATE, TUNE, OPEN, CLOSE = 17, 18, 19, 20, 21, 22
STREAM_STATS, CREATE_SUPER_STREAM, DELETE_SUPER_STREAM = 28, 29, 30
OK, NO_STREAM = 1, 2

RECEIVE = 1024 * 1024
LARGEST = 128 * 1024 * 1024
"""Bytes of a frame."""
OFFSET_FIRST, OFFSET_LAST = 1, 2
RECORDS_AT = 4 + 4 + 1 + 4
"""In a Deliver: size, key and version, subscription id; then magic, kind and the number of entries."""
FIRST_OFFSET_AT = RECORDS_AT + 4 + 8 + 8
"""After the number of records, the time and the epoch."""

EMPTY = struct.pack(">H13sq", 13, b"last_chunk_id", -1)
"""In the statistics of a stream that has no chunk."""

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

    def ask(self, key: int, content: bytes = b"", accept: tuple[int, ...] = (OK,)) -> bytes:
        """Sends a request; raises unless the next frame is its answer, with an accepted code. Returns what follows."""
        self._correlation += 1
        self.notify(key, _U32.pack(self._correlation) + content)
        got, answer = self._next_frame()
        code = struct.unpack_from(">H", answer, 4)[0] if len(answer) >= 6 else 0
        if got != key | 0x8000 or code not in accept:
            raise RuntimeError(f"the broker answered command {key} with command {got:#x}, code {code}")
        return answer[6:]

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
        next(self.taking_frames(on_frame))

    def taking_frames(self, on_frame: Callable[[int, memoryview], bool]) -> Iterator[None]:
        """As ``take_frames``, as often as it is asked to go on."""
        store = bytearray(4 * RECEIVE)
        store[: len(self._buffer)] = self._buffer
        start, stop = 0, len(self._buffer)
        view = memoryview(store)
        while True:
            while stop - start >= 8:
                size, key, _ = _HEAD.unpack_from(store, start)
                end = start + 4 + size
                if end > stop:
                    if 4 + size > LARGEST:
                        raise RuntimeError(f"a frame of {size} bytes is more than a benchmark's chunk should be")
                    break
                is_done = on_frame(key, view[start:end])
                start = end
                if is_done:
                    yield
            if len(store) - stop < RECEIVE:
                kept = stop - start
                if len(store) - kept < RECEIVE:  # a large frame
                    larger = bytearray(2 * len(store))
                    larger[:kept] = view[start:stop]
                    store, view = larger, memoryview(larger)
                else:
                    store[:kept] = store[start:stop]
                start, stop = 0, kept
            received = self.socket.recv_into(view[stop:])
            if not received:
                raise RuntimeError("the broker closed the connection")
            stop += received

    def close(self) -> None:
        try:
            self.notify(CLOSE, struct.pack(">IH", self._correlation + 1, OK) + text("OK"))
        finally:
            self.socket.close()


def encode_frame(bodies: list[bytes], publisher: int) -> bytes:
    """A Publish frame, with ids from 1 on."""
    head = b"\x00\x53\x75"
    parts: list[bytes] = []
    for publishing_id, body in enumerate(bodies, 1):
        sized = b"\xa0" + bytes([len(body)]) if len(body) < 256 else b"\xb0" + _U32.pack(len(body))
        message = head + sized + body
        parts += (struct.pack(">QI", publishing_id, len(message)), message)
    entries = b"".join(parts)
    return _HEAD.pack(9 + len(entries), PUBLISH, 1) + struct.pack(">BI", publisher, len(bodies)) + entries


def frames_of(work: Work, batch: int) -> Iterator[tuple[int, bytes]]:
    """Every Publish frame of the task, with the number of its messages. The streams take turns."""
    count = len(work.names)
    whole = [encode_frame(make_bodies(work.size, batch), publisher) for publisher in range(count)]
    for at in range(work.messages // batch):
        yield batch, whole[at % count]
    if rest := work.messages % batch:
        publisher = work.messages // batch % count
        yield rest, encode_frame(make_bodies(work.size, rest), publisher)


def declared(work: Work) -> Wire:
    """A connection with a publisher for each stream."""
    wire = Wire(work)
    for publisher, name in enumerate(work.names):
        wire.ask(DECLARE_PUBLISHER, bytes([publisher]) + text("") + text(name))
    return wire


def fitting(work: Work) -> int:
    """How many messages go into a frame: a batch, or fewer where that would be more than the broker takes."""
    return max(min(work.batch, 1_000_000 // (work.size + 22)), 1)


def publish(work: Work) -> tuple[int, Stopwatch]:
    """Writes in one thread, counts confirms in another. The broker alone holds it back."""
    wire = declared(work)
    frames = frames_of(work, fitting(work))
    first = next(frames, None)  # encodes them
    confirmed = 0

    def on_frame(key: int, frame: memoryview) -> bool:
        nonlocal confirmed
        if key == CONFIRM:
            confirmed += _U32.unpack_from(frame, 9)[0]
        elif key == CLOSE:
            raise RuntimeError("the broker ended the connection")
        return confirmed >= work.messages

    def write() -> None:
        if first is not None:
            wire.socket.sendall(first[1])
        for _, frame in frames:
            wire.socket.sendall(frame)

    stopwatch = Stopwatch()
    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    if work.messages:
        wire.take_frames(on_frame)
    stopwatch.stop()
    writer.join()
    wire.close()
    return confirmed, stopwatch


def chunks(work: Work) -> tuple[int, Stopwatch]:
    """Publishes frame by frame, and waits for the confirms of each: RabbitMQ makes one chunk of it."""
    return one_by_one(work, work.batch)


def round_trip(work: Work) -> tuple[int, Stopwatch]:
    """Publishes message by message, and waits for each confirm."""
    return one_by_one(work, 1)


def one_by_one(work: Work, batch: int) -> tuple[int, RoundTrips]:
    wire = declared(work)
    confirmed = 0
    wanted = 0

    def on_frame(key: int, frame: memoryview) -> bool:
        nonlocal confirmed
        if key == CONFIRM:
            confirmed += _U32.unpack_from(frame, 9)[0]
        elif key == CLOSE:
            raise RuntimeError("the broker ended the connection")
        return confirmed >= wanted

    taking = wire.taking_frames(on_frame)
    stopwatch = RoundTrips()
    for size, frame in frames_of(work, batch):
        wanted += size
        began = time.perf_counter()
        wire.socket.sendall(frame)
        next(taking)
        stopwatch.times.append(time.perf_counter() - began)
    stopwatch.stop()
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
    """How many messages streams hold that had nothing but messages: their last chunks tell."""
    stopwatch = Stopwatch()
    return sum(held(work, name) for name in work.names), stopwatch


def held(work: Work, name: str) -> int:
    wire = Wire(work)
    if EMPTY in wire.ask(STREAM_STATS, text(name)):
        wire.close()
        return 0
    found = 0

    def on_frame(key: int, frame: memoryview) -> bool:
        nonlocal found
        if key == DELIVER:
            (first_offset,) = struct.unpack_from(">Q", frame, FIRST_OFFSET_AT)
            found = first_offset + _U32.unpack_from(frame, RECORDS_AT)[0]
        return key == DELIVER

    wire.notify(SUBSCRIBE, subscription(name, OFFSET_LAST, 1))
    wire.take_frames(on_frame)
    wire.close()
    return found


def subscription(stream: str, offset_type: int, credit: int) -> bytes:
    """What a Subscribe holds, correlation id and all."""
    return struct.pack(">IB", 0xFFFF, 0) + text(stream) + struct.pack(">HHI", offset_type, credit, 0)


def create(work: Work) -> tuple[int, Stopwatch]:
    """Makes the streams, or the super stream, anew."""
    stopwatch = Stopwatch()
    wire = Wire(work)
    if work.partitions:
        keys = b"".join(text(str(at)) for at in range(work.partitions))
        count = _U32.pack(work.partitions)
        names = b"".join(map(text, work.names))
        wire.ask(CREATE_SUPER_STREAM, text(work.stream) + count + names + count + keys + _U32.pack(0))
    else:
        for name in work.names:
            wire.ask(CREATE, text(name) + _U32.pack(0))
    wire.close()
    return 0, stopwatch


def delete(work: Work) -> tuple[int, Stopwatch]:
    """Takes them away, as far as they are there."""
    stopwatch = Stopwatch()
    wire = Wire(work)
    if work.partitions:
        wire.ask(DELETE_SUPER_STREAM, text(work.stream), accept=(OK, NO_STREAM))
    else:
        for name in work.names:
            wire.ask(DELETE, text(name), accept=(OK, NO_STREAM))
    wire.close()
    return 0, stopwatch


TASKS = {
    "publish": publish,
    "chunks": chunks,
    "round_trip": round_trip,
    "consume": consume,
    "create": create,
    "delete": delete,
    "count": count,
}


def main() -> None:
    work = parse_work(tuple(TASKS))
    report(*TASKS[work.task](work))


if __name__ == "__main__":
    main()
