"""Every command of the stream protocol, in one table of key x version.

Source: rabbitmq-server, deps/rabbitmq_stream/docs/PROTOCOL.adoc, and captured frames (tests/vectors).

A message is a NamedTuple. Its row in ``_TABLE`` has its key, its version, the start of the frame (``Shape``) and the
codec of each field. ``encode`` and ``decode`` follow the table in both directions, for clients and for brokers.
Responses have their request's key with the top bit set; a request knows the type of its response (``Request``).

A client's frames are read as RabbitMQ reads them: ``rabbit_stream_core:parse_request`` and ``parse_response`` of 4.3.6,
compared in ``tests/conformance/test_tolerance.py``. RabbitMQ accepts more than PROTOCOL.adoc allows, and clients depend
on that. A broker's frames are read strictly; only fields that RabbitMQ itself leaves out are optional.

The module is longer than others, so that the whole protocol can be compared with PROTOCOL.adoc in one place.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from rstream_core.errors import RESPONSE_OK, ProtocolError
from rstream_core.protocol.primitives import (
    Codec,
    Reader,
    array,
    i16,
    i64,
    last_array,
    last_mapping,
    long_string,
    mapping,
    nullable_bytes,
    nullable_string,
    record,
    request_string,
    request_text,
    rest_of_frame,
    string,
    u8,
    u16,
    u32,
    u64,
    u64_array,
)
from rstream_core.protocol.sub_batch import SUB_BATCH, SUB_BATCH_BIT, codec_of, write_sub_batch

Response_co = TypeVar("Response_co", covariant=True)

RESPONSE_BIT = 0x8000
NO_LEADER = 0xFFFF
"""The leader index of a stream that has none (an int16 of -1)."""


class Key(enum.IntEnum):
    """The commands, by the number on the wire."""

    DECLARE_PUBLISHER = 0x01
    PUBLISH = 0x02
    PUBLISH_CONFIRM = 0x03
    PUBLISH_ERROR = 0x04
    QUERY_PUBLISHER_SEQUENCE = 0x05
    DELETE_PUBLISHER = 0x06
    SUBSCRIBE = 0x07
    DELIVER = 0x08
    CREDIT = 0x09
    STORE_OFFSET = 0x0A
    QUERY_OFFSET = 0x0B
    UNSUBSCRIBE = 0x0C
    CREATE = 0x0D
    DELETE = 0x0E
    METADATA = 0x0F
    METADATA_UPDATE = 0x10
    PEER_PROPERTIES = 0x11
    SASL_HANDSHAKE = 0x12
    SASL_AUTHENTICATE = 0x13
    TUNE = 0x14
    OPEN = 0x15
    CLOSE = 0x16
    HEARTBEAT = 0x17
    ROUTE = 0x18
    PARTITIONS = 0x19
    CONSUMER_UPDATE = 0x1A
    EXCHANGE_COMMAND_VERSIONS = 0x1B
    STREAM_STATS = 0x1C
    CREATE_SUPER_STREAM = 0x1D
    DELETE_SUPER_STREAM = 0x1E
    RESOLVE_OFFSET_SPEC = 0x1F


class Shape(enum.Enum):
    """The part of a frame between key and version, and the fields."""

    NOTICE = enum.auto()
    """Empty: no answer is expected."""
    REQUEST = enum.auto()
    """A correlation id."""
    RESPONSE = enum.auto()
    """A correlation id and a response code; the fields may be missing where the code is an error."""
    RESPONSE_WITHOUT_CODE = enum.auto()
    """A correlation id only: Metadata has a code for each stream."""
    RESPONSE_WITHOUT_CORRELATION = enum.auto()
    """A response code only: the broker's refusal of a Credit."""


class Request(Protocol[Response_co]):
    """A message that the other side answers. It knows the type of its answer."""

    @property
    def response(self) -> type[Response_co]: ...


