"""Builds and caches small Debian trees, in which a chroot runs what this machine does not have, or has too much of.

A tree is built in a temporary directory and renamed once complete, under a lock: a cached tree is whole or
absent, and two processes never build the same one at once. Everything that mounts runs in a mount namespace
of its own (`unshare --mount`), so the machine's own mount table never changes and a crash leaves nothing to
unmount. Nothing is installed on this machine.

Nothing here names a mirror: it is taken from this machine's apt configuration, else debootstrap's own
default.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from _machine import NO_WAY, Trouble, cache_root, kill_processes, locked, processes_with, say

RELEASES = ("forky", "trixie", "bookworm")

MARKER = "RSTREAM_DEBIAN_TREE"
"""The variable by which the processes that work in a tree are found."""

# A mirror that hangs ends the build.
BUILD_TIMEOUT = 1800.0

_APT_SETTINGS = Path("etc/apt/apt.conf.d/90rstream")
_KEYRING = Path("usr/share/keyrings/debian-archive-keyring.gpg")
_SUITE_ALIASES = ("stable", "testing", "unstable", "sid")
MOUNT = 'for part in proc dev sys; do mount --rbind "/$part" "$1/$part"; done'
_BUILD_IN_NAMESPACE = MOUNT + '; root=$1; shift; exec chroot "$root" "$@"'


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a tree holds besides the smallest Debian."""

    kind: str
    """Trees of different kinds are cached in different folders."""
    title: str
    packages: tuple[str, ...]
    finish: tuple[tuple[str, ...], ...] = ()
    """Commands that are run in the tree at the end."""


def cannot_chroot() -> str | None:
    """Why this machine cannot build a tree and run something in it, or None if it can."""
    if os.geteuid() != 0:
        return "not root"
    if not shutil.which("unshare") or not shutil.which("chroot"):
        return "no unshare and chroot commands"
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0:
        return "mounting is not allowed here"
    if not shutil.which("apt-get"):
        return "not a Debian or Ubuntu system"
    return None


def ensure_tree(recipe: Recipe, release: str) -> Path:
    """Return the tree of that Debian release, building it first if it is not cached."""
    cache = cache_root(recipe.kind)
    tree = cache / release
    if tree.is_dir():
        _forget_apt_settings(tree)  # a tree that was built earlier may still have them
        return tree
    if not shutil.which("debootstrap"):
        raise Trouble("debootstrap, which builds a Debian tree, is not installed here", NO_WAY)
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / f"{release}.lock", f"waiting for another process that builds {release}"):
        if not tree.is_dir():
            # We hold the lock, so whatever building directory is there was left by a crash.
            for leftover in cache.glob(f".{release}.building-*"):
                remove_tree(leftover)
            _build(recipe, cache, release, tree)
    return tree


def remove_tree(tree: Path) -> None:
    """Remove a tree; first what still runs in it, as after a kill -9."""
    kill_processes(lambda: list(processes_with(f"{MARKER}={tree}")))
    shutil.rmtree(tree, ignore_errors=True)


def in_namespace(script: str, *options: str) -> list[str]:
    """The command line that runs a shell script where its mounts are nobody else's; `options` are for unshare."""
    return ["unshare", "--mount", "--propagation", "private", *options, "sh", "-euc", script, "rstream"]


def copy_network_settings(tree: Path) -> None:
    """Let names resolve and certificates be verified in a tree as they are on this machine."""
    for name in ("resolv.conf", "hosts"):  # the mirror's address may be known from either
        put_file(Path("/etc", name), tree / "etc" / name)
    bundle = Path(os.environ.get("SSL_CERT_FILE") or "/etc/ssl/certs/ca-certificates.crt")
    put_file(bundle, tree / "etc/ssl/certs/ca-certificates.crt")


def put_file(source: Path, target: Path, mode: int = 0o644) -> None:
    """Copy a file, if it is there, over whatever there is: not into it, as that may be a link to another tree's."""
    if source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        _write(target, source.read_bytes(), mode)


def _write(target: Path, content: bytes, mode: int) -> None:
    """Write a new file, which is never more readable than it is to be."""
    target.unlink(missing_ok=True)
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), mode)


def _build(recipe: Recipe, cache: Path, release: str, tree: Path) -> None:
    say(f"building a Debian {release} tree {recipe.title} in {tree} (about half a minute, once)")
    building = Path(tempfile.mkdtemp(prefix=f".{release}.building-", dir=cache))
    try:
        building.chmod(0o755)
        with (cache / f"{release}.build.log").open("w") as log:
            runner = _LoggedRunner(Path(log.name), log.fileno(), building)
            _bootstrap(runner, release, building)
            _install(runner, recipe, building)
        building.rename(tree)
    finally:
        remove_tree(building)


