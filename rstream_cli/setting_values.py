"""Reads the texts of single connection settings, wherever they were given. Each function raises ``ValueError``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial

from rstream_cli.parsing import parse_duration, parse_size, parse_timeout, positive_duration
from rstream_core.errors import ConfigurationError
from rstream_core.types import MIN_FRAME_MAX
from rstream_core.uri import PLAIN_PORT, PLAIN_SCHEME, TLS_PORT, TLS_SCHEME, StreamUri, parse_uri

PLAIN, EXTERNAL, OAUTHBEARER = "PLAIN", "EXTERNAL", "OAUTHBEARER"

_WORDS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def stream_uri(text: str) -> StreamUri:
    try:
        return parse_uri(text)
    except ConfigurationError as error:
        error.hint = _meant_uri(text) or error.hint
        raise


def _meant_uri(text: str) -> str | None:
    """The address with our scheme and port, where it has another's. None where it may hold a password, or is none."""
    found = re.fullmatch(r"(?:([a-z][a-z0-9+.-]*)://)?([\w.-]+|\[[0-9a-fA-F:.]+\])(?::([0-9]+))?(/[\w.%-]*)?", text)
    if found is None or found[1] in (PLAIN_SCHEME, TLS_SCHEME):
        return None
    scheme, host, port, path = found.groups()
    tls = port == str(TLS_PORT) or (scheme or "").endswith(("s", "tls", "ssl"))
    if port is None or scheme in ("amqp", "amqps", "http", "https"):
        port = str(TLS_PORT if tls else PLAIN_PORT)
    vhost = path if path and scheme not in ("http", "https") else ""
    return f"write {TLS_SCHEME if tls else PLAIN_SCHEME}://{host}:{port}{vhost}"


def boolean(text: str) -> bool:
    value = _WORDS.get(text.strip().lower())
    if value is None:
        raise ValueError(f"not yes or no: {text!r}")
    return value


def mechanism(text: str) -> str:
    if text.upper() not in (PLAIN, EXTERNAL, OAUTHBEARER):
        raise ValueError(f"unknown login method: {text!r}; allowed: plain, external, oauthbearer")
    return text.upper()


def host(text: str) -> str:
    if "://" in text:  # not shown: it may contain a password
        raise ConfigurationError("this is a URI, not a host", hint="pass it as --uri, or set RSTREAM_URI")
    if "@" in text:  # not shown, as before
        raise ConfigurationError(
            "a host has no @",
            hint="pass the host alone, and --username USER; the password by --password-file, --password-command or"
            " RSTREAM_PASSWORD",
        )
    found = re.fullmatch(r"([^:@]+|\[.*\]):([0-9]+)", text)
    if found:
        raise ConfigurationError(
            f"this is a host and a port: {text!r}", hint=f"write --host {found[1]} --port {found[2]}"
        )
    return text


def port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) < 65536:
        raise ValueError(f"not a port: {text!r}; a number between 1 and 65535")
    return int(text)


def frame_max(text: str) -> int:
    size = 0 if text.strip() == "0" else parse_size(text)
    if size >= 2**31 or 0 < size < MIN_FRAME_MAX:
        raise ValueError(f"not the size of a frame: {text!r}; 0 for no limit, or {MIN_FRAME_MAX} bytes to 2GiB - 1")
    return size


def heartbeat(text: str) -> int:
    seconds = parse_duration(text)
    if seconds != int(seconds) or seconds >= 2**31:
        raise ValueError(f"not a whole number of seconds: {text!r}")
    return int(seconds)


def management_uri(text: str) -> object:
    from rstream_cli.management.address import parse_management_uri  # only where a context is checked

    return parse_management_uri(text)


PARSERS: Mapping[str, Callable[[str], object]] = {
    "host": host,
    "port": port,
    "management_uri": management_uri,
    "sasl": mechanism,
    **dict.fromkeys(("tls", "insecure", "load_balancer"), boolean),
    "connect_timeout": partial(positive_duration, parse=parse_timeout),
    "heartbeat": heartbeat,
    "frame_max": frame_max,
    **dict.fromkeys(("wait_for_broker", "recover_for"), parse_duration),
}
"""What reads each setting that is more than a text."""
