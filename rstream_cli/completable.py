"""What completion knows of a command: the rows of ``completion_table``, in plain classes that import nothing."""

from __future__ import annotations

STREAM, SUPER_STREAM, EITHER = "STREAM", "SUPER STREAM", "STREAM OR SUPER STREAM"
"""Kinds of names that a broker has."""
CONTEXT = "CONTEXT"
"""The kind of names that the user has given to contexts."""


class Parameter:
    """An option or an argument of a command."""

    __slots__ = ("help", "key", "kind", "names", "negative", "repeats", "takes_file", "takes_value", "words")

    def __init__(
        self,
        key: str,
        names: tuple[str, ...] = (),
        help: str = "",  # noqa: A002 - as Typer calls it
        *,
        negative: tuple[str, ...] = (),
        takes_value: bool = True,
        repeats: bool = False,
        words: tuple[str, ...] = (),
        kind: str = "",
        takes_file: bool = False,
    ) -> None:
        self.key = key
        """The name of the parameter of the command's function."""
        self.names = names
        """An option's names, with their dashes; an argument has none."""
        self.help = help
        self.negative = negative
        """Names that say no, such as ``--no-tls``."""
        self.takes_value = takes_value
        self.repeats = repeats
        """Whether it may be given more than once."""
        self.words = words
        """Values that may be offered."""
        self.kind = kind
        """The kind of names that it takes, such as ``STREAM``."""
        self.takes_file = takes_file


class Command:
    """A command, or a group of them."""

    __slots__ = ("arguments", "commands", "options")

    def __init__(
        self,
        options: tuple[Parameter, ...],
        arguments: tuple[Parameter, ...] = (),
        commands: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.options = options
        self.arguments = arguments
        self.commands = commands
        """Of a group: the names and summaries of what is in it."""
