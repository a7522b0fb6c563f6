"""``publish --on-error skip``: what is skipped counts nowhere but in the exit code; and lines of ``--failed-to``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from rstream_cli.publish_command import _open_failed
from rstream_cli.publish_report import FailedFile
from rstream_core import AMQPMessage, Client, ConnectionOptions, EmbeddedBroker, parse_uri
from tests.cli.conftest import Done, run_here
from tests.recovering import stored


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as found:
        yield found


def publish(broker: EmbeddedBroker, stream: str, file: Path, lines: list[str], *options: str) -> Done:
    file.write_text("".join(f"{line}\n" for line in lines))
    arguments = ("publish", stream, str(file), "--create", "--json", "--on-error", "skip", *options)
    return run_here(*arguments, env={"RSTREAM_URI": broker.uri})


def there(broker: EmbeddedBroker, stream: str) -> list[bytes]:
    async def read() -> list[bytes]:
        async with Client(ConnectionOptions(endpoints=(parse_uri(broker.uri).endpoint,))) as client:
            return [AMQPMessage.from_bytes(data).body or b"" for data in await stored(client, stream)]

    return asyncio.run(read())


def good(number: int) -> str:
    return f'{{"body": "{number}"}}'


BAD = "{"


@pytest.mark.parametrize(("bad", "status"), [(0, 0), (1, 3), (2, 3)])
def test_one_skipped_record_shows_in_the_exit_code(
    broker: EmbeddedBroker, stream_name: str, tmp_path: Path, bad: int, status: int
) -> None:
    done = publish(broker, stream_name, tmp_path / "in", [good(1), *[BAD] * bad, good(2)])
    assert done.status == status
    assert done.errors.count("is skipped") == bad
    assert there(broker, stream_name) == [b"1", b"2"]


@pytest.mark.parametrize(
    ("lines", "count", "published", "skipped"),
    [
        ([BAD, good(1), BAD, good(2), good(3), BAD], 2, [b"1", b"2"], 2),
        ([BAD, BAD, BAD, good(1)], 1, [b"1"], 3),
        ([good(1), BAD, BAD], 2, [b"1"], 2),
        ([good(1), good(2), BAD], 2, [b"1", b"2"], 0),
    ],
)
def test_what_is_skipped_does_not_count(
    broker: EmbeddedBroker,
    stream_name: str,
    tmp_path: Path,
    lines: list[str],
    count: int,
    published: list[bytes],
    skipped: int,
) -> None:
    done = publish(broker, stream_name, tmp_path / "in", lines, "--count", str(count))
    assert there(broker, stream_name) == published
    assert done.errors.count("is skipped") == skipped
    assert done.status == (3 if skipped else 0)


def test_what_is_skipped_does_not_count_from_block_to_block(
    broker: EmbeddedBroker, stream_name: str, tmp_path: Path
) -> None:
    """A file that takes many reads, in which each other record is bad."""
    lines = [line for number in range(30_000) for line in (BAD, good(number))]
    done = publish(broker, stream_name, tmp_path / "in", lines, "--count", "25000", "--rate", "1000000/s")
    assert len(there(broker, stream_name)) == 25_000
    assert done.status == 3


def test_what_is_too_large_leaves_its_room_to_what_was_read_with_it(
    broker: EmbeddedBroker, stream_name: str, tmp_path: Path
) -> None:
    """It turns out later than what is no message at all: the record behind it was read and is not lost."""
    large = f'{{"body": "{"x" * 2_000_000}"}}'
    done = publish(broker, stream_name, tmp_path / "in", [good(1), large, good(2), good(3)], "--count", "2")
    assert there(broker, stream_name) == [b"1", b"2"]
    assert done.errors.count("is skipped") == 1
    assert done.status == 3


def test_lines_of_failed_to_are_in_the_file_at_once(tmp_path: Path) -> None:
    """Nothing waits in a buffer, which a kill would take along."""
    path = tmp_path / "failed"
    with _open_failed(path, [], 0) as opened:
        file = FailedFile(opened, raw=False)
        for number in range(1, 4):
            file.add("s", [AMQPMessage(b"%d" % number).encode()], [None], "why")
            assert len(path.read_bytes().splitlines()) == number
