"""``rstream doctor``: each step ok, FAIL with what to do, or skipped; and the exit code of the first FAIL."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Mapping
from typing import Any

import pytest

from rstream_cli.diagnosis import FAIL, OK, SKIPPED
from rstream_core import EmbeddedBroker, Hint
from tests.brokers import Broker
from tests.cli.conftest import run_here, run_rstream
from tests.conftest import OwnRabbitMQ
from tests.peer import Peer

_STEPS = ["name", "connection", "TLS", "login", "virtual host", "broker", "features", "round trip", "advertised"]
_BY_THE_API = {"management", "alarms", "nodes", "plugins", "replicas"}


def doctor(uri: str, *words: str, code: int, env: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """The findings but for those of the management API, which test_doctor_management.py has."""
    done = run_rstream("doctor", "--uri", uri, "--json", *words, env=env)
    assert done.returncode == code, done.stdout + done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [finding for finding in found if finding["check"] == "management"] != []
    return [finding for finding in found if finding["check"] not in _BY_THE_API]


def statuses(found: list[dict[str, Any]]) -> dict[str, str]:
    return {finding["check"]: finding["status"] for finding in found}


def the_failure(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The one FAIL; what comes after it is skipped."""
    at = [finding["status"] for finding in found].index(FAIL)
    assert all(finding["status"] == SKIPPED for finding in found[at + 1 :])
    assert found[at]["hint"]
    failure: dict[str, Any] = found[at]
    return failure


def test_all_is_well(broker: Broker, stream_name: str, env: dict[str, str]) -> None:
    run_rstream("stream", "create", stream_name, env=env)
    found = doctor(broker.uri, "--stream", stream_name, code=0)
    assert list(statuses(found)) == [*_STEPS, "stream", "leader"]
    assert {check for check, status in statuses(found).items() if status != OK} == {"TLS"}
    run_rstream("stream", "delete", stream_name, "--yes", env=env)


def test_the_text_for_a_person(env: dict[str, str]) -> None:
    done = run_rstream("doctor", env=env)
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    assert lines[0].startswith("ok       name ")
    assert [line for line in lines if line.startswith("skipped  TLS ")]
    assert b"\x1b" not in done.stdout
    assert b"\x1b[32mok" in run_rstream("doctor", "--color", "always", env=env).stdout


def test_the_text_fits_a_terminal(env: dict[str, str]) -> None:
    plain = run_here("doctor", env=env).output
    shown = run_here("doctor", env={**env, "COLUMNS": "60"}, terminal=True).output
    times = re.compile(r"[\d.]+ ms")
    assert times.sub("", shown).split() == times.sub("", plain).split()
    lines = shown.splitlines()
    assert all(len(line) <= 57 for line in lines)
    assert len(lines) > len(plain.splitlines())
    begins = ("ok ", "skipped ", " " * 23)
    assert all(line.startswith(begins) for line in lines)


def test_a_missing_stream(broker: Broker, stream_name: str) -> None:
    found = doctor(broker.uri, "--stream", stream_name, code=4)
    assert the_failure(found)["check"] == "stream"


def test_a_name_that_does_not_resolve() -> None:
    found = doctor("rabbitmq-stream://no-such-host.invalid", "--stream", "any", code=6)
    assert the_failure(found)["check"] == "name"
    assert list(statuses(found)) == [*_STEPS, "stream"]


def test_nobody_listens(closed_port: int) -> None:
    assert the_failure(doctor(f"rabbitmq-stream://127.0.0.1:{closed_port}", code=6))["check"] == "connection"


def test_somebody_who_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = doctor(f"rabbitmq-stream://127.0.0.1:{port}", "--connect-timeout", "5s", code=6)
    failure = the_failure(found)
    assert failure["check"] == "login"
    assert "handshake" in failure["detail"]


def test_a_wrong_password(broker: Broker) -> None:
    found = doctor(f"rabbitmq-stream://{broker.username}:no@{broker.host}:{broker.port}", code=5)
    assert the_failure(found)["check"] == "login"


def test_an_unknown_virtual_host(broker: Broker) -> None:
    address = f"{broker.host}:{broker.port}"
    found = doctor(f"rabbitmq-stream://{broker.username}:{broker.password}@{address}/none", code=5)
    assert the_failure(found)["check"] == "virtual host"
    assert statuses(found)["login"] == OK


