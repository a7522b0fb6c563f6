"""Checks the arguments of the embedded broker before it starts. Each function raises ``ConfigurationError``.

``what`` is the caller's name for the argument: an argument in Python, an option on the command line.
"""

from __future__ import annotations

import math

from rstream_core.checks import MAX_NAME
from rstream_core.errors import ConfigurationError

MIN_BROKER_FRAME_MAX = 8192


def check_host(what: str, host: str) -> str:
    """Checks a host name or an address, and returns it without the brackets that an IPv6 address has in a URI."""
    if not isinstance(host, str):
        raise ConfigurationError(f"{what} is a name or an address, not {host!r}")
    if not host:
        raise ConfigurationError(f"{what} is empty")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    try:
        host.encode("idna")
    except UnicodeError:
        valid = False
    else:
        valid = host.isprintable() and not set(host) & set(" []/@")
    if not valid:
        raise ConfigurationError(f"{what}: {host!r} is no host name and no address")
    return host


def check_name(what: str, name: str) -> str:
    """Checks and returns the name of a user or a virtual host."""
    check_text(what, name)
    if (size := len(name.encode())) > MAX_NAME:
        raise ConfigurationError(f"{what} has {size} bytes; {MAX_NAME} is the limit")
    return name


def check_text(what: str, text: str) -> str:
    """Checks and returns a text that a login can carry: not empty, UTF-8, without NUL."""
    if not isinstance(text, str):
        raise ConfigurationError(f"{what} is text, not {text!r}")
    if not text:
        raise ConfigurationError(f"{what} is empty")
    if "\0" in text:
        raise ConfigurationError(f"{what} holds a NUL")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"{what} is not UTF-8") from None
    return text


def check_number(what: str, number: object, lowest: int, highest: int) -> int:
    """Checks and returns an int from ``lowest`` to ``highest``."""
    if not isinstance(number, int) or isinstance(number, bool) or not lowest <= number <= highest:
        raise ConfigurationError(f"{what} is a number between {lowest} and {highest}, not {number!r}")
    return number


def check_seconds(what: str, seconds: object) -> float:
    """Checks and returns a finite number of seconds that is not negative."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise ConfigurationError(f"{what} is a number from 0 on, not {seconds!r}")
    return seconds
