"""Holds back a line that was logged a short time ago: a fault of every message or connection would fill the log."""

from __future__ import annotations

TELL_AGAIN = 60.0
"""Seconds until the same line is logged again."""
MAX_REMEMBERED = 1000
"""Lines of which the time is remembered. The oldest one is forgotten, and may then be logged again earlier."""


class LogLimit:
    """Says whether a line is to be logged now.

    Does not read a clock, so the times of one object must come from one clock. For one thread at a time.
    """

    def __init__(self) -> None:
        self._logged_at: dict[str, float] = {}

    def lets_through(self, line: str, now: float) -> bool:
        """Returns whether the line was not let through within the last ``TELL_AGAIN`` seconds; then it is now.

        ``line``: the line itself, or the name of a kind of lines, of which one in a minute is enough. ``now``: seconds.
        """
        logged_at = self._logged_at.get(line)
        if logged_at is not None and now - logged_at < TELL_AGAIN:
            return False
        self._logged_at.pop(line, None)  # so that the oldest one is the first
        if len(self._logged_at) >= MAX_REMEMBERED:
            del self._logged_at[next(iter(self._logged_at))]
        self._logged_at[line] = now
        return True
