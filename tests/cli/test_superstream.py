"""``rstream superstream`` on each kind of broker: administration, routes, publishing, and each exit code."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rstream_core.protocol.routing import partition_index
from tests.cli.conftest import Run
from tests.cli.process import ended, eventually, interrupt, running, summary_of, told


@pytest.fixture
def orders(run: Run, stream_name: str) -> Iterator[str]:
    """Three partitions, bound to 0, 1 and 2."""
    assert run("superstream", "create", stream_name, "--partitions", "3").returncode == 0
    yield stream_name
    run("superstream", "delete", stream_name, "--missing-ok", "--yes")


@pytest.fixture
def regions(run: Run, stream_name: str) -> Iterator[str]:
    assert run("superstream", "create", stream_name, "--routing-keys", "eu, us,日本").returncode == 0
    yield stream_name
    run("superstream", "delete", stream_name, "--missing-ok", "--yes")


def held(run: Run, partition: str, *options: str) -> list[bytes]:
    done = run("consume", partition, "-o", "first", "--until", "end", *options)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.splitlines()


def publish(run: Run, super_stream: str, *options: str, **settings: Any) -> dict[str, Any]:
    done = run("superstream", "publish", super_stream, *options, "--stats", "json", **settings)
    found = summary_of(done.stderr)
    assert (found["exit_code"], done.stdout) == (done.returncode, b"")
    return found


def spread(records: list[tuple[str, bytes]], count: int) -> list[list[bytes]]:
    """What each partition is to hold."""
    parts: list[list[bytes]] = [[] for _ in range(count)]
    for key, body in records:
        parts[partition_index(key, count)].append(body)
    return parts


# --- create, delete, info, route -----------------------------------------------------------------------------


def test_create_info_delete(run: Run, stream_name: str) -> None:
    done = run("superstream", "create", stream_name, "--partitions", "2", "--max-age", "1h", "--filter-size", "32")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    run("publish", f"{stream_name}-1", "-m", "a", "-m", "b")
    told = json.loads(run("superstream", "info", stream_name, "--json").stdout)
    assert told["super_stream"] == stream_name
    assert [(facts["stream"], facts["last_offset"]) for facts in told["partitions"]] == [
        (f"{stream_name}-0", None),
        (f"{stream_name}-1", 1),
    ]
    assert told["partitions"][1] == json.loads(run("stream", "info", f"{stream_name}-1", "--json").stdout)
    lines = run("superstream", "info", stream_name).stdout.decode().splitlines()
    assert lines[0::2] == ["partition", f"{stream_name}-0", f"{stream_name}-1"]  # their names are long
    assert [line.split()[:2] for line in lines[1::2]] == [["messages", "last"], ["0", "-"], ["2", "1"]]
    assert run("superstream", "delete", stream_name, "--yes").returncode == 0
    assert run("superstream", "info", stream_name).returncode == 4


def test_create_again(run: Run, orders: str) -> None:
    again = run("superstream", "create", orders, "--partitions", "3")
    assert again.returncode == 9
    assert b"hint: pass --exists-ok" in again.stderr
    assert run("superstream", "create", orders, "--partitions", "3", "--exists-ok").returncode == 0
    other = run("superstream", "create", orders, "--partitions", "4", "--exists-ok")
    assert other.returncode == 9
    assert b"exists with other partitions" in other.stderr


def test_names_and_keys_that_are_not_ascii(run: Run, regions: str) -> None:
    told = json.loads(run("superstream", "info", regions, "--json").stdout)
    assert sorted(facts["stream"] for facts in told["partitions"]) == sorted(
        f"{regions}-{key}" for key in ("eu", "us", "日本")
    )
    routes = run("superstream", "route", regions, "日本", "eu", "--routing", "key").stdout.decode()
    assert routes == f"日本\t{regions}-日本\neu\t{regions}-eu\n"


def test_route_by_hash(run: Run, orders: str) -> None:
    routes = run("superstream", "route", orders, "hello1", "hello2", "hello4")
    assert routes.stdout.decode() == f"hello1\t{orders}-1\nhello2\t{orders}-0\nhello4\t{orders}-2\n"


def test_the_hash_of_the_python_client(run: Run, orders: str) -> None:
    """The partitions are those that it chose when it was run: tests/unit/test_routing.py."""
    chosen = {"key-0": 1, "key-1": 0, "key-2": 2, "größe": 0}
    routes = run("superstream", "route", orders, *chosen, "--routing", "python-hash")
    assert routes.stdout.decode() == "".join(f"{key}\t{orders}-{number}\n" for key, number in chosen.items())
    lines = "".join(f"{key}:{key}\n" for key in chosen).encode()
    options = ("--key-delimiter", ":", "--routing", "python-hash")
    assert publish(run, orders, *options, stdin=lines)["confirmed"] == len(chosen)
    for number in range(3):
        expected = "".join(f"{key}\n" for key, at in chosen.items() if at == number)
        assert run("consume", f"{orders}-{number}", "-o", "first", "--until", "end").stdout.decode() == expected


def test_route_to_nowhere(run: Run, regions: str, stream_name: str) -> None:
    done = run("superstream", "route", regions, "eu", "asia", "--routing", "key")
    assert (done.returncode, done.stdout) == (4, f"eu\t{regions}-eu\n".encode())
    assert b"no partition for routing key 'asia'" in done.stderr
    assert run("superstream", "route", f"{stream_name}-none", "eu").returncode == 4


def test_delete_needs_a_yes_and_deletes_what_it_can(run: Run, orders: str) -> None:
    assert run("superstream", "delete", orders).returncode == 2
    done = run("superstream", "delete", f"{orders}-none", orders, "--yes")
    assert done.returncode == 4
    assert b"hint: check the name and the virtual host; --missing-ok" in done.stderr
    assert run("superstream", "info", orders).returncode == 4
    assert run("superstream", "delete", orders, "--yes", "--missing-ok").returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "s"),
        ("create", "s", "--partitions", "2", "--routing-keys", "a"),
        ("create", "s", "--partitions", "0"),
        ("create", "s", "--partitions", "1001"),
        ("create", "s", "--routing-keys", ""),
        ("create", "s", "--routing-keys", "a,a"),
        ("create", "s", "--routing-keys", "a" * 254),
        ("create", "", "--partitions", "1"),
        ("route", "s"),
        ("publish", "s", "-m", "x"),
        ("publish", "s", "-m", "x", "--key", "a", "--key-from", ".b"),
        ("publish", "s", "-m", "x", "--key-from", "b"),
        ("publish", "s", "-m", "x", "--key-delimiter", ""),
        ("publish", "s", "--json", "--key-delimiter", "x"),
        ("publish", "s", "-m", "x", "--key", "a", "--routing", "luck"),
        ("publish", "s", "-m", "x", "--key", "a", "--create"),
        ("publish", "s", "-m", "x", "--key", "a", "--id-from", "line"),
        ("publish", "s", "-m", "x", "--key", "a", "--filter", "v", "--compression", "gzip"),
    ],
)
def test_what_cannot_work(run: Run, arguments: tuple[str, ...]) -> None:
    done = run("superstream", *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"error: ")


# --- publish -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [(), ("--method", "send"), ("--method", "wait"), ("--compression", "zstd"), ("--max-in-flight", "1")]
)
def test_keys_before_a_delimiter(run: Run, orders: str, options: tuple[str, ...]) -> None:
    records = [(f"ключ{number % 17}", f"body\t{number}".encode()) for number in range(100)]
    given = b"".join(f"{key}\t".encode() + body + b"\n" for key, body in records)
    found = publish(run, orders, "--key-delimiter", "\\t", *options, stdin=given)
    assert (found["exit_code"], found["read"], found["confirmed"]) == (0, 100, 100)
    assert found["bytes"] == sum(len(body) for _, body in records)
    for number, expected in enumerate(spread(records, 3)):
        assert held(run, f"{orders}-{number}") == expected


def test_keys_from_a_path(run: Run, orders: str) -> None:
    bodies = [json.dumps({"customer": {"id": number % 5, "name": f"n{number % 5}"}}) for number in range(50)]
    for path, begin in ((".customer.id", ""), (".customer.name", "n")):
        found = publish(run, orders, "--key-from", path, stdin="\n".join(bodies).encode())
        assert (found["exit_code"], found["confirmed"]) == (0, 50)
        expected = spread([(f"{begin}{number % 5}", body.encode()) for number, body in enumerate(bodies)], 3)
        for number in range(3):
            assert held(run, f"{orders}-{number}")[-len(expected[number]) :] == expected[number]


def test_keys_from_an_envelope(run: Run, regions: str) -> None:
    lines = [
        {"body": "1", "headers": {"region": "eu"}},
        {"body": "2", "headers": {"region": "日本"}},
        {"body": "3", "headers": {"region": "eu"}, "properties": {"subject": "s"}},
    ]
    given = "\n".join(json.dumps(line) for line in lines).encode()
    found = publish(run, regions, "--json", "--key-from", ".headers.region", "--routing", "key", stdin=given)
    assert (found["exit_code"], found["confirmed"]) == (0, 3)
    assert held(run, f"{regions}-eu") == [b"1", b"3"]
    assert held(run, f"{regions}-日本") == [b"2"]


def test_one_key_for_all(run: Run, orders: str, tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b"a\nb\n")
    assert publish(run, orders, str(tmp_path / "lines"), "--key", "hello1")["confirmed"] == 2
    assert publish(run, orders, "-m", "c", "--key", "1", "--routing", "key")["confirmed"] == 1
    assert held(run, f"{orders}-1") == [b"a", b"b", b"c"]


@pytest.mark.parametrize(
    ("options", "bad", "words"),
    [
        (("--key-delimiter", ":"), b"no key", "record 3: no routing key"),
        (("--key-delimiter", ":", "--routing", "key"), b"asia:x", "record 3: super stream"),
        (("--key-delimiter", ":", "--routing", "key"), b"\xff:x", "record 3: the routing key b'\\xff' is not UTF-8"),
    ],
)
def test_a_record_without_a_partition(run: Run, orders: str, options: tuple[str, ...], bad: bytes, words: str) -> None:
    given = b"0:a\n0:b\n" + bad + b"\n0:c\n"
    found = publish(run, orders, *options, stdin=given)
    assert (found["exit_code"], found["read"], found["confirmed"], found["bad"]) == (8, 3, 2, 1)
    assert words in found["error"]
    skipped = publish(run, orders, *options, "--on-error", "skip", stdin=given)
    assert (skipped["exit_code"], skipped["read"], skipped["confirmed"], skipped["bad"]) == (3, 4, 3, 1)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (b'{"a":1}', "no .key"),
        (b"[]", "is a list, not an object"),
        (b"nonsense", "not JSON"),
        (b'{"key":1.5}', ".key is neither text nor a whole number"),
        (b'{"key":null}', ".key is neither text nor a whole number"),
    ],
)
def test_a_path_that_leads_nowhere(run: Run, orders: str, record: bytes, words: str) -> None:
    found = publish(run, orders, "--key-from", ".key", stdin=b'{"key":"a"}\n' + record + b"\n")
    assert (found["exit_code"], found["confirmed"], found["bad"]) == (8, 1, 1)
    assert "record 2: " in found["error"]
    assert words in found["error"]


def test_count_and_too_large_over_all_partitions(run: Run, orders: str) -> None:
    given = b"".join(b"%d:%d\n" % (number, number) for number in range(50))
    found = publish(run, orders, "--key-delimiter", ":", "--count", "20", stdin=given)
    assert (found["exit_code"], found["read"], found["confirmed"]) == (0, 20, 20)
    large = b"1:a\n2:" + b"x" * 2_000_000 + b"\n3:c\n"
    found = publish(run, orders, "--key-delimiter", ":", "--on-error", "skip", stdin=large)
    assert (found["exit_code"], found["confirmed"], found["bad"]) == (3, 2, 1)


def test_no_such_super_stream(run: Run, stream_name: str) -> None:
    assert publish(run, stream_name, "-m", "x", "--key", "k")["exit_code"] == 4


def test_a_name_with_line_numbers_publishes_once(run: Run, orders: str) -> None:
    given = b"".join(b"%d:%d\n" % (number % 7, number) for number in range(1000))
    options = ("--key-delimiter", ":", "--name", "app", "--id-from", "line")
    first = publish(run, orders, *options, "--count", "600", stdin=given)
    assert (first["confirmed"], first["already_published"]) == (600, 0)
    rest = publish(run, orders, *options, stdin=given)
    assert (rest["exit_code"], rest["confirmed"], rest["already_published"]) == (0, 400, 600)
    again = publish(run, orders, *options, stdin=given)
    assert (again["exit_code"], again["read"], again["confirmed"], again["already_published"]) == (0, 1000, 0, 1000)
    parts = spread([(str(number % 7), str(number).encode()) for number in range(1000)], 3)
    assert [held(run, f"{orders}-{number}") for number in range(3)] == parts


def test_a_partition_that_is_deleted_meanwhile(env: dict[str, str], run: Run, orders: str, tmp_path: Path) -> None:
    failed = tmp_path / "failed"
    arguments = ("superstream", "publish", orders, "--key-delimiter", ":", "--failed-to", str(failed))
    with running(*arguments, "--stats", "json", env=env, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"hello1:a\nhello2:b\n")
        process.stdin.flush()
        told(process, lambda line: line["confirmed"] == 2)
        run("stream", "delete", f"{orders}-1", "--yes")
        code, errors = ended(process)
    found = summary_of(errors)
    assert code == found["exit_code"] == 4
    assert (found["read"], found["confirmed"], found["failed"]) == (2, 2, 0)
    assert failed.read_bytes() == b""


def test_a_signal_ends_with_all_that_was_read_confirmed(env: dict[str, str], run: Run, orders: str) -> None:
    arguments = ("superstream", "publish", orders, "--key-delimiter", ":", "--stats", "json")
    with running(*arguments, env=env, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        for number in range(300):
            process.stdin.write(b"%d:%d\n" % (number, number))
        process.stdin.flush()
        eventually(lambda: sum(len(held(run, f"{orders}-{number}")) for number in range(3)) > 0)
        interrupt(process)
        code, errors = ended(process)
    found = summary_of(errors)
    assert code == 130
    assert found["published"] == found["confirmed"] == 300
    assert sum(len(held(run, f"{orders}-{number}")) for number in range(3)) == 300


def test_rate_and_statistics(run: Run, orders: str) -> None:
    given = b"".join(b"%d:%d\n" % (number, number) for number in range(60))
    done = run(
        "superstream", "publish", orders, "--key-delimiter", ":", "--rate", "60/s", "--stats", "line", stdin=given
    )
    assert done.returncode == 0
    assert f"published 60 messages (110 B) to {orders} in" in done.stderr.decode()


def test_a_signal_while_keys_are_routed_keeps_the_account(env: dict[str, str], regions: str, tmp_path: Path) -> None:
    """Each key is a question to the broker, so the signal comes in the middle of a block."""
    source, failed = tmp_path / "lines", tmp_path / "failed"
    keys = [f"key-{number}" for number in range(200_000)]
    source.write_text("".join(f"{key},{key}\n" for key in keys))
    words = (
        "--routing",
        "key",
        "--key-delimiter",
        ",",
        "--on-error",
        "skip",
        "--drain-timeout",
        "0",
        "--stats",
        "json",
    )
    with (
        source.open("rb") as stdin,
        running("superstream", "publish", regions, *words, "--failed-to", str(failed), stdin=stdin, env=env) as process,
    ):
        assert process.stderr is not None
        process.stderr.readline()
        interrupt(process)
        code, errors = ended(process)
    found = summary_of(errors)
    assert code in (7, 130)
    left = failed.read_bytes().splitlines()
    assert len(left) == found["failed"] + found["not_published"] - found["bad"]
    assert found["read"] >= len(left) > 0


def test_a_stream_for_a_super_stream_and_the_other_way_round(run: Run, orders: str) -> None:
    """The hint names the command that is meant."""
    partition = f"{orders}-0"
    for arguments, name, meant in (
        (("stream", "info"), orders, "superstream info"),
        (("publish", "-m", "x"), orders, "superstream publish"),
        (("consume",), orders, "superstream consume"),
        (("superstream", "info"), partition, "stream info"),
        (("superstream", "publish", "-m", "x", "--key", "k"), partition, "publish"),
        (("superstream", "consume"), partition, "consume"),
    ):
        done = run(*arguments, name)
        assert done.returncode == 4, arguments
        kind = "super stream" if name == orders else "stream, not a super stream"
        assert done.stderr.decode().splitlines()[-1] == f"hint: {name!r} is a {kind}: rstream {meant} {name}"
    done = run("consume", f"{orders}-9")
    assert done.returncode == 4
    assert done.stderr.decode().splitlines()[-1].startswith("hint: check the name and the virtual host; ")
