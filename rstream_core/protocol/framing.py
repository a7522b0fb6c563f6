"""Cuts a byte stream into frames.

A frame is ``size:u32`` and then ``size`` bytes, which begin with ``key:u16 version:u16``. The size is checked as soon
as it and the key have arrived, so that a wrong size costs no memory. Deliver and PublishConfirm frames have bounds of
their own: the negotiated frame size applies to frames of a client, while a broker's chunk, or its confirm of all
messages in flight, may be far larger.
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

    __slots__ = ("_buffer", "max_confirm_size", "max_deliver_size", "max_frame_size")

    def __init__(self, max_frame_size: int = 0, *, max_deliver_size: int = MAX_DELIVER_SIZE) -> None:
        """Both limits are in bytes, without the size field; 0 means no limit."""
        self._buffer = bytearray()
        self.max_frame_size = max_frame_size
        self.max_deliver_size = max_deliver_size
        self.max_confirm_size = max_frame_size

    def __len__(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        self._buffer += data

    def frames(self) -> Iterator[bytes]:
        """Yields the complete frames. Raises ``FrameSizeExceeded`` or ``ProtocolError``."""
        buffer = self._buffer
        pos = 0
        try:
            while len(buffer) - pos >= 4:
                size = int.from_bytes(buffer[pos : pos + 4])
                if size < 4:
                    raise ProtocolError(f"a frame of {size} bytes cannot hold a key and a version")
                if len(buffer) - pos < _HEAD:
                    break
                self._check_size(size, int.from_bytes(buffer[pos + 4 : pos + 6]))
                end = pos + 4 + size
                if end > len(buffer):
                    break
                frame = bytes(memoryview(buffer)[pos + 4 : end])
                pos = end
                yield frame
        finally:
            if pos:
                del buffer[:pos]

    def _check_size(self, size: int, key: int) -> None:
        if key == KEY_DELIVER:
            limit = self.max_deliver_size
        else:
            limit = self.max_confirm_size if key == KEY_PUBLISH_CONFIRM else self.max_frame_size
        if limit and size > limit:
            raise FrameSizeExceeded(f"a frame of {size} bytes (key 0x{key:04x}) exceeds the limit of {limit}")
