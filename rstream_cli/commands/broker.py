"""``rstream broker``: the embedded broker in the foreground.

stdout gets one line, the URI, when it listens; everything else goes to stderr.
"""

from __future__ import annotations

import enum
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rstream_cli.ended import Ended
from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.options.connecting import ConnectionSettings, general_options
from rstream_cli.runner import CommandContext, run_command, tell_warnings
from rstream_cli.typer_support import Command, new_app

if TYPE_CHECKING:
    import ssl

app = new_app(
    "Run an embedded broker for development and tests.",
    examples="""
rstream broker run
rstream broker run --data ./streams --user alice:secret
""",
)

PLAIN_PORT, TLS_PORT = 5552, 5551


class FsyncMode(enum.StrEnum):
    """The values of ``--fsync``."""

    ALWAYS = "always"
    INTERVAL = "interval"
    NEVER = "never"


@app.callback()
def broker() -> None:
    """Run an embedded broker for development and tests.

    It speaks the stream protocol of RabbitMQ 4.3. Use RabbitMQ for production.
    """


@app.command(
    cls=Command,
    epilog="""
rstream broker run
rstream broker run --data ./streams --user alice:secret --fsync always
rstream broker run --management-port 15672
rstream broker run --host 0.0.0.0 --user alice:secret --tls-cert cert.pem --tls-key key.pem
""",
)
@general_options
def run(
    *,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Listen on this address. 0.0.0.0 listens on every network.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            metavar="PORT",
            help="Listen on this port (default: 5552, with TLS 5551). 0 takes a free port.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="DIR", help="Keep streams in this folder. Without it, they are lost when the broker ends."
        ),
    ] = None,
    user: Annotated[
        list[str] | None,
        typer.Option(
            "--user",
            metavar="NAME:PASSWORD",
            help="Let this user log in. Repeat the option for more users. Without it, guest with password guest can"
            " log in from this machine only. Other users of this machine can read the password in the list of"
            " processes; --user-file hides it.",
        ),
    ] = None,
    user_file: Annotated[
        str | None,
        typer.Option(
            "--user-file", metavar="FILE", help="Let the users in this file log in. Each line is NAME:PASSWORD."
        ),
    ] = None,
    token_key_file: Annotated[
        str | None,
        typer.Option(
            "--token-key-file",
            metavar="FILE",
            help="Let whoever has a JSON Web Token log in that is signed with the bytes of this file (HS256; 32 bytes"
            " or more), as the password or by SASL OAUTHBEARER. The connection ends with its token.",
        ),
    ] = None,
    vhost: Annotated[
        list[str] | None,
        typer.Option(
            "--vhost", metavar="VHOST", help="Serve this virtual host (default: /). Repeat the option for more."
        ),
    ] = None,
    tls_cert: Annotated[
        str | None,
        typer.Option("--tls-cert", metavar="FILE", help="Accept only TLS connections, with this certificate (PEM)."),
    ] = None,
    tls_key: Annotated[
        str | None,
        typer.Option(
            "--tls-key",
            metavar="FILE",
            help="Read the key of --tls-cert from this file. Without it, the file of --tls-cert must hold the key.",
        ),
    ] = None,
    advertised_host: Annotated[
        str | None,
        typer.Option(
            "--advertised-host",
            metavar="HOST",
            help="Tell clients to connect to this host. Without it, they are told localhost, or the address that they"
            " connected to.",
        ),
    ] = None,
    fsync: Annotated[
        FsyncMode,
        typer.Option(
            "--fsync",
            help="Sync to disk before each confirm (always), once a second (interval), or when the system does"
            " (never). A confirmed message outlives the process in all cases.",
        ),
    ] = FsyncMode.INTERVAL,
    management_port: Annotated[
        int | None,
        typer.Option(
            "--management-port",
            metavar="PORT",
            help="Also answer a part of RabbitMQ's management API on this port, with TLS where --tls-cert is given. 0"
            " takes a free port.",
        ),
    ] = None,
    connection: ConnectionSettings,
) -> None:
    """Run a broker until Ctrl-C or SIGTERM.

    It prints its URI when it listens, and in a second line the address of the management API, if it serves one. On a
    terminal, it shows connections and rates; with -v, it logs connections instead.
    """
    # The broker does not connect, so RSTREAM_URI and the like must not have an effect.
    variables = {key: value for key, value in connection.env.variables.items() if not key.startswith("RSTREAM_")}
    settings = replace(connection, env=connection.env.replaced(variables=variables))
    users = _users(user or [], user_file)
    token_key = None if token_key_file is None else _token_key(token_key_file)
    context = _tls_context(tls_cert, tls_key)
    if port is None:
        port = TLS_PORT if context else PLAIN_PORT
    from rstream_core.addresses import is_loopback
    from rstream_core.broker import checks
    from rstream_core.types import Endpoint

    port = checks.check_number("--port", port, 0, 65_535)
    if management_port is not None:
        checks.check_number("--management-port", management_port, 0, 65_535)
    host = checks.check_host("--host", host)
    if advertised_host is not None:
        advertised_host = checks.check_host("--advertised-host", advertised_host)
    if data is not None:
        checks.check_text("--data", data)
    for name in vhost or ():
        checks.check_name("--vhost", name)

    async def main(command: CommandContext) -> ExitStatus:
        import asyncio

        from rstream_cli.render.status import StatusLine
        from rstream_core import EmbeddedBroker

        if command.env.owns_process:
            _allow_many_files()
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # ignored where nohup started the process
                asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, signal.raise_signal, signal.SIGTERM)
        serving = EmbeddedBroker(
            host=host,
            port=port,
            data=data,
            users=users,
            vhosts=vhost or ("/",),
            tls=context,
            fsync=fsync.value,
            advertised_host=advertised_host,
            management_port=management_port,
            token_key=token_key,
        )
        if not settings.verbosity:
            tell_warnings(settings.warn)
        async with serving:
            if users is None and host != "localhost" and not is_loopback(host):
                settings.warn("clients can log in from this machine only, as guest; --user adds other users")
            settings.tell(f"listening on {Endpoint(host, serving.port)}; {_where(data)}; Ctrl-C ends it")
            command.env.stdout.write(f"{_uri(serving.uri)}\n")
            if serving.management_uri is not None:
                command.env.stdout.write(f"{serving.management_uri}\n")
            command.env.stdout.flush()
            if not _has_status_line(settings):
                await command.interrupt.requested.wait()
            else:
                with StatusLine(command.env, serving) as line:
                    tell_warnings(line.warn)
                    await command.interrupt.requested.wait()
                tell_warnings(settings.warn)
        return Ended("stopped").status_after(command.interrupt.status)

    run_command(main, connection=settings, graceful=True)


