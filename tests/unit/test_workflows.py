"""What the workflows may do, and on what they run: read as text, for nobody can run them here."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

pytestmark = pytest.mark.skipif(not WORKFLOWS, reason="an sdist has no workflows")
each_workflow = pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)

PREFIX = "Programming Language :: Python :: "
PYTHONS = [name.removeprefix(PREFIX) for name in PROJECT["classifiers"] if re.fullmatch(rf"{PREFIX}\d+\.\d+", name)]


def jobs(workflow: Path) -> dict[str, str]:
    """The text of each job, by its key."""
    _, _, text = workflow.read_text().partition("\njobs:\n")
    parts = re.split(r"^  (\w+):$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@each_workflow
def test_actions_are_pinned_to_a_commit_and_name_its_version(workflow: Path) -> None:
    for line in re.findall(r"^ +(?:- )?uses: *(.+)$", workflow.read_text(), re.MULTILINE):
        assert line.startswith("./") or re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


@each_workflow
def test_each_job_has_a_limit_and_the_rights_that_it_names(workflow: Path) -> None:
    assert re.search(r"^permissions: \{\}$", workflow.read_text(), re.MULTILINE)
    assert re.search(r"^concurrency:$", workflow.read_text(), re.MULTILINE)
    found = jobs(workflow)
    assert found
    for name, text in found.items():
        assert "    permissions:\n" in text, name
        assert "    timeout-minutes: " in text or "    uses: ./" in text, name


@each_workflow
def test_nothing_of_an_event_is_put_into_a_shell_line(workflow: Path) -> None:
    """A branch may be called `$(anything)`. Such values go through the environment."""
    for block in re.findall(r"^( +)(?:- )?run: *(.*\n(?:\1 +.*\n|\n)*)", workflow.read_text(), re.MULTILINE):
        assert "${{" not in block[1], block[1]


@each_workflow
def test_checkouts_leave_no_credentials(workflow: Path) -> None:
    text = workflow.read_text()
    assert text.count("uses: actions/checkout@") == text.count("persist-credentials: false")


def test_only_jobs_without_code_of_this_repository_may_write() -> None:
    for workflow in WORKFLOWS:
        for name, text in jobs(workflow).items():
            assert "actions/checkout@" not in text or ": write" not in text, f"{workflow.name}: {name}"


def test_every_python_of_the_classifiers_is_tested() -> None:
    assert PYTHONS
    (listed,) = re.findall(r"python: \[(.+)\]", jobs(ROOT / ".github" / "workflows" / "test.yml")["linux"])
    assert re.findall(r"[\d.]+", listed) == PYTHONS


def test_what_decides_is_run_on_the_oldest_python() -> None:
    required = jobs(ROOT / ".github" / "workflows" / "test.yml")["required"]
    assert ".ci/run" in required
    assert f'python-version: "{PYTHONS[0]}"' in required
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
