"""What of a text may go to a terminal or into a log line as it is: one function says.

Whoever may create a stream chooses its name, and a broker chooses the hosts that it names and the reason that it gives.
As they are, such texts move cursors, set titles, forge lines, and show other names than they are. So all that is
written for people goes through ``harmless``, and what a peer said goes through it where it enters an error's message:
the handlers of a user's own logging have no other place for it.
"""

from __future__ import annotations

import re

_CONTROLS = r"\x00-\x1f\x7f-\x9f"  # C0, DEL, C1
_DIRECTIONS = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f"
_BREAKS = r"\u2028\u2029"
_UNSEEN = r"\xad\u180e\u200b\u2060-\u2065\ufeff\ufff9-\ufffb\U000e0001"
"""Two texts that differ in these look the same. Joiners and the tags of flags are not among them: scripts and emoji
need them."""
_SURROGATES = r"\ud800-\udfff"
HARMFUL = _CONTROLS + _DIRECTIONS + _BREAKS + _UNSEEN + _SURROGATES
"""What does not go out as it is, as the inside of a regular expression's ``[…]``."""

_IN_A_LINE = re.compile(f"[{HARMFUL}]")
_IN_LINES = re.compile(f"(?![\t\n])[{HARMFUL}]")
_AND_BACKSLASHES = re.compile(rf"[\\{HARMFUL}]")


def harmless(text: str, *, lines: bool = False, exact: bool = False) -> str:
    r"""The text with ``\x1b``, ``\n``, ``\u202e`` and so on in the place of what a terminal would act upon.

    Letters of every script stay, with what combines with them, and so do emoji. ``lines``: line breaks and tabs stay
    too, as in a text of several lines. ``exact``: a backslash becomes two, so that what is shown stands for one text
    only; for names, and not for sentences in which some may be escaped already.
    """
    pattern = _IN_LINES if lines else _AND_BACKSLASHES if exact else _IN_A_LINE
    return pattern.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def is_harmless(text: str) -> bool:
    """Whether ``harmless`` has nothing to do."""
    return _IN_A_LINE.search(text) is None
