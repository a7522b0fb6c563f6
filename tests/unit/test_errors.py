"""Errors leave the process: in a ProcessPoolExecutor they are pickled, and other tools copy them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

from rstream_core import (
    AmqpError,
    HostNotFound,
    MessageTooLarge,
    NotConfirmed,
    RstreamError,
    ServerClosed,
    StreamDoesNotExist,
    errors,
)
from rstream_core.producer import Losses

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
    """Users see a ``NotConfirmed``: elsewhere it is one."""
    error = Losses(3, "the broker was gone")
    error.outbox = lambda: None  # type: ignore[assignment]  # cannot be pickled, as an outbox cannot
    other = pickle.loads(pickle.dumps(error))
    assert type(other) is NotConfirmed
    assert str(other) == str(error)


def lose() -> None:
    raise ServerClosed(1, "bye")


def test_an_error_comes_out_of_a_process_pool() -> None:
    with ProcessPoolExecutor(1) as pool, pytest.raises(ServerClosed, match="bye"):
        pool.submit(lose).result(timeout=60)
