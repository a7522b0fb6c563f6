"""Values that the protocol cannot hold: one bad record, or a usage error where an option has them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rstream_core.checks import MAX_STRING
from tests.cli.conftest import Run
from tests.cli.process import summary_of

LONG = "ü" * (MAX_STRING // 2) + "ab"
"""One byte too many."""
FITS = LONG[:-1]
WORDS = f"takes at most {MAX_STRING} bytes, not {MAX_STRING + 1}"


def publish(run: Run, *arguments: str, **settings: Any) -> dict[str, Any]:
    done = run(*arguments, "--stats", "json", **settings)
    found = summary_of(done.stderr)
    assert found["exit_code"] == done.returncode
    return found


def bodies(run: Run, stream: str) -> list[bytes]:
    return run("consume", stream, "-o", "first", "--until", "end").stdout.splitlines()


@pytest.fixture
def regions(run: Run, stream_name: str) -> Iterator[str]:
    assert run("superstream", "create", stream_name, "--routing-keys", "eu,us").returncode == 0
    yield stream_name
    run("superstream", "delete", stream_name, "--yes")


def lines(*values: str) -> bytes:
    return b"".join(json.dumps({"body": str(n), "filter": value}).encode() + b"\n" for n, value in enumerate(values, 1))


@pytest.mark.parametrize("how", [("--filter-from", ".filter"), ("--json",), ("--json", "--filter-from", ".filter")])
def test_a_filter_value_that_is_too_long_is_a_bad_record(run: Run, stream: str, how: tuple[str, ...]) -> None:
    given = lines("eu", FITS, LONG, "us")
    found = publish(run, "publish", stream, *how, stdin=given)
    assert (found["exit_code"], found["read"], found["confirmed"], found["bad"]) == (8, 3, 2, 1)
    assert found["error"] == f"record 3: its filter value {WORDS}"
    found = publish(run, "publish", stream, *how, "--on-error", "skip", stdin=given)
    assert (found["exit_code"], found["read"], found["confirmed"], found["bad"]) == (3, 4, 3, 1)
    assert len(bodies(run, stream)) == 5


def test_a_routing_key_that_is_too_long_for_the_broker_is_a_bad_record(run: Run, regions: str) -> None:
    given = f"eu:a\n{LONG}:b\nus:c\n".encode()
    command = ("superstream", "publish", regions, "--key-delimiter", ":", "--routing")
    found = publish(run, *command, "key", stdin=given)
    assert (found["exit_code"], found["confirmed"], found["bad"]) == (8, 1, 1)
    assert found["error"] == f"record 2: its routing key {WORDS}"
    found = publish(run, *command, "key", "--on-error", "skip", stdin=given)
    assert (found["exit_code"], found["confirmed"], found["bad"]) == (3, 2, 1)
    found = publish(run, *command, "hash", stdin=given)  # which no broker sees
    assert (found["exit_code"], found["confirmed"]) == (0, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("publish", "s", "-m", "a", "--filter", LONG), f"--filter {WORDS}"),
        (("consume", "s", "--filter", "eu", "--filter", LONG), f"--filter {WORDS}"),
        (("consume", "s", "--filter", "\udcff"), "--filter cannot be written as UTF-8"),
        (("publish", "s", "-m", "a", "--filter", "\udcff"), "--filter cannot be written as UTF-8"),
        (("superstream", "publish", "s", "-m", "a", "--routing", "key", "--key", LONG), f"--key {WORDS}"),
        (("superstream", "publish", "s", "-m", "a", "--routing", "key", "--key", "\udcff"), "--key cannot be written"),
        (("stream", "create", "s", "--argument", f"a={LONG}"), f"arguments['a'] {WORDS}"),
        (("consume", "s", "--vhost", LONG), "vhost takes at most 255 bytes"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value)[:40].encode("ascii", "replace").decode(),
)
def test_in_an_option_it_is_a_usage_error(run: Run, arguments: tuple[str, ...], words: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert f"error: {words}" in done.stderr.decode()


def test_a_request_that_fits_no_frame_is_a_usage_error(run: Run, stream: str) -> None:
    many = [word for number in range(40) for word in ("--filter", f"{number}{FITS[:15000]}")]
    assert run("publish", stream, "-m", "a").returncode == 0
    done = run("consume", stream, *many, "-o", "first", "--until", "end")
    assert done.returncode == 2
    assert f"error: consuming stream '{stream}': " in done.stderr.decode()
    assert "bytes does not fit the agreed frame size of 1048576 bytes\nhint: " in done.stderr.decode()
    assert "raise --frame-max here" in done.stderr.decode()
    many = [word for number in range(40) for word in ("--argument", f"{number}={FITS[:15000]}")]
    done = run("stream", "create", f"{stream}-other", *many)
    assert done.returncode == 2
    assert "bytes does not fit the agreed frame size of 1048576 bytes\nhint: " in done.stderr.decode()


# What a frame takes: 1,048,576 bytes with a head of 21 bytes for a message, of 28 and 4 for one in a sub-entry.


@pytest.mark.parametrize(
    ("options", "most", "where"),
    [((), 1_048_555, ""), (("--method", "sub-entry"), 1_048_544, " in a sub-entry")],
)
def test_the_limit_that_an_error_names_is_the_one_that_holds(
    run: Run, stream: str, tmp_path: Path, options: tuple[str, ...], most: int, where: str
) -> None:
    file = tmp_path / "body"
    file.write_bytes(random.Random(13).randbytes(most + 1))
    done = run("publish", stream, "--codec", "raw", "--whole", str(file), *options)
    assert done.returncode == 8
    told = f"error: record 1: {most + 1} bytes are too large; at most {most} fit{where}\n"
    assert done.stderr.decode().startswith(told)
    file.write_bytes(file.read_bytes()[:most])
    assert run("publish", stream, "--codec", "raw", "--whole", str(file), *options).returncode == 0


def test_what_grows_when_it_is_compressed_is_told_with_its_size(run: Run, stream: str, tmp_path: Path) -> None:
    file = tmp_path / "body"
    file.write_bytes(random.Random(13).randbytes(1_048_540))
    command = ("publish", stream, "--codec", "raw", "--whole", str(file))
    assert run(*command).returncode == 0
    done = run(*command, "--compression", "gzip")
    assert done.returncode == 8
    told, _, rest = done.stderr.decode().partition(" bytes take ")
    size, _, rest = rest.partition(" once they are compressed; at most ")
    assert (told, rest.splitlines()[0]) == ("error: record 1: 1048540", "1048548 fit")
    assert int(size) > 1_048_548
