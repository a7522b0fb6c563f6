"""Programs are built once, and a machine that cannot build them says why."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scripts._builds import KEPT, BuildError, NoProgramError, Tool, built
from tests.brokers import Broker
from tests.interop.conftest import running
from tests.interop.languages import Language
from tests.interop.programs import Program, ProgramError, Programs

NO_BROKER = Broker("none", "", "localhost", 1, "", "", "/")


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Language:
    """A language that every machine has; it notes each build."""
    monkeypatch.setenv("RSTREAM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "shell").mkdir()
    (tmp_path / "shell" / "program").write_text("echo one")
    (tmp_path / "shell" / "notes").write_text("no part of it")
    return Language(
        name="shell",
        title="Shell",
        client="none",
        client_version="",
        folder=tmp_path / "shell",
        cache="interop",
        sources=("program",),
        tools=(Tool("Shell", ("sh", "-c", "echo version 1.2"), r"version (\d+)\.(\d+)", (1, 2)),),
        build=("sh", "-c", f"echo built >> {tmp_path}/builds; ls > made; cat program >> made"),
        product=("made",),
        run=lambda product: ["sh", str(product)],
    )


def builds(shell: Language) -> int:
    return len((shell.folder.parent / "builds").read_text().splitlines())


def test_it_is_built_once_from_its_sources_alone(shell: Language) -> None:
    with ThreadPoolExecutor(4) as workers:  # each takes the lock as a process of its own would
        places = set(workers.map(built, [shell] * 8))
    assert len(places) == builds(shell) == 1
    assert (places.pop() / "made").read_text() == "made\nprogram\necho one"
    (shell.folder / "notes").write_text("changed")
    built(shell)
    assert builds(shell) == 1


def test_a_change_builds_it_again_and_few_builds_stay(shell: Language) -> None:
    for number in range(KEPT + 2):
        (shell.folder / "program").write_text(f"echo {number}")
        place = built(shell)
    assert builds(shell) == KEPT + 2
    assert len(list(place.parent.glob("shell-*"))) == KEPT
    newer = dataclasses.replace(shell, tools=(Tool("Echo", ("echo", "version 1.3"), r"version (\d+)\.(\d+)", (1, 2)),))
    assert built(newer) != place


@pytest.mark.parametrize(
    ("tool", "message"),
    [
        (
            Tool("Nothing", ("no-such-tool", "--version"), r"(\d+)", (1,)),
            "Shell's client needs Nothing 1: .*No such file",
        ),
        (Tool("Echo", ("echo", "version 1.1"), r"(\d+)\.(\d+)", (1, 2)), "needs Echo 1.2, and there is: .*version 1.1"),
        (Tool("False", ("false",), r"(\d+)", (1,)), "needs False 1: .*exit status 1"),
    ],
    ids=["missing", "old", "broken"],
)
def test_a_tool_that_is_missing_or_old(shell: Language, tool: Tool, message: str) -> None:
    with pytest.raises(NoProgramError, match=message):
        built(dataclasses.replace(shell, tools=(tool,)))


def test_a_build_that_fails_says_what_it_wrote_and_leaves_nothing(shell: Language) -> None:
    broken = dataclasses.replace(shell, build=("sh", "-c", "echo the reason; touch made; exit 3"))
    with pytest.raises(BuildError, match=r"(?s)ended with 3:.*the reason"):
        built(broken)
    assert [path.name for path in (shell.folder.parent / "cache" / "interop").iterdir()] == ["shell.lock"]


def test_a_build_that_takes_too_long(shell: Language, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts._builds.BUILD_TIMEOUT", 0.1)
    endless = dataclasses.replace(shell, build=("sh", "-c", "sleep 600 & wait"))
    with pytest.raises(BuildError, match="not done after"):
        built(endless)


def test_what_it_needs_cannot_be_had(shell: Language) -> None:
    """That is a fault of the machine, or of the network, and not of the program."""
    with pytest.raises(NoProgramError, match=r"(?s)ended with 4:.*no network"):
        built(dataclasses.replace(shell, fetch=("sh", "-c", "echo no network; exit 4")))
    built(dataclasses.replace(shell, fetch=("sh", "-c", "touch fetched")))


@pytest.mark.parametrize("is_required", [True, False])
def test_what_becomes_of_a_test(shell: Language, monkeypatch: pytest.MonkeyPatch, is_required: bool) -> None:
    monkeypatch.setenv("RSTREAM_REQUIRE_INTEROP", "1" if is_required else "")
    unreachable, wrong = dataclasses.replace(shell, fetch=("false",)), dataclasses.replace(shell, build=("false",))
    with pytest.raises(pytest.fail.Exception if is_required else pytest.skip.Exception, match="false ended with 1"):
        running(Programs(), unreachable, NO_BROKER)
    programs = Programs()
    for _ in range(2):  # it is remembered, and stays a failure
        with pytest.raises(pytest.fail.Exception, match="false ended with 1"):
            running(programs, wrong, NO_BROKER)


def test_killed_builds_and_what_was_kept_of_other_tools_are_swept(shell: Language) -> None:
    cache = shell.folder.parent / "cache" / "interop"
    stale = ("shell-build", "shell-ab12_xyz", "shell.building", "shell.kept-0123456789abcdef")
    for name in (*stale, "other-ab12_xyz", "other.building"):
        (cache / name).mkdir(parents=True)
    keeping = dataclasses.replace(shell, build_environment=lambda kept: {"KEPT": str(kept)})
    keeping = dataclasses.replace(keeping, build=("sh", "-c", 'mkdir -p $KEPT; pwd >> "$KEPT/made"'))
    for number in range(2):
        (shell.folder / "program").write_text(f"echo {number}")
        place = built(keeping)
    assert len(set((place / "made").read_text().splitlines())) == 1  # both were built in one place
    left = {path.name for path in cache.iterdir()}
    assert not left & set(stale)
    assert {"other-ab12_xyz", "other.building"} <= left
    assert len([name for name in left if name.startswith("shell.kept-")]) == 1


@pytest.mark.parametrize("said", ["no JSON", "[1]", "7", "\\377"])
def test_a_line_that_is_no_answer(shell: Language, said: str) -> None:
    """It is told at once, and not taken for silence."""
    talking = dataclasses.replace(shell, run=lambda _: ["sh", "-c", f"printf '{said}\\n'; cat"])
    program = Program(talking, built(talking), NO_BROKER)
    try:
        with pytest.raises(ProgramError, match="it said what is no answer"):
            program._ask("publish", {})
    finally:
        program.close()
