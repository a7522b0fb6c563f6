"""What scripts/rabbitmq remembers about a broker between two calls, and how it knows its ports and processes.

Every call of the script is a process of its own, so whatever the next one must know lies in a runtime
directory: one folder a broker, holding `state.json`, the Erlang cookie, and for each node its configuration,
data and logs. The state is written before the first process starts, so that `down` can clean up after a crash
at any moment.

Processes are recognised by an environment variable that they inherit (`MARKER`), epmd and the server's helpers
too.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _machine import NO_WAY, VANISHED, Trouble, kill_processes, locked, processes_with

MARKER = "RSTREAM_RABBITMQ_BROKER"
NODE_MARKER = "RSTREAM_RABBITMQ_NODE"

# Below Linux's ephemeral range (32768 on): an outgoing connection of some other program never takes a port
# from a node that is down and is to come back on it. Above the ports that servers use by default.
PORT_RANGE = range(20000, 32000)

LOOPBACK = "127.0.0.1"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


class Exit(enum.IntEnum):
    """The statuses this script ends with, besides those of a tool that it runs."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_UP = 3
    NO_WAY = NO_WAY
    INTERRUPTED = 130


@dataclasses.dataclass(frozen=True)
class Ports:
    """The loopback ports of one node, as its clients see them."""

    stream: int
    amqp: int
    management: int
    dist: int
    stream_tls: int | None = None
    management_tls: int | None = None


@dataclasses.dataclass(frozen=True)
class Node:
    """One server process and where it listens."""

    index: int
    name: str
    ports: Ports

    @property
    def uri(self) -> str:
        """Where a client connects, as the guest user of the default virtual host."""
        return f"rabbitmq-stream://guest:guest@{LOOPBACK}:{self.ports.stream}/%2f"

    @property
    def management_uri(self) -> str:
        """Where its management API is, without a login."""
        return f"http://{LOOPBACK}:{self.ports.management}"

    @property
    def tls_uri(self) -> str | None:
        """The same over TLS, where the broker was started with a certificate."""
        if self.ports.stream_tls is None:
            return None
        return f"rabbitmq-stream+tls://guest:guest@{LOOPBACK}:{self.ports.stream_tls}/%2f"


@dataclasses.dataclass(frozen=True)
class Options:
    """What the user asked for; compared when `up` meets a broker that is already there."""

    release: str | None = None
    tls: str | None = None
    advertised_host: str | None = None
    advertised_port: int | None = None
    config: tuple[str, ...] = ()
    token_key: str | None = None


@dataclasses.dataclass(frozen=True)
class Broker:
    """A broker that was begun: one node, or the nodes of a cluster."""

    name: str
    directory: Path
    way: str
    options: Options
    nodes: tuple[Node, ...]
    epmd_port: int
    ready: bool = False
    version: str | None = None

    def node_directory(self, node: Node) -> Path:
        """Configuration, data and logs of one node."""
        return self.directory / f"node{node.index}"

    def save(self) -> None:
        """Write the state so that a reader sees the old one or the new one, never half of it."""
        record = dataclasses.asdict(self)
        del record["directory"]
        scratch = self.directory / "state.json.new"
        scratch.write_text(json.dumps(record, indent=2) + "\n")
        scratch.replace(self.directory / "state.json")


def load_broker(directory: Path) -> Broker | None:
    """Read what is known of the broker in that directory; None if it was never begun.

    Another version of this script may have written it, with fields that this one does not know: they are left out.
    """
    try:
        record: dict[str, Any] = json.loads((directory / "state.json").read_text())
    except FileNotFoundError:
        return None
    options = record.pop("options")
    options["config"] = tuple(options["config"])
    nodes = tuple(Node(n["index"], n["name"], Ports(**_known(Ports, n["ports"]))) for n in record.pop("nodes"))
    rest = _known(Broker, record)
    return Broker(directory=directory, options=Options(**_known(Options, options)), nodes=nodes, **rest)


