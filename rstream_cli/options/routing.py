"""The options that determine the partition of a message."""

from __future__ import annotations

import enum


class RoutingMethod(enum.StrEnum):
    """The values of ``--routing``; those of ``rstream_core.RouteType``."""

    HASH = "hash"
    PYTHON_HASH = "python-hash"
    KEY = "key"
