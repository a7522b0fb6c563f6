"""Brokers that are reached over IPv6, and advertise such an address."""

from __future__ import annotations

import contextlib
import socket

import pytest

from rstream_core.broker import EmbeddedBroker
from tests.cli.conftest import run_rstream
from tests.conftest import OwnRabbitMQ


@pytest.fixture
def port() -> int:
    """A free one of ::1."""
    with contextlib.closing(socket.socket(socket.AF_INET6)) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no ::1")
        return int(sock.getsockname()[1])


def goes_through(uri: str) -> None:
    lines = b"1\n2\n3\n"
    assert run_rstream("publish", "s", "--create", "-u", uri, stdin=lines).returncode == 0
    consumed = run_rstream("consume", "s", "-o", "first", "--until", "end", "-u", uri)
    assert (consumed.returncode, consumed.stdout) == (0, lines)
    found = run_rstream("doctor", "--stream", "s", "-u", uri)
    assert found.returncode == 0
    assert b"the address that was used" in found.stdout


def test_rabbitmq(own_rabbitmq: OwnRabbitMQ, port: int) -> None:
    listener = ("--config", f"stream.listeners.tcp.six=::1:{port}")
    own_rabbitmq(*listener, "--advertised-host", "::1", "--advertised-port", str(port))
    goes_through(f"rabbitmq-stream://guest:guest@[::1]:{port}")


@pytest.mark.usefixtures("port")
def test_embedded() -> None:
    with EmbeddedBroker(host="::1") as broker:
        assert broker.uri == f"rabbitmq-stream://guest:guest@[::1]:{broker.port}/%2F"
        goes_through(broker.uri)
