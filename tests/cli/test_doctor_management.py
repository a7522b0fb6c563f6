"""``rstream doctor`` with the management API: alarms, nodes, plugins, replicas; and that it fails for none of its own.

The faults are those of real brokers where a test can make them; else a scripted server tells of them, in the words that
RabbitMQ 4.3 was seen to use.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from rstream_cli.diagnosis import FAIL, OK, SKIPPED
from rstream_core import EmbeddedBroker
from tests.brokers import Broker, Cluster
from tests.cli.conftest import run_rstream
from tests.conftest import OwnRabbitMQ
from tests.web import Visit, serving

Found = list[dict[str, Any]]
_CHECKS = ("management", "alarms", "nodes", "plugins", "replicas")
_NO_ALARM: Mapping[str, Any] = {"status": "ok"}
_PLUGINS = ("rabbitmq_management", "rabbitmq_stream", "rabbitmq_stream_management")


def doctor(uri: str, management: str | None, *words: str, code: int) -> Found:
    """The findings of the management API. ``management`` is where it is; None: not said."""
    given = () if management is None else ("--management-uri", management)
    done = run_rstream("doctor", "--json", "--uri", uri, *given, *words)
    assert done.returncode == code, done.stdout + done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return [finding for finding in found if finding["check"] in _CHECKS]


def shown(found: Found) -> list[tuple[str, str, str]]:
    return [(finding["check"], finding["status"], finding["detail"]) for finding in found]


def the_failure(found: Found) -> dict[str, Any]:
    """The one FAIL; it says what to do."""
    (failure,) = (finding for finding in found if finding["status"] == FAIL)
    assert failure["hint"]
    return failure


def alarms(*found: tuple[str, str]) -> dict[str, Any]:
    return {"status": "failed", "reason": "x", "alarms": [{"node": node, "resource": what} for node, what in found]}


def node(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "running": True,
        "disk_free": 48_000_000,
        "disk_free_limit": 50_000_000,
        "mem_used": 131_000_000,
        "mem_limit": 100_000_000,
        "enabled_plugins": list(_PLUGINS),
        **changes,
    }


def down(name: str) -> dict[str, Any]:
    return {"name": name, "running": False, "being_drained": False}


def queue(replicas: str, online: str, leader: str | None = "a", state: str | None = "running") -> dict[str, Any]:
    """A stream with replicas on nodes of these letters."""
    return {"name": "s", "type": "stream", "members": list(replicas), "online": list(online)} | {
        "leader": leader,
        "state": state,
    }


@pytest.fixture(scope="module")
def stream_uri() -> Iterator[str]:
    """Of a broker with the stream ``s``, whose management API a scripted server stands for."""
    with EmbeddedBroker() as broker:
        assert run_rstream("stream", "create", "s", "--uri", broker.uri).returncode == 0
        yield broker.uri


Scripted = Callable[..., Found]


@pytest.fixture
def scripted(stream_uri: str) -> Scripted:
    """The findings where a server answers so: the alarms (None: no such check), the nodes (None: not for this user),
    the stream ``s``."""

    def run(alarmed: Any = _NO_ALARM, nodes: Any = (), stream: Any = None, code: int = 0) -> Found:
        async def answer(visit: Visit) -> None:
            path = visit.target.partition("?")[0]
            if path == "/api/health/checks/alarms" and alarmed is not None:
                status = "200 OK" if isinstance(alarmed, dict) and alarmed.get("status") == "ok" else None
                await visit.answer(alarmed, status or "503 Service Unavailable")
            elif path == "/api/nodes" and nodes is None:
                refusal = {"error": "not_authorised", "reason": "Not monitor user"}
                await visit.answer(refusal, "401 Unauthorized")
            elif path == "/api/nodes":
                await visit.answer(list(nodes))
            elif stream is not None and path == "/api/queues/%2F/s":
                await visit.answer(stream)
            else:
                await visit.answer({"error": "Object Not Found"}, "404 Not Found")

        async def work() -> Found:
            async with serving(answer) as web:
                words = () if stream is None else ("--stream", "s")
                uri = f"http://localhost:{web.port}"
                return await asyncio.to_thread(doctor, stream_uri, uri, *words, code=code)

        return asyncio.run(work())

    return run


# --- brokers that are well, and where nobody can be asked -----------------------------------------------------


def test_all_is_well(broker: Broker, stream_name: str, env: dict[str, str]) -> None:
    assert run_rstream("stream", "create", stream_name, env=env).returncode == 0
    found = doctor(broker.uri, broker.management_uri, "--stream", stream_name, code=0)
    assert [finding["check"] for finding in found] == list(_CHECKS)
    assert {finding["status"] for finding in found} == {OK}
    assert {finding["hint"] for finding in found} == {None}
    details = {finding["check"]: finding["detail"] for finding in found}
    assert details["management"] == f"{broker.management_uri} answers"
    assert details["alarms"] == "none"
    assert details["nodes"].startswith("1 of 1 are up: ")
    assert details["plugins"] == "rabbitmq_stream and rabbitmq_stream_management"
    assert details["replicas"] == "1 of 1 online"
    run_rstream("stream", "delete", stream_name, "--yes", env=env)


def test_nobody_to_ask_is_no_failure(stream_uri: str, closed_port: int) -> None:
    (finding,) = doctor(stream_uri, f"http://localhost:{closed_port}", code=0)
    assert (finding["check"], finding["status"]) == ("management", SKIPPED)
    assert finding["detail"] == f"http://localhost:{closed_port} refuses the connection"
    assert "--management-uri" in finding["hint"]


def test_where_no_password_may_be_sent_it_says_so() -> None:
    (finding,) = doctor("rabbitmq-stream://no-such-host.invalid", None, code=6)
    assert finding["status"] == SKIPPED
    assert "is not asked: without TLS, the network could read the password" in finding["detail"]
    assert finding["hint"] == "pass --management-uri https://HOST:15671"


def test_a_name_that_is_no_host_name_is_no_fault_of_the_program() -> None:
    """A label of a name has 63 bytes at most; the error for it is none of the system's."""
    assert doctor(f"rabbitmq-stream+tls://{'a' * 70}.example", None, code=6)[-1]["status"] == SKIPPED


