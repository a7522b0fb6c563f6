"""Builds and caches a Debian tree with RabbitMQ in it, for machines without container engine and server.

A tree is built in a temporary directory and renamed once complete, under a lock: a cached tree is whole or
absent, and two processes never build the same one at once. Everything that mounts runs in a mount namespace
of its own (`unshare --mount`), so the machine's own mount table never changes and a crash leaves nothing to
unmount.

Nothing here names a mirror: it is taken from this machine's apt configuration, else debootstrap's own
default.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from _rabbitmq_state import MARKER, Trouble, locked, remove_processes, say

RELEASES = ("forky", "trixie", "bookworm")

# Where a broker's runtime directory appears inside the tree.
STATE_MOUNT = "/srv/rstream"

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_SUITE_ALIASES = ("stable", "testing", "unstable", "sid")
_MOUNT = 'for part in proc dev sys; do mount --rbind "/$part" "$1/$part"; done'

_BUILD_IN_NAMESPACE = _MOUNT + '; root=$1; shift; exec chroot "$root" "$@"'
_RUN_IN_NAMESPACE = _MOUNT + (
    f'; mount --bind "$2" "$1{STATE_MOUNT}"'
    '; mount --bind "$2/hosts" "$1/etc/hosts"'
    '; mount --bind "$2/tmp" "$1/tmp"'
    '; root=$1; shift 2; exec chroot --userspec=rabbitmq:rabbitmq "$root" "$@"'
)


def cache_root(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the trees are kept, outside the repository."""
    own = environ.get("RSTREAM_CACHE")
    if own:
        return Path(own).absolute() / "rabbitmq"
    base = environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    return Path(base) / "rstream" / "rabbitmq"


def cannot_chroot() -> str | None:
    """Why this machine cannot run a server in a chroot, or None if it can."""
    if os.geteuid() != 0:
        return "not root"
    if not shutil.which("unshare") or not shutil.which("chroot"):
        return "no unshare and chroot commands"
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0:
        return "mounting is not allowed here"
    if not shutil.which("apt-get"):
        return "not a Debian or Ubuntu system"
    return None


def run_command(tree: Path, state: Path, command: Sequence[str]) -> list[str]:
    """The command line that runs a command as the tree's rabbitmq user, the broker's directory mounted."""
    return [*_in_namespace(_RUN_IN_NAMESPACE), str(tree), str(state), *command]


def rabbitmq_ids(tree: Path) -> tuple[int, int]:
    """The user and group id of the tree's rabbitmq user."""
    for line in (tree / "etc/passwd").read_text().splitlines():
        fields = line.split(":")
        if fields[0] == "rabbitmq":
            return int(fields[2]), int(fields[3])
    raise Trouble(f"{tree} has no rabbitmq user")


def ensure_tree(release: str) -> Path:
    """Return the tree of that Debian release, building it first if it is not cached."""
    cache = cache_root()
    tree = cache / release
    if tree.is_dir():
        return tree
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / f"{release}.lock", f"waiting for another process that builds {release}"):
        if not tree.is_dir():
            # We hold the lock, so whatever building directory is there was left by a crash.
            for leftover in cache.glob(f".{release}.building-*"):
                _abandon(leftover)
            _build(cache, release, tree)
    return tree


def _build(cache: Path, release: str, tree: Path) -> None:
    say(f"building a Debian {release} tree with RabbitMQ in {tree} (about half a minute, once)")
    building = Path(tempfile.mkdtemp(prefix=f".{release}.building-", dir=cache))
    try:
        building.chmod(0o755)
        with (cache / f"{release}.build.log").open("w") as log:
            runner = _LoggedRunner(Path(log.name), log.fileno(), building)
            _bootstrap(runner, release, building)
            _install_server(runner, building)
        building.rename(tree)
    finally:
        _abandon(building)


def _abandon(building: Path) -> None:
    """Remove a tree that is not to be finished; first what still writes into it, as after a kill -9."""
    remove_processes(building)
    shutil.rmtree(building, ignore_errors=True)


