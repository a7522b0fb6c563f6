"""``-v``: what is connected to, which node has the stream, where reading begins, and what goes on after a loss."""

from __future__ import annotations

import re
import ssl
import subprocess
from pathlib import Path

import pytest

from rstream_core import ConsumerOffsetSpecification, EmbeddedBroker, OffsetType
from rstream_core.consuming.offsets import in_words
from tests.brokers import Broker
from tests.certificates import Authority
from tests.cli.conftest import Run, run_rstream
from tests.cli.killable import Killable
from tests.cli.process import interrupt, running

LINE = re.compile(r"\d\d:\d\d:\d\d\.\d{3} (INFO|DEBUG|WARNING) (.*)")


def told(stderr: bytes, level: str = "INFO") -> list[str]:
    """The lines of the log of this level."""
    found = [LINE.fullmatch(line) for line in stderr.decode().splitlines()]
    return [match[2] for match in found if match and match[1] == level]


def test_connections(run: Run, broker: Broker, stream: str) -> None:
    done = run("publish", stream, "-m", "one", "-v")
    connected = [line for line in told(done.stderr) if line.startswith("connected to ")]
    assert len(connected) == 2  # for questions, and for publishing
    version = r"\(RabbitMQ \d+\.\d+\.\d+, no TLS\)"
    user = re.escape(f"as {broker.username!r}, virtual host {broker.vhost!r}")
    assert re.match(rf"connected to 127\.0\.0\.1:{broker.port} {version} {user}", connected[0])
    assert broker.password not in done.stderr.decode().replace(f"{broker.username!r}", "")


def test_publishing(run: Run, stream: str) -> None:
    (line,) = (line for line in told(run("publish", stream, "-m", "one", "-v").stderr) if "publishing" in line)
    assert re.fullmatch(rf"publishing to stream '{stream}' at \S+:\d+ \(leader\)", line)
    for first in (1, 3):
        named = run("publish", stream, "-m", "one", "-m", "two", "-v", "--name", "me")
        (line,) = (line for line in told(named.stderr) if "publishing to" in line)
        assert line.endswith(f" (leader) as 'me', from publishing id {first}")


@pytest.mark.parametrize(
    ("start", "shown"),
    [
        ("first", "from first"),
        ("next", "from next"),
        ("1", "from offset 1"),
        ("-2", "from offset 1"),
        ("2026-01-02T03:04:05Z", "from 2026-01-02T03:04:05Z"),
    ],
)
def test_where_reading_begins(run: Run, stream: str, start: str, shown: str) -> None:
    run("publish", stream, "-m", "one", "-m", "two", "-m", "three")
    done = run("consume", stream, "-o", start, "--idle-timeout", "300ms", "-v")
    (line,) = (line for line in told(done.stderr) if line.startswith("reading "))
    assert re.fullmatch(rf"reading stream '{stream}' at \S+:\d+ \(leader\), {shown}", line)


def test_the_turns_of_a_single_active_consumer(run: Run, stream: str) -> None:
    run("publish", stream, "-m", "one", "-m", "two")
    done = run("sac-consume", stream, "--name", "g", "-n", "1", "-v")
    lines = told(done.stderr)
    assert any(line.endswith("(leader), in turns as 'g'") for line in lines)
    assert f"a turn of stream '{stream}' begins, from offset 0" in lines
    done = run("sac-consume", stream, "--name", "g", "-n", "1", "-v")
    assert f"a turn of stream '{stream}' begins, from offset 1" in told(done.stderr)


def test_nothing_of_it_without_v(run: Run, stream: str) -> None:
    assert run("publish", stream, "-m", "one").stderr == b""
    assert run("consume", stream, "-o", "first", "-n", "1").stderr == b""


def test_vv_tells_more(run: Run, stream: str) -> None:
    done = run("consume", stream, "-o", "first", "--idle-timeout", "100ms", "-vv")
    assert any(line.startswith("reading ") for line in told(done.stderr))


@pytest.mark.slow
def test_after_a_loss(killable: Killable) -> None:
    with running("consume", "s", "-v", env={"RSTREAM_URI": killable.uri}, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        lines: list[bytes] = []

        def until(words: bytes) -> None:
            assert process.stderr is not None
            while words not in (line := process.stderr.readline()):
                assert line, lines
                lines.append(line)
            lines.append(line)

        until(b"reading stream 's' at ")
        killable.kill()
        until(b"subscription of stream 's': lost (")
        killable.start()
        until(b"subscription of stream 's': recovered after ")
        until(b"subscription of stream 's' goes on at ")
        interrupt(process)
        assert process.wait(30) == 130


def test_tls(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("server", "server", alternatives=("DNS:localhost",)))
    with EmbeddedBroker(tls=context) as broker:
        uri = f"rabbitmq-stream+tls://localhost:{broker.port}"
        done = run_rstream("stream", "create", "s", "-v", "--uri", uri, "--ca-file", str(authority.ca_file))
    assert done.returncode == 0, done.stderr
    (line,) = told(done.stderr)
    assert re.fullmatch(
        rf"connected to {uri.rpartition('/')[2]} \(RabbitMQ \S+, TLSv1\.3\) as 'guest', virtual host '/'.*", line
    )


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        (None, "from where the broker chooses"),
        (ConsumerOffsetSpecification(OffsetType.LAST), "from last"),
        (ConsumerOffsetSpecification(OffsetType.OFFSET, 2**64 - 1), f"from offset {2**64 - 1}"),
        (ConsumerOffsetSpecification(OffsetType.TIMESTAMP, 2**63 - 1), f"from the time of {2**63 - 1} ms"),
    ],
)
def test_starts_in_words(spec: ConsumerOffsetSpecification | None, shown: str) -> None:
    assert in_words(spec) == shown
