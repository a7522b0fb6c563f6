"""Reads ``rabbitmq-stream://user:password@host:port/vhost`` and its TLS form.

User name, password and virtual host may be percent-encoded. No path means the virtual host ``/``, as does
``/%2f``; a single ``/`` after the host counts as no path.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from rstream_core.errors import ConfigurationError
from rstream_core.hints import Hint
from rstream_core.types import Endpoint

PLAIN_SCHEME = "rabbitmq-stream"
TLS_SCHEME = "rabbitmq-stream+tls"
PLAIN_PORT = 5552
TLS_PORT = 5551
_OTHER_SCHEMES = {
    **dict.fromkeys(("amqp", "amqps"), Hint.AMQP_URI),
    **dict.fromkeys(("http", "https"), Hint.MANAGEMENT_URI),
}


class StreamUri(NamedTuple):
    """The parts of a URI; None for a part that the URI leaves out."""

    endpoint: Endpoint
    tls: bool
    username: str | None
    password: str | None
    vhost: str | None

    def __repr__(self) -> str:
        return f"StreamUri({self.endpoint}, tls={self.tls}, username={self.username!r}, vhost={self.vhost!r})"


def parse_uri(text: str) -> StreamUri:
    """Reads a URI. Raises ``ConfigurationError``; its message never contains the password."""
    scheme, separator, _ = text.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in (PLAIN_SCHEME, TLS_SCHEME):
        raise ConfigurationError(
            f"a URI begins with {PLAIN_SCHEME}:// or {TLS_SCHEME}://" + (f", not {scheme}://" if separator else ""),
            hint=_OTHER_SCHEMES.get(scheme, Hint.WRITE_THE_SCHEME),
        )
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        reason = "the port is not a number between 1 and 65535" if "ort" in str(error) else "the host is malformed"
        raise ConfigurationError(f"the URI cannot be read: {reason}") from None
    if not host:
        raise ConfigurationError("the URI names no host")
    if "@" in unquote(host):  # not shown: what stands before it may be a password
        raise ConfigurationError("the URI cannot be read: the host has an @")
    if parts.query or parts.fragment:
        raise ConfigurationError("the URI has a query or a fragment; percent-encode ? and # in a name or password")
    tls = scheme == TLS_SCHEME
    if port is None:
        port = TLS_PORT if tls else PLAIN_PORT
    if port == 0:
        raise ConfigurationError("the URI cannot be read: the port is not a number between 1 and 65535")
    path = parts.path.removeprefix("/")
    return StreamUri(
        Endpoint(unquote(host), port),
        tls,
        _unquote(parts.username),
        _unquote(parts.password),
        unquote(path) if path else None,
    )


def _unquote(text: str | None) -> str | None:
    return None if text is None else unquote(text)
