"""How long a task may work in one go, before it gives the event loop a turn.

What never really waits is never interrupted by asyncio: a callback for each of a thousand messages, or the body of an
``async for`` over what has arrived already. So whoever hands out messages looks at the clock now and then, and
where ``TIME_SLICE`` is over, lets the others run: heartbeats, confirms, the tasks of the application.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

TIME_SLICE = 0.010
"""Seconds of work in one go."""
MAX_STRIDE = 128
"""Messages between two looks at the clock. A look at each would cost as much as handing it out."""


class TimeSlice:
    """The slice of one task.

    Between two looks at the clock lie ``stride`` messages: fewer where they take long, so that a slice is not passed by
    much. It is passed by what one message takes, and where messages suddenly take longer, once by what a stride takes.
    """

    __slots__ = ("_begin", "_clock", "_look", "stride")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock``: seconds since whenever."""
        self._clock = clock
        self.stride = 1
        """How many messages to hand out before ``is_over`` is asked again."""
        self.begin()

    def begin(self) -> None:
        """The event loop has just had a turn."""
        self._begin = self._look = self._clock()

    def is_over(self, messages: int = 0) -> bool:
        """Whether it is time for others, by the clock. ``stride`` follows how long the last ``messages`` took."""
        now = self._clock()
        if messages:
            each = (now - self._look) / messages
            stride_takes = each * self.stride
            if stride_takes > TIME_SLICE / 4:
                self.stride = int(TIME_SLICE / 8 / each) or 1
            elif stride_takes < TIME_SLICE / 16 and self.stride < MAX_STRIDE:
                self.stride = min(self.stride * 2, MAX_STRIDE)
        self._look = now
        return now - self._begin >= TIME_SLICE

    async def give_way(self) -> None:
        """Gives the event loop a turn. It has had it also where this is cancelled."""
        try:
            await asyncio.sleep(0)
        finally:
            self.begin()
