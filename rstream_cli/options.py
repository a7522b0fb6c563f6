"""The options that every connecting command takes, declared once.

``@connection_options`` gives a command function the options of "Connecting", ``-q``, ``-v`` and ``--color``
without a word in its own signature: the function takes one keyword argument ``connection``. What the options
mean is in connection_settings.py; here is only how they are written. Nothing of the core is imported until
``ConnectionSettings.options`` is asked for, so ``--help`` stays quick.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from rstream_cli import terminal
from rstream_cli.environment import ColorChoice, Environment
from rstream_cli.exit_status import CommandError
from rstream_cli.typer_support import with_signature

if TYPE_CHECKING:
    from rstream_cli.connection_settings import Layer
    from rstream_core.recovery import Recovery
    from rstream_core.types import ConnectionOptions

T = TypeVar("T")

CONNECTING = "Connecting"
"""The help panel of the connection options."""
OUTPUT = "Messages and colours"
"""The help panel of ``-q``, ``-v`` and ``--color``."""


def _connecting(*flags: str, metavar: str | None = None, help: str) -> Any:  # noqa: A002 - Typer's own word
    return typer.Option(*flags, metavar=metavar, help=help, rich_help_panel=CONNECTING, show_default=False)


def _output(*flags: str, **settings: Any) -> Any:
    return typer.Option(*flags, rich_help_panel=OUTPUT, **settings)


_CONNECTION: tuple[tuple[str, Any, Any], ...] = (
    (
        "uri",
        list[str] | None,
        _connecting(
            "--uri",
            "-u",
            metavar="URI",
            help="rabbitmq-stream://user:pass@host:5552/vhost, or rabbitmq-stream+tls://…; repeat it for"
            " several seed nodes.",
        ),
    ),
    ("host", str | None, _connecting("--host", metavar="HOST", help="Host of the broker.")),
    (
        "port",
        str | None,
        _connecting("--port", metavar="PORT", help="Its stream port: 5552, or 5551 with TLS."),
    ),
    ("vhost", str | None, _connecting("--vhost", metavar="VHOST", help="Virtual host: / by default.")),
    ("username", str | None, _connecting("--username", metavar="USER", help="User: guest by default.")),
    (
        "password_file",
        str | None,
        _connecting(
            "--password-file",
            metavar="FILE",
            help="The password is this file's first line; or set RSTREAM_PASSWORD.",
        ),
    ),
    (
        "tls",
        bool | None,
        _connecting("--tls/--no-tls", help="Connect with TLS; certificates are verified."),
    ),
    (
        "ca_file",
        str | None,
        _connecting("--ca-file", metavar="FILE", help="Trust these authorities, not the system's."),
    ),
    ("cert", str | None, _connecting("--cert", metavar="FILE", help="Client certificate, PEM.")),
    (
        "key",
        str | None,
        _connecting("--cert-key", "--key", metavar="FILE", help="Its key, where --cert does not hold it."),
    ),
    (
        "server_name",
        str | None,
        _connecting("--server-name", metavar="NAME", help="The name that the broker's certificate holds."),
    ),
    (
        "insecure",
        bool | None,
        _connecting("--insecure", help="Accept any certificate. Anyone between can then read the password."),
    ),
    (
        "sasl",
        str | None,
        _connecting("--sasl", metavar="HOW", help="plain (the default), or external: --cert says who you are."),
    ),
    (
        "load_balancer",
        bool | None,
        _connecting(
            "--load-balancer",
            help="Reach every node through the given address, as behind a load balancer.",
        ),
    ),
    (
        "connect_timeout",
        str | None,
        _connecting("--connect-timeout", metavar="DURATION", help="For one connection: 10s by default."),
    ),
    (
        "heartbeat",
        str | None,
        _connecting(
            "--heartbeat", metavar="DURATION", help="10s by default; two without a sign are an outage. 0: none."
        ),
    ),
    (
        "recover_for",
        str | None,
        _connecting(
            "--recover-for",
            metavar="DURATION",
            help="After a lost connection, try again for so long: 60s by default; 0: not at all.",
        ),
    ),
)

_GENERAL: tuple[tuple[str, Any, Any, Any], ...] = (
    ("quiet", bool, _output("--quiet", "-q", help="No messages but errors and warnings."), False),
    (
        "verbose",
        int,
        _output(
            "--verbose",
            "-v",
            count=True,
            show_default=False,
            help="Log to stderr; -vv logs more and shows tracebacks.",
        ),
        0,
    ),
    ("color", ColorChoice, _output("--color", help="When to colour."), ColorChoice.AUTO),
)

_VERBOSITY = "rstream.verbosity"


@dataclass(frozen=True)
class ConnectionSettings:
    """What the shared options of one command said, with the environment they were said in."""

    env: Environment
    values: Mapping[str, str] = field(default_factory=dict)
    """Connection settings of the command line, by name; see connection_settings.SETTINGS."""
    verbosity: int = 0
    """How many ``-v``: 1 logs, 2 logs more and shows tracebacks."""
    quiet: bool = False
    color: ColorChoice = ColorChoice.AUTO
    command: str = "rstream"
    """The command's words, such as ``rstream offset query``; the broker's pages show it."""

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Where settings come from, the strongest first. Raises ConfigurationError for a malformed URI."""
        from rstream_cli.connection_settings import command_line_layer, environment_layer

        return command_line_layer(self.values), environment_layer(self.env.variables)

    @cached_property
    def options(self) -> ConnectionOptions:
        """The core's options. Reads the password file and certificates; warns of ``--insecure``.

        Raises ConfigurationError, whose exit code is 2.
        """
        from rstream_cli.connection_settings import build_options

        return build_options(self.layers, connection_name=self.command, warn=self.warn)

    @cached_property
    def recovery(self) -> Recovery | None:
        """How long to go on after a lost connection. Raises ConfigurationError."""
        from rstream_cli.connection_settings import build_recovery

        return build_recovery(self.layers)

    @property
    def gives_address(self) -> bool:
        """Whether the user said where the broker is."""
        from rstream_cli.connection_settings import gives_address

        return gives_address(self.layers)

    def stream(self, name: str | None) -> str:
        """The stream to work on: the argument, else RSTREAM_STREAM, else a usage error."""
        stream = self.env.variable("RSTREAM_STREAM") if name is None else name
        if stream is None:
            raise CommandError("no stream is named", hint="give STREAM, or set RSTREAM_STREAM")
        return check_stream_name(stream)

    def warn(self, line: str) -> None:
        """Writes a line to stderr, also with ``-q``."""
        self._write(line)

    def tell(self, line: str) -> None:
        """Writes a line to stderr for a person: only on a terminal, and not with ``-q``."""
        if self.env.stderr_is_tty and not self.quiet:
            self._write(line)

    def _write(self, line: str) -> None:
        try:
            self.env.stderr.write(terminal.line(line) + "\n")
            self.env.stderr.flush()
        except OSError:
            pass  # nobody is there to read it


