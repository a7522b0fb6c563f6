"""Says that there is a compiled part that does not fit. ``protocol``, which chooses, has no log."""

from __future__ import annotations

import logging
from functools import cache

from rstream_core.protocol.wire_choice import CHOICE

logger = logging.getLogger("rstream_core")


@cache
def tell_refused() -> None:
    """Warns, once in a process, where the compiled twin of the seam was refused."""
    if CHOICE.is_refused:
        logger.warning("messages are handled in Python, and more slowly: %s", CHOICE.reason)
