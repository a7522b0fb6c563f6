"""``rstream lag`` on each kind of broker: its numbers against what a scripted consumer did, and each exit code."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from rstream_core import Client
from tests.brokers import Broker
from tests.cli.conftest import Run, run_here
from tests.cli.process import eventually
from tests.cli.test_consume_trust import LONG, SMALL, Aside
from tests.clients import FIRST, closed_port, create_two_chunks, numbers, options_for, publish

NAME = "billing"
PARTITIONS = 6


@pytest.fixture
def aside(broker: Broker) -> Aside:
    return Aside(broker)


@pytest.fixture
def managed(broker: Broker) -> dict[str, str]:
    return {"RSTREAM_MANAGEMENT_URI": broker.management_uri}


@pytest.fixture
def events(aside: Aside, stream_name: str) -> Iterator[str]:
    """A stream of the messages 0 to 9 in one chunk, and 10 to 19 in another one, which is younger."""
    aside(lambda client: create_two_chunks(client, stream_name, 0.3))
    yield stream_name
    aside(lambda client: client.delete_stream(stream_name, missing_ok=True))


@pytest.fixture
def orders(aside: Aside, stream_name: str) -> Iterator[str]:
    """A super stream of six partitions; number n holds n chunks of ten messages."""

    async def create(client: Client) -> None:
        await client.create_super_stream(stream_name, partitions=PARTITIONS)
        for number in range(PARTITIONS):
            await publish(client, f"{stream_name}-{number}", *[numbers(*range(10))] * number)

    aside(create)
    yield stream_name
    aside(lambda client: client.delete_super_stream(stream_name, missing_ok=True))


def log_of(aside: Aside, stream: str) -> dict[int, int]:
    """The offset of each message, and when it was stored, in milliseconds."""

    async def read(client: Client) -> dict[int, int]:
        end = await client.last_offset(stream)
        found: dict[int, int] = {}
        if end is None:
            return found
        async with await client.subscribe(stream, FIRST) as subscription:
            async for chunk in subscription:
                found.update(dict.fromkeys(range(chunk.offset, chunk.last_offset + 1), chunk.timestamp))
                if chunk.last_offset >= end:
                    break
        return found

    return aside(read)


def lags(run: Run, *words: str, **settings: Any) -> tuple[list[dict[str, Any]], float, float]:
    """The objects of ``lag --json``, and when it began and ended."""
    began = time.time()
    done = run("lag", *words, "--json", **settings)
    assert (done.returncode, done.stderr) == (0, b"")
    return [json.loads(line) for line in done.stdout.splitlines()], began, time.time()


def check(row: Mapping[str, Any], log: Mapping[int, int], began: float, ended: float) -> None:
    """The row is what follows from its stored and last offset, and from the messages that the stream holds."""
    last, stored = row["last_offset"], row["stored_offset"]
    ahead = sorted(offset for offset in log if offset <= (-1 if last is None else last))
    left = [offset for offset in ahead if offset > (-1 if stored is None else stored)]
    assert (ahead[-1] if ahead else None) == last
    assert row["lag_messages"] == (left[-1] - left[0] + 1 if left else 0)
    if not left:
        assert row["lag_seconds"] == 0
        return
    since = log[left[0]] / 1000
    assert began - since - 0.01 <= row["lag_seconds"] <= ended - since + 0.01


def test_messages_and_seconds(run: Run, aside: Aside, events: str) -> None:
    for name, offset in (("early", 3), ("late", 14), ("between", 9), ("done", 19), ("beyond", 500)):
        aside.store_offset(events, name, offset)
    names = ("early", "late", "between", "done", "beyond")
    found, began, ended = lags(run, events, *(f"--name={name}" for name in names))
    log = log_of(aside, events)
    assert [(row["name"], row["stored_offset"], row["last_offset"], row["lag_messages"]) for row in found] == [
        ("early", 3, 19, 16),
        ("between", 9, 19, 10),
        ("late", 14, 19, 5),
        ("beyond", 500, 19, 0),
        ("done", 19, 19, 0),
    ]
    for row in found:
        assert (row["stream"], row["super_stream"], row["gone"], row["error"]) == (events, None, 0, None)
        if row["name"] != "beyond":
            check(row, log, began, ended)
    by_name = {row["name"]: row["lag_seconds"] for row in found}
    assert by_name["early"] >= by_name["between"] + 0.3 - 0.01
    assert by_name["between"] == by_name["late"]
    assert (by_name["done"], by_name["beyond"]) == (0, 0)


def test_stored_offsets_in_the_stream_do_not_hide_that_all_is_read(run: Run, aside: Aside, events: str) -> None:
    """Each takes an offset behind the last message, and one lies between messages."""
    for offset in (17, 18, 19):
        aside.store_offset(events, "done", offset)
    (row,), _, _ = lags(run, events, "--name", "done")
    assert (row["stored_offset"], row["last_offset"], row["lag_messages"], row["lag_seconds"]) == (19, 19, 0, 0)
    aside.store(events, numbers(20))
    (row,), began, ended = lags(run, events, "--name", "done")
    log = log_of(aside, events)
    assert max(log) > 20
    assert (row["last_offset"], row["lag_messages"]) == (max(log), 1)
    check(row, log, began, ended)


def test_six_partitions_of_which_some_have_no_stored_offset(run: Run, aside: Aside, orders: str) -> None:
    for number in (1, 3, 4):
        aside.store_offset(f"{orders}-{number}", NAME, 9)
    found, began, ended = lags(run, orders, "--name", NAME)
    assert [(row["stream"], row["stored_offset"], row["last_offset"], row["lag_messages"]) for row in found] == [
        (f"{orders}-5", None, 49, 50),
        (f"{orders}-4", 9, 39, 30),
        (f"{orders}-2", None, 19, 20),
        (f"{orders}-3", 9, 29, 20),
        (f"{orders}-0", None, None, 0),
        (f"{orders}-1", 9, 9, 0),
    ]
    for row in found:
        assert (row["super_stream"], row["name"]) == (orders, NAME)
        check(row, log_of(aside, row["stream"]), began, ended)


@contextlib.contextmanager
def growing(broker: Broker, streams: Sequence[str]) -> Iterator[None]:
    """Meanwhile each stream gets chunks of three messages, and a consumer stores offsets, some chunks behind."""
    stop = threading.Event()
    errors: list[BaseException] = []

    async def work(client: Client, stream: str) -> None:
        async with await client.subscribe(stream, FIRST, credit=2) as subscription:
            for number in range(10_000):
                await publish(client, stream, numbers(*range(number, number + 3)))
                if number > 4:
                    chunk = await anext(subscription)
                    await client.store_offset(stream, NAME, chunk.last_offset - number % 2)
                if stop.is_set():
                    return
                await asyncio.sleep(0.01)

    async def main() -> None:
        async with Client(options_for(broker)) as client, asyncio.TaskGroup() as group:
            for stream in streams:
                group.create_task(work(client, stream))

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    thread = threading.Thread(target=run, name="growing", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()
        if errors:
            raise errors[0]


@pytest.mark.parametrize("is_super", [False, True], ids=["a stream", "six partitions"])
def test_while_both_grow(run: Run, broker: Broker, aside: Aside, stream_name: str, is_super: bool) -> None:
    if is_super:
        streams = [f"{stream_name}-{number}" for number in range(PARTITIONS)]
        aside(lambda client: client.create_super_stream(stream_name, partitions=PARTITIONS))
    else:
        streams = [stream_name]
        aside(lambda client: client.create_stream(stream_name))
    samples = []
    try:
        with growing(broker, streams):
            eventually(lambda: run("lag", stream_name, "--name", NAME).returncode == 0)
            for _ in range(8):
                samples.append(lags(run, stream_name, "--name", NAME))
                time.sleep(0.1)
        logs = {stream: log_of(aside, stream) for stream in streams}
    finally:
        if is_super:
            aside(lambda client: client.delete_super_stream(stream_name))
        else:
            aside(lambda client: client.delete_stream(stream_name))
    for found, began, ended in samples:
        assert sorted(row["stream"] for row in found) == streams
        for row in found:
            check(row, logs[row["stream"]], began, ended)
    for stream in streams:  # both grew
        rows = [row for found, _, _ in samples for row in found if row["stream"] == stream]
        assert rows[0]["last_offset"] < rows[-1]["last_offset"]
        assert (rows[0]["stored_offset"] or 0) < rows[-1]["stored_offset"]


def test_all_names_of_the_management_api(run: Run, aside: Aside, orders: str, managed: dict[str, str]) -> None:
    """RabbitMQ's API may show a stored offset a moment late."""
    aside.store_offset(f"{orders}-5", NAME, 9)
    aside.store_offset(f"{orders}-2", "audit", 19)

    def both() -> list[dict[str, Any]]:
        found, _, _ = lags(run, orders, env=managed)
        return found if {row["name"] for row in found} == {NAME, "audit"} else []

    found = eventually(both, within=30)
    assert len(found) == 2 * PARTITIONS
    left = {(row["name"], row["stream"]): row["lag_messages"] for row in found}
    assert (left[NAME, f"{orders}-5"], left[NAME, f"{orders}-2"]) == (40, 20)
    assert (left["audit", f"{orders}-5"], left["audit", f"{orders}-2"]) == (50, 0)


