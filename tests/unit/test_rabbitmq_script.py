"""The parts of scripts/rabbitmq that need no broker: what it reads, what it renders, what it refuses."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import SCRIPT, run_script

sys.path.insert(0, str(SCRIPT.parent))
config = importlib.import_module("_rabbitmq_config")
debian = importlib.import_module("_debian")
machine = importlib.import_module("_machine")
probe = importlib.import_module("_rabbitmq_probe")
state = importlib.import_module("_rabbitmq_state")
ways = importlib.import_module("_rabbitmq_ways")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment in which the script finds no state, no cache and no given broker."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RSTREAM_")}
    return {**kept, "RSTREAM_RUN": str(tmp_path / "run"), "RSTREAM_CACHE": str(tmp_path / "cache")}


def make_broker(directory: Path, options: Any = None, nodes: int = 1) -> Any:
    made = tuple(
        state.Node(i, f"rstream-x-{i}@localhost", state.Ports(20001 + i, 20011 + i, 20021 + i, 20031 + i))
        for i in range(nodes)
    )
    return state.Broker("x", directory, "chroot", options or state.Options(), made, 20000)


class TestMirror:
    """The Debian mirror is taken from this machine's apt configuration."""

    @staticmethod
    def find(
        tmp_path: Path, files: dict[str, str], os_release: str = "ID=debian\nVERSION_CODENAME=bookworm\n"
    ) -> object:
        apt = tmp_path / "apt"
        (apt / "sources.list.d").mkdir(parents=True)
        for name, content in files.items():
            (apt / name).write_text(content)
        (tmp_path / "os-release").write_text(os_release)
        return debian.find_mirror(apt, tmp_path / "os-release")

    def test_one_line_format(self, tmp_path: Path) -> None:
        lines = (
            "# deb http://old.example/debian bookworm main\n"
            "deb-src http://source.example/debian bookworm main\n"
            "deb [arch=amd64 signed-by=/x.gpg] https://mirror.example/debian/ bookworm main contrib # here\n"
        )
        assert self.find(tmp_path, {"sources.list": lines}) == "https://mirror.example/debian"

    def test_deb822_format(self, tmp_path: Path) -> None:
        stanzas = (
            "# a comment\nTypes: deb\nURIs: http://security.example/debian-security\n"
            "Suites: bookworm-security\nComponents: main\n\n"
            "Types: deb deb-src\nURIs: http://mirror.example/debian\n"
            "Suites: bookworm\n bookworm-updates\nComponents: main\nSigned-By: /x.gpg\n"
        )
        assert self.find(tmp_path, {"sources.list.d/debian.sources": stanzas}) == "http://mirror.example/debian"

    def test_disabled_stanza_is_left_out(self, tmp_path: Path) -> None:
        stanza = "Types: deb\nEnabled: no\nURIs: http://m.example/debian\nSuites: bookworm\nComponents: main\n"
        assert self.find(tmp_path, {"sources.list.d/debian.sources": stanza}) is None

    def test_third_parties_are_left_out(self, tmp_path: Path) -> None:
        lines = (
            "deb http://packages.example/charts stable main\n"
            "deb http://containers.example/linux/debian bookworm stable\n"
            "deb http://mirror.example/debian bookworm main\n"
        )
        assert self.find(tmp_path, {"sources.list.d/some.list": lines}) == "http://mirror.example/debian"

    def test_list_of_mirrors(self, tmp_path: Path) -> None:
        (tmp_path / "mirrors").write_text("# mirrors\nhttps://first.example/debian\nhttps://second.example/debian\n")
        line = f"deb mirror+file:{tmp_path}/mirrors bookworm main\n"
        assert self.find(tmp_path, {"sources.list": line}) == "https://first.example/debian"

    def test_medium_is_no_mirror(self, tmp_path: Path) -> None:
        assert self.find(tmp_path, {"sources.list": "deb cdrom:[Debian]/ bookworm main\n"}) is None

    def test_other_distribution(self, tmp_path: Path) -> None:
        line = "deb http://mirror.example/ubuntu noble main\n"
        assert self.find(tmp_path, {"sources.list": line}, "ID=ubuntu\nVERSION_CODENAME=noble\n") is None


