"""The output formats of ``consume``: a table. A new one is a value of ``OutputFormat``, a function here, and its line.

Each function makes what renders messages from the options. ``raw``: the stored bytes are the body, not AMQP 1.0.
``shown``: how what is from a message is made readable for a terminal; None: programs get the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rstream_cli.exit_status import CommandError
from rstream_cli.options.consuming import ConsumeOptions, OutputFormat
from rstream_cli.parsing import parse_delimiter
from rstream_cli.records.framing_out import DelimiterWriter, Len32Writer, RawWriter
from rstream_cli.rendering import Renderer, bodies_renderer, json_renderer, template_renderer
from rstream_cli.terminal import Bodies

_Maker = Callable[[ConsumeOptions, bool, Bodies | None], Renderer]


def _lines(options: ConsumeOptions, raw: bool, shown: Bodies | None) -> Renderer:
    try:
        bound = parse_delimiter(r"\n" if options.delimiter is None else options.delimiter)
    except ValueError as error:
        raise CommandError(f"--delimiter: {error}") from None
    return bodies_renderer(DelimiterWriter(bound), raw=raw, shown=shown)


def _nul(_: ConsumeOptions, raw: bool, shown: Bodies | None) -> Renderer:
    return bodies_renderer(DelimiterWriter(b"\0"), raw=raw, shown=shown, framing_too=True)


def _len32(_: ConsumeOptions, raw: bool, shown: Bodies | None) -> Renderer:
    return bodies_renderer(Len32Writer(), raw=raw, shown=shown, framing_too=True)


def _json(_: ConsumeOptions, raw: bool, shown: Bodies | None) -> Renderer:
    return json_renderer(raw=raw, shown=shown)


def _raw(_: ConsumeOptions, raw: bool, shown: Bodies | None) -> Renderer:
    return bodies_renderer(RawWriter(), raw=raw)


def _csv(options: ConsumeOptions, raw: bool, shown: Bodies | None) -> Renderer:
    from rstream_cli.records.csv_out import DEFAULT_COLUMNS, csv_renderer, parse_columns

    try:
        columns = parse_columns(DEFAULT_COLUMNS if options.columns is None else options.columns)
    except ValueError as error:
        raise CommandError(f"--columns: {error}", hint=getattr(error, "hint", None)) from None
    return csv_renderer(columns, raw=raw, shown=shown)


def _template(options: ConsumeOptions, raw: bool, shown: Bodies | None) -> Renderer:
    from rstream_cli.records.template import Template

    assert options.template is not None
    try:
        return template_renderer(Template(options.template, shown), raw=raw)
    except ValueError as error:
        raise CommandError(f"--format: {error}") from None


OUTPUTS: Mapping[OutputFormat, _Maker] = {
    OutputFormat.LINES: _lines,
    OutputFormat.NUL: _nul,
    OutputFormat.LEN32: _len32,
    OutputFormat.JSON: _json,
    OutputFormat.CSV: _csv,
    OutputFormat.RAW: _raw,
}


def renderer_of(options: ConsumeOptions, *, raw: bool, shown: Bodies | None) -> Renderer:
    """Returns what the options ask for. Raises CommandError."""
    said: dict[str, Any] = {
        "-0": OutputFormat.NUL if options.nul else None,
        "--json": OutputFormat.JSON if options.json else None,
        "--output": options.output,
        "--format": options.template,
        "--delimiter": None if options.delimiter is None else OutputFormat.LINES,
        "--columns": None if options.columns is None else OutputFormat.CSV,
    }
    chosen = {flag: value for flag, value in said.items() if value is not None}
    if len(set(chosen.values())) > 1:
        raise CommandError(f"{' and '.join(chosen)} contradict each other")
    if options.template is not None:
        return _template(options, raw, shown)
    return OUTPUTS[next(iter(chosen.values()), OutputFormat.LINES)](options, raw, shown)