def test_a_wrong_address_is_a_usage_error(stream_uri: str) -> None:
    done = run_rstream("doctor", "--uri", stream_uri, "--management-uri", "ftp://x")
    assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.parametrize(
    ("alarmed", "told"),
    [
        (b"<html>", "but not with JSON"),
        ([], "an object is missing or malformed"),
        ({"status": "failed"}, "cannot answer now (HTTP status 503)"),
        ({"status": "failed", "alarms": [5]}, "an object is missing or malformed"),
        ({"status": "failed", "alarms": [{"node": "a"}]}, "resource is missing or malformed"),
    ],
)
def test_garbage_is_no_failure(scripted: Scripted, alarmed: Any, told: str) -> None:
    (finding,) = scripted(alarmed)
    assert (finding["check"], finding["status"]) == ("management", SKIPPED)
    assert told in finding["detail"]


def test_a_server_that_hangs_is_no_failure(stream_uri: str) -> None:
    async def work() -> Found:
        async with serving(Visit.gone) as web:
            uri = f"http://localhost:{web.port}"
            return await asyncio.to_thread(doctor, stream_uri, uri, code=0)

    begin = time.monotonic()
    (finding,) = asyncio.run(work())
    assert (finding["status"], finding["detail"].endswith("has not answered in time")) == (SKIPPED, True)
    assert time.monotonic() - begin < 25


def test_the_user_lacks_a_tag(rabbitmq: Broker, stream_name: str) -> None:
    """Without any, the API tells nothing; with ``management`` it tells all but the nodes."""
    uri = rabbitmq.uri
    run_rstream("stream", "create", stream_name, "--uri", uri)
    rabbitmq.ctl("add_user", stream_name, "pw")
    try:
        rabbitmq.ctl("set_permissions", stream_name, ".*", ".*", ".*")
        own = f"rabbitmq-stream://{stream_name}:pw@{rabbitmq.host}:{rabbitmq.port}"
        where = rabbitmq.management_uri
        (finding,) = doctor(own, where, "--stream", stream_name, code=0)
        assert (finding["check"], finding["status"]) == ("management", SKIPPED)
        assert "has not the tag 'management'" in finding["detail"]
        assert "set_user_tags USER monitoring" in finding["hint"]
        rabbitmq.ctl("set_user_tags", stream_name, "management")
        found = doctor(own, where, "--stream", stream_name, code=0)
        statuses = [(finding["check"], finding["status"]) for finding in found]
        assert statuses == [("management", OK), ("alarms", OK), ("nodes", SKIPPED), ("replicas", OK)]
        assert "has not the tag 'monitoring'" in found[2]["detail"]
        assert "set_user_tags USER monitoring" in found[2]["hint"]
    finally:
        rabbitmq.ctl("delete_user", stream_name)
        run_rstream("stream", "delete", stream_name, "--yes", "--uri", uri)


