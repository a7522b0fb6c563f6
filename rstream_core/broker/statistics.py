"""What a broker counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Statistics:
    """Counters since the start of the broker."""

    connections: int = 0
    """Open connections now."""
    confirmed: int = 0
    """Confirmed publishing ids, including those of repeated messages."""
    delivered_chunks: int = 0
    delivered_bytes: int = 0