def _has_status_line(settings: ConnectionSettings) -> bool:
    """Returns whether to show the status line: on a terminal that can clear a line, and without log lines."""
    env = settings.env
    return env.stderr_is_tty and env.variable("TERM") != "dumb" and not settings.quiet and not settings.verbosity


def _users(given: Sequence[str], file: str | None) -> dict[str, str] | None:
    """Returns the passwords by user name, from both options; None without any."""
    users: dict[str, str] = {}
    for text in given:
        _add_user(users, "--user", text)
    if file is not None:
        for number, line in enumerate(_lines(file), 1):
            if line:
                _add_user(users, f"--user-file {file}: line {number}", line)
        if not users:
            raise CommandError(f"--user-file {file}: it contains no user")
    return users or None


def _add_user(users: dict[str, str], where: str, text: str) -> None:
    from rstream_core.broker.checks import check_name, check_text

    name, separator, password = text.partition(":")
    if not separator:
        raise CommandError(f"{where}: must be NAME:PASSWORD, as in alice:secret")
    check_name(f"{where}: the name", name)
    check_text(f"{where}: the password", password)
    if name in users:
        raise CommandError(f"{where}: user {name!r} is given twice")
    users[name] = password


def _lines(file: str) -> list[str]:
    try:
        return Path(file).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise CommandError(f"--user-file {file}: it is not UTF-8") from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise CommandError(f"--user-file {file}: {why}") from None


def _token_key(file: str) -> bytes:
    from rstream_core.broker.embedded import MIN_TOKEN_KEY

    try:
        key = Path(file).read_bytes()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise CommandError(f"--token-key-file {file}: {why}") from None
    if len(key) < MIN_TOKEN_KEY:
        raise CommandError(f"--token-key-file {file}: {len(key)} bytes; a key has {MIN_TOKEN_KEY} or more")
    return key


def _uri(uri: str) -> str:
    """Returns a URI without user name and password: the password must not be shown."""
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _where(data: str | None) -> str:
    return f"streams are kept in {data}" if data else "streams are lost when it ends (--data DIR keeps them)"


def _tls_context(cert: str | None, key: str | None) -> ssl.SSLContext | None:
    if cert is None:
        if key is not None:
            raise CommandError("--tls-key needs --tls-cert")
        return None
    import ssl

    _check_pem("--tls-cert", cert, b"-----BEGIN CERTIFICATE-----")
    _check_pem("--tls-key" if key else "--tls-cert", key or cert, b"PRIVATE KEY-----")

    def on_encrypted() -> str:
        raise CommandError(f"the key in {key or cert} is encrypted", hint="openssl pkey -in KEY -out PLAIN decrypts it")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key, on_encrypted)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CommandError(f"the key in {key or cert} does not belong to the certificate in {cert}") from None
        raise CommandError(f"--tls-cert {cert}: the certificate and its key cannot be read: {error.reason}") from None
    return context


def _check_pem(option: str, file: str, words: bytes) -> None:
    """Checks a PEM file, since errors of the TLS library do not name the file. Raises CommandError."""
    try:
        content = Path(file).read_bytes()
    except (OSError, ValueError) as error:
        raise CommandError(f"{option} {file}: {error.strerror if isinstance(error, OSError) else error}") from None
    if words not in content:
        is_key = b"KEY" in words
        what = "private key" if is_key else "certificate"
        if b"-----BEGIN" not in content:
            raise CommandError(
                f"{option} {file}: not a {what} in PEM form", hint="openssl can convert DER and PKCS12 to PEM"
            )
        raise CommandError(
            f"{option} {file}: it contains no {what}",
            hint="pass the file of the key with --tls-key" if is_key else None,
        )


def _allow_many_files() -> None:
    """Raises the limit of open files: every stream in use and every connection takes file handles."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            pass  # the broker also works with fewer
