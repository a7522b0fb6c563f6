"""Builds programs of other languages, once: those that the tests talk to, and those that the benchmarks measure.

What is built stays in a cache outside the checkout, by a hash of what it was built from. Workers of one run of tests,
and runs side by side, wait for each other: one builds, with a limit on its time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from scripts._machine import cache_root

BUILD_TIMEOUT = 1200.0
"""Seconds for one build: the Rust client's dependencies take minutes on two busy cores."""
KEPT = 3
"""How many builds of a program stay in the cache."""


class NoProgramError(Exception):
    """This machine cannot build the program: a tool is missing, or what it depends on cannot be had; says why."""


class BuildError(Exception):
    """This machine could build the program, and it cannot be built: a fault of its own."""


@dataclasses.dataclass(frozen=True)
class Tool:
    """A program that must be there, and how old it may be."""

    title: str
    command: tuple[str, ...]
    """Prints its version."""
    version: str
    """A regular expression; its groups are the numbers of the version."""
    least: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Source:
    """A program in another language, and what builds it."""

    name: str
    title: str
    client: str
    """The library that it uses, as its registry calls it."""
    client_version: str
    """A regular expression that finds the version in the file that names what is needed: its first source."""
    folder: Path
    cache: str
    """The folder of the cache that keeps what is built."""
    sources: tuple[str, ...]
    """What the program is built from, by patterns; the rest of the folder does not count."""
    tools: tuple[Tool, ...]
    build: tuple[str, ...]
    """Runs in a copy of the sources. It fails where they are wrong."""
    product: tuple[str, ...]
    """What it leaves there that is kept."""
    run: Callable[[Path], list[str]]
    """The command, given where the product is; the program's arguments follow."""
    fetch: tuple[str, ...] | None = None
    """Runs there before: it gets what the build needs from the network, and fails where that has not got it."""
    build_environment: Callable[[Path], Mapping[str, str]] = lambda _: {}
    """Given a folder that stays from one build to the next."""

    def version(self) -> str:
        """The version of the client."""
        found = re.search(self.client_version, (self.folder / self.sources[0]).read_text())
        if not found:
            raise ValueError(f"{self.folder / self.sources[0]} names no version of {self.client}")
        return found[1]


MAVEN = Tool("Maven on Java", ("mvn", "--version"), r"Java version: (\d+)", (17,))
JAVA = Tool("Java", ("java", "--version"), r" (\d+)", (17,))
GO = Tool("Go", ("go", "version"), r"go(\d+)\.(\d+)", (1, 25))
CARGO = Tool("Cargo", ("cargo", "--version"), r"cargo (\d+)\.(\d+)", (1, 85))

FETCH_WITH_MAVEN = ("mvn", "-B", "-q", "dependency:resolve-plugins", "dependency:resolve")
BUILD_WITH_MAVEN = ("mvn", "-B", "-q", "compile", "dependency:copy-dependencies", "-DincludeScope=runtime")
BUILT_BY_MAVEN = ("target/classes", "target/dependency")
FETCH_WITH_GO = ("go", "mod", "download")
FETCH_WITH_CARGO = ("cargo", "fetch", "--locked", "--quiet")


def environment_of_go(_: Path) -> Mapping[str, str]:
    """No other toolchain is fetched than the one that is there."""
    return {"GOTOOLCHAIN": "local"}


def environment_of_cargo(kept: Path) -> Mapping[str, str]:
    """What a program depends on takes minutes to build: not again for each change of the program."""
    return {"CARGO_TARGET_DIR": str(kept)}


def class_path(product: Path) -> str:
    """Where Java finds the classes of a program that Maven has built."""
    return f"{product}/target/classes:{product}/target/dependency/*"


def built(source: Source) -> Path:
    """Where the program is, once it is built. Raises ``NoProgramError`` and ``BuildError``."""
    versions = [_version(source, tool) for tool in source.tools]
    paths = sorted({path for pattern in source.sources for path in source.folder.glob(pattern)})
    digest = hashlib.sha256(repr((versions, source.build, source.product)).encode())
    for path in paths:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(source.folder)} {len(content)}\n".encode() + content)
    root = cache_root(source.cache)  # beside what scripts/rabbitmq keeps
    product = root / f"{source.name}-{digest.hexdigest()[:16]}"
    with _locked(root / f"{source.name}.lock"):
        if product.is_dir():
            os.utime(product)  # it is in use: others go first
        else:
            _sweep(root, source)
            _build(source, paths, root, product)
            _prune(root, source)
    return product


def _version(source: Source, tool: Tool) -> str:
    needed = f"{source.title}'s client needs {tool.title} {'.'.join(map(str, tool.least))}"
    try:
        done = subprocess.run(tool.command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise NoProgramError(f"{needed}: {error}") from None
    found = re.search(tool.version, done.stdout)
    if found is None or tuple(map(int, found.groups())) < tool.least:
        raise NoProgramError(f"{needed}, and there is: {done.stdout.splitlines()[:1]}")
    return done.stdout


def _build(source: Source, paths: list[Path], root: Path, product: Path) -> None:
    """Builds it where it is always built: tools that keep something do so by the place."""
    kept = _kept(source, root)
    made = root / f"{source.name}.building"
    try:
        place = made / "sources"
        for path in paths:
            copy = place / path.relative_to(source.folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        environment = source.build_environment(kept)
        if source.fetch is not None:
            _run(source.fetch, place, {**os.environ, **environment}, NoProgramError)
        _run(source.build, place, {**os.environ, **environment}, BuildError)
        results = kept if str(kept) in environment.values() else place
        finished = made / "product"
        for name in source.product:
            (finished / name).parent.mkdir(parents=True, exist_ok=True)
            copy_of = shutil.copytree if (results / name).is_dir() else shutil.copy2
            copy_of(results / name, finished / name)
        finished.rename(product)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _kept(source: Source, root: Path) -> Path:
    """What stays from one build to the next, as long as what it is of stays: it would only grow."""
    digest = hashlib.sha256(repr([_version(source, tool) for tool in source.tools]).encode())
    for name in source.sources:
        if (source.folder / name).is_file():  # the rest are patterns: those of the program
            digest.update((source.folder / name).read_bytes())
    return root / f"{source.name}.kept-{digest.hexdigest()[:16]}"


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


def _prune(root: Path, source: Source) -> None:
    builds = [path for path in root.glob(f"{source.name}-*") if re.fullmatch(r"[a-z]+-[0-9a-f]{16}", path.name)]
    for old in sorted(builds, key=lambda path: path.stat().st_mtime)[:-KEPT]:
        shutil.rmtree(old)


def _sweep(root: Path, source: Source) -> None:
    """Removes what builds that were killed have left, and what is kept of other tools: whoever holds the lock may."""
    stale = {root / f"{source.name}.building", *root.glob(f"{source.name}.kept-*")} - {_kept(source, root)}
    # As they were called before they had one place.
    stale.add(root / f"{source.name}-build")
    stale.update(path for path in root.glob(f"{source.name}-*") if re.fullmatch(r"[a-z]+-[a-z0-9_]{8}", path.name))
    for path in stale:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits for whoever builds: that ends within ``BUILD_TIMEOUT``, and a lock ends with the process that holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