def test_a_table(run: Run, aside: Aside, events: str) -> None:
    for name, offset in (("early", 3), ("done", 19)):
        aside.store_offset(events, name, offset)
    done = run("lag", events, "--name", "early", "--name", "done")
    assert (done.returncode, done.stderr) == (0, b"")
    head, *rows = [line.split() for line in done.stdout.decode().splitlines()]
    assert head == ["name", "stored", "last", "messages", "behind"]
    assert [row[:4] for row in rows] == [["early", "3", "19", "16"], ["done", "19", "19", "0"]]
    assert rows[1][4:] == ["0", "s"]


def test_a_table_of_partitions(run: Run, aside: Aside, orders: str) -> None:
    aside.store_offset(f"{orders}-5", NAME, 9)
    done = run("lag", orders, "--name", NAME)
    lines = done.stdout.decode().replace(orders, "o").splitlines()
    shown = [line.split() for line in lines]
    if shown[1][0] == "stored":  # the names make it wider than 80 columns: they stand in lines of their own
        shown = [left + right for left, right in zip(shown[::2], shown[1::2], strict=True)]
    assert shown[0] == ["name", "partition", "stored", "last", "messages", "behind"]
    assert shown[1][:3] == [NAME, "(all)", "140"]
    assert [row[:5] for row in shown[2:]] == [
        [NAME, "o-4", "-", "39", "40"],
        [NAME, "o-5", "9", "49", "40"],
        [NAME, "o-3", "-", "29", "30"],
        [NAME, "o-2", "-", "19", "20"],
        [NAME, "o-1", "-", "9", "10"],
        [NAME, "o-0", "-", "-", "0"],
    ]