class OffsetSpec(NamedTuple):
    """An offset specification on the wire. Only types 4 and 5 have an offset."""

    offset_type: int
    offset: int = 0


def _write_offset_spec(out: bytearray, spec: OffsetSpec) -> None:
    u16.write(out, spec.offset_type)
    if spec.offset_type == 4:
        u64.write(out, spec.offset)
    elif spec.offset_type == 5:
        i64.write(out, spec.offset)


def _read_offset_spec(reader: Reader) -> OffsetSpec:
    offset_type = u16.read(reader)
    if offset_type == 4:
        return OffsetSpec(offset_type, u64.read(reader))
    if offset_type == 5:
        return OffsetSpec(offset_type, i64.read(reader))
    if offset_type > 5:
        raise ProtocolError(f"unknown offset type {offset_type}")
    return OffsetSpec(offset_type)


_offset_spec = Codec("offset specification", 2, _write_offset_spec, _read_offset_spec)


class PublishedMessage(NamedTuple):
    """One entry of a Publish: a message."""

    publishing_id: int
    data: bytes


class PublishedSubBatch(NamedTuple):
    """One entry of a Publish: several messages under one publishing id, perhaps compressed."""

    publishing_id: int
    compression: int
    records: int
    uncompressed_size: int
    data: bytes


class FilteredMessage(NamedTuple):
    """One entry of a Publish v2."""

    publishing_id: int
    filter_value: str | None
    data: bytes


def _write_entry(out: bytearray, entry: PublishedMessage | PublishedSubBatch) -> None:
    u64.write(out, entry.publishing_id)
    if isinstance(entry, PublishedSubBatch):
        write_sub_batch(out, entry.compression, entry.records, entry.uncompressed_size, entry.data)
    else:
        u32.write(out, len(entry.data))
        out += entry.data


def _read_entry(reader: Reader) -> PublishedMessage | PublishedSubBatch:
    publishing_id = u64.read(reader)
    if reader.remaining and reader.data[reader.pos] & SUB_BATCH_BIT:
        kind, records, uncompressed_size, size = SUB_BATCH.unpack(reader.take(SUB_BATCH.size))
        return PublishedSubBatch(publishing_id, codec_of(kind), records, uncompressed_size, reader.take(size))
    return PublishedMessage(publishing_id, reader.take(u32.read(reader)))


_publish_entry = Codec("message or sub-entry", 12, _write_entry, _read_entry)


class MessageError(NamedTuple):
    """One entry of a PublishError."""

    publishing_id: int
    code: int


class BrokerAddress(NamedTuple):
    """One broker of a Metadata response; streams refer to it by ``reference``."""

    reference: int
    host: str
    port: int


class StreamLocation(NamedTuple):
    """One stream of a Metadata response; ``leader`` is ``NO_LEADER`` where there is none."""

    stream: str
    code: int
    leader: int
    replicas: tuple[int, ...]


class CommandVersions(NamedTuple):
    """The versions of one command that a side understands."""

    key: int
    minimum: int
    maximum: int


class DeclarePublisher(NamedTuple):
    publisher_id: int
    reference: str
    stream: str

    @property
    def response(self) -> type[DeclarePublisherResponse]:
        return DeclarePublisherResponse


class DeclarePublisherResponse(NamedTuple):
    pass


class Publish(NamedTuple):
    publisher_id: int
    entries: Sequence[PublishedMessage | PublishedSubBatch]


class PublishFiltered(NamedTuple):
    """Publish v2: each message may carry a filter value."""

    publisher_id: int
    entries: Sequence[FilteredMessage]


class PublishConfirm(NamedTuple):
    publisher_id: int
    publishing_ids: Sequence[int]


class PublishError(NamedTuple):
    publisher_id: int
    errors: Sequence[MessageError]


class QueryPublisherSequence(NamedTuple):
    reference: str
    stream: str

    @property
    def response(self) -> type[QueryPublisherSequenceResponse]:
        return QueryPublisherSequenceResponse


