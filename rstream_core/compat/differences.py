"""Tells a program, once, that something of the published client does something else here."""

from __future__ import annotations

import sys
import warnings
from itertools import count

_PACKAGE = __name__.rpartition(".")[0]
_told: set[str] = set()


class CompatWarning(UserWarning):
    """Something that the published client has, and that has another effect here, or none: docs/compat.md says why."""


def differs(what: str, message: str) -> None:
    """Warns where the program called, once in a process for each ``what``."""
    if what not in _told:
        _told.add(what)
        warnings.warn(f"{message} (docs/compat.md)", CompatWarning, stacklevel=_program())


def _program() -> int:
    """How many calls above ``differs`` the program's own code is, as ``warnings.warn`` counts."""
    for level in count(2):
        try:
            name = sys._getframe(level).f_globals.get("__name__", "")  # noqa: SLF001 - as the warnings module does
        except ValueError:  # there is nothing but this package
            return 2
        if not name.startswith(_PACKAGE):
            return level
    raise AssertionError
