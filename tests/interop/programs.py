"""Speaks to the programs of the other languages.

``python -m tests.interop.programs`` builds all of them, and those of the benchmarks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

from benchmarks.peers import clients
from scripts._builds import BuildError, NoProgramError, built
from tests.brokers import Broker
from tests.interop.languages import LANGUAGES, Language

ANSWER_TIMEOUT = 40.0
"""Seconds for one answer; the programs give up after 20 and say what was missing."""
EXIT_TIMEOUT = 10.0


class ProgramError(Exception):
    """The program answered with an error, or not at all; says what it wrote to stderr, too."""


class Program:
    """A running program; for any event loop. One request at a time; events come whenever they like."""

    def __init__(self, language: Language, product: Path, broker: Broker) -> None:
        self.name = language.title
        self.events: queue.Queue[dict[str, Any]] = queue.Queue()
        """What a member of a group tells: {"event": "turn", "active": ...} and {"event": "message", ...}."""
        self.usable = True
        """It has answered all that it was asked."""
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._no_answer: bytes | None = None
        """A line that is no JSON object; nothing is read behind it."""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the program
        where = [broker.host, str(broker.port), broker.username, broker.password, broker.vhost]
        self._process = subprocess.Popen(
            [*language.run(product), *where],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self._reader = threading.Thread(target=self._read, name=f"output of {self.name}", daemon=True)
        self._reader.start()

    async def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Sends a request and returns its answer. Raises ``ProgramError``."""
        return await asyncio.to_thread(self._ask, do, arguments)

    async def event(self) -> dict[str, Any]:
        """The next event. Raises ``ProgramError`` where none comes in time."""
        try:
            return await asyncio.to_thread(self.events.get, timeout=ANSWER_TIMEOUT)
        except queue.Empty:
            raise self._error("no event in time") from None

    def kill(self) -> None:
        """Ends it as a crash would."""
        self._process.kill()

    def close(self) -> None:
        """Ends it, in order where it is in order."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(EXIT_TIMEOUT if self.usable else 0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(EXIT_TIMEOUT)
        self._process.stdout.close()
        self._errors.close()

    def _ask(self, do: str, arguments: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        given = {name: value for name, value in arguments.items() if value is not None}
        self.usable, before = False, self.usable
        with contextlib.suppress(BrokenPipeError):  # it has ended, as its answer will show
            self._process.stdin.write(json.dumps({"do": do, **given}).encode() + b"\n")
            self._process.stdin.flush()
        try:
            answer = self._answers.get(timeout=ANSWER_TIMEOUT)
        except queue.Empty:
            raise self._error(f"{do}: no answer in time") from None
        if answer is None:
            said = self._no_answer
            raise self._error(
                f"{do}: it ended" if said is None else f"{do}: it said what is no answer: {said[:1000]!r}"
            )
        self.usable = before
        if "error" in answer:
            raise self._error(f"{do}: {answer['error']}")
        return answer

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                try:
                    said = json.loads(line)
                except ValueError:
                    said = None
                if not isinstance(said, dict):
                    self._no_answer = line
                    break
                (self.events if "event" in said else self._answers).put(said)
        finally:
            self._answers.put(None)

    def _error(self, what: str) -> ProgramError:
        self._errors.seek(0)
        written = self._errors.read().decode(errors="replace").strip()
        return ProgramError(f"{self.name}, {what}" + (f"\n--- its stderr ---\n{written[-4000:]}" if written else ""))


class Programs:
    """Builds the programs, and keeps one of each running for each broker: a Java machine takes its time to start."""

    def __init__(self) -> None:
        self._built: dict[str, Path | NoProgramError | BuildError] = {}
        self._running: dict[tuple[str, str], Program] = {}

    def product(self, language: Language) -> Path:
        """Raises ``NoProgramError`` and ``BuildError``, which it remembers."""
        if language.name not in self._built:
            try:
                self._built[language.name] = built(language)
            except (NoProgramError, BuildError) as error:
                self._built[language.name] = error
        found = self._built[language.name]
        if isinstance(found, Exception):
            raise found
        return found

    def get(self, language: Language, broker: Broker) -> Program:
        """One that runs against the broker. Raises what ``product`` does."""
        key = (language.name, broker.uri)
        program = self._running.get(key)
        if program is not None and not program.usable:
            program.close()
            program = None
        if program is None:
            program = self._running[key] = Program(language, self.product(language), broker)
        return program

    def close(self) -> None:
        for program in self._running.values():
            program.close()


if __name__ == "__main__":
    for each in (*LANGUAGES, *clients.LANGUAGES):
        print(f"{each.title}: {built(each)}", flush=True)
