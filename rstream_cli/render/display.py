"""Chooses the display of a run, and updates it in a thread.

A display does not block the event loop: a terminal stopped with Ctrl-S, or a slow reader of a log, blocks only the
display's own thread, and other threads for a moment at most. ``Display`` lives as long as a run: it is started when the
work starts, and finished with the reason and the exit code. While the process is a background job, or is stopped with
Ctrl-Z, the terminal and its cursor belong to the shell: a live display that was not asked for explicitly is then not
drawn.
"""

from __future__ import annotations

import enum
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from rstream_cli import terminal
from rstream_cli.environment import ColorChoice, Environment
from rstream_cli.render.columns import fitting_stderr
from rstream_cli.render.stats import Snapshot, Stats

LIVE_INTERVAL = 0.25
LINE_INTERVAL = 1.0
_MAX_NOTES = 20
_PATIENCE = 2.0
"""Seconds to wait for the thread: its last write may be blocked."""


class StatsMode(enum.StrEnum):
    """The values of ``--stats``."""

    AUTO = "auto"
    LIVE = "live"
    LINE = "line"
    JSON = "json"
    NONE = "none"


class Severity(enum.Enum):
    """The importance of a line beside the display."""

    NOTE = enum.auto()
    """Left out with ``-q``."""
    WARNING = enum.auto()
    ALL_CLEAR = enum.auto()
    """The end of a state that a warning reported: also shown with ``-q``."""


class View(Protocol):
    """A way to show snapshots."""

    def update(self, snapshot: Snapshot) -> None:
        """Shows a snapshot."""

    def note(self, line: str) -> None:
        """Writes a line beside the display, from any thread."""

    def close(self, *, erase: bool = True) -> None:
        """Removes the display until the next ``update``; leaves the screen unchanged without ``erase``."""

    def finish(self, snapshot: Snapshot, reason: str, status: int, error: str | None) -> None:
        """Shows the summary, after ``close``."""


