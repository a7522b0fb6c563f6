"""``EmbeddedBroker``: a broker inside a Python program."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from rstream_core.broker.checks import MIN_BROKER_FRAME_MAX, check_host, check_name, check_number, check_text
from rstream_core.broker.faults import Faults
from rstream_core.broker.server import Server
from rstream_core.broker.session import ServerOptions
from rstream_core.broker.statistics import Statistics
from rstream_core.broker.writer import Fsync
from rstream_core.errors import AlreadyClosed, ConfigurationError

_PREFIX = "rstream-broker-"
"""The beginning of the names of temporary folders."""
_MARKER = "temporary"
"""A file that marks a folder as temporary: it may be deleted when its broker is gone."""
_ABANDONED_AFTER = 60.0
"""Seconds after which an unlocked folder counts as abandoned. A new folder is unlocked for a moment."""
_START_TIMEOUT = 60.0
MIN_TOKEN_KEY = 32
"""Bytes of the shortest key of HS256 (RFC 7518)."""
_STOP_TIMEOUT = 30.0
_CALL_TIMEOUT = 10.0


class EmbeddedBroker:
    """A broker that speaks the protocol of RabbitMQ streams, for development and tests.

    With ``async with`` it runs on the caller's event loop. With a plain ``with`` it runs in a thread of its own, for
    tests and programs that have no event loop, or block theirs.

    Without ``data`` it keeps its streams in a temporary folder that goes with it; with it, in that folder, which no
    other broker may hold. ``port`` 0 takes a free one. ``users`` are passwords by name; if none are given there is
    ``guest``, from this machine only. ``fsync`` is ``always``, ``interval`` or ``never``: a confirmed message
    outlives the process in any case, and the machine only with ``always``. ``advertised_host`` is what clients are told
    to connect to; without it, ``localhost`` where that name leads to the address they reached it by, else that address.
    With ``management_port``, it also answers a part of RabbitMQ's management API there, to the same users.
    With a ``token_key`` of 32 bytes or more, JSON Web Tokens that are signed with it (HS256), and have a ``sub`` and an
    ``exp``, are logins too: as the password of PLAIN, or by OAUTHBEARER. The connection ends with its token.

    Raises ``ConfigurationError`` for impossible arguments. Starting raises it where the folder or the port is in use,
    or the folder cannot be made.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        data: str | Path | None = None,
        users: Mapping[str, str] | None = None,
        vhosts: Sequence[str] = ("/",),
        tls: ssl.SSLContext | None = None,
        fsync: str = "never",
        advertised_host: str | None = None,
        heartbeat: int = 60,
        frame_max: int = 1024 * 1024,
        management_port: int | None = None,
        token_key: bytes | None = None,
    ) -> None:
        host = check_host("host", host)
        if advertised_host is not None:
            advertised_host = check_host("advertised_host", advertised_host)
        check_number("port", port, 0, 65_535)
        if management_port is not None:
            check_number("management_port", management_port, 0, 65_535)
        if data is not None and not isinstance(data, Path):
            data = check_text("data", data)
        if users is not None and not isinstance(users, Mapping):
            raise ConfigurationError("users are passwords by name")
        for name, password in (users or {}).items():
            check_name("the name of a user", name)
            check_text(f"the password of user {name!r}", password)
        if isinstance(vhosts, str) or not vhosts:
            raise ConfigurationError("vhosts are the names of the virtual hosts, at least one")
        for name in vhosts:
            check_name("the name of a virtual host", name)
        if tls is not None and not isinstance(tls, ssl.SSLContext):
            raise ConfigurationError("tls is an ssl.SSLContext")
        check_number("heartbeat", heartbeat, 0, 2**31 - 1)
        check_number("frame_max", frame_max, MIN_BROKER_FRAME_MAX, 2**31 - 1)
        if token_key is not None and len(token_key) < MIN_TOKEN_KEY:
            raise ConfigurationError(f"token_key has {len(token_key)} bytes; {MIN_TOKEN_KEY} is the least")
        if fsync not in (mode.value for mode in Fsync):
            raise ConfigurationError(f"fsync is always, interval or never, not {fsync!r}")
        self.host = host
        self.username, self.password = next(iter((users or {"guest": "guest"}).items()))
        """The first user."""
        self.vhost = vhosts[0]
        self._port = port
        self._management_port = management_port
        self._data = data
        self._tls = tls
        self._fsync = Fsync(fsync)
        self._advertised_host = advertised_host
        self._options = ServerOptions(
            users=dict(users or {"guest": "guest"}),
            vhosts=tuple(vhosts),
            loopback_users=() if users else ("guest",),
            frame_max=frame_max,
            heartbeat=heartbeat,
            token_key=token_key,
        )
        self._server: Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: _Thread | None = None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    @property
    def port(self) -> int:
        """The port on which the broker listens."""
        return self._running.port

    @property
    def uri(self) -> str:
        """The URI for clients: address, virtual host, and the first user's name and password."""
        scheme = "rabbitmq-stream+tls" if self._tls else "rabbitmq-stream"
        login = f"{quote(self.username, safe='')}:{quote(self.password, safe='')}"
        return f"{scheme}://{login}@{self._host_in_uris}:{self.port}/{quote(self.vhost, safe='')}"

    @property
    def management_uri(self) -> str | None:
        """The address of the management API, without a login; None where there is none."""
        port = self._running.management_port
        return None if port is None else f"{'https' if self._tls else 'http'}://{self._host_in_uris}:{port}"

    @property
    def _host_in_uris(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"[{host}]" if ":" in host else host

    @property
    def faults(self) -> Faults:
        """Switches that cause faults, for tests; may be used from any thread."""
        return self._running.faults

    @property
    def statistics(self) -> Statistics:
        """Counters since the start."""
        return self._running.statistics

    @property
    def published(self) -> tuple[int, int]:
        """Messages and bytes stored since the start, including those of deleted streams."""
        totals = self._running.streams.totals
        return totals.messages, totals.size

    @property
    def stream_count(self) -> int:
        """The number of streams."""
        return len(self._running.streams)

    @property
    def dropped(self) -> list[str]:
        """Damage that was found in the data folder, as lines of text. Damaged parts are not read."""
        return list(self._running.streams.folder.dropped)

    @property
    def _running(self) -> Server:
        if self._server is None:
            raise AlreadyClosed("this broker is not running")
        return self._server

    async def start(self) -> None:
        """Opens the data folder and listens."""
        if self._server is not None:
            raise AlreadyClosed("this broker is running already")
        self._loop = asyncio.get_running_loop()
        try:
            self._server = await Server.start(
                host=self.host,
                port=self._port,
                data=self._folder(),
                options=self._options,
                tls=self._tls,
                fsync=self._fsync,
                advertised_host=self._advertised_host,
                management_port=self._management_port,
                run=self._call,
            )
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Ends every connection. Confirmed messages are stored. May be called repeatedly."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop()
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def _folder(self) -> Path:
        if self._data is not None:
            return Path(self._data)
        _sweep()
        self._temporary = tempfile.TemporaryDirectory(prefix=_PREFIX)
        folder = Path(self._temporary.name)
        (folder / _MARKER).touch()
        return folder

    def _call(self, function: Callable[[], None]) -> None:
        """Calls a function on the broker's loop, from any thread, and waits for it."""
        loop = self._loop
        assert loop is not None
        try:
            if asyncio.get_running_loop() is loop:
                function()
                return
        except RuntimeError:
            pass  # a thread without a loop
        done: Future[None] = Future()

        def run() -> None:
            try:
                function()
                done.set_result(None)
            except Exception as error:  # noqa: BLE001 - raised in the calling thread
                done.set_exception(error)

        loop.call_soon_threadsafe(run)
        done.result(_CALL_TIMEOUT)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def __enter__(self) -> Self:
        thread = _Thread(self)
        thread.start_and_wait()
        self._thread = thread
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        thread, self._thread = self._thread, None
        assert thread is not None
        thread.stop_and_wait()


def _sweep() -> None:
    """Removes this user's temporary folders of brokers that were killed: those whose lock is free."""
    for marker in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_MARKER}"):
        folder = marker.parent
        with contextlib.suppress(OSError):  # another user's folder, in use, or just removed
            lock = os.open(folder / "lock", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                found = os.stat(lock)
                if found.st_uid == os.getuid() and found.st_mtime < time.time() - _ABANDONED_AFTER:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


class _Thread(threading.Thread):
    """A thread with an event loop for one broker."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        super().__init__(name="rstream-broker", daemon=True)
        self._broker = broker
        self._ready: Future[asyncio.AbstractEventLoop] = Future()
        self._ending = asyncio.Event()

    def run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - raised by ``start_and_wait``
            if not self._ready.done():
                self._ready.set_exception(error)

    async def _serve(self) -> None:
        await self._broker.start()
        self._ready.set_result(asyncio.get_running_loop())
        try:
            await self._ending.wait()
        finally:
            await self._broker.stop()

    def start_and_wait(self) -> None:
        self.start()
        self._ready.result(_START_TIMEOUT)

    def stop_and_wait(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the thread has ended already
            self._ready.result().call_soon_threadsafe(self._ending.set)
        self.join(_STOP_TIMEOUT)
