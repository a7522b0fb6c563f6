"""Turns the options of ``publish`` and ``superstream publish`` into a ``PublishPlan``.

The options are checked against each other before the program connects. publish_run.py carries the plan out.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import pathlib
import shlex
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from rstream_cli.environment import Environment
from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.formats import delimiter_of
from rstream_cli.names import check_new_stream_name, check_no_uri, check_option, check_reference
from rstream_cli.options.connecting import ConnectionSettings
from rstream_cli.options.messages import Codec, OnError
from rstream_cli.options.publishing import Compression, InputFormat, Method, PublishOptions
from rstream_cli.options.routing import RoutingMethod
from rstream_cli.options.showing import ShowingOptions
from rstream_cli.parsing import parse_header
from rstream_cli.records.paths import Path
from rstream_cli.runner import CommandContext, run_command

if TYPE_CHECKING:
    from rstream_cli.encoding import Extras, Looks
    from rstream_cli.inputs import InputShape
    from rstream_cli.publish_plan import PublishPlan

_LINE = "line"
"""The value of ``--id-from`` that is not a path."""


@dataclass(frozen=True, slots=True)
class Routing:
    """How partitions of a super stream are chosen, and the source of routing keys: one of the last three fields."""

    method: RoutingMethod
    key: str | None = None
    key_from: str | None = None
    key_delimiter: str | None = None


def run_publish(
    target: str,
    files: list[str] | None,
    given: PublishOptions,
    showing: ShowingOptions,
    connection: ConnectionSettings,
    *,
    create: bool = False,
    routing: Routing | None = None,
) -> NoReturn:
    """Publishes to a stream, or with ``routing`` to a super stream. Raises ``typer.Exit`` at the end."""
    if create:
        check_new_stream_name(target)
    plan = _plan(target, files, given, connection.env, create=create, routing=routing)
    from_terminal = not given.message and connection.env.stdin_is_tty and "-" in plan.sources
    if from_terminal and plan.is_dump:
        raise CommandError("a dump cannot be typed", hint="name its FILE, or pipe it in")
    if from_terminal:
        connection.tell("publishing each line that you type; Ctrl-D ends the input")
    mode = showing.mode(connection, terminal_is_used=from_terminal)

    async def main(context: CommandContext) -> ExitStatus:
        from rstream_cli.displayed_run import run_displayed
        from rstream_cli.kinds import telling_kinds_apart
        from rstream_cli.publish_run import PublishRun
        from rstream_cli.render.stats import PublishCounts, Stats

        numbers = Stats("publish", target, PublishCounts(), total=plan.input_size)
        display = showing.display(mode, numbers, connection)
        command = "publish" if routing is None else "superstream publish"
        work = partial(telling_kinds_apart, context, command, target, PublishRun(plan, context, numbers, display).work)
        return await run_displayed(context, display, work)

    with contextlib.ExitStack() as stack:
        if plan.failed_to is not None:
            stack.enter_context(plan.failed_to)
        run_command(main, connection=connection, graceful=True)


def _input(shape: InputFormat) -> InputShape:
    from rstream_cli.inputs import INPUTS

    return INPUTS[shape]


def _check_sources(sources: list[str], files: list[str] | None, given: PublishOptions) -> None:
    if given.message and files:
        raise CommandError("--message and FILE contradict each other", hint="publish the files with a second command")
    if sources.count("-") > 1:
        raise CommandError("standard input (-) can be read only once")


def _method(given: PublishOptions) -> Method:
    """Returns the method of sending. Raises an error for options that do not go with sub-entries."""
    if given.compression not in (None, Compression.NONE) and given.method not in (None, Method.SUB_ENTRY):
        raise CommandError(f"--compression {given.compression} needs --method sub-entry, not {given.method}")
    method = given.method or (Method.BATCH if given.compression is None else Method.SUB_ENTRY)
    per_message = {"--id-from": given.id_from, "--filter": given.filter_value, "--filter-from": given.filter_from}
    for flag, value in per_message.items():
        if value is not None and method is Method.SUB_ENTRY:
            raise CommandError(
                f"{flag} cannot be used with sub-entries", hint="leave out --method sub-entry and --compression"
            )
    return method


def _looks(given: PublishOptions, routing: Routing | None, method: Method, shape: InputFormat) -> Looks:
    """Returns the values that the options need from each record."""
    from rstream_cli.encoding import Looks

    if given.id_from is not None and given.name is None:
        raise CommandError("--id-from needs --name", hint="the broker remembers publishing ids by a name")
    if given.filter_value is not None and given.filter_from is not None:
        raise CommandError("--filter and --filter-from contradict each other")
    key = key_from = delimiter = None
    if routing is not None:
        if routing.method is RoutingMethod.KEY:  # as it is told to the broker; a hash takes any bytes
            check_option("--key", routing.key)
        key = None if routing.key is None else os.fsencode(routing.key)
        key_from = routing.key_from
        delimiter = None if routing.key_delimiter is None else delimiter_of("--key-delimiter", routing.key_delimiter)
    return Looks(
        id_from=None if given.id_from == _LINE else _path("--id-from", given.id_from, shape),
        filter_value=check_option("--filter", given.filter_value),
        filter_from=_path("--filter-from", given.filter_from, shape),
        key=key,
        key_from=_path("--key-from", key_from, shape),
        key_delimiter=delimiter,
        may_filter=method is not Method.SUB_ENTRY,
    )


def _path(flag: str, text: str | None, shape: InputFormat) -> Path | None:
    if text is None:
        return None
    try:
        return _input(shape).path(text)
    except ValueError as error:
        also = "; or line" if flag == "--id-from" else ""
        raise CommandError(f"{flag}: {error}{also}") from None


def _extras(headers: list[str] | None, properties: list[str] | None, annotations: list[str] | None) -> Extras:
    from rstream_cli.encoding import Extras

    def pairs(flag: str, given: list[str] | None) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for text in given or ():
            try:
                key, value = parse_header(text)
            except ValueError as error:
                raise CommandError(f"{flag}: {error}") from None
            if key in found:
                raise CommandError(f"{flag}: {key!r} is given twice")
            if flag == "--property":
                _check_property(key)
            found[key] = value
        return found

    extras = Extras(pairs("--header", headers), pairs("--property", properties), pairs("--annotation", annotations))
    if extras:
        extras.message()
    return extras


def _check_property(name: str) -> None:
    from rstream_cli.records.envelope import PROPERTIES

    if name not in PROPERTIES:
        near = difflib.get_close_matches(name, PROPERTIES, n=1, cutoff=0.6)
        known = f"AMQP has {', '.join(PROPERTIES)}; --header takes any name"
        raise CommandError(
            f"--property: no such property: {name!r}", hint=f"did you mean {near[0]}? {known}" if near else known
        )


def _plan(
    target: str,
    files: list[str] | None,
    given: PublishOptions,
    env: Environment,
    *,
    create: bool,
    routing: Routing | None,
) -> PublishPlan:
    """Returns the plan, after checking the options against each other and against the files."""
    from rstream_cli.inputs import check_options, input_format
    from rstream_cli.publish_plan import PublishPlan
    from rstream_core import RouteType

    shape = input_format(given)
    is_dump = shape is InputFormat.DUMP
    sources = list(files or ["-"])
    for source in sources:
        check_no_uri("name of a file", source)
    if is_dump:
        from rstream_cli.dump_sources import dump_sources

        sources = dump_sources(sources)
    _check_sources(sources, files, given)
    check_options(given, shape, key_delimiter=routing is not None and routing.key_delimiter is not None)
    if given.name is not None:
        check_reference(given.name)
    method = _method(given)
    looks = _looks(given, routing, method, shape)
    extras = _extras(given.header, given.properties, given.annotation)
    raw = given.codec is Codec.RAW
    if raw and extras:
        raise CommandError(
            "--codec raw stores nothing but the bytes of a record",
            hint="leave out --header, --property and --annotation",
        )
    reader = None if given.message else _input(shape).reader(given, looks)
    size = None if given.message else _size_of(sources, env.stdin.fileno())
    route_type = None if routing is None or is_dump else RouteType(routing.method.value)
    return PublishPlan(
        stream=target,
        encoder=_input(shape).encoder(given, looks, extras, raw),
        reader=reader,
        sources=sources,
        inline=[os.fsencode(text) for text in given.message or ()],
        method=str(method),
        compression=(given.compression or Compression.NONE).core,
        batch_size=given.batch_size,
        linger=given.linger,
        name=given.name,
        has_ids=given.id_from is not None or is_dump,
        ids_are_numbers=given.id_from == _LINE,
        has_filters=looks.filter_value is not None or looks.filter_from is not None,
        routing=route_type,
        is_dump=is_dump,
        is_super_stream=is_dump and routing is not None,
        append=given.append,
        create=create,
        rate=given.rate,
        count=given.count,
        max_in_flight=given.max_in_flight,
        confirm_timeout=given.confirm_timeout,
        drain_timeout=given.drain_timeout,
        skip_bad=given.on_error is OnError.SKIP,
        failed_to=None
        if given.failed_to is None
        else _open_failed(given.failed_to, [] if given.message else sources, env.stdin.fileno()),
        raw=raw or is_dump,
        input_size=size,
    )


def _size_of(sources: list[str], stdin: int) -> int | None:
    """See ``check_sources``. Whoever writes a text where files stand is told how to publish one."""
    from rstream_cli.input import InputError, check_sources

    try:
        return check_sources(sources, stdin)
    except InputError as error:
        missing = [source for source in sources if source != "-" and not os.path.exists(source)]
        if missing and not any("/" in source for source in missing):
            error.hint = f"FILEs stand there; to publish it as a message, write `-m {shlex.quote(' '.join(missing))}`"
        raise


def _open_failed(path: pathlib.Path, sources: list[str], stdin: int) -> Any:
    """Opens ``--failed-to`` to write behind what is there: that may be the only copies of messages of earlier runs.

    Raises an error if it is a file of the input, which would then grow while it is read.
    """
    try:
        if path.exists():
            for source in sources:
                there = os.fstat(stdin) if source == "-" else os.stat(source)
                if path.is_file() and os.path.samestat(path.stat(), there):
                    raise CommandError(f"--failed-to: {path} is also an input")
        return path.open("ab", buffering=0)
    except OSError as error:
        raise CommandError(f"--failed-to: {path}: {error.strerror}") from None
