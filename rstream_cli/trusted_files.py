"""Reads the files of settings: the user's own contexts, and the file of a project. Neither can hold a run up.

A file of the user's own may name commands to run, so it must not be somebody else's. A project's file may be anybody's:
it is only read, and project.py says what it may hold.
"""

from __future__ import annotations

import os
import shlex
import stat
import tomllib
from typing import Any, NamedTuple

from rstream_cli.exit_status import CommandError


class Settings(NamedTuple):
    """A file of settings."""

    path: str
    text: str
    table: dict[str, Any]
    mode: int
    """The bits of its permissions."""


def read_settings(path: str, *, most: int, is_own: bool) -> Settings | None:
    """Returns a file of TOML with at most ``most`` bytes; None where there is no such file.

    ``is_own``: it must belong to the user or to root, and nobody else may write to it, or put another file in its
    place. Raises ``CommandError``, whose message names the file and never has its content.
    """
    try:
        # Without O_NONBLOCK a named pipe would wait for its other end.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise CommandError(f"{path} is not a file")
        if is_own:
            _check_owner(path, found)
            _check_folders(path)
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(most + 1)
    finally:
        os.close(descriptor)
    if len(data) > most:
        raise CommandError(f"{path} is larger than {most:,} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise CommandError(f"{path} is not UTF-8") from None
    return Settings(path, text, table_of(text, path), stat.S_IMODE(found.st_mode))


def _check_owner(path: str, found: os.stat_result) -> None:
    if found.st_uid not in (os.geteuid(), 0):
        raise CommandError(
            f"{path} belongs to another user, who could run commands as you", hint="chown it, or remove it"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        who = "every user" if found.st_mode & stat.S_IWOTH else "its group"
        raise CommandError(
            f"{path} can be changed by {who}, who could run commands as you", hint=f"chmod 600 {shlex.quote(path)}"
        )


def _check_folders(path: str) -> None:
    """Raises ``CommandError`` where somebody else can put another file in place of this one, or of a link to it.

    The folder of the file is for its owner alone to change. One above it may be a group's, which is often the user's
    own, but not every user's. In a folder with the sticky bit, such as /tmp, nobody can rename what is another's.
    """
    for own in {os.path.dirname(os.path.abspath(path)), os.path.dirname(os.path.realpath(path))}:
        folder, others = own, stat.S_IWGRP | stat.S_IWOTH
        while True:
            try:
                found = os.stat(folder)
            except OSError as error:
                raise CommandError(f"{folder}: {error.strerror}") from None
            if found.st_mode & others and not found.st_mode & stat.S_ISVTX:
                who = "every user" if found.st_mode & stat.S_IWOTH else "its group"
                raise CommandError(
                    f"the folder {folder} can be changed by {who}, who could run commands as you by a file in it",
                    hint=f"chmod go-w {shlex.quote(folder)}",
                )
            if folder == own and found.st_uid not in (os.geteuid(), 0):
                raise CommandError(
                    f"the folder {folder} belongs to another user, who could run commands as you by a file in it",
                    hint="chown it, or keep the file elsewhere",
                )
            above = os.path.dirname(folder)
            if above == folder:
                break
            folder, others = above, stat.S_IWOTH


def table_of(text: str, path: str) -> dict[str, Any]:
    """Returns the table of a text of TOML. Raises ``CommandError``."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CommandError(f"{path} is not TOML: {error}") from None
    except ValueError:  # Python limits the digits of a number
        raise CommandError(f"{path} holds a number that is too long") from None
    except RecursionError:
        raise CommandError(f"{path} is nested too deeply") from None


def line_of(text: str, key: str) -> int:
    """Returns the number of the line with which a top-level key or table begins, from 1.

    However the key is written: it is found by reading the file up to each of its statements. For short files.
    """
    lines = text.split("\n")
    begin = 1
    for number, line in enumerate(lines, 1):
        if not line.strip():
            begin += number == begin  # between two statements, not within one
            continue
        try:
            found = tomllib.loads("\n".join(lines[:number]) + "\n")
        except (ValueError, RecursionError):
            continue  # in the middle of a value of several lines
        if key in found:
            return begin
        begin = number + 1
    return begin
