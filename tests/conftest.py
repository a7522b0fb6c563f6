"""Fixtures shared by all tests: real brokers, the embedded one, and names that do not collide.

A test that uses a real broker carries the marker `rabbitmq`, whichever fixture it got it from, so that
`-m "not rabbitmq"` is what a machine without one runs. Where no broker can be had such a test is skipped,
unless RSTREAM_REQUIRE_RABBITMQ=1 says that this would hide something.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
import signal
import sys
import tempfile
import uuid
import warnings
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, settings

from rstream_core.broker import EmbeddedBroker
from rstream_core.protocol.wire_choice import CHOICE
from tests import order
from tests.brokers import (
    IS_SOAK,
    RUN,
    Broker,
    Cluster,
    NoRabbitMQError,
    broker_at,
    own_broker,
    own_cluster,
    shared_broker,
    take_down_the_rest,
)

# How long an example takes says how busy the machine is. `make soak` has many times the examples.
settings.register_profile(
    "patient",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    max_examples=1000 if IS_SOAK else 40,
)
# What decides whether a change lands must not depend on chance; everywhere else new examples are welcome.
settings.register_profile("repeatable", settings.get_profile("patient"), derandomize=True)
settings.load_profile("repeatable" if os.environ.get("CI") else "patient")

OwnRabbitMQ = Callable[..., Broker]

EVENT_LOOP = "RSTREAM_EVENT_LOOP"

_REAL_BROKER_FIXTURES = {"rabbitmq", "own_rabbitmq", "cluster"}


def pytest_configure(config: pytest.Config) -> None:
    """The first of a run's processes keeps a folder for all of them."""
    if os.environ.get("RSTREAM_EAGER_TASKS") == "1":
        make_tasks_eager()
    if EVENT_LOOP in os.environ:
        choose_event_loop(os.environ[EVENT_LOOP])
    # What tests start would ignore SIGINT as these tests do where they are a background job of a script.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):
        os.environ[RUN] = tempfile.mkdtemp(prefix="rstream-test-run-")
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the run as Ctrl-C does


def pytest_report_header() -> str:
    return f"the seam of rstream_core: {CHOICE}"


def pytest_unconfigure(config: pytest.Config) -> None:
    """Ctrl-C ends the processes that tests run in, and leaves them no time to take their brokers down."""
    if not hasattr(config, "workerinput"):
        run = Path(os.environ.pop(RUN))
        take_down_the_rest(run)
        run.rmdir()


@pytest.hookimpl(tryfirst=True)  # before pytest itself selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses a real broker, leave out what is for ``make soak``, and begin with the files that take long."""
    if not IS_SOAK:
        items[:] = [item for item in items if item.get_closest_marker("soak") is None]
    items.sort(key=lambda item: order.place_of(item.path))
    for item in items:
        if _REAL_BROKER_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.rabbitmq)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_auto_num_workers() -> int | None:
    """How many processes ``-n auto`` is; None leaves it to the variable that xdist reads."""
    return None if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ else order.workers()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    """As for the test itself."""
    return (yield from _giving_up())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """A broker that the tests were given cannot be killed, nor asked by rabbitmqctl: who wants that is skipped."""
    return (yield from _giving_up())


def _giving_up() -> Generator[None]:
    try:
        return (yield)
    except NoRabbitMQError as reason:
        give_up(str(reason))


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[Broker]:
    """One real RabbitMQ for the whole session; leave it as it was found."""
    with contextlib.ExitStack() as stack:
        try:
            broker = stack.enter_context(shared_broker(f"test-{os.getpid()}"))
        except NoRabbitMQError as reason:
            give_up(str(reason))
        yield broker


@pytest.fixture
def own_rabbitmq() -> Iterator[OwnRabbitMQ]:
    """Starts a RabbitMQ for this test alone, which may kill it: `own_rabbitmq(*options_of_up)`."""
    numbers = itertools.count()
    with contextlib.ExitStack() as stack:

        def start(*options: str) -> Broker:
            name = f"own-{os.getpid()}-{uuid.uuid4().hex[:8]}-{next(numbers)}"
            try:
                return stack.enter_context(own_broker(name, *options))
            except NoRabbitMQError as reason:
                give_up(str(reason))

        yield start


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three nodes for the tests of one module, which may kill them, and start again what they killed."""
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(own_cluster(f"cluster-{os.getpid()}-{uuid.uuid4().hex[:8]}"))
        except NoRabbitMQError as reason:
            give_up(str(reason))
        yield found


@pytest.fixture(scope="session")
def embedded() -> Iterator[Broker]:
    """One embedded broker for the whole session, in a thread of its own."""
    with EmbeddedBroker(management_port=0) as broker:
        uri = broker.management_uri
        assert uri is not None
        yield dataclasses.replace(broker_at(broker.uri), management_port=int(uri.rpartition(":")[2]))


@pytest.fixture(params=["embedded", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def broker(request: pytest.FixtureRequest) -> Broker:
    """Every kind of broker that a conformance test is to hold for, one after the other."""
    found: Broker = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def stream_name() -> str:
    """The name of a stream that no other test uses."""
    return f"test-{uuid.uuid4().hex}"


def make_tasks_eager() -> None:
    """From now on every event loop starts its tasks at once: RSTREAM_EAGER_TASKS=1, from Python 3.12."""
    if sys.version_info < (3, 12):
        pytest.exit("RSTREAM_EAGER_TASKS=1 needs Python 3.12", returncode=2)
    make = asyncio.BaseEventLoop.__init__

    def make_eager(loop: asyncio.BaseEventLoop) -> None:
        make(loop)
        loop.set_task_factory(asyncio.eager_task_factory)

    asyncio.BaseEventLoop.__init__ = make_eager


def choose_event_loop(name: str) -> None:
    """Whose event loops are made from now on: RSTREAM_EVENT_LOOP, ``asyncio`` or ``uvloop``."""
    if name not in {"asyncio", "uvloop"}:
        pytest.exit(f"RSTREAM_EVENT_LOOP is asyncio or uvloop, not {name!r}", returncode=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.14, which has nothing else for all threads
        if name == "uvloop":
            import uvloop

            asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        else:
            asyncio.set_event_loop_policy(None)


@contextlib.contextmanager
def event_loops_of(name: str) -> Iterator[None]:
    """Those that are made in here, by whatever thread."""
    choose_event_loop(name)
    try:
        yield
    finally:
        choose_event_loop(os.environ.get(EVENT_LOOP, "asyncio"))


def give_up(reason: str) -> NoReturn:
    """Skips the test, or fails it where real brokers are required."""
    if os.environ.get("RSTREAM_REQUIRE_RABBITMQ") == "1":
        pytest.fail(f"RSTREAM_REQUIRE_RABBITMQ=1, but {reason}", pytrace=False)
    pytest.skip(reason)