class _LoggedRunner:
    """Runs the commands of a build; their output goes to a log, whose end is shown when one fails."""

    def __init__(self, log: Path, descriptor: int, building: Path) -> None:
        self._log = log
        self._descriptor = descriptor
        self._building = building

    def run(self, command: Sequence[str], environ: Mapping[str, str] = os.environ) -> None:
        """Run a command that works on the tree; it is ended together with the build."""
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._descriptor,
            stderr=subprocess.STDOUT,
            env={**environ, MARKER: str(self._building)},
            check=False,
        )
        self._check(command, done.returncode)

    def apt_install(self, package: str) -> None:
        """Install a package on this machine, refreshing the lists first: a fresh image has none."""
        say(f"installing {package}")
        self._run_to_the_end(["apt-get", "update"])
        self._run_to_the_end(["apt-get", "install", "-y", "--no-install-recommends", package])

    def _run_to_the_end(self, command: Sequence[str]) -> None:
        """Run a command that changes this machine's packages: an interrupt waits, rather than break them."""
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._descriptor,
            stderr=subprocess.STDOUT,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            start_new_session=True,
        )
        try:
            status = process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise
        self._check(command, status)

    def _check(self, command: Sequence[str], status: int) -> None:
        if status != 0:
            ending = "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])
            raise _CommandFailed(f"{command[0]} failed ({self._log}):\n{ending}")


class _CommandFailed(Trouble):
    """A command of the build failed; the message ends with its last output."""


def _bootstrap(runner: _LoggedRunner, release: str, target: Path) -> None:
    if not shutil.which("debootstrap"):
        runner.apt_install("debootstrap")
    if not _KEYRING.exists():
        runner.apt_install("debian-archive-keyring")
    command = ["unshare", "--mount", "debootstrap", "--variant=minbase", "--include=ca-certificates"]
    arguments = [release, str(target), find_mirror() or "", _suite_script(release)]
    environment = {**os.environ, **_proxies()}

    def attempt(check: str) -> bool:
        """Bootstrap; False where the release is signed by a key that this machine does not know."""
        try:
            runner.run([*command, check, *arguments], environment)
        except _CommandFailed as failure:
            if "unknown key" not in str(failure).lower():
                raise
            shutil.rmtree(target)
            target.mkdir(mode=0o755)
            return False
        return True

    if attempt(f"--keyring={_KEYRING}"):
        return
    say(f"this machine's Debian keyring is too old for {release}: updating it")
    runner.apt_install("debian-archive-keyring")
    if attempt(f"--keyring={_KEYRING}"):
        return
    say(f"WARNING: no keyring for {release} is to be had: building without checking its signatures")
    attempt("--no-check-gpg")


def _suite_script(release: str) -> str:
    """The debootstrap script for a release; one younger than the installed debootstrap is built like sid."""
    scripts = Path(os.environ.get("DEBOOTSTRAP_DIR") or "/usr/share/debootstrap") / "scripts"
    return str(scripts / (release if (scripts / release).exists() else "sid"))


def _install_server(runner: _LoggedRunner, tree: Path) -> None:
    """Install the server in a bootstrapped tree without starting it."""
    policy = tree / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    for name in ("resolv.conf", "hosts"):  # the mirror's address may be known from either
        with contextlib.suppress(FileNotFoundError):
            (tree / "etc" / name).write_bytes(Path("/etc", name).read_bytes())
    _copy_apt_settings(tree)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", **_proxies()}
    inside = [*_in_namespace(_BUILD_IN_NAMESPACE), str(tree)]
    runner.run([*inside, "apt-get", "update"], environment)
    install = ["apt-get", "install", "-y", "--no-install-recommends", "rabbitmq-server"]
    runner.run([*inside, *install], environment)
    runner.run([*inside, "apt-get", "clean"], environment)
    (tree / STATE_MOUNT.lstrip("/")).mkdir(parents=True)


def _in_namespace(script: str) -> list[str]:
    return ["unshare", "--mount", "--propagation", "private", "sh", "-euc", script, "rabbitmq"]


def _copy_apt_settings(tree: Path) -> None:
    """Make apt reach the mirror from inside the tree as it does from outside: proxies, certificates."""
    # A mirror that stands still, or a clock ahead of it, makes lists "expired"; they are signed all the same.
    lines = ['Acquire::Check-Valid-Until "false";']
    for key, value in _apt_acquire_settings():
        if key.rpartition("::")[2] in {"CAInfo", "SslCert", "SslKey"} and Path(value).is_file():
            copy = tree / value.lstrip("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(value, copy)
        lines.append(f'{key} "{value}";')
    bundle = Path(os.environ.get("SSL_CERT_FILE") or "/etc/ssl/certs/ca-certificates.crt")
    if bundle.is_file():
        shutil.copyfile(bundle, tree / "etc/ssl/certs/ca-certificates.crt")
    (tree / "etc/apt/apt.conf.d/90rstream").write_text("\n".join(lines) + "\n")


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
