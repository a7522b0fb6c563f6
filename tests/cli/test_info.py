"""``stream info`` and ``superstream info`` for people, with the management API and without; names that were meant."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from rstream_cli.management.answers import ListedConsumer, ListedStream
from rstream_cli.render import words
from rstream_cli.render.columns import width
from rstream_cli.render.facts import WIDTH, stream_text, super_stream_text
from rstream_cli.stream_facts import Facts, Listed
from rstream_core import Endpoint
from rstream_core.types import StreamMetadata, StreamStats
from tests.brokers import Broker
from tests.cli.conftest import Run, run_rstream
from tests.cli.process import running
from tests.clients import PATIENCE

NOW = 1_796_040_000.0


def facts(name: str = "s", first: int | None = 0, last: int | None = 1_234_566, **more: Any) -> Facts:
    leader = more.get("leader", Endpoint("rabbit-1", 5552))
    return Facts(StreamMetadata(name, leader, more.get("replicas", ())), StreamStats(first, last, last, last), last)


def listed_stream(name: str = "s", **more: Any) -> ListedStream:
    values: dict[str, Any] = {
        "arguments": {},
        "policy": None,
        "policy_arguments": {},
        "leader": "rabbit@a",
        "replicas": ("rabbit@a", "rabbit@b", "rabbit@c"),
        "online": ("rabbit@a", "rabbit@b", "rabbit@c"),
        "messages": 5,
        "segments": 3,
        "state": "running",
    }
    return ListedStream(name, **{**values, **more})


def consumer(name: str | None, *, active: bool = True) -> ListedConsumer:
    return ListedConsumer("s", name, active, False, None, 0, 0, 0, "127.0.0.1:1 -> 127.0.0.1:5552", "guest")


def rows_of(text: str) -> dict[str, str]:
    assert all(len(line) <= WIDTH for line in text.splitlines())
    return dict(line.split(maxsplit=1) for line in text.splitlines() if line[0] != " ")


class TestText:
    def test_without_the_api(self) -> None:
        times = int((NOW - 200_000) * 1000), int((NOW - 5) * 1000)
        assert stream_text(facts(first=10, replicas=(Endpoint("rabbit-2", 5552),)), None, times, NOW) == (
            "stream      s\n"
            "messages    about 1,234,557\n"
            "first       10, 2 days ago (2026-11-28 04:26:40 UTC)\n"
            "last        1,234,566, 5 s ago (2026-11-30 11:59:55 UTC)\n"
            "leader      rabbit-1:5552\n"
            "replicas    rabbit-2:5552\n"
        )

    def test_an_empty_stream(self) -> None:
        text = stream_text(facts(first=None, last=None), None, (None, None), NOW)
        assert [rows_of(text)[name] for name in ("messages", "first", "last")] == ["0", "-", "-"]

    def test_what_the_api_tells(self) -> None:
        stream = listed_stream(
            arguments={
                "max-age": "7D",
                "max-length-bytes": 20_000_000_000,
                "stream-max-segment-size-bytes": 500_000_000,
            },
            policy="keep",
            policy_arguments={"max-age": "2D"},
            online=("rabbit@a", "rabbit@c"),
        )
        listed = Listed({"s": stream}, [consumer("two", active=False), consumer(None), consumer("one")], [])
        rows = rows_of(stream_text(facts(), listed, (None, None), NOW))
        assert rows["replicas"] == "2 of 3 online; offline: rabbit@b"
        assert rows["limits"] == "2D, 20.0 GB (policy keep)"
        assert rows["size"] == "3 segments of 500 MB at most"
        assert rows["readers"] == "3: (no name), one, two (waits)"
        assert rows["publishers"] == "none"
        assert (rows["first"], rows["last"]) == ("0", "1,234,566")

    def test_many_readers_fit(self) -> None:
        listed = Listed({"s": listed_stream()}, [consumer(f"reader-{number:02}") for number in range(30)], None)
        text = stream_text(facts(), listed, (None, None), NOW)
        assert "30: reader-00" in text
        assert "and 22 more" in " ".join(text.split())
        assert "publishers" not in text
        assert "replicas    3 of 3 online\n" in text
        rows_of(text)

    def test_wide_names_count_as_wide_as_they_are_shown(self) -> None:
        """A Chinese character takes two columns."""
        listed = Listed({"s": listed_stream()}, [consumer("消费者" * 3) for _ in range(8)], None)
        lines = stream_text(facts(), listed, (None, None), NOW).splitlines()
        assert sum("消费者" in line for line in lines) > 2
        assert all(width(line) <= WIDTH for line in lines)

    def test_what_a_peer_says_is_harmless(self) -> None:
        bad = "\x1b[2J\u202e"
        stream = listed_stream(bad, policy=bad, replicas=(bad,), online=(), arguments={"max-age": bad})
        reader = ListedConsumer(bad, bad, True, False, None, 0, 0, 0, "", "")
        listed = Listed({bad: stream}, [reader], [])
        told = facts(bad, leader=Endpoint("h", 1))
        text = stream_text(told, listed, (2**63 - 1, -(2**63)), NOW) + super_stream_text([told], listed)
        assert "\x1b" not in text
        assert "\u202e" not in text

    def test_a_super_stream_fits(self) -> None:
        partitions = [facts(f"orders-{number}", last=last) for number, last in enumerate((1_234_566, None, 4))]
        listed = Listed({"orders-0": listed_stream("orders-0", online=("rabbit@b",))})
        assert super_stream_text(partitions, listed).splitlines() == [
            "partition   messages       last  leader         replicas",
            "orders-0   1,234,567  1,234,566  rabbit-1:5552  1/3",
            "orders-1           0          -  rabbit-1:5552  1",
            "orders-2           5          4  rabbit-1:5552  1",
        ]
        assert all(len(line) <= WIDTH for line in super_stream_text(partitions, listed).splitlines())

    def test_long_names_have_lines_of_their_own(self) -> None:
        name = "a-name-of-a-partition-that-is-long-indeed-0"
        head, _, first, second = super_stream_text([facts(name)], None).splitlines()
        assert (head, first) == ("partition", name)
        assert second.split() == ["1,234,567", "1,234,566", "rabbit-1:5552", "1"]
        assert len(second) <= WIDTH

    def test_a_long_leader_has_a_line_of_its_own_too(self) -> None:
        host = "rabbit-server-1.messaging.example.internal"
        text = super_stream_text([facts(f"orders-{number}", leader=Endpoint(host, 5552)) for number in (0, 1)], None)
        assert text.splitlines() == [
            "partition",
            "   messages       last  replicas",
            "  leader",
            *("orders-0", "  1,234,567  1,234,566  1", f"  {host}:5552"),
            *("orders-1", "  1,234,567  1,234,566  1", f"  {host}:5552"),
        ]
        assert all(len(line) <= WIDTH for line in text.splitlines())

    def test_wide_characters_keep_columns_in_line(self) -> None:
        head, *rows = super_stream_text([facts("注文-0"), facts("orders-0")], None).splitlines()
        at = head.index("messages") + len("messages")
        assert [row[:at].endswith("1,234,567") for row in rows] == [False, True]
        assert width(rows[0]) == width(rows[1])

    def test_no_leader(self) -> None:
        (_, row) = super_stream_text([facts(first=None, last=None, leader=None)], None).splitlines()
        assert row.split() == ["s", "-", "-", "-", "0"]

    @pytest.mark.parametrize(
        ("seconds", "shown"),
        [
            (-5, "now"),
            (0.9, "now"),
            (1, "1 s ago"),
            (119, "119 s ago"),
            (120, "2 min ago"),
            (7199, "119 min ago"),
            (7200, "2 h ago"),
            (172_799, "47 h ago"),
            (172_800, "2 days ago"),
            (1e9, "11,574 days ago"),
        ],
    )
    def test_ages(self, seconds: float, shown: str) -> None:
        assert words.age(seconds) == shown


@pytest.fixture
def managed(broker: Broker) -> dict[str, str]:
    return {"RSTREAM_URI": broker.uri, "RSTREAM_MANAGEMENT_URI": broker.management_uri}


def test_a_person_sees_what_there_is(run: Run, broker: Broker, stream: str) -> None:
    assert run("publish", stream, stdin=b"a\nb\nc\n").returncode == 0
    done = run("stream", "info", stream)
    rows = rows_of(done.stdout.decode().replace(stream, "s"))
    assert rows["messages"] == "about 3"
    for name, offset in (("first", 0), ("last", 2)):
        assert re.fullmatch(rf"{offset}, (now|\d+ s ago) \(\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC\)", rows[name])
    assert rows["leader"].endswith(f":{broker.port}")
    assert "readers" not in rows


@contextmanager
def read(managed: dict[str, str], stream: str) -> Iterator[None]:
    """A reader named ``billing``, which has read one message."""
    with running("sac-consume", stream, "--name", "billing", "--offset", "first", env=managed) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield


def test_readers_and_replicas(managed: dict[str, str], run: Run, stream: str) -> None:
    assert run("publish", stream, "-m", "a").returncode == 0
    with read(managed, stream):
        until = time.monotonic() + PATIENCE
        rows: dict[str, str] = {}
        while rows.get("readers", "none") == "none" and time.monotonic() < until:
            done = run_rstream("stream", "info", stream, env=managed)
            rows = rows_of(done.stdout.decode().replace(stream, "s"))
        assert rows["readers"] == "1: billing"
        assert (rows["publishers"], rows["replicas"], rows["limits"]) == ("none", "1 of 1 online", "none")
        record = json.loads(run_rstream("stream", "info", stream, "--json", env=managed).stdout)
        assert [(reader["name"], reader["active"]) for reader in record["readers"]] == [("billing", True)]
        assert (record["publishers"], record["policy"], record["arguments"]) == ([], None, {})
        assert record["replica_nodes"] == record["online_nodes"]
        assert len(record["replica_nodes"]) == 1


def test_what_is_not_known_is_null(run: Run, stream: str) -> None:
    record = json.loads(run("stream", "info", stream, "--json").stdout)
    unknown = ("arguments", "policy", "policy_arguments", "segments", "replica_nodes", "online_nodes", "readers")
    assert {record[name] for name in (*unknown, "publishers")} == {None}


def test_partitions(managed: dict[str, str], run: Run, stream_name: str) -> None:
    assert run("superstream", "create", stream_name, "--partitions", "2").returncode == 0
    try:
        assert run("publish", f"{stream_name}-1", "-m", "a", "-m", "b").returncode == 0
        done = run_rstream("superstream", "info", stream_name, env=managed)
        lines = done.stdout.decode().splitlines()
        assert lines[0::2] == ["partition", f"{stream_name}-0", f"{stream_name}-1"]
        assert [(line.split()[0], line.split()[1], line.split()[3]) for line in lines[1::2][1:]] == [
            ("0", "-", "1/1"),
            ("2", "1", "1/1"),
        ]
        record = json.loads(run_rstream("superstream", "info", stream_name, "--json", env=managed).stdout)
        assert [partition["messages"] for partition in record["partitions"]] == [0, 2]
        assert all(partition["replica_nodes"] == partition["online_nodes"] for partition in record["partitions"])
    finally:
        run("superstream", "delete", stream_name, "--yes")


def test_an_api_that_does_not_answer_is_warned_of_where_it_was_named(run: Run, stream: str, closed_port: int) -> None:
    uri = f"http://localhost:{closed_port}"
    done = run("stream", "info", stream, "--management-uri", uri)
    assert done.returncode == 0
    assert done.stderr.decode() == f"warning: not told by the management API: {uri} refuses the connection\n"
    assert b"messages    0\n" in done.stdout


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        (("stream", "info"), "stream"),
        (("stream", "delete", "--yes"), "stream"),
        (("consume", "--until", "end"), "stream"),
        (("publish", "-m", "x"), "stream"),
        (("superstream", "info"), "super stream"),
        (("superstream", "delete", "--yes"), "super stream"),
    ],
)
def test_the_name_that_was_meant(
    managed: dict[str, str], run: Run, stream_name: str, command: tuple[str, ...], meant: str
) -> None:
    """Here with one letter too many. A stream is not told where a super stream is wanted."""
    assert run("stream", "create", stream_name).returncode == 0
    assert run("superstream", "create", f"{stream_name}-super", "--partitions", "1").returncode == 0
    name = stream_name if meant == "stream" else f"{stream_name}-super"
    wrong = name.replace("test", "tesst")
    try:
        done = run_rstream(*command, "--", wrong, env=managed)
        assert done.returncode == 4
        assert done.stderr.decode().splitlines()[-1] == f"hint: did you mean {name!r}?"
        done = run_rstream(*command, "--", "quite-another", env=managed)
        assert (done.returncode, b"did you mean" in done.stderr) == (4, False)
        done = run(*command, "--", wrong)
        assert (done.returncode, b"did you mean" in done.stderr) == (4, False)
    finally:
        run("stream", "delete", stream_name, "--yes", "--missing-ok")
        run("superstream", "delete", f"{stream_name}-super", "--yes", "--missing-ok")
