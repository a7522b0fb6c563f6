"""What is built of this project: which files, which dependencies, and where the README's links lead."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("rstream_cli", "rstream_core", "rstream_pytest")
LOCKS = {
    "package": [],
    "dev": ["dev"],
    "build": ["build"],
    "wheels": ["wheels"],
    "uamqp": ["uamqp"],
    "referees": ["referees"],
}
"""The files in requirements/, and the groups of pyproject.toml in each."""
LINKS = "https://code.invalid/owner/project/blob/main/"

sys.path.insert(0, str(ROOT))
absolute = importlib.import_module("hatch_build").absolute
hatch_compile = importlib.import_module("hatch_compile")
LIBRARY = "rstream_core/protocol/_wire.abi3.so"
CANNOT_COMPILE: str | None = hatch_compile.why_not()
can_compile = pytest.mark.skipif(CANNOT_COMPILE is not None, reason=CANNOT_COMPILE or "")


def build(source: Path, target: Path, *what: str) -> Path:
    """Builds without the network, and returns the one file that was made."""
    return build_and_tell(source, target, *what)[0]


def build_and_tell(source: Path, target: Path, *what: str, **variables: str) -> tuple[Path, str]:
    """Returns what it has printed, too. ``variables`` are set in its environment."""
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(target), *what]
    environment = {**os.environ, **variables}
    done = subprocess.run(
        command, cwd=source, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    (made,) = target.iterdir()
    return made, done.stdout + done.stderr


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_bytes(archive.read(name))


def readme_of(wheel: Path) -> str:
    text = metadata_of(wheel).get_payload(decode=True)
    assert isinstance(text, bytes)
    return text.decode()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that are built from, without what lies about in a working copy."""
    place = tmp_path_factory.mktemp("checkout")
    for path in ROOT.iterdir():
        if path.name in (*SOURCES, "completions", "docs", "scripts", "benchmarks", "tests", "requirements"):
            shutil.copytree(path, place / path.name, ignore=shutil.ignore_patterns("__pycache__", "results"))
        elif path.is_file() and not path.name.startswith("."):
            shutil.copy(path, place)
    return place


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(checkout, tmp_path_factory.mktemp("wheel"), "--target", "wheel")


def test_the_sdist_makes_the_same_wheel(checkout: Path, wheel: Path, tmp_path: Path) -> None:
    sdist = build(checkout, tmp_path / "sdist", "--target", "sdist")
    (tmp_path / "unpacked").mkdir()
    subprocess.run(["tar", "-xf", sdist, "-C", tmp_path / "unpacked"], check=True)
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    again = build(unpacked, tmp_path / "wheel", "--target", "wheel")
    assert again.name == wheel.name
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert {item.filename: item.CRC for item in one.infolist()} == {
            item.filename: item.CRC for item in other.infolist()
        }
    for name in [
        *re.findall(r"\]\(([\w/.-]+)", (ROOT / "README.md").read_text()),
        "Makefile",
        "tests",
        "scripts",
        "requirements",
    ]:
        assert (unpacked / name).exists(), f"the sdist has no {name}"


def test_the_wheel_has_all_modules_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = {
        str(path.relative_to(ROOT))
        for name in SOURCES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and path.suffix not in {".pyc", ".so"}
    }
    assert found - {LIBRARY} == wanted


