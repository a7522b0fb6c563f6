"""A message that is larger than a block is rendered in blocks, to the same bytes as any other."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable

import pytest

from rstream_cli import rendering
from rstream_cli.pretty_json import PrettyJson
from rstream_cli.records import large_messages
from rstream_cli.records.csv_out import csv_renderer, parse_columns
from rstream_cli.records.framing_out import DelimiterWriter, Len32Writer, RawWriter
from rstream_cli.records.template import Template
from rstream_cli.rendering import BlockView, Rendered, Renderer
from rstream_core import AMQPMessage, Properties
from rstream_core.protocol.amqp import encode_bodies

MB = 1024 * 1024

MESSAGES = [
    *encode_bodies(
        [b"x" * 300, bytes(300), "gr\u00fc\u00dfe \U0001f600 ".encode() * 50, b"\xff\xfe" * 200, b"a" * 299 + b"\xc3"]
    ),
    AMQPMessage(b"y" * 400, properties=Properties(message_id="a"), application_properties={"k": 1}).encode(),
    AMQPMessage(b"y" * 400, footer={"f": 1}).encode(),
    AMQPMessage(value="t\u00e9xt" * 100).encode(),
    AMQPMessage(value=b"binary" * 100).encode(),
    AMQPMessage(value={"a": ["b" * 300]}).encode(),
    AMQPMessage(sequence=["s" * 300, 1]).encode(),
    AMQPMessage(b"", application_properties={"k": "v" * 300}).encode(),
    encode_bodies([b"z" * 300])[0] * 2,  # two data sections
]
RENDERERS = [
    lambda raw: rendering.bodies_renderer(DelimiterWriter(), raw=raw),
    lambda raw: rendering.bodies_renderer(DelimiterWriter(b"\r\n"), raw=raw),
    lambda raw: rendering.bodies_renderer(Len32Writer(), raw=raw),
    lambda raw: rendering.bodies_renderer(RawWriter(), raw=raw),
    lambda raw: rendering.json_renderer(raw=raw),
    lambda raw: csv_renderer(parse_columns("offset,headers.k,body"), raw=raw),
    lambda raw: rendering.template_renderer(Template("%o %S %s|%R %h %p\\n"), raw=raw),
]


def all_well(index: int, why: str) -> None:
    pytest.fail(f"message {index} {why}")


def joined(rendered: Rendered) -> bytes:
    return rendered if isinstance(rendered, bytes) else b"".join(rendered)


def view(message: bytes) -> BlockView:
    return BlockView("s", [7], 1_700_000_000_000, [message])


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("number", range(len(RENDERERS)))
@pytest.mark.parametrize("message", MESSAGES, ids=range(len(MESSAGES)))
def test_blocks_are_what_one_block_would_be(
    monkeypatch: pytest.MonkeyPatch, message: bytes, number: int, raw: bool
) -> None:
    render: Renderer = RENDERERS[number](raw)
    whole = render(view(message), all_well)
    assert isinstance(whole, bytes)
    monkeypatch.setattr(rendering, "LARGE", 100)
    monkeypatch.setattr(large_messages, "_BLOCK", 33)
    blocks = render(view(message), all_well)
    assert not isinstance(blocks, bytes)
    assert joined(blocks) == whole


@pytest.mark.parametrize("number", range(len(RENDERERS)))
@pytest.mark.parametrize(
    "message",
    [b"\0\x53\x75\xb0\0\0\0\xff" + bytes(200), AMQPMessage(value="x" * 300).encode()[:-1] + b"\xff", bytes(300)],
)
def test_what_is_not_amqp_is_told_before_the_first_block(
    monkeypatch: pytest.MonkeyPatch, message: bytes, number: int
) -> None:
    monkeypatch.setattr(rendering, "LARGE", 100)
    told: list[int] = []
    rendered = RENDERERS[number](False)(view(message), lambda index, why: told.append(index))
    assert (told, joined(rendered)) == ([0], b"")


@pytest.mark.parametrize("message", MESSAGES, ids=range(len(MESSAGES)))
def test_a_large_message_is_laid_out_too(monkeypatch: pytest.MonkeyPatch, message: bytes) -> None:
    layout = PrettyJson(color=False)
    plain = rendering.json_renderer(raw=False)(view(message), all_well)
    assert isinstance(plain, bytes)
    monkeypatch.setattr(rendering, "LARGE", 100)
    shown = rendering.json_renderer(raw=False, layout=layout)(view(message), all_well)
    assert shown == layout(plain.decode()).encode()
    assert shown != plain


def _drain(blocks: Iterable[bytes | memoryview]) -> int:
    return sum(map(len, blocks))


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("number", range(len(RENDERERS)))
def test_a_body_is_never_there_twice(number: int, raw: bool) -> None:
    given = view(encode_bodies([bytes(32 * MB)])[0])
    tracemalloc.start()
    try:
        blocks = RENDERERS[number](raw)(given, all_well)
        assert not isinstance(blocks, bytes)
        assert _drain(blocks) >= 32 * MB
        assert tracemalloc.get_traced_memory()[1] < 16 * MB
    finally:
        tracemalloc.stop()
