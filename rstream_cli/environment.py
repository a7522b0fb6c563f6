"""The environment of a run as one value: standard streams, variables, terminals, clock, signals.

The standard streams are text on file descriptors: 0, 1 and 2 for a run that has the process to itself, pipes or files
for a run inside another program. No other module of the command line uses those numbers, reads ``os.environ`` or the
time, or handles signals. So a test replaces all of them with one object, and one place decides on colours.
"""

from __future__ import annotations

import contextlib
import enum
import io
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

TYPE_CHECKING = False  # `rstream --version` shall not wait for typing, nor for dataclasses
if TYPE_CHECKING:
    import asyncio
    from typing import Any, NoReturn, TextIO

SignalHandler = Callable[[signal.Signals], None]


class ColorChoice(enum.StrEnum):
    """The values of ``--color``."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class PrettyChoice(enum.StrEnum):
    """The values of ``--pretty``."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class ErrorForm(enum.Enum):
    """How an error is written to stderr."""

    TEXT = enum.auto()
    """A line for people, and a hint where there is one."""
    JSON = enum.auto()
    """One JSON object: code, kind, message, hint."""
    EVENT = enum.auto()
    """The same as an event among those of ``--stats json``."""


class StdoutError(OSError):
    """Writing to stdout, or to what stands for it, failed: for example on a full disk. A closed pipe is a
    ``BrokenPipeError`` instead."""

    name = "stdout"

    def __str__(self) -> str:
        return f"cannot write to {self.name}: {self.strerror}"


class Signals:
    """Delivers SIGINT and SIGTERM to a run inside another program, which calls ``send``."""

    def __init__(self) -> None:
        self._sent: deque[signal.Signals] = deque()
        self._handler: SignalHandler | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the run, from any thread. It is kept until the run handles signals."""
        self._sent.append(number)
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the run is over
                self._loop.call_soon_threadsafe(self._deliver)

    @contextmanager
    def handled(
        self, numbers: Iterable[signal.Signals], handler: SignalHandler, afterwards: SignalHandler
    ) -> Iterator[None]:
        """Calls ``handler`` on the running event loop for each of these signals.

        ``afterwards`` is called for signals between the end of the block and the end of a process of the run's own.
        """
        import asyncio

        self._handler, self._loop = handler, asyncio.get_running_loop()
        self._loop.call_soon(self._deliver)
        try:
            yield
        finally:
            self._handler = self._loop = None

    def _deliver(self) -> None:
        while self._sent and self._handler is not None:
            self._handler(self._sent.popleft())

    @contextmanager
    def restoring(self, restore: Callable[[], None]) -> Iterator[None]:
        """Calls ``restore`` before a signal ends the process within the block, but for SIGINT, which raises.

        For a block without an event loop, such as a question on the terminal.
        """
        yield

    def leave(self) -> None:
        """Called when the exit code is final and all output is written: later signals are ignored."""

    def end_at_once(self, status: int) -> NoReturn:
        """Ends a run that may hang."""
        raise SystemExit(status)


_STUCK = 1.0
"""Seconds after which a signal that the event loop has not handled lets the next one end the process."""


class ProcessSignals(Signals):
    """The signals of this process.

    The event loop handles them, which it cannot while a computation holds it up, such as a search for a regular
    expression. So a second one, a second or more after the first, ends the process at once: Python tells of signals
    between two of its instructions, and ``re`` asks for them within a search.
    """

    def __init__(self) -> None:
        super().__init__()
        self._handled: list[signal.Signals] = []
        self._unhandled: tuple[signal.Signals, float] | None = None
        """The first signal that the event loop has not handled yet, and when it came, in seconds with any zero."""

    def leave(self) -> None:
        for number in self._handled:
            signal.signal(number, signal.SIG_IGN)  # Python drops its handlers at exit

    def send(self, number: signal.Signals) -> None:
        os.kill(os.getpid(), number)

    @contextmanager
    def handled(
        self, numbers: Iterable[signal.Signals], handler: SignalHandler, afterwards: SignalHandler
    ) -> Iterator[None]:
        import asyncio

        loop = asyncio.get_running_loop()
        # What is ignored from the start, as SIGINT is in the background jobs of scripts, stays so.
        numbers = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]

        def on_loop(number: signal.Signals) -> None:
            self._unhandled = None
            handler(number)

        for number in numbers:
            loop.add_signal_handler(number, on_loop, number)
            signal.signal(number, partial(self._arrived, signal.getsignal(number)))
            signal.siginterrupt(number, False)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)
                signal.signal(number, lambda given, _: afterwards(signal.Signals(given)))
                self._handled.append(number)

    @contextmanager
    def restoring(self, restore: Callable[[], None]) -> Iterator[None]:
        def end(number: int, _: Any) -> None:
            restore()
            self.end_at_once(128 + number)

        # Stopped by Ctrl-Z, the process would leave the terminal as it is to the shell.
        handlers: dict[signal.Signals, Any] = {
            signal.SIGTERM: end,
            signal.SIGHUP: end,
            signal.SIGQUIT: end,
            signal.SIGTSTP: signal.SIG_IGN,
        }
        before = {number: signal.getsignal(number) for number in handlers}
        replaced = {number: handler for number, handler in before.items() if handler is signal.SIG_DFL}
        for number in replaced:
            signal.signal(number, handlers[number])
        try:
            yield
        finally:
            for number, handler in replaced.items():
                signal.signal(number, handler)

    def _arrived(self, of_loop: Any, number: int, frame: Any) -> None:
        """Called at once, in the main thread. ``of_loop`` is the loop's own function for this."""
        now = time.monotonic()
        if self._unhandled is None:
            self._unhandled = signal.Signals(number), now
        elif now >= self._unhandled[1] + _STUCK:
            self.end_at_once(128 + self._unhandled[0])
        of_loop(number, frame)

    def end_at_once(self, status: int) -> NoReturn:
        os._exit(status)


