"""Real RabbitMQ brokers for tests: a thin, typed wrapper around `scripts/rabbitmq`.

The script decides how a broker is run; this module only calls it, and turns "there is no way to run one here"
into an exception of its own, which the fixtures turn into a skip or a failure.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "rabbitmq"

IS_SOAK = os.environ.get("RSTREAM_SOAK") == "1"
"""Whether the long forms of tests are run."""
IS_MEASURED = os.environ.get("COVERAGE_RUN") == "true"
"""Whether ``make coverage`` runs: then each process imports more, handles SIGTERM, and writes a file as it ends."""
RUN = "RSTREAM_TEST_RUN"
"""The variable that names a folder with a file for each broker of a run of tests, over all its processes."""

# Long enough for the first use on a machine, which builds a Debian tree or pulls an image.
UP_TIMEOUT = 600.0
_NO_WAY = 6


class NoRabbitMQError(Exception):
    """This machine has no way to run a RabbitMQ, or not the one that a test needs."""


class ScriptFailedError(Exception):
    """`scripts/rabbitmq` ended with an error; the message holds what it wrote."""


def run_script(
    *arguments: str, environ: dict[str, str] | None = None, timeout: float = UP_TIMEOUT
) -> subprocess.CompletedProcess[str]:
    """Run `scripts/rabbitmq` and return how it ended."""
    return subprocess.run(
        [str(SCRIPT), *arguments], env=environ, text=True, capture_output=True, timeout=timeout, check=False
    )


def _answer(*arguments: str, environ: dict[str, str] | None = None) -> str:
    done = run_script(*arguments, environ=environ)
    if done.returncode == _NO_WAY:
        raise NoRabbitMQError(done.stderr.strip())
    if done.returncode != 0:
        raise ScriptFailedError(f"rabbitmq {' '.join(arguments)}: {done.stderr.strip()}{done.stdout.strip()}")
    return done.stdout


@dataclasses.dataclass(frozen=True)
class Broker:
    """A running broker and how to reach it."""

    name: str
    uri: str
    host: str
    port: int
    username: str
    password: str
    vhost: str
    management_port: int | None = None
    tls_port: int | None = None
    """Where it listens over TLS, if it does."""
    management_tls_port: int | None = None
    environ: dict[str, str] | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def management_uri(self) -> str:
        """Where its management API is; that of a given broker is in RSTREAM_TEST_MANAGEMENT_URI."""
        if self.management_port is not None:
            return f"http://{self.host}:{self.management_port}"
        given = os.environ.get("RSTREAM_TEST_MANAGEMENT_URI")
        if given is None:
            raise NoRabbitMQError("RSTREAM_TEST_URI names a broker, and RSTREAM_TEST_MANAGEMENT_URI no management API")
        return given

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl against the broker and return what it printed."""
        return self._run("ctl", "--", *arguments)

    def kill(self) -> None:
        """End the server as a power cut would; only for a broker of the test's own."""
        self._run("kill")

    def start(self) -> None:
        """Start it again on the same ports and data; returns when clients can log in."""
        self._run("start")

    def _run(self, command: str, *arguments: str) -> str:
        if not self.name:
            raise NoRabbitMQError(f"{command}: RSTREAM_TEST_URI names a broker that the tests do not run")
        return _answer(command, "--name", self.name, *arguments, environ=self.environ)


def broker_at(uri: str) -> Broker:
    """One that the tests can only connect to."""
    return _from_uri("", uri, {}, None)


def _from_uri(name: str, uri: str, ports: dict[str, int], environ: dict[str, str] | None) -> Broker:
    parts = urlsplit(uri)
    return Broker(
        name=name,
        uri=uri,
        host=parts.hostname or "localhost",
        port=parts.port or 5552,
        username=unquote(parts.username or "guest"),
        password=unquote(parts.password or "guest"),
        vhost=unquote(parts.path.removeprefix("/")) or "/",
        management_port=ports.get("management"),
        tls_port=ports.get("stream_tls"),
        management_tls_port=ports.get("management_tls"),
        environ=environ,
    )


@contextlib.contextmanager
def shared_broker(name: str) -> Iterator[Broker]:
    """The broker of RSTREAM_TEST_URI, else one that is started now and taken down afterwards."""
    given = os.environ.get("RSTREAM_TEST_URI")
    if given:
        yield broker_at(given)
        return
    with own_broker(name) as broker:
        yield broker


@contextlib.contextmanager
def own_broker(name: str, *options: str) -> Iterator[Broker]:
    """A broker that nobody else uses, whatever RSTREAM_TEST_URI says; `options` are those of `up`."""
    environ = _without_given_broker()
    with _taken_down(name, "down"):
        uri = _answer("up", "--name", name, *options, environ=environ).strip()
        status: dict[str, Any] = json.loads(_answer("status", "--name", name, "--json", environ=environ))
        yield _from_uri(name, uri, status["nodes"][0]["ports"], environ)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Three nodes that nobody else uses."""

    name: str
    nodes: tuple[Broker, ...]
    """Each by its own address; the other methods of ``Broker`` are not for them."""

    def settle(self) -> None:
        """Have the nodes write what they write by themselves within three minutes of the first stream.

        Until then Ra's list of its members is in a file that is not synced, and a node that is killed forgets that
        it coordinates streams: with two of them there is no majority any more, for good.
        """
        for number in range(len(self.nodes)):
            self.ctl(number, "eval", "[dets:sync(Table) || Table <- dets:all()].")

    def kill(self, number: int) -> None:
        """End a node as a power cut would."""
        self._run("kill", str(number))

    def stop(self, number: int) -> None:
        """Let a node shut down in order."""
        self._run("stop", str(number))

    def start(self, number: int) -> None:
        """Start a node again; returns when clients can log in."""
        self._run("start", str(number))

    def ctl(self, number: int, *arguments: str) -> str:
        """Run rabbitmqctl on a node and return what it printed."""
        return self._run("ctl", str(number), "--", *arguments)

    def _run(self, command: str, *arguments: str) -> str:
        return _answer("cluster", command, "--name", self.name, *arguments, environ=_without_given_broker())


@contextlib.contextmanager
def own_cluster(name: str, *options: str) -> Iterator[Cluster]:
    """A cluster of three; `options` are those of `cluster up`."""
    environ = _without_given_broker()
    with _taken_down(name, "cluster", "down"):
        _answer("cluster", "up", "--name", name, *options, environ=environ)
        status: dict[str, Any] = json.loads(_answer("cluster", "status", "--name", name, "--json", environ=environ))
        yield Cluster(name, tuple(_from_uri(name, node["uri"], node["ports"], environ) for node in status["nodes"]))


@contextlib.contextmanager
def _taken_down(name: str, *command: str) -> Iterator[None]:
    """Takes it down in the end; what ends this process before is left to `take_down_the_rest`."""
    note = Path(os.environ[RUN]) / name if RUN in os.environ else None
    if note is not None:
        note.write_text(" ".join(command))
    try:
        yield
    finally:
        _answer(*command, "--name", name, environ=_without_given_broker())
        if note is not None:
            note.unlink(missing_ok=True)


def take_down_the_rest(run: Path) -> None:
    """Those of a run's processes that were ended before they could do it."""
    for note in run.iterdir():
        run_script(*note.read_text().split(), "--name", note.name, environ=_without_given_broker())
        note.unlink(missing_ok=True)


def _without_given_broker() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "RSTREAM_TEST_URI"}
