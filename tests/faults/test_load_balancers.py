"""Load balancer mode: which node was reached, by peers that say who they are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest

from rstream_core import ConnectionFailed, ConnectionOptions, Credentials, Endpoint
from rstream_core.connecting import nodes as reaching
from rstream_core.connecting.connection import Connection
from rstream_core.connecting.locator import Locator
from rstream_core.connecting.recovery import Backoff
from tests.clients import PATIENCE
from tests.peer import Peer

HOSTS = ("a.invalid", "b.invalid", "c.invalid")


class Balancer:
    """Leads each connection to the next of several nodes, which advertise names that mean nothing here."""

    def __init__(self, nodes: dict[str, Peer]) -> None:
        self.nodes = nodes
        self.led_to: list[str] = []
        self._order = list(nodes)
        self.endpoint = Endpoint("127.0.0.1", 0)
        self.is_stuck = False

    async def lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = self._order[0]
        if not self.is_stuck:
            self._order.append(self._order.pop(0))
        self.led_to.append(name)
        behind, to = await asyncio.open_connection("127.0.0.1", self.nodes[name].port)

        async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while data := await source.read(65536):
                    target.write(data)
            target.close()

        await asyncio.gather(carry(reader, to), carry(behind, writer))


@pytest.fixture
def nodes() -> Iterator[dict[str, Peer]]:
    with contextlib.ExitStack() as stack:
        yield {host: stack.enter_context(Peer(host=host)) for host in HOSTS}


@pytest.fixture
async def balancer(nodes: dict[str, Peer]) -> AsyncIterator[Balancer]:
    balancer = Balancer(nodes)
    server = await asyncio.start_server(balancer.lead, "127.0.0.1", 0)
    balancer.endpoint = Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])
    yield balancer
    server.close()


@pytest.fixture
async def locating(balancer: Balancer) -> AsyncIterator[Locator]:
    found = Locator(ConnectionOptions(endpoints=(balancer.endpoint,), load_balancer_mode=True))
    yield found
    await found.close()


@pytest.mark.parametrize("host", HOSTS)
async def test_it_connects_until_it_is_led_to_the_node(
    locating: Locator, balancer: Balancer, nodes: dict[str, Peer], host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Connection] = []
    open_ = Connection.open

    async def keep(endpoint: Endpoint, options: ConnectionOptions, credentials: Credentials, renew: None) -> Connection:
        opened.append(await open_(endpoint, options, credentials, renew))
        return opened[-1]

    monkeypatch.setattr(Connection, "open", keep)
    wanted = Endpoint(host, nodes[host].port)
    async with asyncio.timeout(PATIENCE):
        connection = await locating.connect(wanted)
    assert connection.session.advertised == wanted
    assert balancer.led_to == list(HOSTS[: HOSTS.index(host) + 1])
    assert [one.is_open for one in opened] == [False] * HOSTS.index(host) + [True]  # others are not kept
    await connection.close()


async def test_a_node_of_the_same_name_on_another_port_is_another(
    locating: Locator, nodes: dict[str, Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaching, "LOAD_BALANCER_WAIT", Backoff(attempts=6, initial=0.001, maximum=0.01))
    wanted = Endpoint("a.invalid", nodes["b.invalid"].port)
    with pytest.raises(ConnectionFailed, match=r"6 connections through .* never reached") as caught:
        await asyncio.wait_for(locating.connect(wanted), PATIENCE)
    assert type(caught.value) is ConnectionFailed
    for host, node in nodes.items():
        assert f"{host}:{node.port}" in str(caught.value)


async def test_a_balancer_that_leads_to_one_node_alone_is_told(
    locating: Locator, balancer: Balancer, nodes: dict[str, Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaching, "LOAD_BALANCER_WAIT", Backoff(attempts=4, initial=0.001, maximum=0.01))
    balancer.is_stuck = True
    with pytest.raises(ConnectionFailed, match=r"they reached a\.invalid:") as caught:
        await asyncio.wait_for(locating.connect(Endpoint("b.invalid", nodes["b.invalid"].port)), PATIENCE)
    assert balancer.led_to == ["a.invalid"] * 4
    assert caught.value.hint is not None
