"""``--stats json``: one JSON object a line; the last one is the summary.

docs/statistics.md says what each key means. Durations are in seconds, latencies in milliseconds; what is not known is
null.
"""

from __future__ import annotations

from typing import Any, TextIO

import orjson

from rstream_cli import terminal
from rstream_cli.render.stats import Snapshot


def document(snapshot: Snapshot, event: str) -> dict[str, Any]:
    """Returns the JSON object for a snapshot."""
    shown: dict[str, Any] = {
        "event": event,
        "command": snapshot.verb,
        "stream": list(snapshot.streams) or snapshot.stream,
        "elapsed": round(snapshot.elapsed, 3),
        **snapshot.counts,
        "bytes": snapshot.bytes,
        "rate": round(snapshot.rate, 1),
        "byte_rate": round(snapshot.byte_rate, 1),
    }
    if snapshot.verb == "copy":
        shown |= {"target": snapshot.target, "not_kept": list(snapshot.not_kept)}
    if snapshot.verb != "consume":
        shown["latency_p50_ms"] = _milliseconds(snapshot.p50)
        shown["latency_p99_ms"] = _milliseconds(snapshot.p99)
    if snapshot.progress is not None:
        shown["progress"] = round(snapshot.progress.share, 4)
        shown["eta"] = None if snapshot.eta is None else round(snapshot.eta, 1)
    return shown


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


class JsonView:
    """Writes the objects."""

    def __init__(self, stream: TextIO, *, is_tty: bool = False) -> None:
        self._stream = stream
        self._is_tty = is_tty

    def update(self, snapshot: Snapshot) -> None:
        """Writes an object for this snapshot."""
        self._write(document(snapshot, "progress") | {"reconnecting": snapshot.reconnecting})

    def note(self, line: str) -> None:
        """Does nothing: ``Display`` writes lines itself."""

    def close(self, *, erase: bool = True) -> None:
        """Does nothing."""

    def finish(self, snapshot: Snapshot, reason: str, status: int, error: str | None) -> None:
        """Writes the summary."""
        self._write(document(snapshot, "summary") | {"reason": reason, "exit_code": status, "error": error})

    def _write(self, shown: dict[str, Any]) -> None:
        terminal.write_json(self._stream, terminal.as_json(orjson.dumps(shown).decode()) + "\n", is_tty=self._is_tty)
        self._stream.flush()
