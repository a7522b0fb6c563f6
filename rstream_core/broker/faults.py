"""Faults on demand, for tests of how a client survives them.

Each switch stays set until its fault has happened, or until ``clear``. Switches affect all connections of a broker, and
may be set from any thread. Impossible arguments raise ``ConfigurationError``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rstream_core.broker.checks import check_number, check_seconds
from rstream_core.broker.clients import Clients
from rstream_core.broker.streams import Streams
from rstream_core.errors import ConfigurationError
from rstream_core.protocol.commands import Key

_MANY = 2**31 - 1


@dataclass(slots=True)
class _Answer:
    code: int
    times: int


class Faults:
    """The switches of one broker."""

    def __init__(self, clients: Clients, streams: Streams, run: Callable[[Callable[[], None]], None]) -> None:
        """``run`` calls a function on the broker's own event loop, and returns when that is done."""
        self._clients = clients
        self._streams = streams
        self._run = run
        self.is_armed = False
        """Whether any switch is set: the only check on the broker's hot path."""
        self.delay_seconds = 0.0
        self.heartbeats_stalled = False
        self._answers: dict[int, _Answer] = {}
        self._confirms_left: int | None = None
        self._cut: tuple[int, int] | None = None

    # Switches.

    def drop_after_confirms(self, count: int) -> None:
        """Ends the connection after the ``count``-th confirm from now on, and confirms nothing later.

        The later messages are stored, but the client cannot know that.
        """
        self._confirms_left = check_number("count", count, 1, _MANY)
        self.is_armed = True

    def cut_frame(self, key: Key, after: int = 6) -> None:
        """Sends only ``after`` bytes of the next frame with this key, and ends the connection.

        An answer has the key of its request. The first 6 bytes are the frame's size and the key.
        """
        self._cut = _check_key(key), check_number("after", after, 0, _MANY)
        self.is_armed = True

    def delay(self, seconds: float) -> None:
        """Handles data that arrives from now on after a delay of ``seconds``, in order."""
        self.delay_seconds = check_seconds("seconds", seconds)
        self.is_armed = True

    def answer(self, key: Key, code: int, times: int = 1) -> None:
        """Answers the next ``times`` requests with this key with a response code, without carrying them out.

        For ``Key.PUBLISH`` the messages of the next frames are rejected with the code. Codes are those of the protocol:
        2 is a stream that does not exist, 6 one that is not available, 15 an internal error; 1 is no error.
        """
        code = check_number("code", code, 2, 65_535)
        self._answers[_check_key(key)] = _Answer(code, check_number("times", times, 1, _MANY))
        self.is_armed = True

    def stop_reading(self) -> None:
        """Stops reading from all connections. Clients that publish notice it when the buffers in between are full."""
        self._run(lambda: self._clients.hold_all("fault"))

    def resume_reading(self) -> None:
        """Undoes ``stop_reading``."""
        self._run(lambda: self._clients.release_all("fault"))

    def stall_heartbeats(self) -> None:
        """Stops sending heartbeats; all other traffic goes on."""
        self.heartbeats_stalled = True
        self.is_armed = True

    def move_leader(self, stream: str, vhost: str = "/") -> None:
        """Drops a stream's publishers and subscriptions and tells their clients, as when its leader moves.

        The stream and its data stay.
        """

        def move() -> None:
            found = self._streams.get(vhost, stream)
            if found is None:
                raise ConfigurationError(f"there is no stream {stream!r} in virtual host {vhost!r}")
            found.drop_users()

        self._run(move)

    def drop_connections(self) -> None:
        """Ends every connection without a Close."""
        self._run(self._clients.abort_all)

    def clear(self) -> None:
        """Resets all switches."""
        self.delay_seconds = 0.0
        self.heartbeats_stalled = False
        self._answers.clear()
        self._confirms_left = None
        self._cut = None
        self.is_armed = False
        self.resume_reading()

    # Called by the broker.

    def answer_for(self, key: int) -> int | None:
        """Returns the response code for the next request with this key, and counts it; None where none is set."""
        answer = self._answers.get(key)
        if answer is None:
            return None
        answer.times -= 1
        if answer.times <= 0:
            del self._answers[key]
        return answer.code

    def confirms_allowed(self, count: int) -> tuple[int, bool]:
        """Returns how many of ``count`` confirms may be sent, and whether the connection must end after them."""
        if self._confirms_left is None:
            return count, False
        allowed = min(count, self._confirms_left)
        self._confirms_left -= allowed
        if self._confirms_left:
            return allowed, False
        self._confirms_left = None
        return allowed, True

    def cut_for(self, data: bytes) -> int | None:
        """Returns how many bytes of these whole frames to send before the connection ends; None for all of them."""
        if self._cut is None:
            return None
        key, after = self._cut
        pos = 0
        while pos + 6 <= len(data):
            if int.from_bytes(data[pos + 4 : pos + 6]) & 0x7FFF == key:
                self._cut = None
                return pos + after
            pos += 4 + int.from_bytes(data[pos : pos + 4])
        return None


def _check_key(key: Key) -> Key:
    if not isinstance(key, Key):
        raise ConfigurationError(f"a key is one of rstream_core.protocol.commands.Key, not {key!r}")
    return key
