"""The brokers that are measured: RabbitMQ, and the embedded one; brought up for this run and taken down after it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "rabbitmq"
_PATIENCE = 20.0
"""Seconds in which the embedded broker must end."""


class Broker(NamedTuple):
    """Where it is, and what it is."""

    uri: str
    description: str


@contextlib.contextmanager
def ended_in_order() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP raise ``SystemExit`` here, so that what was started is taken down.

    All who start a broker do so within it. While something is taken down, ``undisturbed`` lets them wait.
    """
    if threading.current_thread() is not threading.main_thread():  # only that one gets signals
        yield
        return
    before = {number: signal.signal(number, _end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Lets signals that would end this program wait: what is taken down must not stay half way."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {each: signal.signal(each, lambda number, _: came.append(number)) for each in numbers}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        for number in came:
            signal.raise_signal(number)


@contextlib.contextmanager
def running_broker() -> Iterator[Broker]:
    """RSTREAM_TEST_URI where it is set, and then nothing is started; else a broker of our own.

    Raises ``subprocess.CalledProcessError`` where none can be had; the script has said why.
    """
    given = os.environ.get("RSTREAM_TEST_URI")
    name = f"bench-{os.getpid()}"
    with ended_in_order():
        if given:
            yield Broker(given.split()[0], "the RabbitMQ of RSTREAM_TEST_URI")
            return
        try:
            uri = _script("up", "--name", name).split()[0]
            status = json.loads(_script("status", "--name", name, "--json"))
            yield Broker(uri, f"RabbitMQ {status['version']} ({status['way']})")
        finally:
            with undisturbed():
                _script("down", "--name", name)


@contextlib.contextmanager
def embedded_broker() -> Iterator[Broker]:
    """The embedded broker in a process of its own, as ``rstream broker run`` starts it.

    Raises ``subprocess.CalledProcessError`` where it does not start.
    """
    command = [str(Path(sys.executable).with_name("rstream")), "broker", "run", "--port", "0"]
    with (
        ended_in_order(),
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as serving,
    ):
        try:
            assert serving.stdout is not None
            uri = serving.stdout.readline().strip()
            if not uri:
                raise subprocess.CalledProcessError(serving.wait(_PATIENCE), command)
            yield Broker(uri, "embedded broker")
        finally:
            serving.terminate()
            try:
                serving.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                serving.kill()
                raise


def _script(*arguments: str) -> str:
    # A session of its own: Ctrl-C is for us, and we bring the broker down.
    done = subprocess.run([SCRIPT, *arguments], stdout=subprocess.PIPE, check=True, text=True, start_new_session=True)
    return done.stdout