def tags_of(wheel: Path) -> tuple[list[str], str]:
    """The tags of a wheel, and whether all of it is below the folder for any machine."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/WHEEL")]
        told = message_from_bytes(archive.read(name))
    return told.get_all("Tag") or [], told["Root-Is-Purelib"]


@can_compile
def test_a_machine_with_a_compiler_makes_a_wheel_of_its_own(wheel: Path) -> None:
    tag = f"cp311-abi3-{hatch_compile.platform_tag()}"
    assert wheel.name.endswith(f"-{tag}.whl")
    assert tags_of(wheel) == ([tag], "false")
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(LIBRARY)[:4] in {b"\x7fELF", b"\xcf\xfa\xed\xfe"}
        assert (
            f'SOURCE = "{hatch_compile.source_hash(ROOT / hatch_compile.SOURCE)}"'
            in archive.read("rstream_core/protocol/wire_source.py").decode()
        )


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"RSTREAM_PURE_PYTHON": "1"}, "RSTREAM_PURE_PYTHON is set"),
        pytest.param({"CFLAGS": "-DPy_buffer=;"}, "the compiler failed: ", marks=can_compile),
        pytest.param({"CFLAGS": "--no-such-option"}, "the compiler failed: ", marks=can_compile),
        pytest.param({"LDFLAGS": "-Wl,--no-undefined"}, "the compiler failed: ", marks=can_compile),
        pytest.param({"CC": "false"}, "the compiler failed: it did not say why", marks=can_compile),
        pytest.param({"CC": "true"}, "what was compiled failed: ImportError: ", marks=can_compile),  # has made nothing
    ],
)
def test_a_wheel_that_cannot_be_compiled_is_pure(
    checkout: Path, tmp_path: Path, variables: dict[str, str], reason: str
) -> None:
    """And so it is where an old library lies about."""
    (checkout / LIBRARY).write_bytes(b"old")
    made, told = build_and_tell(checkout, tmp_path, "--target", "wheel", **variables)
    assert made.name.endswith("-py3-none-any.whl")
    assert tags_of(made) == (["py3-none-any"], "true")
    with zipfile.ZipFile(made) as archive:
        assert LIBRARY not in archive.namelist()
        assert str(hatch_compile.SOURCE) in archive.namelist()
    (line,) = [line for line in told.splitlines() if "rstream:" in line]
    assert f"rstream: without its compiled part, in pure Python: {reason}" in line


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"gil": False}, "a free-threaded Python has no limited API"),
        ({"host": "linux-aarch64"}, "this is a build for another machine"),
        ({"include": "/nonexistent"}, "Python.h is missing (Debian has it in python3-dev)"),
        ({"compiler": False}, "there is no C compiler"),
        ({"name": "pypy"}, "this is pypy, not CPython"),
    ],
)
def test_why_nothing_is_compiled(
    settings: dict[str, object], reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    variables: dict[str, object] = {"Py_GIL_DISABLED": 0, "CC": "cc"}
    (tmp_path / "Python.h").touch()
    paths = {"include": str(tmp_path)}
    there = {"cc"}
    for name in ("RSTREAM_PURE_PYTHON", "CC", "_PYTHON_HOST_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("sysconfig.get_config_var", variables.get)
    monkeypatch.setattr("sysconfig.get_path", paths.get)
    monkeypatch.setattr("shutil.which", lambda name: name if name in there else None)
    assert hatch_compile.why_not() is None
    match settings:
        case {"host": str(host)}:
            monkeypatch.setenv("_PYTHON_HOST_PLATFORM", host)
        case {"include": str(folder)}:
            paths["include"] = folder
        case {"compiler": False}:
            there.clear()
        case {"name": str(name)}:
            monkeypatch.setattr(sys.implementation, "name", name)
        case _:
            variables["Py_GIL_DISABLED"] = 1
    assert hatch_compile.why_not() == reason


@can_compile
def test_an_installation_in_place_compiles_in_place(checkout: Path, tmp_path: Path) -> None:
    library = checkout / LIBRARY
    library.write_bytes(b"old")
    try:
        made, told = build_and_tell(checkout, tmp_path / "one", "--target", "wheel:editable")
        assert tags_of(made)[1] == "false"
        assert library.read_bytes() != b"old"
        assert "rstream:" not in told
        made, told = build_and_tell(checkout, tmp_path / "two", "--target", "wheel:editable", RSTREAM_PURE_PYTHON="1")
        assert tags_of(made)[1] == "true"
        assert not library.exists()
        assert "RSTREAM_PURE_PYTHON is set" in told
    finally:
        library.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("system", "bytes_of_a_pointer", "tag"),
    [
        ("linux-x86_64", 8, "linux_x86_64"),
        ("linux-x86_64", 4, "linux_i686"),
        ("linux-aarch64", 4, "linux_armv7l"),
        ("linux-armv7l", 4, "linux_armv7l"),
        ("macosx-11.0-arm64", 8, "macosx_11_0_arm64"),
    ],
)
def test_a_wheel_is_for_the_interpreter_and_not_for_the_kernel(
    monkeypatch: pytest.MonkeyPatch, system: str, bytes_of_a_pointer: int, tag: str
) -> None:
    monkeypatch.setattr("sysconfig.get_platform", lambda: system)
    monkeypatch.setattr("struct.calcsize", lambda _: bytes_of_a_pointer)
    assert hatch_compile.platform_tag() == tag


@pytest.mark.parametrize("fault", ["mkdtemp", "replace", "quotes", "bytes"])
def test_no_fault_breaks_an_installation_in_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str) -> None:
    """Not a tree that cannot be written, nor a compiler whose name or answer cannot be read."""
    told: list[str] = []
    monkeypatch.setattr(hatch_compile, "why_not", lambda: None)
    match fault:
        case "mkdtemp":

            def fail(**_: object) -> str:
                raise PermissionError(13, "Permission denied")

            monkeypatch.setattr("tempfile.mkdtemp", fail)
        case "replace":
            monkeypatch.setattr(hatch_compile, "compile_library", lambda *_: None)  # nothing is there to be copied
        case "quotes":
            monkeypatch.setenv("CC", 'cc "')
        case _:
            script = tmp_path / "cc"
            script.write_text("#!/bin/sh\nprintf 'error: \\377' >&2; exit 1\n")
            script.chmod(0o755)
            monkeypatch.setenv("CC", str(script))
    (tmp_path / hatch_compile.SOURCE).parent.mkdir(parents=True)
    (tmp_path / hatch_compile.SOURCE).touch()
    hook = hatch_compile.CompileHook.__new__(hatch_compile.CompileHook)
    monkeypatch.setattr(hatch_compile.CompileHook, "root", str(tmp_path))
    monkeypatch.setattr(hatch_compile.CompileHook, "app", SimpleNamespace(display_warning=told.append))
    data: dict[str, object] = {}
    hook.initialize("editable", data)
    hook.finalize("editable", data, "")
    assert data == {}
    assert len(told) == 1
    assert not (tmp_path / LIBRARY).exists()


def test_what_is_installed_needs_no_compiler(wheel: Path) -> None:
    """uamqp, which many machines cannot install, comes with its extra only."""
    needed = metadata_of(wheel).get_all("Requires-Dist") or []
    names = {re.split(r"[<>=;\s]", line)[0]: line for line in needed}
    assert {name for name, line in names.items() if "extra" not in line} == {
        "typer",
        "rich",
        "cramjam",
        "mmh3",
        "orjson",
        "urllib3",
    }
    assert {name for name, line in names.items() if "extra == 'uamqp'" in line} == {"uamqp"}


def test_what_tests_are_run_with_needs_no_compiler() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    assert not [line for line in groups["dev"] if "proton" in str(line) or "uamqp" in str(line)]


def wanted_in(lock: str) -> list[Requirement]:
    """What the project asks for of what a lock file holds."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    left: list[str | dict[str, str]] = [{"include-group": name} for name in LOCKS[lock]]
    found = project["project"]["dependencies"] if lock in {"package", "dev"} else []
    while left:
        item = left.pop()
        if isinstance(item, dict):
            left += groups[item["include-group"]]
        else:
            found.append(item)
    return [Requirement(line) for line in found]


