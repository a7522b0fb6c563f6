"""Paths into JSON values: how they are written, and what is at one."""

from __future__ import annotations

import pytest

from rstream_cli.records.paths import PathError, extract, format_path, parse_path

PATHS: list[tuple[str, tuple[str | int, ...]]] = [
    (".", ()),
    (".a", ("a",)),
    (".a.b[0].c", ("a", "b", 0, "c")),
    (".[3]", (3,)),
    (".a[-1][2]", ("a", -1, 2)),
    ('."a.b"', ("a.b",)),
    ('."say \\"hi\\""', ('say "hi"',)),
    (".schlüssel", ("schlüssel",)),
    (".$id", ("$id",)),
    ('.""', ("",)),
    ('."0 a"', ("0 a",)),
]


@pytest.mark.parametrize(("text", "path"), PATHS)
def test_path_and_back(text: str, path: tuple[str | int, ...]) -> None:
    assert parse_path(text) == path
    assert format_path(path) == text


def test_path_takes_brackets_as_jq_does() -> None:
    assert parse_path('.a["b.c"].[1]') == ("a", "b.c", 1)


@pytest.mark.parametrize("text", ["", "a", "a.b", ".a.", "..a", ".a[", ".a[x]", ".a]b", '."a', '."\\x"', "[0]", ". a"])
def test_bad_path(text: str) -> None:
    with pytest.raises(ValueError, match="not a path"):
        parse_path(text)


DOCUMENT = {"a": {"b": [{"c": 5}, None]}, "x.y": True, "s": "text"}


@pytest.mark.parametrize(
    ("path", "value"),
    [(".a.b[0].c", 5), (".a.b[-1]", None), ('."x.y"', True), (".", DOCUMENT), (".a.b[0]", {"c": 5})],
)
def test_extract(path: str, value: object) -> None:
    assert extract(DOCUMENT, parse_path(path)) == value


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (".z", "no .z"),
        (".a.z", "no .a.z"),
        (".a.b[2]", r"no .a.b\[2\]: the list has 2 items"),
        (".a.b[-3]", "no"),
        (".a.b.c", ".a.b is a list, not an object"),
        (".a[0]", ".a is an object, not a list"),
        (".s.t", ".s is a string, not an object"),
        (".a.b[1].c", "is null, not an object"),
    ],
)
def test_extract_names_the_step(path: str, message: str) -> None:
    with pytest.raises(PathError, match=message):
        extract(DOCUMENT, parse_path(path))
