"""``rstream stream list`` on both brokers, and what it says where there is no management API."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers import Broker
from tests.certificates import Authority
from tests.cli.conftest import Run, run_here, run_rstream
from tests.clients import PATIENCE
from tests.conftest import OwnRabbitMQ
from tests.web import Visit, serving

WHY = "the stream protocol cannot list streams, so RabbitMQ's management API is asked; "
WHERE = "enable the plugin rabbitmq_management there (port 15672, or 15671 with TLS), or pass --management-uri"


@pytest.fixture
def managed(broker: Broker) -> dict[str, str]:
    return {"RSTREAM_URI": broker.uri, "RSTREAM_MANAGEMENT_URI": broker.management_uri}


@pytest.fixture
def made(managed: dict[str, str], stream_name: str) -> Iterator[str]:
    """Streams NAME-a with arguments and NAME-b, and a super stream NAME-s of two partitions."""

    def run(*arguments: str) -> None:
        assert run_rstream(*arguments, env=managed).returncode == 0

    run("stream", "create", f"{stream_name}-a", "--max-age", "7D", "--max-length-bytes", "20GB")
    run("stream", "create", f"{stream_name}-b")
    run("superstream", "create", f"{stream_name}-s", "--partitions", "2")
    yield stream_name
    run("stream", "delete", f"{stream_name}-a", f"{stream_name}-b", "--yes")
    run("superstream", "delete", f"{stream_name}-s", "--yes")


def test_names_for_programs(managed: dict[str, str], made: str) -> None:
    done = run_rstream("stream", "list", "--pattern", f"{made}*", env=managed)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().splitlines() == [f"{made}-a", f"{made}-b", f"{made}-s-0", f"{made}-s-1"]
    done = run_rstream("stream", "list", "--pattern", f"{made}-[ab]", env=managed)
    assert done.stdout.decode().splitlines() == [f"{made}-a", f"{made}-b"]
    assert run_rstream("stream", "list", "--pattern", made, env=managed).stdout == b""
    assert f"{made}-a" in run_rstream("stream", "list", env=managed).stdout.decode().splitlines()


def test_objects_for_programs(managed: dict[str, str], made: str) -> None:
    done = run_rstream("stream", "list", "--pattern", f"{made}-a", "--json", env=managed)
    record = json.loads(done.stdout)
    assert set(record) == {
        *("stream", "messages", "leader", "replicas", "online", "arguments", "policy", "policy_arguments", "state")
    }
    assert record["stream"] == f"{made}-a"
    assert record["arguments"] == {"max-age": "7D", "max-length-bytes": 20_000_000_000}
    assert (record["policy"], record["policy_arguments"]) == (None, {})
    assert record["replicas"] == record["online"] == [record["leader"]]


def test_a_table_for_people(managed: dict[str, str], made: str) -> None:
    done = run_here("stream", "list", "--pattern", f"{made}-?", env=managed, terminal=True)
    assert (done.status, done.errors) == (0, "")
    head, *rows = (line.split() for line in done.output.splitlines())
    assert head == ["stream", "messages", "replicas", "limits"]
    assert [row[0] for row in rows] == [f"{made}-a", f"{made}-b"]
    assert [row[2:] for row in rows] == [["1/1", "7D,", "20.0", "GB"], ["1/1", "none"]]
    done = run_here("stream", "list", "--pattern", "no such", env=managed, terminal=True)
    assert (done.status, done.output) == (0, "")
    assert done.errors == "no stream in the virtual host '/' matches 'no such'\n"


@pytest.mark.parametrize("broker", [pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)], indirect=True)
def test_a_policy_is_told(managed: dict[str, str], made: str, broker: Broker) -> None:
    broker.ctl("set_policy", made, f"^{made}-b$", '{"max-age":"2h"}', "--apply-to", "streams")
    try:
        until = time.monotonic() + PATIENCE  # the API tells it with the next statistics
        record: dict[str, object] = {"policy": None}
        while record["policy"] is None and time.monotonic() < until:
            record = json.loads(run_rstream("stream", "list", "--pattern", f"{made}-b", "--json", env=managed).stdout)
        assert (record["policy"], record["policy_arguments"]) == (made, {"max-age": "2h"})
        shown = run_here("stream", "list", "--pattern", f"{made}-b", env=managed, terminal=True).output
        assert shown.splitlines()[1].split()[3:] == ["2h", "(policy", f"{made})"]
    finally:
        broker.ctl("clear_policy", made)


def test_a_name_with_control_characters(managed: dict[str, str], stream_name: str) -> None:
    name = f"{stream_name}-\x1b[2J\u202e$(id)"
    assert run_rstream("stream", "create", name, env=managed).returncode == 0
    try:
        pattern = f"{stream_name}*"
        escaped = f"{stream_name}-\\x1b[2J\\u202e$(id)"
        assert run_rstream("stream", "list", "--pattern", pattern, env=managed).stdout.decode() == f"{escaped}\n"
        done = run_rstream("stream", "list", "--pattern", pattern, "--json", env=managed)
        assert json.loads(done.stdout)["stream"] == name
        shown = run_here("stream", "list", "--pattern", pattern, env=managed, terminal=True).output
        assert "\x1b" not in shown
        assert escaped in shown
    finally:
        run_rstream("stream", "delete", name, "--yes", env=managed)


async def test_a_name_cannot_forge_a_line() -> None:
    """Brokers leave line breaks out; what answers need not be one."""
    names = ["x\nev", "x\\nev", "x\r\u2028y", "plain é"]

    async def answer(visit: Visit) -> None:
        items = [{"name": name, "type": "stream"} for name in names]
        await visit.answer({"items": items, "page": 1, "page_count": 1, "page_size": 500})

    async with serving(answer) as web:
        uri = f"http://localhost:{web.port}"
        done = await asyncio.to_thread(run_rstream, "stream", "list", "--management-uri", uri)
        asjson = await asyncio.to_thread(run_rstream, "stream", "list", "--json", "--management-uri", uri)
    assert done.stdout.decode().split("\n") == ["plain é", "x\\nev", "x\\r\\u2028y", "x\\\\nev", ""]
    assert [json.loads(line)["stream"] for line in asjson.stdout.splitlines()] == sorted(names)


def test_a_login_that_is_refused(managed: dict[str, str], broker: Broker) -> None:
    env = {**managed, "RSTREAM_URI": broker.uri.replace("guest:guest", "guest:other")}
    done = run_rstream("stream", "list", env=env)
    assert (done.returncode, b"wrong user name or password" in done.stderr) == (5, True)
    env["RSTREAM_URI"] = broker.uri.removesuffix("%2f").removesuffix("%2F") + "no-such"
    done = run_rstream("stream", "list", env=env)
    assert (done.returncode, b"virtual host 'no-such': " in done.stderr) == (5, True)


@pytest.mark.parametrize("broker", [pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)], indirect=True)
def test_a_user_without_a_tag(managed: dict[str, str], broker: Broker, stream_name: str) -> None:
    where = managed["RSTREAM_MANAGEMENT_URI"]
    broker.ctl("add_user", stream_name, "s3cret")
    try:
        env = {**managed, "RSTREAM_URI": broker.uri.replace("guest:guest", f"{stream_name}:s3cret")}
        done = run_rstream("stream", "list", env=env)
        assert (done.returncode, done.stdout) == (5, b"")
        assert done.stderr.decode() == (
            f"error: {where}: this user has not the tag 'management', which the request needs\n"
            "hint: `rabbitmqctl set_user_tags USER monitoring`\n"
        )
    finally:
        broker.ctl("delete_user", stream_name)


def test_over_tls(own_rabbitmq: OwnRabbitMQ, tmp_path: Path) -> None:
    """The stream connection has TLS, so the API is asked over https; both trust what --ca-file says."""
    authority = Authority.make(tmp_path)
    certificate, key = authority.issue("server", "server")
    certificate.rename(tmp_path / "cert.pem")
    key.rename(tmp_path / "key.pem")
    (tmp_path / "key.pem").chmod(0o644)
    broker = own_rabbitmq("--tls", str(tmp_path))
    env = {
        "RSTREAM_URI": f"rabbitmq-stream+tls://guest:guest@localhost:{broker.tls_port}",
        "RSTREAM_CA_FILE": str(tmp_path / "ca.pem"),
    }
    assert run_rstream("stream", "create", "s", env=env).returncode == 0
    uri = f"https://localhost:{broker.management_tls_port}"
    done = run_rstream("stream", "list", "--management-uri", uri, env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"s\n", b"")
    # The stream connection has none here.
    plain = {**env, "RSTREAM_URI": broker.uri}
    done = run_rstream("stream", "list", "--ca-file", env["RSTREAM_CA_FILE"], "--management-uri", uri, env=plain)
    assert (done.returncode, done.stdout) == (0, b"s\n")
    del env["RSTREAM_CA_FILE"]
    done = run_rstream("stream", "list", "--management-uri", uri, env=env)
    assert (done.returncode, done.stdout) == (6, b"")
    assert f"the certificate of {uri} is not accepted" in done.stderr.decode()
    # Without --management-uri, it is the default port; nobody listens there.
    done = run_rstream("stream", "list", env=env)
    assert (done.returncode, b"https://localhost:15671" in done.stderr) == (6, True)


@pytest.mark.parametrize(
    ("arguments", "status", "error", "hint"),
    [
        (
            ("--host", "broker.example.com"),
            6,
            "the management API of broker.example.com is not asked: without TLS, the network could read the password",
            WHY + "pass --management-uri https://HOST:15671",
        ),
        (
            ("--management-uri", "http://guest:s3cret@broker.example.com"),
            2,
            "the password is not sent to broker.example.com over plain http, where the network can read it",
            "write https://HOST:15671; or make a tunnel: `ssh -L 15672:localhost:15672 HOST`, then"
            " http://localhost:15672",
        ),
        (
            ("--management-uri", "ftp://guest:s3cret@localhost"),
            2,
            "the address of the management API begins with https:// or http://, not ftp://",
            "write https://HOST:15671, or http://localhost:15672 for a broker on this machine",
        ),
    ],
)
def test_where_no_password_is_sent(arguments: tuple[str, ...], status: int, error: str, hint: str) -> None:
    done = run_here("stream", "list", *arguments)
    assert (done.status, done.output) == (status, "")
    assert done.errors == f"error: {error}\nhint: {hint}\n"


def test_without_the_api(closed_port: int) -> None:
    done = run_here("stream", "list", "--management-uri", f"http://localhost:{closed_port}")
    assert (done.status, done.output) == (6, "")
    assert done.errors == f"error: http://localhost:{closed_port} refuses the connection\nhint: {WHY}{WHERE}\n"


def test_the_stream_port_is_no_management_port(run: Run, broker: Broker) -> None:
    done = run("stream", "list", "--management-uri", f"http://localhost:{broker.port}")
    assert (done.returncode, done.stdout) == (6, b"")
    assert done.stderr.decode().startswith("error: ")
    assert f"http://localhost:{broker.port}" in done.stderr.decode()


def test_the_certificates_of_the_stream_connection_are_for_https_too(closed_port: int) -> None:
    """--ca-file without TLS is an error elsewhere."""
    uri = f"https://localhost:{closed_port}"
    done = run_here("stream", "list", "--ca-file", "no-such-file", "--management-uri", uri)
    assert (done.status, done.errors) == (
        2,
        "error: --ca-file: cannot read 'no-such-file': No such file or directory\n",
    )
    done = run_here("stream", "list", "--insecure", "--management-uri", uri)
    assert done.status == 6
    assert done.errors.startswith("warning: --insecure: the broker's certificate is NOT verified")
    assert done.errors.count("--insecure") == 1
