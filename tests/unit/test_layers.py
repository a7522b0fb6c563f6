"""The architecture as a check: who may import whom (design rule 1), and what the core exports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator

import pytest

import rstream_core
from rstream_cli.hints import in_options
from rstream_core import Hint
from tests.layers import LAYER_OF, MODULES, ROOT, bands, diagram, imports

NOT_IN_PROTOCOL = frozenset({"asyncio", "socket", "ssl", "threading", "time", "select", "selectors", "logging"})
NOT_IN_CORE = frozenset({"typer", "rich", "rstream_cli"})
NOWHERE = frozenset({"click"})
FOR_BROKER = (
    "rstream_core.broker",
    "rstream_core.protocol",
    "rstream_core.errors",
    "rstream_core.hints",
    "rstream_core.types",
    "rstream_core.log_limit",
    "rstream_core.text",
    "rstream_core.checks",
    "rstream_core.http_server",
    "rstream_core.listening",
    "rstream_core.addresses",
    "rstream_core.tokens",
    "rstream_core.version",
)
"""All of the core that the embedded broker may use: never the client that it serves."""
USERS_OF_BROKER = ("rstream_core.broker", "rstream_cli")
PLACES_OF_RICH = ("rstream_cli.render.screen", "rstream_cli.render.live", "rstream_cli.render.lag_live")


def is_above(module: str, imported: str) -> bool:
    return imported in LAYER_OF and LAYER_OF[imported] >= LAYER_OF[module]


def breaches(module: str, source: str) -> list[str]:
    """What a module imports and may not, in words."""
    found = []
    for imported in imports(source):
        top = imported.partition(".")[0]
        if top in NOWHERE:
            found.append(f"{module} imports {imported}")
        if module.startswith("rstream_core.protocol") and top in NOT_IN_PROTOCOL:
            found.append(f"{module} imports {imported}: the protocol never waits")
        if module.startswith("rstream_core") and top in NOT_IN_CORE:
            found.append(f"{module} imports {imported}: the core knows nothing of the command line")
        if top == "rich" and module not in PLACES_OF_RICH:
            found.append(f"{module} imports {imported}: only {' and '.join(PLACES_OF_RICH)} do")
        if module.startswith("rstream_core.broker") and top == "rstream_core" and not imported.startswith(FOR_BROKER):
            found.append(f"{module} imports {imported}: the broker knows nothing of the client")
        if imported.startswith("rstream_core.broker") and not (
            module == "rstream_core" or module.startswith(USERS_OF_BROKER)
        ):
            found.append(f"{module} imports {imported}: the client knows nothing of the broker")
        if is_above(module, imported):
            found.append(f"{module} imports {imported}, which is in its layer or above it")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downward(module: str) -> None:
    assert breaches(module, MODULES[module].read_text()) == []


def test_every_module_has_a_layer() -> None:
    assert MODULES.keys() == LAYER_OF.keys()


def test_bands_are_drawn_from_the_imports() -> None:
    """A package is divided where another one lies between its modules."""
    imported_by: dict[str, set[str]] = {"p.top": {"q.b"}, "p.base": set(), "q.a": {"p.base"}, "q.b": {"q.a", "p.base"}}
    package_of = {module: module[0] for module in imported_by}
    assert bands(imported_by, package_of) == [
        ("p", [["p.base"]]),
        ("q", [["q.b"], ["q.a"]]),
        ("p", [["p.top"]]),
    ]


@pytest.mark.parametrize("circle", [{"p.a": {"p.b"}, "p.b": {"p.a"}}, {"p.a": {"q.b"}, "q.b": {"p.a"}}])
def test_a_circle_is_not_drawn(circle: dict[str, set[str]]) -> None:
    with pytest.raises(ValueError, match="a circle"):
        bands(circle, {module: module[0] for module in circle})


def test_the_diagram_has_every_module_once_and_above_what_it_imports() -> None:
    package, seen = "", []
    for line in diagram().splitlines():
        words = line.split()
        if not line.startswith(" "):
            package = words.pop(0)
        seen += [package if word == "." else f"{package}.{word}" for word in words]
    assert sorted(seen) == sorted(MODULES)
    above: set[str] = set()
    for module in seen:
        above.add(module)
        assert not above & set(imports(MODULES[module].read_text())), module


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("rstream_core.protocol.session", "import asyncio"),
        ("rstream_core.protocol.chunk", "from time import monotonic"),
        ("rstream_core.protocol.framing", "def f():\n    import socket"),
        ("rstream_core.protocol.commands", "from rstream_core.connecting.connection import Connection"),
        ("rstream_core.types", "from rstream_core.protocol import commands"),
        ("rstream_core.connecting.locator", "from rstream_core.connecting.pool import ConnectionPool"),
        ("rstream_core.connecting.pool", "from rstream_core import client"),
        ("rstream_core.publishing.publisher", "if True:\n    from rstream_core.producers.producer import Producer"),
        ("rstream_core.connecting.connection", "import rstream_core.client"),
        ("rstream_core.client", "from rstream_core import Producer"),
        ("rstream_core.client", "from rstream_core import errors, Producer"),
        ("rstream_core.client", "import rstream_core"),
        ("rstream_core.broker.server", "from rstream_core.connecting.connection import Connection"),
        ("rstream_core.broker.server", "from rstream_core.connecting.transport import open_transport"),
        ("rstream_core.broker.server", "from rstream_core import Client"),
        ("rstream_core.connecting.connection", "from rstream_core.broker.server import Server"),
        ("rstream_core.client", "from rstream_core.broker import EmbeddedBroker"),
        ("rstream_core.protocol.session", "from rstream_core.broker import session"),
        ("rstream_core.consumers.consumer", "import rich.progress"),
        ("rstream_core.consumers.consumer", "from typer import echo"),
        ("rstream_core", "import rstream_cli.app"),
        ("rstream_cli.render.line", "from rich.text import Text"),
        ("rstream_cli.render.lag_table", "from rich.text import Text"),
        ("rstream_core.broker.log", "from rstream_core.broker.server import Server"),
        (
            "rstream_core.broker.delivery",
            "if TYPE_CHECKING:\n    from rstream_core.broker.connection import STEP_TIMEOUT",
        ),
        ("rstream_core.protocol.framing", "from rstream_core.protocol import session"),
        ("rstream_core.publishing.publisher", "from rstream_core.consuming.subscription import Subscription"),
        ("rstream_cli.parsing", "from rstream_cli.commands.publish import publish"),
        ("rstream_cli.parsing", "def f():\n    import rstream_cli.commands.publish"),
        ("rstream_cli.parsing", "if TYPE_CHECKING:\n    from rstream_cli.records.template import Template"),
        ("rstream_cli.consume_run", "from rstream_cli import publish_run"),
        ("rstream_cli.commands.completion", "from rstream_cli.app import app"),
        ("rstream_cli.commands.stream", "importlib.import_module('rstream_cli.commands.superstream')"),
        ("rstream_cli.app", "import click"),
        ("rstream_cli.app", "from click.testing import CliRunner"),
    ],
)
def test_a_breach_is_found(module: str, source: str) -> None:
    assert breaches(module, source) != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("rstream_core.protocol.session", "from rstream_core.errors import ProtocolError"),
        ("rstream_core.protocol.session", "from rstream_core.protocol import commands as c"),
        ("rstream_core.connecting.pool", "from rstream_core.connecting.locator import Locator"),
        ("rstream_core.broker.session", "from rstream_core.protocol import commands as c"),
        ("rstream_cli.commands.broker", "from rstream_core.broker import EmbeddedBroker"),
        ("rstream_cli.render.live", "import rich"),
        ("rstream_cli.render.lag_live", "import rich"),
        ("rstream_cli.render.screen", "import rich"),
        ("rstream_cli.app", "import typer\nfrom rstream_core import Client"),
    ],
)
def test_what_is_allowed_is_not_a_breach(module: str, source: str) -> None:
    assert breaches(module, source) == []


def test_all_is_sorted_and_complete() -> None:
    exported = rstream_core.__all__
    assert exported == sorted(set(exported))
    imported = set()
    for node in ast.walk(ast.parse((ROOT / "rstream_core" / "__init__.py").read_text())):
        if isinstance(node, ast.ImportFrom):
            imported |= {alias.asname or alias.name for alias in node.names}
    assert set(exported) == imported - {"TYPE_CHECKING", "import_module"}
    for name in exported:
        assert getattr(rstream_core, name).__doc__ is not None, f"{name} has no docstring"


def test_every_error_is_exported() -> None:
    errors = vars(sys.modules["rstream_core.errors"])
    public = {name for name, value in errors.items() if isinstance(value, type) and issubclass(value, Exception)}
    assert public <= set(rstream_core.__all__)


def test_the_heavy_libraries_wait_until_they_are_needed() -> None:
    script = (
        "import sys, rstream_core; "
        "print(*sorted({'cramjam', 'uamqp', 'rich', 'typer', 'orjson', 'click', 'rstream_core.broker'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("hint", Hint)
def test_hints_are_in_the_words_of_whoever_reads_them(hint: Hint) -> None:
    """The core's name its own arguments, and the command line has its words for each that does."""
    assert "--" not in hint
    shown = in_options(hint)
    assert [word for word in ("_context", "_name", "_mode", "=True") if word in shown] == []


