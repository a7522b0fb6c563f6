"""scripts/mutate: its data fits the code, and it tells what is caught from what is not."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from tests.brokers import SCRIPT

ROOT = SCRIPT.parent.parent
MUTATE = SCRIPT.parent / "mutate"


def load() -> ModuleType:
    sys.path.insert(0, str(MUTATE.parent))
    loader = importlib.machinery.SourceFileLoader("script_mutate", str(MUTATE))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


script = load()

TOY = """
def larger(a: int, b: int) -> int:
    return a if a > b else b


def double(a: int) -> int:
    return a + a
"""
TESTS = """
import time

from toy import double, larger


def test_larger():
    assert larger(1, 2) == larger(2, 1) == 2


def test_double():
    assert double(2) == 4


def test_slow():
    time.sleep(600)
"""


def entry(name: str, old: str, new: str, test: str) -> str:
    return (
        f"[[mutation]]\nname = {name!r}\nfile = 'toy.py'\nold = {old!r}\nnew = {new!r}\ntests = ['test_toy.py{test}']\n"
    )


CAUGHT = entry("caught", "a > b", "a < b", "::test_larger")
ALIVE = entry("alive", "a + a", "a * a", "::test_double")


def tree(folder: Path, *entries: str) -> Path:
    """A tree with a module, tests and mutations."""
    (folder / "tests").mkdir(parents=True)
    (folder / "toy.py").write_text(TOY)
    (folder / "test_toy.py").write_text(TESTS)
    (folder / "tests" / "mutations.toml").write_text("\n".join(entries))
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder.parent / "tmp").mkdir(exist_ok=True)
    return subprocess.run(
        [MUTATE, "--root", folder, *arguments],
        env={**os.environ, "TMPDIR": str(folder.parent / "tmp")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def verdicts(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    lines = [line.split() for line in done.stdout.splitlines()]
    return {line[3]: line[0] for line in lines if len(line) >= 4 and line[2] == "s" and line[3] != "all"}


class TestTheData:
    """So that it does not go stale in silence."""

    def test_each_fits_the_code_once(self) -> None:
        for mutation in script.load(ROOT / script.DATA):
            assert mutation.apply((ROOT / mutation.file).read_text()), mutation.name

    def test_each_names_tests_that_are_there(self) -> None:
        for mutation in script.load(ROOT / script.DATA):
            assert mutation.tests, mutation.name
            for test in mutation.tests:
                file, *names = test.partition("[")[0].split("::")
                text = (ROOT / file).read_text()
                assert all(f"class {name}" in text or f"def {name}(" in text for name in names), (mutation.name, test)

    def test_each_is_python(self) -> None:
        for mutation in script.load(ROOT / script.DATA):
            compile(mutation.apply((ROOT / mutation.file).read_text()), mutation.file, "exec")


def test_one_that_is_caught_and_one_that_survives(tmp_path: Path) -> None:
    folder = tree(tmp_path / "tree", CAUGHT, ALIVE)
    done = run(folder, "-j", "2", "-v")
    assert done.returncode == 1, done.stderr
    assert verdicts(done) == {"caught": "caught", "alive": "SURVIVED"}
    assert "  caught  by test_toy.py::test_larger\n" in done.stdout
    assert done.stdout.splitlines()[-1] == "1 of 2 caught (50.0 %), 1 survived, 0 stale"
    assert (folder / "toy.py").read_text() == TOY
    assert not list((folder.parent / "tmp").iterdir())


def test_all_are_caught(tmp_path: Path) -> None:
    done = run(tree(tmp_path / "tree", CAUGHT, ALIVE), "cau*")
    assert (done.returncode, verdicts(done)) == (0, {"caught": "caught"})


def test_what_does_not_fit_is_an_error(tmp_path: Path) -> None:
    """A text that is not there, one that is there twice, and a test that is not there."""
    folder = tree(
        tmp_path / "tree",
        entry("gone", "a - b", "b", "::test_larger"),
        entry("twice", "-> int", "-> str", "::test_larger"),
        entry("no-test", "a > b", "a < b", "::test_nothing"),
    )
    done = run(folder, "--no-baseline")
    assert done.returncode == 1
    assert verdicts(done) == dict.fromkeys(["gone", "twice", "no-test"], "STALE")


def test_a_mutation_for_which_tests_do_not_end_is_caught(tmp_path: Path) -> None:
    folder = tree(tmp_path / "tree", entry("endless", "a > b", "a < b", "::test_slow"))
    done = run(folder, "--limit", "1", "--no-baseline")
    assert (done.returncode, verdicts(done)) == (0, {"endless": "caught"})
    assert "endless  (not over after 1 s)" in done.stdout


def test_a_mutation_with_which_nothing_can_be_imported_is_caught(tmp_path: Path) -> None:
    """What all tests import: then none of them is found either."""
    folder = tree(tmp_path / "tree", entry("broken", "(a: int)", "(a: nobody)", "::test_larger"))
    (folder / "conftest.py").write_text("import toy\n")
    done = run(folder)
    assert (done.returncode, verdicts(done)) == (0, {"broken": "caught"}), done.stdout


def test_tests_that_fail_anyway_are_told(tmp_path: Path) -> None:
    folder = tree(tmp_path / "tree", CAUGHT)
    (folder / "test_toy.py").write_text(TESTS.replace("== 2\n", "== 3\n"))
    done = run(folder)
    assert (done.returncode, verdicts(done)) == (1, {})
    assert "without a mutation the tests do not pass" in done.stderr


@pytest.mark.parametrize(
    "arguments", [["nobody"], ["-j", "0"], ["--limit", "0"], ["--limit", "nan"], ["--only", "cau*"]]
)
def test_wrong_usage(arguments: list[str], tmp_path: Path) -> None:
    done = run(tree(tmp_path / "tree", CAUGHT), *arguments)
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    folder = tree(tmp_path / "tree", entry("endless", "a > b", "a < b", "::test_slow"))
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        [MUTATE, "--root", folder, "--no-baseline"],
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        end = time.monotonic() + 30
        while not any("a < b" in path.read_text() for path in (tmp_path / "tmp").glob("mutate-*/*/tree/toy.py")):
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out, err) == (128 + number, "", f"stopped by {number.name}\n")
    assert not list((tmp_path / "tmp").iterdir())


SOURCE = """
def f(a, b, é):
    assert a + b
    logger.info("%d", a + 1)
    if a and b:
        g()
    while é:
        a += 1
    return not a or a <= b