def pins_of(lock: str) -> dict[str, Requirement]:
    """What a lock file holds, by name; each has a hash."""
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    entries = re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    pins = [Requirement(entry.partition("--hash")[0]) for entry in entries]
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry) for entry in entries)
    assert len({pin.name for pin in pins}) == len(pins)
    return {pin.name: pin for pin in pins}


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_what_the_project_asks_for(lock: str) -> None:
    pins, wanted = pins_of(lock), wanted_in(lock)
    assert wanted
    for requirement in wanted:
        assert requirement.name in pins, f"{requirement.name} is not in requirements/{lock}.txt: make lock"
        (pinned,) = pins[requirement.name].specifier
        assert pinned.operator == "=="
        assert requirement.specifier.contains(pinned.version), f"{requirement}, but {pinned}: make lock"
        assert (pins[requirement.name].marker is None) == (requirement.marker is None)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_place_to_take_packages_from(lock: str) -> None:
    """That is for the configuration of each machine's pip."""
    lines = (ROOT / "requirements" / f"{lock}.txt").read_text().splitlines()
    assert not [line for line in lines if "://" in line or line.startswith("-")]


def test_locks_agree() -> None:
    for lock in LOCKS:
        every = pins_of("dev")
        for name, pin in pins_of(lock).items():
            assert every.get(name, pin).specifier == pin.specifier, f"requirements/{lock}.txt: {name}"


def test_no_group_of_a_pattern_is_possessive() -> None:
    """Python before 3.11.5 misreads them, and Debian 12 has 3.11.2: rows of CSV were read wrongly there."""
    possessive = re.compile(r"\)(?:[*+?]|\{[\d,]*\})\+|\(\?>")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for package in ("rstream_core", "rstream_cli", "rstream_pytest")
        for path in sorted((ROOT / package).rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if possessive.search(line)
    ]
    assert not found
    assert possessive.search("(?:a|b)*+")
    assert possessive.search("(a){1,2}+")
    assert not possessive.search("[^a]*+(b)*")


def test_links_stay_as_they_are_where_no_address_is_given(wheel: Path) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["metadata"]["hooks"]["custom"]
    readme = (ROOT / "README.md").read_text()
    assert readme_of(wheel) == absolute(readme, settings["links"])
    assert absolute(readme, "") == readme


def test_links_lead_to_the_address_that_is_given(checkout: Path, tmp_path: Path) -> None:
    given = tmp_path / "given"
    shutil.copytree(checkout, given)
    project = (given / "pyproject.toml").read_text()
    (given / "pyproject.toml").write_text(re.sub(r'^links = ".*"$', f'links = "{LINKS}"', project, flags=re.MULTILINE))
    built = readme_of(build(given, tmp_path / "wheel", "--target", "wheel"))
    targets = re.findall(r"\]\(([^)\s]+)\)", built)
    assert f"{LINKS}docs/cli.md" in targets
    assert all(re.match(r"https?://|#", target) for target in targets)
    assert built.replace(LINKS, "") == (ROOT / "README.md").read_text()


def test_what_is_no_relative_link_stays() -> None:
    text = "[a](docs/a.md#b) [c](#c) [d](https://d.invalid) [e](mailto:e@e.invalid)\n\n```\nx[0](y)\n```\n[f](F.md)\n"
    assert absolute(text, LINKS) == text.replace("docs/a", f"{LINKS}docs/a").replace("F.md", f"{LINKS}F.md")


@pytest.mark.parametrize("links", ["code.invalid/", "https://code.invalid/main", "http://code.invalid/", "https:// /"])
def test_an_address_that_is_none_is_refused(links: str) -> None:
    with pytest.raises(ValueError, match="links"):
        absolute("", links)
