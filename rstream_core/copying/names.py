"""The names under which a copy publishes.

A broker drops and confirms what it takes for a repetition: each publishing id up to the last one under a name. So a
name must never be used for anything else: its end is a hash of all that decides which message of the source has which
id.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from rstream_core.checks import check_name, check_text

MAX_PREFIX = 200
"""Bytes that stand before the hash in a name."""
_DIGEST = 20
UNMARKED = "~"
"""Stands at the end of the name of a copy that may store nothing in its source."""


@dataclass(frozen=True, slots=True)
class Place:
    """One stream, among all streams of all clusters."""

    cluster: str
    """The name of the cluster, as its nodes tell it."""
    vhost: str
    stream: str
    nodes: frozenset[str] = frozenset()
    """The addresses that its nodes advertise: clusters may have the same name by accident."""
    is_tls: bool = False
    """Whether those are the addresses for TLS, with other ports."""

    def is_same(self, other: Place) -> bool:
        """Returns whether both are one stream."""
        mine, theirs = (self.cluster, self.vhost, self.stream), (other.cluster, other.vhost, other.stream)
        if self.is_tls is other.is_tls:
            return mine == theirs and not self.nodes.isdisjoint(other.nodes)
        return mine == theirs and not _hosts(self.nodes).isdisjoint(_hosts(other.nodes))


def _hosts(nodes: frozenset[str]) -> set[str]:
    return {node.rpartition(":")[0] for node in nodes}


def check_prefix(prefix: str) -> str:
    """Returns what a caller has chosen as the beginning of a name. Raises ``ConfigurationError``, ``TypeError``."""
    check_name("name", prefix)
    check_text("name", prefix, most=MAX_PREFIX)
    return prefix


def copy_name(source: Place, targets: Sequence[Place], start: str, selection: str, prefix: str | None = None) -> str:
    """Returns the name, of at most 255 bytes.

    ``targets`` are a part of it, since the source stores under it how far the copy is: one to another target is not.
    ``start``: where the copy begins, in words that always mean the same. ``selection``: all that decides which messages
    are copied, and where to. ``prefix``: what a person has chosen; None for a name that shows the stream.
    """
    places = [[place.cluster, place.vhost, place.stream] for place in (source, *targets)]
    what = json.dumps([places, start, selection])
    digest = hashlib.sha256(what.encode()).hexdigest()[:_DIGEST]
    shown = f"copy-{source.stream}" if prefix is None else prefix
    return f"{shown.encode()[:MAX_PREFIX].decode(errors='ignore')}-{digest}"
