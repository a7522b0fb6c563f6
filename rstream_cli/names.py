"""Checks the names of streams, super streams and references."""

from __future__ import annotations

import enum
import re

from rstream_cli.exit_status import CommandError


class Kind(enum.Enum):
    """The kind of thing that an argument names."""

    STREAM = enum.auto()
    SUPER_STREAM = enum.auto()
    EITHER = enum.auto()
    """Either a stream or a super stream: the broker is asked."""


def check_stream_name(name: str) -> str:
    """Returns the name if it can be a stream's: 1 to 255 bytes of UTF-8. Otherwise raises a usage error."""
    return _check_name("stream name", name)


def check_new_stream_name(name: str) -> str:
    """Checks the name of a new stream: also without line breaks, which the broker would leave out."""
    if "\n" in name or "\r" in name:
        raise CommandError("the stream name has a line break", hint="brokers remove line breaks from names")
    return check_stream_name(name)


def check_reference(name: str) -> str:
    """Returns the name if it can be a reference: 1 to 255 bytes of UTF-8. Otherwise raises a usage error."""
    return _check_name("reference (--name)", name)


def check_option(flag: str, text: str | None) -> str | None:
    """The value of an option that is told to the broker, where the protocol can hold it. Else a usage error."""
    if text is not None:
        from rstream_core.checks import check_text
        from rstream_core.errors import ConfigurationError

        try:
            check_text(flag, text)
        except ConfigurationError as error:
            raise CommandError(str(error)) from None
    return text


CONTEXT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
"""Such names need no quotation marks in a shell, and are no options."""


def check_context_name(name: str) -> str:
    """Returns the name if it can be a context's. Otherwise raises a usage error."""
    check_no_uri("name of the context", name)
    if not CONTEXT_NAME.fullmatch(name):
        raise CommandError(
            f"not the name of a context: {name!r:.80}",
            hint="1 to 64 letters, digits, dots, dashes and underscores; it begins with a letter or a digit",
        )
    return name


_URI = re.compile(r"\s*(?:(?:rabbitmq-stream(?:\+tls)?|amqps?)://|[a-z][a-z0-9+.-]*://[^/]*@)", re.IGNORECASE)


def check_no_uri(what: str, text: str) -> None:
    """Raises a usage error if the text is a broker's address, without showing it: it may contain a password."""
    if _URI.match(text):
        raise CommandError(f"the {what} is a URI", hint="pass the address of a broker with --uri, or set RSTREAM_URI")


def _check_name(what: str, name: str) -> str:
    from rstream_core.checks import MAX_NAME

    check_no_uri(what, name)
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise CommandError(f"the {what} is not UTF-8") from None
    if not name:
        raise CommandError(f"the {what} is empty")
    if size > MAX_NAME:
        raise CommandError(f"the {what} has {size} bytes; {MAX_NAME} is the limit")
    return name