class TestPorts:
    """Ports are free now, and not claimed by a broker that may come back on them."""

    def test_distinct_and_in_range(self) -> None:
        ports = state.free_ports(20, set())
        assert len(set(ports)) == 20
        assert set(ports) <= set(state.PORT_RANGE)

    def test_taken_and_listened_on_are_left_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            busy = listener.getsockname()[1]
            (free,) = state.free_ports(1, set())
            can_listen = state._can_listen
            # Others start brokers meanwhile, and may take the free one.
            monkeypatch.setattr(state, "_can_listen", lambda port: port == free or can_listen(port))
            monkeypatch.setattr(state, "PORT_RANGE", [busy, free])
            assert state.free_ports(1, set()) == [free]
            with pytest.raises(machine.Trouble, match="free ports"):
                state.free_ports(1, {free})

    def test_claimed_by_brokers_of_ours(self, tmp_path: Path) -> None:
        (tmp_path / "x").mkdir()
        make_broker(tmp_path / "x").save()
        assert state.claimed_ports(tmp_path) == {20000, 20001, 20011, 20021, 20031}


class TestState:
    """What one call writes is what the next one reads."""

    def test_round_trip(self, tmp_path: Path) -> None:
        options = state.Options(tls="/t", advertised_host="h", advertised_port=7, config=("a=b",))
        broker = make_broker(tmp_path, options, nodes=3)
        broker.save()
        assert state.load_broker(tmp_path) == broker

    def test_fields_of_another_version_are_left_out(self, tmp_path: Path) -> None:
        """Its brokers are looked at for their ports, whatever version runs them."""
        broker = make_broker(tmp_path)
        broker.save()
        record = json.loads((tmp_path / "state.json").read_text())
        record["later"] = record["options"]["later"] = record["nodes"][0]["ports"]["later"] = 1
        (tmp_path / "state.json").write_text(json.dumps(record))
        assert state.load_broker(tmp_path) == broker

    def test_nothing_there(self, tmp_path: Path) -> None:
        assert state.load_broker(tmp_path) is None

    @pytest.mark.parametrize("name", ["", "a/b", "..", "-a", "a b", "a" * 41])
    def test_names_that_are_none(self, name: str) -> None:
        with pytest.raises(machine.Trouble):
            state.check_name(name)

    def test_lock_excludes_and_leaves_nothing(self, tmp_path: Path) -> None:
        held: list[int] = []
        most: list[int] = []

        def work() -> None:
            with machine.locked(tmp_path / "run" / "x.lock", "waiting"):
                held.append(1)
                most.append(len(held))
                held.pop()

        threads = [threading.Thread(target=work) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most == [1] * 20
        assert not (tmp_path / "run").exists()

    def test_runtime_root_of_another_is_refused(self, tmp_path: Path) -> None:
        root = tmp_path / "root"
        root.mkdir()
        root.chmod(0o777)
        with pytest.raises(machine.Trouble, match="private"):
            state.open_runtime_root(root)

    def test_root_follows_the_environment(self) -> None:
        tail = f"rstream-rabbitmq-{os.getuid()}"
        assert state.runtime_root({}) == Path("/tmp") / tail
        assert state.runtime_root({"TMPDIR": "/t"}) == Path("/t") / tail
        assert state.runtime_root({"TMPDIR": "/t", "RSTREAM_RUN": "/r"}) == Path("/r") / tail

    def test_cache_follows_the_environment(self) -> None:
        assert debian.cache_root("rabbitmq", {"RSTREAM_CACHE": "/c", "XDG_CACHE_HOME": "/x"}) == Path("/c/rabbitmq")
        assert debian.cache_root("rabbitmq", {"XDG_CACHE_HOME": "/x"}) == Path("/x/rstream/rabbitmq")


class TestConfig:
    """What a node is told."""

    @staticmethod
    def render(certificates: str | None = None, extra: dict[str, str] | None = None, peers: int = 1) -> dict[str, str]:
        ports = state.Ports(20001, 20002, 20003, 20004, 20005 if certificates else None)
        node = state.Node(0, "rstream-x-0@localhost", ports)
        placement = config.Placement("127.0.0.1", ports, certificates)
        names = [f"rstream-x-{i}@localhost" for i in range(peers)]
        text = config.render_config(node, placement, extra or {}, names, ("h.example", 7))
        return dict(line.split(" = ", 1) for line in text.splitlines())

    def test_listens_on_loopback_and_advertises(self) -> None:
        settings = self.render()
        assert settings["stream.listeners.tcp.local"] == "127.0.0.1:20001"
        assert settings["listeners.tcp.local"] == "127.0.0.1:20002"
        assert (settings["management.tcp.ip"], settings["management.tcp.port"]) == ("127.0.0.1", "20003")
        assert (settings["stream.advertised_host"], settings["stream.advertised_port"]) == ("h.example", "7")
        assert not any("ssl" in key or "cluster" in key for key in settings)

    def test_limits_of_the_protocol_stay_the_defaults(self) -> None:
        assert not {"stream.frame_max", "stream.heartbeat"} & self.render().keys()

    def test_tls_verifies_but_asks_for_no_certificate(self) -> None:
        settings = self.render(certificates="/c")
        assert settings["stream.listeners.ssl.local"] == "127.0.0.1:20005"
        assert settings["ssl_options.cacertfile"] == "/c/ca.pem"
        assert settings["ssl_options.verify"] == "verify_peer"
        assert settings["ssl_options.fail_if_no_peer_cert"] == "false"

    def test_peers_find_each_other(self) -> None:
        settings = self.render(peers=3)
        assert settings["cluster_formation.peer_discovery_backend"] == "classic_config"
        assert settings["cluster_formation.classic_config.nodes.3"] == "rstream-x-2@localhost"

    def test_own_lines_win(self) -> None:
        settings = self.render(extra=config.parse_settings(["stream.heartbeat=5", "disk_free_limit.absolute = 1GB"]))
        assert settings["stream.heartbeat"] == "5"
        assert settings["disk_free_limit.absolute"] == "1GB"

    @pytest.mark.parametrize("line", ["", "key", "=value", "key=", "a b=c", "a=b\nc=d"])
    def test_lines_that_are_none(self, line: str) -> None:
        with pytest.raises(machine.Trouble, match="KEY=VALUE"):
            config.parse_settings([line])

    def test_environment_shares_nothing_with_another_rabbitmq(self, tmp_path: Path) -> None:
        broker = make_broker(tmp_path)
        environment = config.local_environment(broker, broker.nodes[0], "/state", is_server=True)
        assert environment["ERL_EPMD_PORT"] == "20000"
        assert environment["RABBITMQ_DIST_PORT"] == "20031"
        assert environment["HOME"].startswith("/state")
        for key in ("CONFIG_FILE", "ADVANCED_CONFIG_FILE", "ENABLED_PLUGINS_FILE", "MNESIA_BASE", "LOG_BASE"):
            assert environment[f"RABBITMQ_{key}"].startswith("/state/node0/")
        assert environment[state.MARKER] == str(tmp_path)

    def test_a_tool_is_not_taken_for_the_server(self, tmp_path: Path) -> None:
        broker = make_broker(tmp_path)
        environment = config.local_environment(broker, broker.nodes[0], "/state", is_server=False)
        assert state.NODE_MARKER not in environment


class TestProbe:
    """A listener is ready when it logs a client in, and in no other case."""

    @staticmethod
    @contextlib.contextmanager
    def server(*answers: bytes) -> Iterator[int]:
        """A server that gives one prepared answer to each frame it gets."""
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def serve() -> None:
                connection, _ = listener.accept()
                with connection:
                    for answer in answers:
                        connection.recv(4096)
                        connection.sendall(answer)

            thread = threading.Thread(target=serve)
            thread.start()
            try:
                yield listener.getsockname()[1]
            finally:
                thread.join(10)

    @staticmethod
    def frame(key: int, correlation: int, code: int, content: bytes = b"") -> bytes:
        body = struct.pack(">HHIH", key | 0x8000, 1, correlation, code) + content
        return struct.pack(">I", len(body)) + body

    def test_ready(self) -> None:
        properties = struct.pack(">i", 1) + b"\0\x07version\0\x054.3.6"
        answers = [self.frame(0x11, 1, 1, properties), self.frame(0x12, 2, 1), self.frame(0x13, 3, 1)]
        with self.server(*answers) as port:
            assert probe.log_in("127.0.0.1", port, 5) == "4.3.6"

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            (b"HTTP/1.1 400 Bad Request\r\n", "not a stream listener"),
            (struct.pack(">IHHIH", 10, 0x8012, 1, 1, 1), "0x8012"),
            (struct.pack(">IHHIH", 10, 0x8011, 1, 1, 15), "code 15"),
            (b"", "closed"),
        ],
    )
    def test_not_ready(self, answer: bytes, reason: str) -> None:
        with self.server(answer) as port, pytest.raises(probe.NotReady, match=reason):
            probe.log_in("127.0.0.1", port, 5)


