"""Modules and classes stay small, or say at the head of their module, in one sentence, why they do not."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.layers import MODULES, ROOT

MOST_OF_A_MODULE = 500
MOST_OF_A_CLASS = 250

REASON_OF_A_MODULE = re.compile(r"The module is longer than others, (since|so that)\s\S")
REASON_OF_A_CLASS = re.compile(r"``(\w+)`` is longer than other\s+classes,\s+(since|so\s+that)\s\S")


def faults(source: str) -> list[str]:
    """What is too long in a module and gives no reason, and which reason is given for something that is short."""
    tree = ast.parse(source)
    head = ast.get_docstring(tree) or ""
    lines = len(source.splitlines())
    has_reason = REASON_OF_A_MODULE.search(head.replace("\n", " ")) is not None
    found = []
    if lines > MOST_OF_A_MODULE and not has_reason:
        found.append(f"{lines} lines")
    if lines <= MOST_OF_A_MODULE and has_reason:
        found.append(f"a reason for {lines} lines")
    reasons = {match[1] for match in REASON_OF_A_CLASS.finditer(head)}
    sizes = {
        node.name: (node.end_lineno or 0) - node.lineno + 1 for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    }
    long = {name for name, size in sizes.items() if size > MOST_OF_A_CLASS}
    found += [f"class {name} has {sizes[name]} lines" for name in sorted(long - reasons)]
    found += [f"a reason for class {name}, which is not long" for name in sorted(reasons - long)]
    return found


def test_modules_and_classes_are_short_or_say_why() -> None:
    paths = {ROOT / Path(*name.split(".")) for name in MODULES}
    files = [path / "__init__.py" if path.is_dir() else path.with_suffix(".py") for path in paths]
    assert len(files) > 200
    assert {str(file.relative_to(ROOT)): told for file in files if (told := faults(file.read_text()))} == {}


LONG_CLASS = "class Long:\n" + "    x = 1\n" * MOST_OF_A_CLASS
LONG_MODULE = "x = 1\n" * (MOST_OF_A_MODULE + 1)


@pytest.mark.parametrize(
    ("head", "source", "told"),
    [
        ("", LONG_CLASS, ["class Long has 251 lines"]),
        ("``Long`` is longer than other\nclasses, since it must.", LONG_CLASS, []),
        ("``Long`` is longer than other classes.", LONG_CLASS, ["class Long has 251 lines"]),
        ("``Other`` is longer than other classes, since.", LONG_CLASS, ["class Long has 251 lines"]),
        ("``Long`` is longer than other classes, since it must.", "class Long: ...\n", ["a reason for class Long"]),
        ("", LONG_MODULE, ["502 lines"]),
        ("The module is longer than\nothers, so that it is.", LONG_MODULE, []),
        ("The module is longer than others.", LONG_MODULE, ["502 lines"]),
        ("The module is longer than others, since it was.", "x = 1\n", ["a reason for 2 lines"]),
        ("", "class Short:\n" + "    x = 1\n" * (MOST_OF_A_CLASS - 1), []),
    ],
)
def test_what_is_too_long_is_found(head: str, source: str, told: list[str]) -> None:
    found = faults(f'"""{head}"""\n{source}')
    assert len(found) == len(told)
    assert all(fault.startswith(start) for fault, start in zip(found, told, strict=True))
