"""The broker that is measured: RabbitMQ, brought up for this run and taken down after it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "rabbitmq"


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


def _script(*arguments: str) -> str:
    # A session of its own: Ctrl-C is for us, and we bring the broker down.
    done = subprocess.run([SCRIPT, *arguments], stdout=subprocess.PIPE, check=True, text=True, start_new_session=True)
    return done.stdout