class QueryPublisherSequenceResponse(NamedTuple):
    sequence: int


class DeletePublisher(NamedTuple):
    publisher_id: int

    @property
    def response(self) -> type[DeletePublisherResponse]:
        return DeletePublisherResponse


class DeletePublisherResponse(NamedTuple):
    pass


class Subscribe(NamedTuple):
    subscription_id: int
    stream: str
    offset_spec: OffsetSpec
    credit: int
    properties: Mapping[str, str]

    @property
    def response(self) -> type[SubscribeResponse]:
        return SubscribeResponse


class SubscribeResponse(NamedTuple):
    pass


class Deliver(NamedTuple):
    """Deliver v1; ``chunk`` is header and data as in ``protocol.chunk``."""

    subscription_id: int
    chunk: bytes


class DeliverCommitted(NamedTuple):
    """Deliver v2: with the id of the chunk that is committed so far."""

    subscription_id: int
    committed_chunk_id: int
    chunk: bytes


class Delivery(NamedTuple):
    """A Deliver of either version, as a client takes it: its chunk stays where it is in the frame, and is not copied.

    Read by ``wire.received``.
    """

    subscription_id: int
    committed_chunk_id: int | None
    """None in version 1."""
    frame: bytes
    start: int
    """Where the chunk begins in ``frame``. It ends with it."""


class Credit(NamedTuple):
    subscription_id: int
    credit: int


class CreditResponse(NamedTuple):
    """Sent only when a Credit is refused."""

    subscription_id: int


class StoreOffset(NamedTuple):
    reference: str
    stream: str
    offset: int


class QueryOffset(NamedTuple):
    reference: str
    stream: str

    @property
    def response(self) -> type[QueryOffsetResponse]:
        return QueryOffsetResponse


class QueryOffsetResponse(NamedTuple):
    offset: int


class Unsubscribe(NamedTuple):
    subscription_id: int

    @property
    def response(self) -> type[UnsubscribeResponse]:
        return UnsubscribeResponse


class UnsubscribeResponse(NamedTuple):
    pass


class Create(NamedTuple):
    stream: str
    arguments: Mapping[str, str]

    @property
    def response(self) -> type[CreateResponse]:
        return CreateResponse


class CreateResponse(NamedTuple):
    pass


class Delete(NamedTuple):
    stream: str

    @property
    def response(self) -> type[DeleteResponse]:
        return DeleteResponse


class DeleteResponse(NamedTuple):
    pass


class Metadata(NamedTuple):
    streams: Sequence[str]

    @property
    def response(self) -> type[MetadataResponse]:
        return MetadataResponse


class MetadataResponse(NamedTuple):
    brokers: Sequence[BrokerAddress]
    streams: Sequence[StreamLocation]


class MetadataUpdate(NamedTuple):
    """The stream moved or is gone; its publishers and subscriptions on this connection are dropped already."""

    code: int
    stream: str


class PeerProperties(NamedTuple):
    properties: Mapping[str, str]

    @property
    def response(self) -> type[PeerPropertiesResponse]:
        return PeerPropertiesResponse


class PeerPropertiesResponse(NamedTuple):
    properties: Mapping[str, str]


class SaslHandshake(NamedTuple):
    @property
    def response(self) -> type[SaslHandshakeResponse]:
        return SaslHandshakeResponse


class SaslHandshakeResponse(NamedTuple):
    mechanisms: Sequence[str]


class SaslAuthenticate(NamedTuple):
    mechanism: str
    data: bytes | None

    def __repr__(self) -> str:
        return f"SaslAuthenticate({self.mechanism!r})"  # the rest is a password

    @property
    def response(self) -> type[SaslAuthenticateResponse]:
        return SaslAuthenticateResponse


class SaslAuthenticateResponse(NamedTuple):
    """``challenge`` is None unless the response code is 10."""

    challenge: bytes | None