def test_what_retention_has_taken(run: Run, aside: Aside, stream_name: str) -> None:
    """It is told, counts as over every limit, and what is left begins with the stream's first message."""
    aside(lambda client: client.create_stream(stream_name, SMALL))
    try:
        aside.store(stream_name, [LONG])
        begins = aside.lose(stream_name)
        stored = begins - 5  # a broker forgets stored offsets before the stream's first one, with its next segment
        for name, offset in ((NAME, stored), ("done", 10_000)):
            aside.store_offset(stream_name, name, offset)
        (lost, done), began, ended = lags(run, stream_name, "--name", NAME, "--name", "done")
        log = log_of(aside, stream_name)
        first, last = min(log), max(log)
        assert (lost["name"], lost["stored_offset"], lost["last_offset"]) == (NAME, stored, last)
        assert lost["gone"] == 4
        assert lost["lag_messages"] == last - first + 1
        assert began - log[first] / 1000 - 0.01 <= lost["lag_seconds"] <= ended - log[first] / 1000 + 0.01
        assert (done["gone"], done["lag_messages"]) == (0, 0)
        table = run("lag", stream_name, "--name", NAME).stdout.decode().splitlines()
        assert (table[0].split()[-1], table[1].split()[-1]) == ("gone", "4")
        failed = run("lag", stream_name, "--name", NAME, "--name", "done", "--fail-over", "1000h")
        assert failed.returncode == 10
        assert failed.stderr.decode().startswith(
            f"error: 1 of 2 over --fail-over in '{stream_name}': 'billing' is {last - first + 1} messages ("
        )
        assert failed.stderr.decode().endswith(" behind, and retention took 4 offsets unread\n")
        assert run("lag", stream_name, "--name", "done", "--fail-over", "0").returncode == 0
    finally:
        aside(lambda client: client.delete_stream(stream_name, missing_ok=True))


