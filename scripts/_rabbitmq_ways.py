"""The three ways to run a RabbitMQ server: in a container, from an installed package, in a chroot of our own.

A way knows how to lay out a node's files, start, stop and kill it, and run a tool beside it. What a broker
*is* (its nodes, ports, options) is decided elsewhere and is the same for all; `scripts/rabbitmq` drives a way
without asking which one it is.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import _rabbitmq_chroot as chroot
from _debian import cannot_chroot
from _machine import Trouble, end_processes, kill_processes, say
from _rabbitmq_config import (
    Placement,
    local_environment,
    parse_settings,
    render_config,
    render_plugins,
)
from _rabbitmq_state import (
    LOOPBACK,
    Broker,
    Exit,
    Node,
    Ports,
    marked_processes,
    remove_processes,
)

DEFAULT_RELEASE = "forky"
OLDEST_INSTALLED = (3, 13)
CERTIFICATES = ("ca.pem", "cert.pem", "key.pem")
_TOKEN_KEY = "token-key.pem"

# Debian's commands in /usr/sbin are wrappers that switch to the rabbitmq user and lose our environment.
PACKAGED_PROGRAMS = "/usr/lib/rabbitmq/bin"

# A server that is asked to stop first hands its queues' data to disk and leaves its cluster.
PATIENCE = 20.0


class Way(Protocol):
    """One way to run servers. `broker.way` names the one that a broker was started with."""

    name: str

    def unavailable(self) -> str | None:
        """Why this machine cannot run servers this way, or None."""

    def prepare(self) -> None:
        """Fetch or build what servers need, if it is not there yet."""

    def node_name(self, broker: str, index: int) -> str:
        """The Erlang name of a node."""

    def lay_out(self, broker: Broker) -> None:
        """Write what the nodes read: configuration, plugins, cookie, certificates."""

    def launch(self, broker: Broker, node: Node) -> None:
        """Start a node; it lives on after this process and holds none of its files open."""

    def pids(self, broker: Broker, node: Node) -> list[int]:
        """The processes of a node; none when it is down."""

    def stop(self, broker: Broker, node: Node) -> None:
        """Let a node shut down in order, then see that it is gone."""

    def kill(self, broker: Broker, node: Node) -> None:
        """End a node as a power cut would."""

    def run_tool(
        self, broker: Broker, node: Node, tool: str, arguments: Sequence[str], capture: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run rabbitmqctl or its like against a node, on this process's streams unless they are captured."""

    def logs(self, broker: Broker, node: Node) -> Iterator[str]:
        """What a node has logged, in pieces to be printed."""

    def remove(self, broker: Broker) -> None:
        """End whatever is left of the broker outside its runtime directory."""


