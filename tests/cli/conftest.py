"""Runs the installed ``rstream`` as a user's shell would: a process, its streams, its exit code.

``run_rstream`` is a function to import; nothing of the tester's own environment (RSTREAM_*, colours, CI) reaches
the process.
"""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from rstream_cli import app
from rstream_cli.environment import Environment
from tests.brokers import Broker
from tests.clients import closed_port

RSTREAM = Path(sys.executable).with_name("rstream")

_LEFT_OUT = ("RSTREAM_", "_RSTREAM_", "TYPER_", "_TYPER_", "COLUMNS", "LINES", "TERM", "NO_COLOR", "FORCE_COLOR")


def environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment that ``rstream`` is run in; ``env`` is added to it."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_LEFT_OUT)}
    kept.pop("GITHUB_ACTIONS", None)
    return {**kept, **(env or {})}


def run_rstream(
    *arguments: str,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    timeout: float = 30.0,
) -> subprocess.CompletedProcess[bytes]:
    """Runs ``rstream`` to its end. Fails the test where it prints a traceback or takes too long."""
    done = subprocess.run(
        [str(RSTREAM), *arguments],
        input=stdin,
        env=environment(env),
        capture_output=True,
        timeout=timeout,
        check=False,
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
    return done


class Done(NamedTuple):
    """How a command line ended."""

    status: int
    output: str
    errors: str


def run_here(*arguments: str, env: Mapping[str, str] | None = None, terminal: bool = False) -> Done:
    """Runs a command line in this process, without a start of its own: for tests with hundreds of them.

    What ``consume`` writes goes to this process's stdout. ``terminal``: the three streams are taken for one. What
    asyncio complains of fails the test, and logging is as it was before.
    """
    output, errors = io.StringIO(), io.StringIO()
    here = Environment(
        stdin=io.StringIO(),
        stdout=output,
        stderr=errors,
        variables={**(env or {}), **({"TERM": "dumb"} if terminal else {})},
        stdin_is_tty=terminal,
        stdout_is_tty=terminal,
        stderr_is_tty=terminal,
    )
    complaints: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: complaints.append(record.getMessage())  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in (None, "asyncio", "rstream_core", "rstream_cli")]
    before = [(logger, logger.level, logger.handlers[:], logger.propagate) for logger in loggers]
    raising = logging.raiseExceptions
    logging.getLogger("asyncio").addHandler(handler)
    try:
        status = app.run(arguments, here)
    finally:
        for logger, level, handlers, propagate in before:
            logger.setLevel(level)
            logger.handlers[:] = handlers
            logger.propagate = propagate
        logging.raiseExceptions = raising
    assert complaints == []
    return Done(status, output.getvalue(), errors.getvalue())


Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def env(rabbitmq: Broker) -> dict[str, str]:
    """The environment variables that name the real broker."""
    return {"RSTREAM_URI": rabbitmq.uri}


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


@pytest.fixture(name="closed_port")
def _closed_port() -> Iterator[int]:
    """A port of this machine that refuses connections."""
    with closed_port() as port:
        yield port
