"""Documentation that has gone stale fails here: commands, options, public names, links and code blocks."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import rstream_core
from rstream_cli.app import app
from rstream_cli.exit_status import ExitStatus
from rstream_cli.typer_support import PROGRAM

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

CENTRAL = (
    "AMQPMessage",
    "AdvertisedHostUnreachable",
    "AmqpError",
    "Blocks",
    "Chunk",
    "Client",
    "CompressionType",
    "ConfirmationStatus",
    "ConnectionClosed",
    "ConnectionFailed",
    "ConnectionOptions",
    "Consumer",
    "ConsumerOffsetSpecification",
    "EventContext",
    "FilterConfiguration",
    "SingleActiveConsumer",
    "Subscriptions",
    "SuperStreamConsumer",
    "Credentials",
    "Endpoint",
    "FailedMessage",
    "MessageContext",
    "MessageBlock",
    "MessageTooLarge",
    "NotConfirmed",
    "OffsetNotFound",
    "OffsetType",
    "Outcome",
    "Producer",
    "Properties",
    "Publisher",
    "RequestTimeout",
    "RouteNotFound",
    "RouteType",
    "Router",
    "RstreamError",
    "ServerError",
    "StreamDoesNotExist",
    "StreamMetadata",
    "StreamStats",
    "StreamUri",
    "Subscription",
    "SuperStreamProducer",
    "UnsupportedByBroker",
    "amqp_decoder",
    "parse_uri",
    "work",
)
"""Names without which docs/python.md would not explain the core."""


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


# --- Commands ------------------------------------------------------------------------------------------------


def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Every command with its words."""
    yield " ".join(path), command
    if hasattr(command, "list_commands"):
        context = typer.Context(command, info_name=path[-1])
        for name in command.list_commands(context):
            yield from walk(command.get_command(context, name), (*path, name))


COMMANDS = dict(walk(typer.main.get_command(app), (PROGRAM,)))


def section(words: str) -> str:
    """What docs/cli.md says under the heading of a command, without its subcommands."""
    page = ROOT / "docs" / "cli.md"
    assert page.is_file(), "docs/cli.md is missing: make generate"
    heads = re.split(r"^#+ +`?([^`\n]+?)`? *$", page.read_text(), flags=re.MULTILINE)
    sections = dict(zip(heads[1::2], heads[2::2], strict=True))
    assert words in sections, f"docs/cli.md has no heading {words!r}: make generate"
    return sections[words]


