"""The names of streams, super streams and references: what they may be, and what they are the name of."""

from __future__ import annotations

import enum
import re

from rstream_cli.exit_status import CommandError


class Kind(enum.Enum):
    """What an argument is the name of."""

    STREAM = enum.auto()
    SUPER_STREAM = enum.auto()
    EITHER = enum.auto()
    """Found out by asking."""


def check_stream_name(name: str) -> str:
    """The name, where it can be one of a stream: 1 to 255 bytes of UTF-8. Else a usage error."""
    return _check_name("stream name", name)


def check_new_stream_name(name: str) -> str:
    """As ``check_stream_name``, for a stream that is to be made: in one line, or one of another name would be made."""
    if "\n" in name or "\r" in name:
        raise CommandError("the stream name has a line break", hint="brokers leave line breaks out of names")
    return check_stream_name(name)


def check_reference(name: str) -> str:
    """The name, where it can be a reference: 1 to 255 bytes of UTF-8. Else a usage error."""
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
