"""The brokers that are measured: RabbitMQ, and the embedded one; brought up for this run and taken down after it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "rabbitmq"
_PATIENCE = 20.0
"""Seconds in which the embedded broker must end."""


class Broker(NamedTuple):
    """Where it is, and what it is."""

    uri: str
    description: str


@contextlib.contextmanager
def running_broker() -> Iterator[Broker]:
    """RSTREAM_TEST_URI where it is set, and then nothing is started; else a broker of our own.

    Raises ``subprocess.CalledProcessError`` where none can be had; the script has said why.
    """
    given = os.environ.get("RSTREAM_TEST_URI")
    if given:
        yield Broker(given.split()[0], "the RabbitMQ of RSTREAM_TEST_URI")
        return
    name = f"bench-{os.getpid()}"
    try:
        uri = _script("up", "--name", name).split()[0]
        status = json.loads(_script("status", "--name", name, "--json"))
        yield Broker(uri, f"RabbitMQ {status['version']} ({status['way']})")
    finally:
        _script("down", "--name", name)


@contextlib.contextmanager
def embedded_broker() -> Iterator[Broker]:
    """The embedded broker in a process of its own, as ``rstream broker run`` starts it.

    Raises ``subprocess.CalledProcessError`` where it does not start.
    """
    command = [str(Path(sys.executable).with_name("rstream")), "broker", "run", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as serving:
        try:
            assert serving.stdout is not None
            uri = serving.stdout.readline().strip()
            if not uri:
                raise subprocess.CalledProcessError(serving.wait(_PATIENCE), command)
            yield Broker(uri, "embedded broker")
        finally:
            serving.terminate()
            serving.wait(_PATIENCE)


def _script(*arguments: str) -> str:
    # A session of its own: Ctrl-C is for us, and we bring the broker down.
    done = subprocess.run([SCRIPT, *arguments], stdout=subprocess.PIPE, check=True, text=True, start_new_session=True)
    return done.stdout
