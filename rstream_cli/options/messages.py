"""Values of options that publishing and consuming share: what a message is, and what to do about a bad one."""

from __future__ import annotations

import enum


class Codec(enum.StrEnum):
    """The values of ``--codec``."""

    AMQP = "amqp"
    RAW = "raw"


class OnError(enum.StrEnum):
    """The values of ``--on-error``."""

    STOP = "stop"
    SKIP = "skip"
