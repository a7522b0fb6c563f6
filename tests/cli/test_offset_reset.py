"""``rstream offset reset`` and ``offset list``, on each kind of broker: each reset is shown by reading."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from rstream_core import Client, OffsetNotFound
from tests.brokers import Broker
from tests.cli.conftest import Run, environment
from tests.cli.in_process import Run as InProcess
from tests.cli.test_consume_trust import LONG, SMALL, Aside
from tests.clients import create_two_chunks, numbers, publish

NAME = "billing"


@pytest.fixture
def aside(broker: Broker) -> Aside:
    return Aside(broker)


@pytest.fixture
def filled(aside: Aside, stream_name: str) -> Iterator[str]:
    """A stream of the messages 0 to 9 in one chunk, and 10 to 19 in another one, which is younger."""
    aside(lambda client: create_two_chunks(client, stream_name, 0.05))
    yield stream_name
    aside(lambda client: client.delete_stream(stream_name, missing_ok=True))


@pytest.fixture
def orders(broker: Broker, aside: Aside, stream_name: str) -> Iterator[str]:
    """A super stream: partition 0 holds 0 to 4, partition 1 holds 5 to 7, partition 2 nothing."""

    async def create(client: Client) -> None:
        await client.create_super_stream(stream_name, partitions=3)
        await publish(client, f"{stream_name}-0", numbers(0, 1, 2), numbers(3, 4))
        await publish(client, f"{stream_name}-1", numbers(5, 6, 7))

    aside(create)
    yield stream_name
    aside(lambda client: client.delete_super_stream(stream_name, missing_ok=True))


def rest(run: Run, stream: str) -> list[int]:
    """What a consumer of the name reads now; it stores nothing."""
    done = run("consume", stream, "-o", f"{next_of(run, stream)}", "--until", "end")
    assert done.returncode == 0
    return [int(line) for line in done.stdout.split()]


def next_of(run: Run, stream: str) -> int:
    return int(run("offset", "resolve", stream, "stored", "--name", NAME).stdout)


def stored(aside: Aside, stream: str) -> int | None:
    try:
        return aside.stored(stream, NAME)
    except OffsetNotFound:
        return None


@pytest.mark.parametrize("before", [None, 0, 14])
@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("7", range(7, 20)),
        ("1", range(1, 20)),
        ("-3", range(17, 20)),
        ("last", range(10, 20)),
        ("next", range(0)),
        ("TIME", range(10, 20)),
        ("-1h", range(20)),
        ("first", range(20)),
    ],
)
def test_what_is_read_next(run: Run, aside: Aside, filled: str, before: int | None, to: str, expected: range) -> None:
    if before is not None:
        aside.store_offset(filled, NAME, before)
    if to == "TIME":
        done = run("consume", filled, "-o", "10", "-n", "1", "--json")
        to = json.loads(done.stdout)["timestamp"]
    done = run("offset", "reset", filled, "--name", NAME, f"--to={to}", "--yes")
    if before is not None and expected == range(20):
        assert (done.returncode, done.stdout) == (9, b"")
        assert done.stderr.decode() == (
            f"error: --to {to} is offset 0 of stream '{filled}', and offset {before} is stored as 'billing':"
            " a stored offset cannot be taken back\n"
            "hint: nothing was changed; use another name, or read with --offset first\n"
        )
        assert stored(aside, filled) == before
        return
    assert (done.returncode, done.stderr) == (0, b"")
    assert rest(run, filled) == list(expected)
    told = "no offset was stored" if before is None else f"it was {before + 1}"
    if before == 0 and to == "1":
        told = "as before"
    elif expected == range(20):
        told = "no offset is stored"
    assert done.stdout.decode() == f"'{filled}': the next message is {next_of(run, filled)} ({told})\n"


def test_a_dry_run_changes_nothing(run: Run, aside: Aside, filled: str) -> None:
    aside.store_offset(filled, NAME, 14)
    done = run("offset", "reset", filled, "--name", NAME, "--to", "7", "--dry-run")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == f"would change: '{filled}': the next message is 7 (it was 15)\n"
    done = run("offset", "reset", filled, "--name", NAME, "--to", "7", "--dry-run", "--json")
    record = {"stream": filled, "name": NAME, "stored_before": 14, "stored": 14, "next": 7, "changed": False}
    assert json.loads(done.stdout) == record
    assert stored(aside, filled) == 14
    done = run("offset", "reset", filled, "--name", NAME, "--to", "7", "--yes", "--json")
    assert json.loads(done.stdout) == {**record, "stored": 6, "changed": True}
    assert stored(aside, filled) == 6


def test_beyond_the_end(run: Run, aside: Aside, filled: str) -> None:
    done = run("offset", "reset", filled, "--name", NAME, "--to", "100", "--yes")
    assert (done.returncode, done.stdout) == (9, b"")
    assert done.stderr.decode() == (
        f"error: offset 100 is beyond the end of stream '{filled}', whose next offset is 20\n"
        "hint: nothing was changed; --to next skips all that is there\n"
    )
    assert stored(aside, filled) is None


def test_what_retention_has_taken(run: Run, aside: Aside, stream_name: str) -> None:
    """The first message is read next, and the offset before it is stored, though it is gone."""
    aside(lambda client: client.create_stream(stream_name, SMALL))
    try:
        aside.store(stream_name, [LONG])
        begins = aside.lose(stream_name)
        for to in ("first", "3"):
            done = run("offset", "reset", stream_name, "--name", NAME, "--to", to, "--yes")
            assert (done.returncode, done.stderr) == (0, b"")
        done = run("consume", stream_name, "-o", "stored", "--name", NAME, "-n", "1", "-f", "%o")
        assert int(done.stdout) >= begins
    finally:
        aside(lambda client: client.delete_stream(stream_name, missing_ok=True))


def test_all_partitions_or_none(run: Run, aside: Aside, orders: str) -> None:
    """Partition 2 is empty: its next message is that at offset 0, which is no change where nothing is stored."""
    done = run("offset", "reset", orders, "--name", NAME, "--to", "next", "--yes", "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(each["stream"], each["next"], each["stored"], each["changed"]) for each in told] == [
        (f"{orders}-0", 5, 4, True),
        (f"{orders}-1", 3, 2, True),
        (f"{orders}-2", 0, None, False),
    ]
    done = run("superstream", "consume", orders, "-o", "stored", "--name", NAME, "--until", "end")
    assert done.stdout == b""

    aside(lambda client: client.store_offset(f"{orders}-2", NAME, 7, verify_timeout=20))
    before = [stored(aside, f"{orders}-{number}") for number in range(3)]
    done = run("offset", "reset", orders, "--name", NAME, "--to", "-1", "--yes")
    assert (done.returncode, done.stdout) == (9, b"")
    assert f"--to -1 is offset 0 of stream '{orders}-2', and offset 7 is stored as 'billing'" in done.stderr.decode()
    assert [stored(aside, f"{orders}-{number}") for number in range(3)] == before


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        (("STREAM", "--to", "stored"), 2, "--to: a reset to the stored offset changes nothing"),
        (("STREAM", "--to", "yesterday"), 2, "--to: "),
        (("STREAM", "--to", "-0"), 2, "--to: -0 means no message at all"),
        (("no such", "--to", "next", "--yes"), 4, "there is no stream and no super stream 'no such'"),
        (("STREAM", "--to", "next"), 2, "cannot ask whether to reset the offset: there is no terminal"),
    ],
)
def test_what_is_refused(
    run: Run, aside: Aside, filled: str, arguments: tuple[str, ...], status: int, error: str
) -> None:
    words = [filled if word == "STREAM" else word for word in arguments]
    done = run("offset", "reset", *words, "--name", NAME)
    assert (done.returncode, done.stdout) == (status, b"")
    assert done.stderr.decode().startswith(f"error: {error}")
    assert stored(aside, filled) is None


def test_a_number_means_nothing_to_a_super_stream(run: Run, orders: str) -> None:
    done = run("offset", "reset", orders, "--name", NAME, "--to", "3", "--yes")
    assert (done.returncode, done.stdout) == (2, b"")
    assert "is a super stream, and a number is an offset of one partition" in done.stderr.decode()


@pytest.mark.parametrize(("answer", "expected"), [(b"n\n", None), (b"\n", None), (b"", None), (b"y\n", 6)])
def test_a_person_is_asked(env: dict[str, str], aside: Aside, filled: str, answer: bytes, expected: int | None) -> None:
    words = ("offset", "reset", filled, "--name", NAME, "--to", "7")
    done = InProcess(words, environment({**env, "TERM": "dumb"}), answer, terminal=True).finish()
    assert done.returncode == 0
    told = done.stderr.decode()
    assert told.startswith(f"Make consumers of 'billing' read '{filled}' from 7 on? [y/N] ")
    assert told.endswith("nothing was changed\n") is (expected is None)
    assert stored(aside, filled) == expected


# --- offset list -------------------------------------------------------------------------------------------------


@pytest.fixture
def managed(broker: Broker) -> dict[str, str]:
    return {"RSTREAM_MANAGEMENT_URI": broker.management_uri}


def listed(run: Run, stream: str, managed: dict[str, str], count: int) -> list[list[str]]:
    """The lines, once there are ``count``: RabbitMQ's API may show a stored offset a moment late."""
    until = time.monotonic() + 30
    while True:
        done = run("offset", "list", stream, env=managed)
        assert done.returncode == 0
        found = [line.split("\t") for line in done.stdout.decode().splitlines()]
        if len(found) == count or time.monotonic() > until:
            return found
        time.sleep(0.05)


def test_names_and_offsets(run: Run, aside: Aside, filled: str, managed: dict[str, str]) -> None:
    done = run("offset", "list", filled, env=managed)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    for name, offset in (("b\tc\x1b", 3), ("a", 14)):
        aside.store_offset(filled, name, offset)
    assert listed(run, filled, managed, 2) == [[filled, "a", "14"], [filled, r"b\tc\x1b", "3"]]
    done = run("offset", "list", filled, "--json", env=managed)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"stream": filled, "name": "a", "offset": 14},
        {"stream": filled, "name": "b\tc\x1b", "offset": 3},
    ]


def test_names_of_all_partitions(run: Run, aside: Aside, orders: str, managed: dict[str, str]) -> None:
    for number in (0, 1):
        aside(
            lambda client, stream=f"{orders}-{number}": client.store_offset(stream, NAME, 1, verify_timeout=20)  # type: ignore[misc]
        )
    assert listed(run, orders, managed, 2) == [[f"{orders}-0", NAME, "1"], [f"{orders}-1", NAME, "1"]]
