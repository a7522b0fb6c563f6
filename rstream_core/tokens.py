"""Passwords that are tokens: JSON Web Tokens (RFC 7519), which say when they expire.

Nothing is verified here but by ``verified``, for the embedded broker: a client only reads when to ask for a new token.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import math
from typing import Any, NamedTuple

RENEWAL_MARGIN = 60.0
"""Seconds before a token expires in which it is renewed. Tokens of less than 2.5 minutes have a smaller one."""
_SHARE = 0.4
"""The part of a short token's remaining time that is its margin."""
MIN_RENEWAL_DELAY = 0.5
"""Seconds between two attempts to renew a token."""


class Token(NamedTuple):
    """What the embedded broker takes from a token."""

    subject: str
    expires: float
    """Seconds since 1970."""


def expiry_of(password: str) -> float | None:
    """Returns when a token expires, in seconds since 1970; None for what is no such token, or never expires."""
    parts = password.split(".")
    if len(parts) != 3:
        return None
    return _number(_object(parts[1]).get("exp"))


def renewal_delay(expires: float, now: float) -> float:
    """Returns the seconds until a token is to be renewed, at least ``MIN_RENEWAL_DELAY``."""
    left = expires - now
    return max(left - min(left * _SHARE, RENEWAL_MARGIN), MIN_RENEWAL_DELAY)


def verified(token: str, key: bytes, now: float) -> Token | None:
    """Returns what a token says that is signed with this key (HS256) and has not expired; else None.

    It must have a subject (``sub``) and an end (``exp``).
    """
    parts = token.split(".")
    if len(parts) != 3 or not token.isascii():
        return None
    head, claims, signature = parts
    expected = hmac.digest(key, f"{head}.{claims}".encode(), hashlib.sha256)
    if not hmac.compare_digest(expected, _bytes(signature)) or _object(head).get("alg") != "HS256":
        return None
    said = _object(claims)
    subject, expires = said.get("sub"), _number(said.get("exp"))
    if not isinstance(subject, str) or not subject or expires is None or expires <= now:
        return None
    return Token(subject, expires)


def _object(part: str) -> dict[str, Any]:
    """The object of JSON in a part of a token; an empty one where there is none."""
    try:
        found = json.loads(_bytes(part))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _bytes(part: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except (binascii.Error, ValueError):
        return b""


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
