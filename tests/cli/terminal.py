"""A terminal that a test looks at, and a shell with job control on it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from tests.cli.conftest import environment


class Terminal:
    """One whose other side is read."""

    def __init__(self, columns: int = 200) -> None:
        self._main, self.descriptor = pty.openpty()
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.shown = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._main)
        os.close(self.descriptor)

    def type(self, text: str) -> None:
        """What a person types."""
        os.write(self._main, text.encode())

    def read(self, seconds: float) -> None:
        """What is there, and what comes within that time."""
        until = time.monotonic() + seconds
        while select.select([self._main], [], [], max(until - time.monotonic(), 0))[0]:
            self.shown += os.read(self._main, 4096).decode(errors="replace")

    @property
    def text(self) -> str:
        """What was shown, without styles and movements of the cursor."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.shown)

    def read_until(self, words: str) -> None:
        """Fails where the text does not come."""
        self.read_while(lambda: words not in self.text)

    def read_while(self, question: Callable[[], object]) -> None:
        """Fails where that does not end."""
        deadline = time.monotonic() + 20
        while question():
            assert time.monotonic() < deadline, self.shown
            self.read(0.1)


def shell_on(terminal: Terminal, script: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """A shell whose stderr is the terminal, which is its controlling one; its jobs have process groups of their own."""
    name = os.ttyname(terminal.descriptor)  # the first that a session opens is its controlling terminal
    return subprocess.Popen(
        ["/bin/bash", "-c", f"exec 2<>{name}; set -m; {script}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment({"TERM": "xterm", **(env or {})}),
        start_new_session=True,
        preexec_fn=_as_on_a_terminal,  # noqa: PLW1509 - it takes no lock
    )


def _as_on_a_terminal() -> None:
    """Nothing is ignored there; a test run that was started by nohup or in the background hands that on."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