@pytest.mark.parametrize(
    ("limit", "status"), [("139", 10), ("140", 0), ("0", 10), ("1h", 0), ("1ms", 10), ("0s", 10), ("0.001s", 10)]
)
def test_fail_over(run: Run, aside: Aside, orders: str, limit: str, status: int) -> None:
    """The messages of all partitions count together: 40 of one, and 100 of the others."""
    aside.store_offset(f"{orders}-5", NAME, 9)
    done = run("lag", orders, "--name", NAME, "--fail-over", limit)
    assert done.returncode == status
    assert done.stdout.decode().startswith("name ")
    if status:
        assert done.stderr.decode().startswith(
            f"error: 1 of 1 over --fail-over in '{orders}': 'billing' is 140 messages ("
        )
    else:
        assert done.stderr == b""


def test_who_has_read_all_is_over_no_limit(run: Run, aside: Aside, events: str) -> None:
    aside.store_offset(events, NAME, 19)
    for limit in ("0", "0s", "1ms"):
        assert run("lag", events, "--name", NAME, "--fail-over", limit).returncode == 0


@pytest.mark.parametrize(
    ("words", "status", "error"),
    [
        (("EVENTS", "--name", "nobody"), 4, "no offset is stored as 'nobody' in stream 'EVENTS'"),
        (("no such", "--name", NAME), 4, "there is no stream and no super stream 'no such'"),
        (("EVENTS", "--name", NAME, "--fail-over", "soon"), 2, "--fail-over: neither a number of messages nor a"),
        (("EVENTS", "--name", NAME, "--fail-over", "-1"), 2, "--fail-over: neither a number of messages nor a"),
        (("EVENTS", "--name", ""), 2, "the reference (--name) is empty"),
        (("EVENTS", "--json", "--output", "table"), 2, "--json and --output table contradict each other"),
    ],
)
def test_what_is_refused(run: Run, events: str, words: tuple[str, ...], status: int, error: str) -> None:
    done = run("lag", *(events if word == "EVENTS" else word for word in words))
    assert (done.returncode, done.stdout) == (status, b"")
    found = done.stderr.decode()
    message = json.loads(found)["message"] if found.startswith("{") else found.removeprefix("error: ")
    assert message.startswith(error.replace("EVENTS", events))


def test_a_name_that_is_stored_in_no_partition(run: Run, orders: str) -> None:
    done = run("lag", orders, "--name", NAME)
    assert (done.returncode, done.stdout) == (4, b"")
    assert f"no offset is stored as 'billing' in any partition of super stream '{orders}'" in done.stderr.decode()


def test_without_the_management_api(run: Run, aside: Aside, events: str) -> None:
    """With a name it is not asked for; without one, the hint says so."""
    aside.store_offset(events, NAME, 3)
    with closed_port() as port:
        nowhere = {"RSTREAM_MANAGEMENT_URI": f"http://localhost:{port}"}
        assert run("lag", events, "--name", NAME, env=nowhere).returncode == 0
        done = run("lag", events, env=nowhere)
    assert (done.returncode, done.stdout) == (6, b"")
    assert "with --name REF it is not needed" in done.stderr.decode().splitlines()[1]


def test_no_names_at_all(run: Run, events: str, managed: dict[str, str]) -> None:
    done = run("lag", events, env=managed)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    done = run("lag", events, "--fail-over", "5", env=managed)
    assert (done.returncode, done.stdout) == (4, b"")
    assert "so there is no lag to check" in done.stderr.decode()


def test_a_person_is_told_of_consumers_without_a_stored_offset(
    broker: Broker, aside: Aside, events: str, managed: dict[str, str]
) -> None:
    aside.store_offset(events, NAME, 3)
    env = {"RSTREAM_URI": broker.uri, "COLUMNS": "200", **managed}

    async def reading(client: Client) -> str:
        async with await client.subscribe(events, FIRST, properties={"name": "viewer"}) as subscription:
            await anext(subscription)

            def told() -> str:
                done = run_here("lag", events, env=env, terminal=True)
                assert done.status == 0
                return done.errors if NAME in done.output and "viewer" in done.errors else ""

            found: str = await asyncio.to_thread(eventually, told, within=30)
            return found

    assert aside(reading).startswith(f"reading without a stored offset: 'viewer' in '{events}'")
