"""Answers one question: does a RabbitMQ stream listener at this address log a client in?

A port that accepts connections says little: the listener opens before its virtual host is there. This sends
the first commands of the stream protocol by hand, on purpose without the client library of this repository:
the broker that its tests rely on must not be judged by the code under test.
"""

from __future__ import annotations

import socket
import struct

_PEER_PROPERTIES, _SASL_HANDSHAKE, _SASL_AUTHENTICATE = 0x11, 0x12, 0x13
_OK = 1
_LARGEST_REPLY = 1 << 16


class NotReady(Exception):
    """The listener answers, but not as a broker that is ready."""


def log_in(host: str, port: int, timeout: float, user: str = "guest", password: str = "guest") -> str | None:
    """Log in over the stream protocol and return the server's version; raises OSError or NotReady."""
    with socket.create_connection((host, port), timeout) as connection:
        properties = _strings(_ask(connection, _PEER_PROPERTIES, 1, struct.pack(">i", 0)))
        _ask(connection, _SASL_HANDSHAKE, 2, b"")
        secret = f"\0{user}\0{password}".encode()
        _ask(connection, _SASL_AUTHENTICATE, 3, _string(b"PLAIN") + struct.pack(">i", len(secret)) + secret)
    return dict(zip(properties[::2], properties[1::2], strict=False)).get("version")


def _string(text: bytes) -> bytes:
    return struct.pack(">h", len(text)) + text


def _ask(connection: socket.socket, key: int, correlation: int, content: bytes) -> bytes:
    """Send one request and return what follows the response code of its answer."""
    body = struct.pack(">HHI", key, 1, correlation) + content
    connection.sendall(struct.pack(">I", len(body)) + body)
    (size,) = struct.unpack(">I", _read(connection, 4))
    if not 10 <= size <= _LARGEST_REPLY:
        raise NotReady(f"an answer of {size} bytes: not a stream listener")
    answer = _read(connection, size)
    answered, _version, correlated, code = struct.unpack_from(">HHIH", answer)
    if answered != key | 0x8000 or correlated != correlation:
        raise NotReady(f"frame {answered:#06x} in answer to {key:#06x}")
    if code != _OK:
        raise NotReady(f"response code {code} to command {key:#06x}")
    return answer[10:]


def _read(connection: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(size - len(parts))
        if not part:
            raise NotReady("the server closed the connection")
        parts += part
    return bytes(parts)


def _strings(content: bytes) -> list[str]:
    """The keys and values of a map, one after the other."""
    (pairs,) = struct.unpack_from(">i", content)
    position, found = 4, []
    for _ in range(2 * pairs):
        (length,) = struct.unpack_from(">h", content, position)
        found.append(content[position + 2 : position + 2 + length].decode())
        position += 2 + length
    return found
