"""``consume --filter-from``: which messages are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from rstream_cli.filtering import ExactFilter
from rstream_cli.records.paths import parse_path
from rstream_core import AMQPMessage
from rstream_core.flow.acks import Account, Acks
from rstream_core.flow.block import Block
from rstream_core.flow.stages import Choice


def choose(values: Sequence[str], path: str, messages: Sequence[bytes], **options: bool) -> Choice:
    exact = ExactFilter(tuple(values), parse_path(path), **options)
    return exact.choose(Block(Acks(Account()), range(len(messages)), messages))


def stored(body: str, **headers: Any) -> bytes:
    return AMQPMessage(body=body, application_properties=headers or None).encode()


@pytest.mark.parametrize(
    ("path", "values", "unfiltered", "expected"),
    [
        (".r", ("eu",), False, [0]),
        (".r", ("5", "true"), False, [1, 2]),
        (".r", ("eu",), True, [0, 3, 4, 5, 6]),
        (".headers.r", ("eu",), False, [5]),
        (".body", ("text",), False, [4]),
    ],
)
def test_a_filter(path: str, values: tuple[str, ...], unfiltered: bool, expected: list[int]) -> None:
    messages = [
        stored('{"r":"eu"}'),
        stored('{"r":5}'),
        stored('{"r":true}'),
        stored('{"r":null}'),
        stored("text"),
        stored("header", r="eu"),
        stored('{"s":"eu"}'),
    ]
    assert choose(values, path, messages, match_unfiltered=unfiltered) == (expected, [])


def test_a_filter_of_raw_messages_and_of_what_is_no_message() -> None:
    messages = [b'{"r":"eu"}', b'{"r":"us"}', b"\xff"]
    assert choose(["eu"], ".r", messages, raw=True) == ([0], [])
    no_message, no_headers = b"\x00Sp\xff", stored('{"r":"us"}') + b"\x00Sx\xff"
    good = [stored('{"r":"us"}'), stored('{"r":"eu"}')]
    assert choose(["eu"], ".r", [no_message, *good, no_headers]) == ([0, 2, 3], [0, 3])


def test_the_value_may_come_from_the_body_or_from_the_envelope() -> None:
    both = stored('{"headers":{"r":"us"}}', r="eu")
    for value in ("eu", "us"):
        assert choose([value], ".headers.r", [both]).places == [0]
    assert choose(["asia"], ".headers.r", [both], match_unfiltered=True).places == []


@pytest.mark.parametrize("value", [b"\xff", {5: "eu"}, ["eu", b"eu"], {"a": 1e300}], ids=repr)
def test_a_value_that_is_no_filter_value(value: Any) -> None:
    """It equals none, whatever the broker's filter let through."""
    message = AMQPMessage(body="x", application_properties={"r": value}).encode()
    assert choose(["eu"], ".headers.r", [message]).places == []
