"""The output formats of ``consume``: a table. A new one is a value of ``OutputFormat``, a function here, and its line,
which also names the options that imply it.

Each function makes what renders messages from the options. ``raw``: the stored bytes are the body, not AMQP 1.0.
``shown``: how what is from a message is made readable for a terminal, and JSON laid out for a person.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from rstream_cli.exit_status import CommandError
from rstream_cli.formats import chosen_format, delimiter_of
from rstream_cli.options.consuming import ConsumeOptions, OutputFormat
from rstream_cli.records.framing_out import DelimiterWriter, Len32Writer, RawWriter
from rstream_cli.rendering import Renderer, bodies_renderer, json_renderer, template_renderer
from rstream_cli.terminal import Bodies


class Shown(NamedTuple):
    """How a terminal, or a person, gets the output; with neither, programs get the bytes."""

    bodies: Bodies | None = None
    """Makes what is from a message readable."""
    layout: Callable[[str], str] | None = None
    """Lays JSON out."""


_Maker = Callable[[ConsumeOptions, bool, Shown], Renderer]


def _lines(options: ConsumeOptions, raw: bool, shown: Shown) -> Renderer:
    delimiter = b"\n" if options.delimiter is None else delimiter_of("--delimiter", options.delimiter)
    return bodies_renderer(DelimiterWriter(delimiter), raw=raw, shown=shown.bodies)


def _nul(_: ConsumeOptions, raw: bool, shown: Shown) -> Renderer:
    return bodies_renderer(DelimiterWriter(b"\0"), raw=raw, shown=shown.bodies, framing_too=True)


def _len32(_: ConsumeOptions, raw: bool, shown: Shown) -> Renderer:
    return bodies_renderer(Len32Writer(), raw=raw, shown=shown.bodies, framing_too=True)


def _json(_: ConsumeOptions, raw: bool, shown: Shown) -> Renderer:
    return json_renderer(raw=raw, shown=shown.bodies, layout=shown.layout)


def _raw(_: ConsumeOptions, raw: bool, shown: Shown) -> Renderer:
    return bodies_renderer(RawWriter(), raw=raw)


def _csv(options: ConsumeOptions, raw: bool, shown: Shown) -> Renderer:
    from rstream_cli.records.csv_out import DEFAULT_COLUMNS, csv_renderer, parse_columns

    try:
        columns = parse_columns(DEFAULT_COLUMNS if options.columns is None else options.columns)
    except ValueError as error:
        raise CommandError(f"--columns: {error}", hint=getattr(error, "hint", None)) from None
    return csv_renderer(columns, raw=raw, shown=shown.bodies)


def _dump(options: ConsumeOptions, raw: bool, shown: Shown) -> Renderer:
    """The target of a dump, which writes to a file, too, is made before."""
    raise AssertionError("a dump is rendered by its target")


def _template(options: ConsumeOptions, raw: bool, shown: Shown) -> Renderer:
    from rstream_cli.records.template import Template

    assert options.template is not None
    try:
        return template_renderer(Template(options.template, shown.bodies), raw=raw)
    except ValueError as error:
        raise CommandError(f"--format: {error}") from None


class OutputShape(NamedTuple):
    """How messages are written."""

    make: _Maker
    implied_by: Mapping[str, str] = {}
    """The options that imply this format, with their fields of ``ConsumeOptions``."""


OUTPUTS: Mapping[OutputFormat, OutputShape] = {
    OutputFormat.LINES: OutputShape(_lines, {"--delimiter": "delimiter"}),
    OutputFormat.NUL: OutputShape(_nul, {"-0": "nul"}),
    OutputFormat.LEN32: OutputShape(_len32),
    OutputFormat.JSON: OutputShape(_json, {"--json": "json"}),
    OutputFormat.CSV: OutputShape(_csv, {"--columns": "columns"}),
    OutputFormat.RAW: OutputShape(_raw),
    OutputFormat.DUMP: OutputShape(_dump),
}


def renderer_of(options: ConsumeOptions, *, raw: bool, shown: Shown) -> Renderer:
    """Returns what the options ask for. Raises CommandError."""
    said = {
        "--output": None if options.output is None else OUTPUTS[options.output].make,
        "--format": None if options.template is None else _template,
    }
    make = chosen_format(options, said, {shape.make: shape.implied_by for shape in OUTPUTS.values()}) or _lines
    return make(options, raw, shown)