def choose_mode(
    mode: StatsMode,
    env: Environment,
    *,
    terminal_is_used: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> StatsMode:
    """Returns the mode to use: resolves ``auto``, and replaces a live display where it would do harm.

    A display that redraws cannot share its terminal with data or typed input (``terminal_is_used``) or with log lines,
    and needs a terminal that can move its cursor.
    """
    chosen = mode
    if mode is StatsMode.AUTO:
        chosen = StatsMode.LIVE if env.stderr_is_tty and not quiet else StatsMode.NONE
    if chosen is not StatsMode.LIVE:
        return chosen
    if terminal_is_used:
        return StatsMode.NONE
    if verbose or not env.stderr_is_tty or env.variable("TERM") == "dumb":
        return StatsMode.NONE if mode is StatsMode.AUTO else StatsMode.LINE
    return StatsMode.LIVE


class Display:
    """Shows ``stats`` every ``interval`` seconds (None: the mode's default)."""

    def __init__(
        self,
        mode: StatsMode,
        stats: Stats,
        env: Environment,
        *,
        color: ColorChoice = ColorChoice.AUTO,
        interval: float | None = None,
        quiet: bool = False,
        summarise: bool = True,
        gives_way: bool = True,
    ) -> None:
        """``summarise``: an interrupted run shows its summary, even if the mode shows nothing else.

        ``gives_way``: a live display is not drawn while the process is in the background. A background job of a shell
        is, but so is a process that ``timeout`` runs behind a pipe.
        """
        self.mode = mode
        self._stats = stats
        self._env = env
        self._color = color
        self._interval = interval or (LIVE_INTERVAL if mode is StatsMode.LIVE else LINE_INTERVAL)
        self._noted = 0
        self._quiet = quiet
        self._summarise = summarise
        self._gives_way = gives_way
        self._view: View | None = None
        self._requests: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        """Calls for the thread to make between two updates; None ends the thread."""
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the display."""
        self._view = self._make_view()
        if self._view is not None:
            self._thread = threading.Thread(target=self._run, name="rstream-display", daemon=True)
            self._thread.start()

    def note(self, words: str, severity: Severity = Severity.NOTE) -> None:
        """Writes a line for people beside the display; not with ``--stats json``. Writes only the first of many."""
        if self.mode is not StatsMode.JSON and self._is_told(severity):
            self._noted += 1
            if self._noted < _MAX_NOTES:
                self._tell(words, severity)
            elif self._noted == _MAX_NOTES:
                self._tell("there are more such lines; the summary counts them", Severity.WARNING)

    def event(
        self,
        event: str,
        words: str,
        severity: Severity = Severity.NOTE,
        *,
        bounded: bool = False,
        **fields: str | float | Sequence[str] | None,
    ) -> None:
        """Reports an event of the run: a line for people, or an object with ``--stats json``.

        ``bounded``: the event may happen very often; only the first ones are shown to people.
        """
        if self.mode is StatsMode.JSON:
            import orjson

            self._write_json(terminal.as_json(orjson.dumps({"event": event, **fields}).decode()))
        elif bounded:
            self.note(words, severity)
        elif self._is_told(severity):
            self._tell(words, severity)

    def _is_told(self, severity: Severity) -> bool:
        return not self._quiet or severity is not Severity.NOTE

    def _tell(self, words: str, severity: Severity) -> None:
        prefix = "warning: " if severity is Severity.WARNING else ""
        self._write(terminal.line(prefix + words))

    def _write(self, line: str) -> None:
        if self.mode is StatsMode.LIVE and self._is_running():
            self._requests.put(partial(self._note, line))
        else:
            self._note(line)

    def _write_json(self, line: str) -> None:
        try:
            terminal.write_json(self._env.stderr, line + "\n", is_tty=self._env.stderr_is_tty)
        except (OSError, ValueError):
            pass  # stderr is closed

    def _note(self, line: str) -> None:
        try:
            if self._view is not None and self.mode is StatsMode.LIVE:
                self._view.note(fitting_stderr(line, self._env))
            else:
                self._env.stderr.write(fitting_stderr(line, self._env) + "\n")
                self._env.stderr.flush()
        except (OSError, ValueError):
            pass  # stderr is closed

    @property
    def is_shown(self) -> bool:
        """Whether people can see the progress of the run at this moment."""
        return self.mode is StatsMode.LINE or (self.mode is StatsMode.LIVE and self._may_draw())

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Removes a live display during the block."""
        away, over = threading.Event(), threading.Event()

        def stand_aside() -> None:
            self._close()
            away.set()
            over.wait()

        if self._is_running():
            self._requests.put(stand_aside)
            away.wait(_PATIENCE)
        try:
            yield
        finally:
            over.set()

    def stop(self) -> None:
        """Removes a live display, so that other lines can be written. May be called repeatedly."""
        if self._thread is not None:
            self._requests.put(None)
            self._thread.join(_PATIENCE)
            self._thread = None

    def finish(self, reason: str, status: int, error: str | None = None, *, forced: bool = False) -> None:
        """Writes the summary, if this mode has one or if it is ``forced`` (an interrupted run)."""
        self.stop()
        view = self._view
        if view is None and self.mode is StatsMode.JSON:  # the run ended before the display was started
            view = self._make_view()
        if view is None and forced and self._summarise:
            from rstream_cli.render.line import LineView

            view = LineView(self._env)
        if view is None:
            return
        try:
            view.finish(self._stats.snapshot(final=True), reason, status, error)
        except (OSError, ValueError):
            pass  # stderr is closed

    def _make_view(self) -> View | None:
        if self.mode is StatsMode.LIVE:
            from rstream_cli.render.live import LiveView

            return LiveView(self._env, color=self._env.use_color(self._color))
        if self.mode is StatsMode.LINE:
            from rstream_cli.render.line import LineView

            return LineView(self._env)
        if self.mode is StatsMode.JSON:
            from rstream_cli.render.json_lines import JsonView

            return JsonView(self._env.stderr, is_tty=self._env.stderr_is_tty)
        return None

    def _is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _run(self) -> None:
        try:
            if self.mode is StatsMode.LIVE:
                self._draw()
            while True:
                try:
                    request = self._requests.get(timeout=self._interval)
                except queue.Empty:
                    self._draw()
                    continue
                if request is None:
                    break
                request()
        except (OSError, ValueError):
            pass  # stderr is closed; the work goes on
        finally:
            try:
                self._close()
            except (OSError, ValueError):
                pass

    def _draw(self) -> None:
        assert self._view is not None
        if self.mode is StatsMode.LIVE and not self._may_draw():
            self._close()
        else:
            self._view.update(self._stats.snapshot(in_parts=self.mode is StatsMode.LIVE))

    def _may_draw(self) -> bool:
        return not self._gives_way or self._env.is_in_foreground()

    def _close(self) -> None:
        assert self._view is not None
        self._view.close(erase=self._may_draw())