class _LoggedRunner:
    """Runs the commands of a build; their output goes to a log, whose end is shown when one fails."""

    def __init__(self, log: Path, descriptor: int, building: Path) -> None:
        self._log = log
        self._descriptor = descriptor
        self._building = building

    def run(self, command: Sequence[str], environ: Mapping[str, str] = os.environ, *, cwd: Path | None = None) -> None:
        """Run a command that works on the tree; it is ended together with the build."""
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self._descriptor,
                stderr=subprocess.STDOUT,
                env={**environ, MARKER: str(self._building)},
                cwd=cwd,
                timeout=BUILD_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Trouble(f"{command[0]} takes more than {BUILD_TIMEOUT:.0f} s ({self._log})") from None
        if done.returncode != 0:
            ending = "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])
            raise _CommandFailed(f"{command[0]} failed ({self._log}):\n{ending}")


class _CommandFailed(Trouble):
    """A command of the build failed; the message ends with its last output."""


def _bootstrap(runner: _LoggedRunner, release: str, target: Path) -> None:
    command = ["unshare", "--mount", "debootstrap", "--variant=minbase", "--include=ca-certificates"]
    arguments = [release, str(target), find_mirror() or "", _suite_script(release)]
    environment = {**os.environ, **_proxies()}

    def attempt(check: str) -> bool:
        """Bootstrap; False where the release is signed by a key that is not known."""
        try:
            runner.run([*command, check, *arguments], environment)
        except _CommandFailed as failure:
            if "unknown key" not in str(failure).lower():
                raise
            shutil.rmtree(target)
            target.mkdir(mode=0o755)
            return False
        return True

    installed = "/" / _KEYRING
    if installed.exists() and attempt(f"--keyring={installed}"):
        return
    say(f"this machine has no Debian keyring, or one too old for {release}: fetching the newest, just for this")
    with tempfile.TemporaryDirectory(prefix="rstream-keyring-") as scratch:
        if attempt(f"--keyring={_fetch_keyring(runner, Path(scratch))}"):
            return
    say(f"WARNING: no keyring for {release} is to be had: building without checking its signatures")
    attempt("--no-check-gpg")


def _fetch_keyring(runner: _LoggedRunner, scratch: Path) -> Path:
    """Debian's keyring from this machine's own package sources, unpacked in a folder; nothing is installed."""
    for name in ("lists/partial", "cache/archives/partial", "unpacked"):
        (scratch / name).mkdir(parents=True)
    apt = ["apt-get", "-o", f"Dir::State::lists={scratch}/lists", "-o", f"Dir::Cache={scratch}/cache"]
    runner.run([*apt, "-o", "APT::Sandbox::User=root", "update"])
    runner.run([*apt, "-o", "APT::Sandbox::User=root", "download", "debian-archive-keyring"], cwd=scratch)
    (package,) = scratch.glob("*.deb")
    runner.run(["dpkg-deb", "--extract", str(package), str(scratch / "unpacked")])
    return scratch / "unpacked" / _KEYRING


def _suite_script(release: str) -> str:
    """The debootstrap script for a release; one younger than the installed debootstrap is built like sid."""
    scripts = Path(os.environ.get("DEBOOTSTRAP_DIR") or "/usr/share/debootstrap") / "scripts"
    return str(scripts / (release if (scripts / release).exists() else "sid"))


def _install(runner: _LoggedRunner, recipe: Recipe, tree: Path) -> None:
    """Install the packages in a bootstrapped tree; no server is started."""
    policy = tree / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    copy_network_settings(tree)
    _copy_apt_settings(tree)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", **_proxies()}
    inside = [*in_namespace(_BUILD_IN_NAMESPACE), str(tree)]
    # As root: apt's own user could not read a key that is root's alone.
    apt = [*inside, "apt-get", "-o", "APT::Sandbox::User=root"]
    runner.run([*apt, "update"], environment)
    runner.run([*apt, "install", "-y", "--no-install-recommends", *recipe.packages], environment)
    runner.run([*apt, "clean"], environment)
    _forget_apt_settings(tree)  # nothing is installed in a tree that is built
    for command in recipe.finish:
        runner.run([*inside, *command], environment)


