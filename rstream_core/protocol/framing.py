"""Cuts a byte stream into frames.

A frame is ``size:u32`` and then ``size`` bytes, which begin with ``key:u16 version:u16``. The size is checked as soon
as it and the key have arrived, so that a wrong size costs no memory. Deliver and PublishConfirm frames have bounds of
their own: the negotiated frame size applies to frames of a client, while a broker's chunk, or its confirm of all
messages in flight, may be far larger.

Bytes that arrive are kept as they came as long as they begin with a frame and hold whole ones. They are gathered in a
buffer only where a frame arrives in several pieces.
"""

from __future__ import annotations

from collections.abc import Iterator

from rstream_core.errors import FrameSizeExceeded, ProtocolError

KEY_PUBLISH_CONFIRM = 0x03
KEY_DELIVER = 0x08
MAX_DELIVER_SIZE = 1024 * 1024 * 1024 + 4096
"""Bytes of the largest Deliver: a chunk of 1 GiB, which is also the Java client's bound, and the fields before it."""

_HEAD = 8  # size, key and version


class FrameBuffer:
    """Takes bytes as they arrive, and yields complete frames without their size field."""

    __slots__ = ("_data", "_pos", "max_confirm_size", "max_deliver_size", "max_frame_size")

    def __init__(self, max_frame_size: int = 0, *, max_deliver_size: int = MAX_DELIVER_SIZE) -> None:
        """Both limits are in bytes, without the size field; 0 means no limit."""
        self._data: bytes | bytearray = b""
        """What has arrived: one object that was fed, or a buffer of several."""
        self._pos = 0
        """Where the first frame begins in it that was not yielded."""
        self.max_frame_size = max_frame_size
        self.max_deliver_size = max_deliver_size
        self.max_confirm_size = max_frame_size

    def __len__(self) -> int:
        return len(self._data) - self._pos

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Takes bytes. ``bytes`` are kept without a copy, and anything else is copied."""
        held = self._data
        if len(held) == self._pos:
            self._data, self._pos = data if type(data) is bytes else bytearray(data), 0
        elif type(held) is bytearray:
            held += data
        else:
            self._data, self._pos = bytearray(memoryview(held)[self._pos :]), 0
            self._data += data

    def frames(self) -> Iterator[bytes]:
        """Yields the complete frames. Raises ``FrameSizeExceeded`` or ``ProtocolError``."""
        for data, start, end in self.spans():
            yield bytes(memoryview(data)[start:end])

    def spans(self) -> Iterator[tuple[bytes | bytearray, int, int]]:
        """As ``frames``, but yields where each frame is: data, start and end. They hold until the next one is asked
        for, and nothing may be fed before that."""
        data, pos = self._data, self._pos
        arrived = len(data)
        try:
            while arrived - pos >= 4:
                size = int.from_bytes(data[pos : pos + 4])
                if size < 4:
                    raise ProtocolError(f"a frame of {size} bytes cannot hold a key and a version")
                if arrived - pos < _HEAD:
                    break
                key = int.from_bytes(data[pos + 4 : pos + 6])
                limit = self.max_deliver_size if key == KEY_DELIVER else self._limit(key)
                if limit and size > limit:
                    raise FrameSizeExceeded(f"a frame of {size} bytes (key 0x{key:04x}) exceeds the limit of {limit}")
                start, end = pos + 4, pos + 4 + size
                if end > arrived:
                    break
                pos = end
                yield data, start, end
        finally:
            if pos == arrived:
                self._data, self._pos = b"", 0
            elif type(data) is bytearray:
                del data[:pos]
            else:
                self._pos = pos

    def _limit(self, key: int) -> int:
        return self.max_confirm_size if key == KEY_PUBLISH_CONFIRM else self.max_frame_size
