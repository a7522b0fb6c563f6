"""scripts/fresh and scripts/soak: their command lines, what they take along, and that they leave nothing behind."""

from __future__ import annotations

import dataclasses
import importlib.machinery
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.brokers import SCRIPT

SCRIPTS = SCRIPT.parent
FRESH, SOAK = SCRIPTS / "fresh", SCRIPTS / "soak"


def load(script: Path) -> ModuleType:
    """The script as a module."""
    sys.path.insert(0, str(SCRIPTS))
    loader = importlib.machinery.SourceFileLoader(f"script_{script.name}", str(script))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


fresh = load(FRESH)
soak = load(SOAK)
debian = importlib.import_module("_debian")
machine = importlib.import_module("_machine")


def run(script: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [script, *arguments], env={**os.environ, **environ}, capture_output=True, text=True, timeout=360, check=False
    )


class TestFresh:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["nonsense"],
            ["run"],
            ["run", "--"],
            ["demo", "--", "ls"],
            ["demo", "--release", "potato"],
            ["demo", "--timeout", "0"],
            ["demo", "--timeout", "nan"],
        ],
    )
    def test_wrong_usage(self, arguments: list[str]) -> None:
        done = run(FRESH, *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert "error: " in done.stderr

    def test_what_is_run_on_which_release(self) -> None:
        """The releases are those of which a tree can be built; each has another Python."""
        given = fresh.parse(["unit", "--release", "forky"])
        assert given.command == ["make", "test", "WORKERS=2", "PYTEST_ARGS=tests/unit tests/property"]
        assert given.release == "forky"
        assert fresh.parse([]).command == ["make", "demo"]
        assert set(fresh.RELEASES) == set(debian.RELEASES)
        assert set(fresh.COMMANDS) <= set(fresh.TIMEOUTS)

    def test_a_machine_that_lacks_something_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "python3").symlink_to(sys.executable)
        (tmp_path / "env").symlink_to("/usr/bin/env")
        done = run(FRESH, "demo", PATH=str(tmp_path))
        assert (done.returncode, done.stdout) == (6, "")
        assert len(done.stderr.splitlines()) == 1

    def test_nothing_is_installed_for_a_tree(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setenv("RSTREAM_CACHE", str(tmp_path / "cache"))
        with pytest.raises(machine.Trouble, match="debootstrap") as found:
            debian.ensure_tree(fresh.RECIPE, "bookworm")
        assert found.value.status == 6
        assert not (tmp_path / "cache").exists()

    def test_the_way_to_the_packages_goes_along(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """pip's configuration, and the certificates and folders of wheels that it and the environment name."""
        home, root, wheels = tmp_path / "home", tmp_path / "root", tmp_path / "wheels"
        wheels.mkdir()
        (wheels / "a.whl").touch()
        for name in ("one.pem", "other.pem", "own.conf"):
            (tmp_path / name).write_text(name)
        (home / ".config/pip").mkdir(parents=True)
        settings = f"[global]\nindex-url = https://packages.invalid/simple\ncert = {tmp_path}/one.pem\n"
        (home / ".config/pip/pip.conf").write_text(settings)
        (tmp_path / "own.conf").write_text(f"[install]\nfind-links =\n    {wheels}\n    /not/there\n")
        for name in [name for name in os.environ if name in fresh.CERTIFICATES or name.startswith(("PIP_", "XDG_"))]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.setenv("PIP_CONFIG_FILE", f"{tmp_path}/own.conf")
        monkeypatch.setenv("SSL_CERT_FILE", f"{tmp_path}/other.pem")
        monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid:3128")
        monkeypatch.setenv("RSTREAM_URI", "rabbitmq-stream://nobody.invalid")
        fresh.copy_pip_settings(root)
        assert (root / "home/fresh/.config/pip/pip.conf").read_text() == settings
        for name in ("one.pem", "other.pem", "own.conf", "wheels/a.whl"):
            assert (root / f"{tmp_path}/{name}".lstrip("/")).is_file(), name
        kept = fresh.kept_environment()
        assert {"PIP_CONFIG_FILE", "SSL_CERT_FILE", "HTTPS_PROXY"} <= kept.keys()
        assert "RSTREAM_URI" not in kept
        assert "HOME" not in kept

    def test_secrets_of_apt_are_readable_by_root_alone_and_go(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The client's key, and a proxy's password: the tree stays for long, and others may look into it."""
        tree, key, authority = tmp_path / "tree", tmp_path / "own.key", tmp_path / "ca.pem"
        key.touch(0o600)
        key.write_text("secret")
        authority.write_text("public")
        authority.chmod(0o644)
        (tree / "usr/sbin").mkdir(parents=True)
        settings = tree / "etc/apt/apt.conf.d/90rstream"
        found = [
            ("Acquire::http::Proxy", "http://user:secret@proxy.invalid"),
            ("Acquire::https::repo.invalid::SslKey", str(key)),
            ("Acquire::https::CAInfo", str(authority)),
        ]
        monkeypatch.setattr(debian, "_apt_acquire_settings", lambda: iter(found))
        inside = [tree / str(path).lstrip("/") for path in (key, authority)]
        modes: list[list[int]] = []

        class Runner:
            def run(self, command: list[str], *_: object) -> None:
                assert "APT::Sandbox::User=root" in command  # another user could not read them
                modes.append([path.stat().st_mode & 0o777 for path in (*inside, settings)])

        before = os.umask(0)
        try:
            debian._install(Runner(), machine_recipe := debian.Recipe("k", "t", ("p",)), tree)
        finally:
            os.umask(before)
        assert modes == [[0o600, 0o644, 0o600]] * 3
        assert [path.exists() for path in (*inside, settings)] == [False, True, False]
        # A tree that was built earlier, and has them still.
        debian._copy_apt_settings(tree)
        monkeypatch.setenv("RSTREAM_CACHE", str(tmp_path / "cache"))
        cached = debian.cache_root("k") / "bookworm"
        cached.parent.mkdir(parents=True)
        tree.rename(cached)
        assert debian.ensure_tree(machine_recipe, "bookworm") == cached
        assert not (cached / "etc/apt/apt.conf.d/90rstream").exists()
        assert not (cached / str(key).lstrip("/")).exists()

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
    def test_a_checkout_of_another_user_is_cloned(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As in a container, with a checkout from outside."""
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
        monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
        checkout, target = tmp_path / "checkout", tmp_path / "home" / "clone"
        checkout.mkdir()
        target.parent.mkdir()
        (checkout / "file").write_text("content")
        identity = ("-c", "user.name=nobody", "-c", "user.email=nobody@invalid")
        for arguments in (("init", "--quiet"), ("add", "file"), (*identity, "commit", "--quiet", "-m", "all")):
            subprocess.run(["git", *arguments], cwd=checkout, check=True)
        for path in (checkout, *checkout.rglob("*")):
            os.chown(path, 12345, 12345)
        monkeypatch.setattr(fresh, "ROOT", checkout)
        fresh.clone(fresh.git("rev-parse", "HEAD"), target)
        assert (target / "file").read_text() == "content"

    @pytest.mark.slow
    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, None])
    def test_it_leaves_nothing_behind(self, how: signal.Signals | None) -> None:
        """However it ends: by a signal, by `kill -9`, or by its limit of time. Another machine is not disturbed."""
        reason = debian.cannot_chroot()
        cache = debian.cache_root("fresh")
        if reason is None and not (cache / "bookworm").is_dir():
            reason = "no tree is cached: scripts/fresh demo builds it"
        if reason is not None:
            pytest.skip(reason)
        before = set(cache.glob(".machine-*"))
        # The process that it waits for has a child that is in a session of its own.
        command = "id -un; pwd; setsid sleep 601 & echo ready; sleep 600"
        limit = ("--timeout", "1") if how is None else ()
        process = subprocess.Popen(
            [FRESH, "run", *limit, "--", "sh", "-c", command],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        with process:
            try:
                assert [process.stdout.readline() for _ in range(3)] == ["fresh\n", "/home/fresh/rstream\n", "ready\n"]
                if how is not None:
                    process.send_signal(how)
                process.wait(60)
            finally:
                process.kill()
        assert process.returncode == {None: 124, signal.SIGKILL: -9}.get(how, 128 + (how or 0))
        made = set(cache.glob(".machine-*")) - before
        if how is signal.SIGKILL:
            # Its processes end with it; the next one removes its folder.
            (directory,) = [path for path in made if not fresh._is_in_use(path)]
            assert machine.gone_within(lambda: list(machine.processes_with(f"{fresh.MARKER}={directory}")), 30)
            assert run(FRESH, "run", "--", "true").returncode == 0
        assert not set(cache.glob(".machine-*")) & made
        mounts = Path("/proc/mounts").read_text()
        assert not [path for path in made if str(path) in mounts]


class TestSoak:
    def test_the_core_is_run_on_uvloop_as_well(self) -> None:
        part = soak.PARTS["uvloop"]
        assert {"tests/conformance", "tests/faults"} <= set(part.command)
        assert part.environment == {"RSTREAM_EVENT_LOOP": "uvloop"}

    @pytest.mark.parametrize("arguments", [["nonsense"], ["kill", "--limit", "0"], ["--limit", "nan"]])
    def test_wrong_usage(self, arguments: list[str]) -> None:
        done = run(SOAK, *arguments)
        assert (done.returncode, done.stdout) == (2, "")

    def test_all_parts_are_run_and_summed_up(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        parts = {
            "good": soak.Part("ends well", ("sh", "-c", "echo figures of $WHOSE"), 60, {"WHOSE": "good"}),
            "bad": soak.Part("fails", ("sh", "-c", "exit 3"), 60),
            "long": soak.Part("takes too long", ("sleep", "600"), 0.1),
            "last": soak.Part("is run all the same", ("true",), 60),
        }
        monkeypatch.setattr(soak, "PARTS", parts)
        assert soak.soak(list(parts), None) == 1
        lines = [line.split() for line in capfd.readouterr().out.splitlines()]
        assert ["figures", "of", "good"] in lines
        results = {line[0]: line[2:] for line in lines[-4:]}
        assert results["good"] == results["last"] == ["passed"]
        assert results["bad"] == ["FAILED", "with", "3"]
        assert results["long"][:3] == ["OUT", "OF", "TIME"]
        assert soak.soak(["good", "last"], None) == 0

    def test_a_part_is_run_several_times_beside_busy_processes(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        note = tmp_path / "note"
        note.write_text(
            f"""if True:
            import os, sys
            from pathlib import Path
            with open("{tmp_path}/runs", "a") as runs, open("{tmp_path}/busy", "a") as busy:
                print(file=runs)
                for thread in Path(f"/proc/{{os.getppid()}}/task").iterdir():
                    for pid in (thread / "children").read_text().split():
                        if b"while True" in Path(f"/proc/{{pid}}/cmdline").read_bytes():
                            print(pid, file=busy)
            sys.exit(int(os.environ["FAIL"]))
            """
        )
        part = soak.Part("is repeated", (sys.executable, str(note)), 60, {"FAIL": "0"}, runs=3, busy=2)
        failing = dataclasses.replace(part, environment={"FAIL": "1"})
        monkeypatch.setattr(soak, "PARTS", {"part": part, "failing": failing})
        assert soak.soak(["part"], None) == 0
        assert (tmp_path / "runs").read_text() == "\n" * 3
        pids = [int(line) for line in (tmp_path / "busy").read_text().split()]
        assert len(pids) == 6
        assert len(set(pids)) == 2
        assert not [pid for pid in pids if _is_running(pid)]
        assert soak.soak(["failing"], None) == 1
        assert (tmp_path / "runs").read_text() == "\n" * 4

    def test_a_part_takes_all_that_it_started_along(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        command = f"trap 'echo cleaned up > {tmp_path}/told; exit' TERM; sleep 600 & echo $! > {tmp_path}/pid; wait"
        monkeypatch.setattr(soak, "PARTS", {"one": soak.Part("goes on", ("sh", "-c", command), 1)})
        assert soak.soak(["one"], None) == 1
        assert (tmp_path / "told").read_text() == "cleaned up\n"
        pid = int((tmp_path / "pid").read_text())
        assert machine.gone_within(lambda: [pid] if _is_running(pid) else [], 30)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