# --- what is wrong ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_alarms_of_a_real_broker(own_rabbitmq: OwnRabbitMQ) -> None:
    broker = own_rabbitmq()

    def found(code: int) -> Found:
        return doctor(broker.uri, broker.management_uri, code=code)

    def until(code: int) -> Found:
        """What is found when the broker has noticed, which may take seconds."""
        deadline = time.monotonic() + 60
        while run_rstream("doctor", "--uri", broker.uri, "--management-uri", broker.management_uri).returncode != code:
            assert time.monotonic() < deadline
        return found(code)

    broker.ctl("set_disk_free_limit", "1000000GB")
    failure = the_failure(until(6))
    assert failure["detail"].startswith("disk alarm on ")
    assert failure["detail"].endswith(": publishers are blocked on all nodes")
    broker.ctl("set_disk_free_limit", "50MB")
    until(0)
    broker.ctl("set_vm_memory_high_watermark", "0.0001")
    failure = the_failure(until(6))
    assert failure["detail"].startswith("memory alarm on ")
    assert failure["detail"].endswith(": AMQP publishers are blocked, those of streams are not")
    done = run_rstream("publish", "s", "--create", "-m", "one", "--uri", broker.uri)
    assert done.returncode == 0, done.stderr  # so it is


@pytest.mark.slow
def test_a_cluster_with_nodes_that_are_down(cluster: Cluster) -> None:
    """One of three; then two, which leaves no majority."""
    uri, where = cluster.nodes[0].uri, cluster.nodes[0].management_uri
    assert run_rstream("stream", "create", "s", "--uri", uri).returncode == 0

    def until(done: Callable[[Found], bool]) -> Found:
        deadline = time.monotonic() + 120
        while True:
            ended = run_rstream("doctor", "--json", "-u", uri, "--management-uri", where, "--stream", "s", timeout=90)
            found = [json.loads(line) for line in ended.stdout.splitlines()]
            found = [finding for finding in found if finding["check"] in _CHECKS]
            if done(found):
                return found
            assert time.monotonic() < deadline, found

    found = until(lambda found: [finding["status"] for finding in found] == [OK] * 5)
    assert found[-1]["detail"] == "3 of 3 online"
    names = found[2]["detail"].removeprefix("3 of 3 are up: ").split(", ")
    assert len(names) == 3
    cluster.stop(2)
    found = until(lambda found: sum(finding["status"] == FAIL for finding in found) == 2)
    failures = [finding for finding in found if finding["status"] == FAIL]
    assert [finding["check"] for finding in failures] == ["nodes", "replicas"]
    assert failures[0]["detail"] == f"{names[2]} is down"
    assert failures[1]["detail"].startswith(f"1 of 3 offline: {names[2]}")
    cluster.stop(1)
    found = until(lambda found: sum(finding["status"] == FAIL for finding in found) == 3)
    assert found[-1]["detail"] == (
        f"2 of 3 offline: {names[1]}, {names[2]}; without a majority there is no leader, and nothing is confirmed"
    )


def test_an_alarm_has_the_figures_of_its_node(scripted: Scripted) -> None:
    found = scripted(alarms(("a", "disk space"), ("b", "memory"), ("a", "x\x1b")), [node("a"), node("b")], code=6)
    assert [finding["detail"] for finding in found if finding["status"] == FAIL] == [
        "disk alarm on a, 48.0 MB free and a limit of 50.0 MB: publishers are blocked on all nodes",
        "memory alarm on b, 131 MB used and a limit of 100 MB: AMQP publishers are blocked, those of streams are not",
        "alarm on a: x\\x1b",
    ]
    assert all(finding["hint"] for finding in found if finding["status"] == FAIL)
    assert [finding["check"] for finding in found] == ["management", "alarms", "alarms", "alarms", "nodes", "plugins"]


def test_an_alarm_is_told_to_a_user_who_may_not_see_nodes(scripted: Scripted) -> None:
    found = scripted(alarms(("a", "disk space")), None, code=6)
    assert the_failure(found)["detail"] == "disk alarm on a: publishers are blocked on all nodes"
    assert (found[-1]["check"], found[-1]["status"]) == ("nodes", SKIPPED)


def test_alarms_that_are_not_known_are_not_none(scripted: Scripted) -> None:
    found = scripted(None, [node("a")])
    assert shown(found)[1] == ("alarms", SKIPPED, "the management API does not have this check")
    assert found[1]["hint"] == "`rabbitmq-diagnostics alarms` shows them"
    assert [finding["status"] for finding in found] == [OK, SKIPPED, OK, OK]