class Tune(NamedTuple):
    """Sent by both sides, without a correlation id. In bytes (0 for no limit) and seconds (0 for none)."""

    frame_max: int
    heartbeat: int


class Open(NamedTuple):
    vhost: str

    @property
    def response(self) -> type[OpenResponse]:
        return OpenResponse


class OpenResponse(NamedTuple):
    properties: Mapping[str, str]


class Close(NamedTuple):
    code: int
    reason: str

    @property
    def response(self) -> type[CloseResponse]:
        return CloseResponse


class CloseResponse(NamedTuple):
    pass


class Heartbeat(NamedTuple):
    pass


class Route(NamedTuple):
    routing_key: str
    super_stream: str

    @property
    def response(self) -> type[RouteResponse]:
        return RouteResponse


class RouteResponse(NamedTuple):
    streams: Sequence[str]


class Partitions(NamedTuple):
    super_stream: str

    @property
    def response(self) -> type[PartitionsResponse]:
        return PartitionsResponse


class PartitionsResponse(NamedTuple):
    streams: Sequence[str]


class ConsumerUpdate(NamedTuple):
    """A request of the broker, which the client must answer."""

    subscription_id: int
    active: bool

    @property
    def response(self) -> type[ConsumerUpdateResponse]:
        return ConsumerUpdateResponse


class ConsumerUpdateResponse(NamedTuple):
    offset_spec: OffsetSpec


class ExchangeCommandVersions(NamedTuple):
    versions: Sequence[CommandVersions]

    @property
    def response(self) -> type[ExchangeCommandVersionsResponse]:
        return ExchangeCommandVersionsResponse


class ExchangeCommandVersionsResponse(NamedTuple):
    versions: Sequence[CommandVersions]


class StreamStats(NamedTuple):
    stream: str

    @property
    def response(self) -> type[StreamStatsResponse]:
        return StreamStatsResponse


class StreamStatsResponse(NamedTuple):
    stats: Mapping[str, int]


class CreateSuperStream(NamedTuple):
    name: str
    partitions: Sequence[str]
    binding_keys: Sequence[str]
    arguments: Mapping[str, str]

    @property
    def response(self) -> type[CreateSuperStreamResponse]:
        return CreateSuperStreamResponse


class CreateSuperStreamResponse(NamedTuple):
    pass


class DeleteSuperStream(NamedTuple):
    name: str

    @property
    def response(self) -> type[DeleteSuperStreamResponse]:
        return DeleteSuperStreamResponse


class DeleteSuperStreamResponse(NamedTuple):
    pass


class ResolveOffsetSpec(NamedTuple):
    stream: str
    offset_spec: OffsetSpec
    properties: Mapping[str, str]

    @property
    def response(self) -> type[ResolveOffsetSpecResponse]:
        return ResolveOffsetSpecResponse


class ResolveOffsetSpecResponse(NamedTuple):
    offset_spec: OffsetSpec


class Command(NamedTuple):
    """One row of the table."""

    key: int
    version: int
    message: type[Any]
    shape: Shape
    fields: Codec
    other_key: int | None = None
    """Another key under which the command is read, but never written."""


def _row(
    key: int, message: type[Any], shape: Shape, *fields: Codec, version: int = 1, other_key: int | None = None
) -> Command:
    return Command(key, version, message, shape, record(message, *fields), other_key)


def _notice(key: Key, message: type[Any], *fields: Codec, version: int = 1, other_key: int | None = None) -> Command:
    return _row(key, message, Shape.NOTICE, *fields, version=version, other_key=other_key)


def _request(key: Key, message: type[Any], *fields: Codec) -> Command:
    return _row(key, message, Shape.REQUEST, *fields)


def _response(key: Key, message: type[Any], *fields: Codec, shape: Shape = Shape.RESPONSE) -> Command:
    return _row(RESPONSE_BIT | key, message, shape, *fields)


