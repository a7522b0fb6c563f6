"""One port at all addresses of a host, also where the system would choose several."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

import pytest

from rstream_core.listening import listen
from tests.clients import TWO_ADDRESSES, with_two_addresses


def ports_of(server: asyncio.Server) -> list[int]:
    return [sock.getsockname()[1] for sock in server.sockets]


async def test_a_free_port_is_the_same_at_all_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    with_two_addresses(monkeypatch)
    server = await listen(asyncio.Protocol, "localhost", 0, reuse_address=True)
    try:
        assert sorted(sock.getsockname()[0] for sock in server.sockets) == TWO_ADDRESSES
        assert len(set(ports_of(server))) == 1
    finally:
        server.close()


async def test_another_port_is_tried_where_one_is_in_use_at_another_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with_two_addresses(monkeypatch)
    loop = asyncio.get_running_loop()
    create = loop.create_server
    taken: list[socket.socket] = []

    async def create_server(factory: Any, host: str, port: int, **options: Any) -> asyncio.Server:
        """Somebody else takes the first port that was free at the first address."""
        if port and not taken:
            taken.append(socket.create_server((TWO_ADDRESSES[1], port)))
        return await create(factory, host, port, **options)

    monkeypatch.setattr(loop, "create_server", create_server)
    server = await listen(asyncio.Protocol, "localhost", 0, reuse_address=True)
    try:
        assert len(set(ports_of(server))) == 1
        assert ports_of(server)[0] != taken[0].getsockname()[1]
    finally:
        server.close()
        taken[0].close()


async def test_a_port_that_is_in_use_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with_two_addresses(monkeypatch)
    with socket.create_server((TWO_ADDRESSES[1], 0)) as taken, pytest.raises(OSError, match="in use") as caught:
        await listen(asyncio.Protocol, "localhost", taken.getsockname()[1], reuse_address=True)
    assert caught.value.errno == errno.EADDRINUSE


async def test_it_gives_up_where_no_port_is_free_at_all_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    with_two_addresses(monkeypatch)
    loop = asyncio.get_running_loop()
    create = loop.create_server

    async def create_server(factory: Any, host: str, port: int, **options: Any) -> asyncio.Server:
        if port:
            raise OSError(errno.EADDRINUSE, "in use")
        return await create(factory, host, port, **options)

    monkeypatch.setattr(loop, "create_server", create_server)
    async with asyncio.timeout(20):
        with pytest.raises(OSError, match="no port that is free at all addresses of 'localhost'") as caught:
            await listen(asyncio.Protocol, "localhost", 0)
    assert caught.value.errno == errno.EADDRINUSE
