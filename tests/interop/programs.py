"""Builds the programs of the other languages, once, and speaks to them.

What is built stays in a cache outside the checkout, by a hash of what it was built from. Workers of one run of tests,
and runs side by side, wait for each other: one builds, with a limit on its time. ``python -m tests.interop.programs``
builds all.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import queue
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts._machine import cache_root
from tests.brokers import Broker
from tests.interop.languages import LANGUAGES, Language, Tool

BUILD_TIMEOUT = 1200.0
"""Seconds for one build: the Rust client's dependencies take minutes on two busy cores."""
ANSWER_TIMEOUT = 40.0
"""Seconds for one answer; the programs give up after 20 and say what was missing."""
EXIT_TIMEOUT = 10.0
KEPT = 3
"""How many builds of a language stay in the cache."""


class NoProgramError(Exception):
    """This machine cannot build the program: a tool is missing, or what it depends on cannot be had; says why."""


class BuildError(Exception):
    """This machine could build the program, and it cannot be built: a fault of its own."""


class ProgramError(Exception):
    """The program answered with an error, or not at all; says what it wrote to stderr, too."""


def built(language: Language) -> Path:
    """Where the program is, once it is built. Raises ``NoProgramError`` and ``BuildError``."""
    versions = [_version(language, tool) for tool in language.tools]
    sources = sorted({path for pattern in language.sources for path in language.folder.glob(pattern)})
    digest = hashlib.sha256(repr((versions, language.build, language.product)).encode())
    for source in sources:
        content = source.read_bytes()
        digest.update(f"{source.relative_to(language.folder)} {len(content)}\n".encode() + content)
    root = cache_root("interop")  # beside what scripts/rabbitmq keeps
    product = root / f"{language.name}-{digest.hexdigest()[:16]}"
    with _locked(root / f"{language.name}.lock"):
        if product.is_dir():
            os.utime(product)  # it is in use: others go first
        else:
            _sweep(root, language)
            _build(language, sources, root, product)
            _prune(root, language)
    return product


def _version(language: Language, tool: Tool) -> str:
    needed = f"{language.title}'s client needs {tool.title} {'.'.join(map(str, tool.least))}"
    try:
        done = subprocess.run(tool.command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise NoProgramError(f"{needed}: {error}") from None
    found = re.search(tool.version, done.stdout)
    if found is None or tuple(map(int, found.groups())) < tool.least:
        raise NoProgramError(f"{needed}, and there is: {done.stdout.splitlines()[:1]}")
    return done.stdout


def _build(language: Language, sources: list[Path], root: Path, product: Path) -> None:
    """Builds it where it is always built: tools that keep something do so by the place."""
    kept = _kept(language, root)
    made = root / f"{language.name}.building"
    try:
        place = made / "sources"
        for source in sources:
            copy = place / source.relative_to(language.folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
        environment = language.build_environment(kept)
        if language.fetch is not None:
            _run(language.fetch, place, {**os.environ, **environment}, NoProgramError)
        _run(language.build, place, {**os.environ, **environment}, BuildError)
        results = kept if str(kept) in environment.values() else place
        finished = made / "product"
        for name in language.product:
            (finished / name).parent.mkdir(parents=True, exist_ok=True)
            copy_of = shutil.copytree if (results / name).is_dir() else shutil.copy2
            copy_of(results / name, finished / name)
        finished.rename(product)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _kept(language: Language, root: Path) -> Path:
    """What stays from one build to the next, as long as what it is of stays: it would only grow."""
    digest = hashlib.sha256(repr([_version(language, tool) for tool in language.tools]).encode())
    for name in language.sources:
        if (language.folder / name).is_file():  # the rest are patterns: those of the program
            digest.update((language.folder / name).read_bytes())
    return root / f"{language.name}.kept-{digest.hexdigest()[:16]}"


def _run(command: tuple[str, ...], place: Path, environment: dict[str, str], error_class: type[Exception]) -> None:
    shown = " ".join(command)
    # A group of its own: what it starts ends with it.
    with subprocess.Popen(
        command,
        cwd=place,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    ) as process:
        try:
            output, _ = process.communicate(timeout=BUILD_TIMEOUT)
        except BaseException as error:
            os.killpg(process.pid, 9)
            if isinstance(error, subprocess.TimeoutExpired):
                raise error_class(f"{shown}: not done after {BUILD_TIMEOUT:.0f} s") from None
            raise
    if process.returncode != 0:
        raise error_class(f"{shown} ended with {process.returncode}:\n{output[-4000:]}")


def _prune(root: Path, language: Language) -> None:
    builds = [path for path in root.glob(f"{language.name}-*") if re.fullmatch(r"[a-z]+-[0-9a-f]{16}", path.name)]
    for old in sorted(builds, key=lambda path: path.stat().st_mtime)[:-KEPT]:
        shutil.rmtree(old)


def _sweep(root: Path, language: Language) -> None:
    """Removes what builds that were killed have left, and what is kept of other tools: whoever holds the lock may."""
    stale = {root / f"{language.name}.building", *root.glob(f"{language.name}.kept-*")} - {_kept(language, root)}
    # As they were called before they had one place.
    stale.add(root / f"{language.name}-build")
    stale.update(path for path in root.glob(f"{language.name}-*") if re.fullmatch(r"[a-z]+-[a-z0-9_]{8}", path.name))
    for path in stale:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits for whoever builds: that ends within ``BUILD_TIMEOUT``, and a lock ends with the process that holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


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
    for each in LANGUAGES:
        print(f"{each.title}: {built(each)}", flush=True)
