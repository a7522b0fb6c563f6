"""How a RabbitMQ node of ours is configured: the text of its files and its environment, and nothing else.

Pure functions: they touch neither disk nor network, so that tests can read what they render.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from _machine import Trouble
from _rabbitmq_state import LOOPBACK, MARKER, NODE_MARKER, Broker, Exit, Node, Ports

PLUGINS = ("rabbitmq_auth_mechanism_ssl", "rabbitmq_management", "rabbitmq_stream", "rabbitmq_stream_management")
"""The first one does nothing until `--config auth_mechanisms.1=EXTERNAL` asks for it. The last one takes no memory that
can be measured, and 0.3 s of a start."""

TOKEN_PLUGIN = "rabbitmq_auth_backend_oauth2"

# Enough for a test suite, small enough for three nodes on a laptop.
_SMALL = {
    "vm_memory_high_watermark.absolute": "1GB",
    "disk_free_limit.absolute": "50MB",
    "raft.wal_max_size_bytes": "67108864",
}


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a node runs: what it binds to, and where it finds its files. Differs by the way it is run."""

    bind: str
    ports: Ports
    certificates: str | None
    # The file of the public key that tokens are signed for; None: tokens are no passwords.
    token_key: str | None = None
    # Through a published container port a client's address is not the loopback one.
    guest_from_anywhere: bool = False


def render_config(
    node: Node,
    placement: Placement,
    options: Mapping[str, str],
    peers: Sequence[str],
    advertised: tuple[str, int],
) -> str:
    """The rabbitmq.conf of one node; `options` are the user's own lines and win over ours."""
    bind, ports = placement.bind, placement.ports
    host, port = advertised
    settings = {
        "listeners.tcp.local": f"{bind}:{ports.amqp}",
        "management.tcp.ip": bind,
        "management.tcp.port": str(ports.management),
        "stream.listeners.tcp.local": f"{bind}:{ports.stream}",
        "stream.advertised_host": host,
        "stream.advertised_port": str(port),
        **_SMALL,
    }
    if placement.guest_from_anywhere:
        settings["loopback_users"] = "none"
    if placement.certificates is not None:
        settings |= {
            "stream.listeners.ssl.local": f"{bind}:{ports.stream_tls}",
            "stream.advertised_tls_host": host,
            "stream.advertised_tls_port": str(node.ports.stream_tls),
            "management.ssl.ip": bind,
            "management.ssl.port": str(ports.management_tls),
            "management.ssl.cacertfile": f"{placement.certificates}/ca.pem",
            "management.ssl.certfile": f"{placement.certificates}/cert.pem",
            "management.ssl.keyfile": f"{placement.certificates}/key.pem",
            "ssl_options.cacertfile": f"{placement.certificates}/ca.pem",
            "ssl_options.certfile": f"{placement.certificates}/cert.pem",
            "ssl_options.keyfile": f"{placement.certificates}/key.pem",
            "ssl_options.verify": "verify_peer",
            "ssl_options.fail_if_no_peer_cert": "false",
        }
    if placement.token_key is not None:
        settings |= {
            "auth_backends.1": "internal",
            "auth_backends.2": "rabbit_auth_backend_oauth2",
            "auth_oauth2.resource_server_id": "rabbitmq",
            "auth_oauth2.default_key": "tests",
            "auth_oauth2.signing_keys.tests": placement.token_key,
        }
    if len(peers) > 1:
        settings["cluster_formation.peer_discovery_backend"] = "classic_config"
        for number, peer in enumerate(peers, 1):
            settings[f"cluster_formation.classic_config.nodes.{number}"] = peer
    settings.update(options)
    return "".join(f"{key} = {value}\n" for key, value in settings.items())


def render_plugins(*, has_tokens: bool = False) -> str:
    """The enabled_plugins file: an Erlang term."""
    return f"[{','.join((*PLUGINS, TOKEN_PLUGIN) if has_tokens else PLUGINS)}].\n"


def parse_settings(lines: Iterable[str]) -> dict[str, str]:
    """The user's `--config KEY=VALUE` lines; a later one of the same key wins."""
    settings: dict[str, str] = {}
    for line in lines:
        key, equals, value = line.partition("=")
        key, value = key.strip(), value.strip()
        if not equals or not key or not value or any(c.isspace() for c in key) or "\n" in value:
            raise Trouble(f"--config takes KEY=VALUE, not {line!r}", Exit.USAGE)
        settings[key] = value
    return settings


def local_environment(broker: Broker, node: Node, state: str, is_server: bool) -> dict[str, str]:
    """The whole environment of a server or of a tool that runs beside it on this machine.

    `state` is the broker's runtime directory as that process sees it. Everything a user's own RabbitMQ on the
    same machine would share is set apart: epmd, cookie, configuration files, data, distribution ports.
    """
    home = f"{state}/node{node.index}"
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": f"{state}/home",
        MARKER: str(broker.directory),
        "ERL_EPMD_PORT": str(broker.epmd_port),
        "ERL_EPMD_ADDRESS": LOOPBACK,
        "ERL_CRASH_DUMP": f"{home}/log/erl_crash.dump",
        "RABBITMQ_NODENAME": node.name,
        "RABBITMQ_CONF_ENV_FILE": f"{home}/rabbitmq-env.conf",
        "RABBITMQ_CONFIG_FILE": f"{home}/rabbitmq.conf",
        "RABBITMQ_CONFIG_FILES": f"{home}/conf.d/*.conf",
        "RABBITMQ_ADVANCED_CONFIG_FILE": f"{home}/advanced.config",
        "RABBITMQ_ENABLED_PLUGINS_FILE": f"{home}/enabled_plugins",
        "RABBITMQ_MNESIA_BASE": f"{home}/data",
        "RABBITMQ_LOG_BASE": f"{home}/log",
        "RABBITMQ_PID_FILE": f"{home}/pid",
        "RABBITMQ_DIST_PORT": str(node.ports.dist),
        "RABBITMQ_CTL_DIST_PORT_MIN": "35672",
        # The default leaves ten ports, so an eleventh tool at the same time would fail.
        "RABBITMQ_CTL_DIST_PORT_MAX": "36671",
        "RABBITMQ_CTL_ERL_ARGS": _LOOPBACK_ONLY,
    }
    if is_server:
        environment[NODE_MARKER] = str(node.index)
        environment["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"] = f"+S 2:2 {_LOOPBACK_ONLY}"
    return environment


# A term without spaces and quotes: the server's start script splits this string at blanks.
_LOOPBACK_ONLY = "-kernel inet_dist_use_interface {127,0,0,1}"
