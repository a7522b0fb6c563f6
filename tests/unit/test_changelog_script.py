"""scripts/changelog: the text of a release, and what keeps a wrong tag from being one."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from rstream_core import __version__
from tests.brokers import SCRIPT

CHANGELOG = """# Changelog

What changed.

## 0.2.0 - 2026-12-01

### Added

- A second thing.

## 0.1.0 - 2026-11-01

- The first thing. It says `## not a heading`.
"""


def load() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("script_changelog", str(SCRIPT.parent / "changelog"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


script = load()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout of version 0.2.0."""
    (tmp_path / "rstream_core").mkdir()
    (tmp_path / "rstream_core" / "version.py").write_text('"""A version."""\n\n__version__ = "0.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    return tmp_path


def test_it_prints_one_section(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["v0.2.0"], root) == 0
    assert capsys.readouterr() == ("### Added\n\n- A second thing.\n", "")


def test_the_last_section_ends_with_the_file() -> None:
    assert script.section(CHANGELOG, "0.1.0") == "- The first thing. It says `## not a heading`."


@pytest.mark.parametrize("tag", ["v0.1.0", "0.2.0", "v0.2.0rc1", "v0x2.0"])
def test_a_tag_of_another_version_is_refused(tag: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main([tag], root) == 1
    assert capsys.readouterr() == ("", f"error: the tag is {tag}, but this checkout is version 0.2.0\n")


@pytest.mark.parametrize(
    ("changelog", "why"),
    [
        ("# Changelog\n", "has no section 0.2.0"),
        (CHANGELOG.replace("2026-12-01", "unreleased"), "dated 'unreleased'"),
        (CHANGELOG.replace("### Added\n\n- A second thing.\n", ""), "is empty"),
    ],
)
def test_a_changelog_that_is_not_ready_is_refused(
    changelog: str, why: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "CHANGELOG.md").write_text(changelog)
    assert script.main(["v0.2.0"], root) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert why in said.err


def test_this_checkout_has_a_section_of_its_version() -> None:
    changelog = (SCRIPT.parent.parent / "CHANGELOG.md").read_text()
    script.check_tag(f"v{__version__}", (SCRIPT.parent.parent / "rstream_core" / "version.py").read_text())
    assert f"\n## {__version__} - " in changelog
