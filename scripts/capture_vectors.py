#!/usr/bin/env python3
"""Capture the stream protocol as a real RabbitMQ speaks it, into tests/vectors/.

    scripts/capture_vectors.py [--seed-python /path/to/python] [--output DIRECTORY]

It starts a broker of its own, talks to it through a recording proxy, and writes every frame down with what it
means. Nothing of rstream_core is imported: frames are built and read by the small table below, which was written
from PROTOCOL.adoc apart from our own, so that one mistake would have to be made twice. What a client sends is
in the file only where the broker understood it.

With --seed-python (a Python that has the published client, `rstream` 1.1.1), its messages are captured too.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RABBITMQ = ROOT / "scripts" / "rabbitmq"

# --- the protocol, once more -----------------------------------------------------------------------------
# Types: u8 u16 u32 u64 i64, string, bytes (-1 is null), rest (of the frame), challenge (nothing, or bytes after a
# length of 16 bits: that is what the broker sends, though PROTOCOL.adoc says bytes), offset (a type, and a value for
# types 4 and 5), entry (of a Publish), [T] arrays, {T} maps from strings, (T…) structs.

Form = Any
MAP: Form = {"string": "string"}
REQUESTS: dict[int, tuple[str, list[tuple[str, Form]], list[tuple[str, Form]] | None]] = {
    0x01: ("DeclarePublisher", [("publisher_id", "u8"), ("reference", "string"), ("stream", "string")], []),
    0x05: (
        "QueryPublisherSequence",
        [("reference", "string"), ("stream", "string")],
        [("sequence", "u64")],
    ),
    0x06: ("DeletePublisher", [("publisher_id", "u8")], []),
    0x07: (
        "Subscribe",
        [
            ("subscription_id", "u8"),
            ("stream", "string"),
            ("offset_spec", "offset"),
            ("credit", "u16"),
            ("properties", MAP),
        ],
        [],
    ),
    0x0B: ("QueryOffset", [("reference", "string"), ("stream", "string")], [("offset", "u64")]),
    0x0C: ("Unsubscribe", [("subscription_id", "u8")], []),
    0x0D: ("Create", [("stream", "string"), ("arguments", MAP)], []),
    0x0E: ("Delete", [("stream", "string")], []),
    0x0F: (
        "Metadata",
        [("streams", ["string"])],
        [("brokers", [("u16", "string", "u32")]), ("streams", [("string", "u16", "u16", ["u16"])])],
    ),
    0x11: ("PeerProperties", [("properties", MAP)], [("properties", MAP)]),
    0x12: ("SaslHandshake", [], [("mechanisms", ["string"])]),
    0x13: ("SaslAuthenticate", [("mechanism", "string"), ("data", "bytes")], [("challenge", "challenge")]),
    0x15: ("Open", [("vhost", "string")], [("properties", MAP)]),
    0x16: ("Close", [("code", "u16"), ("reason", "string")], []),
    0x18: ("Route", [("routing_key", "string"), ("super_stream", "string")], [("streams", ["string"])]),
    0x19: ("Partitions", [("super_stream", "string")], [("streams", ["string"])]),
    0x1A: ("ConsumerUpdate", [("subscription_id", "u8"), ("active", "bool")], [("offset_spec", "offset")]),
    0x1B: (
        "ExchangeCommandVersions",
        [("versions", [("u16", "u16", "u16")])],
        [("versions", [("u16", "u16", "u16")])],
    ),
    0x1C: ("StreamStats", [("stream", "string")], [("stats", {"string": "i64"})]),
    0x1D: (
        "CreateSuperStream",
        [("name", "string"), ("partitions", ["string"]), ("binding_keys", ["string"]), ("arguments", MAP)],
        [],
    ),
    0x1E: ("DeleteSuperStream", [("name", "string")], []),
    0x1F: (
        "ResolveOffsetSpec",
        [("stream", "string"), ("offset_spec", "offset"), ("properties", MAP)],
        [("offset_spec", "offset")],
    ),
}
NOTICES: dict[tuple[int, int], tuple[str, list[tuple[str, Form]]]] = {
    (0x02, 1): ("Publish", [("publisher_id", "u8"), ("entries", ["entry"])]),
    (0x02, 2): ("PublishFiltered", [("publisher_id", "u8"), ("entries", [("u64", "string", "bytes")])]),
    (0x03, 1): ("PublishConfirm", [("publisher_id", "u8"), ("publishing_ids", ["u64"])]),
    (0x04, 1): ("PublishError", [("publisher_id", "u8"), ("errors", [("u64", "u16")])]),
    (0x08, 1): ("Deliver", [("subscription_id", "u8"), ("chunk", "rest")]),
    (0x08, 2): ("DeliverCommitted", [("subscription_id", "u8"), ("committed_chunk_id", "u64"), ("chunk", "rest")]),
    (0x09, 1): ("Credit", [("subscription_id", "u8"), ("credit", "u16")]),
    (0x0A, 1): ("StoreOffset", [("reference", "string"), ("stream", "string"), ("offset", "u64")]),
    (0x10, 1): ("MetadataUpdate", [("code", "u16"), ("stream", "string")]),
    (0x14, 1): ("Tune", [("frame_max", "u32"), ("heartbeat", "u32")]),
    (0x17, 1): ("Heartbeat", []),
}
KEYS = {name: (key, 1) for key, (name, _, _) in REQUESTS.items()} | {n: k for k, (n, _) in NOTICES.items()}
_NUMBERS = {"u8": ">B", "u16": ">H", "u32": ">I", "u64": ">Q", "i64": ">q", "bool": ">?"}


def build(form: Form, value: Any) -> bytes:
    """One value as it stands on the wire."""
    if isinstance(form, list):
        return struct.pack(">i", len(value)) + b"".join(build(form[0], item) for item in value)
    if isinstance(form, dict):
        pairs = b"".join(build("string", key) + build("string", item) for key, item in value.items())
        return struct.pack(">i", len(value)) + pairs
    if isinstance(form, tuple):
        return b"".join(build(part, item) for part, item in zip(form, value, strict=True))
    if form in _NUMBERS:
        return struct.pack(_NUMBERS[form], value)
    if form == "string":
        text = None if value is None else value.encode()
        return b"\xff\xff" if text is None else struct.pack(">h", len(text)) + text
    if form == "bytes":
        return b"\xff\xff\xff\xff" if value is None else struct.pack(">i", len(value)) + value
    if form == "offset":
        return struct.pack(">H", value[0]) + (struct.pack(">Q", value[1]) if value[0] in (4, 5) else b"")
    assert form == "entry"
    if len(value) == 2:
        return struct.pack(">QI", value[0], len(value[1])) + value[1]
    publishing_id, codec, records, size, data = value
    return struct.pack(">QBHII", publishing_id, 0x80 | codec << 4, records, size, len(data)) + data


def read(form: Form, data: bytes, pos: int) -> tuple[Any, int]:
    """One value from the wire, fit for JSON, and where the next begins."""
    if isinstance(form, (list, dict)):
        (count,) = struct.unpack_from(">i", data, pos)
        pos += 4
        element = form[0] if isinstance(form, list) else ("string", next(iter(form.values())))
        items = []
        for _ in range(count):
            item, pos = read(element, data, pos)
            items.append(item)
        return (items if isinstance(form, list) else dict(items)), pos
    if isinstance(form, tuple):
        items = []
        for part in form:
            item, pos = read(part, data, pos)
            items.append(item)
        return items, pos
    if form in _NUMBERS:
        (number,) = struct.unpack_from(_NUMBERS[form], data, pos)
        return number, pos + struct.calcsize(_NUMBERS[form])
    if form in ("string", "bytes", "challenge"):
        if form == "challenge" and pos == len(data):
            return None, pos
        size_form = ">i" if form == "bytes" else ">h"
        (size,) = struct.unpack_from(size_form, data, pos)
        pos += struct.calcsize(size_form)
        if size < 0:
            return None, pos
        taken = data[pos : pos + size]
        return (taken.decode() if form == "string" else plain(taken)), pos + size
    if form == "rest":
        return plain(data[pos:]), len(data)
    if form == "offset":
        (kind,) = struct.unpack_from(">H", data, pos)
        if kind not in (4, 5):
            return [kind, 0], pos + 2
        (offset,) = struct.unpack_from(">Q" if kind == 4 else ">q", data, pos + 2)
        return [kind, offset], pos + 10
    assert form == "entry"
    (publishing_id, first) = struct.unpack_from(">QB", data, pos)
    if first & 0x80:
        _, kind, records, uncompressed, size = struct.unpack_from(">QBHII", data, pos)
        pos += 19
        return [publishing_id, kind >> 4 & 7, records, uncompressed, plain(data[pos : pos + size])], pos + size
    (size,) = struct.unpack_from(">I", data, pos + 8)
    return [publishing_id, plain(data[pos + 12 : pos + 12 + size])], pos + 12 + size


def plain(data: bytes) -> dict[str, str]:
    return {"hex": data.hex()}


def frame_of(
    name: str, *values: Any, correlation_id: int = 0, response: bool = False, code: int = 1, version: int = 1
) -> bytes:
    """A whole frame."""
    if name in {entry[0] for entry in REQUESTS.values()}:
        key = KEYS[name][0]
        fields = REQUESTS[key][2 if response else 1] or []
        head = struct.pack(">HHI", key | (0x8000 if response else 0), 1, correlation_id)
        head += struct.pack(">H", code) if response else b""
    else:
        key, version = KEYS[name]
        fields = NOTICES[key, version][1]
        head = struct.pack(">HH", key, version)
    body = head + b"".join(build(form, value) for (_, form), value in zip(fields, values, strict=True))
    return struct.pack(">I", len(body)) + body


def describe(frame: bytes) -> dict[str, Any]:
    """What a frame (with its size) says."""
    key, version = struct.unpack_from(">HH", frame, 4)
    answer, key = key >> 15, key & 0x7FFF
    found: dict[str, Any] = {"key": key | answer << 15, "version": version, "correlation_id": None, "code": 1}
    pos = 8
    fields: list[tuple[str, Form]]
    if (key, version) == (0x09, 1) and answer:
        name, fields = "CreditResponse", [("subscription_id", "u8")]
        (found["code"],) = struct.unpack_from(">H", frame, pos)
        pos += 2
    elif not answer and (key, version) in NOTICES:
        name, fields = NOTICES[key, version]
    else:
        name, asked, answered = REQUESTS[key]
        fields = asked
        (found["correlation_id"],) = struct.unpack_from(">I", frame, pos)
        pos += 4
        if answer:
            name, fields = f"{name}Response", answered or []
            if key != 0x0F:
                (found["code"],) = struct.unpack_from(">H", frame, pos)
                pos += 2
            if found["code"] != 1 and key not in (0x13, 0x1A):  # a challenge; what a consumer answers
                return {**found, "message": None, "answers": name, "fields": {}, "rest": frame[pos:].hex()}
    values: dict[str, Any] = {}
    for field, form in fields:
        values[field], pos = read(form, frame, pos)
    assert pos == len(frame), f"{name} leaves {len(frame) - pos} bytes: {frame.hex()}"
    return {**found, "message": name, "fields": values}


# --- the proxy ---------------------------------------------------------------------------------------------


class Recorder:
    """A proxy that keeps each frame, with who sent it, before it passes it on."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.target = ("127.0.0.1", 0)
        self._lock = threading.Lock()
        self._frames: list[tuple[str, bytes]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def take(self) -> list[tuple[str, bytes]]:
        """The frames since the last call."""
        with self._lock:
            frames, self._frames = self._frames, []
        return frames

    def _accept(self) -> None:
        while True:
            inside, _ = self._listener.accept()
            outside = socket.create_connection(self.target)
            for source, target, sender in ((inside, outside, "client"), (outside, inside, "broker")):
                threading.Thread(target=self._carry, args=(source, target, sender), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, sender: str) -> None:
        buffer = b""
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                buffer += data
                while len(buffer) >= 4 and len(buffer) >= 4 + (size := int.from_bytes(buffer[:4])):
                    with self._lock:
                        self._frames.append((sender, buffer[: 4 + size]))
                    buffer = buffer[4 + size :]
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


class Peer:
    """A client with no wits: it sends what it is told, and returns what comes."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=15)
        self._buffer = b""
        self._correlation_id = 0

    def send(self, name: str, *values: Any, **how: Any) -> None:
        self._socket.sendall(frame_of(name, *values, **how))

    def send_raw(self, data: bytes) -> None:
        self._socket.sendall(data)

    def next(self) -> dict[str, Any]:
        while len(self._buffer) < 4 or len(self._buffer) < 4 + int.from_bytes(self._buffer[:4]):
            data = self._socket.recv(65536)
            if not data:
                raise EOFError("the broker closed the connection")
            self._buffer += data
        size = 4 + int.from_bytes(self._buffer[:4])
        frame, self._buffer = self._buffer[:size], self._buffer[size:]
        return describe(frame)

    def wait_for(self, *names: str) -> dict[str, Any]:
        while True:
            found = self.next()
            if (found["message"] or found["answers"]) in names:
                return found

    def ask(self, name: str, *values: Any) -> dict[str, Any]:
        """A request, and its answer."""
        self._correlation_id += 1
        self.send(name, *values, correlation_id=self._correlation_id)
        while True:
            found = self.next()
            if found["key"] & 0x8000 and found["correlation_id"] == self._correlation_id:
                return found

    def log_in(self, user: str = "guest", password: str = "guest", heartbeat: int = 60) -> dict[str, Any]:
        self.ask("PeerProperties", {"product": "capture", "version": "1"})
        self.ask("SaslHandshake")
        answer = self.ask("SaslAuthenticate", "PLAIN", f"\0{user}\0{password}".encode())
        if answer["code"] == 1:
            self.wait_for("Tune")
            self.send("Tune", 1048576, heartbeat)
        return answer

    def open(self, vhost: str = "/", heartbeat: int = 60, deliver: int = 2, exchange: bool = True) -> dict[str, Any]:
        self.log_in(heartbeat=heartbeat)
        answer = self.ask("Open", vhost)
        if exchange and answer["code"] == 1:
            self.exchange(deliver)
        return answer

    def exchange(self, deliver: int = 2) -> dict[str, Any]:
        versions = [[key, 1, {0x02: 2, 0x08: deliver}.get(key, 1)] for key in range(1, 0x20)]
        return self.ask("ExchangeCommandVersions", versions)

    def publish(self, publisher: int, *entries: Any) -> dict[str, Any]:
        self.send("Publish", publisher, entries)
        return self.wait_for("PublishConfirm", "PublishError")

    def close(self) -> None:
        self._socket.close()


# --- what is said ------------------------------------------------------------------------------------------


def message(body: bytes) -> bytes:
    """AMQP 1.0: one data section."""
    head = bytes((0xA0, len(body))) if len(body) < 256 else b"\xb0" + struct.pack(">I", len(body))
    return b"\x00\x53\x75" + head + body


def sub_batch(publishing_id: int, codec: int, bodies: list[bytes]) -> tuple[int, int, int, int, bytes]:
    import cramjam  # noqa: PLC0415 - the broker takes the bytes as they are; other clients read them

    data = b"".join(struct.pack(">I", len(message(body))) + message(body) for body in bodies)
    packed = (
        data,
        gzip.compress(data, mtime=0),
        bytes(cramjam.snappy.compress(data)),
        bytes(cramjam.lz4.compress(data)),
        bytes(cramjam.zstd.compress(data)),
    )[codec]
    return publishing_id, codec, len(bodies), len(data), packed


class Capture:
    """The scenes, and what was recorded of them."""

    def __init__(self, recorder: Recorder, ctl: Callable[..., str]) -> None:
        self._recorder = recorder
        self._ctl = ctl
        self.vectors: list[dict[str, Any]] = []

    @contextlib.contextmanager
    def scene(self, name: str, bodies: list[bytes] | None = None, client: str = "capture") -> Iterator[Peer]:
        """A new connection; its frames are named after the scene. Chunks are to hold ``bodies``, encoded."""
        self._recorder.take()
        peer = Peer(self._recorder.port)
        try:
            yield peer
        finally:
            time.sleep(0.05)
            peer.close()
        self.keep(name, client, bodies)

    def keep(self, name: str, client: str, bodies: list[bytes] | None = None) -> None:
        seen = {(vector["sender"], vector["frame"]) for vector in self.vectors}
        for sender, frame in self._recorder.take():
            try:
                found = describe(frame)
            except (KeyError, struct.error):  # sent to be refused
                continue
            if len(frame) > 4096 or (sender, frame.hex()) in seen:
                continue
            what = found["message"] or f"{found['answers']} code {found['code']}"
            vector = {"name": f"{name}: {what}", "sender": sender, "client": client, "frame": frame.hex(), **found}
            if bodies is not None and found["message"] in ("Deliver", "DeliverCommitted"):
                vector["messages"] = [body.hex() for body in bodies]
            self.vectors.append(vector)
            seen.add((sender, frame.hex()))

    def run(self) -> None:
        self._logins()
        self._streams()
        self._publishing()
        self._chunks()
        self._consuming()
        self._offsets()
        self._super_streams()
        self._goodbyes()

    def _logins(self) -> None:
        with self.scene("login") as peer:
            peer.open()
        with self.scene("wrong password") as peer:
            assert peer.log_in(password="wrong")["code"] == 8
        with self.scene("unknown vhost") as peer:
            assert peer.open("no-such-vhost")["code"] == 12
        with self.scene("unknown mechanism") as peer:
            peer.ask("PeerProperties", {})
            peer.ask("SaslHandshake")
            assert peer.ask("SaslAuthenticate", "NO-SUCH", None)["code"] == 7
        with self.scene("challenge") as peer:
            peer.ask("PeerProperties", {})
            peer.ask("SaslHandshake")
            answer = peer.ask("SaslAuthenticate", "RABBIT-CR-DEMO", b"guest")
            assert answer["code"] == 10, answer
            peer.ask("SaslAuthenticate", "RABBIT-CR-DEMO", b"My password is guest")
        with self.scene("credentials refreshed") as peer:
            peer.open()
            assert peer.ask("SaslAuthenticate", "PLAIN", b"\0guest\0guest")["code"] == 1
        with self.scene("user changed") as peer:
            peer.open()
            assert peer.ask("SaslAuthenticate", "PLAIN", b"\0other\0other")["code"] in (8, 21)
        with self.scene("mechanism changed") as peer:
            peer.open()
            peer.ask("SaslAuthenticate", "RABBIT-CR-DEMO", b"guest")
        with self.scene("heartbeat") as peer:
            peer.open(heartbeat=1)
            peer.send("Heartbeat")
            peer.wait_for("Heartbeat")

    def _streams(self) -> None:
        with self.scene("streams") as peer:
            peer.open()
            assert peer.ask("Create", "vector-a", {})["code"] == 1
            assert peer.ask("Create", "vector-a", {})["code"] == 5
            assert peer.ask("Create", "vector-a", {"max-age": "1h"})["code"] == 17
            arguments = {"max-length-bytes": "1000000", "max-age": "7D", "stream-max-segment-size-bytes": "500000"}
            assert peer.ask("Create", "vector-ü€𝄞", arguments)["code"] == 1
            time.sleep(0.5)
            peer.ask("Metadata", ["vector-a", "vector-ü€𝄞", "no-such-stream"])
            peer.ask("Metadata", [])
            peer.ask("StreamStats", "vector-a")
            assert peer.ask("StreamStats", "no-such-stream")["code"] == 2
            assert peer.ask("Delete", "no-such-stream")["code"] == 2
            assert peer.ask("Delete", "vector-ü€𝄞")["code"] == 1
        self._ctl("add_user", "nobody", "nobody")
        self._ctl("set_permissions", "nobody", "", "", "")
        with self.scene("access refused") as peer:
            peer.log_in("nobody", "nobody")
            peer.ask("Open", "/")
            assert peer.ask("Create", "forbidden", {})["code"] == 16
            assert peer.ask("DeclarePublisher", 0, "", "vector-a")["code"] == 16
        with self.scene("stream deleted") as peer:
            peer.open()
            peer.ask("Create", "vector-gone", {})
            time.sleep(0.3)
            peer.ask("DeclarePublisher", 9, "", "vector-gone")
            peer.ask("Subscribe", 8, "vector-gone", (3, 0), 1, {})
            peer.send("Delete", "vector-gone", correlation_id=77)
            peer.wait_for("MetadataUpdate")

    def _publishing(self) -> None:
        with self.scene("publishing") as peer:
            peer.open()
            assert peer.ask("DeclarePublisher", 0, "", "vector-a")["code"] == 1
            assert peer.ask("DeclarePublisher", 255, "writer-ü", "vector-a")["code"] == 1
            assert peer.ask("DeclarePublisher", 1, "", "no-such-stream")["code"] == 2
            assert peer.ask("QueryPublisherSequence", "writer-ü", "vector-a")["fields"] == {"sequence": 0}
            peer.publish(255, (1, message(b"one")), (2, message(b"")), (3, b""), (5, message(b"gap")))
            assert peer.ask("QueryPublisherSequence", "writer-ü", "vector-a")["fields"] == {"sequence": 5}
            for codec in range(5):
                peer.publish(0, sub_batch(100 + codec, codec, [b"x", b"y" * 300, b""]))
            mixed = sub_batch(201, 0, [b"in a sub-entry"])
            peer.publish(0, (200, message(b"mixed")), mixed, (202, message(b"z" * 256)))
            peer.publish(0, (2**64 - 1, message(b"the last id")))
            assert peer.publish(7, (1, b"nobody"), (2, b"knows"))["message"] == "PublishError"
            assert peer.ask("DeletePublisher", 255)["code"] == 1
            assert peer.ask("DeletePublisher", 77)["code"] == 18
        with self.scene("filtered publishing") as peer:
            peer.open()
            peer.ask("Create", "vector-filter", {"stream-filter-size-bytes": "32"})
            time.sleep(0.3)
            peer.ask("DeclarePublisher", 3, "", "vector-filter")
            peer.send("PublishFiltered", 3, [(1, "red", message(b"r")), (2, None, message(b"none")), (3, "", b"")])
            peer.wait_for("PublishConfirm")
            peer.send("PublishFiltered", 3, [(4, "blue-ü", message(b"b"))])
            peer.wait_for("PublishConfirm")

    def _fill(self, stream: str, *entries: Any) -> None:
        """One chunk."""
        peer = Peer(self._recorder.port)
        peer.open()
        assert peer.ask("Create", stream, {})["code"] == 1
        time.sleep(0.3)
        peer.ask("DeclarePublisher", 0, "", stream)
        peer.publish(0, *entries)
        peer.close()

    def _chunks(self) -> None:
        bodies = [b"first", b"", b"second" * 60, "dritte: ü€𝄞".encode()]
        encoded = [message(body) for body in bodies]
        self._fill("vector-simple", *[(at, data) for at, data in enumerate(encoded)])
        for deliver in (1, 2):
            with self.scene(f"simple chunk, Deliver v{deliver}", encoded) as peer:
                peer.open(deliver=deliver)
                peer.ask("Subscribe", 5, "vector-simple", (1, 0), 2, {})
                assert peer.wait_for("Deliver", "DeliverCommitted")["version"] == deliver
        with self.scene("simple chunk, versions never exchanged", encoded) as peer:
            peer.open(exchange=False)
            peer.ask("Subscribe", 6, "vector-simple", (1, 0), 2, {})
            peer.wait_for("Deliver", "DeliverCommitted")
        for codec, name in enumerate(("none", "gzip", "snappy", "lz4", "zstd")):
            stream = f"vector-{name}"
            many = [b"%d " % at * 5 for at in range(40)]
            self._fill(stream, (1, message(b"before")), sub_batch(2, codec, many), (3, message(b"after")))
            expected = [message(body) for body in (b"before", *many, b"after")]
            with self.scene(f"chunk with a sub-batch, {name}", expected) as peer:
                peer.open()
                peer.ask("Subscribe", codec, stream, (1, 0), 1, {})
                peer.wait_for("DeliverCommitted")
        with self.scene("chunk with a filter", [message(b"r"), message(b"none"), b""]) as peer:
            peer.open()
            peer.ask("Subscribe", 1, "vector-filter", (1, 0), 1, {})
            peer.wait_for("DeliverCommitted")

    def _consuming(self) -> None:
        stream = "vector-simple"
        with self.scene("subscribing") as peer:
            peer.open()
            peer.ask("Subscribe", 1, stream, (2, 0), 1, {})
            peer.ask("Subscribe", 2, stream, (3, 0), 65535, {})
            peer.ask("Subscribe", 3, stream, (4, 2), 1, {"filter.0": "red", "match-unfiltered": "true"})
            peer.ask("Subscribe", 4, stream, (5, 1_700_000_000_000), 1, {"name": "ü"})
            assert peer.ask("Subscribe", 4, stream, (1, 0), 1, {})["code"] == 3
            assert peer.ask("Subscribe", 5, "no-such-stream", (1, 0), 1, {})["code"] == 2
            peer.send("Credit", 1, 3)
            peer.send("Credit", 99, 1)
            assert peer.wait_for("CreditResponse")["code"] == 4
            assert peer.ask("Unsubscribe", 1)["code"] == 1
            assert peer.ask("Unsubscribe", 99)["code"] == 4
        with self.scene("single active consumer") as peer:
            peer.open()
            properties = {"single-active-consumer": "true", "name": "group"}
            peer.ask("Subscribe", 1, stream, (1, 0), 1, properties)
            update = peer.wait_for("ConsumerUpdate")
            assert update["fields"] == {"subscription_id": 1, "active": True}
            peer.send("ConsumerUpdate", (4, 1), response=True, correlation_id=update["correlation_id"])
            peer.wait_for("DeliverCommitted")
            # The second of the group comes first when the first goes.
            peer.ask("Subscribe", 2, stream, (1, 0), 1, properties)
            peer.ask("Unsubscribe", 1)
            update = peer.wait_for("ConsumerUpdate")
            peer.send("ConsumerUpdate", (0, 0), response=True, correlation_id=update["correlation_id"])
            peer.wait_for("DeliverCommitted")
        with self.scene("single active consumer refuses") as peer:
            peer.open()
            peer.ask("Subscribe", 1, stream, (1, 0), 1, {"single-active-consumer": "true", "name": "other"})
            update = peer.wait_for("ConsumerUpdate")
            peer.send("ConsumerUpdate", (1, 0), response=True, correlation_id=update["correlation_id"], code=2)

    def _offsets(self) -> None:
        with self.scene("offsets") as peer:
            peer.open()
            assert peer.ask("QueryOffset", "reader", "vector-simple")["code"] == 19
            assert peer.ask("QueryOffset", "reader", "no-such-stream")["code"] == 2
            peer.send("StoreOffset", "reader", "vector-simple", 3)
            time.sleep(0.3)
            assert peer.ask("QueryOffset", "reader", "vector-simple")["fields"] == {"offset": 3}
            peer.ask("StreamStats", "vector-simple")
            for spec in ((1, 0), (2, 0), (3, 0), (4, 1), (5, 1_700_000_000_000)):
                peer.ask("ResolveOffsetSpec", "vector-simple", spec, {})
            assert peer.ask("ResolveOffsetSpec", "no-such-stream", (1, 0), {})["code"] == 2

    def _super_streams(self) -> None:
        with self.scene("super streams") as peer:
            peer.open()
            names = ["super-0", "super-1"]
            assert peer.ask("CreateSuperStream", "super", names, ["0", "1"], {"max-age": "1h"})["code"] == 1
            assert peer.ask("CreateSuperStream", "super", names, ["0", "1"], {})["code"] == 5
            time.sleep(0.5)
            assert peer.ask("Partitions", "super")["fields"] == {"streams": names}
            peer.ask("Partitions", "no-such-super")
            assert peer.ask("Route", "1", "super")["fields"] == {"streams": ["super-1"]}
            peer.ask("Route", "no-such-key", "super")
            peer.ask("Route", "1", "no-such-super")
            assert peer.ask("DeleteSuperStream", "super")["code"] == 1
            assert peer.ask("DeleteSuperStream", "no-such-super")["code"] == 2

    def _goodbyes(self) -> None:
        with self.scene("client closes") as peer:
            peer.open()
            assert peer.ask("Close", 1, "OK")["code"] == 1
        with self.scene("unknown command") as peer:
            peer.open()
            peer.send_raw(struct.pack(">IHH", 4, 0x7F, 1))
            self._answer_close(peer)
        with self.scene("frame too large") as peer:
            peer.open()
            peer.ask("DeclarePublisher", 0, "", "vector-a")
            peer.send_raw(frame_of("Publish", 0, [(1, bytes(1048576))]))
            self._answer_close(peer)

    def _answer_close(self, peer: Peer) -> None:
        found = peer.wait_for("Close")
        peer.send("Close", response=True, correlation_id=found["correlation_id"])

    def seed_client(self, python: str) -> None:
        """The published client's own messages: what it sends, and how the broker hands it back."""
        done = subprocess.run(
            [python, "-c", SEED_SCRIPT, str(self._recorder.port)], text=True, capture_output=True, check=False
        )
        if done.returncode:
            sys.exit(f"the published client failed: {done.stderr}")
        told = json.loads(done.stdout)
        client = told.pop("client")
        self.keep(client, client)
        for stream, messages in told.items():
            expected = [bytes.fromhex(item["bytes"]) for item in messages]
            with self.scene(f"{client}, {stream}", expected, client) as peer:
                peer.open()
                peer.ask("Subscribe", 1, stream, (1, 0), 1, {})
                peer.wait_for("DeliverCommitted")
            for vector in self.vectors:
                if vector["name"].startswith(f"{client}, {stream}: Deliver"):
                    vector["amqp"] = messages


SEED_SCRIPT = r"""
import asyncio, importlib.metadata, json, sys
from rstream import AMQPMessage, CompressionType, Producer
from rstream._pyamqp.message import Properties

def rich(at):
    return AMQPMessage(
        body=f"body {at}".encode(),
        properties=Properties(
            message_id=f"id-{at}", user_id=b"guest", to="to", subject="s\u00fcbject", reply_to="reply",
            correlation_id=at, content_type="text/plain", content_encoding="utf-8",
            absolute_expiry_time=1700000000000, creation_time=1700000000000 + at, group_id="group",
            group_sequence=at, reply_to_group_id="back"),
        application_properties={"key": "value", "number": at, "yes": True, "no": None},
        message_annotations={b"x-note": "annotated"},
    )

def tell(message):
    properties = message.properties
    def text(value):
        return value.decode() if isinstance(value, bytes) else value
    return {
        "bytes": bytes(message).hex(),
        "body": message.body if isinstance(message.body, str) else message.body.decode(),
        "properties": properties and {name: text(getattr(properties, name)) for name in properties._fields},
        "application_properties": message.application_properties,
    }

async def main(port):
    told = {"client": "rstream " + importlib.metadata.version("rstream")}
    async with Producer("127.0.0.1", port, username="guest", password="guest") as producer:
        for stream, messages, method in (
            ("seed-plain", [AMQPMessage(body=f"hello: {at}".encode()) for at in range(5)], "batch"),
            ("seed-long", [AMQPMessage(body=("\u00fc" * 200).encode())], "batch"),
            ("seed-garbled", [AMQPMessage(body="text garbles its message")], "batch"),
            ("seed-properties", [rich(at) for at in range(3)], "batch"),
            ("seed-plain-entry", [AMQPMessage(body=f"a:{at}".encode()) for at in range(10)], CompressionType.No),
            ("seed-gzip-entry", [rich(at) for at in range(10)], CompressionType.Gzip),
        ):
            await producer.create_stream(stream)
            await asyncio.sleep(0.5)
            if method == "batch":
                await producer.send_batch(stream, messages)
            else:
                await producer.send_sub_entry(stream, compression_type=method, sub_entry_messages=messages)
            told[stream] = [tell(message) for message in messages]
        await asyncio.sleep(1.5)
    print(json.dumps(told))

asyncio.run(main(int(sys.argv[1])))
"""


def check_chunks(vectors: list[dict[str, Any]]) -> None:
    """The checksum covers what we think it covers."""
    for vector in vectors:
        if "messages" in vector:
            chunk = bytes.fromhex(vector["fields"]["chunk"]["hex"])
            crc, length = struct.unpack_from(">II", chunk, 32)
            assert zlib.crc32(chunk[48 : 48 + length]) == crc


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed-python", help="a Python that has the published client installed")
    parser.add_argument("--output", type=Path, default=ROOT / "tests" / "vectors")
    options = parser.parse_args()
    name = f"vectors-{uuid.uuid4().hex[:8]}"

    def script(*arguments: str) -> str:
        return subprocess.run(
            [str(RABBITMQ), *arguments], text=True, stdout=subprocess.PIPE, check=True, timeout=600
        ).stdout

    def ctl(*arguments: str) -> str:
        return script("ctl", "--name", name, "--", *arguments)

    recorder = Recorder()
    try:
        uri = script(
            "up",
            "--name",
            name,
            "--advertised-host=127.0.0.1",
            f"--advertised-port={recorder.port}",
            "--config=auth_mechanisms.1=PLAIN",
            "--config=auth_mechanisms.2=RABBIT-CR-DEMO",
        )
        recorder.target = ("127.0.0.1", int(uri.rsplit(":", 1)[1].split("/")[0]))
        version = ctl("version").strip()
        capture = Capture(recorder, ctl)
        capture.run()
        if options.seed_python:
            capture.seed_client(options.seed_python)
        check_chunks(capture.vectors)
    finally:
        script("down", "--name", name)
    options.output.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(vector, ensure_ascii=False) for vector in capture.vectors)
    source = json.dumps({"broker": f"RabbitMQ {version}", "captured_by": "scripts/capture_vectors.py"})
    series = ".".join(version.split(".")[:2])
    path = options.output / f"rabbitmq-{series}.json"
    path.write_text(f'{{"source": {source}, "vectors": [\n{lines}\n]}}\n')
    print(f"{path}: {len(capture.vectors)} frames")


if __name__ == "__main__":
    main()
