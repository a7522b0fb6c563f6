"""Escapes the characters of a text that must not reach a terminal or a log line.

Any user who may create a stream chooses its name, and a broker chooses the hosts and the reasons in its answers. Such
texts can move cursors, set titles, forge lines, and look like other names. So all output for people passes through
``harmless``. Texts of a peer pass through it already where they enter an error's message, since an application's own
log handlers do not call it.
"""

from __future__ import annotations

import re

_CONTROLS = r"\x00-\x1f\x7f-\x9f"  # C0, DEL, C1
_DIRECTIONS = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f"
_BREAKS = r"\u2028\u2029"
_UNSEEN = r"\xad\u180e\u200b\u2060-\u2065\ufeff\ufff9-\ufffb\U000e0001"
"""Invisible characters: two texts that differ only in these look the same. Joiners and the tags of flags are left out,
since scripts and emoji need them."""
_SURROGATES = r"\ud800-\udfff"
HARMFUL = _CONTROLS + _DIRECTIONS + _BREAKS + _UNSEEN + _SURROGATES
"""All characters that are escaped, as the inside of a regular expression's ``[…]``."""

_IN_A_LINE = re.compile(f"[{HARMFUL}]")
_IN_LINES = re.compile(f"(?![\t\n])[{HARMFUL}]")
_AND_BACKSLASHES = re.compile(rf"[\\{HARMFUL}]")


def harmless(text: str, *, lines: bool = False, exact: bool = False) -> str:
    r"""Returns the text with escapes such as ``\x1b``, ``\n`` and ``\u202e`` for characters that terminals act upon.

    Letters of every script, combining characters and emoji stay. ``lines``: line breaks and tabs stay, too, for a text
    of several lines. ``exact``: a backslash becomes two, so that the result stands for exactly one text; for names, but
    not for sentences, in which some characters may be escaped already.
    """
    pattern = _IN_LINES if lines else _AND_BACKSLASHES if exact else _IN_A_LINE
    return pattern.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def is_harmless(text: str) -> bool:
    """Returns whether ``harmless`` would leave the text unchanged."""
    return _IN_A_LINE.search(text) is None
