"""One line at the bottom of a terminal that says what the embedded broker does.

It is written by a thread of its own: a terminal that was stopped with Ctrl-S holds up nobody.
"""

from __future__ import annotations

import shutil
import threading
import time
from types import TracebackType
from typing import Self

from rstream_cli.environment import Environment
from rstream_cli.render import words
from rstream_cli.render.stats import Meter
from rstream_core import EmbeddedBroker

INTERVAL = 0.5
_PATIENCE = 2.0
_CLEAR = "\r\x1b[2K"


class StatusLine:
    """Shows the broker's figures while it is entered, and takes them away again."""

    def __init__(self, env: Environment, broker: EmbeddedBroker) -> None:
        self._env = env
        self._broker = broker
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)
        self._published, self._delivered = Meter(), Meter()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(_PATIENCE)

    def _run(self) -> None:
        try:
            while not self._ended.wait(INTERVAL):
                width = shutil.get_terminal_size().columns - 1
                self._write(_CLEAR + self.text(time.monotonic())[: max(width, 10)])
            self._write(_CLEAR)
        except (OSError, ValueError):
            pass  # nobody is there to read it

    def text(self, now: float) -> str:
        """The line at this moment."""
        messages, size = self._broker.published
        statistics = self._broker.statistics
        published = self._published.sample(now, messages)
        delivered = self._delivered.sample(now, statistics.delivered_bytes)
        return (
            f"{statistics.connections} connections   {self._broker.stream_count} streams   "
            f"published {words.count(messages)} ({words.size(size)}), {words.count(published)}/s   "
            f"delivered {words.size(statistics.delivered_bytes)}, {words.size(delivered)}/s"
        )

    def _write(self, text: str) -> None:
        self._env.stderr.write(text)
        self._env.stderr.flush()