_active = Codec("active", 1, lambda out, value: u8.write(out, int(value)), lambda reader: bool(u8.read(reader)))
_challenge = Codec(  # PROTOCOL.adoc says bytes, with a 32-bit length; brokers send a 16-bit length (captured)
    "challenge",
    0,
    lambda out, value: None if value is None else out.extend(len(value).to_bytes(2) + value),
    lambda reader: reader.take(u16.read(reader)) if reader.remaining else None,
)
_map = mapping(string)
_optional_map = _map._replace(minimum=0, read=lambda reader: _map.read(reader) if reader.remaining else {})
_name = request_string
_names = array(_name)
_arguments = last_mapping(_name)


def _read_properties(reader: Reader) -> Mapping[str, str]:
    """Reads a map. Fewer bytes than a count mean an empty map, as in RabbitMQ: Java writes nothing for an empty one."""
    if reader.remaining < u32.minimum:
        reader.rest()
        return {}
    properties: Mapping[str, str] = _arguments.read(reader)
    return properties


def _read_reason(reader: Reader) -> str:
    """Reads the reason of a Close, which is only shown; null counts as empty."""
    size: int = u16.read(reader)
    return "" if size == 0xFFFF else reader.text(size)


def _read_answered_spec(reader: Reader) -> OffsetSpec:
    """Reads an offset specification, and ignores bytes behind one without an offset, as RabbitMQ does."""
    spec = _read_offset_spec(reader)
    if spec.offset_type < 4:
        reader.rest()
    return spec


_properties = _arguments._replace(minimum=0, read=_read_properties)
_reason = string._replace(read=_read_reason)
_answered_spec = _offset_spec._replace(read=_read_answered_spec)
_credit = u16._replace(read=i16.read)  # RabbitMQ reads a client's Credit as signed, and its Subscribe as unsigned
_error = record(MessageError, u64, u16)
_filtered = record(FilteredMessage, u64, nullable_string, nullable_bytes)
_version = record(CommandVersions, u16, u16, u16)
_brokers = array(record(BrokerAddress, u16, string, u32))
_locations = array(record(StreamLocation, long_string, u16, u16, array(u16)))

