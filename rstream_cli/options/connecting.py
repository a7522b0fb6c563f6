"""The options that every connecting command takes.

``@connection_options`` gives a command function the options of "Connecting", ``-q``, ``-v`` and ``--color``. The
function's own signature has only one keyword argument ``connection`` for them. connection_settings.py interprets the
options; this module only declares them. The core is imported only when ``ConnectionSettings.options`` is read, so
``--help`` stays quick.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rstream_cli import terminal
from rstream_cli.environment import ColorChoice, Environment
from rstream_cli.exit_status import CommandError
from rstream_cli.names import check_stream_name
from rstream_cli.options.declaring import shared_options
from rstream_cli.typer_support import environment_of

if TYPE_CHECKING:
    from rstream_cli.connection_settings import Layer
    from rstream_cli.management.api import ManagementApi
    from rstream_core.connecting.recovery import Recovery
    from rstream_core.types import ConnectionOptions

CONNECTING = "Connecting"
"""The help panel of the connection options."""
OUTPUT = "Messages and colours"
"""The help panel of ``-q``, ``-v`` and ``--color``."""


def _connecting(*flags: str, metavar: str | None = None, help: str) -> Any:  # noqa: A002 - Typer's own word
    return typer.Option(*flags, metavar=metavar, help=help, rich_help_panel=CONNECTING, show_default=False)


def _output(*flags: str, **settings: Any) -> Any:
    return typer.Option(*flags, rich_help_panel=OUTPUT, **settings)


@dataclass(frozen=True)
class ConnectingOptions:
    """How to reach the broker: each is one of connection_settings.SETTINGS, and may be given in other ways too."""

    uri: Annotated[
        list[str] | None,
        _connecting(
            "--uri",
            "-u",
            metavar="URI",
            help="Connect to this address: rabbitmq-stream://user:pass@host:5552/vhost, or rabbitmq-stream+tls://…"
            " for TLS. Repeat the option to name several seed nodes.",
        ),
    ] = None
    host: Annotated[
        str | None, _connecting("--host", metavar="HOST", help="Connect to this host (default: localhost).")
    ] = None
    port: Annotated[
        str | None, _connecting("--port", metavar="PORT", help="Connect to this port (default: 5552, with TLS 5551).")
    ] = None
    vhost: Annotated[
        str | None, _connecting("--vhost", metavar="VHOST", help="Use this virtual host (default: /).")
    ] = None
    username: Annotated[
        str | None, _connecting("--username", metavar="USER", help="Log in as this user (default: guest).")
    ] = None
    password_file: Annotated[
        str | None,
        _connecting(
            "--password-file",
            metavar="FILE",
            help="Read the password from the first line of this file. The variable RSTREAM_PASSWORD can hold it"
            " instead.",
        ),
    ] = None
    password_command: Annotated[
        str | None,
        _connecting(
            "--password-command",
            metavar="CMD",
            help="Run this command with sh, and take the first line of its output as the password. It is run again for"
            " each connection. Without any password, a user name of your own makes the program ask on the terminal.",
        ),
    ] = None
    tls: Annotated[
        bool | None, _connecting("--tls/--no-tls", help="Connect with TLS, and verify the broker's certificate.")
    ] = None
    ca_file: Annotated[
        str | None,
        _connecting(
            "--ca-file", metavar="FILE", help="Trust the certificate authorities in this file instead of the system's."
        ),
    ] = None
    cert: Annotated[
        str | None, _connecting("--cert", metavar="FILE", help="Show this client certificate (PEM) to the broker.")
    ] = None
    cert_key: Annotated[
        str | None,
        _connecting(
            "--cert-key",
            metavar="FILE",
            help="Read the key of --cert from this file. Without it, the file of --cert must hold the key.",
        ),
    ] = None
    key: Annotated[str | None, typer.Option("--key", metavar="FILE", hidden=True)] = None
    """The old name of ``--cert-key``. The routing key has it now."""
    server_name: Annotated[
        str | None,
        _connecting(
            "--server-name", metavar="NAME", help="Expect this name in the broker's certificate (default: the host)."
        ),
    ] = None
    insecure: Annotated[
        bool | None,
        _connecting(
            "--insecure", help="Accept any certificate. An attacker on the network can then read the password."
        ),
    ] = None
    sasl: Annotated[
        str | None,
        _connecting(
            "--sasl",
            metavar="HOW",
            help="Log in with user and password (plain, the default), or with the certificate of --cert (external).",
        ),
    ] = None
    load_balancer: Annotated[
        bool | None,
        _connecting(
            "--load-balancer",
            help="Reach every node through the given address. A load balancer in front of the nodes needs this.",
        ),
    ] = None
    connect_timeout: Annotated[
        str | None,
        _connecting(
            "--connect-timeout",
            metavar="DURATION",
            help="Give up on a connection that is not open after this time (default: 10s).",
        ),
    ] = None
    heartbeat: Annotated[
        str | None,
        _connecting(
            "--heartbeat",
            metavar="DURATION",
            help="Exchange a heartbeat this often (default: 10s). After two intervals without a sign of the broker,"
            " the connection counts as lost. 0 turns heartbeats off.",
        ),
    ] = None
    frame_max: Annotated[
        str | None,
        _connecting(
            "--frame-max",
            metavar="SIZE",
            help="Send no frame larger than this (default: 1MiB; at least 1000 bytes). The broker may ask for smaller"
            " ones. 0 sets no limit.",
        ),
    ] = None
    wait_for_broker: Annotated[
        str | None,
        _connecting(
            "--wait-for-broker",
            metavar="DURATION",
            help="Try the first connection again for this long. Use it for a broker that starts at the same time.",
        ),
    ] = None
    recover_for: Annotated[
        str | None,
        _connecting(
            "--recover-for",
            metavar="DURATION",
            help="After a lost connection, try again for this long (default: 60s). 0 turns recovery off.",
        ),
    ] = None
    management_uri: Annotated[
        str | None,
        _connecting(
            "--management-uri",
            metavar="URI",
            help="Ask RabbitMQ's management API at this address for what the stream protocol cannot tell (default:"
            " https on port 15671 of the broker, without TLS http on port 15672, on this machine only).",
        ),
    ] = None


@dataclass(frozen=True)
class GeneralOptions:
    """The options that every command has."""

    quiet: Annotated[bool, _output("--quiet", "-q", help="Write only errors and warnings to stderr.")] = False
    verbose: Annotated[
        int,
        _output(
            "--verbose",
            "-v",
            count=True,
            show_default=False,
            help="Write a log to stderr. -vv logs more and shows tracebacks.",
        ),
    ] = 0
    color: Annotated[
        ColorChoice, _output("--color", help="Use colours always, never, or where the output is a terminal (auto).")
    ] = ColorChoice.AUTO


_VERBOSITY = "rstream.verbosity"


@dataclass(frozen=True)
class ConnectionSettings:
    """The values of the shared options of one command, with its environment."""

    env: Environment
    values: Mapping[str, str] = field(default_factory=dict)
    """Connection settings of the command line, by name; see connection_settings.SETTINGS."""
    verbosity: int = 0
    """The number of ``-v``: 1 logs, 2 logs more and shows tracebacks."""
    quiet: bool = False
    color: ColorChoice = ColorChoice.AUTO
    command: str = "rstream"
    """The command, such as ``rstream offset query``, which the broker's pages show as the connection name."""

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of settings, the strongest first. Raises ConfigurationError for a malformed URI."""
        from rstream_cli.connection_settings import command_line_layer, environment_layer

        return command_line_layer(self.values), environment_layer(self.env.variables)

    @cached_property
    def options(self) -> ConnectionOptions:
        """The core's options. Reads the password file and certificates; warns of ``--insecure``.

        May ask a person for the password, so it is first read where no event loop runs. Raises ConfigurationError,
        whose exit code is 2.
        """
        from rstream_cli.connection_settings import build_options
        from rstream_cli.passwords import PasswordSources

        passwords = PasswordSources.of(self.env)
        return build_options(self.layers, connection_name=self.command, warn=self.warn, passwords=passwords)

    @cached_property
    def recovery(self) -> Recovery | None:
        """The recovery policy; None for no recovery. Raises ConfigurationError."""
        from rstream_cli.connection_settings import build_recovery

        return build_recovery(self.layers)

    @cached_property
    def wait_for_broker(self) -> float:
        """Seconds in which the first connection is tried again. Raises ConfigurationError."""
        from rstream_cli.connection_settings import build_wait

        return build_wait(self.layers)

    def management(self) -> ManagementApi:
        """Returns the client of the management API, to be closed. It connects with the first request.

        Raises ConfigurationError, and ManagementUnavailable where no password may be sent.
        """
        from rstream_cli.connection_settings import build_tls, management_uri
        from rstream_cli.management.address import parse_management_uri
        from rstream_cli.management.api import open_api

        uri = management_uri(self.layers)
        warn = self.warn if self.options.tls is None else None  # those options have warned already
        return open_api(
            self.options, None if uri is None else parse_management_uri(uri), lambda: build_tls(self.layers, warn)
        )

    @property
    def gives_address(self) -> bool:
        """Whether the user has given the address of the broker."""
        from rstream_cli.connection_settings import gives_address

        return gives_address(self.layers)

    def stream(self, name: str | None) -> str:
        """Returns the stream: the argument, or RSTREAM_STREAM. Raises a usage error without either."""
        stream = self.env.variable("RSTREAM_STREAM") if name is None else name
        if stream is None:
            raise CommandError("no stream is given", hint="pass STREAM, or set RSTREAM_STREAM")
        return check_stream_name(stream)

    def streams(self, names: Sequence[str] | None) -> list[str]:
        """Returns the streams, or the one of RSTREAM_STREAM. Raises a usage error for one that is named twice."""
        if not names:
            return [self.stream(None)]
        for name in names:
            check_stream_name(name)
            if names.count(name) > 1:
                raise CommandError(f"the stream {name!r} is named twice", hint="name each stream once")
        return list(names)

    def warn(self, words: str) -> None:
        """Writes a warning to stderr, also with ``-q``."""
        self._write(f"warning: {words}")

    def tell(self, line: str) -> None:
        """Writes a line to stderr for a person: only on a terminal, and not with ``-q``."""
        if self.env.stderr_is_tty and not self.quiet:
            self._write(line)

    def _write(self, line: str) -> None:
        try:
            self.env.stderr.write(terminal.line(line) + "\n")
            self.env.stderr.flush()
        except OSError:
            pass  # stderr is closed


def _settings(ctx: typer.Context, *groups: Any) -> ConnectionSettings:
    *connecting, general = groups
    said = {name: value for group in connecting for name, value in vars(group).items()}
    ctx.meta[_VERBOSITY] = general.verbose
    return ConnectionSettings(
        env=environment_of(ctx),
        values={name: text for name, value in said.items() if (text := _text(value)) is not None},
        verbosity=general.verbose,
        quiet=general.quiet,
        color=general.color,
        command=ctx.command_path,
    )


connection_options = shared_options("connection", ConnectingOptions, GeneralOptions, make=_settings)
"""Gives a command the shared options; it receives them as ``connection: ConnectionSettings``."""
general_options = shared_options("connection", GeneralOptions, make=_settings)
"""Gives a command that does not connect only ``-q``, ``-v`` and ``--color``, as ``connection``."""


def verbosity_of(context: typer.Context) -> int:
    """Returns the number of ``-v`` of the command that ran in this context or below it."""
    return int(context.meta.get(_VERBOSITY, 0))


def _text(value: bool | str | list[str] | None) -> str | None:
    """Returns the value of an option as one text; None where it was not given."""
    if value is None or value == []:
        return None
    if isinstance(value, list):
        return "\n".join(value)
    return value if isinstance(value, str) else ("yes" if value else "no")
