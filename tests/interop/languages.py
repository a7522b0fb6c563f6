"""The table of languages: what builds and runs their programs, and what their clients can do.

A language is an entry of ``LANGUAGES`` and a folder with its program, which speaks the protocol of README.md and
gets host, port, user, password and virtual host as its arguments. A feature is an entry of ``FEATURES`` and tests that
carry ``@having(feature)``. The table in docs/interoperability.md is made of both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest

from scripts import _builds
from scripts._builds import Source

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
class Language(Source):
    """A language, and its client."""

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


JAVA = Language(
    name="java",
    title="Java",
    client="com.rabbitmq:stream-client",
    client_version=r"<artifactId>stream-client</artifactId>\s*<version>([\d.]+)</version>",
    folder=HERE / "java",
    cache="interop",
    sources=("pom.xml", "src/**/*.java"),
    tools=(_builds.MAVEN, _builds.JAVA),
    fetch=_builds.FETCH_WITH_MAVEN,
    build=_builds.BUILD_WITH_MAVEN,
    product=_builds.BUILT_BY_MAVEN,
    run=lambda product: [
        "java",
        "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-cp",
        _builds.class_path(product),
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
    folder=HERE / "go",
    cache="interop",
    sources=("go.mod", "go.sum", "*.go"),
    tools=(_builds.GO,),
    fetch=_builds.FETCH_WITH_GO,
    build=("go", "build", "-o", "interop", "."),
    build_environment=_builds.environment_of_go,
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
    folder=HERE / "rust",
    cache="interop",
    sources=("Cargo.toml", "Cargo.lock", "src/*.rs"),
    tools=(_builds.CARGO,),
    fetch=_builds.FETCH_WITH_CARGO,
    build=("cargo", "build", "--locked", "--quiet"),
    build_environment=_builds.environment_of_cargo,
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
