"""The input formats of ``publish``: a table. A new one is a value of ``InputFormat`` and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import NamedTuple

from rstream_cli.encoding import Encoder, Extras, Looks, json_encoder, plain_encoder
from rstream_cli.exit_status import CommandError
from rstream_cli.options.publishing import InputFormat, PublishOptions
from rstream_cli.parsing import parse_delimiter
from rstream_cli.records.csv_in import csv_encoder, csv_reader
from rstream_cli.records.framing_in import DelimiterReader, Len32Reader, RecordReader, WholeReader
from rstream_cli.records.paths import Path, parse_path


class InputShape(NamedTuple):
    """How records are read and encoded."""

    reader: Callable[[PublishOptions, Looks], RecordReader]
    """Makes what cuts the input into records."""
    encoder: Callable[[PublishOptions, Looks, Extras, bool], Encoder]
    """Makes what makes messages of records; the last argument is whether their bytes are stored as they are."""
    options: Set[str] = frozenset()
    """Which of the options of some formats go with this one."""
    takes_messages: bool = False
    """Whether what stands behind ``--message`` may have this format."""
    path: Callable[[str], Path] = parse_path
    """Reads what stands behind ``--id-from``, ``--filter-from`` and ``--key-from``. Raises ValueError."""


def _lines(given: PublishOptions, _: Looks) -> RecordReader:
    try:
        delimiter = parse_delimiter(r"\n" if given.delimiter is None else given.delimiter)
    except ValueError as error:
        raise CommandError(f"--delimiter: {error}") from None
    return DelimiterReader(delimiter, crlf=given.crlf)


def _plain(given: PublishOptions, looks: Looks, extras: Extras, raw: bool) -> Encoder:
    return plain_encoder(extras, looks, raw=raw, skip_empty=given.skip_empty)


def _envelopes(_: PublishOptions, looks: Looks, extras: Extras, raw: bool) -> Encoder:
    return json_encoder(extras, looks, raw=raw)


def _column(name: str) -> Path:
    return (name,)


INPUTS: Mapping[InputFormat, InputShape] = {
    InputFormat.LINES: InputShape(_lines, _plain, {"--delimiter", "--crlf", "--skip-empty"}, takes_messages=True),
    InputFormat.NUL: InputShape(lambda *_: DelimiterReader(b"\0"), _plain, {"--skip-empty"}),
    InputFormat.LEN32: InputShape(lambda *_: Len32Reader(), _plain),
    InputFormat.WHOLE: InputShape(lambda *_: WholeReader(), _plain),
    InputFormat.JSON: InputShape(lambda *_: DelimiterReader(b"\n"), _envelopes, takes_messages=True),
    InputFormat.CSV: InputShape(csv_reader, csv_encoder, {"--body-from"}, path=_column),
}
