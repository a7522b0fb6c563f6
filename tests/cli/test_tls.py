"""TLS from the command line, against a RabbitMQ with certificates made here; and ``doctor``, which tells of them."""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers import Broker, own_broker
from tests.certificates import Authority
from tests.cli.conftest import run_rstream

pytestmark = pytest.mark.slow

_EXTERNAL = ("auth_mechanisms.1=PLAIN", "auth_mechanisms.2=EXTERNAL", "ssl_cert_login_from=common_name")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def secure(rabbitmq: Broker, authority: Authority) -> Iterator[Broker]:
    """A broker with a certificate for localhost."""
    folder = authority.for_broker(alternatives=("DNS:localhost",))
    settings = [word for setting in _EXTERNAL for word in ("--config", setting)]
    with own_broker(
        f"tls-cli-{os.getpid()}", "--tls", str(folder), "--advertised-host", "localhost", *settings
    ) as broker:
        yield broker


def uri(broker: Broker, host: str = "localhost", user: str = "guest:guest@") -> str:
    return f"rabbitmq-stream+tls://{user}{host}:{broker.tls_port}"


def test_the_right_authority(secure: Broker, authority: Authority, stream_name: str) -> None:
    env = {"RSTREAM_URI": uri(secure), "RSTREAM_CA_FILE": str(authority.ca_file)}
    assert run_rstream("publish", stream_name, "--create", "-m", "over TLS", env=env).returncode == 0
    done = run_rstream("consume", stream_name, "--offset", "first", "--until", "end", env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"over TLS\n", b"")


def test_an_authority_that_is_not_trusted(secure: Broker) -> None:
    done = run_rstream("stream", "info", "any", "--uri", uri(secure))
    assert done.returncode == 6
    assert b"certificate of localhost" in done.stderr
    assert b"is not accepted" in done.stderr
    assert b"--ca-file" in done.stderr


def test_another_host_name(secure: Broker, authority: Authority, stream_name: str) -> None:
    words = (
        "stream",
        "create",
        stream_name,
        "--uri",
        uri(secure, host="127.0.0.1"),
        "--ca-file",
        str(authority.ca_file),
    )
    done = run_rstream(*words)
    assert done.returncode == 6
    assert b"127.0.0.1" in done.stderr
    assert b"--server-name" in done.stderr
    assert run_rstream(*words, "--server-name", "localhost").returncode == 0


def test_insecure_says_so(secure: Broker) -> None:
    done = run_rstream("stream", "info", "missing", "--insecure", "--uri", uri(secure))
    assert done.returncode == 4
    assert b"NOT verified" in done.stderr


def test_a_certificate_that_has_ended(authority: Authority, rabbitmq: Broker) -> None:
    folder = authority.for_broker(ends_in=dt.timedelta(days=-1))
    with own_broker(f"tls-old-{os.getpid()}", "--tls", str(folder)) as broker:
        for command in (("stream", "info", "any"), ("doctor",)):
            done = run_rstream(*command, "--uri", uri(broker), "--ca-file", str(authority.ca_file))
            assert done.returncode == 6
            assert b"expired" in done.stdout + done.stderr


def test_a_client_certificate_logs_in(secure: Broker, authority: Authority) -> None:
    secure.ctl("add_user", "bob", "not needed")
    secure.ctl("set_permissions", "bob", ".*", ".*", ".*")
    for name, code in (("bob", 0), ("nobody", 5)):
        certificate, key = authority.issue(name, name, alternatives=())
        words = ("--uri", uri(secure, user=""), "--ca-file", str(authority.ca_file), "--sasl", "external")
        done = run_rstream("doctor", *words, "--cert", str(certificate), "--cert-key", str(key))
        assert done.returncode == code, done.stdout
        assert b"guest" not in done.stdout
        assert (b"ssl_cert_login_from" in done.stdout) == (code == 5)
    assert run_rstream("doctor", "--uri", uri(secure), "--sasl", "external").returncode == 2


def test_doctor_tells_of_the_certificate(secure: Broker, authority: Authority) -> None:
    found = doctor("--uri", uri(secure), "--ca-file", str(authority.ca_file))
    assert found["TLS"]["status"] == "ok"
    assert "issued by rstream tests" in found["TLS"]["detail"]
    assert "renew" in found["TLS"]["hint"]  # it is made for two days
    assert "NOT verified" in doctor("--uri", uri(secure), "--insecure")["TLS"]["detail"]


def doctor(*words: str, code: int = 0) -> dict[str, dict[str, str]]:
    done = run_rstream("doctor", "--json", *words)
    assert done.returncode == code, done.stderr
    return {finding["check"]: finding for finding in map(json.loads, done.stdout.splitlines())}


def test_no_password_shows(secure: Broker, tmp_path: Path) -> None:
    done = run_rstream("doctor", "-vv", "--uri", uri(secure, user="guest:s3cret@"), "--insecure")
    assert done.returncode == 5
    assert b"s3cret" not in done.stdout + done.stderr
