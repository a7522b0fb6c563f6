"""Shares connections among publishers and subscriptions, and gives out their ids.

An id is one byte in the protocol, so a connection carries at most 256 publishers or subscriptions. A client has one
pool for publishers and one for subscriptions: where the broker stops reading from a busy publisher, the credits of a
consumer must not wait behind it.

A connection is closed when its last id is given back; with an idle timeout, only after that time.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial

from rstream_core.callbacks import own_task
from rstream_core.connecting.attempts import SharedAttempt
from rstream_core.connecting.connection import Connection
from rstream_core.connecting.locator import Locator
from rstream_core.errors import AlreadyClosed
from rstream_core.types import Endpoint

MAX_IDS = 256


@dataclass(slots=True)
class _Shared:
    connection: Connection
    ids: set[int] = field(default_factory=set)
    """The ids that are taken."""
    lost: int = 0
    """How many of the ids were given back without the broker having confirmed that they are free."""
    idle: asyncio.TimerHandle | None = None
    """Closes it, as long as no id is in use."""

    def is_used(self) -> None:
        """Keeps it open."""
        if self.idle is not None:
            self.idle.cancel()
            self.idle = None

    def next_id(self) -> int:
        return next(number for number in range(MAX_IDS) if number not in self.ids)


@dataclass(frozen=True, slots=True)
class Lease:
    """An id on a connection, until it is given back."""

    connection: Connection
    id: int


class ConnectionPool:
    """The connections of one application, for one kind of use, to the nodes of its cluster."""

    def __init__(self, locator: Locator, *, max_per_connection: int = MAX_IDS, idle_timeout: float = 0.0) -> None:
        """``idle_timeout``: seconds for which a connection stays open without an id in use."""
        if not 0 < max_per_connection <= MAX_IDS:
            raise ValueError(f"a connection carries between 1 and {MAX_IDS} ids, not {max_per_connection}")
        self._locator = locator
        self._max = max_per_connection
        self._idle_timeout = idle_timeout
        self._shared: dict[Endpoint, list[_Shared]] = {}
        self._connecting: dict[Endpoint, SharedAttempt[_Shared]] = {}
        self._ending: dict[Connection, asyncio.Task[None]] = {}
        """Connections that are being closed after their idle timeout."""
        self._closed = False

    async def acquire(self, endpoint: Endpoint) -> Lease:
        """Returns an id on an open connection to ``endpoint``. Opens another connection if all ids are taken."""
        # One shared attempt for each node: a node that does not answer holds up no calls for other nodes, and all
        # calls for that node wait for a single timeout.
        connecting = self._connecting.setdefault(endpoint, SharedAttempt())
        try:
            async with connecting:
                shared = self._with_room(endpoint)
                while shared is None:
                    made = await connecting.result(partial(self._connect, endpoint))
                    # Other calls may have taken all its ids. If it has ended already, using it raises the reason.
                    shared = made if len(made.ids) < self._max else self._with_room(endpoint)
                lease = Lease(shared.connection, shared.next_id())
                shared.ids.add(lease.id)
                shared.is_used()
                return lease
        finally:
            if not connecting.callers and self._connecting.get(endpoint) is connecting:
                del self._connecting[endpoint]  # brokers name the endpoints: the table must not grow for ever
                self._end_unused(endpoint)

    def _with_room(self, endpoint: Endpoint) -> _Shared | None:
        self._check_open()
        members = [shared for shared in self._shared.pop(endpoint, ()) if shared.connection.is_open]
        if members:
            self._shared[endpoint] = members
        return next((shared for shared in members if len(shared.ids) < self._max), None)

    async def _connect(self, endpoint: Endpoint) -> _Shared:
        shared = _Shared(await self._locator.connect(endpoint))
        try:
            self._check_open()  # the pool may have been closed in the meantime
        except AlreadyClosed:
            await shared.connection.close()
            raise
        self._shared.setdefault(endpoint, []).append(shared)
        return shared

    def _end_unused(self, endpoint: Endpoint) -> None:
        """Ends connections whose callers were all cancelled before they took an id."""
        members = self._shared.pop(endpoint, [])
        for shared in members:
            if not shared.ids and shared.idle is None:
                shared.connection.abort("nobody waits for it any more")
        if kept := [shared for shared in members if shared.ids or shared.idle is not None]:
            self._shared[endpoint] = kept

    def _check_open(self) -> None:
        if self._closed:
            raise AlreadyClosed("this client is closed")

    async def release(self, lease: Lease, *, is_free: bool = True) -> None:
        """Gives an id back, and closes the connection when no id is in use, now or after the idle timeout.

        With ``is_free`` False, the broker may still use the id, and it is not given out again.
        """
        for endpoint, members in self._shared.items():
            for shared in members:
                if shared.connection is lease.connection:
                    if is_free:
                        shared.ids.discard(lease.id)
                    else:
                        shared.lost += 1
                    if len(shared.ids) > shared.lost:
                        return
                    if self._idle_timeout and not shared.lost and shared.connection.is_open and not self._closed:
                        loop = asyncio.get_running_loop()
                        shared.is_used()
                        shared.idle = loop.call_later(self._idle_timeout, self._end_idle, endpoint, shared)
                        return
                    self._remove(endpoint, shared)
                    await self._end(shared)
                    return

    def _remove(self, endpoint: Endpoint, shared: _Shared) -> None:
        members = self._shared[endpoint]
        members.remove(shared)
        if not members:
            del self._shared[endpoint]

    def _end_idle(self, endpoint: Endpoint, shared: _Shared) -> None:
        """Closes a connection that has been idle for too long, unless it has ended by itself."""
        if shared not in self._shared.get(endpoint, ()):
            return
        self._remove(endpoint, shared)
        connection = shared.connection
        self._ending[connection] = task = own_task(connection.close())
        task.add_done_callback(lambda _: self._ending.pop(connection, None))

    async def _end(self, shared: _Shared) -> None:
        if shared.lost:
            shared.connection.abort("it did not answer")
        else:
            await shared.connection.close()

    @property
    def connections(self) -> list[Connection]:
        """All connections of the pool."""
        return [*(shared.connection for members in self._shared.values() for shared in members), *self._ending]

    async def close(self) -> None:
        """Closes every connection. Never raises."""
        self._closed = True
        for members in self._shared.values():
            for shared in members:
                shared.is_used()
        await asyncio.gather(*(connection.close() for connection in self.connections), *self._ending.values())
        self._shared.clear()  # not earlier: after a cancellation the caller still needs the list, to abort them
