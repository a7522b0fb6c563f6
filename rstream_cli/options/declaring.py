"""Lets commands share options: a group of options is a dataclass, whose fields are the options.

Typer reads the signature of a command's function. So the function is wrapped into one whose signature also has the
options of the group, and receives the whole group as one argument.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar, get_type_hints

import typer

from rstream_cli.parsing import parse_duration, parse_timeout, positive_duration

T = TypeVar("T")


def shared_options(
    name: str, *groups: type, make: Callable[..., Any] | None = None
) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Gives a command the options that dataclasses declare as their fields.

    It receives them as its argument ``name``: an instance of the one group, or what ``make`` gives for the command's
    context and an instance of each group. Its own parameters come first in the help, and an option of the group that
    they declare, too, is left out. To be put under ``@app.command(...)``; where there are several, the upper ones come
    last in the help.
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
                group(**{field.name: given.pop(field.name, field.default) for field in members})
                for group, members in zip(groups, fields, strict=True)
            ]
            return function(**given, **{name: make(*context, *made) if make else made[0]})

        parameters = [p.replace(kind=keyword) for p in own.parameters.values() if p.name != name]
        taken = {flag for p in parameters for flag in _flags(p.annotation)}
        parameters += [
            inspect.Parameter(field.name, keyword, annotation=hints[field.name], default=field.default)
            for members, hints in zip(fields, kinds, strict=True)
            for field in members
            if not _is_taken(set(_flags(hints[field.name])), taken)
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


def _is_taken(flags: set[str], taken: set[str]) -> bool:
    """Returns whether a command declares the option itself. Raises TypeError if it declares only some of its flags."""
    if flags & taken and flags - taken:
        raise TypeError(f"a command declares {flags & taken}, and not {flags - taken}")
    return bool(flags & taken)


def duration(flag: str, default: str | bool, help: str, *, panel: str, zero: bool = False) -> Any:  # noqa: A002
    """The declaration of an option that takes a time; ``default`` is how the help shows its default, False: not.

    It takes a unit, but for seconds where it is a timeout.
    """
    parse = parse_timeout if flag.endswith("timeout") else parse_duration
    return typer.Option(
        flag,
        metavar="DURATION",
        parser=parse if zero else partial(positive_duration, parse=parse),
        help=help,
        show_default=default,
        rich_help_panel=panel,
    )
