"""Hostile input for every parser: real bytes that were captured, and text that is right, mutated.

``targets`` are the parsers with what they may be given and which errors they document; anything else that comes out,
an input that takes long, or much memory, is a fault. ``scripts/fuzz`` runs millions; tests/property a part.
"""

from __future__ import annotations

import random
import resource
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from rstream_cli.parsing import parse_delimiter, parse_header, parse_offset, parse_rate, parse_until
from rstream_cli.records.csv_in import CsvReader
from rstream_cli.records.csv_out import parse_columns
from rstream_cli.records.envelope import from_json, to_json
from rstream_cli.records.framing_in import DelimiterReader, Len32Reader, RecordError
from rstream_cli.records.tagged_values import EnvelopeError
from rstream_cli.records.template import Template
from rstream_core import (
    AmqpError,
    AMQPMessage,
    ChunkError,
    ConfigurationError,
    DumpError,
    ProtocolError,
    RstreamError,
    parse_uri,
)
from rstream_core.dump.reading import DumpedChunk
from rstream_core.protocol import commands as c
from rstream_core.protocol.amqp import bodies_of
from rstream_core.protocol.chunk import build_chunk, open_placed, parse_chunk
from rstream_core.protocol.compression import compress
from rstream_core.protocol.framing import FrameBuffer
from rstream_core.protocol.session import Session, SessionOptions
from rstream_core.protocol.sub_batch import write_sub_batch
from rstream_core.types import CompressionType
from tests import dumps
from tests import twin_checks as seam
from tests.receiving import receive
from tests.vectors import vectors

SLOWEST = 0.1
"""Seconds of processor time that one input may take: how busy the machine is says nothing of the parser."""
MOST_MEMORY = 100 * 1024 * 1024
"""Bytes by which the process may grow, and that one input may take."""
MEASURED = 25
"""Of so many inputs, one has its memory measured, which takes longer; and so have those that are right.

It is what Python allocates. What cramjam takes on its own is not in it: only what the process grows by bounds that.
"""

