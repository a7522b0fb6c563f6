"""Makes encoded messages of input records. The options determine once which function encodes lists of records.

Records that are bodies and nothing else become ``PlainMessages``: the publisher's frame is made of the bodies. Headers,
properties and annotations that are the same for all messages are encoded once, and put in front of each body: a message
is a sequence of sections, and the body comes last.

Records are examined one by one only if an option needs a value from each (``Looks``), or if they are envelopes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any, NamedTuple, Protocol

from rstream_cli.exit_status import CommandError
from rstream_cli.records.body_envelopes import bodies_from_json
from rstream_cli.records.envelope import from_json
from rstream_cli.records.paths import Path, format_path
from rstream_cli.records.tagged_values import EnvelopeError, at_path, loads, value_to_json
from rstream_core import AmqpError, AMQPMessage
from rstream_core.checks import check_text
from rstream_core.protocol.amqp import encode_bodies
from rstream_core.protocol.amqp_sections import PlainMessages

_EMPTY_BODY = len(AMQPMessage(b"").encode())

_MAX_ID = 2**64 - 1


class Encoded(NamedTuple):
    """Encoded records: columns of the same length, and the bad records with their errors."""

    messages: Sequence[bytes]
    numbers: Sequence[int] | None = None
    """The numbers of the records; None: consecutive ones."""
    bad: Sequence[tuple[int, str]] = ()
    ids: Sequence[int] | None = None
    filters: Sequence[str | None] | None = None
    keys: Sequence[bytes] | None = None
    """Routing keys."""


class Encoder(Protocol):
    """Makes encoded messages of input records. ``number`` is the number of the first record.

    Stops at ``room`` messages, and with ``stop_at_bad`` behind the first bad record.
    """

    def __call__(self, records: list[bytes], number: int, room: int, stop_at_bad: bool) -> Encoded: ...


@dataclass(frozen=True, slots=True)
class Extras:
    """The headers, properties and annotations that the options add to every message."""

    headers: dict[str, Any] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)
    annotations: dict[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.headers or self.properties or self.annotations)

    def message(self) -> AMQPMessage:
        """A message with nothing else. Raises CommandError for what AMQP cannot hold there."""
        import orjson

        document: dict[str, dict[str, Any]] = {}
        message = AMQPMessage()
        for flag, section, values in (
            ("--property", "properties", self.properties),
            ("--header", "headers", self.headers),
            ("--annotation", "annotations", self.annotations),
        ):
            document[section] = {name: value_to_json(value) for name, value in values.items()}
            try:
                message = from_json(orjson.dumps(document)).message
                message.encode()
            except (EnvelopeError, ValueError, TypeError) as error:
                words = str(error).removeprefix(f'"{section}": ')
                is_text = words.endswith("not a string")
                raise CommandError(
                    f"{flag}: {words}",
                    hint="KEY=TEXT sets text, KEY:=JSON a value of another type" if is_text else None,
                ) from None
        return message


@dataclass(frozen=True, slots=True)
class Looks:
    """Where each record's publishing id, filter value and routing key come from.

    Paths lead into its JSON. In a row of CSV each has one step, the name of a column.
    """

    id_from: Path | None = None
    filter_value: str | None = None
    """A filter value that is the same for all records."""
    filter_from: Path | None = None
    key: bytes | None = None
    """A routing key that is the same for all records."""
    key_from: Path | None = None
    key_delimiter: bytes | None = None
    """The bytes between the routing key, which comes first, and the record itself."""
    may_filter: bool = True
    """Whether a message may have a filter value."""

    @property
    def into_json(self) -> bool:
        """Whether records must be JSON."""
        return (self.id_from, self.filter_from, self.key_from) != (None, None, None)

    @property
    def into_records(self) -> bool:
        """Whether each record has to be examined."""
        return self.into_json or self.key_delimiter is not None


class _Row(NamedTuple):
    """The values from one record."""

    content: bytes
    """A body, or an encoded message."""
    publishing_id: int | None
    filter_value: str | None
    key: bytes | None


class Cells(NamedTuple):
    """What a row has in the columns that are asked for; None where none is."""

    body: bytes
    publishing_id: bytes | None = None
    filter_value: bytes | None = None
    key: bytes | None = None


_LookAt = Callable[[bytes], _Row]


def plain_encoder(extras: Extras, looks: Looks, *, raw: bool, skip_empty: bool) -> Encoder:
    """Returns an encoder for records that are bodies, or with ``raw`` whole messages in a codec of the user's own."""
    encode = _body_encoder(extras, raw=raw)
    if encode is PlainMessages and looks == Looks(may_filter=looks.may_filter) and not skip_empty:
        return encode_bodies_alone
    if looks.into_records:
        one_by_one = _one_by_one(
            _look_at_body(looks), encode, looks, skip=(lambda record: not record) if skip_empty else None
        )
        if looks.key_delimiter is not None and not looks.into_json and looks.filter_value is None:
            return _keyed_encoder(looks.key_delimiter, encode, one_by_one)
        return one_by_one

    def plain(records: list[bytes], number: int, room: int, stop_at_bad: bool) -> Encoded:
        numbers = None
        if skip_empty:
            filled = list(filter(None, records))
            if len(filled) < len(records):
                numbers = [number + index for index, record in enumerate(records) if record]
            records = filled
        if room < len(records):
            records = records[:room]
        return Encoded(
            encode(records),
            numbers,
            filters=None if looks.filter_value is None else [looks.filter_value] * len(records),
            keys=None if looks.key is None else [looks.key] * len(records),
        )

    return plain


