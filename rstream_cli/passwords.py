"""Where a password comes from that is not written down: a file, a command, or a person at the terminal.

No message holds a password, nor the text of a command, which may hold one. A command runs in a thread: any event loop
can wait for that, and the loop of a run inside another program has no signals of children.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from rstream_cli import terminal
from rstream_cli.environment import Environment, Signals
from rstream_core.checks import MAX_STRING
from rstream_core.errors import ConfigurationError, CredentialsFailed
from rstream_core.types import Credentials, CredentialsFunction

COMMAND_TIMEOUT = 30.0
"""Seconds that a password command may take."""
_SHELL = "/bin/sh"
_BLOCK = 65_536


@dataclass(frozen=True)
class PasswordSources:
    """What a run has for getting passwords. As it is made here: no variables for commands, and nobody to ask."""

    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The environment of commands."""
    stderr: int | None = None
    """The descriptor to which commands write what is for a person; None: it is dropped."""
    terminal: str | None = None
    """The path of the terminal on which a person can be asked."""
    signals: Signals = field(default_factory=Signals, repr=False)
    ways: str = "pass --password-file FILE or --password-command CMD, or set RSTREAM_PASSWORD"
    """How the user can give a password, for the hint where there is none."""

    @classmethod
    def of(cls, env: Environment) -> PasswordSources:
        """Those of a run of the command line."""
        try:
            stderr = env.stderr.fileno()
        except (OSError, ValueError):
            stderr = None
        return cls(env.variables, stderr, env.terminal, env.signals)

    def credentials_by_command(self, username: str, command: str, label: str) -> CredentialsFunction:
        """Returns a coroutine function that runs the command each time; ``label`` is what errors call the command."""

        async def credentials() -> Credentials:
            return Credentials(username, await self.password_of_command(command, label))

        return credentials

    async def password_of_command(self, command: str, label: str) -> str:
        """Returns the first line that a command writes to stdout. Raises ``CredentialsFailed``.

        The command is run by ``sh -c``, without input, for ``COMMAND_TIMEOUT`` at most. It may ask a person on the
        terminal. It is killed if this call is cancelled.
        """
        running = _Command(command, label, self)
        try:
            return await asyncio.get_running_loop().run_in_executor(None, running.password)
        finally:
            running.kill()

    def ask(self, question: str) -> str | None:
        """Asks on the terminal, which does not show the answer. Returns None where there is no terminal.

        Not for a running event loop. Raises ``KeyboardInterrupt`` at Ctrl-C. Any other signal that ends the process
        finds the terminal as it was.
        """
        if self.terminal is None:
            return None
        try:
            descriptor = os.open(self.terminal, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:  # the process has no terminal
            return None
        try:
            return _asked(descriptor, terminal.line(question), self.signals)
        finally:
            os.close(descriptor)


def read_password_file(path: str, label: str) -> str:
    """Returns the first line of a file, which may be a process substitution or a mounted secret."""
    try:
        with open(path, encoding="utf-8") as file:
            password = file.readline().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError(f"{label}: cannot read {path!r}: {reason}") from None
    if not password:
        raise ConfigurationError(f"{label}: the first line of {path!r} is empty")
    return password


# --- a command ---------------------------------------------------------------------------------------------


class _Command:
    """One run of a password command. ``password`` is for a thread of its own; ``kill`` may be called from another."""

    def __init__(self, command: str, label: str, sources: PasswordSources) -> None:
        self._command = command
        self._label = label
        self._sources = sources
        self._process: subprocess.Popen[bytes] | None = None
        self._is_killed = False
        # With a terminal it stays in the process group of this program: it may ask a person there, and Ctrl-C reaches
        # it. Without one it gets a session of its own, so that all that it has started can be killed.
        self._has_session = not _is_there(sources.terminal)

    def password(self) -> str:
        deadline = time.monotonic() + COMMAND_TIMEOUT
        process = self._start()
        output = process.stdout
        assert output is not None
        try:
            line = self._first_line(output.fileno(), deadline)
            try:
                status = process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                raise self._late() from None
        finally:
            self.kill()
            output.close()
            with contextlib.suppress(subprocess.TimeoutExpired):  # what runs as another user cannot be killed
                process.wait(1.0)
        if status:
            how = f"was killed by signal {-status}" if status < 0 else f"ended with exit code {status}"
            raise self._failed(how)
        if not line:
            raise self._failed("printed no password: the first line of its output is empty")
        try:
            return line.decode()
        except UnicodeDecodeError:
            raise self._failed("printed a password that is not UTF-8") from None

    def kill(self) -> None:
        """Ends the command, if it still runs. May be called repeatedly."""
        self._is_killed = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._has_session:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()

    def _start(self) -> subprocess.Popen[bytes]:
        stderr = self._sources.stderr
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the user's own command
                [_SHELL, "-c", self._command],
                stdin=subprocess.DEVNULL,  # stdin may be messages
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL if stderr is None else stderr,
                env=dict(self._sources.variables),
                start_new_session=self._has_session,
            )
        except (OSError, ValueError) as error:  # ValueError: a NUL
            reason = error.strerror if isinstance(error, OSError) else "it holds a NUL"
            raise self._failed(f"cannot be run: {reason}") from None
        if self._is_killed:  # cancelled while it was started
            self.kill()
        return self._process

    def _first_line(self, descriptor: int, deadline: float) -> bytes:
        """Reads to the end of the output, so that the command does not meet a closed pipe."""
        found = b""
        is_whole = False
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while True:
            if not poll.poll(max(deadline - time.monotonic(), 0) * 1000):
                raise self._late()
            data = os.read(descriptor, _BLOCK)
            if not data:
                return found.removesuffix(b"\r")
            if not is_whole:
                found, end, _ = (found + data).partition(b"\n")
                is_whole = bool(end)
                if len(found) > MAX_STRING:
                    raise self._failed(f"printed a first line of more than {MAX_STRING:,} bytes")

    def _late(self) -> CredentialsFailed:
        return self._failed(f"did not end within {COMMAND_TIMEOUT:g} s")

    def _failed(self, how: str) -> CredentialsFailed:
        return CredentialsFailed(f"{self._label} {how}")


def _is_there(path: str | None) -> bool:
    """Returns whether the process has a terminal."""
    if path is None:
        return False
    try:
        os.close(os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


# --- a person ----------------------------------------------------------------------------------------------


def _asked(descriptor: int, question: str, signals: Signals) -> str | None:
    import termios

    try:
        before = termios.tcgetattr(descriptor)
    except termios.error:  # not a terminal
        return None
    silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]

    def restore() -> None:
        termios.tcsetattr(descriptor, termios.TCSAFLUSH, before)

    with signals.restoring(restore):
        try:
            termios.tcsetattr(descriptor, termios.TCSAFLUSH, silent)
            os.write(descriptor, question.encode(errors="backslashreplace"))
            answer = _line_of(descriptor)
            os.write(descriptor, b"\n")
        except (OSError, termios.error):  # the terminal has gone
            return None
        finally:
            with contextlib.suppress(termios.error):
                restore()
    if not answer:
        raise ConfigurationError("no password was typed")
    try:
        return answer.decode()
    except UnicodeDecodeError:
        raise ConfigurationError("the password that was typed is not UTF-8") from None


def _line_of(descriptor: int) -> bytes:
    """Reads what a person types, up to the end of the line, or Ctrl-D."""
    typed = b""
    while not typed.endswith(b"\n") and len(typed) <= MAX_STRING:
        data = os.read(descriptor, 4096)
        if not data:
            break
        typed += data
    return typed.rstrip(b"\r\n")
