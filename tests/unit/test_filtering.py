"""``consume --filter-from``: which messages are wanted."""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Sequence
from typing import Any

import pytest

from rstream_cli.filtering import ExactFilter
from rstream_cli.matching import Match
from rstream_cli.records.paths import parse_path
from rstream_core import AMQPMessage
from rstream_core.flow.acks import Account, Acks
from rstream_core.flow.block import Block
from rstream_core.flow.stages import Choice
from rstream_core.protocol.amqp_types import Timestamp, ULong


def choose(values: Sequence[str], path: str, messages: Sequence[bytes], **options: bool) -> Choice:
    exact = ExactFilter(tuple(values), parse_path(path), **options)
    return exact.choose(Block(Acks(Account()), range(10, 10 + len(messages)), messages, "s", 1_785_000_000_123))


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


@pytest.mark.parametrize(
    ("path", "value", "places"),
    [
        (".offset", "11", [1]),
        (".stream", "s", [0, 1]),
        (".stream", "", []),
        (".timestamp", "2026-07-25T17:20:00.123Z", [0, 1]),
        (".body", "b", [1]),
    ],
)
@pytest.mark.parametrize("raw", [False, True])
def test_the_place_of_a_message(path: str, value: str, places: list[int], raw: bool) -> None:
    messages = [b"a", b"b"] if raw else [stored("a"), stored("b")]
    assert choose([value], path, messages, raw=raw) == (places, [])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (math.nan, "nan"),
        (b"eu", "eu"),
        (b"\xff", os.fsdecode(b"\xff")),
        (ULong(2**64 - 1), "18446744073709551615"),
        (Timestamp(5), "5"),
        (1.5, "1.5"),
        (True, "true"),
    ],
    ids=repr,
)
def test_a_value_is_compared_as_match_compares_it(value: Any, text: str) -> None:
    """Quotation marks are no part of a UUID, and what is no number is not "null"."""
    message = AMQPMessage(body="x", application_properties={"r": value}).encode()
    block = Block(Acks(Account()), range(1), [message])
    assert Match(parse_path(".headers.r"), os.fsencode(text)).choose(block).places == [0]
    assert choose([text], ".headers.r", [message]).places == [0]
    assert choose(["null", f'"{text}"'], ".headers.r", [message]).places == []