def encode_bodies_alone(records: list[bytes], number: int, room: int, stop_at_bad: bool) -> Encoded:
    """Encodes records that are bodies, where no option asks for anything else. See ``Encoder``."""
    return Encoded(PlainMessages(records if room >= len(records) else records[:room]))


def _keyed_encoder(delimiter: bytes, encode: Callable[[list[bytes]], Sequence[bytes]], one_by_one: Encoder) -> Encoder:
    """Returns an encoder for records that are a key, the delimiter and a body. ``one_by_one`` gets those among which
    one has no delimiter: it is bad, or empty and to be skipped."""

    def keyed(records: list[bytes], number: int, room: int, stop_at_bad: bool) -> Encoded:
        some = records[:room] if room < len(records) else records
        parts = list(chain.from_iterable(map(bytes.split, some, repeat(delimiter), repeat(1))))
        if len(parts) < 2 * len(some):
            return one_by_one(records, number, room, stop_at_bad)
        return Encoded(encode(parts[1::2]), range(number, number + len(some)), keys=tuple(parts[::2]))

    return keyed


def _look_at_body(looks: Looks) -> _LookAt:
    delimiter = looks.key_delimiter

    def look(record: bytes) -> _Row:
        key = looks.key
        if delimiter is not None:
            key, found, record = record.partition(delimiter)
            if not found:
                raise EnvelopeError(
                    f"no routing key: the record does not contain {delimiter.decode(errors='replace')!a}"
                )
        return _row(record, loads(record) if looks.into_json else None, looks, None, key)

    return look


def cells_encoder(extras: Extras, looks: Looks, cells_of: Callable[[bytes], Cells], *, raw: bool) -> Encoder:
    """Returns an encoder for records that ``cells_of`` takes apart; ``looks`` has the names of their columns."""

    def look(record: bytes) -> _Row:
        cells = cells_of(record)
        filter_value = looks.filter_value
        if cells.filter_value is not None:
            filter_value = _cell_text(cells.filter_value, "the filter value") or None
        _check_filter(filter_value, looks)
        number = None
        if cells.publishing_id is not None:
            text = _cell_text(cells.publishing_id, "the publishing id")
            number = int(text) if re.fullmatch("[0-9]{1,20}", text) else -1
            if not 0 <= number <= _MAX_ID:
                raise EnvelopeError(f"{text[:60]!r} is not a publishing id, a whole number from 0 to 2^64-1")
        return _Row(cells.body, number, filter_value, looks.key if cells.key is None else cells.key)

    return _one_by_one(look, _body_encoder(extras, raw=raw), looks, skip=None)


def _cell_text(cell: bytes, what: str) -> str:
    try:
        return cell.decode()
    except UnicodeDecodeError:
        raise EnvelopeError(f"{what} is not UTF-8") from None


def _row(content: bytes, document: Any, looks: Looks, filter_value: str | None, key: bytes | None) -> _Row:
    """Returns a row with the values at the paths; ``filter_value`` and ``key`` are the values without such paths."""
    if looks.filter_from is not None:
        found = at_path(document, looks.filter_from)
        filter_value = None if found is None else _text(found, looks.filter_from)
    elif looks.filter_value is not None:
        filter_value = looks.filter_value
    _check_filter(filter_value, looks)
    if looks.key_from is not None:
        key = _text(at_path(document, looks.key_from), looks.key_from).encode()
    publishing_id = None if looks.id_from is None else _id(at_path(document, looks.id_from), looks.id_from)
    return _Row(content, publishing_id, filter_value, key)


