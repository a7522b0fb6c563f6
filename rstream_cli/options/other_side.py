"""The options of a command that works on two sides: how to reach the second one, where it is not the first one.

The first side has the options of ``connecting``. What they and the environment say of an address, a user or a password
is of that side alone, and never goes to the other. How patient a run is (``BOTH``) holds for both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rstream_cli.exit_status import CommandError
from rstream_cli.options.connecting import ConnectionSettings
from rstream_cli.project import Project

if TYPE_CHECKING:
    from rstream_cli.connection_settings import Layer
    from rstream_cli.passwords import PasswordSources

PANEL = "The other side"
"""The help panel of these options."""
PASSWORD = "RSTREAM_TO_PASSWORD"  # noqa: S105 - the name of a variable
BOTH = frozenset({"connect_timeout", "heartbeat", "frame_max", "wait_for_broker", "recover_for"})
"""The settings of the first side, as options or variables, that hold for the other one too."""
_WAYS = f"pass --to-password-file FILE, set {PASSWORD}, or pass --to-context CONTEXT"


def _option(flag: str, metavar: str, help: str) -> Any:  # noqa: A002 - Typer's own word
    return typer.Option(flag, metavar=metavar, help=help, rich_help_panel=PANEL, show_default=False)


@dataclass(frozen=True)
class OtherSideOptions:
    """How to reach the other side; ``other_side`` reads them."""

    to_context: Annotated[
        str | None,
        _option(
            "--to-context",
            "CONTEXT",
            "Reach the second stream with the settings of this context (default: as the first one).",
        ),
    ] = None
    to_uri: Annotated[
        str | None,
        _option(
            "--to-uri",
            "URI",
            "Reach the second stream at this address: rabbitmq-stream://user@host:5552/vhost, without a password."
            " Several seed nodes are separated by commas. For certificates of your own use --to-context.",
        ),
    ] = None
    to_password_file: Annotated[
        str | None,
        _option(
            "--to-password-file",
            "FILE",
            "Read the password for the other side from the first line of this file. The variable RSTREAM_TO_PASSWORD"
            " can hold it instead.",
        ),
    ] = None


def other_side(connection: ConnectionSettings, options: OtherSideOptions) -> ConnectionSettings | None:
    """Returns the settings of the other side; None where it is reached as the first one.

    Raises CommandError for options that do not go together. The address and the context are read with the first use
    of the settings.
    """
    if options.to_context is not None and options.to_uri is not None:
        raise CommandError("--to-context and --to-uri contradict each other")
    if options.to_context is None and options.to_uri is None:
        if options.to_password_file is not None:
            raise CommandError("--to-password-file needs --to-uri or --to-context")
        return None
    own = {"context": options.to_context, "uri": options.to_uri, "password_file": options.to_password_file}
    kept = {name: text for name, text in connection.values.items() if name in BOTH}
    values = kept | {name: text for name, text in own.items() if text is not None}
    both = {name: getattr(connection, name) for name in ("env", "verbosity", "quiet", "color", "command")}
    return OtherSide(**both, values=values, uses_contexts=True, project=Project())


@dataclass(frozen=True)
class OtherSide(ConnectionSettings):
    """The settings of the other side."""

    @cached_property
    def _said(self) -> tuple[Layer, Layer]:
        from rstream_cli.connection_settings import command_line_layer, environment_layer

        options = {name: text for name, text in self.values.items() if name != "context"}
        line = command_line_layer(options, label=_flag)
        if any(uri.password is not None for uri in line.uris):
            raise CommandError(
                "--to-uri holds a password, which the list of processes shows",
                hint=f"leave it out of the URI, and pass --to-password-file FILE, or set {PASSWORD}",
            )
        variables = {f"RSTREAM_{name.upper()}" for name in BOTH}
        found = {name: text for name, text in self.env.variables.items() if name in variables}
        if password := self.env.variables.get(PASSWORD):
            found["RSTREAM_PASSWORD"] = password
        return line, replace(environment_layer(found), label=_variable)

    @property
    def _passwords(self) -> PasswordSources:
        return replace(super()._passwords, ways=_WAYS)


def _flag(name: str) -> str:
    return ("--" if name in BOTH else "--to-") + name.replace("_", "-")


def _variable(name: str) -> str:
    return ("RSTREAM_" if name in BOTH else "RSTREAM_TO_") + name.upper()
