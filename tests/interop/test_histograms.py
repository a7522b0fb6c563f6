"""Histograms of ``rstream bench``, as HdrHistogram's own library in Java reads and writes them."""

from __future__ import annotations

import dataclasses
import os
import random
import subprocess
from pathlib import Path

import pytest

from rstream_cli.bench.histogram import HIGHEST, Histogram
from scripts import _builds
from scripts._builds import NoProgramError, built
from tests.interop.languages import HERE, JAVA

HDR = dataclasses.replace(
    JAVA,
    name="histogram",
    folder=HERE / "histogram",
    client="org.hdrhistogram:HdrHistogram",
    client_version=r"<artifactId>HdrHistogram</artifactId>\s*<version>([\d.]+)</version>",
    run=lambda product: ["java", "-cp", _builds.class_path(product), "Histograms"],
)
SHARES = (0.5, 0.9, 0.99, 0.999, 1.0)


@pytest.fixture(scope="module")
def product() -> Path:
    try:
        return built(HDR)
    except NoProgramError as error:
        if os.environ.get("RSTREAM_REQUIRE_INTEROP") == "1":
            pytest.fail(f"RSTREAM_REQUIRE_INTEROP=1, but {error}", pytrace=False)
        pytest.skip(str(error))


def test_java_reads_what_is_written_and_writes_what_is_read(product: Path) -> None:
    draw = random.Random(11)
    cases: list[tuple[Histogram, list[int]]] = []
    for number in range(60):
        made = Histogram()
        for _ in range(number * 7):
            made.add(int(10 ** draw.uniform(0, 9.55)), draw.choice((1, 1, 3, 10**6)))
        cases.append((made, [draw.choice((0, 1, 2047, 2048, HIGHEST, draw.randrange(10**6))) for _ in range(number)]))
    lines = [" ".join([made.encoded(), *map(str, more)]) for made, more in cases]
    command = HDR.run(product)
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, timeout=120, check=True)
    for (made, more), line in zip(cases, done.stdout.splitlines(), strict=True):
        encoded, *percentiles, count = line.split()
        for value in more:
            made.add(value)
        read = Histogram.decoded(encoded)
        assert read == made
        assert len(made) == int(count)
        # Java rounds the highest value up beyond the range.
        assert read.quantiles(SHARES) == [min(int(each), HIGHEST) for each in percentiles]
