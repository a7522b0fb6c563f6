"""Errors leave the process: in a ProcessPoolExecutor they are pickled, and other tools copy them."""

from __future__ import annotations

import copy
import importlib
import pickle
import pkgutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

import rstream_core
from rstream_core import (
    AmqpError,
    HostNotFound,
    MessageTooLarge,
    NotConfirmed,
    RstreamError,
    ServerClosed,
    ServerError,
    StreamDoesNotExist,
    errors,
)
from rstream_core.errors import SuperStreamSubject, error_from_code
from rstream_core.producers.losses import Losses, losses_of, not_confirmed

WAYS: list[Callable[[RstreamError], RstreamError]] = [
    *[lambda error, protocol=protocol: pickle.loads(pickle.dumps(error, protocol)) for protocol in range(6)],
    copy.copy,
    copy.deepcopy,
]


def kinds(kind: type[RstreamError] = RstreamError) -> Iterator[type[RstreamError]]:
    yield kind
    for below in kind.__subclasses__():
        if below.__module__ == errors.__name__:
            yield from kinds(below)


def made(kind: type[RstreamError]) -> RstreamError:
    error = ServerClosed(1, "bye") if kind is ServerClosed else kind("what went wrong")
    error.hint = "what to do"
    error.add_note("and where")
    return error


@pytest.mark.parametrize("way", range(len(WAYS)))
@pytest.mark.parametrize("kind", sorted(set(kinds()), key=str))
def test_an_error_of_each_kind_is_the_same_elsewhere(kind: type[RstreamError], way: int) -> None:
    error = made(kind)
    other = WAYS[way](error)
    assert type(other) is kind
    assert (str(other), other.args, vars(other)) == (str(error), error.args, vars(error))


@pytest.mark.parametrize(
    "error",
    [
        ServerClosed(2, "the stream went away"),
        MessageTooLarge("it is too large", position=7),
        AmqpError("no such type", position=12),
        StreamDoesNotExist("stream 's': none", response_code=2),
        HostNotFound("no such host", hint="look it up"),
    ],
)
def test_what_an_error_carries_comes_along(error: RstreamError) -> None:
    for way in WAYS:
        assert vars(way(error)) == vars(error)


def test_what_only_this_process_knows_of_a_loss_stays_here() -> None:
    """And a traceback shows the class that users know."""
    outbox: Any = lambda: None  # noqa: E731 - cannot be pickled, as an outbox cannot
    error = not_confirmed(Losses(3, "the broker was gone", outbox))
    assert type(error) is NotConfirmed
    assert losses_of(error) == Losses(3, "the broker was gone", outbox)
    other = pickle.loads(pickle.dumps(error))
    assert type(other) is NotConfirmed
    assert str(other) == str(error)


def raised_kinds() -> list[type]:
    """All classes of errors of the core that are not public."""
    found: list[type] = []
    for info in pkgutil.walk_packages(rstream_core.__path__, "rstream_core."):
        module = importlib.import_module(info.name)
        found += [
            kind
            for kind in vars(module).values()
            if isinstance(kind, type) and issubclass(kind, RstreamError) and kind.__module__ == info.name
        ]
    return [kind for kind in found if kind.__module__ != errors.__name__]


def test_internal_errors_are_known() -> None:
    """Each of these is caught before a user sees it, where it is raised; a new one is to be looked at."""
    assert {f"{kind.__module__}.{kind.__qualname__}" for kind in raised_kinds()} == {
        "rstream_core.broker.scan._Torn",
        "rstream_core.compat.exceptions.StreamAlreadySubscribed",  # for programs of the published client to catch
        "rstream_core.consuming.offsets.NotStored",
        "rstream_core.connecting.nodes._AnotherNode",
    }


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (2, "super stream 's': the super stream does not exist"),
        (5, "super stream 's': the super stream exists already"),
        (6, "super stream 's': the super stream is not available at the moment"),
        (16, "super stream 's': access refused"),
        (4711, "super stream 's': unknown response code 4711"),
    ],
)
def test_an_error_about_a_super_stream_calls_it_one(code: int, words: str) -> None:
    error = error_from_code(code, SuperStreamSubject("s"))
    assert str(error) == words
    assert type(error) is type(error_from_code(code, "stream 's'"))
    assert "super" not in str(error_from_code(code, "stream 's'"))
    assert error_from_code(4711, SuperStreamSubject("s"), where="h:1").args == (
        "h:1: super stream 's': unknown response code 4711",
    )


def test_every_summary_that_names_a_stream_has_one_for_super_streams() -> None:
    for kind in kinds():
        if issubclass(kind, ServerError) and kind is not ServerError:
            named = None if "the stream" not in kind.summary else kind.summary.replace("the stream", "the super stream")
            assert kind.summary_of_super_stream == named, kind


def lose() -> None:
    raise ServerClosed(1, "bye")


def test_an_error_comes_out_of_a_process_pool() -> None:
    with ProcessPoolExecutor(1) as pool, pytest.raises(ServerClosed, match="bye"):
        pool.submit(lose).result(timeout=60)
