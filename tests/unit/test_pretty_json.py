"""JSON for a person: indented and in colours, with every value as it was written."""

from __future__ import annotations

import io
import json
import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstream_cli.environment import ColorChoice, Environment, PrettyChoice
from rstream_cli.pretty_json import DEEPEST, PrettyJson, layout_for, write_answer

PLAIN, COLORED = PrettyJson(color=False), PrettyJson(color=True)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def without_colors(text: str) -> str:
    return re.sub(r"\x1b\[\d+m", "", text)


def test_an_envelope() -> None:
    line = '{"stream":"s","offset":41,"headers":{"n":-5e3,"on":true},"annotations":{},"list":[1,[]],'
    line += '"body":"a, \\"b\\": {"}\n'
    assert PLAIN(line) == (
        "{\n"
        '  "stream": "s",\n'
        '  "offset": 41,\n'
        '  "headers": {\n'
        '    "n": -5e3,\n'
        '    "on": true\n'
        "  },\n"
        '  "annotations": {},\n'
        '  "list": [\n'
        "    1,\n"
        "    []\n"
        "  ],\n"
        '  "body": "a, \\"b\\": {"\n'
        "}\n"
    )


def test_colors() -> None:
    assert COLORED('{"a":["b",1,null]}') == (
        '{\n  \x1b[36m"a"\x1b[0m: [\n    \x1b[32m"b"\x1b[0m,\n    \x1b[33m1\x1b[0m,\n    \x1b[35mnull\x1b[0m\n  ]\n}\n'
    )


def test_each_value_begins_in_a_line_of_its_own() -> None:
    assert PLAIN('{}\n[]\n"x"\n{"a":1}\n5\n') == '{}\n[]\n"x"\n{\n  "a": 1\n}\n5\n'
    assert PLAIN("") == ""


@given(st.lists(VALUES, max_size=3))
def test_it_is_the_same_json(values: list[Any]) -> None:
    lines = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)
    shown = PLAIN(lines)
    assert without_colors(COLORED(lines.replace("\x1b", ""))) == PLAIN(lines.replace("\x1b", ""))
    assert PLAIN(shown) == shown
    decoder, found = json.JSONDecoder(), []
    rest = shown
    while rest:
        value, end = decoder.raw_decode(rest)
        found.append(value)
        assert rest[end] == "\n"
        rest = rest[end + 1 :]
    assert found == values


def test_numbers_stay_as_they_are_written() -> None:
    numbers = "[18446744073709551616, 1.50, -0.0, 1E400, 0.1e-7]"
    assert "".join(PLAIN(numbers).split()) == numbers.replace(" ", "")


def test_deep_values_take_no_room() -> None:
    depth = 2000
    shown = PLAIN("[" * depth + "1" + "]" * depth)
    assert "".join(shown.split()) == "[" * depth + "1" + "]" * depth
    assert max(len(line) for line in shown.splitlines()) == 2 * DEEPEST + 1
    assert len(shown) < depth * 2 * (2 * DEEPEST + 3)


def test_a_long_string_takes_little_time() -> None:
    line = json.dumps({"body": 'x"\\' * 500_000})
    begin = time.process_time()
    assert json.loads(PLAIN(line)) == json.loads(line)
    assert time.process_time() - begin < 2


@pytest.mark.parametrize("broken", ["]", "}}", '{"a', '"', "\\", '{"a":}', "[,", "nul"])
def test_what_is_no_json_raises_nothing(broken: str) -> None:
    PLAIN(broken)
    COLORED(broken)


def environment(*, tty: bool, **variables: str) -> Environment:
    streams = io.StringIO(), io.StringIO(), io.StringIO()
    return Environment(*streams, variables={"TERM": "xterm", **variables}, stdout_is_tty=tty)


@pytest.mark.parametrize(
    ("tty", "variables", "pretty", "color", "shown"),
    [
        (False, {}, "auto", "auto", '{"a":1}\n'),
        (False, {"FORCE_COLOR": "1"}, "auto", "always", '{"a":1}\n'),
        (True, {}, "never", "always", '{"a":1}\n'),
        (True, {}, "auto", "never", '{\n  "a": 1\n}\n'),
        (True, {"NO_COLOR": "1"}, "auto", "auto", '{\n  "a": 1\n}\n'),
        (True, {"TERM": "dumb"}, "auto", "auto", '{\n  "a": 1\n}\n'),
        (False, {}, "always", "auto", '{\n  "a": 1\n}\n'),
        (False, {}, "always", "always", '{\n  \x1b[36m"a"\x1b[0m: \x1b[33m1\x1b[0m\n}\n'),
        (True, {}, "auto", "auto", '{\n  \x1b[36m"a"\x1b[0m: \x1b[33m1\x1b[0m\n}\n'),
        (True, {"NO_COLOR": "1"}, "auto", "always", '{\n  \x1b[36m"a"\x1b[0m: \x1b[33m1\x1b[0m\n}\n'),
    ],
)
def test_when_it_is_laid_out(tty: bool, variables: dict[str, str], pretty: str, color: str, shown: str) -> None:
    env = environment(tty=tty, **variables)
    write_answer(env, [{"a": 1}], PrettyChoice(pretty), ColorChoice(color))
    assert isinstance(env.stdout, io.StringIO)
    assert env.stdout.getvalue() == shown


def test_a_value_cannot_steer_the_terminal() -> None:
    env = environment(tty=True, NO_COLOR="1")
    write_answer(env, [{"a\x1b[2J": "\x9b\u202e\n"}], PrettyChoice.AUTO)
    assert isinstance(env.stdout, io.StringIO)
    assert env.stdout.getvalue() == '{\n  "a\\u001b[2J": "\\u009b\\u202e\\n"\n}\n'


def test_programs_get_lines() -> None:
    assert layout_for(environment(tty=False), PrettyChoice.AUTO, ColorChoice.AUTO) is None
