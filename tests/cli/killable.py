"""Brokers of a test's own, of each kind, that it may kill and start again."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from tests.brokers import Broker, broker_at
from tests.cli.conftest import run_rstream
from tests.cli.process import eventually, running


class Killable(Protocol):
    """It has a stream ``s``, which outlives its end, and its address."""

    @property
    def uri(self) -> str: ...

    def kill(self) -> None:
        """Ends it as a power cut would."""

    def start(self) -> None:
        """Returns when clients can log in."""


class _Embedded:
    """The embedded broker, as a process."""

    def __init__(self, data: Path, stack: ExitStack) -> None:
        self._data = data
        self._stack = stack
        self._process: subprocess.Popen[bytes] | None = None
        self.uri = ""
        self.start()

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def start(self) -> None:
        port = broker_at(self.uri).port if self.uri else 0
        words = ("broker", "run", "--data", str(self._data), "--port", str(port))
        self._process = self._stack.enter_context(running(*words, env={}))
        assert self._process.stdout is not None
        self.uri = self._process.stdout.readline().decode().strip()
        assert self.uri


@contextmanager
def embedded(data: Path) -> Iterator[Killable]:
    with ExitStack() as stack:
        broker = _Embedded(data, stack)
        assert run_rstream("stream", "create", "s", "--uri", broker.uri).returncode == 0
        yield broker


def made_killable(broker: Broker) -> Killable:
    """RabbitMQ. Killed in the first seconds of its first stream, it forgets where that is; an orderly stop helps."""
    assert run_rstream("stream", "create", "s", "--uri", broker.uri).returncode == 0
    broker.ctl("stop_app")
    broker.ctl("start_app")
    eventually(lambda: run_rstream("stream", "info", "s", "--uri", broker.uri).returncode == 0)
    return broker
