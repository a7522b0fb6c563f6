"""``rstream superstream consume``, ``sac-consume`` and ``--filter`` on each kind of broker."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import subprocess
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from rstream_core import AMQPMessage, Client
from tests.brokers import Broker
from tests.cli.conftest import Run, run_rstream
from tests.cli.process import ended, eventually, interrupt, running, summary_of
from tests.clients import at, numbers, options_for, publish, publish_filtered


@pytest.fixture
def run(env: dict[str, str]) -> Run:
    return lambda *arguments, **settings: run_rstream(*arguments, env=env, timeout=60.0, **settings)


@pytest.fixture
def orders(broker: Broker, stream_name: str) -> Iterator[str]:
    """A super stream: partition 0 holds 0 to 4, partition 1 holds 5 to 7, partition 2 nothing."""

    async def create() -> None:
        async with Client(options_for(broker)) as client:
            await client.create_super_stream(stream_name, partitions=3)
            await publish(client, f"{stream_name}-0", numbers(0, 1, 2), numbers(3, 4))
            await publish(client, f"{stream_name}-1", numbers(5, 6, 7))

    async def delete() -> None:
        async with Client(options_for(broker)) as client:
            await client.delete_super_stream(stream_name, missing_ok=True)

    asyncio.run(asyncio.wait_for(create(), 60))
    yield stream_name
    asyncio.run(delete())


def lines(data: bytes) -> list[str]:
    return sorted(data.decode().splitlines())


# --- all partitions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("-o", "first", "--until", "end"), "01234567"),
        (("-o", "-2", "--until", "end"), "3467"),
        (("-o", "last", "--until", "end"), "34567"),
        (("-o", "next", "--until", "end"), ""),
        (("-o", "-1h", "--until", "end"), "01234567"),
        (("-o", "stored", "--name", "me", "--until", "end"), "01234567"),
        (("-o", "first", "-n", "8"), "01234567"),
        (("-o", "first", "--idle-timeout", "5s"), "01234567"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_where_it_starts_and_stops(run: Run, orders: str, options: tuple[str, ...], expected: str) -> None:
    done = run("superstream", "consume", orders, *options)
    assert (done.returncode, done.stderr) == (0, b"")
    assert lines(done.stdout) == list(expected)


def test_each_line_may_show_its_partition(run: Run, orders: str) -> None:
    template = run("superstream", "consume", orders, "-o", "first", "--until", "end", "-f", r"%t %o %s\n")
    as_json = run("superstream", "consume", orders, "-o", "first", "--until", "end", "--json")
    expected = {f"{orders}-0": [(n, str(n)) for n in range(5)], f"{orders}-1": [(n, str(n + 5)) for n in range(3)]}
    seen: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for line in template.stdout.decode().splitlines():
        partition, offset, body = line.split()
        seen[partition].append((int(offset), body))
    assert seen == expected
    seen.clear()
    for record in map(json.loads, as_json.stdout.splitlines()):
        seen[record["stream"]].append((record["offset"], record["body"]))
    assert seen == expected


def test_offsets_are_stored_for_each_partition(run: Run, orders: str) -> None:
    done = run("superstream", "consume", orders, "-o", "stored", "--name", "me", "-n", "4")
    rest = run("superstream", "consume", orders, "-o", "stored", "--name", "me", "--until", "end", "--stats", "json")
    assert lines(done.stdout + rest.stdout) == list("01234567")
    summary = summary_of(rest.stderr)
    assert (summary["consumed"], summary["exit_code"]) == (4, 0)
    for number, last in ((0, 4), (1, 2)):
        query = run("offset", "query", f"{orders}-{number}", "--name", "me")
        assert query.stdout == b"%d\n" % last


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("superstream", "consume", "NAME", "-o", "3"), 2, "an offset of one partition"),
        (("superstream", "consume", "NAME", "--until", "3"), 2, "an offset of one partition"),
        (("superstream", "consume", "missing"), 4, "super stream 'missing'"),
        (("superstream", "consume", "NAME", "-o", "stored"), 2, "needs --name"),
        (("sac-consume", "NAME"), 2, "--name"),
        (("sac-consume", "missing", "--name", "g"), 4, "no stream and no super stream 'missing'"),
        (("sac-consume", "NAME", "--name", "g", "-o", "3"), 2, "is a super stream"),
        (("sac-consume", "NAME", "--name", "g", "--until", "3"), 2, "takes only end"),
        (("consume", "NAME-0", "--filter-from", ".a"), 2, "needs --filter"),
        (("consume", "NAME-0", "--match-unfiltered"), 2, "needs --filter"),
        (("consume", "NAME-0", "--filter", "a", "--filter-from", "a"), 2, "not a path"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_work(run: Run, orders: str, arguments: tuple[str, ...], code: int, words: str) -> None:
    done = run(*(argument.replace("NAME", orders) for argument in arguments))
    assert done.returncode == code
    assert words in done.stderr.decode()
    assert done.stdout == b""


def test_a_signal_and_a_closed_pipe(orders: str, env: dict[str, str], run: Run) -> None:
    options = ("superstream", "consume", orders, "-o", "first", "--name", "me")
    with running(*options, "--stats", "json", env=env) as process:
        assert process.stdout is not None
        got = [process.stdout.readline() for _ in range(8)]
        interrupt(process, signal.SIGTERM)
        code, errors = ended(process)
    assert (code, lines(b"".join(got))) == (143, list("01234567"))
    assert summary_of(errors)["consumed"] == 8
    assert run("offset", "query", f"{orders}-0", "--name", "me").stdout == b"4\n"
    with running(*options[:5], env=env) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert ended(process) == (141, "")


# --- filters ---------------------------------------------------------------------------------------------------


@pytest.fixture
def regions(broker: Broker, stream_name: str) -> Iterator[str]:
    """Chunks of eu, of us and of both, and one without filter values; the value is in the body or a header."""

    def body(number: int, region: str) -> bytes:
        return AMQPMessage(body=json.dumps({"n": number, "region": region})).encode()

    def header(number: int, region: str) -> bytes:
        return AMQPMessage(body=str(number), application_properties={"region": region}).encode()

    async def create() -> None:
        options = options_for(broker)
        async with Client(options) as client:
            both: list[bytes] = []
            while len(both) != 3:  # a busy broker may put messages of one frame into two chunks
                await client.delete_stream(stream_name, missing_ok=True)
                await client.create_stream(stream_name)
                await publish_filtered(
                    options,
                    stream_name,
                    [("eu", body(n, "eu")) for n in range(5)],
                    [("us", body(n, "us")) for n in range(5, 10)],
                    [("eu", body(10, "eu")), ("us", body(11, "us")), ("eu", header(12, "eu"))],
                )
                async with await client.subscribe(stream_name, at(10)) as subscription:
                    both = list((await anext(subscription)).messages)
            await publish(client, stream_name, [AMQPMessage(body='{"n":13}').encode()])

    async def delete() -> None:
        async with Client(options_for(broker)) as client:
            await client.delete_stream(stream_name, missing_ok=True)

    asyncio.run(asyncio.wait_for(create(), 60))
    yield stream_name
    asyncio.run(delete())


@pytest.mark.parametrize(
    ("options", "offsets"),
    [
        (("--filter", "eu"), [0, 1, 2, 3, 4, 10, 11, 12]),
        (("--filter", "eu", "--filter-from", ".region"), [0, 1, 2, 3, 4, 10]),
        (("--filter", "eu", "--filter-from", ".headers.region"), [12]),
        (("--filter", "eu", "--filter-from", ".region", "--match-unfiltered"), [0, 1, 2, 3, 4, 10, 12, 13]),
        (("--filter", "eu", "--filter", "us", "--filter-from", ".region", "-n", "6"), [0, 1, 2, 3, 4, 5]),
        (("--filter", "nowhere"), []),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_filters(run: Run, regions: str, options: tuple[str, ...], offsets: list[int]) -> None:
    # Where an offset is looked at, what ends the run must not store another.
    end = ("--idle-timeout", "5s") if options[-1] == ".headers.region" else ("--until", "end")
    done = run("consume", regions, "-o", "first", *options, *end, "-f", r"%o\n", "--name", "me")
    assert (done.returncode, done.stderr) == (0, b"")
    assert list(map(int, done.stdout.split())) == offsets
    if options[-1] == ".headers.region":  # what was passed over is done with, too
        assert run("offset", "query", regions, "--name", "me").stdout == b"12\n"


# --- single active consumers -----------------------------------------------------------------------------------


def test_one_after_the_other_on_a_stream(run: Run, orders: str, env: dict[str, str]) -> None:
    stream = f"{orders}-0"
    options = ("sac-consume", stream, "--name", "group")
    with running(*options, env=env) as first:
        assert first.stdout is not None
        assert [first.stdout.readline() for _ in range(5)] == [b"%d\n" % n for n in range(5)]
        with running(*options, "-n", "1", env=env) as second:
            assert second.stderr is not None
            assert second.stderr.readline().decode() == f"waiting for a turn as 'group': '{stream}'\n"
            interrupt(first)
            code, errors = ended(first)
            assert (code, errors.splitlines()[1]) == (130, f"active on '{stream}'")
            assert run("publish", stream, "-m", "more").returncode == 0
            code, errors = ended(second)
            assert (code, errors) == (0, f"active on '{stream}'\n")
            assert second.stdout is not None
            assert second.stdout.read() == b"more\n"


def event_of(process: subprocess.Popen[bytes], event: str) -> str:
    """The stream of the next such event."""
    assert process.stderr is not None
    while True:
        told = json.loads(process.stderr.readline())
        if told["event"] == event:
            return str(told["stream"])


def test_a_partition_is_handed_over(run: Run, orders: str, env: dict[str, str]) -> None:
    """The first has it, until the second comes; it stores, says so, and the second goes on."""
    options = ("sac-consume", orders, "--name", "group", "--store-every", "1000", "--stats", "json")
    with running(*options, env=env) as first:
        assert first.stdout is not None
        assert sorted(event_of(first, "active") for _ in range(3)) == [f"{orders}-{number}" for number in range(3)]
        assert lines(b"".join(first.stdout.readline() for _ in range(8))) == list("01234567")
        with running(*options, env=env) as second:
            assert event_of(first, "idle") == f"{orders}-1"
            assert run("offset", "query", f"{orders}-1", "--name", "group").stdout == b"2\n"
            assert run("publish", f"{orders}-1", "-m", "8").returncode == 0
            assert second.stdout is not None
            assert second.stdout.readline() == b"8\n"
            interrupt(second)
            assert ended(second)[0] == 130
        assert event_of(first, "active") == f"{orders}-1"
        assert run("publish", f"{orders}-1", "-m", "9").returncode == 0
        assert first.stdout.readline() == b"9\n"


def test_until_the_group_has_read_everything(run: Run, orders: str, env: dict[str, str]) -> None:
    options = ("sac-consume", orders, "--name", "group", "--until", "end")
    with running(*options, env=env) as other:
        one = run(*options)
        code, errors = ended(other)
        assert other.stdout is not None
        assert (one.returncode, code) == (0, 0), errors
        assert lines(one.stdout + other.stdout.read()) == list("01234567")
    again = run(*options)
    assert (again.returncode, again.stdout) == (0, b"")


MESSAGES = 100_000
PARTITIONS = 6
STORE_EVERY = 500
BATCH = 1000
"""Messages that go to a partition at once: those of a chunk, at most."""


class Workers:
    """``sac-consume`` processes, each writing to a file of its own; one may be killed, and another started."""

    def __init__(self, name: str, env: dict[str, str], folder: Path, stack: contextlib.ExitStack) -> None:
        store = ("--store-every", str(STORE_EVERY))
        self._arguments = ("sac-consume", name, "--name", "group", *store, "-q", "-f", r"%t %s\n")
        self._env = env
        self._folder = folder
        self._stack = stack
        self._files: list[Path] = []
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        path = self._folder / f"out-{len(self._files)}"
        self._files.append(path)
        with path.open("wb") as out:
            process = running(*self._arguments, env=self._env, stdout=out, stderr=subprocess.DEVNULL)
            self._processes.append(self._stack.enter_context(process))

    def kill_one(self) -> None:
        victim = self._processes.pop(random.randrange(len(self._processes)))
        victim.kill()
        victim.wait()

    def read(self) -> list[list[tuple[str, int]]]:
        """What each process has written: partition and number. A line that a kill cut off is left out."""
        found = []
        for path in self._files:
            complete = path.read_bytes().rpartition(b"\n")[0].decode()
            found.append([(stream, int(number)) for stream, number in map(str.split, complete.splitlines())])
        return found


@pytest.mark.slow
def test_three_processes_share_six_partitions_and_one_is_killed_now_and_then(
    broker: Broker, stream_name: str, env: dict[str, str], tmp_path: Path
) -> None:
    """Every message comes out, in order, and what comes again is no more than what was not stored."""
    partitions = [f"{stream_name}-{number}" for number in range(PARTITIONS)]
    fed, killed_twice = threading.Event(), threading.Event()

    async def feed() -> None:
        async with Client(options_for(broker)) as client:
            publishers = [await client.publisher(partition) for partition in partitions]
            for start in range(0, MESSAGES, BATCH * PARTITIONS):
                if start + BATCH * PARTITIONS >= MESSAGES:
                    await asyncio.to_thread(killed_twice.wait, 60)
                for place, publisher in enumerate(publishers):
                    numbered = range(start + place, min(start + BATCH * PARTITIONS, MESSAGES), PARTITIONS)
                    await publisher.publish(numbers(*numbered))
                    await publisher.flush(30)
                await asyncio.sleep(0.3)  # processes are to be killed while messages go in
            for publisher in publishers:
                await publisher.close()
        fed.set()

    async def administrate(*, create: bool) -> None:
        async with Client(options_for(broker)) as client:
            if create:
                await client.create_super_stream(stream_name, partitions=PARTITIONS)
            else:
                await client.delete_super_stream(stream_name, missing_ok=True)

    asyncio.run(administrate(create=True))
    feeder = threading.Thread(target=lambda: asyncio.run(feed()), daemon=True)
    kills = 0
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: asyncio.run(administrate(create=False)))
        workers = Workers(stream_name, env, tmp_path, stack)
        for _ in range(3):
            workers.start()
        feeder.start()
        while not fed.wait(2.0):
            workers.kill_one()
            workers.start()
            kills += 1
            assert kills < 100, "the feeder does not end"
            if kills == 2:
                killed_twice.set()

        def is_complete() -> bool:
            return len({number for rows in workers.read() for _, number in rows}) == MESSAGES

        eventually(is_complete, within=60)
        outputs = workers.read()
    feeder.join(30)
    assert kills >= 2
    check_order(outputs, kills)
    written = sum(map(len, outputs))
    # A process that is killed has not stored what it wrote since the last time, which is looked at chunk by chunk.
    assert written - MESSAGES <= kills * PARTITIONS * (STORE_EVERY + BATCH)


def check_order(outputs: list[list[tuple[str, int]]], kills: int) -> None:
    """Within a turn nothing is left out of a partition; there are no more turns than there was reason for."""
    turns = 0
    for rows in outputs:
        last: dict[str, int] = {}
        for stream, number in rows:
            assert stream.endswith(f"-{number % PARTITIONS}")
            if stream not in last or number != last[stream] + PARTITIONS:
                turns += 1
            last[stream] = number
    # Three processes join, and each that is killed leaves and another joins: each time all partitions may move.
    assert turns <= (3 + 2 * kills) * PARTITIONS
