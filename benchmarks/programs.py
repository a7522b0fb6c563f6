"""Runs what is measured, always as a program of its own, and gives back one result.

This process stays small on purpose: Linux counts the memory of the process that starts another one into the
other one's peak.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from benchmarks.broker import ROOT, undisturbed
from benchmarks.worker import DEADLINE, Work, distinct, make_bodies, parse_uri

RSTREAM = Path(sys.executable).with_name("rstream")


class Failed(Exception):
    """A program did not do its task."""


class OutOfTimeError(Failed):
    """A program has not ended in its time."""


class Result(NamedTuple):
    """What one program did."""

    messages: int
    seconds: float
    """Of the task, by the program's own account, without its start."""
    whole: float
    """From the start of the process to its end."""
    cpu: float
    """Processor time of the whole process in seconds, user and system."""
    peak_mb: float
    answer: dict[str, Any]
    """All that it said."""

    @property
    def rate(self) -> float:
        """Messages a second, without the start."""
        return self.messages / self.seconds

    @property
    def whole_rate(self) -> float:
        """Messages a second, with the start."""
        return self.messages / self.whole


def run(
    command: Sequence[str | Path],
    *,
    answer_on_stderr: bool = False,
    read: Callable[[dict[str, Any]], tuple[Any, Any]] = lambda said: (said["messages"], said["seconds"]),
    stdin: IO[bytes] | None = None,
    stdout: IO[bytes] | None = None,
    timeout: float = DEADLINE,
    environment: dict[str, str] | None = None,
) -> Result:
    """Runs a program that tells in its last line, a JSON object, what it did. ``stdin`` and ``stdout`` are closed here,
    so that only the two ends hold a pipe.

    ``read`` takes the messages and the seconds from its answer. Raises ``Failed``, with what it wrote to stderr, where
    it does not end with 0 and an answer, and ``OutOfTimeError``. It is killed where this is interrupted.
    """
    name = " ".join(Path(str(word)).name if at == 0 else str(word) for at, word in enumerate(command[:4]))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RSTREAM_")}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)  # who installs the package has its bytecode
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=stdin or subprocess.DEVNULL,
            stdout=stdout or (subprocess.DEVNULL if answer_on_stderr else said),
            stderr=errors,
            env=kept | (environment or {}),
            cwd=ROOT,
        )
        for end in (stdin, stdout):
            if end is not None:
                end.close()
        late = threading.Event()

        def kill() -> None:
            late.set()
            process.kill()

        killer = threading.Timer(timeout, kill)
        killer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            killer.cancel()
        whole = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = [_content(file) for file in (said, errors)]
    if late.is_set():
        raise OutOfTimeError(f"{name} has not ended within {timeout:.0f} s")
    if process.returncode:
        raise Failed(f"{name} ended with {process.returncode}: {texts[1][-2000:]}")
    try:
        answer = json.loads(texts[answer_on_stderr].splitlines()[-1])
        messages, seconds = map(float, read(answer))
    except (IndexError, ValueError, KeyError, TypeError):
        raise Failed(f"{name} gave no answer: {texts[answer_on_stderr][-2000:]!r} {texts[1][-2000:]}") from None
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return Result(int(messages), seconds, whole, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / 1e6, answer)


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace").strip()


