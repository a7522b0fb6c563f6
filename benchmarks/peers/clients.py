"""The table of the other languages' clients: what builds and runs their programs.

Their settings are those that their own documentation and our trials found fastest; each program states its own.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from scripts import _builds
from scripts._builds import NoProgramError, Source, built

HERE = Path(__file__).parent
CACHE = "benchmarks"

JAVA = Source(
    name="java",
    title="Java",
    client="com.rabbitmq:stream-client",
    client_version=r"<artifactId>stream-client</artifactId>\s*<version>([\d.]+)</version>",
    folder=HERE / "java",
    cache=CACHE,
    sources=("pom.xml", "src/**/*.java"),
    tools=(_builds.MAVEN, _builds.JAVA),
    fetch=_builds.FETCH_WITH_MAVEN,
    build=_builds.BUILD_WITH_MAVEN,
    product=_builds.BUILT_BY_MAVEN,
    run=lambda product: [
        "java",
        "-XX:+UseParallelGC",  # the collector for throughput
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-cp",
        _builds.class_path(product),
        "Peer",
    ],
)
GO = Source(
    name="go",
    title="Go",
    client="github.com/rabbitmq/rabbitmq-stream-go-client",
    client_version=r"rabbitmq-stream-go-client v([\d.]+)",
    folder=HERE / "go",
    cache=CACHE,
    sources=("go.mod", "go.sum", "*.go"),
    tools=(_builds.GO,),
    fetch=_builds.FETCH_WITH_GO,
    build=("go", "build", "-o", "peer", "."),
    build_environment=_builds.environment_of_go,
    product=("peer",),
    run=lambda product: [f"{product}/peer"],
)
RUST = Source(
    name="rust",
    title="Rust",
    client="rabbitmq-stream-client",
    client_version=r'rabbitmq-stream-client = "=([\d.]+)"',
    folder=HERE / "rust",
    cache=CACHE,
    sources=("Cargo.toml", "Cargo.lock", "src/*.rs"),
    tools=(_builds.CARGO,),
    fetch=_builds.FETCH_WITH_CARGO,
    build=("cargo", "build", "--release", "--locked", "--quiet"),
    build_environment=_builds.environment_of_cargo,
    product=("release/benchmarks",),
    run=lambda product: [f"{product}/release/benchmarks"],
)
LANGUAGES = (JAVA, GO, RUST)
PUBLISHED = "published"
NAMES = (*(language.name for language in LANGUAGES), PUBLISHED)
"""Of all that may be left out."""


class Peer(NamedTuple):
    """A client of another language, whose program is there."""

    name: str
    title: str
    command: list[str]
    warms_up: bool
    """It compiles what it runs often, and is measured when it has."""

    def warm_up(self, messages: int) -> int:
        """How many messages it handles before it is measured."""
        return min(messages, 1_000_000) if self.warms_up else 0


def build(without: Collection[str]) -> list[Peer]:
    """Builds the programs. What this machine cannot build is left out, with a word on stderr.

    Raises ``BuildError`` where a program is wrong.
    """
    found = []
    for language in LANGUAGES:
        if language.name in without:
            continue
        try:
            product = built(language)
        except NoProgramError as error:
            print(f"{language.title} is left out: {error}", file=sys.stderr, flush=True)
            continue
        title = f"{language.title} {language.version()}"
        found.append(Peer(language.name, title, language.run(product), language is JAVA))
    return found


if __name__ == "__main__":
    for each in LANGUAGES:
        print(f"{each.title}: {built(each)}", flush=True)