class LocalWay:
    """What a server from a package and one in a chroot have in common: both are processes of this machine."""

    name: str

    def node_name(self, broker: str, index: int) -> str:
        return f"rstream-{broker}-{index}@localhost"

    def lay_out(self, broker: Broker) -> None:
        state = self._state(broker)
        _copy_certificates(broker)
        (broker.directory / "tmp").mkdir(mode=0o755)
        (broker.directory / "hosts").write_text(f"{LOOPBACK} localhost {socket.gethostname()}\n")
        home = broker.directory / "home"
        home.mkdir(mode=0o755)
        cookie = home / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(16))
        cookie.chmod(0o400)
        certificates = f"{state}/certificates" if broker.options.tls else None
        for node in broker.nodes:
            directory = broker.node_directory(node)
            for part in ("data", "log"):
                (directory / part).mkdir(parents=True)
            placement = Placement(LOOPBACK, node.ports, certificates, _token_key_in(broker, state))
            _write_node_files(broker, node, placement, directory, [peer.name for peer in broker.nodes])
            (directory / "advanced.config").write_text("[].\n")
            (directory / "rabbitmq-env.conf").write_text("")
        owner = self._owner()
        if owner is not None:
            for path in [broker.directory, *broker.directory.rglob("*")]:
                os.chown(path, *owner)

    def launch(self, broker: Broker, node: Node) -> None:
        with (broker.node_directory(node) / "log/console.log").open("ab") as console:
            subprocess.Popen(
                self._command(broker, "rabbitmq-server", []),
                env=local_environment(broker, node, self._state(broker), is_server=True),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def pids(self, broker: Broker, node: Node) -> list[int]:
        return self._pids(broker, node)()

    def stop(self, broker: Broker, node: Node) -> None:
        # Only the virtual machine is asked: it ends its helpers, and the start script ends with it.
        end_processes(self._pids(broker, node, "beam.smp"), PATIENCE)
        kill_processes(self._pids(broker, node))

    def kill(self, broker: Broker, node: Node) -> None:
        kill_processes(self._pids(broker, node))

    def run_tool(
        self, broker: Broker, node: Node, tool: str, arguments: Sequence[str], capture: bool = False
    ) -> subprocess.CompletedProcess[str]:
        command = self._command(broker, tool, arguments)
        environment = local_environment(broker, node, self._state(broker), is_server=False)
        return subprocess.run(command, env=environment, cwd="/", text=True, capture_output=capture, check=False)

    def logs(self, broker: Broker, node: Node) -> Iterator[str]:
        for path in sorted((broker.node_directory(node) / "log").glob("*.log")):
            yield f"==> {path} <==\n{path.read_text(errors='replace')}"

    def remove(self, broker: Broker) -> None:
        remove_processes(broker.directory)

    def _pids(self, broker: Broker, node: Node, program: str | None = None) -> Callable[[], list[int]]:
        def find() -> list[int]:
            found = marked_processes(broker.directory, node)
            # Whichever node came first has started epmd for all of them: it is the broker's, not the node's.
            return [pid for pid, name in found.items() if name != "epmd" and program in (None, name)]

        return find

    def _state(self, broker: Broker) -> str:
        """The broker's runtime directory as its processes see it."""
        raise NotImplementedError

    def _command(self, broker: Broker, program: str, arguments: Sequence[str]) -> list[str]:
        raise NotImplementedError

    def _owner(self) -> tuple[int, int] | None:
        """Who must own the files, if not the caller."""
        return None


class Chroot(LocalWay):
    """A server in a cached Debian tree, as that tree's rabbitmq user."""

    name = "chroot"

    def __init__(self, release: str | None) -> None:
        self._release = release or DEFAULT_RELEASE

    def unavailable(self) -> str | None:
        return cannot_chroot()

    def prepare(self) -> None:
        chroot.ensure_tree(self._release)

    def _state(self, broker: Broker) -> str:
        return chroot.STATE_MOUNT

    def _command(self, broker: Broker, program: str, arguments: Sequence[str]) -> list[str]:
        tree = chroot.ensure_tree(self._release)
        return chroot.run_command(tree, broker.directory, [f"{PACKAGED_PROGRAMS}/{program}", *arguments])

    def _owner(self) -> tuple[int, int] | None:
        return chroot.rabbitmq_ids(chroot.ensure_tree(self._release))


class Installed(LocalWay):
    """The server that is installed on this machine, as the caller and in directories of the caller."""

    name = "installed"

    def __init__(self, release: str | None) -> None:
        self._release = release

    def unavailable(self) -> str | None:
        if not Path("/proc/self/environ").exists():
            return "only known to work on Linux"
        programs = _installed_programs()
        if programs is None:
            return "no rabbitmq-server is installed"
        if self._release is not None:
            return f"a Debian {self._release} was asked for"
        version = _installed_version(programs)
        if version < OLDEST_INSTALLED:
            return f"the installed rabbitmq-server is {'.'.join(map(str, version))}, older than 3.13"
        return None

    def prepare(self) -> None:
        pass

    def _state(self, broker: Broker) -> str:
        return str(broker.directory)

    def _command(self, broker: Broker, program: str, arguments: Sequence[str]) -> list[str]:
        programs = _installed_programs()
        if programs is None:
            raise Trouble("the installed rabbitmq-server is gone")
        return [str(programs / program), *arguments]


def _installed_programs() -> Path | None:
    packaged = Path(PACKAGED_PROGRAMS)
    if (packaged / "rabbitmq-server").exists():
        return packaged
    found = shutil.which("rabbitmq-server")
    return Path(found).resolve().parent if found else None


def _installed_version(programs: Path) -> tuple[int, ...]:
    with tempfile.TemporaryDirectory() as home:  # the tool leaves an Erlang cookie in its home
        environment = {**os.environ, "HOME": home}
        done = subprocess.run(
            [programs / "rabbitmqctl", "version"], env=environment, capture_output=True, text=True, check=False
        )
    match = re.search(r"^(\d+)\.(\d+)", done.stdout, re.MULTILINE)
    return (int(match[1]), int(match[2])) if match else (0,)


class Container:
    """A server in a container of docker or podman."""

    name = "docker"

    # What the server listens on inside; outside, each is published on a loopback port of the node's own.
    _INSIDE = Ports(stream=5552, amqp=5672, management=15672, dist=25672, stream_tls=5551, management_tls=15671)
    _FILES = "/etc/rabbitmq"
    _TAGS: Mapping[str | None, str] = {
        None: "4-management",
        "forky": "4.3-management",
        "trixie": "4.0-management",
        "bookworm": "3.10-management",
    }

    def __init__(self, release: str | None) -> None:
        self._image = os.environ.get("RSTREAM_RABBITMQ_IMAGE") or f"rabbitmq:{self._TAGS[release]}"
        self._engine: str | None = None

    def unavailable(self) -> str | None:
        for engine in ("docker", "podman"):
            if shutil.which(engine) and _answers([engine, "info"]):
                self._engine = engine
                return None
        return "no docker or podman with an engine that answers"

    def prepare(self) -> None:
        if self._call("image", "inspect", self._image, check=False).returncode != 0:
            say(f"pulling {self._image}")
            self._call("pull", self._image)

    def node_name(self, broker: str, index: int) -> str:
        return f"rstream@node{index}"

    def lay_out(self, broker: Broker) -> None:
        _copy_certificates(broker)
        if len(broker.nodes) > 1:
            self._call("network", "create", _container_network(broker))
        cookie = secrets.token_hex(16)
        certificates = f"{self._FILES}/certificates" if broker.options.tls else None
        for node in broker.nodes:
            directory = broker.node_directory(node)
            directory.mkdir()
            token_key = _token_key_in(broker, self._FILES)
            placement = Placement("0.0.0.0", self._INSIDE, certificates, token_key, guest_from_anywhere=True)
            _write_node_files(broker, node, placement, directory, [peer.name for peer in broker.nodes])
            self._create(broker, node, cookie)
            # Copied, not mounted: that works with an engine on another machine or in a virtual one too.
            container = _container_name(broker, node)
            for name in ("rabbitmq.conf", "enabled_plugins"):
                self._call("cp", str(directory / name), f"{container}:{self._FILES}/{name}")
            if certificates is not None:
                self._call("cp", str(broker.directory / "certificates"), f"{container}:{certificates}")
            if token_key is not None:
                self._call("cp", str(broker.directory / _TOKEN_KEY), f"{container}:{token_key}")

    def _create(self, broker: Broker, node: Node, cookie: str) -> None:
        published = [
            (node.ports.stream, self._INSIDE.stream),
            (node.ports.amqp, self._INSIDE.amqp),
            (node.ports.management, self._INSIDE.management),
        ]
        if node.ports.stream_tls is not None:
            published.append((node.ports.stream_tls, self._INSIDE.stream_tls or 0))
        if node.ports.management_tls is not None:
            published.append((node.ports.management_tls, self._INSIDE.management_tls or 0))
        options = [f"--name={_container_name(broker, node)}", f"--hostname=node{node.index}"]
        options += [f"--publish={LOOPBACK}:{outside}:{inside}" for outside, inside in published]
        options.append(f"--env=RABBITMQ_NODENAME={node.name}")
        options.append("--env=RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+S 2:2")
        if len(broker.nodes) > 1:
            # One node makes a cookie of its own. Several need the same; the variable is deprecated, but a file
            # would have to belong to the image's user, whose id is the image's business.
            options.append(f"--env=RABBITMQ_ERLANG_COOKIE={cookie}")
            options += [f"--network={_container_network(broker)}", f"--network-alias=node{node.index}"]
        self._call("create", *options, self._image)

    def launch(self, broker: Broker, node: Node) -> None:
        self._call("start", _container_name(broker, node))

    def pids(self, broker: Broker, node: Node) -> list[int]:
        done = self._call("inspect", "--format={{.State.Pid}}", _container_name(broker, node), check=False)
        return [int(pid) for pid in done.stdout.split() if pid.isdigit() and pid != "0"]

    def stop(self, broker: Broker, node: Node) -> None:
        self._call("stop", f"--time={PATIENCE:.0f}", _container_name(broker, node))

    def kill(self, broker: Broker, node: Node) -> None:
        if self.pids(broker, node):
            self._call("kill", _container_name(broker, node))

    def run_tool(
        self, broker: Broker, node: Node, tool: str, arguments: Sequence[str], capture: bool = False
    ) -> subprocess.CompletedProcess[str]:
        command = [self._program(), "exec", "--interactive", _container_name(broker, node), tool, *arguments]
        return subprocess.run(command, text=True, capture_output=capture, check=False)

    def logs(self, broker: Broker, node: Node) -> Iterator[str]:
        done = self._call("logs", _container_name(broker, node), check=False)
        yield f"==> {_container_name(broker, node)} <==\n{done.stdout}{done.stderr}"

    def remove(self, broker: Broker) -> None:
        # No check: after a crash in the middle of `up` some of it was never made.
        for node in broker.nodes:
            self._call("rm", "--force", "--volumes", _container_name(broker, node), check=False)
        if len(broker.nodes) > 1:
            self._call("network", "rm", _container_network(broker), check=False)
        for node in broker.nodes:
            if self.pids(broker, node):
                raise Trouble(f"{self._program()} does not remove the container {_container_name(broker, node)}")

    def _program(self) -> str:
        if self._engine is None:
            reason = self.unavailable()
            if self._engine is None:
                raise Trouble(f"{reason}", Exit.NO_WAY)
        return self._engine

    def _call(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [self._program(), *arguments]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if check and done.returncode != 0:
            raise Trouble(f"{self._engine} {arguments[0]}: {done.stderr.strip()}")
        return done


def _container_name(broker: Broker, node: Node) -> str:
    return f"rstream-rabbitmq-{os.getuid()}-{broker.name}-{node.index}"


def _container_network(broker: Broker) -> str:
    return f"rstream-rabbitmq-{os.getuid()}-{broker.name}"


def _answers(command: Sequence[str]) -> bool:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=5, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _copy_certificates(broker: Broker) -> None:
    """Copy the user's certificates, and the key of tokens, where the server's own user may read them."""
    if broker.options.token_key is not None:
        shutil.copyfile(broker.options.token_key, broker.directory / _TOKEN_KEY)
    if broker.options.tls is None:
        return
    target = broker.directory / "certificates"
    target.mkdir(mode=0o755)
    for name in CERTIFICATES:
        shutil.copyfile(Path(broker.options.tls) / name, target / name)


def _token_key_in(broker: Broker, files: str) -> str | None:
    """The path of the key of tokens, below the folder that a server sees as `files`; None without one."""
    return None if broker.options.token_key is None else f"{files}/{_TOKEN_KEY}"


def _write_node_files(broker: Broker, node: Node, placement: Placement, directory: Path, peers: Sequence[str]) -> None:
    options = broker.options
    advertised = (options.advertised_host or LOOPBACK, options.advertised_port or node.ports.stream)
    text = render_config(node, placement, parse_settings(options.config), peers, advertised)
    (directory / "rabbitmq.conf").write_text(text)
    (directory / "enabled_plugins").write_text(render_plugins(has_tokens=options.token_key is not None))


# In the order of preference.
_WAYS: Mapping[str, Callable[[str | None], Way]] = {
    "docker": Container,
    "installed": Installed,
    "chroot": Chroot,
}

_INSTALL_SOMETHING = (
    "no way to run RabbitMQ here: install docker or podman, or rabbitmq-server 3.13 or later, "
    "or run as root on Debian or Ubuntu with debootstrap"
)


def prepare_way(release: str | None, environ: Mapping[str, str] = os.environ) -> Way:
    """The first way that works on this machine, or the one that the user forces; made ready to start servers."""
    forced = environ.get("RSTREAM_RABBITMQ_WAY")
    if forced:
        way = way_named(forced, release)
        reason = way.unavailable()
        if reason is not None:
            raise Trouble(f"RSTREAM_RABBITMQ_WAY={forced} does not work here: {reason}", Exit.NO_WAY)
        way.prepare()
        return way
    reasons = []
    for name in _WAYS:
        way = way_named(name, release)
        reason = way.unavailable()
        if reason is None:
            try:
                way.prepare()
            except Trouble as trouble:  # such as an engine that reaches no registry
                reason = str(trouble)
                say(f"{name}: {reason}")
            else:
                return way
        reasons.append(f"{name}: {reason.splitlines()[0]}")
    raise Trouble(f"{_INSTALL_SOMETHING} ({'; '.join(reasons)})", Exit.NO_WAY)


def way_named(name: str, release: str | None) -> Way:
    """The way of that name, for a broker that is there already or to be forced."""
    if name not in _WAYS:
        raise Trouble(f"there is no way {name!r}: {', '.join(_WAYS)}", Exit.USAGE)
    return _WAYS[name](release)