def test_nodes_that_are_not_named_are_not_up(scripted: Scripted) -> None:
    assert shown(scripted(nodes=[]))[-1] == ("nodes", SKIPPED, "the management API names none")


@pytest.mark.parametrize("leader", ["a", None])
def test_replicas_that_are_not_named_are_neither_online_nor_offline(scripted: Scripted, leader: str | None) -> None:
    found = scripted(nodes=[node("a")], stream=queue("", "", leader=leader))
    assert shown(found)[-1] == ("replicas", SKIPPED, "the management API does not name the members of this stream")
    assert found[-1]["hint"]


def test_a_node_that_is_down(scripted: Scripted) -> None:
    found = scripted(nodes=[node("a"), down("b"), down("c")], code=6)
    assert shown(found)[2:] == [
        ("nodes", FAIL, "b is down"),
        ("nodes", FAIL, "c is down"),
        ("plugins", OK, "rabbitmq_stream and rabbitmq_stream_management"),
    ]


def test_many_nodes_are_bounded(scripted: Scripted) -> None:
    found = scripted(nodes=[down(f"n{number}") for number in range(30)], code=6)
    assert [finding["detail"] for finding in found if finding["check"] == "nodes"] == [
        *(f"n{number} is down" for number in range(8)),
        "and 22 more",
    ]


def test_plugins_that_are_off(scripted: Scripted) -> None:
    found = scripted(nodes=[node("a"), node("b", enabled_plugins=["rabbitmq_management"]), down("c")], code=6)
    assert [finding for finding in shown(found) if finding[0] == "plugins"] == [
        ("plugins", FAIL, "rabbitmq_stream is off on b: stream clients cannot connect there"),
        ("plugins", OK, "rabbitmq_stream_management is off on b: consumers and stored offsets cannot be listed"),
    ]
    assert [finding["hint"] for finding in found if finding["check"] == "plugins"] == [
        "there: `rabbitmq-plugins enable rabbitmq_stream`",
        "there: `rabbitmq-plugins enable rabbitmq_stream_management`",
    ]


def test_a_plugin_for_listing_alone_is_no_failure(scripted: Scripted) -> None:
    found = scripted(nodes=[node("a", enabled_plugins=["rabbitmq_stream"])])
    assert found[-1]["status"] == OK
    assert found[-1]["hint"] == "there: `rabbitmq-plugins enable rabbitmq_stream_management`"


@pytest.mark.parametrize(
    ("stream", "detail"),
    [
        (queue("abc", "ab"), "1 of 3 offline: c"),
        (queue("abc", "abc", leader=None), "3 of 3 online; the stream has no leader"),
        (queue("abc", "bc", leader="a"), "1 of 3 offline: a; the stream has no leader"),
        (
            queue("abc", "ab", state="minority"),
            "1 of 3 offline: c; without a majority there is no leader, and nothing is confirmed",
        ),
        (
            queue("abcd", "ab"),
            "2 of 4 offline: c, d; without a majority there is no leader, and nothing is confirmed",
        ),
        (queue("a", "", leader=None), "1 of 1 offline: a; without a majority there is no leader, and nothing is"),
    ],
)
def test_replicas_that_are_offline(scripted: Scripted, stream: Any, detail: str) -> None:
    failure = the_failure(scripted(nodes=[node(name) for name in "abcd"], stream=stream, code=6))
    assert failure["check"] == "replicas"
    assert failure["detail"].startswith(detail)


def test_a_node_that_is_down_has_no_replica_online_whatever_the_stream_tells(scripted: Scripted) -> None:
    """RabbitMQ was seen to tell of replicas for a while after their node had gone."""
    found = scripted(nodes=[node("a"), node("b"), down("c")], stream=queue("abc", "abc"), code=6)
    assert found[-1]["detail"] == "1 of 3 offline: c"


def test_the_text_for_a_person(stream_uri: str) -> None:
    async def answer(visit: Visit) -> None:
        await visit.answer(alarms(("rabbit@\x1b[2J", "disk space")), "503 Service Unavailable")

    async def work() -> bytes:
        async with serving(answer) as web:
            words = ("doctor", "--uri", stream_uri, "--management-uri", f"http://localhost:{web.port}")
            done = await asyncio.to_thread(run_rstream, *words)
            assert done.returncode == 6
            return done.stdout

    text = asyncio.run(work())
    assert b"\x1b" not in text
    assert b"\nFAIL     alarms        disk alarm on rabbit@\\x1b[2J: publishers are blocked on all nodes\n" in text
    assert b"\nskipped  nodes " in text
