"""The table of languages: what builds and runs their programs, and what their clients can do.

A language is an entry of ``LANGUAGES`` and a folder with its program, which speaks the protocol of README.md. A feature
is an entry of ``FEATURES`` and tests that carry ``@having(feature)``. The table in docs/interoperability.md is made of
both.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

HERE = Path(__file__).parent

TYPES = frozenset(
    (
        "null",
        "boolean",
        "ubyte",
        "ushort",
        "uint",
        "ulong",
        "byte",
        "short",
        "int",
        "long",
        "float",
        "double",
        "char",
        "timestamp",
        "uuid",
        "binary",
        "string",
        "symbol",
        "list",
        "map",
    )
)
"""The AMQP types that are tried: all but the decimals, arrays and described values, which no client offers."""


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
class Language:
    """A language, and its client."""

    name: str
    title: str
    client: str
    """As its registry calls it."""
    client_version: str
    """A regular expression that finds the version in the file that names what is needed: its first source."""
    sources: tuple[str, ...]
    """What the program is built from, by patterns; the rest of the folder does not count."""
    tools: tuple[Tool, ...]
    build: tuple[str, ...]
    """Runs in a copy of the sources. It fails where they are wrong."""
    product: tuple[str, ...]
    """What it leaves there that is kept."""
    run: Callable[[Path], list[str]]
    """The command, given where the product is; host, port, user, password and virtual host follow."""
    fetch: tuple[str, ...] | None = None
    """Runs there before: it gets what the build needs from the network, and fails where that has not got it."""
    build_environment: Callable[[Path], Mapping[str, str]] = lambda _: {}
    """Given a folder that stays from one build to the next."""
    lacks: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Features that the client does not have, each with what it has not."""
    cannot_write: frozenset[str] = frozenset()
    """Types that its messages cannot hold in annotations."""
    cannot_write_application: frozenset[str] = frozenset()
    """More of them, in application properties."""
    writes_wrong: frozenset[str] = frozenset()
    """Values, by their names in ``VALUES``, that its messages can hold and that it does not write as it should."""
    cannot_read: frozenset[str] = frozenset()
    cannot_read_body: frozenset[str] = frozenset()
    """More of them, where the body is one value."""
    reads_as: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Types that the client gives to its users as another one; not in properties, nor in bodies that are a value."""

    @property
    def folder(self) -> Path:
        return HERE / self.name

    def version(self) -> str:
        """The version of the client."""
        found = re.search(self.client_version, (self.folder / self.sources[0]).read_text())
        assert found, f"{self.folder / self.sources[0]} names no version of {self.client}"
        return found[1]


JAVA = Language(
    name="java",
    title="Java",
    client="com.rabbitmq:stream-client",
    client_version=r"<artifactId>stream-client</artifactId>\s*<version>([\d.]+)</version>",
    sources=("pom.xml", "src/**/*.java"),
    tools=(
        Tool("Maven on Java", ("mvn", "--version"), r"Java version: (\d+)", (17,)),
        Tool("Java", ("java", "--version"), r" (\d+)", (17,)),
    ),
    fetch=("mvn", "-B", "-q", "dependency:resolve-plugins", "dependency:resolve"),
    build=("mvn", "-B", "-q", "compile", "dependency:copy-dependencies", "-DincludeScope=runtime"),
    product=("target/classes", "target/dependency"),
    run=lambda product: [
        "java",
        "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-cp",
        f"{product}/target/classes:{product}/target/dependency/*",
        "Interop",
    ],
    cannot_write_application=frozenset(("null", "list", "map")),
    cannot_read=frozenset(("char",)),  # it gives the number of the code point
    cannot_read_body=frozenset(("binary",)),  # it gives it as if it were data
    reads_as={"symbol": "string", "timestamp": "long"},
)

GO = Language(
    name="go",
    title="Go",
    client="github.com/rabbitmq/rabbitmq-stream-go-client",
    client_version=r"rabbitmq-stream-go-client v([\d.]+)",
    sources=("go.mod", "go.sum", "*.go"),
    tools=(Tool("Go", ("go", "version"), r"go(\d+)\.(\d+)", (1, 25)),),
    fetch=("go", "mod", "download"),
    build=("go", "build", "-o", "interop", "."),
    build_environment=lambda _: {"GOTOOLCHAIN": "local"},  # none is fetched
    product=("interop",),
    run=lambda product: [f"{product}/interop"],
    cannot_write=frozenset(("char", "symbol")),
    cannot_write_application=frozenset(("list", "map")),
    cannot_read=frozenset(("char",)),
    reads_as={"symbol": "string"},
)

RUST = Language(
    name="rust",
    title="Rust",
    client="rabbitmq-stream-client",
    client_version=r'rabbitmq-stream-client = "=([\d.]+)"',
    sources=("Cargo.toml", "Cargo.lock", "src/*.rs"),
    tools=(Tool("Cargo", ("cargo", "--version"), r"cargo (\d+)\.(\d+)", (1, 85)),),
    fetch=("cargo", "fetch", "--locked", "--quiet"),
    build=("cargo", "build", "--locked", "--quiet"),
    # What it depends on takes minutes to build: not again for each change of the program.
    build_environment=lambda kept: {"CARGO_TARGET_DIR": str(kept)},
    product=("debug/interop",),
    run=lambda product: [f"{product}/debug/interop"],
    lacks={"sub-entries": "has no sub-entries"},
    cannot_write=frozenset(("list", "map")),
    # It announces a byte more than it writes, and the broker waits for it.
    writes_wrong=frozenset(("small long", "long -1", "long -128")),
    cannot_read=frozenset(("list", "map")),
    cannot_read_body=frozenset(("null", "symbol", "float", "double", "timestamp")),
)

LANGUAGES = (JAVA, GO, RUST)

FEATURES = {
    "messages": "AMQP properties, application properties and annotations",
    "values": "bodies that are one AMQP value (they read ours: no client writes them)",
    "sub-entries": "sub-entries: uncompressed, gzip, snappy, lz4, zstd",
    "filters": "filter values",
    "hash routing": "super streams: the partition of 1,000 keys by their hash",
    "key routing": "super streams: the partition of 1,000 messages by bindings",
    "publishing ids": "deduplication: one goes on where the other stopped",
    "stored offsets": "offsets that one stores and the other resumes at",
    "single active consumers": "one group of all languages, one of which is active; hand-over, also after a crash",
}


def having(feature: str) -> pytest.MarkDecorator:
    """Runs the test for each language whose client has the feature."""
    assert feature in FEATURES, feature
    able = [language for language in LANGUAGES if feature not in language.lacks]
    return pytest.mark.parametrize("language", able, ids=lambda language: language.name)


def table() -> str:
    """What is tested, for readers, in Markdown. All of it on both brokers."""
    head = ["", *(f"{language.title}: `{language.client}` {language.version()}" for language in LANGUAGES)]
    rows = [
        [text, *(language.lacks.get(feature, "yes") for language in LANGUAGES)] for feature, text in FEATURES.items()
    ]
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
