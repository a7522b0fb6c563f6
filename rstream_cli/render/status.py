"""A line at the bottom of the terminal with the figures of the embedded broker.

A thread of its own writes the line and the notes beside it, so that a terminal stopped with Ctrl-S does not block the
broker. While the process is in the background the line is not shown: the terminal belongs to the shell.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rstream_cli import terminal
from rstream_cli.environment import Environment
from rstream_cli.render import words
from rstream_cli.render.stats import Meter
from rstream_core import EmbeddedBroker

INTERVAL = 0.5
_PATIENCE = 2.0
_CLEAR = "\r\x1b[J"
_GAP = "   "


class StatusLine:
    """A context manager that shows the broker's figures, and removes them at the end."""

    def __init__(self, env: Environment, broker: EmbeddedBroker) -> None:
        self._env = env
        self._broker = broker
        self._notes: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        """Lines to write; None at the end."""
        self._is_shown = False
        self._thread = threading.Thread(target=self._run, name="rstream-status", daemon=True)
        self._published, self._delivered = Meter(), Meter()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._notes.put(None)
        self._thread.join(_PATIENCE)

    def warn(self, words: str) -> None:
        """Writes a warning as a line that stays. May be called from any thread."""
        self._notes.put(terminal.line(f"warning: {words}"))

    def _run(self) -> None:
        try:
            while True:
                try:
                    note = self._notes.get(timeout=INTERVAL)
                except queue.Empty:
                    self._draw()
                    continue
                self._clear()
                if note is None:
                    return
                self._write(terminal.line(note) + "\n")
        except (OSError, ValueError):
            pass  # stderr is closed

    def _draw(self) -> None:
        columns, _ = self._env.size_of(self._env.stderr)
        line = self.text(time.monotonic(), columns - 1)
        self._clear()
        if self._env.is_in_foreground():
            # The cursor stays at the line's start: if a narrower terminal wraps the line, all of it is behind that.
            self._write(line + "\r")
            self._is_shown = True

    def _clear(self) -> None:
        if self._is_shown and self._env.is_in_foreground():
            self._write(_CLEAR)
        self._is_shown = False

    def text(self, now: float, width: int) -> str:
        """Returns the line at this moment: as many pieces as fit, the rates first."""
        messages, size = self._broker.published
        statistics = self._broker.statistics
        published = self._published.sample(now, messages)
        delivered = self._delivered.sample(now, statistics.delivered_bytes)
        return _fitting(
            (
                f"published {words.count(published)}/s",
                f"delivered {words.size(delivered)}/s",
                _number(statistics.connections, "connection"),
                _number(self._broker.stream_count, "stream"),
                f"published {_number(messages, 'message')}, {words.size(size)}",
                f"delivered {_number(statistics.delivered_chunks, 'chunk')}, {words.size(statistics.delivered_bytes)}",
            ),
            width,
        )

    def _write(self, text: str) -> None:
        self._env.stderr.write(text)
        self._env.stderr.flush()


def _number(count: int, thing: str) -> str:
    return f"{words.count(count)} {thing}" + ("" if count == 1 else "s")


def _fitting(pieces: Iterable[str], width: int) -> str:
    line = ""
    for piece in pieces:
        longer = line + _GAP + piece if line else piece
        if len(longer) > width:
            break
        line = longer
    return line