def test_one_seed_of_two_is_down(broker: Broker, closed_port: int) -> None:
    done = run_rstream("doctor", "-u", broker.uri, "-u", f"rabbitmq-stream://127.0.0.1:{closed_port}")
    assert done.returncode == 6
    assert done.stdout.count(b"\nFAIL") == 1
    assert done.stdout.startswith(b"ok ")


def test_json_says_which_node(broker: Broker, closed_port: int) -> None:
    closed = f"127.0.0.1:{closed_port}"
    found = doctor(broker.uri, "--uri", f"rabbitmq-stream://{closed}", "--stream", "none", code=6)
    good = f"{broker.host}:{broker.port}"
    assert [finding["node"] for finding in found] == [*[good] * len(_STEPS), *[closed] * len(_STEPS), None]


@pytest.mark.slow
def test_an_advertised_name_that_does_not_resolve(own_rabbitmq: OwnRabbitMQ, stream_name: str) -> None:
    broker = own_rabbitmq("--advertised-host", "no-such-host.invalid")
    created = run_rstream("stream", "create", stream_name, "--uri", broker.uri)
    assert created.returncode == 0, created.stderr
    found = doctor(broker.uri, "--stream", stream_name, code=6)
    failures = {finding["check"]: finding for finding in found if finding["status"] == FAIL}
    assert list(failures) == ["advertised", "leader"]
    assert "does not resolve" in failures["advertised"]["detail"]
    assert "--load-balancer" in failures["leader"]["hint"]
    through = statuses(doctor(broker.uri, "--stream", stream_name, "--load-balancer", code=0))
    assert through["leader"] == OK


def test_it_is_the_examined_node_that_sends_elsewhere(closed_port: int) -> None:
    with EmbeddedBroker(advertised_host="no-such-host.invalid") as broker:
        address = f"127.0.0.1:{broker.port}"
        found = doctor(f"rabbitmq-stream://127.0.0.1:{closed_port}", "--uri", f"rabbitmq-stream://{address}", code=6)
    assert found[-1]["check"] == "advertised"
    assert f"connected to {address}, but it advertises no-such-host.invalid" in found[-1]["detail"]


def test_a_token_that_is_too_large_for_the_frames_before_open(broker: Broker) -> None:
    """The broker ends the connection without a word."""
    token = "t" * 9000
    size = len(f"\0{broker.username}\0{token}PLAIN") + 14  # key, version, correlation id and two lengths
    env = {"RSTREAM_HOST": broker.host, "RSTREAM_PORT": str(broker.port), "RSTREAM_USERNAME": broker.username}
    env["RSTREAM_PASSWORD"] = token
    done = run_rstream("doctor", "--json", env=env)
    failure = the_failure([json.loads(line) for line in done.stdout.splitlines()])
    closed = f"{broker.host}:{broker.port} closed the connection during the handshake"
    assert (done.returncode, failure["check"]) == (6, "login")
    assert failure["detail"] == f"{closed}; the login takes {size:,} bytes"
    assert failure["hint"] == Hint.LOGIN_TOO_LARGE
    told = run_rstream("stream", "info", "s", env=env)
    assert (told.returncode, told.stderr.decode()) == (6, f"error: {closed}\nhint: {Hint.LOGIN_TOO_LARGE}\n")


def test_a_token_that_only_an_older_broker_takes() -> None:
    with Peer() as peer:
        found = doctor(f"rabbitmq-stream://{peer.endpoint}", code=0, env={"RSTREAM_PASSWORD": "t" * 9000})
    login = next(finding for finding in found if finding["check"] == "login")
    assert (login["status"], login["hint"]) == (OK, Hint.LOGIN_TOO_LARGE)
    assert login["detail"] == "user 'guest', PLAIN; a login of 9,026 bytes"


def test_a_token_that_just_fits_is_not_told_of() -> None:
    token = "t" * (8192 - len("\0guest\0") - len("PLAIN") - 14)
    with EmbeddedBroker(users={"guest": token}) as broker:
        env = {"RSTREAM_HOST": "127.0.0.1", "RSTREAM_PORT": str(broker.port), "RSTREAM_PASSWORD": token}
        done = run_rstream("doctor", env=env)
        assert done.returncode == 0, done.stdout
        assert b"ok       login         user 'guest', PLAIN\n" in done.stdout
        done = run_rstream("doctor", env={**env, "RSTREAM_PASSWORD": f"{token}t"})
    assert done.returncode == 6
    assert b"the login takes 8,193 bytes" in done.stdout
