"""Bytes that have come and are not read yet, whatever pieces they came in."""

from __future__ import annotations


class Buffer:
    """Joins pieces only where something lies in more than one of them, and then once for each thing that is read."""

    __slots__ = ("_behind", "_behind_size", "at", "blank_from", "data", "position")

    def __init__(self) -> None:
        self.data = b""
        """What is there, as far as it was joined."""
        self.at = 0
        """Where in it the next byte to be read is."""
        self.position = 0
        """The number of that byte, counted from the beginning of the file."""
        self.blank_from: int | None = None
        """Where zeros began that ``is_blank`` has passed over."""
        self._behind: list[bytes] = []
        """The pieces behind ``data``."""
        self._behind_size = 0

    def __len__(self) -> int:
        """How many bytes are there."""
        return len(self.data) - self.at + self._behind_size

    def add(self, data: bytes) -> None:
        """Takes a piece that has come."""
        if self.at == len(self.data) and not self._behind:
            self.data, self.at = data, 0
        else:
            self._behind.append(data)
            self._behind_size += len(data)

    def has(self, count: int) -> bool:
        """Returns whether so many bytes are there. Then they are in ``data``, from ``at`` on."""
        if len(self.data) - self.at >= count:
            return True
        if len(self) < count:
            return False
        self.data = b"".join((memoryview(self.data)[self.at :], *self._behind))
        self.at = 0
        self._behind, self._behind_size = [], 0
        return True

    def skip(self, count: int) -> int:
        """Passes over up to so many bytes. Returns over how many."""
        count = min(count, len(self))
        if len(self.data) - self.at < count:
            self.has(len(self))
        self.at += count
        self.position += count
        return count

    def read(self, count: int) -> bytes:
        """Returns the next bytes, of which ``has`` has said that they are there."""
        start = self.at
        self.skip(count)
        return self.data[start : start + count]

    def is_blank(self) -> bool:
        """Returns whether all that is there is zeros, and passes over them.

        So a file ends that had grown when the power failed, before its data came. Where more comes than zeros,
        ``blank_from`` says where they began.
        """
        self.has(len(self))
        if self.data.count(0, self.at) != len(self):
            return False
        if self.blank_from is None:
            self.blank_from = self.position
        self.skip(len(self))
        return True
