"""The user's contexts: connection settings, and a stream, under a name, in a file that only its owner can read.

The file is ``rstream/contexts.toml`` in the user's folder of configurations: ``$XDG_CONFIG_HOME``, else ``~/.config``,
on macOS ``~/Library/Application Support``. These come from the variables of the run, not of the process: a run inside
another program, such as a test, has its own.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.names import CONTEXT_NAME, check_context_name

MAX_CONTEXTS_BYTES = 1024 * 1024
"""Bytes of the file of contexts."""
_HEAD = "# Written by `rstream context`, which keeps no comments. Only the owner of this file may read it.\n"
_FLAGS = frozenset({"tls", "insecure", "load_balancer"})
"""Settings that are yes or no."""


@dataclass(frozen=True)
class Contexts:
    """All contexts of a user: by name, the settings by name."""

    path: str
    named: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)
    used: str | None = None
    """The name of the one in use."""
    is_readable_by_others: bool = False

    def __getitem__(self, name: str) -> Mapping[str, str]:
        """Returns the settings of a context. Raises ``CommandError`` with the exit code 4 for one that is not there."""
        try:
            return self.named[name]
        except KeyError:
            known = ", ".join(self.named)
            raise CommandError(
                f"there is no context {name!r}",
                hint=f"there are: {known}" if known else f"`rstream context set {name} --uri URI` makes it",
                status=ExitStatus.NOT_FOUND,
            ) from None


def path_of_contexts(variables: Mapping[str, str]) -> str | None:
    """Returns the path of the file, which may not be there; None for a user without a home."""
    folder = variables.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(folder):  # as its specification demands
        home = variables.get("HOME", "")
        if not os.path.isabs(home):
            return None
        folder = os.path.join(home, "Library/Application Support" if sys.platform == "darwin" else ".config")
    return os.path.join(folder, "rstream", "contexts.toml")


def read_contexts(variables: Mapping[str, str], settings: frozenset[str] | None = None) -> Contexts:
    """Reads the file; without one there are no contexts. ``settings``: the names that a context may have; None: any.

    Raises ``CommandError`` for a file that is not the user's own, or cannot be read.
    """
    path = path_of_contexts(variables)
    if path is None:
        return Contexts("")
    if not os.path.lexists(path):
        return Contexts(path)
    from rstream_cli.trusted_files import read_settings  # tomllib is only imported where there is a file

    found = read_settings(path, most=MAX_CONTEXTS_BYTES, is_own=True)
    if found is None:
        return Contexts(path)
    table = dict(found.table)
    used, named = table.pop("use", None), table.pop("context", {})
    if table:
        raise CommandError(f"{path}: {next(iter(table))!r} is not known; the file holds `use` and [context.NAME]")
    if not isinstance(used, str | None) or not isinstance(named, dict):
        raise CommandError(f"{path}: `use` is a name, and `context` a table")
    contexts = {name: _checked(path, name, values, settings) for name, values in named.items()}
    return Contexts(path, contexts, used, bool(found.mode & 0o077))


def _checked(path: str, name: str, values: Any, settings: frozenset[str] | None) -> dict[str, str]:
    if not CONTEXT_NAME.fullmatch(name) or not isinstance(values, dict):
        raise CommandError(f"{path}: {name!r} is not the name of a table of settings")
    found: dict[str, str] = {}
    for key, value in values.items():
        if settings is not None and key not in settings:
            raise CommandError(f"{path}: context {name}: {key!r} is not a setting")
        text = _text(value)
        if not text:
            raise CommandError(f"{path}: context {name}: {key!r} has no value that can be read")
        found[key] = text
    return found


def _text(value: object) -> str:
    """The text of a setting, as an option would have it; empty for a value of another type."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str | int):
        try:
            return str(value)
        except ValueError:  # a number of so many digits that Python does not write it
            return ""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "\n".join(value)
    return ""


def context_names(variables: Mapping[str, str]) -> list[str]:
    """Returns the names of all contexts, for completion: none where the file cannot be read."""
    try:
        return sorted(read_contexts(variables).named)
    except CommandError:
        return []


@dataclass(frozen=True)
class Chosen:
    """The context of a run."""

    name: str
    values: Mapping[str, str] = field(repr=False)
    how: str
    """What has chosen it, such as an option or a file."""
    is_option: bool
    """Whether the command line names it: then it is stronger than the environment."""
    is_of_project: bool = False
    """Whether the file of a project names it, which anybody may have written."""
    is_readable_by_others: bool = False
    path: str = ""


def choose_context(
    option: str | None, variables: Mapping[str, str], of_project: tuple[str, str] | None, settings: frozenset[str]
) -> Chosen | None:
    """Returns the context of a run: that of ``--context``, of RSTREAM_CONTEXT, of the project, or the one in use.

    ``of_project``: the name in the file of the project, and that file. Raises ``CommandError``; its exit code is 4
    where there is no such context.
    """
    is_of_project = False
    if option is not None:
        name, how = check_context_name(option), "--context"
    elif text := variables.get("RSTREAM_CONTEXT"):
        name, how = text, "RSTREAM_CONTEXT"
    elif of_project is not None:
        (name, how), is_of_project = of_project, True
    else:
        name, how = None, "`rstream context use`"
    contexts = read_contexts(variables, settings)
    if name is None:
        name = contexts.used
    if name is None:
        return None
    try:
        values = contexts[name]
    except CommandError as error:
        if option is None:
            error.args = (f"{how}: {error}",)
        raise
    is_option = option is not None
    return Chosen(name, values, how, is_option, is_of_project, contexts.is_readable_by_others, contexts.path)


def write_contexts(contexts: Contexts) -> None:
    """Writes the file anew, for its owner alone: whole, or not at all. Raises ``CommandError``."""
    if not contexts.path:
        raise CommandError("there is no place for contexts: HOME is not set")
    lines = [_HEAD]
    if contexts.used is not None:
        lines.append(f"use = {_toml(contexts.used)}\n")
    for name, values in sorted(contexts.named.items()):
        check_context_name(name)
        lines.append(f'\n[context."{name}"]\n')
        lines += [f"{key} = {_toml_value(key, text)}\n" for key, text in values.items()]
    path = os.path.realpath(contexts.path)  # a link stays one
    folder = os.path.dirname(path)
    try:
        data = "".join(lines).encode()
        _make_folders(folder)
        from rstream_cli.whole_files import replace_file

        replace_file(path, data)
    except UnicodeEncodeError:
        raise CommandError("a setting is not UTF-8") from None
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from None


def _make_folders(folder: str) -> None:
    """Makes a folder, and those above it that are missing, for their owner alone."""
    if not os.path.isdir(folder):
        _make_folders(os.path.dirname(folder))
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, mode=0o700)


def _toml_value(key: str, text: str) -> str:
    if key in _FLAGS and text in ("yes", "no"):
        return "true" if text == "yes" else "false"
    if "\n" in text and key == "uri":
        return f"[{', '.join(map(_toml, text.splitlines()))}]"
    return _toml(text)


def _toml(text: str) -> str:
    """A basic string. JSON's escapes are some of TOML's, which also escapes DEL."""
    import json

    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
