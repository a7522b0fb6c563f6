"""haproxy in front of a cluster whose nodes advertise a name that means nothing here."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers import Cluster, NoRabbitMQError, own_cluster
from tests.cli.conftest import run_rstream
from tests.conftest import give_up

pytestmark = [pytest.mark.slow, pytest.mark.rabbitmq]

HOST = "inside.invalid"

_CONFIG = """\
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen streams
  bind 127.0.0.1:{port}
  balance roundrobin
{servers}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if shutil.which("haproxy") is None:
        give_up("haproxy is not installed")
    with contextlib.ExitStack() as stack:
        try:
            yield stack.enter_context(own_cluster(f"lb-{os.getpid()}", "--config", f"stream.advertised_host={HOST}"))
        except NoRabbitMQError as reason:
            give_up(str(reason))


@pytest.fixture(scope="module")
def balancer(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of a haproxy that spreads connections over the nodes."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = int(sock.getsockname()[1])
    config = tmp_path_factory.mktemp("haproxy") / "haproxy.cfg"
    servers = "\n".join(f"  server n{number} 127.0.0.1:{node.port}" for number, node in enumerate(cluster.nodes))
    config.write_text(_CONFIG.format(port=port, servers=servers))
    process = subprocess.Popen(["haproxy", "-db", "-q", "-f", str(config)])
    try:
        _wait_for(port)
        yield f"rabbitmq-stream://guest:guest@127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(port: int) -> None:
    until = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < until, "haproxy does not listen"
            time.sleep(0.05)
        else:
            return


def test_through_the_balancer(balancer: str, tmp_path: Path) -> None:
    """Three streams, so that leaders lie on several nodes."""
    lines = "".join(f"line {number}\n" for number in range(5000)).encode()
    through = ("--uri", balancer, "--load-balancer")
    for number in range(3):
        stream = f"balanced-{number}"
        place = ("--leader-locator", "balanced")
        assert run_rstream("stream", "create", stream, *place, *through).returncode == 0
        published = run_rstream("publish", stream, *through, stdin=lines)
        assert published.returncode == 0, published.stderr
        consumed = run_rstream("consume", stream, "--offset", "first", "--until", "end", *through)
        assert (consumed.returncode, consumed.stdout) == (0, lines), consumed.stderr
        found = run_rstream("doctor", "--stream", stream, *through)
        assert found.returncode == 0, found.stdout


def test_without_the_option_the_error_says_so(balancer: str) -> None:
    assert run_rstream("stream", "create", "unbalanced", "--uri", balancer).returncode == 0
    done = run_rstream("publish", "unbalanced", "-m", "x", "--uri", balancer)
    assert done.returncode == 6
    error, hint = done.stderr.decode().splitlines()
    assert error.startswith("error: connected to 127.0.0.1:")
    assert f"but it advertises {HOST}:" in error
    assert error.endswith("which does not resolve")
    assert hint == "hint: pass --load-balancer, or set stream.advertised_host on the broker"


def test_a_dead_node_behind_the_balancer(cluster: Cluster, balancer: str) -> None:
    """haproxy is not told to look after its nodes: every third connection ends at once."""
    through = ("--uri", balancer, "--load-balancer")
    assert run_rstream("stream", "create", "one-dies", *through).returncode == 0
    cluster.settle()
    cluster.kill(2)
    try:
        for number in range(6):
            done = run_rstream("publish", "one-dies", "-m", str(number), *through)
            assert done.returncode == 0, done.stderr
        consumed = run_rstream("consume", "one-dies", "--offset", "first", "--until", "end", *through)
        assert (consumed.returncode, consumed.stdout.split()) == (0, [b"%d" % number for number in range(6)])
    finally:
        cluster.start(2)
