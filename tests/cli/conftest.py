"""Runs ``rstream``, in this process unless a test wants one of its own: its arguments, its streams, its exit code.

``run`` and ``run_rstream`` are in_process.py's; ``process_rstream``, and ``running`` of process.py, start the installed
program. Nothing of the tester's own environment (RSTREAM_*, colours, CI) reaches it. The fixtures are for both brokers,
the embedded one and RabbitMQ, as those of tests/conformance are.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.brokers import Broker
from tests.cli import in_process
from tests.clients import closed_port
from tests.conftest import OwnRabbitMQ

if TYPE_CHECKING:
    from tests.cli.killable import Killable

RSTREAM = Path(sys.executable).with_name("rstream")

_LEFT_OUT = ("RSTREAM_", "_RSTREAM_", "TYPER_", "_TYPER_", "COLUMNS", "LINES", "TERM", "NO_COLOR", "FORCE_COLOR")


def environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment that ``rstream`` is run in; ``env`` is added to it."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_LEFT_OUT)}
    kept.pop("GITHUB_ACTIONS", None)
    # No context of the tester's own.
    return {**kept, "XDG_CONFIG_HOME": "/nonexistent", **(env or {})}


def run_rstream(
    *arguments: str,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    timeout: float = 30.0,
) -> subprocess.CompletedProcess[bytes]:
    """Runs ``rstream`` to its end, in this process. Fails the test where it prints a traceback or takes too long."""
    return _checked(in_process.Run(arguments, environment(env), stdin, timeout=timeout).finish())


def process_rstream(
    *arguments: str,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    timeout: float = 30.0,
) -> subprocess.CompletedProcess[bytes]:
    """The same as a process: for what only the installed program has, such as its start, and descriptors of its own."""
    return _checked(
        subprocess.run(
            [str(RSTREAM), *arguments],
            input=stdin,
            env=environment(env),
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    )


def _checked(done: subprocess.CompletedProcess[bytes]) -> subprocess.CompletedProcess[bytes]:
    assert b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
    return done


class Done(NamedTuple):
    """How a command line ended."""

    status: int
    data: bytes
    """What it wrote to stdout."""
    errors: str

    @property
    def output(self) -> str:
        return self.data.decode(errors="surrogateescape")


def run_here(*arguments: str, env: Mapping[str, str] | None = None, terminal: bool = False) -> Done:
    """What a command line says, with no variables but ``env``. Tracebacks are for the test to judge.

    ``terminal``: the three streams are taken for one.
    """
    variables = {**(env or {}), **({"TERM": "dumb"} if terminal else {})}
    done = in_process.Run(arguments, variables, terminal=terminal).finish()
    return Done(done.returncode, done.stdout, done.stderr.decode())


def as_lines(errors: bytes) -> str:
    """What a run has written to stderr, with the error as the lines for people where it is an object of JSON."""
    lines = []
    for line in errors.decode().splitlines(keepends=True):
        error = json.loads(line) if line.startswith('{"code":') else None
        lines.append(line if error is None else f"error: {error['message']}\n")
        if error is not None and error["hint"] is not None:
            lines.append(f"hint: {error['hint']}\n")
    return "".join(lines)


Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def env(broker: Broker) -> dict[str, str]:
    """The environment variables that name the broker."""
    return {"RSTREAM_URI": broker.uri}


@pytest.fixture
def run(env: dict[str, str]) -> Run:
    """``run_rstream`` with ``env``."""
    return lambda *arguments, **settings: run_rstream(*arguments, env={**env, **settings.pop("env", {})}, **settings)


@pytest.fixture
def stream(run: Run, stream_name: str) -> Iterator[str]:
    """A stream that holds nothing."""
    assert run("stream", "create", stream_name).returncode == 0
    yield stream_name
    run("stream", "delete", stream_name, "--missing-ok", "--yes")


@pytest.fixture(params=["embedded", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def killable(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killable]:
    """A broker of each kind with a stream ``s``, which the test may kill and start again."""
    from tests.cli.killable import embedded, made_killable

    if request.param == "embedded":
        with embedded(tmp_path_factory.mktemp("broker")) as broker:
            yield broker
    else:
        start: OwnRabbitMQ = request.getfixturevalue("own_rabbitmq")
        yield made_killable(start())


@pytest.fixture(name="closed_port")
def _closed_port() -> Iterator[int]:
    """A port of this machine that refuses connections."""
    with closed_port() as port:
        yield port
