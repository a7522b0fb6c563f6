"""The constants of the published client, and where a consumer starts, as its programs write it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from rstream_core.types import ConsumerOffsetSpecification as CoreSpecification
from rstream_core.types import OffsetType

__all__ = [
    "DEFAULT_REQUEST_TIMEOUT",
    "MAX_ITEM_ALLOWED",
    "SUBSCRIPTION_PROPERTY_FILTER_PREFIX",
    "SUBSCRIPTION_PROPERTY_MATCH_UNFILTERED",
    "ConsumerOffsetSpecification",
    "OffsetSpecification",
    "OffsetType",
    "SlasMechanism",
]

DEFAULT_REQUEST_TIMEOUT = 10
"""Seconds for an answer of the broker."""
MAX_ITEM_ALLOWED = 200
"""Publishers, or subscribers, on one connection, where a program does not say how many."""
SUBSCRIPTION_PROPERTY_FILTER_PREFIX = "filter."
SUBSCRIPTION_PROPERTY_MATCH_UNFILTERED = "match-unfiltered"


class SlasMechanism(enum.StrEnum):
    """How to log in. (The name is spelled as the published client spells it.)"""

    MechanismPlain = "PLAIN"
    MechanismExternal = "EXTERNAL"


@dataclass
class ConsumerOffsetSpecification:
    """Where a consumer starts, as the core's class of this name; the fields can be set, and nothing is checked yet."""

    offset_type: OffsetType | int = OffsetType.FIRST
    offset: int | None = None


OffsetSpecification = ConsumerOffsetSpecification
"""What a ``consumer_update_listener`` returns."""

Specification = ConsumerOffsetSpecification | CoreSpecification


def checked(given: Specification) -> CoreSpecification:
    """The core's value. Raises ``ConfigurationError``, a ``ValueError``, for what cannot be meant."""
    if isinstance(given, CoreSpecification):
        return given
    return CoreSpecification(OffsetType(given.offset_type), given.offset)


def answered(given: Specification | None) -> CoreSpecification | None:
    """As ``checked``, of a listener's answer: an offset beside a type that takes none is left out."""
    if isinstance(given, ConsumerOffsetSpecification) and given.offset_type not in (
        OffsetType.OFFSET,
        OffsetType.TIMESTAMP,
    ):
        return CoreSpecification(OffsetType(given.offset_type))
    return None if given is None else checked(given)