class Environment:
    """Standard streams, variables, clock and signals of one run of the command line. It is not changed: ``replaced``
    makes another one."""

    __slots__ = (
        "error_form",
        "now",
        "signals",
        "stderr",
        "stderr_is_tty",
        "stdin",
        "stdin_is_tty",
        "stdout",
        "stdout_is_tty",
        "terminal",
        "variables",
    )

    def __init__(
        self,
        stdin: TextIO,
        stdout: TextIO,
        stderr: TextIO,
        variables: Mapping[str, str],
        *,
        stdin_is_tty: bool = False,
        stdout_is_tty: bool = False,
        stderr_is_tty: bool = False,
        now: Callable[[], float] = time.time,
        terminal: str | None = None,
        signals: Signals | None = None,
        error_form: ErrorForm = ErrorForm.TEXT,
    ) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.variables = variables
        self.stdin_is_tty = stdin_is_tty
        self.stdout_is_tty = stdout_is_tty
        self.stderr_is_tty = stderr_is_tty
        self.now = now
        """Seconds since 1970."""
        self.terminal = terminal
        """The path of the terminal on which a person can be asked for a password, if the process has one. Always None
        for a run inside another program."""
        self.signals = Signals() if signals is None else signals
        self.error_form = error_form
        """Chosen by the options of the command, as soon as they are read."""

    def replaced(self, **values: Any) -> Environment:
        """Returns a copy with other values, by name."""
        return Environment(**{**{name: getattr(self, name) for name in self.__slots__}, **values})

    @classmethod
    def on(cls, stdin: int, stdout: int, stderr: int, variables: Mapping[str, str]) -> Environment:
        """Returns the environment of a run inside this process, on file descriptors that the caller must close."""
        return cls(
            stdin=open(stdin, encoding="utf-8", closefd=False),
            stdout=_output_on(stdout, "utf-8", "strict", line_buffering=os.isatty(stdout)),
            stderr=open(stderr, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False),
            variables=variables,
            stdin_is_tty=os.isatty(stdin),
            stdout_is_tty=os.isatty(stdout),
            stderr_is_tty=os.isatty(stderr),
        )

    @classmethod
    def of_process(cls) -> Environment:
        """Returns the environment of this process. Opens closed standard streams on /dev/null first.

        Otherwise the next socket would get the number of the closed stream, and output for stdout would go to it. stdin
        is opened for writing and stdout for reading only, so that using them still fails: lost data must not look
        delivered. Writing errors of stdout become ``StdoutError``.
        """
        for number, name, mode, access in (
            (0, "stdin", "r", os.O_WRONLY),
            (1, "stdout", "w", os.O_RDONLY),
            (2, "stderr", "w", os.O_WRONLY),
        ):
            if getattr(sys, name) is None:
                setattr(sys, name, _open_null(number, mode, access))
        if sys.__stdout__ in (None, sys.stdout):  # unless code in this process has replaced it
            sys.stdout = _telling(sys.stdout)
        return cls(
            stdin=sys.stdin,
            stdout=sys.stdout,
            stderr=sys.stderr,
            variables=os.environ,
            stdin_is_tty=sys.stdin.isatty(),
            stdout_is_tty=sys.stdout.isatty(),
            stderr_is_tty=sys.stderr.isatty(),
            terminal="/dev/tty",
            signals=ProcessSignals(),
        )

    @property
    def owns_process(self) -> bool:
        """Whether the process exists only for this run, which may then use the process' signals and limits."""
        return isinstance(self.signals, ProcessSignals)

    def variable(self, name: str) -> str | None:
        """Returns an environment variable; None where it is not set or empty."""
        return self.variables.get(name) or None

    def use_color(self, choice: ColorChoice = ColorChoice.AUTO, *, stdout: bool = False) -> bool:
        """Returns whether to use colours on stderr (or stdout).

        The first of these that is set decides: ``--color always|never``, NO_COLOR, FORCE_COLOR (``0`` means no),
        TERM=dumb. Otherwise colours are for terminals only.
        """
        if choice is not ColorChoice.AUTO:
            return choice is ColorChoice.ALWAYS
        if self.variable("NO_COLOR"):
            return False
        forced = self.variable("FORCE_COLOR")
        if forced is not None:
            return forced != "0"
        if self.variable("TERM") == "dumb":
            return False
        return self.stdout_is_tty if stdout else self.stderr_is_tty

    def size_of(self, stream: TextIO) -> tuple[int, int]:
        """Returns columns and lines: from COLUMNS and LINES, or else from the stream's terminal, or else 80 and 24."""
        try:
            columns, lines = os.get_terminal_size(stream.fileno())
        except (OSError, ValueError):
            columns = lines = 0
        return self._count("COLUMNS") or columns or 80, self._count("LINES") or lines or 24

    def _count(self, name: str) -> int:
        text = self.variables.get(name, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0

    def is_in_foreground(self) -> bool:
        """Returns whether a display may draw on the terminal of stderr. A background job must leave it to the shell."""
        try:
            return os.tcgetpgrp(self.stderr.fileno()) == os.getpgrp()
        except (OSError, ValueError):
            return True  # not the controlling terminal, so no shell uses it


class _Stdout(io.FileIO):
    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise StdoutError(error.errno, error.strerror) from None


class _AtOnce(io.BufferedWriter):
    """Flushes after each write, for PYTHONUNBUFFERED: ``write_through`` alone only reaches the buffer."""

    def write(self, data: Any, /) -> int:
        written = super().write(data)
        self.flush()
        return written


def _telling(stream: TextIO) -> TextIO:
    """Returns a stream on the same descriptor that raises ``StdoutError``, and escapes characters it cannot encode."""
    return _output_on(
        stream.fileno(),
        stream.encoding,
        "backslashreplace" if stream.errors in ("strict", "surrogateescape") else stream.errors,
        line_buffering=stream.isatty(),
        is_unbuffered=getattr(stream, "write_through", False),
    )


def _output_on(
    descriptor: int, encoding: str, errors: str | None, *, line_buffering: bool, is_unbuffered: bool = False
) -> TextIO:
    raw = _Stdout(descriptor, "wb", closefd=False)
    return io.TextIOWrapper(
        _AtOnce(raw) if is_unbuffered else io.BufferedWriter(raw),
        encoding=encoding,
        errors=errors,
        line_buffering=line_buffering,
        write_through=is_unbuffered,
    )


def silence(stream: TextIO) -> None:
    """Points the descriptor of a stream that nobody reads at /dev/null, so that the last flush does not fail."""
    with contextlib.suppress(OSError, ValueError):
        descriptor = stream.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, descriptor)
        os.close(null)


def _open_null(number: int, mode: str, access: int) -> TextIO:
    descriptor = os.open(os.devnull, access)
    if descriptor != number:
        os.dup2(descriptor, number)
        os.close(descriptor)
    stream: Any = os.fdopen(number, mode, encoding="utf-8", closefd=False)
    opened: TextIO = stream
    return opened
