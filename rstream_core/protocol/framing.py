"""Cuts a byte stream into frames.

A frame is ``size:u32`` and then ``size`` bytes, which begin with ``key:u16 version:u16``. The size is checked as soon
as it and the key have arrived, so that a wrong size costs no memory. Deliver and PublishConfirm frames have bounds of
their own: the negotiated frame size applies to frames of a client, while a broker's chunk, or its confirm of all
messages in flight, may be far larger.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator

from rstream_core.errors import FrameSizeExceeded, ProtocolError

KEY_PUBLISH_CONFIRM = 0x03
KEY_DELIVER = 0x08
MAX_DELIVER_SIZE = 1024 * 1024 * 1024 + 4096
"""Bytes of the largest Deliver: a chunk of 1 GiB, which is also the Java client's bound, and the fields before it."""

_HEAD = struct.Struct(">IH")
_HEAD_SIZE = 8
"""Bytes of the size, the key and the version."""
_SMALL = 4096
"""Received pieces of fewer bytes are gathered: each of them alone would take many times its bytes."""
STORE = 256 * 1024
"""Bytes that are received at once, at most: what asyncio reads from a socket in one go."""
_FIRST_STORE = 16 * 1024


class FrameBuffer:
    """Takes bytes as they arrive, and yields complete frames without their size field.

    A frame is copied once, out of the pieces in which it arrived. Until it is complete the pieces are held, and for a
    moment the frame beside them.

    Bytes come as objects (``feed``), or are received into memory that is used again and again (``room``, ``filled``).
    Then what is left of a frame that is not complete is copied once more.
    """

    __slots__ = ("_pieces", "_pos", "_size", "_store", "max_confirm_size", "max_deliver_size", "max_frame_size")

    def __init__(self, max_frame_size: int = 0, *, max_deliver_size: int = MAX_DELIVER_SIZE) -> None:
        """Both limits are in bytes, without the size field; 0 means no limit."""
        self._pieces: deque[bytes | bytearray | memoryview] = deque()
        """What has arrived and is not cut out yet. Only the last one may be a part of the store."""
        self._pos = 0
        """Where that begins in the first piece."""
        self._size = 0
        """How many bytes that are."""
        self._store = memoryview(b"")
        """What is received into. It grows where it was filled."""
        self.max_frame_size = max_frame_size
        self.max_deliver_size = max_deliver_size
        self.max_confirm_size = max_frame_size

    def __len__(self) -> int:
        return self._size

    def room(self) -> memoryview:
        """Returns memory to receive into, to be followed by ``filled``. It is valid until the next call of a method."""
        self._leave_store()
        if not self._store:
            self._store = memoryview(bytearray(_FIRST_STORE))
        return self._store

    def _leave_store(self) -> None:
        """Copies what is left in the store."""
        pieces = self._pieces
        if pieces and isinstance(pieces[-1], memoryview):
            if len(pieces) > 1:
                pieces[-1] = bytes(pieces[-1])
            else:
                pieces[0], self._pos = bytes(pieces[0][self._pos :]), 0

    def filled(self, size: int) -> None:
        """Takes the first ``size`` bytes of what ``room`` has returned."""
        if not size:
            return
        if self._size and size < _SMALL:
            self.feed(self._store[:size])
            return
        self._pieces.append(self._store[:size])
        self._size += size
        if size == len(self._store) < STORE:
            self._store = memoryview(bytearray(min(4 * size, STORE)))  # the piece keeps the one before it

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Takes the bytes that came next. Bytes objects are kept and not copied, but for small ones."""
        size = len(data)
        if not size:
            return
        self._leave_store()
        if self._size and size < _SMALL:
            last = self._pieces[-1]
            if not isinstance(last, bytearray):
                last = bytearray()
                self._pieces.append(last)
            elif len(self._pieces) == 1:  # else what was cut out of it would stay for ever
                del last[: self._pos]
                self._pos = 0
            last += data
        else:
            self._pieces.append(data if isinstance(data, bytes) else bytes(data))
        self._size += size

    def frames(self) -> Iterator[bytes]:
        """Yields the complete frames. Raises ``FrameSizeExceeded`` or ``ProtocolError``."""
        while self._size >= 4:
            first = self._pieces[0]
            pos = self._pos
            if len(first) - pos < _HEAD_SIZE and len(self._pieces) > 1:  # the head is cut in two
                first = self._join_head()
                pos = 0
            if self._size < _HEAD_SIZE:
                if int.from_bytes(first[pos : pos + 4]) < 4:
                    raise _too_small(int.from_bytes(first[pos : pos + 4]))
                return
            size, key = _HEAD.unpack_from(first, pos)
            if size < 4:
                raise _too_small(size)
            self._check_size(size, key)
            if 4 + size > self._size:
                return
            end = pos + 4 + size
            if end <= len(first):
                frame = first[pos + 4 : end] if isinstance(first, bytes) else bytes(memoryview(first)[pos + 4 : end])
                self._pos = end
            else:
                frame = self._gather(size)
            self._size -= 4 + size
            if self._pos == len(self._pieces[0]):
                self._pieces.popleft()
                self._pos = 0
            yield frame

    def _join_head(self) -> bytes | bytearray | memoryview:
        """Moves what is left of the first piece to the beginning of the second, until the first has a whole head."""
        pieces = self._pieces
        pieces[0] = pieces[0][self._pos :]
        self._pos = 0
        while len(pieces[0]) < _HEAD_SIZE and len(pieces) > 1:
            head = bytes(pieces.popleft())
            pieces[0] = b"".join((head, pieces[0]))
        return pieces[0]

    def _gather(self, size: int) -> bytes:
        """Cuts out a frame that begins in the first piece and ends in a later one."""
        pieces = self._pieces
        first = memoryview(pieces.popleft())[self._pos + 4 :]
        parts = [first]
        missing = size - len(first)
        while missing > len(pieces[0]):
            part = pieces.popleft()
            parts.append(memoryview(part))
            missing -= len(part)
        parts.append(memoryview(pieces[0])[:missing])
        self._pos = missing
        return b"".join(parts)

    def _check_size(self, size: int, key: int) -> None:
        if key == KEY_DELIVER:
            limit = self.max_deliver_size
        else:
            limit = self.max_confirm_size if key == KEY_PUBLISH_CONFIRM else self.max_frame_size
        if limit and size > limit:
            raise FrameSizeExceeded(f"a frame of {size} bytes (key 0x{key:04x}) exceeds the limit of {limit}")


def _too_small(size: int) -> ProtocolError:
    return ProtocolError(f"a frame of {size} bytes cannot hold a key and a version")