def check_stream_name(name: str) -> str:
    """The name, where it can be one of a stream or a reference: 1 to 255 bytes of UTF-8. Else a usage error."""
    return _check_name("stream name", name)


def check_reference(name: str) -> str:
    """The name, where it can be a reference: 1 to 255 bytes of UTF-8. Else a usage error."""
    return _check_name("reference (--name)", name)


_URI = re.compile(r"\s*(?:(?:rabbitmq-stream(?:\+tls)?|amqps?)://|[a-z][a-z0-9+.-]*://[^/]*@)", re.IGNORECASE)


def check_no_uri(what: str, text: str) -> None:
    """A usage error for the address of a broker where it does not belong. It may hold a password, and is not shown."""
    if _URI.match(text):
        raise CommandError(
            f"the {what} is a URI", hint="the address of a broker goes behind --uri, or into RSTREAM_URI"
        )


def _check_name(what: str, name: str) -> str:
    check_no_uri(what, name)
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise CommandError(f"the {what} is not UTF-8") from None
    if not name:
        raise CommandError(f"the {what} is empty")
    if size > 255:
        raise CommandError(f"the {what} has {size} bytes; 255 is the limit")
    return name


def connection_options(function: Callable[..., T]) -> Callable[..., T]:
    """Gives a command the shared options; it receives them as ``connection: ConnectionSettings``.

    The function's own parameters stay what they are and come first in the help; a flag that one of them has is theirs
    (``--key``, which is ``--cert-key`` too). To be put under ``@app.command(...)``.
    """
    return _with_options(function, _CONNECTION)


def general_options(function: Callable[..., T]) -> Callable[..., T]:
    """As ``connection_options``, for a command that connects to nothing: ``-q``, ``-v`` and ``--color`` alone."""
    return _with_options(function, ())


def _with_options(function: Callable[..., T], connecting: tuple[tuple[str, Any, Any], ...]) -> Callable[..., T]:
    own = inspect.signature(function, eval_str=True)
    if "connection" not in own.parameters:
        raise TypeError(f"{function.__qualname__} takes no connection")
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [p.replace(kind=keyword) for name, p in own.parameters.items() if name != "connection"]
    taken = {flag for p in parameters for flag in _flags(p)}
    added = [
        inspect.Parameter(name, keyword, annotation=Annotated[kind, _without(option, taken)], default=None)
        for name, kind, option in connecting
    ]
    added += [
        inspect.Parameter(name, keyword, annotation=Annotated[kind, option], default=default)
        for name, kind, option, default in _GENERAL
    ]
    context = inspect.Parameter("ctx", keyword, annotation=typer.Context)

    def command(**given: Any) -> T:
        ctx: typer.Context = given.pop("ctx")
        said = {name: given.pop(name) for name, *_ in connecting}
        ctx.meta[_VERBOSITY] = given["verbose"]
        connection = ConnectionSettings(
            env=ctx.obj if isinstance(ctx.obj, Environment) else Environment.of_process(),
            values={name: text for name, value in said.items() if (text := _text(value)) is not None},
            verbosity=given.pop("verbose"),
            quiet=given.pop("quiet"),
            color=given.pop("color"),
            command=ctx.command_path,
        )
        return function(**given, connection=connection)

    return with_signature(command, function, inspect.Signature([context, *parameters, *added]))


def _flags(parameter: inspect.Parameter) -> Iterator[str]:
    """The flags that a parameter declares, such as ``--key``."""
    for info in getattr(parameter.annotation, "__metadata__", ()):
        yield from _declared(info)


def _declared(option: Any) -> list[str]:
    """Typer keeps the first flag where a default would be: in ``Annotated`` there is none."""
    return [flag for flag in (option.default, *(option.param_decls or ())) if isinstance(flag, str)]


def _without(option: Any, taken: set[str]) -> Any:
    """The option without the flags that others have."""
    flags = [flag for flag in _declared(option) if flag not in taken]
    if flags == _declared(option):
        return option
    option = copy.copy(option)
    option.default, *rest = flags
    option.param_decls = tuple(rest)
    return option


def verbosity_of(context: typer.Context) -> int:
    """How many ``-v`` the command that ran in this context, or below it, was given."""
    return int(context.meta.get(_VERBOSITY, 0))


def _text(value: bool | str | list[str] | None) -> str | None:
    """One text for what an option gave; None where it was not given."""
    if value is None or value == []:
        return None
    if isinstance(value, list):
        return "\n".join(value)
    return value if isinstance(value, str) else ("yes" if value else "no")
