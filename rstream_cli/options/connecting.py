"""The options that every connecting command takes.

``@connection_options`` gives a command function the options of "Connecting", ``-q``, ``-v`` and ``--color``. The
function's own signature has only one keyword argument ``connection`` for them. connection_settings.py interprets the
options; this module only declares them. The core is imported only when ``ConnectionSettings.options`` is read, so
``--help`` stays quick.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rstream_cli import terminal
from rstream_cli.environment import ColorChoice, Environment
from rstream_cli.exit_status import CommandError
from rstream_cli.names import check_stream_name
from rstream_cli.options.declaring import shared_options
from rstream_cli.project import Project, read_project
from rstream_cli.render.columns import fitting_stderr
from rstream_cli.typer_support import environment_of

if TYPE_CHECKING:
    from rstream_cli.connection_settings import Layer
    from rstream_cli.contexts import Chosen
    from rstream_cli.management.address import ManagementAddress
    from rstream_cli.management.api import ManagementApi
    from rstream_cli.passwords import PasswordSources
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

    context: Annotated[
        str | None,
        _connecting(
            "--context",
            "-c",
            metavar="CONTEXT",
            help="Use the settings of this context; see `rstream context --help`. Options are stronger, and the"
            " environment is weaker.",
        ),
    ] = None
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
            help="Run this command with sh, and take the first line of its output as the password, or token. It is run"
            " again for each connection, and before a token (JWT) expires. Without any password, a user name of your"
            " own makes the program ask on the terminal.",
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
            help="Log in with user and password (plain, the default), with the certificate of --cert (external), or"
            " with the password as a token (oauthbearer). RabbitMQ takes tokens with plain.",
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
            help="Tell on stderr of connections, nodes and where reading begins. -vv tells more, with tracebacks.",
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
    uses_contexts: bool = False
    """Whether the user's contexts have an effect: not for a command that does not connect, such as a broker."""
    project: Project = field(default_factory=Project)
    """What the file of a project says."""
    command: str = "rstream"
    """The command, such as ``rstream offset query``, which the broker's pages show as the connection name."""

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of settings, the strongest first. Raises ConfigurationError for a malformed URI.

        A context that the command line does not name is left out where options or variables give an address: neither
        its password nor the like may go there. Where the file of a project chooses the context, no password of the
        environment is used: whoever wrote that file must not choose where it goes.
        """
        from rstream_cli.connection_settings import context_layer

        context = self.context
        layers = list(self._said)
        if context is not None and context.is_of_project:
            why = f"{context.how} chose the context {context.name!r}; --context {context.name} uses both"
            layers[1] = replace(layers[1], withheld=why)
        if context is not None:
            layers.insert(1 if context.is_option else 2, context_layer(context.name, context.values))
        return tuple(layers)

    @cached_property
    def _said(self) -> tuple[Layer, Layer]:
        """The layers of the command line and of the environment."""
        from rstream_cli.connection_settings import command_line_layer, environment_layer

        options = {name: text for name, text in self.values.items() if name != "context"}
        return command_line_layer(options), environment_layer(self.env.variables)

    @property
    def gives_other_address(self) -> str | None:
        """The option or the variable that names an address; None where neither does."""
        return next((layer.label(name) for layer in self._said for name in ("uri", "host") if name in layer), None)

    @cached_property
    def context(self) -> Chosen | None:
        """The context of this run; None where there is none. Raises CommandError, and warns of a file that others read.

        None, too, where the layers leave it out.
        """
        from rstream_cli.connection_settings import CONTEXT_SETTINGS
        from rstream_cli.contexts import choose_context

        option = self.values.get("context")
        if not self.uses_contexts:
            return None
        if option is None and self.gives_other_address is not None:
            return None
        project = self.project
        of_project = None if project.context is None else (project.context, str(project.path))
        context = choose_context(option, self.env.variables, of_project, CONTEXT_SETTINGS)
        if context is not None and context.is_readable_by_others and _is_secret(context.values):
            self.warn(f"{context.path} holds secrets, and other users can read it: chmod 600 {context.path}")
        return context

    @cached_property
    def options(self) -> ConnectionOptions:
        """The core's options. Reads the password file and certificates; warns of ``--insecure``.

        May ask a person for the password, so it is first read where no event loop runs. Raises ConfigurationError,
        whose exit code is 2.
        """
        from rstream_cli.connection_settings import build_options

        return build_options(self.layers, connection_name=self.command, warn=self.warn, passwords=self._passwords)

    @property
    def _passwords(self) -> PasswordSources:
        from rstream_cli.passwords import PasswordSources

        return PasswordSources.of(self.env)

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
        from rstream_cli.connection_settings import build_tls
        from rstream_cli.management.api import open_api

        address = self.management_address()
        warn = self.warn if self.options.tls is None else None  # those options have warned already
        return open_api(self.options, address, lambda: build_tls(self.layers, warn))

    def management_address(self) -> ManagementAddress | None:
        """Returns the address of the management API that is given; None where it is the default one.

        Raises ConfigurationError, and ManagementUnavailable where the password of the stream connection is for
        another place.
        """
        from rstream_cli.connection_settings import foreign_management, management_uri
        from rstream_cli.management.address import parse_management_uri
        from rstream_cli.management.errors import ManagementUnavailable

        uri = management_uri(self.layers)
        address = None if uri is None else parse_management_uri(uri)
        label = foreign_management(self.layers)
        if address is not None and address.credentials is None and label is not None:
            raise ManagementUnavailable(
                f"the password is not sent to {address}: {label} does not stand where the broker's address or the"
                " password does",
                hint=f"pass --management-uri {address} if it is of the same broker, or write the API's own user and"
                " password into its address",
            )
        return address

    @property
    def gives_address(self) -> bool:
        """Whether the user has given the address of the broker."""
        from rstream_cli.connection_settings import gives_address

        return gives_address(self.layers)

    def stream(self, name: str | None) -> str:
        """Returns the stream: the argument, or the default one. Raises a usage error without either."""
        stream = self.default_stream if name is None else name
        if stream is None:
            raise CommandError("no stream is given", hint="pass STREAM, or set RSTREAM_STREAM")
        return check_stream_name(stream)

    @property
    def default_stream(self) -> str | None:
        """The stream where a command names none; see ``stream_and_place``."""
        return self.stream_and_place[0]

    @property
    def stream_and_place(self) -> tuple[str | None, str]:
        """The default stream, and where it comes from.

        The first of: ``--context``, RSTREAM_STREAM, the file of the project, the context in use.
        """
        context = self.context
        places = [(self.env.variable("RSTREAM_STREAM"), "RSTREAM_STREAM"), (self.project.stream, self.project.path)]
        if context is not None:
            of_context = context.values.get("stream"), f"stream of the context {context.name!r}"
            places.insert(0 if context.is_option else 2, of_context)
        return next(((stream, str(place)) for stream, place in places if stream is not None), (None, ""))

    def streams(self, names: Sequence[str] | None) -> list[str]:
        """Returns the streams, or the default one. Raises a usage error for one that is named twice."""
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
            self.env.stderr.write(fitting_stderr(terminal.line(line), self.env) + "\n")
            self.env.stderr.flush()
        except OSError:
            pass  # stderr is closed


def _is_secret(values: Mapping[str, str]) -> bool:
    from rstream_cli.effective import is_secret

    return is_secret(values)


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


def _settings_here(ctx: typer.Context, *groups: Any) -> ConnectionSettings:
    """The settings of a command that uses the file of a project. Raises CommandError for one that is not allowed."""
    settings = _settings(ctx, *groups)
    project = read_project()
    color, env = settings.color, settings.env
    if project.color is not None and color is ColorChoice.AUTO and not any(map(env.variable, _COLOR_VARIABLES)):
        color = project.color
    return replace(settings, uses_contexts=True, project=project, color=color)


_COLOR_VARIABLES = ("NO_COLOR", "FORCE_COLOR")
"""Stronger than the file of a project."""

connection_options = shared_options("connection", ConnectingOptions, GeneralOptions, make=_settings_here)
"""Gives a command the shared options; it receives them as ``connection: ConnectionSettings``."""
own_connection_options = shared_options("connection", ConnectingOptions, GeneralOptions, make=_settings)
"""The same for a command that writes the options down and does not connect: no file of a project has an effect."""
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