_TABLE: tuple[Command, ...] = (
    _request(Key.DECLARE_PUBLISHER, DeclarePublisher, u8, _name, _name),
    _response(Key.DECLARE_PUBLISHER, DeclarePublisherResponse),
    _notice(Key.PUBLISH, Publish, u8, array(_publish_entry)),
    _notice(Key.PUBLISH, PublishFiltered, u8, array(_filtered), version=2),
    _notice(Key.PUBLISH_CONFIRM, PublishConfirm, u8, u64_array),
    _notice(Key.PUBLISH_ERROR, PublishError, u8, array(_error)),
    _request(Key.QUERY_PUBLISHER_SEQUENCE, QueryPublisherSequence, _name, _name),
    _response(Key.QUERY_PUBLISHER_SEQUENCE, QueryPublisherSequenceResponse, u64),
    _request(Key.DELETE_PUBLISHER, DeletePublisher, u8),
    _response(Key.DELETE_PUBLISHER, DeletePublisherResponse),
    _request(Key.SUBSCRIBE, Subscribe, u8, _name, _offset_spec, u16, _properties),
    _response(Key.SUBSCRIBE, SubscribeResponse),
    _notice(Key.DELIVER, Deliver, u8, rest_of_frame),
    _notice(Key.DELIVER, DeliverCommitted, u8, u64, rest_of_frame, version=2),
    _notice(Key.CREDIT, Credit, u8, _credit),
    _response(Key.CREDIT, CreditResponse, u8, shape=Shape.RESPONSE_WITHOUT_CORRELATION),
    _notice(Key.STORE_OFFSET, StoreOffset, _name, _name, u64),
    _request(Key.QUERY_OFFSET, QueryOffset, _name, _name),
    _response(Key.QUERY_OFFSET, QueryOffsetResponse, u64),
    _request(Key.UNSUBSCRIBE, Unsubscribe, u8),
    _response(Key.UNSUBSCRIBE, UnsubscribeResponse),
    _request(Key.CREATE, Create, _name, _arguments),
    _response(Key.CREATE, CreateResponse),
    _request(Key.DELETE, Delete, _name),
    _response(Key.DELETE, DeleteResponse),
    _request(Key.METADATA, Metadata, last_array(_name)),
    _response(Key.METADATA, MetadataResponse, _brokers, _locations, shape=Shape.RESPONSE_WITHOUT_CODE),
    _notice(Key.METADATA_UPDATE, MetadataUpdate, u16, long_string),
    _request(Key.PEER_PROPERTIES, PeerProperties, last_mapping(request_text)),
    _response(Key.PEER_PROPERTIES, PeerPropertiesResponse, _map),
    _request(Key.SASL_HANDSHAKE, SaslHandshake),
    _response(Key.SASL_HANDSHAKE, SaslHandshakeResponse, array(string)),
    _request(Key.SASL_AUTHENTICATE, SaslAuthenticate, _name, nullable_bytes),
    _response(Key.SASL_AUTHENTICATE, SaslAuthenticateResponse, _challenge),
    # Java and Go answer a Tune with the response bit set in the key, which RabbitMQ also accepts.
    _notice(Key.TUNE, Tune, u32, u32, other_key=RESPONSE_BIT | Key.TUNE),
    _request(Key.OPEN, Open, _name),
    _response(Key.OPEN, OpenResponse, _optional_map),
    _request(Key.CLOSE, Close, u16, _reason),
    _response(Key.CLOSE, CloseResponse),
    _notice(Key.HEARTBEAT, Heartbeat),
    _request(Key.ROUTE, Route, _name, _name),
    _response(Key.ROUTE, RouteResponse, array(long_string)),
    _request(Key.PARTITIONS, Partitions, _name),
    _response(Key.PARTITIONS, PartitionsResponse, array(long_string)),
    _request(Key.CONSUMER_UPDATE, ConsumerUpdate, u8, _active),
    _response(Key.CONSUMER_UPDATE, ConsumerUpdateResponse, _answered_spec),
    _request(Key.EXCHANGE_COMMAND_VERSIONS, ExchangeCommandVersions, last_array(_version)),
    _response(Key.EXCHANGE_COMMAND_VERSIONS, ExchangeCommandVersionsResponse, array(_version)),
    _request(Key.STREAM_STATS, StreamStats, _name),
    _response(Key.STREAM_STATS, StreamStatsResponse, mapping(i64)),
    _request(Key.CREATE_SUPER_STREAM, CreateSuperStream, _name, _names, _names, _arguments),
    _response(Key.CREATE_SUPER_STREAM, CreateSuperStreamResponse),
    _request(Key.DELETE_SUPER_STREAM, DeleteSuperStream, _name),
    _response(Key.DELETE_SUPER_STREAM, DeleteSuperStreamResponse),
    _request(Key.RESOLVE_OFFSET_SPEC, ResolveOffsetSpec, _name, _offset_spec, _properties),
    _response(Key.RESOLVE_OFFSET_SPEC, ResolveOffsetSpecResponse, _offset_spec),
)

_BY_WIRE = {(key, row.version): row for row in _TABLE for key in (row.key, row.other_key) if key is not None}
_BY_MESSAGE = {row.message: row for row in _TABLE}

_HEAD = struct.Struct(">HH")
_SIZED_HEAD = struct.Struct(">IHH")


class Frame(NamedTuple):
    """A decoded frame."""

    message: Any
    """One of the message types; None where a response is an error."""
    correlation_id: int | None = None
    code: int = RESPONSE_OK
    key: int = 0


