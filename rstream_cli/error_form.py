"""Decides whether errors are text or JSON: by the options of a command, also where they cannot be parsed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence, Set

from rstream_cli.environment import ErrorForm

DECIDING = frozenset({"json", "output", "stats"})
"""The parameters that decide. ``json`` is about what a command answers: the ``--json`` of ``publish``, which is about
its input, has another name."""


def error_form(said: Mapping[str, object]) -> ErrorForm:
    """Returns the form of errors. ``said`` has the values of the deciding parameters that the command has."""
    if said.get("stats") == "json":
        return ErrorForm.EVENT
    if said.get("json") or said.get("output") == "json":
        return ErrorForm.JSON
    return ErrorForm.TEXT


def said_in_words(names: Set[str], words: Sequence[str]) -> dict[str, object]:
    """Returns what the deciding options most likely say, where the arguments are not read yet, or cannot be.

    ``names``: the parameters of the command; ``words``: its arguments.
    """
    options = list(itertools.takewhile(lambda word: word != "--", words))
    said: dict[str, object] = {"json": "json" in names and "--json" in options}
    for name in names & {"output", "stats"}:
        pairs = itertools.pairwise(options)
        said[name] = "json" if f"--{name}=json" in options or (f"--{name}", "json") in pairs else None
    return said
