"""What the process finds around it, as one value that is handed in: streams, variables, terminals, the clock.

Nothing else of the command line reads ``os.environ``, ``sys.stdin`` or the time, so that a test replaces all of
it with one object, and so that the colour decision is made in one place.
"""

from __future__ import annotations

import contextlib
import enum
import io
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TextIO, cast


class ColorChoice(enum.StrEnum):
    """The values of ``--color``."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class StdoutError(OSError):
    """stdout takes no more: its disk is full, say. A reader that is gone is a ``BrokenPipeError``."""

    def __str__(self) -> str:
        return f"cannot write to stdout: {self.strerror}"


@dataclass(frozen=True, slots=True)
class Environment:
    """Streams, variables and the clock of one run of the command line."""

    stdin: TextIO
    stdout: TextIO
    stderr: TextIO
    variables: Mapping[str, str]
    stdin_is_tty: bool = False
    stdout_is_tty: bool = False
    stderr_is_tty: bool = False
    now: Callable[[], float] = time.time
    """Seconds since 1970."""

    @classmethod
    def of_process(cls) -> Environment:
        """That of this process. A standard stream that is closed is opened on /dev/null first.

        Otherwise the next socket would get its number, and what is written to stdout would go there. stdin and stdout
        are opened the wrong way round, so that reading and writing them are errors, as they were: data that goes
        nowhere must not look delivered. What stdout refuses is a ``StdoutError``, whoever writes to it.
        """
        for number, name, mode, access in (
            (0, "stdin", "r", os.O_WRONLY),
            (1, "stdout", "w", os.O_RDONLY),
            (2, "stderr", "w", os.O_WRONLY),
        ):
            if getattr(sys, name) is None:
                setattr(sys, name, _open_null(number, mode, access))
        if sys.__stdout__ in (None, sys.stdout):  # else somebody in this process has put another in its place
            sys.stdout = _telling(sys.stdout)
        return cls(
            stdin=sys.stdin,
            stdout=sys.stdout,
            stderr=sys.stderr,
            variables=os.environ,
            stdin_is_tty=sys.stdin.isatty(),
            stdout_is_tty=sys.stdout.isatty(),
            stderr_is_tty=sys.stderr.isatty(),
        )

    def variable(self, name: str) -> str | None:
        """An environment variable; an empty one counts as not set."""
        return self.variables.get(name) or None

    def use_color(self, choice: ColorChoice = ColorChoice.AUTO, *, stdout: bool = False) -> bool:
        """Whether stderr (or stdout) takes colours.

        ``--color always|never`` decides; else NO_COLOR, FORCE_COLOR (``0`` is no), TERM=dumb, the terminal.
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

    def is_in_foreground(self) -> bool:
        """Whether a display may draw on the terminal of stderr: while this is a background job, it is the shell's."""
        try:
            return os.tcgetpgrp(self.stderr.fileno()) == os.getpgrp()
        except (OSError, ValueError):
            return True  # not the terminal that governs this process: no shell writes to it


class _Stdout(io.FileIO):
    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise StdoutError(error.errno, error.strerror) from None


class _AtOnce(io.BufferedWriter):
    """Without delay, for PYTHONUNBUFFERED: ``write_through`` goes as far as the buffer."""

    def write(self, data: Any, /) -> int:
        written = super().write(data)
        self.flush()
        return written


def _telling(stream: TextIO) -> TextIO:
    """The same stream, whose errors are known for its own; what its encoding lacks is escaped."""
    raw = _Stdout(stream.fileno(), "wb", closefd=False)
    is_unbuffered = getattr(stream, "write_through", False)
    return io.TextIOWrapper(
        _AtOnce(raw) if is_unbuffered else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors="backslashreplace" if stream.errors in ("strict", "surrogateescape") else stream.errors,
        line_buffering=stream.isatty(),
        write_through=is_unbuffered,
    )


def silence(descriptor: int) -> None:
    """Points a file descriptor that nobody reads at /dev/null, so that the last flush at exit finds no fault."""
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, descriptor)
        os.close(null)


def _open_null(number: int, mode: str, access: int) -> TextIO:
    descriptor = os.open(os.devnull, access)
    if descriptor != number:
        os.dup2(descriptor, number)
        os.close(descriptor)
    return cast("TextIO", os.fdopen(number, mode, encoding="utf-8", closefd=False))