def test_every_hint_of_the_core_is_a_code() -> None:
    for path in MODULES.values():
        if path.is_relative_to(ROOT / "rstream_core"):
            assert texts_of_hints(path.read_text()) == [], path


def test_a_hint_without_a_code_is_found() -> None:
    assert texts_of_hints("raise Error('no', hint='what to do')") == ["what to do"]
    assert texts_of_hints("error.hint = f'{a} or' + b") == [" or"]
    assert texts_of_hints("hint = 'so' if tls else None") == ["so"]


def texts_of_hints(source: str) -> list[str]:
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if (isinstance(node, ast.keyword) and node.arg == "hint") or (
            isinstance(node, ast.Assign)
            and any(getattr(target, "attr", getattr(target, "id", "")) == "hint" for target in node.targets)
        ):
            parts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
            found += [part for part in parts if isinstance(part, str)]
    return found


OF_NAMEDTUPLES = {"_replace", "_asdict", "_fields"}


def private_uses(source: str) -> Iterator[str]:
    """The private attributes of others that a module uses, by name or in a string for ``setattr`` and its like."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls" | "os" | "sys")):
                pass
            case ast.Attribute(attr=name) if name.startswith("_") and not name.startswith("__"):
                if name not in OF_NAMEDTUPLES:
                    yield f"{node.lineno}: {name}"
            case ast.Call(
                func=ast.Name(id=called) | ast.Attribute(attr=called), args=[_, ast.Constant(value=str(name)), *_]
            ) if called in {"getattr", "setattr", "delattr"} and name.startswith("_"):
                yield f"{node.lineno}: {name}"


@pytest.mark.parametrize("folder", ["conformance", "faults"])
def test_tests_of_behaviour_know_no_private_names(folder: str) -> None:
    """tests/inside.py alone does, so that the core can change its shape under them."""
    modules = sorted((ROOT / "tests" / folder).glob("*.py"))
    assert modules
    assert {module.name: found for module in modules if (found := list(private_uses(module.read_text())))} == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("client._pool.close()", ["1: _pool"]),
        ("self._pool", []),
        ("header._replace(crc=0).__class__", []),
        ("monkeypatch.setattr(client, '_ask', ask)", ["1: _ask"]),
        ("getattr(client, name)", []),
    ],
)
def test_private_names_are_found(source: str, found: list[str]) -> None:
    assert list(private_uses(source)) == found
