"""Messages that are held by their bodies are rendered to the same bytes as a list of messages, in every format."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstream_cli.records.csv_out import csv_renderer, parse_columns
from rstream_cli.records.framing_out import DelimiterWriter, Len32Writer, RawWriter
from rstream_cli.records.template import Template
from rstream_cli.rendering import BlockView, Renderer, bodies_renderer, json_renderer, template_renderer
from rstream_cli.terminal import Bodies
from rstream_core.protocol.amqp_sections import PlainMessages, encode_bodies

RENDERERS: list[Callable[[], Renderer]] = [
    lambda: bodies_renderer(DelimiterWriter(), raw=False),
    lambda: bodies_renderer(DelimiterWriter(b"a a"), raw=False),
    lambda: bodies_renderer(DelimiterWriter(), raw=False, shown=Bodies("utf-8")),
    lambda: bodies_renderer(Len32Writer(), raw=False),
    lambda: bodies_renderer(RawWriter(), raw=False),
    lambda: json_renderer(raw=False),
    lambda: csv_renderer(parse_columns("offset,headers.k,body"), raw=False),
    lambda: template_renderer(Template("%o %S %s|%R %h %p\\n"), raw=False),
]


def refuse(place: int, why: str) -> None:
    pytest.fail(f"message {place} {why}")


@given(
    st.lists(st.text("a\n \x1b\u00e9", max_size=9).map(str.encode) | st.binary(max_size=300), max_size=12),
    st.sampled_from(range(len(RENDERERS))),
    st.booleans(),
)
def test_plain_messages_are_rendered_as_any_others(bodies: list[bytes], number: int, is_bad: bool) -> None:
    plain, render = PlainMessages(bodies), RENDERERS[number]()
    blocks, ambiguous = [], []
    for messages in (encode_bodies(bodies), plain, plain):  # what it keeps the first time changes nothing
        view = BlockView("s", range(7, 7 + len(bodies)), 1_700_000_000_000, messages, {8} if is_bad else ())
        blocks.append(render(view, refuse))
        ambiguous.append(render.ambiguous)
    assert blocks == [blocks[0]] * 3
    assert ambiguous == [ambiguous[0]] * 3