"""


def test_slips_are_made_everywhere_but_in_logs_and_assertions() -> None:
    data = SOURCE.encode()
    found = {(data.count(b"\n", 0, start), old, new) for start, old, new in script.slips(data)}
    assert found == {
        (4, "a and b", "not (a and b)"),
        (4, "and", "or"),
        (5, "g()", "pass"),
        (6, "é", "not (é)"),
        (7, "+", "-"),
        (7, "1", "2"),
        (8, "not a", "bool(a)"),
        (8, "or", "and"),
        (8, "<=", "<"),
    }
    for start, old, new in script.slips(data):
        mutation = script.Drawn("", "", old, new, (), start)
        changed = mutation.apply(SOURCE)
        compile(changed, "f", "exec")
        assert len(changed) == len(SOURCE) - len(old) + len(new)


def test_the_same_seed_draws_the_same(tmp_path: Path) -> None:
    drawn = "[[draw]]\nfile = 'toy.py'\ntests = ['test_toy.py::test_larger', 'test_toy.py::test_double']\n"
    folder = tree(tmp_path / "tree", drawn)
    assert script.draw(folder, 1, 1, []) == script.draw(folder, 1, 1, ["toy*"])
    assert len({script.draw(folder, 1, seed, [])[0] for seed in range(20)}) == 2
    done = run(folder, "--draw", "2", "-j", "2")
    assert done.returncode == 1  # the larger of two that are the same is either
    assert done.stdout.splitlines()[-1].startswith("1 of 2 caught")
    assert run(folder, "--draw", "1000").returncode == 2
    assert run(folder, "--draw", "1", "nothing.py").returncode == 2


def test_some_of_what_is_drawn_can_be_run_again(tmp_path: Path) -> None:
    """By their names, so that the seed and the number stay."""
    folder = tree(tmp_path / "tree", "[[draw]]\nfile = 'toy.py'\ntests = ['test_toy.py::test_double']\n")
    drawn = [mutation.name for mutation in script.draw(folder, 2, 1, [])]
    assert drawn == ["toy.py:3: > -> >=", "toy.py:7: + -> -"]
    done = run(folder, "--draw", "2", "--only", "toy.py:7:*", "--list")
    assert (done.returncode, done.stdout.split()) == (0, [*drawn[1].split(), "toy.py"])
    done = run(folder, "--draw", "2", "--only", "toy.py:9:*", "--list")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no mutation 'toy.py:9:*'" in done.stderr
