"""The input formats of ``publish``: a table. A new one is a value of ``InputFormat`` and a line here, which says all
that is particular to it: also which options imply it, and which go with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import NamedTuple

from rstream_cli.encoding import Encoder, Extras, Looks, json_encoder, plain_encoder
from rstream_cli.exit_status import CommandError
from rstream_cli.formats import chosen_format, delimiter_of, is_given
from rstream_cli.options.publishing import InputFormat, PublishOptions
from rstream_cli.records.csv_in import csv_encoder, csv_reader
from rstream_cli.records.framing_in import DelimiterReader, Len32Reader, RecordReader, WholeReader
from rstream_cli.records.paths import Path, parse_path


class InputShape(NamedTuple):
    """How records are read and encoded."""

    reader: Callable[[PublishOptions, Looks], RecordReader | None]
    """Makes what cuts the input into records; None where the input has messages, and no records."""
    encoder: Callable[[PublishOptions, Looks, Extras, bool], Encoder]
    """Makes what makes messages of records; the last argument is whether their bytes are stored as they are."""
    implied_by: Mapping[str, str] = {}
    """The options that imply this format, with their fields of ``PublishOptions``."""
    options: Mapping[str, str] = {}
    """The options that go with this format and not with all, with their fields of ``PublishOptions``."""
    messages_too: Set[str] | None = None
    """Which of these go with ``--message`` too; None: what stands behind ``--message`` cannot have this format."""
    refused: Mapping[str, str] = {}
    """The options of all other formats that do not go with this one, with their fields of ``PublishOptions``."""
    no_key_delimiter: str = ""
    """A hint for whoever gives ``--key-delimiter``, if records of this format cannot have a key in front."""
    path: Callable[[str], Path] = parse_path
    """Reads what stands behind ``--id-from``, ``--filter-from`` and ``--key-from``. Raises ValueError."""


def _lines(given: PublishOptions, _: Looks) -> RecordReader:
    delimiter = b"\n" if given.delimiter is None else delimiter_of("--delimiter", given.delimiter)
    return DelimiterReader(delimiter, crlf=given.crlf)


def _plain(given: PublishOptions, looks: Looks, extras: Extras, raw: bool) -> Encoder:
    return plain_encoder(extras, looks, raw=raw, skip_empty=given.skip_empty)


def _envelopes(_: PublishOptions, looks: Looks, extras: Extras, raw: bool) -> Encoder:
    return json_encoder(extras, looks, raw=raw)


def _column(name: str) -> Path:
    return (name,)


_SKIP_EMPTY = {"--skip-empty": "skip_empty"}
INPUTS: Mapping[InputFormat, InputShape] = {
    InputFormat.LINES: InputShape(
        _lines,
        _plain,
        options={"--delimiter": "delimiter", "--crlf": "crlf", **_SKIP_EMPTY},
        messages_too=_SKIP_EMPTY.keys(),
    ),
    InputFormat.NUL: InputShape(lambda *_: DelimiterReader(b"\0"), _plain, {"-0": "nul"}, _SKIP_EMPTY),
    InputFormat.LEN32: InputShape(lambda *_: Len32Reader(), _plain),
    InputFormat.WHOLE: InputShape(lambda *_: WholeReader(), _plain, {"--whole": "whole"}),
    InputFormat.JSON: InputShape(
        lambda *_: DelimiterReader(b"\n"),
        _envelopes,
        {"--json": "json_lines"},
        messages_too=frozenset(),
        no_key_delimiter="use --key-from with a path in the envelope",
    ),
    InputFormat.CSV: InputShape(
        csv_reader,
        csv_encoder,
        options={"--body-from": "body_from"},
        no_key_delimiter="use --key-from COLUMN",
        path=_column,
    ),
    InputFormat.DUMP: InputShape(
        lambda *_: None,
        _plain,
        options={"--append": "append"},
        refused={
            "--name": "name",
            "--id-from": "id_from",
            "--filter": "filter_value",
            "--filter-from": "filter_from",
            "--header": "header",
            "--property": "properties",
            "--annotation": "annotation",
            "--method": "method",
            "--compression": "compression",
            "--failed-to": "failed_to",
        },
        no_key_delimiter="the messages of a dump go to the partitions that they are from",
    ),
}


def input_format(given: PublishOptions) -> InputFormat:
    """Returns what the options ask for. Raises CommandError."""
    implied_by = {shape: INPUTS[shape].implied_by for shape in INPUTS}
    return chosen_format(given, {"--input": given.input_format}, implied_by) or InputFormat.LINES


def check_options(given: PublishOptions, format: InputFormat, *, key_delimiter: bool) -> None:  # noqa: A002
    """Raises CommandError for an option that does not go with this format."""
    shape = INPUTS[format]
    where = f"--input {format}"
    if given.message and shape.messages_too is None:
        raise CommandError(f"--message cannot be used with {where}")
    if key_delimiter and shape.no_key_delimiter:
        raise CommandError(f"--key-delimiter cannot be used with {where}", hint=shape.no_key_delimiter)
    for flag, field in shape.refused.items():
        if is_given(given, field):
            hint = "messages are published as they are, under ids of their own: a restore can be run again"
            raise CommandError(f"{flag} cannot be used with {where}", hint=hint)
    fitting: Set[str] = shape.options.keys()
    if shape.messages_too is not None and given.message:
        fitting, where = shape.messages_too, "--message"
    for other in INPUTS.values():
        for flag, field in other.options.items():
            if flag not in fitting and is_given(given, field):
                raise CommandError(f"{flag} cannot be used with {where}")
