"""The client of the management API, against servers that answer well, badly, or not at all."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from rstream_cli.exit_status import ExitStatus, status_of
from rstream_cli.management import api as api_module
from rstream_cli.management import http_client
from rstream_cli.management.address import ManagementAddress, default_addresses, is_loopback, parse_management_uri
from rstream_cli.management.answers import count_values
from rstream_cli.management.api import ManagementApi, open_api
from rstream_cli.management.errors import ManagementUnavailable
from rstream_core import (
    AccessRefused,
    AuthenticationFailure,
    ConfigurationError,
    ConnectionOptions,
    Credentials,
    Endpoint,
    HostNotFound,
    ProtocolError,
    RstreamError,
    StreamDoesNotExist,
    StreamNotAvailable,
    TlsError,
    VirtualHostAccessFailure,
)
from tests.certificates import Authority
from tests.clients import PATIENCE, closed_port
from tests.web import Visit, Web, serving

SECRET = Credentials("alice", "s3cret")
NO_PLUGIN = "the plugin rabbitmq_stream_management is not enabled"


def api_at(port: int, *, tls: ssl.SSLContext | None = None, **changes: Any) -> ManagementApi:
    values: dict[str, Any] = {"credentials": SECRET, "connect_timeout": 5.0, "request_timeout": 5.0, **changes}
    address = ManagementAddress("localhost", port, tls=tls is not None)
    return open_api(ConnectionOptions(**values), address, lambda: tls or ssl.create_default_context())


def api_of(*ports: int) -> ManagementApi:
    """The API of a cluster with nodes at these ports."""
    clients = [
        http_client.HttpClient(
            ManagementAddress("localhost", port, tls=False),
            tls=None,
            server_name=None,
            connect_timeout=5,
            request_timeout=5,
        )
        for port in ports
    ]
    return ManagementApi(clients, ConnectionOptions())


def page(items: list[Any], number: int = 1, pages: int = 1) -> dict[str, Any]:
    return {"items": items, "page": number, "page_count": pages, "page_size": 500}


def stream(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": "stream", **more}


async def one_stream(visit: Visit) -> None:
    await visit.answer(page([stream("s", arguments={"x-super-stream": True})]))


class TestAddress:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("https://rabbit-1", "https://rabbit-1:15671"),
            ("https://rabbit-1:443/", "https://rabbit-1:443"),
            ("https://rabbit-1/rabbit/api/", "https://rabbit-1:15671/rabbit"),
            ("http://localhost", "http://localhost:15672"),
            ("http://127.8.9.1:1", "http://127.8.9.1:1"),
            ("http://[::1]:15672", "http://[::1]:15672"),
            ("HTTP://localhost", "http://localhost:15672"),
            ("Https://Rabbit-1", "https://rabbit-1:15671"),
        ],
    )
    def test_what_a_uri_means(self, text: str, shown: str) -> None:
        assert str(parse_management_uri(text)) == shown

    def test_a_login_in_a_uri(self) -> None:
        address = parse_management_uri("https://a%40b:p%3Aq@rabbit-1")
        assert address.credentials == Credentials("a@b", "p:q")
        assert "p:q" not in repr(address)

    @pytest.mark.parametrize(
        "text",
        [
            "rabbit-1:15672",
            "rabbitmq-stream://rabbit-1:5552",
            "https://",
            "https://rabbit-1:x",
            "https://rabbit-1:0",
            "https://rabbit-1:99999",
            "https://rabbit-1/?a=b",
            "https://rabbit-1/#a",
            "https://alice@rabbit-1",
            "https://a\x1b[2J/",
            "https://[::1/",
        ],
    )
    def test_what_is_none(self, text: str) -> None:
        with pytest.raises(ConfigurationError):
            parse_management_uri(text)

    @pytest.mark.parametrize(
        "host", ["rabbit-1", "10.0.0.1", "localhost.example.com", "127.0.0.1.example.com", "2130706433", "[::2]"]
    )
    def test_no_password_goes_over_plain_http_to_another_machine(self, host: str) -> None:
        with pytest.raises(ConfigurationError, match="over plain http") as caught:
            parse_management_uri(f"http://alice:s3cret@{host}:15672")
        assert "s3cret" not in f"{caught.value} {caught.value.hint}"
        assert caught.value.hint is not None
        assert "https://" in caught.value.hint

    def test_the_default_is_beside_the_stream_port(self) -> None:
        two = (Endpoint("rabbit-1", 5551), Endpoint("rabbit-2", 5551))
        assert list(map(str, default_addresses(two, tls=True))) == ["https://rabbit-1:15671", "https://rabbit-2:15671"]
        here = (Endpoint("rabbit-1", 5552), Endpoint("127.0.0.1", 5552))
        assert list(map(str, default_addresses(here, tls=False))) == ["http://127.0.0.1:15672"]
        with pytest.raises(ManagementUnavailable, match="rabbit-1 is not asked") as caught:
            default_addresses(here[:1], tls=False)
        assert status_of(caught.value) is ExitStatus.CONNECTION

    def test_loopback_is_told_by_the_name_alone(self) -> None:
        assert all(map(is_loopback, ("localhost", "LOCALHOST.", "127.0.0.1", "::1", "127.1.2.3")))
        assert not any(map(is_loopback, ("", "localhost2", "0.0.0.0", "::", "127.1", "10.0.0.1")))

    def test_a_connection_that_has_left_this_machine_gets_no_password(self) -> None:
        class Elsewhere:
            def getpeername(self) -> tuple[str, int]:
                return "192.0.2.1", 15672

        address = ManagementAddress("localhost", 15672, tls=False)
        with pytest.raises(ManagementUnavailable, match=r"localhost is not this machine, but 192\.0\.2\.1"):
            http_client._check_is_here(address, Elsewhere())  # type: ignore[arg-type]


class TestAnswers:
    async def test_ten_thousand_streams_come_in_pages_over_one_connection(self) -> None:
        names = [f"s-{number:05}" for number in range(10_000)]

        async def answer(visit: Visit) -> None:
            asked = parse_qs(urlsplit(visit.target).query)
            number, size = int(asked["page"][0]), int(asked["page_size"][0])
            assert size <= 500
            items = [stream(name) for name in names[(number - 1) * size : number * size]]
            await visit.answer(page([*items, {"name": "q", "type": "classic"}][:size], number, -(-len(names) // size)))

        async with serving(answer) as web:
            with api_at(web.port) as api:
                assert [found.name for found in await api.streams()] == names
        assert (len(web.visits), web.connections) == (20, 1)
        assert {visit.header["authorization"] for visit in web.visits} == {
            f"Basic {base64.b64encode(b'alice:s3cret').decode()}"
        }

    async def test_what_moves_between_pages_is_told_once(self) -> None:
        async def answer(visit: Visit) -> None:
            if "page=3" in visit.target:
                await visit.answer({"error": "page_out_of_range"}, "400 Bad Request")
            else:
                await visit.answer(page([stream("b"), stream("a")], pages=9))

        async with serving(answer) as web:
            with api_at(web.port) as api:
                assert [found.name for found in await api.streams()] == ["a", "b"]

    async def test_a_stream_of_every_field(self) -> None:
        record = stream(
            "s",
            arguments={"x-max-age": "7D", "x-queue-type": "stream", "x-max-length-bytes": 5},
            effective_policy_definition={"max-age": "2D"},
            policy="keep",
            leader="rabbit@a",
            members=["rabbit@a", "rabbit@b"],
            online=["rabbit@a"],
            messages=-3,
            segments=2,
            state="running",
        )

        async def answer(visit: Visit) -> None:
            await visit.answer(record)

        async with serving(answer) as web:
            with api_at(web.port, vhost="a/b") as api:
                found = await api.stream("c d/é")
        assert web.visits[0].target == "/api/queues/a%2Fb/c%20d%2F%C3%A9"
        assert (found.arguments, found.policy) == ({"max-age": "7D", "max-length-bytes": 5}, "keep")
        assert (found.in_force("max-age"), found.in_force("max-length-bytes")) == ("2D", 5)
        assert (found.replicas, found.online, found.messages) == (("rabbit@a", "rabbit@b"), ("rabbit@a",), 0)

    @pytest.mark.parametrize("record", [{"name": "s", "type": "quorum"}, {"error": "Object Not Found"}])
    async def test_no_such_stream(self, record: dict[str, Any]) -> None:
        async def answer(visit: Visit) -> None:
            await visit.answer(record, "404 Not Found" if "error" in record else "200 OK")

        async with serving(answer) as web:
            with api_at(web.port) as api, pytest.raises(StreamDoesNotExist):
                await api.stream("s")

    async def test_a_name_that_no_path_can_hold(self) -> None:
        async def answer(visit: Visit) -> None:
            assert visit.target.startswith("/api/queues/%2F?")
            await visit.answer(page([stream(".."), stream("s")]))

        async with serving(answer) as web:
            with api_at(web.port) as api:
                assert (await api.stream("..")).name == ".."
                with pytest.raises(StreamDoesNotExist):
                    await api.stream(".")
                with pytest.raises(ManagementUnavailable):
                    await api.tracking("..")

    async def test_a_missing_plugin_is_named(self) -> None:
        """RabbitMQ 4.3 answers so where it is off; older ones with 404."""

        async def answer(visit: Visit) -> None:
            if visit.target == "/api/extensions":
                await visit.answer([{"javascript": "dispatcher.js"}, [], []])
            else:
                await visit.answer(b"", "400 Bad Request")

        async with serving(answer) as web:
            with api_at(web.port) as api:
                calls: list[Callable[[], Any]] = [api.consumers, api.publishers, lambda: api.tracking("s")]
                for call in calls:
                    with pytest.raises(ManagementUnavailable, match=NO_PLUGIN) as caught:
                        await call()
                    assert "rabbitmq-plugins enable" in str(caught.value.hint)

    @pytest.mark.parametrize("status", ["400 Bad Request", "404 Not Found"])
    async def test_what_is_missing_where_the_plugin_is_there(self, status: str) -> None:
        async def answer(visit: Visit) -> None:
            if visit.target == "/api/extensions":
                await visit.answer([[], {"javascript": ["stream_management-ejs.js", "stream.js"]}])
            else:
                await visit.answer({"error": "Object Not Found", "reason": "Not Found"}, status)

        async with serving(answer) as web:
            with api_at(web.port, vhost="v") as api:
                wanted: tuple[type[RstreamError], type[RstreamError]] = (StreamDoesNotExist, VirtualHostAccessFailure)
                if status.startswith("400"):
                    wanted = (ProtocolError, ProtocolError)
                with pytest.raises(wanted[0]):
                    await api.tracking("s")
                with pytest.raises(wanted[1]):
                    await api.consumers()

    async def test_a_stream_without_a_leader(self) -> None:
        """RabbitMQ answers 503 for its offsets, which says nothing about the API, nor about other streams."""

        async def answer(visit: Visit) -> None:
            if visit.target.endswith("/s/tracking"):
                await visit.answer({"error": "Service Unavailable"}, "503 Service Unavailable")
            elif visit.target.endswith("/tracking"):
                await visit.answer({"offsets": {"r": 7}, "writers": {}})
            else:
                await visit.answer(b"", "503 Service Unavailable")

        async with serving(answer) as web:
            with api_at(web.port) as api:
                with pytest.raises(StreamNotAvailable, match="stream 's': "):
                    await api.tracking("s")
                assert (await api.tracking("t")).offsets == {"r": 7}
                for ask in (api.consumers, api.streams):
                    with pytest.raises(ManagementUnavailable, match="503"):
                        await ask()

    @pytest.mark.parametrize(
        ("reason", "error", "words"),
        [
            ("Not_Authorized", AuthenticationFailure, "wrong user name or password"),
            ("User can only log in via localhost", AuthenticationFailure, "via localhost"),
            ("Not management user", AccessRefused, "'management'"),
            ("Not monitor user", AccessRefused, "'monitoring'"),
            ("\x1b[2J", AuthenticationFailure, r"\\x1b"),
        ],
    )
    async def test_refusals(self, reason: str, error: type[RstreamError], words: str) -> None:
        async def answer(visit: Visit) -> None:
            await visit.answer({"error": "not_authorised", "reason": reason}, "401 Unauthorized")

        async with serving(answer) as web:
            with api_at(web.port) as api, pytest.raises(error, match=words) as caught:
                await api.streams()
        assert status_of(caught.value) is ExitStatus.ACCESS
        assert SECRET.password not in str(caught.value)


GOOD = stream("s", members=["a"], arguments={"x-max-age": "7D"})


class TestHostileServers:
    """Each of these ends in 6, in time, and the error names the server."""

    async def ask(self, web: Web, **changes: Any) -> RstreamError:
        with api_at(web.port, **changes) as api, pytest.raises(RstreamError) as caught:
            async with asyncio.timeout(PATIENCE):
                await api.streams()
        assert status_of(caught.value) is ExitStatus.CONNECTION
        assert f"http://localhost:{web.port}" in str(caught.value)
        assert SECRET.password not in f"{caught.value} {caught.value.hint}"
        return caught.value

    @pytest.mark.parametrize(
        "data",
        [
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"\x00\x00\x00\x0a\x00\x17\x00\x01\x00\x00\x00\x00\x00\x00",
            b"AMQP\x00\x00\x09\x01",
            b"HTTP/1.1 9999999999 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1000 + b"\r\n",
            b"HTTP/1.1 200 OK\r\na: " + b"b" * 100_000 + b"\r\n\r\n",
            b"",
        ],
        ids=["ssh", "stream", "amqp", "status", "short", "chunks", "fields", "field", "nothing"],
    )
    async def test_no_http(self, data: bytes) -> None:
        async def answer(visit: Visit) -> None:
            await visit.write(data)
            visit.writer.write_eof()
            await visit.gone()
            raise ConnectionError

        async with serving(answer) as web:
            await self.ask(web)

    @pytest.mark.parametrize(
        "body",
        [
            b"<html>Welcome to nginx!</html>",
            b"[" * 100_000,
            b"[]",
            b"7",
            b'{"items": 7}',
            b'{"items": [7]}',
            b'{"items": [], "page_count": "many"}',
            b'{"items": [], "page_count": 1e999}',
            *(
                page([{**GOOD, **wrong}])
                for wrong in (
                    {"name": ""},
                    {"name": 7},
                    {"name": "n" * 256},
                    {"name": None},
                    {"members": "a"},
                    {"members": [7]},
                    {"online": ["x" * 5000]},
                    {"messages": "7"},
                    {"messages": True},
                    {"messages": 1.5},
                    {"messages": 2**65},
                    {"arguments": 7},
                    {"leader": ["a"]},
                )
            ),
        ],
    )
    async def test_no_answer_of_this_api(self, body: bytes | dict[str, Any]) -> None:
        async def answer(visit: Visit) -> None:
            await visit.answer(body)

        async with serving(answer) as web:
            error = await self.ask(web)
        assert isinstance(error, ProtocolError)

    async def test_a_server_that_hangs(self) -> None:
        async with serving(Visit.gone) as web:
            error = await self.ask(web, request_timeout=0.2, connect_timeout=0.2)
            assert isinstance(error, ManagementUnavailable)
            assert "has not answered in time" in str(error)
            async with asyncio.timeout(PATIENCE):
                await web.left.wait()

    async def test_a_server_that_sends_a_byte_now_and_then(self) -> None:
        """Each byte comes in time; the whole answer does not, and the thread that waits for it ends."""

        async def drip(visit: Visit) -> None:
            for byte in b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 10_000:
                await visit.write(bytes([byte]))
                await asyncio.sleep(0.02)

        async with serving(drip) as web:
            error = await self.ask(web, request_timeout=0.3, connect_timeout=0.3)
            assert isinstance(error, ManagementUnavailable)
            assert "has not answered in time" in str(error)
            async with asyncio.timeout(PATIENCE):
                await web.left.wait()

    async def test_an_answer_without_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(http_client, "MAX_ANSWER", 1 << 20)

        async def pour(visit: Visit) -> None:
            await visit.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                await visit.write(b" " * 65536)

        async with serving(pour) as web:
            error = await self.ask(web)
        assert isinstance(error, ProtocolError)
        assert "more than 1 MiB" in str(error)

    async def test_pages_without_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(api_module, "MAX_PAGES", 5)

        async def answer(visit: Visit) -> None:
            await visit.answer(page([GOOD], pages=2**63))

        async with serving(answer) as web:
            error = await self.ask(web)
        assert isinstance(error, ProtocolError)
        assert len(web.visits) == 5

    async def test_large_pages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(api_module, "MAX_LIST", 100_000)

        async def answer(visit: Visit) -> None:
            await visit.answer(page([stream("s", policy="p" * 4000)] * 10, pages=99))

        async with serving(answer) as web:
            error = await self.ask(web)
        assert isinstance(error, ProtocolError)
        assert len(web.visits) == 3

    @pytest.mark.parametrize(
        "body",
        [
            b"[" + b",".join([b"[]"] * (1 << 12)) + b"]",
            b"[" + b",".join([b'{"a":1}'] * (1 << 12)) + b"]",
            page([stream("s", arguments={f"x-{number:07}": number for number in range(1 << 12)})]),
        ],
        ids=["lists", "objects", "arguments"],
    )
    async def test_more_values_than_memory_should_hold(
        self, monkeypatch: pytest.MonkeyPatch, body: bytes | dict[str, Any]
    ) -> None:
        """Each of these takes thirty times its bytes, and is refused before it is read."""
        monkeypatch.setattr("orjson.loads", None)
        monkeypatch.setattr(api_module, "MAX_VALUES", 1 << 12)

        async def answer(visit: Visit) -> None:
            await visit.answer(body)

        async with serving(answer) as web:
            error = await self.ask(web)
        assert isinstance(error, ProtocolError)
        assert "more than 4,096 values" in str(error)

    async def test_pages_with_many_values(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(api_module, "MAX_LIST_VALUES", 2500)

        async def answer(visit: Visit) -> None:
            await visit.answer(page([stream("s", arguments={f"x-{number}": 1 for number in range(1000)})], pages=99))

        async with serving(answer) as web:
            error = await self.ask(web)
        assert isinstance(error, ProtocolError)
        assert len(web.visits) == 3

    @pytest.mark.parametrize(
        "text", ["7", "[]", "[7, [], {}]", '{"a": [1, 2], "b": {"c": {}}}', '[{"a": 1, "b": 2}, "x", null]']
    )
    def test_no_value_goes_uncounted(self, text: str) -> None:
        def count(value: Any) -> int:
            inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
            return 1 + sum(map(count, inner))

        assert count(json.loads(text)) <= count_values(text.encode()) <= 2 * count(json.loads(text))

    async def test_more_on_a_page_than_was_asked_for(self) -> None:
        async def answer(visit: Visit) -> None:
            await visit.answer(page([GOOD] * 501))

        async with serving(answer) as web:
            assert isinstance(await self.ask(web), ProtocolError)

    async def test_a_compressed_answer_is_not_unpacked(self) -> None:
        async def answer(visit: Visit) -> None:
            await visit.answer(b"\x1f\x8b\x08", content_encoding="gzip")

        async with serving(answer) as web:
            assert "encoding" in str(await self.ask(web))

    @pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
    async def test_no_redirect_is_followed(self, status: str) -> None:
        async with serving(Visit.gone) as other:

            async def answer(visit: Visit) -> None:
                await visit.answer(b"", status, location=f"http://127.0.0.1:{other.port}/\x07api")

            async with serving(answer) as web:
                error = await self.ask(web)
        assert isinstance(error, ManagementUnavailable)
        assert f"127.0.0.1:{other.port}" in str(error)
        assert "\x07" not in str(error)
        assert other.connections == 0

    @pytest.mark.parametrize("status", ["500 Oh", "503 Busy", "204 No Content", "418 Teapot", "404 Not Found"])
    async def test_other_statuses(self, status: str) -> None:
        async def answer(visit: Visit) -> None:
            await visit.answer(b"{}", status, content_length="0" if status.startswith("204") else "2")
            raise ConnectionError

        async with serving(answer) as web:
            await self.ask(web)

    @pytest.mark.parametrize("host", ["a..b", f"{'a' * 64}.example"])
    @pytest.mark.parametrize("tls", [False, True])
    async def test_what_is_no_host_name(self, host: str, tls: bool) -> None:
        address = ManagementAddress(host, 15671, tls=tls)
        with (
            open_api(ConnectionOptions(), address, ssl.create_default_context) as api,
            pytest.raises(HostNotFound, match=f"'{host}' is not a host name"),
        ):
            await api.streams()

    async def test_nobody_listens(self) -> None:
        with closed_port() as port:
            error = await self.ask(Web(port))
        assert isinstance(error, ManagementUnavailable)
        assert "15672" in str(error.hint)


class TestLogins:
    async def test_a_function_is_asked_once_and_again_when_what_it_gave_is_refused(self) -> None:
        given: list[str] = []
        valid = {"token-1"}

        async def credentials() -> Credentials:
            given.append(f"token-{len(given) + 1}")
            return Credentials("alice", given[-1])

        async def answer(visit: Visit) -> None:
            login = base64.b64decode(visit.header["authorization"].removeprefix("Basic ")).decode()
            if login.removeprefix("alice:") in valid:
                await visit.answer(page([stream("s")], pages=4))
            else:
                await visit.answer({"error": "not_authorized", "reason": "Not_Authorized"}, "401 Unauthorized")

        async with serving(answer) as web:
            with api_at(web.port, credentials=credentials) as api:
                await asyncio.gather(*(api.streams() for _ in range(3)))
                assert given == ["token-1"]
                valid.clear()
                valid.add("token-2")
                await api.streams()
                assert given == ["token-1", "token-2"]
                valid.clear()
                with pytest.raises(AuthenticationFailure):
                    await api.streams()
                assert len(given) == 3

    async def test_fixed_ones_that_are_refused_are_sent_once(self) -> None:
        async def answer(visit: Visit) -> None:
            await visit.answer({"error": "not_authorized", "reason": "Not_Authorized"}, "401 Unauthorized")

        async with serving(answer) as web:
            with api_at(web.port) as api, pytest.raises(AuthenticationFailure):
                await api.streams()
        assert len(web.visits) == 1

    async def test_a_certificate_is_no_login_here(self) -> None:
        async with serving(Visit.gone) as web:
            with api_at(web.port, mechanism="EXTERNAL") as api, pytest.raises(ManagementUnavailable, match="EXTERNAL"):
                await api.streams()
        assert web.connections == 0


class TestConnections:
    async def test_a_cancelled_request_ends_its_connection(self) -> None:
        begun = asyncio.Event()

        async def hang(visit: Visit) -> None:
            begun.set()
            await visit.gone()

        async with serving(hang) as web:
            with api_at(web.port) as api:
                task = asyncio.create_task(api.streams())
                async with asyncio.timeout(PATIENCE):
                    await begun.wait()
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                    await web.left.wait()

    async def test_a_connection_that_the_server_has_closed_is_made_anew(self) -> None:
        async def answer(visit: Visit) -> None:
            await visit.answer(page([stream("s")]))
            raise ConnectionError

        async with serving(answer) as web:
            with api_at(web.port) as api:
                for _ in range(3):
                    assert len(await api.streams()) == 1
                    async with asyncio.timeout(PATIENCE):
                        await web.left.wait()
                    web.left.clear()
        assert web.connections == 3

    async def test_requests_at_once_are_bounded(self) -> None:
        at_once: list[int] = []
        open_now = 0

        async def answer(visit: Visit) -> None:
            nonlocal open_now
            open_now += 1
            at_once.append(open_now)
            await asyncio.sleep(0.01)
            open_now -= 1
            await visit.answer({"offsets": {"r": 7}, "writers": {}})

        async with serving(answer) as web:
            with api_at(web.port) as api:
                found = await asyncio.gather(*(api.tracking(f"s-{number}") for number in range(40)))
        assert [tracking.offsets for tracking in found] == [{"r": 7}] * 40
        assert max(at_once) <= http_client.MAX_CONNECTIONS
        assert web.connections <= http_client.MAX_CONNECTIONS

    async def test_another_node_is_asked_where_the_first_is_down(self) -> None:
        async with serving(one_stream) as web:
            with closed_port() as port, api_of(port, web.port) as api:
                assert len(await api.streams()) == 1
                assert len(await api.streams()) == 1
                assert api.address.port == web.port

    async def test_a_node_that_was_down_is_asked_again_when_the_other_is_down(self) -> None:
        """A program that goes on for days meets each of its nodes while that one is restarted."""
        down: set[int] = set()

        async def answer(visit: Visit) -> None:
            if visit.writer.get_extra_info("sockname")[1] in down:
                raise ConnectionError
            await one_stream(visit)

        async with serving(answer) as first, serving(answer) as second:
            with api_of(first.port, second.port) as api:
                for now in (first, second, first, second):
                    down = {now.port}
                    assert len(await api.streams()) == 1
                    assert api.address.port == ({first.port, second.port} - down).pop()
                down = {first.port, second.port}
                visits = len(first.visits) + len(second.visits)
                with pytest.raises(ManagementUnavailable):
                    await api.streams()
                assert len(first.visits) + len(second.visits) == visits + 2
                down = set()
                assert len(await api.streams()) == 1

    async def test_requests_at_once_where_a_node_fails_all_go_to_the_other(self) -> None:
        """The failure of one takes no node from the others, which wait for the same one."""
        failed = 0

        async def fail(visit: Visit) -> None:
            nonlocal failed
            failed += 1
            await asyncio.sleep(0.02 * failed)
            raise ConnectionError

        async with serving(fail) as first, serving(one_stream) as second:
            with api_of(first.port, second.port) as api:
                found = await asyncio.gather(*(api.streams() for _ in range(12)))
        assert [len(each) for each in found] == [1] * 12

    async def test_an_error_names_the_node_that_has_answered(self) -> None:
        """Also where another request has turned to another node since."""
        may_answer = asyncio.Event()

        async def answer(visit: Visit) -> None:
            if "exchanges" in visit.target:
                raise ConnectionError
            await may_answer.wait()
            await visit.answer(b"<html>")

        async with serving(answer) as first, serving(one_stream) as second:
            with api_of(first.port, second.port) as api:
                waiting = asyncio.create_task(api.streams())
                async with asyncio.timeout(PATIENCE):
                    while not first.visits:  # noqa: ASYNC110 - the other end of the connection
                        await asyncio.sleep(0.01)
                await api.super_streams()
                assert api.address.port == second.port
                may_answer.set()
                with pytest.raises(ProtocolError, match=f"http://localhost:{first.port} answers, but not with JSON"):
                    await waiting


class TestTls:
    @pytest.fixture
    def authority(self, tmp_path: Path) -> Authority:
        return Authority.make(tmp_path)

    @pytest.mark.parametrize("names", [("DNS:localhost",), ("DNS:rabbit-1",)])
    async def test_the_certificate_is_verified(self, authority: Authority, names: tuple[str, ...]) -> None:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(*authority.issue("server", "server", alternatives=names))

        async def answer(visit: Visit) -> None:
            await visit.answer(page([stream("s")]))

        def trusting() -> ssl.SSLContext:
            return ssl.create_default_context(cafile=str(authority.folder / "ca.pem"))

        async with serving(answer, server) as web:
            with (
                api_at(web.port, tls=ssl.create_default_context()) as api,
                pytest.raises(TlsError, match="certificate"),
            ):
                await api.streams()
            with api_at(web.port, tls=trusting(), endpoints=(Endpoint("localhost", 5551),)) as api:
                if names == ("DNS:localhost",):
                    assert len(await api.streams()) == 1
                else:
                    with pytest.raises(TlsError, match="certificate"):
                        await api.streams()
            named = {"endpoints": (Endpoint("localhost", 5551),), "server_name": names[0].removeprefix("DNS:")}
            with api_at(web.port, tls=trusting(), **named) as api:
                assert len(await api.streams()) == 1
        assert all("authorization" in visit.header for visit in web.visits)

    async def test_a_server_without_tls(self) -> None:
        def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with api_at(port, tls=ssl.create_default_context()) as api, pytest.raises(TlsError) as caught:
                await api.streams()
        assert "speak TLS" in str(caught.value)
        assert f"pass http://localhost:{port}" in str(caught.value.hint)

    @pytest.mark.parametrize("host", ["localhost", "rabbit-1"])
    async def test_a_server_without_tls_that_waits_for_a_request(
        self, monkeypatch: pytest.MonkeyPatch, host: str
    ) -> None:
        """It is told from one with TLS that does not answer the request."""
        monkeypatch.setattr(http_client, "is_loopback", lambda found: host == "localhost")
        async with serving(Visit.gone) as web:
            tls = ssl.create_default_context()
            with api_at(web.port, tls=tls, connect_timeout=0.2) as api, pytest.raises(ManagementUnavailable) as caught:
                await api.streams()
        assert "has not answered in time" in str(caught.value)
        wanted = f"pass http://localhost:{web.port}" if host == "localhost" else "is this its port for https?"
        assert wanted in str(caught.value.hint)

    async def test_a_server_with_tls_that_does_not_answer(self, authority: Authority) -> None:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(*authority.issue("server", "server", alternatives=("DNS:localhost",)))
        trusting = ssl.create_default_context(cafile=str(authority.folder / "ca.pem"))
        async with serving(Visit.gone, server) as web:
            with (
                api_at(web.port, tls=trusting, request_timeout=0.2) as api,
                pytest.raises(ManagementUnavailable) as caught,
            ):
                await api.streams()
        assert "has not answered in time" in str(caught.value)
        assert caught.value.hint == http_client.WHERE_IT_IS
