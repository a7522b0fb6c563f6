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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from benchmarks.broker import ROOT
from benchmarks.worker import BATCH, DEADLINE, make_bodies

RSTREAM = Path(sys.executable).with_name("rstream")


class Failed(Exception):
    """A program did not do its task."""


class Result(NamedTuple):
    """What one program did."""

    messages: int
    seconds: float
    inner_seconds: float | None = None
    """Without the start of the program, by its own account; None where ``seconds`` has no start in it."""
    peak_mb: float | None = None

    @property
    def rate(self) -> float:
        return self.messages / self.seconds


class Target(NamedTuple):
    """The broker, and what messages are like."""

    uri: str
    size: int

    def worker(self, module: str, task: str, stream: str, messages: int, python: Path | None = None) -> Result:
        """Runs a task of ``bare_socket``, ``core`` or ``published_client``."""
        program = [python or sys.executable, "-m", f"benchmarks.{module}", task]
        asked = ["--uri", self.uri, "--stream", stream, "--messages", str(messages), "--size", str(self.size)]
        name = f"{module} {task}"
        try:
            done = subprocess.run(
                [*program, *asked], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE + 30, check=False
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"{name} did not end") from None
        if done.returncode:
            raise Failed(f"{name} ended with {done.returncode}:\n{done.stderr.strip()[-2000:]}")
        answer = json.loads(done.stdout.splitlines()[-1])
        return Result(answer["messages"], answer["seconds"])

    def admin(self, task: str, stream: str) -> int:
        """``create``, ``delete`` or ``count``."""
        return self.worker("bare_socket", task, stream, 0).messages

    @contextlib.contextmanager
    def new_stream(self, purpose: str) -> Iterator[str]:
        """An empty stream, for a while."""
        stream = f"rstream-bench-{os.getpid()}-{purpose}"
        self.admin("create", stream)
        try:
            yield stream
        finally:
            self.admin("delete", stream)

    def publish_file(self, stream: str, file: Path, *, through_pipe: bool = False) -> Result:
        """``rstream publish STREAM < file``, or ``cat file | rstream publish STREAM``."""
        with contextlib.ExitStack() as stack:
            if through_pipe:
                cat = stack.enter_context(subprocess.Popen(["cat", file], stdout=subprocess.PIPE))
                assert cat.stdout is not None
                source: IO[bytes] = cat.stdout
            else:
                source = stack.enter_context(file.open("rb"))
            return self._command_line("confirmed", ["publish", stream], stdin=source)

    def consume_to(self, stream: str, file: Path | None) -> Result:
        """``rstream consume STREAM --offset first --until end > /dev/null``, or ``| cat > file``."""
        arguments = ["consume", stream, "--offset", "first", "--until", "end"]
        if file is None:
            with open(os.devnull, "wb") as sink:
                return self._command_line("consumed", arguments, stdout=sink)
        with file.open("wb") as sink, subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=sink) as cat:
            assert cat.stdin is not None
            return self._command_line("consumed", arguments, stdout=cat.stdin)

    def _command_line(
        self, counted: str, arguments: Sequence[str], *, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None
    ) -> Result:
        """Runs ``rstream`` and measures it from outside; its summary tells what it did."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RSTREAM_")}
        name = f"rstream {arguments[0]}"
        with tempfile.TemporaryFile() as stderr:
            started = time.perf_counter()
            process = subprocess.Popen(
                [RSTREAM, *arguments, "--uri", self.uri, "--stats", "json"],
                stdin=stdin or subprocess.DEVNULL,
                stdout=stdout or subprocess.DEVNULL,
                stderr=stderr,
                env=kept,
            )
            for pipe in (stdin, stdout):  # so that only the two ends hold the pipe
                if pipe is not None:
                    pipe.close()
            killer = threading.Timer(DEADLINE, process.kill)
            killer.start()
            try:
                _, status, usage = os.wait4(process.pid, 0)
            except BaseException:
                process.kill()
                raise
            finally:
                killer.cancel()
            seconds = time.perf_counter() - started
            process.returncode = os.waitstatus_to_exitcode(status)
            stderr.seek(0)
            said = stderr.read().decode(errors="replace").strip()
        if process.returncode:
            raise Failed(f"{name} ended with {process.returncode}: {said[-2000:]}")
        summary = json.loads(said.splitlines()[-1])
        unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
        return Result(int(summary[counted]), seconds, float(summary["elapsed"]), usage.ru_maxrss * unit / 1e6)


def write_lines(file: Path, size: int, lines: int) -> None:
    """The messages of ``Work.batches`` as a text file."""
    block = b"".join(body + b"\n" for body in make_bodies(size))
    rest = b"".join(body + b"\n" for body in make_bodies(size)[: lines % BATCH])
    with file.open("wb") as out:
        for _ in range(lines // BATCH):
            out.write(block)
        out.write(rest)


def same_content(one: Path, other: Path) -> bool:
    """Byte for byte, without reading a whole file."""
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as left, other.open("rb") as right:
        while block := left.read(1024 * 1024):
            if block != right.read(len(block)):
                return False
    return True
