"""Adapts Typer: lazily imported commands, plain help, errors of one line.

Typer does the parsing. Three of its features do not fit here, and are replaced:

- Its help uses Rich, which takes 100 ms to import, wraps by the terminal and forces colours if GITHUB_ACTIONS is set.
  ``render_help`` writes plain text, also for docs/cli.md.
- It imports pydantic (another 100 ms) to read a string. ``_Coercion`` reads the few types that we use.
- It prints usage errors in boxes. ``usage_error`` turns them into a message and a hint.

``LazyGroup`` imports a command's module only when the command is run. Typer's own copy of click is never imported by
name; its parts are used through Typer's public names.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup

from rstream_cli.environment import Environment
from rstream_cli.error_form import DECIDING, error_form, said_in_words
from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.mistakes import command_hint, extra_hint, misplaced_option, near_values, one_dash, option_hint

PROGRAM = "rstream"
MAX_WIDTH = 100
_MIN_TEXT = 24
"""Columns that a text needs beside the names of its section."""
_OPTIONS = "Options"


class Lazy(NamedTuple):
    """A command that is not imported yet."""

    module: str
    """The name of a module with a ``typer.Typer`` named ``app``."""
    summary: str
    """The first line of its help."""


def new_app(
    help: str,  # noqa: A002 - Typer's own word
    *,
    examples: str = "",
    group: type[LazyGroup] | None = None,
) -> typer.Typer:
    """Returns a Typer app for a module of commands, which are declared with ``@app.command(cls=Command, …)``.

    ``group``: a class for an app of which some commands are in modules of their own.
    """
    return typer.Typer(
        cls=group or LazyGroup,
        help=help,
        epilog=examples,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )


class Command(TyperCommand):
    """A command with plain help. Its ``epilog`` is the section of examples: lines that are shown unchanged."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Returns the parameters, with ``--help``."""
        return _quickly_read(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the arguments; chooses first how errors are told, as theirs are among them."""
        if ctx.resilient_parsing:  # a shell completes; nothing is to be told
            return list(super().parse_args(ctx, args))
        names = {parameter.name for parameter in self.params}
        _choose_error_form(ctx, said_in_words(names, args))
        word = one_dash(self, args)
        if word is not None:
            raise CommandError(f"{word}: a long option begins with two dashes", hint=f"write -{word}")
        rest: list[str] = super().parse_args(ctx, args)
        _choose_error_form(ctx, {name: ctx.params.get(name) for name in names & DECIDING})
        return rest

    def get_help_option(self, ctx: Any) -> Any:
        """Returns ``--help``, which prints to the run's stdout."""
        return _printing_help(super().get_help_option(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help into click's formatter."""
        formatter.write(render_help(self, ctx))


class LazyGroup(TyperGroup):
    """A group of commands, which are imported when they are run."""

    lazy: ClassVar[Mapping[str, Lazy]] = {}

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._imported: dict[str, Any] = {}

    def get_params(self, ctx: Any) -> list[Any]:
        """Returns the parameters, with ``--help``."""
        return _quickly_read(super().get_params(ctx))

    def list_commands(self, ctx: Any) -> list[str]:
        """Returns the names of the commands, in the order of the help."""
        return [*self.commands, *self.lazy]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Returns the command with this name. The first call imports its module, and makes it."""
        if cmd_name not in self.lazy or cmd_name in self.commands:
            return super().get_command(ctx, cmd_name)
        command = self._imported.get(cmd_name)
        if command is None:
            app: typer.Typer = importlib.import_module(self.lazy[cmd_name].module).app
            command = self._imported[cmd_name] = typer.main.get_command(app)
            command.name = cmd_name
        return command

    def summaries(self, ctx: Any) -> list[tuple[str, str]]:
        """Returns name and summary of every command, without importing the lazy ones."""
        rows = []
        for name in self.list_commands(ctx):
            if name in self.lazy:
                rows.append((name, self.lazy[name].summary))
            else:
                command = self.get_command(ctx, name)
                if not command.hidden:
                    rows.append((name, _first_paragraph(command.help or "")))
        return rows

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses arguments. Without any, prints the help to stderr and exits with the code of a usage error."""
        if not args and not ctx.resilient_parsing:
            environment_of(ctx).stderr.write(ctx.get_help() + "\n")
            raise typer.Exit(ExitStatus.USAGE)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Finds the command. For an unknown one, raises an error that suggests the nearest name."""
        name = args[0]
        command = self.get_command(ctx, name)
        if command is None and not ctx.resilient_parsing:
            raise CommandError(f"no such command: {name!r}", hint=command_hint(self, ctx, name))
        return (None if command is None else name), command, args[1:]

    def get_help_option(self, ctx: Any) -> Any:
        """Returns ``--help``, which prints to the run's stdout."""
        return _printing_help(super().get_help_option(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help into click's formatter."""
        formatter.write(render_help(self, ctx))


def _printing_help(option: Any) -> Any:
    if option is not None:
        option.callback = _print_help
    return option


def _print_help(ctx: Any, _parameter: Any, is_wanted: bool) -> None:
    if is_wanted and not ctx.resilient_parsing:
        environment_of(ctx).stdout.write(ctx.get_help() + "\n")
        ctx.exit()


# --- values ------------------------------------------------------------------------------------------------


class _Coercion:
    """Reads the values of one parameter, in place of Typer's pydantic adapter.

    Typer makes its adapter when a value first needs it, and keeps it in ``_runtime_param``; it uses one that is set
    already. A version of Typer without this attribute would ignore ours and read the values itself, slowly;
    tests/unit/test_typer_support.py would notice.
    """

    def __init__(self, kind: Any, info: Any) -> None:
        self._kind = kind
        self._info = info

    @classmethod
    def install(cls, parameter: Any) -> None:
        """Installs an instance in a parameter if it can read the parameter's type."""
        info = getattr(getattr(parameter, "type_descriptor", None), "parameter_info", None)
        kind = kind_of(parameter)
        if info is not None and _is_known(kind, info) and vars(parameter).get("_runtime_param", cls) is None:
            vars(parameter)["_runtime_param"] = cls(kind, info)

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Returns the value for the command's function. Typer calls this, with arguments of these names."""
        is_several = param.multiple or param.nargs == -1
        try:
            if value is None:
                return () if is_several else None
            return [self._one(item) for item in value] if is_several else self._one(value)
        except ValueError as error:
            problem = typer.BadParameter(str(error), ctx=ctx, param=param)
            vars(problem)["hint"] = getattr(error, "hint", None)
            raise problem from None

    def _one(self, value: Any) -> Any:
        if self._info.parser is not None:
            return self._info.parser(value) if isinstance(value, str) else value
        if isinstance(value, self._kind):
            return value
        if issubclass(self._kind, enum.Enum):
            return _choice(self._kind, value)
        if self._kind is int:
            return _whole_number(value, self._info.min, self._info.max)
        if self._kind is float:
            try:
                return float(value)
            except ValueError:
                raise ValueError(f"not a number: {value!r}") from None
        return self._kind(value)


def _quickly_read(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        _Coercion.install(parameter)
    return parameters


def kind_of(parameter: Any) -> Any:
    """The type of one value of a parameter."""
    annotation = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
    if get_origin(annotation) is list:
        return get_args(annotation)[0]
    return annotation


def _is_known(kind: Any, info: Any) -> bool:
    if info.parser is not None or kind in (str, int, float, bool, Path):
        return True
    return isinstance(kind, type) and issubclass(kind, enum.Enum)


def _choice(kind: type[enum.Enum], text: str) -> enum.Enum:
    for member in kind:
        if member.value == text:
            return member
    raise _NoChoiceError(text, [str(member.value) for member in kind])


class _NoChoiceError(ValueError):
    """A value is none of those that an option has."""

    def __init__(self, text: str, values: Sequence[str]) -> None:
        near = near_values(text, values)
        self.hint = f"did you mean {near[0]}?" if near else None
        super().__init__(f"not one of {', '.join(values)}: {text!r}")


def _whole_number(text: str, low: float | None, high: float | None) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,30}", text):
        raise ValueError(f"not a whole number: {text!r}")
    number = int(text)
    if (low is not None and number < low) or (high is not None and number > high):
        limits = [f"at least {low}"] * (low is not None) + [f"at most {high}"] * (high is not None)
        raise ValueError(f"out of range: {text}; {' and '.join(limits)}")
    return number


# --- errors ------------------------------------------------------------------------------------------------

_ENVIRONMENT = "rstream.environment"


def _choose_error_form(ctx: Any, said: Mapping[str, object]) -> None:
    ctx.obj = ctx.meta[_ENVIRONMENT] = environment_of(ctx).replaced(error_form=error_form(said))


def environment_in(context: Any, env: Environment) -> Environment:
    """The environment as the options of the command have made it; ``env`` where none were read."""
    found = None if context is None else context.meta.get(_ENVIRONMENT)
    return found if isinstance(found, Environment) else env


def usage_error(error: typer.TyperException, arguments: Sequence[str], program: str) -> CommandError:
    """What Typer found wrong with the ``arguments`` of a command of ``program``, in our words and with a hint."""
    context = getattr(error, "ctx", None)
    parameter = getattr(error, "param", None)
    path = context.command_path if context is not None else program
    if isinstance(error, typer.BadParameter) and type(error) is typer.BadParameter and parameter is not None:
        return CommandError(f"{_label(parameter)}: {error.message}", hint=getattr(error, "hint", None))
    name = getattr(error, "option_name", None)
    if name is not None and hasattr(error, "possibilities"):
        return misplaced_option(name, context, path, arguments) or CommandError(
            f"no such option: {name}", hint=option_hint(name, context, path, arguments)
        )
    message = error.format_message()
    if isinstance(error, typer.BadParameter):  # a missing one: its choices may be in lines, and nothing is the user's
        message = " ".join(message.split())
    message = message.removesuffix(".")
    extra = re.search(r"extra argument\S* \((\S+)", message)
    hint = extra_hint(context.command, path, extra[1].rstrip(")")) if extra and context else f"see `{path} --help`"
    return CommandError(message[:1].lower() + message[1:], hint=hint)


def _label(parameter: Any) -> str:
    if parameter.param_type_name == "option":
        return str(max(parameter.opts, key=len))
    return str(parameter.metavar or parameter.name.upper())


# --- help --------------------------------------------------------------------------------------------------


def render_help(command: Any, ctx: Any) -> str:
    """Returns the help page of a command or a group: plain text, with colours only if the context has them."""
    env = environment_of(ctx)
    width = min(max(env.size_of(env.stdout)[0], 40), MAX_WIDTH)
    bold, cyan, plain = ("\x1b[1m", "\x1b[36m", "\x1b[0m") if ctx.color else ("", "", "")
    parameters = [p for p in command.get_params(ctx) if not p.hidden]
    arguments = [p for p in parameters if p.param_type_name == "argument"]
    is_group = isinstance(command, LazyGroup)

    lines = textwrap.wrap(
        " ".join([ctx.command_path, "[OPTIONS]", *(["COMMAND"] if is_group else map(_usage, arguments))]),
        width,
        initial_indent="Usage: ",
        subsequent_indent="       ",
        break_on_hyphens=False,
    )
    lines[0] = lines[0].replace("Usage:", f"{bold}Usage:{plain}", 1)
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        lines += ["", *_wrap(" ".join(paragraph.split()), width)]

    sections: list[tuple[str, list[tuple[str, str]]]] = []
    if is_group:
        sections.append(("Commands", command.summaries(ctx)))
    if arguments:
        sections.append(("Arguments", [(_label(p), p.help or "") for p in arguments]))
    for panel, options in _panels(p for p in parameters if p.param_type_name == "option"):
        sections.append((panel, [(_option_names(p), help_of(p)) for p in options]))
    for heading, rows in sections:
        lines += ["", f"{bold}{heading}:{plain}"]
        lines += _table(rows, width, lambda name: f"{cyan}{name}{plain}")
    if command.epilog:
        lines += ["", f"{bold}Examples:{plain}"]
        lines += ["  " + line for line in inspect.cleandoc(command.epilog).splitlines()]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _usage(parameter: Any) -> str:
    name = _label(parameter)
    name = name if parameter.required or name.startswith("[") else f"[{name}]"
    return f"{name}..." if parameter.nargs == -1 else name


def _panels(options: Iterable[Any]) -> list[tuple[str, list[Any]]]:
    """Returns the options by panel: the command's own first, the others in the order of their first options."""
    panels: dict[str, list[Any]] = {_OPTIONS: []}
    for option in options:
        panels.setdefault(option.rich_help_panel or _OPTIONS, []).append(option)
    return [(panel, members) for panel, members in panels.items() if members]


def _option_names(option: Any) -> str:
    short = sorted((name for name in option.opts if not name.startswith("--")), key=len)
    names = ", ".join([*short, *(name for name in option.opts if name.startswith("--"))])
    if not short:
        names = "    " + names
    if option.secondary_opts:
        names += " / " + ", ".join(option.secondary_opts)
    return names if option.is_flag or option.count else f"{names} {_metavar(option)}"


def _metavar(option: Any) -> str:
    kind = kind_of(option)
    if option.metavar:
        return str(option.metavar)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return "|".join(str(member.value) for member in kind)
    return {int: "N", float: "N", Path: "FILE"}.get(kind, "TEXT")


def help_of(option: Any) -> str:
    """The help of an option, with its default."""
    text = " ".join((option.help or "").split())
    extra = ""
    if option.required:
        extra = "(required)"
    elif isinstance(option.show_default, str):
        extra = f"(default: {option.show_default})"
    elif option.show_default and option.default not in (None, False, (), []):
        default = option.default
        extra = f"(default: {default.value if isinstance(default, enum.Enum) else default})"
    return f"{text} {extra}".strip()


def _table(rows: Sequence[tuple[str, str]], width: int, style: Callable[[str], str]) -> list[str]:
    """Returns lines with names on the left and wrapped texts on the right. A long name gets a line of its own.

    Where there is no room beside the names, every text stands below its name.
    """
    column = min(max((len(name) for name, _ in rows), default=0), 30) + 4
    if width - column < _MIN_TEXT:
        return _stacked(rows, width, style)
    lines = []
    for name, text in rows:
        wrapped = _wrap(text, width - column)
        shown = f"  {style(name)}"
        if len(name) + 4 > column or not wrapped:
            lines.append(shown)
        else:
            lines.append(shown + " " * (column - len(name) - 2) + wrapped.pop(0))
        lines += [" " * column + line for line in wrapped]
    return lines


def _stacked(rows: Sequence[tuple[str, str]], width: int, style: Callable[[str], str]) -> list[str]:
    """Returns lines for a narrow terminal: each name, and below it the indented text."""
    lines = []
    for name, text in rows:
        # A list of values that does not fit behind its option stands below it.
        heads = [name.strip()] if len(name.strip()) + 2 <= width else name.strip().rsplit(" ", 1)
        lines += [f"{'  ' if index == 0 else '      '}{style(head)}" for index, head in enumerate(heads)]
        lines += [f"      {line}" for line in _wrap(text, width - 6)]
    return lines


def _wrap(text: str, width: int) -> list[str]:
    """Returns lines. A word that is too long, such as the form of a URI, is broken, as the terminal would break it."""
    return textwrap.wrap(text, width, break_on_hyphens=False)


def _first_paragraph(text: str) -> str:
    return " ".join(inspect.cleandoc(text).split("\n\n")[0].split())


def environment_of(ctx: typer.Context) -> Environment:
    """Returns the environment of the run."""
    return ctx.obj if isinstance(ctx.obj, Environment) else Environment.of_process()
