"""docs/where.md and docs/architecture.md name what is there: modules, functions and test files."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAME = re.compile(r"rstream_\w+(?:\.\w+)+")


def rows() -> list[tuple[str, str, str]]:
    """What, where and the tests, as the tables have it."""
    page = (ROOT / "docs" / "where.md").read_text()
    cells = [line.strip("| \n").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return [(what, where, tests) for what, where, tests in cells if what != "what"]


def is_there(name: str, root: Path = ROOT) -> bool:
    """Whether a module has this function, method, class or constant; the name may be that of a module, too."""
    parts = name.split(".")
    for depth in range(len(parts), 0, -1):
        place = root.joinpath(*parts[:depth])
        path = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
        if path.is_file():
            return _has(ast.parse(path.read_text()).body, parts[depth:])
    return False


def _has(body: list[ast.stmt], names: list[str]) -> bool:
    if not names:
        return True
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name == names[0]:
            return _has(node.body, names[1:])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == names[0]:
            return not names[1:]
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == names[0] for target in targets):
            return not names[1:]
    return False


@pytest.mark.parametrize(("what", "where", "tests"), rows(), ids=lambda cell: cell[:40])
def test_row_names_what_is_there(what: str, where: str, tests: str) -> None:
    names = re.findall(r"`([^`]+)`", where)
    missing = [name for name in names if NAME.fullmatch(name) and not is_there(name)]
    assert not missing, f"{what}: {missing}"
    assert any(NAME.fullmatch(name) for name in names) or "](bounds.md)" in where, what
    files = re.findall(r"`([^`]+)`", tests)
    assert files, what
    assert [name for name in files if not re.fullmatch(r"tests/\w+/test_\w+\.py", name)] == []
    assert [name for name in files if not (ROOT / name).is_file()] == []


def test_there_are_enough() -> None:
    assert len(rows()) >= 40
    assert len({what for what, _, _ in rows()}) == len(rows())


@pytest.mark.parametrize(
    "name",
    [
        "rstream_core.no_such_module.function",
        "rstream_core.flow.gate.no_such_function",
        "rstream_core.flow.gate.Rate.no_such_method",
        "rstream_core.flow.gate.admit",
        "rstream_core.flow.gate.Rate.admit.deeper",
        "rstream_core.flow.gate.bisect_right",
    ],
)
def test_what_is_gone_would_be_noticed(name: str) -> None:
    assert not is_there(name)


# --- docs/architecture.md --------------------------------------------------------------------------------------------

MODULES = [
    path.relative_to(ROOT).with_suffix("").as_posix()
    for package in ("rstream_core", "rstream_cli")
    for path in sorted((ROOT / package).rglob("*.py"))
]


def spans_of_modules() -> list[str]:
    """Code of the page that names a module by its path, or something in a module: ``flow/run``, ``wire.split``."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / "docs" / "architecture.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    spans = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)*(?:\.\w+)*)`", text))
    stems = {module.rsplit("/", 1)[-1] for module in MODULES}
    spans = {span for span in spans if not span.startswith("tests/")}  # tests/unit/test_docs.py looks for those
    return sorted(span for span in spans if "/" in span or ("." in span and span.split(".")[0] in stems))


def is_in_a_module(span: str) -> bool:
    path, *names = span.split(".")
    places = [module for module in MODULES if f"/{module}".endswith(f"/{path}")]
    return any(is_there(".".join([*module.split("/"), *names])) for module in places) or (ROOT / path).is_dir()


@pytest.mark.parametrize("span", spans_of_modules())
def test_architecture_names_what_is_there(span: str) -> None:
    assert is_in_a_module(span)


def test_what_is_gone_from_the_architecture_would_be_noticed() -> None:
    assert len(spans_of_modules()) > 30
    for span in ("flow/no_such_module", "wire.no_such_function", "flow/run.Run.no_such_method"):
        assert not is_in_a_module(span)
