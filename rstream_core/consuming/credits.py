"""The credits of one subscription: how many chunks the broker may send. Arithmetic, without I/O.

A credit is free when the application is done with the chunk that it paid for, so a slow application holds back the
broker instead of filling the memory. Free credits are gathered, and given back once they are half of what the broker
may send ahead: a frame for each of them would cost as much as a small chunk. So whoever waits for a chunk with nothing
left here knows that the broker still has half of the credit or more.
"""

from __future__ import annotations

DEFAULT_CREDIT = 10
"""How many chunks the broker may send ahead."""
MAX_CREDIT_OF_FRAME = 0x7FFF
"""The largest credit in one Subscribe or Credit. RabbitMQ 4.3.6 reads the credit of a Credit frame as a signed 16-bit
number: it takes a larger one as negative, and sends no more chunks, without an error (observed). It reads that of a
Subscribe frame correctly."""


class Credits:
    """The credits of one subscription that are free."""

    def __init__(self, credit: int) -> None:
        """``credit`` is how many chunks the broker may send ahead, 1 or more."""
        self._credit = credit
        self._half = max(credit // 2, 1)
        self.free = 0
        """Credits to be given back. Negative where the broker was given more than there is room for."""

    @property
    def is_due(self) -> bool:
        """Whether so many are free that they should be given back."""
        return self.free >= self._half

    def most_waiting(self, *, is_held: bool) -> int:
        """Returns how many chunks may wait when a new Subscribe is sent, so that it can grant at least one credit.

        ``is_held``: the application holds another chunk, or a piece of one. The result may be negative.
        """
        return self._credit - is_held - 1

    def grant(self, held: int) -> int:
        """Returns the credit for a new Subscribe: all, less the ``held`` chunks that have come and are not done with.

        What was free before is part of it.
        """
        credit = min(max(self._credit - held, 1), MAX_CREDIT_OF_FRAME)
        self.free = self._credit - held - credit
        return credit

    def give_back(self) -> list[int]:
        """Returns the credits of the frames that give back all that is free, which is none from then on."""
        frames: list[int] = []
        while self.free > 0:
            frames.append(min(self.free, MAX_CREDIT_OF_FRAME))
            self.free -= frames[-1]
        return frames