class Target(NamedTuple):
    """The broker, and what messages are like."""

    uri: str
    size: int
    """Bytes of a body."""
    is_pure: bool = False
    """This project runs without its compiled part."""
    timeout: float = DEADLINE
    """Seconds for a program."""

    def worker(
        self,
        module: str,
        task: str,
        stream: str,
        messages: int,
        *,
        python: Path | None = None,
        more: Sequence[str] = (),
    ) -> Result:
        """Runs a task of ``bare_socket``, ``core`` or the published client."""
        asked = ("--uri", self.uri, "--stream", stream, "--messages", str(messages), "--size", str(self.size), *more)
        program = [python or sys.executable, "-m", f"benchmarks.{module}", task, *asked]
        return run(program, environment=self._environment, timeout=self.timeout)

    def peer(self, command: Sequence[str], task: str, streams: Sequence[str], messages: int, **more: Any) -> Result:
        """Runs a program of another language. ``more``: ``warm_up``, ``super``, ``rate``."""
        work = self._work
        given = {
            "task": task,
            "host": work.host,
            "port": work.port,
            "user": work.username,
            "password": work.password,
            "vhost": work.vhost,
            "streams": ",".join(streams),
            "messages": messages,
            "size": self.size,
            "super": 0,
            "warm_up": 0,
            **more,
        }
        return run([*command, *(f"{name}={value}" for name, value in given.items())], timeout=self.timeout)

    def admin(self, task: str, stream: str, more: Sequence[str] = ()) -> int:
        """``create``, ``delete`` or ``count``, with the super stream's tasks."""
        return self.worker("bare_socket", task, stream, 0, more=more).messages

    @contextlib.contextmanager
    def new_streams(self, purpose: str, count: int = 1, *, partitions: int = 0) -> Iterator[list[str]]:
        """Empty streams, for a while; or one super stream with so many partitions."""
        name = f"bench-{os.getpid()}-{purpose}"
        more = ("--streams", str(count), "--partitions", str(partitions))
        try:
            self.admin("create", name, more)
            yield [name] if partitions or count == 1 else [f"{name}-{at}" for at in range(count)]
        finally:
            with undisturbed():
                self.admin("delete", name, more)

    def publish_file(
        self, stream: str, source: IO[bytes], arguments: Sequence[str] = (), command: str = "publish"
    ) -> Result:
        """``rstream publish STREAM < source``."""
        return self._command_line("confirmed", [*command.split(), stream, *arguments], stdin=source)

    def consume_to(
        self,
        stream: str,
        sink: IO[bytes] | None = None,
        arguments: Sequence[str] = ("--until", "end"),
        command: str = "consume",
    ) -> Result:
        """``rstream consume STREAM --offset first > sink``, by default /dev/null."""
        words = [*command.split(), stream, "--offset", "first", *arguments]
        return self._command_line("consumed", words, stdout=sink or open(os.devnull, "wb"))

    def latency(self, messages: int, warm_up: int, rate: int) -> Result:
        """``rstream bench publish`` at a rate."""
        words = ("bench", "publish", "--yes", "--quiet", "--json", "--uri", self.uri, "--size", str(self.size))
        seconds = (messages / rate, warm_up / rate)
        return run(
            [RSTREAM, *words, "--rate", f"{rate}/s", "--duration", f"{seconds[0]:g}s", "--warm-up", f"{seconds[1]:g}s"],
            read=lambda said: (said["runs"][0]["publish"]["messages"], said["runs"][0]["publish"]["seconds"]),
            environment=self._environment,
        )

    def _command_line(
        self, counted: str, arguments: Sequence[str], *, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None
    ) -> Result:
        """Runs ``rstream``; its summary tells what it did."""
        return run(
            [RSTREAM, *arguments, "--uri", self.uri, "--stats", "json", "--stats-interval", "1h"],
            answer_on_stderr=True,
            read=lambda said: (said[counted], said["elapsed"]),
            stdin=stdin,
            stdout=stdout,
            environment=self._environment,
            timeout=self.timeout,
        )

    @property
    def _work(self) -> Work:
        return parse_uri(self.uri)

    @property
    def _environment(self) -> dict[str, str]:
        return {"RSTREAM_PURE_PYTHON": "1"} if self.is_pure else {}


def write_lines(file: Path, size: int, lines: int, form: bytes = b"%s\n", *, is_keyed: bool = False) -> None:
    """Messages as a text file, a line each: ``form`` with the body, or a key, a colon and the body."""
    bodies = make_bodies(size, distinct(size))
    whole = [b"%d:%s\n" % (at, body) if is_keyed else form % body for at, body in enumerate(bodies)]
    with file.open("wb") as out:
        for _ in range(lines // len(whole)):
            out.writelines(whole)
        out.writelines(whole[: lines % len(whole)])


def same_content(one: Path, other: Path) -> bool:
    """Byte for byte, without reading a whole file."""
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as left, other.open("rb") as right:
        while block := left.read(1024 * 1024):
            if block != right.read(len(block)):
                return False
    return True