def encode(message: Any, *, correlation_id: int = 0, code: int = RESPONSE_OK) -> bytes:
    """Returns a whole frame, with its size. Raises ``ProtocolError`` where a value does not fit its field."""
    row = _BY_MESSAGE[type(message)]
    out = bytearray(_SIZED_HEAD.pack(0, row.key, row.version))
    _write_shape(out, row.shape, correlation_id, code)
    row.fields.write(out, message)
    out[0:4] = (len(out) - 4).to_bytes(4)
    return bytes(out)


def encode_error(request: type[Any], *, correlation_id: int = 0, code: int) -> bytes:
    """Returns a broker's refusal of a request: a response with a code and no fields."""
    key = _BY_MESSAGE[request].key | RESPONSE_BIT
    row = _BY_WIRE[key, 1]
    out = bytearray(_SIZED_HEAD.pack(0, key, 1))
    _write_shape(out, row.shape, correlation_id, code)
    out[0:4] = (len(out) - 4).to_bytes(4)
    return bytes(out)


def _write_shape(out: bytearray, shape: Shape, correlation_id: int, code: int) -> None:
    if shape in (Shape.REQUEST, Shape.RESPONSE, Shape.RESPONSE_WITHOUT_CODE):
        u32.write(out, correlation_id)
    if shape in (Shape.RESPONSE, Shape.RESPONSE_WITHOUT_CORRELATION):
        u16.write(out, code)


def decode(frame: bytes) -> Frame:
    """Decodes a frame, given without its size.

    Raises ``ProtocolError`` where the key or version is unknown, a field is cut off, or bytes are left over. In most
    responses with an error code, the bytes behind the code are ignored.
    """
    if len(frame) < _HEAD.size:
        raise ProtocolError(f"a frame of {len(frame)} bytes cannot hold a key and a version")
    key, version = _HEAD.unpack_from(frame)
    row = _BY_WIRE.get((key, version))
    if row is None:
        raise ProtocolError(f"unknown command 0x{key:04x} version {version}")
    reader = Reader(frame, _HEAD.size)
    shape = row.shape
    correlation_id = None
    code = RESPONSE_OK
    if shape in (Shape.REQUEST, Shape.RESPONSE, Shape.RESPONSE_WITHOUT_CODE):
        correlation_id = u32.read(reader)
    if shape in (Shape.RESPONSE, Shape.RESPONSE_WITHOUT_CORRELATION):
        code = u16.read(reader)
        if code != RESPONSE_OK and row.message not in _READ_WITH_ERRORS:
            return Frame(None, correlation_id, code, key)
    message = row.fields.read(reader)
    if reader.remaining:
        raise ProtocolError(f"{row.message.__name__} leaves {reader.remaining} bytes of its frame")
    return Frame(message, correlation_id, code, key)


_READ_WITH_ERRORS = frozenset({CreditResponse, SaslAuthenticateResponse, ConsumerUpdateResponse})
"""Responses that may have their fields although the code is not OK."""


_SINCE = {Key.CREATE_SUPER_STREAM: (3, 13), Key.DELETE_SUPER_STREAM: (3, 13), Key.RESOLVE_OFFSET_SPEC: (4, 3)}
"""The RabbitMQ releases of commands that came after 3.11, the release with the exchange of versions."""


def supported_versions(release: tuple[int, ...] = (99,)) -> tuple[CommandVersions, ...]:
    """Returns the versions for ExchangeCommandVersions with a broker of this release.

    It leaves out commands that are newer than the broker: RabbitMQ 4.0.5 crashes over the key of a later command, and
    closes the connection.
    """
    versions: dict[int, list[int]] = {}
    for row in _TABLE:
        key = row.key & ~RESPONSE_BIT
        if release >= _SINCE.get(Key(key), ()):
            versions.setdefault(key, []).append(row.version)
    return tuple(CommandVersions(key, min(seen), max(seen)) for key, seen in sorted(versions.items()))
