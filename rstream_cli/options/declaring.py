"""Lets commands share options: a group of options is a dataclass, whose fields are the options.

Typer reads the signature of a command's function. So the function is wrapped into one whose signature also has the
options of the group, and receives the whole group as one argument.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import typer

from rstream_cli.parsing import parse_duration

T = TypeVar("T")


def shared_options(
    name: str, *groups: type, make: Callable[..., Any] | None = None
) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Gives a command the options that dataclasses declare as their fields.

    The command's function receives them as its argument ``name``: an instance of the single group, or the result of
    ``make`` for the command's context and an instance of each group. The function's own parameters come first in the
    help; a flag that one of them has is removed from the group. Put this under ``@app.command(...)``. If there are
    several, the options of the upper ones come last in the help.
    """
    fields = [dataclasses.fields(group) for group in groups]
    kinds = [get_type_hints(group, include_extras=True) for group in groups]
    keyword = inspect.Parameter.KEYWORD_ONLY

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        own = inspect.signature(function, eval_str=True)
        if name not in own.parameters:
            raise TypeError(f"{function.__qualname__} takes no {name}")

        def command(**given: Any) -> T:
            context = (given.pop("ctx"),) if make else ()
            made = [
                group(**{field.name: given.pop(field.name) for field in members})
                for group, members in zip(groups, fields, strict=True)
            ]
            return function(**given, **{name: make(*context, *made) if make else made[0]})

        parameters = [p.replace(kind=keyword) for p in own.parameters.values() if p.name != name]
        taken = {flag for p in parameters for flag in _flags(p.annotation)}
        parameters += [
            inspect.Parameter(field.name, keyword, annotation=_without(hints[field.name], taken), default=field.default)
            for members, hints in zip(fields, kinds, strict=True)
            for field in members
        ]
        if make:
            parameters.insert(0, inspect.Parameter("ctx", keyword, annotation=typer.Context))
        command.__name__ = function.__name__
        command.__qualname__ = function.__qualname__
        command.__module__ = function.__module__
        command.__doc__ = function.__doc__
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return command

    return decorate


def _flags(annotation: Any) -> Iterator[str]:
    """Yields the flags that a parameter declares, such as ``--key``."""
    for info in getattr(annotation, "__metadata__", ()):
        # Inside Annotated, Typer keeps the first flag in the field of the default.
        yield from (flag for flag in (info.default, *(info.param_decls or ())) if isinstance(flag, str))


def _without(annotation: Any, taken: set[str]) -> Any:
    """Returns the annotation of an option without the flags that other parameters have."""
    flags = list(_flags(annotation))
    left = [flag for flag in flags if flag not in taken]
    if left == flags:
        return annotation
    kind, option = get_args(annotation)
    option = copy.copy(option)
    option.default, *rest = left
    option.param_decls = tuple(rest)
    return Annotated[kind, option]


def positive_duration(text: str) -> float:
    """Returns the seconds of a duration above 0. Raises ValueError."""
    seconds = parse_duration(text)
    if seconds <= 0:
        raise ValueError(f"must be more than 0: {text!r}")
    return seconds


def duration(flag: str, default: str | bool, help: str, *, panel: str, zero: bool = False) -> Any:  # noqa: A002
    """Returns the declaration of an option for a duration. ``default`` is the help's default; False: none is shown."""
    return typer.Option(
        flag,
        metavar="DURATION",
        parser=parse_duration if zero else positive_duration,
        help=help,
        show_default=default,
        rich_help_panel=panel,
    )
