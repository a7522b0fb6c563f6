"""How a host's addresses are tried: in turns, side by side, and with nothing left open."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import Any

import pytest

from rstream_core import ConnectionFailed, Endpoint, Hint
from rstream_core.connecting import transport as tested
from rstream_core.connecting.transport import open_transport
from tests.clients import eventually

V4, V6 = socket.AF_INET, socket.AF_INET6
HOST = Endpoint("host.invalid", 5552)


class Network:
    """Addresses, and what becomes of those who connect to them: a socket, an error, or nothing for ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **found: int | str | None) -> None:
        self.found = found
        self.tried: list[str] = []
        self.left: list[str] = []
        """Attempts that were cancelled."""
        self.made: list[socket.socket] = []
        self.tries = asyncio.Semaphore(0)
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "getaddrinfo", self.getaddrinfo)
        monkeypatch.setattr(tested, "_connect", self.connect)

    async def getaddrinfo(self, *_: Any, **__: Any) -> list[Any]:
        return [(V6 if name.startswith("six") else V4, socket.SOCK_STREAM, 6, "", (name, 5552)) for name in self.found]

    async def connect(self, loop: asyncio.AbstractEventLoop, family: int, address: tuple[str, int]) -> socket.socket:
        name = address[0]
        assert (family == V6) == name.startswith("six")
        self.tried.append(name)
        self.tries.release()
        what = self.found[name]
        if isinstance(what, int):
            raise OSError(what, os.strerror(what))
        if what is None:
            try:
                await loop.create_future()
            finally:
                self.left.append(name)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.made += [ours, theirs]
        return ours

    def close(self) -> None:
        for made in self.made:
            made.close()


async def race(found: list[str]) -> socket.socket:
    return await tested._race(asyncio.get_running_loop(), [(V6 if n.startswith("six") else V4, (n, 1)) for n in found])


async def test_families_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch, six1="x", six2="x", six3="x", four1="x", four2="x")
    found = await tested._addresses(asyncio.get_running_loop(), HOST)
    assert [address[0] for _, address in found] == ["six1", "four1", "six2", "four2", "six3"]
    network.close()


async def test_an_address_is_looked_up_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch, six="x")
    loop = asyncio.get_running_loop()
    assert await tested._addresses(loop, Endpoint("127.0.0.1", 5552)) == [(V4, ("127.0.0.1", 5552))]
    assert await tested._addresses(loop, Endpoint("::1", 5552)) == [(V6, ("::1", 5552, 0, 0))]
    network.close()


async def test_one_that_does_not_answer_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tested, "HEAD_START", 0.0)
    network = Network(monkeypatch, six=None, four="there")
    sock = await race(["six", "four"])
    assert sock is network.made[0]
    assert network.tried == ["six", "four"]
    await eventually(lambda: network.left == ["six"])
    network.close()


async def test_the_next_one_is_not_tried_where_the_first_answers_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tested, "HEAD_START", 600.0)
    network = Network(monkeypatch, six="there", four="there")
    await race(["six", "four"])
    assert network.tried == ["six"]
    network.close()


async def test_one_that_fails_is_followed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tested, "HEAD_START", 600.0)
    network = Network(monkeypatch, six=errno.ECONNREFUSED, four="there")
    async with asyncio.timeout(60):
        await race(["six", "four"])
    assert network.tried == ["six", "four"]
    network.close()


async def test_two_at_once_leave_no_socket_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are there in the same turn of the loop."""
    monkeypatch.setattr(tested, "HEAD_START", 0.0)
    network = Network(monkeypatch, six="there", four="there")
    wait = asyncio.wait

    async def slow(tasks: Any, **how: Any) -> Any:
        if len(network.tried) < 2 and how.get("timeout") == 0.0:
            return set(), set(tasks)  # as if the first had not answered yet
        return await wait(tasks, **{**how, "return_when": asyncio.ALL_COMPLETED})

    monkeypatch.setattr(asyncio, "wait", slow)
    sock = await race(["six", "four"])
    ours = network.made[::2]
    assert len(ours) == 2
    await eventually(lambda: [made.fileno() == -1 for made in ours] == [made is not sock for made in ours])
    network.close()


@pytest.mark.parametrize("connected", [False, True])
async def test_who_is_cancelled_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch, *, connected: bool) -> None:
    network = Network(monkeypatch, six="there" if connected else None)
    racing = asyncio.create_task(race(["six"]))
    await network.tries.acquire()
    racing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await racing
    await eventually(lambda: all(made.fileno() == -1 for made in network.made[::2]))
    assert network.left == ([] if connected else ["six"])
    network.close()


@pytest.mark.parametrize(
    ("found", "words", "hint"),
    [
        ({"six": errno.ECONNREFUSED, "four": errno.ECONNREFUSED}, "refuses the connection", Hint.IS_IT_RUNNING),
        ({"six": errno.EADDRNOTAVAIL, "four": errno.ECONNREFUSED}, "refuses the connection", Hint.IS_IT_RUNNING),
        ({"six": errno.ENETUNREACH, "four": errno.EHOSTUNREACH}, os.strerror(errno.EHOSTUNREACH), None),
        ({"six": errno.ENETUNREACH}, os.strerror(errno.ENETUNREACH), None),
        (
            {"six": errno.EHOSTUNREACH, "four": errno.ECONNREFUSED},
            f"{os.strerror(errno.EHOSTUNREACH)}, {os.strerror(errno.ECONNREFUSED)}",
            None,
        ),
        ({}, "it has no address", None),
    ],
)
async def test_the_error_says_what_became_of_all(
    found: dict[str, int], words: str, hint: Hint | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    Network(monkeypatch, **found)
    with pytest.raises(ConnectionFailed) as failed:
        await open_transport(HOST, asyncio.Protocol, tls=None, server_name=None, timeout=60)
    assert str(failed.value).endswith(words)
    assert failed.value.hint is hint


async def test_the_systems_own_words_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio says "Connect call failed", whatever the system said."""
    loop = asyncio.get_running_loop()

    async def sock_connect(*_: Any) -> None:
        raise OSError(errno.EHOSTUNREACH, "Connect call failed ('127.0.0.1', 1)")

    monkeypatch.setattr(loop, "sock_connect", sock_connect)
    with pytest.raises(ConnectionFailed, match=os.strerror(errno.EHOSTUNREACH)):
        await open_transport(Endpoint("127.0.0.1", 1), asyncio.Protocol, tls=None, server_name=None, timeout=60)