def _check_filter(value: str | None, looks: Looks) -> None:
    if value is not None:
        if not looks.may_filter:
            raise EnvelopeError("it has a filter value, which sub-entries cannot carry")
        check_text("its filter value", value)


def _text(value: Any, path: Path) -> str:
    """Returns a filter value or routing key as text. Raises EnvelopeError unless it is text or a whole number."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(int(value))
    raise EnvelopeError(f"{format_path(path)} is neither text nor a whole number")


def _id(value: Any, path: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_ID:
        raise EnvelopeError(f"{format_path(path)} is not a publishing id, a whole number from 0 to 2^64-1")
    return int(value)


def _one_by_one(
    look: _LookAt,
    finish: Callable[[list[bytes]], Sequence[bytes]],
    looks: Looks,
    *,
    skip: Callable[[bytes], bool] | None,
) -> Encoder:
    """Returns an encoder that examines each record. Ids must grow over the whole input.

    ``finish`` makes messages of the contents.
    """
    last_id = -1

    def encode(records: list[bytes], number: int, room: int, stop_at_bad: bool) -> Encoded:
        nonlocal last_id
        rows: list[_Row] = []
        numbers: list[int] = []
        bad: list[tuple[int, str]] = []
        for at, record in enumerate(records, number):
            if len(rows) >= room:
                break
            if skip is not None and skip(record):
                continue
            try:
                row = look(record)
                if row.publishing_id is not None:
                    if row.publishing_id <= last_id:
                        raise EnvelopeError(
                            f"the publishing id {row.publishing_id} is not higher than {last_id}, the one before"
                        )
                    last_id = row.publishing_id
            except (EnvelopeError, AmqpError, ValueError, TypeError) as error:
                bad.append((at, str(error)))
                if stop_at_bad:
                    break
            else:
                rows.append(row)
                numbers.append(at)
        contents, ids, filters, keys = zip(*rows, strict=True) if rows else ((), (), (), ())
        return Encoded(
            finish(list(contents)),
            numbers,
            bad,
            ids=None if looks.id_from is None else ids,
            filters=filters if any(value is not None for value in filters) else None,
            keys=keys if _has_keys(looks) else None,
        )

    return encode


def _has_keys(looks: Looks) -> bool:
    return (looks.key, looks.key_from, looks.key_delimiter) != (None, None, None)


def _body_encoder(extras: Extras, *, raw: bool) -> Callable[[list[bytes]], Sequence[bytes]]:
    if raw:
        return lambda records: records
    if not extras:
        return PlainMessages
    sections = extras.message().encode()[:-_EMPTY_BODY]
    return lambda records: [sections + message for message in encode_bodies(records)]


def json_encoder(extras: Extras, looks: Looks, *, raw: bool) -> Encoder:
    """Returns an encoder for envelopes. Values from the options replace those of the envelope, name by name."""
    extra = extras.message() if extras else None

    def look(line: bytes) -> _Row:
        message, filter_value, document = from_json(line)
        if extra is not None:
            _overlay(message, extra)
        if raw:
            content = message.body
            if content is None or "body_sections" in document or message != AMQPMessage(content):
                raise EnvelopeError('with --codec raw a record has a "body" or a "body_base64" and nothing else')
        else:
            content = message.encode()
        return _row(content, document, looks, filter_value, looks.key)

    general = _one_by_one(look, lambda messages: messages, looks, skip=lambda line: not line or line.isspace())
    if extra is not None or raw or looks != Looks(may_filter=looks.may_filter):
        return general

    def encode(records: list[bytes], number: int, room: int, stop_at_bad: bool) -> Encoded:
        bodies = bodies_from_json(records if room >= len(records) else records[:room])
        if bodies is None:
            return general(records, number, room, stop_at_bad)
        return Encoded(PlainMessages(bodies))

    return encode


def _overlay(message: AMQPMessage, extra: AMQPMessage) -> None:
    if extra.application_properties:
        message.application_properties = (message.application_properties or {}) | extra.application_properties
    if extra.message_annotations:
        message.message_annotations = (message.message_annotations or {}) | extra.message_annotations
    if extra.properties:
        properties = message.properties
        if properties is None:
            message.properties = extra.properties
            return
        for name in type(properties).__slots__:
            value = getattr(extra.properties, name)
            if value is not None:
                setattr(properties, name, value)
