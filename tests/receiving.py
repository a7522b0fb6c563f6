"""Gives bytes to a session as a transport does: into the memory that it receives into."""

from __future__ import annotations

from rstream_core.protocol import commands as c
from rstream_core.protocol.session import Session, State


def receive(session: Session, data: bytes, now: float) -> list[c.Frame]:
    """What ``Session.receive`` returns for all of the data; up to the piece behind which the session is closed."""
    frames: list[c.Frame] = []
    rest = memoryview(data)
    while True:
        room = session.room()
        piece = rest[: len(room)]
        room[: len(piece)] = piece
        rest = rest[len(piece) :]
        frames += session.receive(len(piece), now)
        if not rest or session.state is State.CLOSED:
            return frames