_BYTES = (0x00, 0x01, 0x7F, 0x80, 0xFF, 0x40, 0x45, 0xA0, 0xB0, 0xC0, 0xC1, 0xD0, 0xD1, 0xE0, 0xF0)
"""Values that mean something: limits, and the constructors of AMQP."""
_LENGTHS = (0, 1, 4, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


class FaultError(AssertionError):
    """An input that a parser did not deal with as it promises."""


@dataclass(frozen=True)
class Target:
    """One parser."""

    name: str
    run: Callable[[bytes], object]
    errors: tuple[type[BaseException], ...]
    """What it may raise."""
    seeds: Sequence[bytes]
    """Inputs that are right."""
    slowest: float = SLOWEST
    """Seconds of processor time that one input may take."""


@dataclass
class Report:
    """What a run has seen."""

    inputs: int = 0
    refused: int = 0
    slowest: float = 0.0
    largest: int = 0
    """Bytes that an input took at most, of those that were measured."""
    measured: int = 0
    by_target: dict[str, int] = field(default_factory=dict)


def targets() -> list[Target]:
    """All of them. Each has inputs that it takes as they are."""
    frames = [vector.frame for vector in vectors()]
    chunks = [c.decode(frame[4:]).message.chunk for frame in frames if frame[4:6] == b"\0\x08"]
    messages = [message for chunk in chunks for message in parse_chunk(chunk)[1]]
    envelopes = [to_json(AMQPMessage.from_bytes(message)) for message in _messages()]
    return [
        Target("frames", _frames, (ProtocolError,), frames),
        Target("command", lambda data: c.decode(data[4:]), (ProtocolError,), frames),
        Target("session", _session, (RstreamError,), [frame for frame in frames if frame[4] & 0x80] + _handshake()),
        Target("chunk", parse_chunk, (ChunkError,), chunks),
        Target("entries", _entries, (ChunkError,), [*chunks, *_sub_batches()]),
        Target("seam", seam.check, (), seam.seeds(chunks), slowest=3),  # each is asked for in many ways
        Target("amqp", _message, (AmqpError,), [*messages, *_messages(), _deep()]),
        Target("bodies", lambda data: bodies_of([data]), (AmqpError,), messages),
        Target("uri", lambda data: parse_uri(data.decode("utf-8", "surrogateescape")), (ConfigurationError,), _URIS),
        Target("envelope", _envelope, (EnvelopeError, AmqpError), envelopes),
        Target("records", _records, (RecordError,), [b"a\nb\n\nc", b"\0\0\0\1a\0\0\0\0", b"\xff\xff\xff\xff"]),
        Target("dump", _dump, (DumpError,), _dumps()),
        Target("rows", _rows, (), [b'n,body\r\n1,"a\n""b"\r\n\n2,c,d\n', b'\xef\xbb\xbfbody\n"', b'body\n5" x\n']),
        Target("options", _options, (), [b"-1h", b"@17", b"2026-11-23T10:00Z", b"500/s", rb"\x00\n", b"k:={}", b"%s"]),
    ]


def _dumps() -> list[bytes]:
    parts = [
        dumps.head(dumps.manifest("a", "b", super_stream="s")),
        dumps.chunk([b"one", b"", b"x" * 300], 0),
        *(dumps.record_of(chunk, stream=1) for chunk in islice(_sub_batches(), 2, 3)),
        dumps.chunk([b"two"], 1 << 40, stream=1),
        dumps.end_mark(),
    ]
    return [b"".join(parts), dumps.packed(parts), dumps.segment(), dumps.segment(torn=5)]


def _dump(data: bytes) -> None:
    """Reads all of it, and behind each damage; then again with checksums that match, so that more is looked at."""
    for given in (data, dumps.repaired(data)):
        found, _, _ = dumps.read_all(dumps.pieces(given, 500))
        for item in found:
            if isinstance(item, DumpedChunk):
                try:
                    list(open_placed(item.data, item.begin, item.header, verify_crc=False))
                except ChunkError:
                    continue


def hammer(target: Target, inputs: int, seed: int, report: Report, *, measured: int = MEASURED) -> None:
    """Gives so many inputs to a parser. Raises ``FaultError``, with the input, for the first that it fails on.

    Of ``measured`` inputs, one has its memory measured.
    """
    chance = random.Random(seed)
    for data in target.seeds:
        _give(target, data, report)
        _weigh(target, data, report)
    for number in range(inputs):
        data = mutate(chance.choice(target.seeds), target.seeds, chance)
        _give(target, data, report)
        if number % measured == 0:
            _weigh(target, data, report)
    report.by_target[target.name] = report.by_target.get(target.name, 0) + inputs + len(target.seeds)


def peak_bytes() -> int:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def mutate(data: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """The same with a few changes, of the kinds that break parsers."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        _change(changed, others, chance)
    return bytes(changed)


def _change(data: bytearray, others: Sequence[bytes], chance: random.Random) -> None:
    at = chance.randrange(len(data) + 1)
    kind = chance.randrange(9)
    if kind == 0:
        del data[at:]
    elif kind == 1:
        del data[at : at + chance.randrange(1, 9)]
    elif kind == 2:
        data[at:at] = chance.randbytes(chance.randrange(1, 9))
    elif kind == 3:
        data[at : at + 1] = bytes((chance.choice(_BYTES),))
    elif kind == 4 and at < len(data):
        data[at] ^= 1 << chance.randrange(8)
    elif kind == 5:
        data[at : at + 4] = struct.pack(">I", chance.choice(_LENGTHS))
    elif kind == 6:
        data[at : at + 2] = struct.pack(">H", chance.choice(_LENGTHS) & 0xFFFF)
    elif kind == 7:
        data[at:at] = data[at : at + chance.randrange(1, 65)] * chance.choice((1, 2, 50))
    else:
        other = chance.choice(others)
        data[at:] = other[chance.randrange(len(other) + 1) :]


def _give(target: Target, data: bytes, report: Report) -> None:
    report.inputs += 1
    begin = time.thread_time()
    try:
        target.run(data)
    except target.errors:
        report.refused += 1
    except BaseException as error:
        if not isinstance(error, Exception):
            raise
        raise FaultError(f"{target.name} raised {error!r} for {data[:2000].hex()}") from error
    took = time.thread_time() - begin
    if took > target.slowest:
        took = min(took, *(_time(target, data) for _ in range(3)))  # what was collected then may not have been its own
        if took > target.slowest:
            raise FaultError(f"{target.name} took {took:.2f} s for {len(data)} bytes: {data[:2000].hex()}")
    report.slowest = max(report.slowest, took)


def _weigh(target: Target, data: bytes, report: Report) -> None:
    """The memory of one input, as Python counts it: what is allocated while it is looked at."""
    tracemalloc.start()
    try:
        target.run(data)
    except target.errors:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    report.measured += 1
    report.largest = max(report.largest, peak)
    if peak > MOST_MEMORY:
        raise FaultError(f"{target.name} took {peak >> 20} MB for {len(data)} bytes: {data[:2000].hex()}")


def _time(target: Target, data: bytes) -> float:
    begin = time.thread_time()
    try:
        target.run(data)
    except target.errors:
        pass
    return time.thread_time() - begin


# What the parsers are asked to do.


def _frames(data: bytes) -> None:
    buffer = FrameBuffer(1024 * 1024)
    for start in range(0, len(data), 7):
        buffer.feed(data[start : start + 7])
        for frame in buffer.frames():
            c.decode(frame)


def _session(data: bytes) -> None:
    session = Session(SessionOptions())
    session.start(0.0)
    receive(session, data, 0.0)
    receive(session, b"", 1.0)


def _entries(data: bytes) -> None:
    """Without the checksum, which would keep every mutation out."""
    parse_chunk(data, verify_crc=False)


def _message(data: bytes) -> None:
    message = AMQPMessage.from_bytes(data)
    repr(message)
    assert message.encode() == data
    for name in (
        "body_type",
        "body",
        "properties",
        "header",
        "application_properties",
        "message_annotations",
        "footer",
    ):
        getattr(message, name)
    message.encode()


def _envelope(data: bytes) -> None:
    from_json(data).message.encode()


def _records(data: bytes) -> None:
    for reader in (DelimiterReader(b"\n"), DelimiterReader(b"ab"), Len32Reader(max_record=4096)):
        reader.feed(data)
        reader.finish()


def _rows(data: bytes) -> None:
    """In blocks of a few bytes, and with a limit that some rows pass; each bad one is read past."""
    reader = CsvReader([b"body"], max_record=16)
    steps: list[Callable[[], list[bytes]]] = [partial(reader.feed, data[at : at + 7]) for at in range(0, len(data), 7)]
    for step in steps:
        _past(step, partial(reader.feed, b""), len(data))
    _past(reader.finish, reader.finish, len(data))


def _past(step: Callable[[], object], then: Callable[[], object], most: int) -> None:
    """Reads on behind bad records, of which there are ``most``."""
    for _ in range(most + 1):
        try:
            step()
        except RecordError:
            step = then
        else:
            return
    raise AssertionError("a bad record is told of for ever")


def _options(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    readers: list[Callable[[str], Any]] = [
        lambda given: parse_offset(given, 1.8e9),
        lambda given: parse_until(given, 1.8e9),
        parse_rate,
        parse_delimiter,
        parse_header,
        parse_columns,
        Template,
    ]
    for read in readers:
        try:
            read(text)
        except ValueError:
            pass


# Inputs that the captures lack.

_URIS = [
    b"rabbitmq-stream://guest:guest@localhost:5552/%2f",
    b"rabbitmq-stream+tls://a%40b:p%3aw@[::1]:5551/prod",
]


def _handshake() -> list[bytes]:
    return [
        c.encode(c.PeerPropertiesResponse({"version": "4.3.6"}), correlation_id=0)
        + c.encode(c.SaslHandshakeResponse(("PLAIN",)), correlation_id=1)
        + c.encode(c.SaslAuthenticateResponse(None), correlation_id=2)
        + c.encode(c.Tune(1048576, 60))
        + c.encode(c.OpenResponse({}), correlation_id=3)
        + c.encode(c.ExchangeCommandVersionsResponse(()), correlation_id=4)
        + c.encode(c.PublishConfirm(1, (1, 2, 3)))
    ]


def _sub_batches() -> Iterator[bytes]:
    plain = b"".join(struct.pack(">I", 100) + bytes(100) for _ in range(10))
    for kind in CompressionType:
        entry = bytearray()
        write_sub_batch(entry, kind, 10, len(plain), compress(kind, plain))
        yield build_chunk([bytes(entry)] * 3, first_offset=0, timestamp=0, records=30)


def _messages() -> list[bytes]:
    return [
        AMQPMessage(b"x" * 300, application_properties={"a": 1, "b": [1, {"c": None}], "d": "e" * 300}).encode(),
        AMQPMessage(value={"k": [True, 1.5, b"x"]}).encode(),
        AMQPMessage(sequence=[1, "two", [3]]).encode(),
    ]


def _deep() -> bytes:
    """Lists in lists, 20,000 of them, whose sizes are right."""
    inner = b"\x45"
    for _ in range(20_000):
        inner = b"\xd0" + struct.pack(">II", len(inner) + 4, 1) + inner
        if len(inner) > 60_000:
            break
    return b"\0\x53\x77" + inner
