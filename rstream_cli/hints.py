"""What the reader of an error may do about it, in the words of the command line.

The core's hints are codes, whose texts name arguments of Python; here are the options that stand for those. Where the
core has no hint, the kind of the error may have one. No hint only repeats its error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rstream_cli.exit_status import ExitStatus, status_of


def hint_of(error: BaseException) -> str | None:
    """Returns the hint of an error, from the core or the command line; None where it has none."""
    hint = getattr(error, "hint", None)
    return in_options(hint) if hint else _of_kind(error)


@contextmanager
def saying_why(reason: str) -> Iterator[None]:
    """Puts ``reason`` before the hint of an error that says that nothing could be reached in the block."""
    try:
        yield
    except Exception as error:
        if status_of(error) is ExitStatus.CONNECTION and hasattr(error, "hint"):
            error.hint = "; ".join(filter(None, (reason, hint_of(error))))
        raise


def in_options(hint: str) -> str:
    """A hint in the words of the command line, where the core's names Python's."""
    from rstream_core.hints import Hint

    words = {
        Hint.LOAD_BALANCER: "pass --load-balancer, or set stream.advertised_host on the broker",
        Hint.TRUST: "pass --ca-file with the authority that signed it, or --server-name if it names another host",
        Hint.USE_PLAIN_FOR_TOKENS: "RabbitMQ takes a token where the password goes: leave out --sasl oauthbearer",
        Hint.FRAME_LIMIT: "send less at once, or raise --frame-max here and stream.frame_max on the broker",
        Hint.COPY_APPENDS: "copy to an empty stream; --append copies behind what is there",
        Hint.COPY_GOES_ON: "leave out --offset to go on with that copy; --append copies behind what is there",
        Hint.COPY_OF_ANOTHER: "copy to another stream; or pass another --name, and --append",
        Hint.COPY_BY_KEY: "pass --key-from for a target with other partitions",
        Hint.USE_TLS: "use rabbitmq-stream+tls:// or --tls for this port",
        Hint.IS_IT_A_TLS_PORT: "is it a TLS port? use rabbitmq-stream+tls:// or --tls for it",
        Hint.IS_IT_THE_TLS_PORT: "the TLS port is 5551 by default; for a port without TLS, such as 5552,"
        " leave out --tls, or use rabbitmq-stream://",
    }
    return words[hint] if isinstance(hint, Hint) and hint in words else str(hint)


def _of_kind(error: BaseException) -> str | None:
    from rstream_core import errors as e

    table: tuple[tuple[type[BaseException], str], ...] = (
        (
            e.SASLAuthenticationFailureLoopback,
            "guest may log in on the broker's own machine only: pass --username and --password-file of another user",
        ),
        (
            e.AuthenticationFailure,
            "without a user name, the user is guest; `rabbitmqctl authenticate_user` checks a password",
        ),
        (
            e.VirtualHostAccessFailure,
            "`rabbitmqctl list_vhosts` and `list_user_permissions` show what exists and who may use it; choose one with"
            " --vhost, or with the path of the URI",
        ),
        (e.AccessRefused, "rabbitmqctl set_permissions gives a user the right to configure, write or read"),
        (
            e.StreamDoesNotExist,
            "check the name and the virtual host; `rstream stream create` and `rstream superstream create` create one",
        ),
        (e.HostNotFound, "check the name, or add it to the name server or /etc/hosts"),
    )
    return next((hint for kind, hint in table if isinstance(error, kind)), None)