class TestCommandLine:
    """Arguments that are wrong, and what needs no broker."""

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["nonsense"],
            ["up", "--release", "potato"],
            ["up", "--config", "nonsense"],
            ["up", "--tls", "/nowhere"],
            ["up", "--name", "a/b"],
            ["up", "--", "list_queues"],
            ["ctl"],
            ["cluster", "kill"],
        ],
    )
    def test_wrong_usage(self, arguments: list[str], environ: dict[str, str]) -> None:
        done = run_script(*arguments, environ=environ)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr

    @pytest.mark.parametrize(
        "arguments",
        [["status"], ["ctl", "--", "status"], ["logs"], ["kill"], ["start"], ["cluster", "stop", "0"]],
    )
    def test_not_up(self, arguments: list[str], environ: dict[str, str]) -> None:
        assert run_script(*arguments, environ=environ).returncode == 3
        assert not Path(environ["RSTREAM_RUN"]).exists() or not any(Path(environ["RSTREAM_RUN"]).iterdir())

    def test_down_of_nothing(self, environ: dict[str, str]) -> None:
        assert run_script("down", environ=environ).returncode == 0

    def test_no_way(self, environ: dict[str, str], tmp_path: Path) -> None:
        (tmp_path / "python3").symlink_to(sys.executable)
        (tmp_path / "env").symlink_to("/usr/bin/env")
        done = run_script("up", environ={**environ, "PATH": str(tmp_path), "RSTREAM_RABBITMQ_WAY": "docker"})
        assert done.returncode == 6
        assert len(done.stderr.splitlines()) == 1

    def test_given_broker(self, environ: dict[str, str]) -> None:
        given = {**environ, "RSTREAM_TEST_URI": "rabbitmq-stream://u:p@broker.example:5552/v"}
        assert run_script("up", environ=given).stdout == f"{given['RSTREAM_TEST_URI']}\n"
        status = run_script("status", "--json", environ=given)
        assert json.loads(status.stdout)["uris"] == [given["RSTREAM_TEST_URI"]]
        assert run_script("down", environ=given).returncode == 0
        assert run_script("kill", environ=given).returncode == 2

    def test_unknown_way(self, environ: dict[str, str]) -> None:
        assert run_script("up", environ={**environ, "RSTREAM_RABBITMQ_WAY": "boat"}).returncode == 2