def _known(kind: type[Ports | Options | Broker], record: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in record.items() if name in names}


def check_name(name: str) -> str:
    """A broker's name becomes part of paths, node names and container names: keep it plain."""
    if not _NAME.fullmatch(name):
        raise Trouble(f"{name!r} is no name for a broker: letters, digits, - and _, at most 40", Exit.USAGE)
    return name


def runtime_root(environ: Mapping[str, str] = os.environ) -> Path:
    """The directory with one folder a broker, private to this user."""
    base = environ.get("RSTREAM_RUN") or environ.get("TMPDIR") or "/tmp"
    return Path(base).absolute() / f"rstream-rabbitmq-{os.getuid()}"


def open_runtime_root(root: Path) -> None:
    """Create the runtime root, refusing one that another user has laid there for us."""
    while True:
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = root.lstat()
            break
        except VANISHED:
            if root.is_file() or root.is_symlink():
                raise Trouble(f"{root} is not a directory") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise Trouble(f"{root} is not a private directory of this user")


def free_ports(count: int, taken: set[int]) -> list[int]:
    """Choose ports that nobody listens on and no other broker of ours has claimed."""
    chosen: list[int] = []
    # Begin anywhere, so that two users of the machine rarely try the same ports at once.
    start = int.from_bytes(os.urandom(4), "big") % len(PORT_RANGE)
    for step in range(len(PORT_RANGE)):
        port = PORT_RANGE[(start + step) % len(PORT_RANGE)]
        if port not in taken and _can_listen(port):
            chosen.append(port)
            if len(chosen) == count:
                return chosen
    raise Trouble(f"no {count} free ports from {PORT_RANGE[0]} to {PORT_RANGE[-1]}")


def _can_listen(port: int) -> bool:
    # On all interfaces: a listener on any one of them makes the port unusable for epmd.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind(("", port))
            candidate.listen(1)
        except OSError:
            return False
    return True


def claimed_ports(root: Path) -> set[int]:
    """The ports of all brokers in the runtime root, up or not: a killed one comes back on its ports."""
    claimed: set[int] = set()
    for state in root.glob("*/state.json"):
        broker = load_broker(state.parent)
        if broker is None:
            continue
        claimed.add(broker.epmd_port)
        for node in broker.nodes:
            claimed.update(port for port in dataclasses.astuple(node.ports) if port is not None)
    return claimed


def claim_broker(root: Path, name: str, way: str, options: Options, node_names: Sequence[str]) -> Broker:
    """Choose ports for a new broker and put its state on disk, under one lock for all brokers of the user."""
    with locked(root / "ports.lock", "waiting for another broker to choose its ports"):
        per_node = 6 if options.tls else 4
        ports = free_ports(1 + per_node * len(node_names), claimed_ports(root))
        epmd_port = ports.pop()
        nodes = tuple(
            Node(index, node_name, Ports(*(ports.pop() for _ in range(per_node))))
            for index, node_name in enumerate(node_names)
        )
        directory = root / name
        directory.mkdir(mode=0o755)
        broker = Broker(name, directory, way, options, nodes, epmd_port)
        broker.save()
    return broker


def remove_directory(directory: Path) -> None:
    """Remove a broker's runtime directory."""
    if directory.exists():
        # Renamed first: a half-removed directory must never look like a broker.
        doomed = Path(tempfile.mkdtemp(prefix=".removing-", dir=directory.parent))
        directory.rename(doomed / directory.name)
    for leftover in directory.parent.glob(".removing-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def marked_processes(directory: Path, node: Node | None = None) -> dict[int, str]:
    """The living processes of a broker (or of one node of it): pid and program name."""
    of_node = () if node is None else (f"{NODE_MARKER}={node.index}",)
    return processes_with(f"{MARKER}={directory}", *of_node)


def remove_processes(directory: Path) -> None:
    """End every process that was started for this directory, even if nothing else is known of it."""
    kill_processes(lambda: list(marked_processes(directory)))