@pytest.mark.parametrize("words", COMMANDS)
def test_command_is_documented(words: str) -> None:
    text = section(words)
    options = [
        flag
        for parameter in COMMANDS[words].params
        if parameter.param_type_name == "option" and not parameter.hidden
        for flag in (*parameter.opts, *parameter.secondary_opts)
    ]
    missing = [flag for flag in options if not re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", text)]
    assert not missing, f"docs/cli.md does not tell of {words} {', '.join(missing)}: make generate"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_pages_use_options_that_exist(page: Path) -> None:
    """In shell blocks, and in code within the text: an option behind the words of a command is one of its own."""
    for line in re.findall(rf"{PROGRAM} [^\n`|;]+", "\n".join(code(page))):
        words = line.split()
        if "PROGRAM" in words or not line.isascii():
            continue
        path = PROGRAM
        while len(words) > 1 and f"{path} {words[1]}" in COMMANDS:
            path = f"{path} {words.pop(1)}"
        known = {flag for p in COMMANDS[path].params for flag in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}
        used = [word.partition("=")[0] for word in words[1:] if re.fullmatch(r"--[a-z][a-z-]+(=.*)?", word)]
        assert not [flag for flag in used if flag not in known], f"{named(page)}: {line}"


def code(page: Path) -> list[str]:
    """The code of a page that a reader may type: blocks, and spans between backticks."""
    text = page.read_text()
    blocks = re.findall(r"^```(?!python)[a-z]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [*blocks, *re.findall(r"`([^`\n]+)`", rest)]


def test_readme_starts_a_broker_as_the_hint_does() -> None:
    """There is one docker line, in the README and in the hint of a refused connection."""
    from rstream_cli.runner import START_HINT

    assert "rstream broker run" in START_HINT
    assert START_HINT[START_HINT.index("docker run") :] in (ROOT / "README.md").read_text()


def test_readme_has_every_exit_code() -> None:
    readme = (ROOT / "README.md").read_text()
    missing = [int(status) for status in ExitStatus if not re.search(rf"^\| *{int(status)} *\|", readme, re.MULTILINE)]
    assert not missing


# --- The core ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in rstream_core.__all__ if not name.startswith("__")])
def test_public_name_has_a_docstring(name: str) -> None:
    value = getattr(rstream_core, name)
    assert callable(value)
    assert (value.__doc__ or "").strip(), f"{name} has no docstring"
    assert not value.__doc__.startswith(f"{name}("), f"{name} has only the docstring that dataclasses make"
    if not inspect.isclass(value) or not value.__module__.startswith("rstream_core"):
        return
    for member, attribute in vars(value).items():
        if member.startswith(("_", "on_")):
            continue
        function = attribute.fget if isinstance(attribute, property) else getattr(attribute, "__func__", attribute)
        # A property's name may say it all; what waits for a broker is always explained.
        if inspect.iscoroutinefunction(function):
            assert (function.__doc__ or "").strip(), f"{name}.{member} has no docstring"


@pytest.mark.parametrize("name", CENTRAL)
def test_central_name_is_in_the_guide(name: str) -> None:
    assert name in rstream_core.__all__
    guide = (ROOT / "docs" / "python.md").read_text()
    assert re.search(rf"\b{name}\b", guide), f"docs/python.md does not mention {name}"


@pytest.mark.parametrize(
    "cls",
    [
        rstream_core.Client,
        rstream_core.Producer,
        rstream_core.SuperStreamProducer,
        rstream_core.Router,
        rstream_core.Consumer,
        rstream_core.SuperStreamConsumer,
    ],
)
def test_methods_are_in_the_guide(cls: type) -> None:
    guide = (ROOT / "docs" / "python.md").read_text()
    methods = [name for name, value in vars(cls).items() if inspect.isfunction(value) and not name.startswith("_")]
    assert methods
    missing = [name for name in methods if not re.search(rf"\b{name}\b", guide)]
    assert not missing, f"docs/python.md does not mention {cls.__name__}.{', '.join(missing)}"


def test_error_tree_is_drawn_whole() -> None:
    from rstream_core import errors

    drawn = inspect.getdoc(errors) or ""
    own = [
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value)
        and issubclass(value, errors.RstreamError)
        and value.__base__ is not errors.ServerError
    ]
    assert [name for name in own if not re.search(rf"\b{name}\b", drawn)] == []


# --- Pages ---------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The fragments that headings make, as GitHub does."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    heads = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{named(page)} links to {target}, which is not there"
        assert not fragment or fragment in anchors(linked), f"{named(page)}: {target} has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_python_blocks_compile(page: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        tree = compile(block, named(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "rstream_core":
                assert {alias.name for alias in node.names} <= set(rstream_core.__all__), f"{named(page)}: {block}"


def test_paths_that_are_named_exist() -> None:
    """Files of this repository that a page names in code."""
    for page in PAGES:
        for path in re.findall(r"`((?:docs|tests|scripts|rstream_c\w+)/[\w./-]+)`", page.read_text()):
            assert (ROOT / path).exists(), f"{named(page)} names {path}, which is not there"


_UNITS = {"": 1, " bytes": 1, " s": 1, " KiB": 1024, " MiB": 1024 * 1024, " ms": 0.001}
_CODE = [path for package in ("rstream_core", "rstream_cli") for path in sorted((ROOT / package).rglob("*.py"))]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def bounds_in(source: str) -> set[str]:
    """The constants of a module that are bounds by their names, and numbers."""
    names = set()
    for node in ast.parse(source).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        for target in targets:
            if isinstance(target, ast.Name) and re.search(r"^_?(MAX|MOST|LEAST)(_|$)|_TIMEOUT$", target.id):
                names.add(target.id)
    return names


def is_defined(module: Any, name: str) -> bool:
    """Whether the module itself gives the name its value, and does not import it."""
    tree = ast.parse(Path(module.__file__).read_text())
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return name in bound or any(isinstance(node, ast.ClassDef) and node.name == name for node in tree.body)


def bound_named(words: str) -> object:
    """The value of ``module.NAME``, of a field or an attribute behind it, or of the default of ``(argument)``."""
    path, _, argument = words.removesuffix(")").partition("(")
    parts = path.split(".")
    depth = next(n for n in range(len(parts), 0, -1) if (ROOT / "/".join(parts[:n])).with_suffix(".py").is_file())
    value: Any = importlib.import_module(".".join(parts[:depth]))
    assert is_defined(value, parts[depth]), f"{words} is defined elsewhere"
    for name in parts[depth:]:
        fields = (
            {one.name: one.default for one in dataclasses.fields(value)}
            if inspect.isclass(value) and dataclasses.is_dataclass(value)
            else {}
        )
        value = fields[name] if name in fields else getattr(value, name)
    return inspect.signature(value).parameters[argument].default if argument else value


def rows_of_bounds() -> list[tuple[str, str, str]]:
    page = (ROOT / "docs" / "bounds.md").read_text()
    rows = re.findall(r"^\|.*\| (\d+)( \w+)? \| `([\w.()]+)` \|$", page, re.MULTILINE)
    assert len(rows) == page.count("| `rstream_") > 25
    lines = [line for line in page.splitlines() if "| `rstream_" in line]
    assert len(set(lines)) == len(lines)
    return rows


@pytest.mark.parametrize(("number", "unit", "name"), rows_of_bounds())
def test_bound_is_that_of_the_code(number: str, unit: str, name: str) -> None:
    assert bound_named(name) == int(number) * _UNITS[unit]


def test_every_bound_is_on_the_page() -> None:
    named_there = {name for _, _, name in rows_of_bounds()}
    missing = []
    for path in _CODE:
        module = module_of(path)
        for name in bounds_in(path.read_text()):
            if isinstance(getattr(importlib.import_module(module), name), (int, float)):
                missing += [f"{module}.{name}"] if f"{module}.{name}" not in named_there else []
    assert missing == []


def test_a_new_bound_would_be_noticed() -> None:
    source = "MAX_LINES = 3\n_MOST: int = 5\nASK_TIMEOUT = 1.0\nMAXIMAL = 1\nfrom x import MAX_OTHER\n"
    assert bounds_in(source) == {"MAX_LINES", "_MOST", "ASK_TIMEOUT"}


def test_changelog_has_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[?(\S+?)\]?( - .+)?$", text, re.MULTILINE)
    assert versions
    latest = versions[0][0]
    assert latest.lower() == "unreleased" or latest == rstream_core.__version__


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_lines_are_short(page: Path) -> None:
    """But for what cannot be broken: code, tables, and what is generated."""
    prose = re.sub(r"(?ms)^\s*```.*?^\s*```$", lambda found: "\n" * found[0].count("\n"), page.read_text())
    lines = enumerate(prose.splitlines(), 1)
    assert [(number, line) for number, line in lines if len(line) > 122 and not line.startswith("|")] == []