def _copy_apt_settings(tree: Path) -> None:
    """Make apt reach the mirror from inside the tree as it does from outside: proxies, certificates."""
    # A mirror that stands still, or a clock ahead of it, makes lists "expired"; they are signed all the same.
    lines = ['Acquire::Check-Valid-Until "false";']
    for key, value in _apt_acquire_settings():
        source = Path(value)
        if key.rpartition("::")[2] in {"CAInfo", "SslCert", "SslKey"} and source.is_file():
            put_file(source, tree / value.lstrip("/"), stat.S_IMODE(source.stat().st_mode))
        lines.append(f'{key} "{value}";')
    settings = tree / _APT_SETTINGS
    settings.parent.mkdir(parents=True, exist_ok=True)
    _write(settings, "".join(f"{line}\n" for line in lines).encode(), 0o600)  # a proxy may have a password


def _forget_apt_settings(tree: Path) -> None:
    """Remove what may be secret of them, once packages are installed: the tree stays for long."""
    settings = tree / _APT_SETTINGS
    for line in _lines(settings):
        match = re.fullmatch(r'Acquire::[\w:.-]+::SslKey "/*([^"]+)";', line)
        if match:
            (tree / match[1]).unlink(missing_ok=True)
    settings.unlink(missing_ok=True)


def _proxies() -> dict[str, str]:
    """Proxy variables for debootstrap, which downloads with wget and knows nothing of apt's settings."""
    settings = dict(_apt_acquire_settings())
    found = {}
    for scheme in ("http", "https"):
        proxy = settings.get(f"Acquire::{scheme}::Proxy")
        if proxy and proxy != "DIRECT" and f"{scheme}_proxy" not in os.environ:
            found[f"{scheme}_proxy"] = proxy
    return found


def _apt_acquire_settings() -> Iterator[tuple[str, str]]:
    """This machine's apt settings for http and https that differ from the defaults, as (key, value)."""
    done = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        match = re.fullmatch(r'(Acquire::https?::[\w:.-]+) "([^"]+)";', line)
        if match:
            yield match[1], match[2]


def find_mirror(apt: Path = Path("/etc/apt"), os_release: Path = Path("/etc/os-release")) -> str | None:
    """The Debian mirror this machine uses; None if it is no Debian, or has none that debootstrap can use."""
    facts = dict(line.split("=", 1) for line in _lines(os_release) if "=" in line)
    if facts.get("ID", "").strip('"') != "debian":
        return None
    suites = {facts.get("VERSION_CODENAME", "").strip('"'), *_SUITE_ALIASES, *RELEASES} - {""}
    mirrors = []
    for listed, suite, components in _apt_sources(apt):
        uri = _resolve_mirror_list(listed)
        if suite in suites and "main" in components and urlsplit(uri).scheme in {"http", "https"}:
            mirrors.append(uri.rstrip("/"))
    # Third parties use Debian's suite names too; an archive's own path nearly always ends like this.
    mirrors.sort(key=lambda uri: not urlsplit(uri).path.endswith("/debian"))
    return mirrors[0] if mirrors else None


def _apt_sources(apt: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Every (URI, suite, components) of the binary package sources, in both formats of apt."""
    folder = apt / "sources.list.d"
    for path in [apt / "sources.list", *sorted(folder.glob("*.list"))]:
        for line in _lines(path):
            match = re.fullmatch(r"deb\s+(?:\[[^]]*\]\s*)?(\S+)\s+(\S+)\s*(.*)", line)
            if match:
                yield match[1], match[2], match[3].split()
    for path in sorted(folder.glob("*.sources")):
        for stanza in _stanzas(path):
            if "deb" not in stanza.get("types", "").split() or stanza.get("enabled", "yes").lower() == "no":
                continue
            for uri in stanza.get("uris", "").split():
                for suite in stanza.get("suites", "").split():
                    yield uri, suite, stanza.get("components", "").split()


def _lines(path: Path) -> list[str]:
    """The lines of a file without comments and blanks at their ends; none if there is no such file."""
    try:
        return [line.split("#", 1)[0].strip() for line in path.read_text(errors="replace").splitlines()]
    except FileNotFoundError:
        return []


def _stanzas(path: Path) -> Iterator[dict[str, str]]:
    """The stanzas of a deb822 file; a value may go on in lines that begin with a blank."""
    stanza: dict[str, str] = {}
    field = ""
    for line in [*path.read_text(errors="replace").splitlines(), ""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            if stanza:
                yield stanza
            stanza, field = {}, ""
        elif line[0].isspace():
            stanza[field] = f"{stanza.get(field, '')} {line.strip()}"
        else:
            field, _, value = line.partition(":")
            field = field.strip().lower()
            stanza[field] = value.strip()


def _resolve_mirror_list(uri: str) -> str:
    """Debian's cloud images name a file with a list of mirrors in place of a mirror: take its first."""
    if not uri.startswith("mirror+file:"):
        return uri
    listed = [line.split()[0] for line in _lines(Path(uri.removeprefix("mirror+file:"))) if line]
    return listed[0] if listed else uri
