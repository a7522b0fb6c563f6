"""``--stats line``: one line of plain text a second, for logs and for terminals that cannot redraw."""

from __future__ import annotations

from rstream_cli import terminal
from rstream_cli.environment import Environment
from rstream_cli.render import words
from rstream_cli.render.columns import fitting_stderr
from rstream_cli.render.stats import Snapshot

_FIGURES = {
    "publish": ("published", "confirmed", "failed", "in_flight"),
    "copy": ("read", "written", "confirmed", "failed", "in_flight"),
}
"""What is counted on the way to a broker."""


def progress_line(snapshot: Snapshot) -> str:
    """Returns a snapshot as one line."""
    counts = snapshot.counts
    parts = [words.clock(snapshot.elapsed)]
    if snapshot.verb in _FIGURES:
        parts += [f"{name.replace('_', ' ')} {words.count(counts[name] or 0)}" for name in _FIGURES[snapshot.verb]]
        if counts.get("lag") is not None:
            parts.append(f"lag {words.count(counts['lag'] or 0)}")
    elif snapshot.verb == "diff":
        parts += [f"compared {words.count(snapshot.messages)}", f"equal {words.count(counts['equal'] or 0)}"]
        parts += [f"{name} {words.count(number)}" for name, number in words.differing(counts)]
    else:
        parts.append(f"consumed {words.count(snapshot.messages)}")
        if counts["last_offset"] is not None:
            parts.append(f"offset {counts['last_offset']}")
    parts += [words.size(snapshot.bytes), f"{words.count(snapshot.rate)}/s", f"{words.size(snapshot.byte_rate)}/s"]
    if snapshot.p50 is not None:
        parts.append(f"p50 {words.latency(snapshot.p50)} p99 {words.latency(snapshot.p99)}")
    if snapshot.progress is not None:
        parts.append(f"{snapshot.progress.share:.0%} ETA {words.clock(snapshot.eta)}")
    if trouble := words.trouble(snapshot):
        parts.append(trouble)
    return "  ".join(parts)


class LineView:
    """Writes the lines."""

    def __init__(self, env: Environment) -> None:
        self._env = env

    def update(self, snapshot: Snapshot) -> None:
        """Writes a line for this snapshot."""
        self._write(progress_line(snapshot))

    def note(self, line: str) -> None:
        """Does nothing: ``Display`` writes lines itself."""

    def close(self, *, erase: bool = True) -> None:
        """Does nothing."""

    def finish(self, snapshot: Snapshot, reason: str, status: int, error: str | None) -> None:
        """Writes the summary."""
        self._write(terminal.line(words.summary(snapshot, reason)))

    def _write(self, line: str) -> None:
        self._env.stderr.write(fitting_stderr(line, self._env) + "\n")
        self._env.stderr.flush()
