"""What commands ask of the management API, about one virtual host.

Lists come in pages, so that 10,000 streams take no more memory at once than they must. What changes while pages are
read may be missing from the list, or be in it though it is gone.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

from rstream_cli.management.address import ManagementAddress, default_addresses
from rstream_cli.management.answers import (
    MAX_VALUES,
    Alarm,
    Fields,
    ListedConsumer,
    ListedNode,
    ListedPublisher,
    ListedStream,
    Tracking,
    alarm_of,
    consumer_of,
    count_values,
    node_of,
    publisher_of,
    stream_of,
    tracking_of,
)
from rstream_cli.management.errors import ManagementUnavailable
from rstream_cli.management.http_client import Answer, HttpClient
from rstream_core.connecting.logins import Logins
from rstream_core.errors import (
    AccessRefused,
    AuthenticationFailure,
    HostNotFound,
    ProtocolError,
    ServerError,
    StreamDoesNotExist,
    StreamNotAvailable,
    VirtualHostAccessFailure,
)
from rstream_core.text import harmless
from rstream_core.types import ConnectionOptions, Credentials, CredentialsFunction

T = TypeVar("T")

PAGE_SIZE = 500
"""Entries of a page; RabbitMQ takes no larger one."""
MAX_PAGES = 400
"""Pages of one list: 200,000 streams."""
MAX_LIST = 128 * 1024 * 1024
"""Bytes of all pages of a list."""
MAX_LIST_VALUES = 4 << 20
"""Values of all pages of a list."""
MAX_ALARMS = 10_000
MAX_REASON = 200
"""Characters of a peer's text in an error."""

_NO_SEGMENTS = (".", "..")
"""Names that no path can hold: RabbitMQ takes them for steps on the path, also where they are escaped."""
_OF_NODES = "name,running,disk_free_alarm,mem_alarm,disk_free,disk_free_limit,mem_used,mem_limit,enabled_plugins"
_OF_STREAMS = "name,type,arguments,policy,effective_policy_definition,leader,members,online,messages,segments,state"


class ManagementApi(AbstractContextManager["ManagementApi"]):
    """The management API of one cluster. Must be closed, as by ``with``; methods may be called at the same time.

    ``clients`` are its nodes. One that cannot be reached, or does not answer in time, is asked again when all others
    have failed, too. All methods raise ``ManagementUnavailable`` and the errors that it names.
    """

    def __init__(self, clients: Sequence[HttpClient], options: ConnectionOptions) -> None:
        self._clients = list(clients)
        self._options = options
        self._vhost = quote(options.vhost, safe="")
        self._logins = Logins()
        self._login: Credentials | None = None
        """What was logged in with; a function that gives it may run a program."""

    def close(self) -> None:
        for client in self._clients:
            client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def streams(self) -> list[ListedStream]:
        """All streams that the user may see, partitions too, in the order of their names."""
        target = f"/api/queues/{self._vhost}?columns={_OF_STREAMS}"
        return await self._pages(target, lambda fields: stream_of(fields) if fields.text("type") == "stream" else None)

    async def stream(self, name: str) -> ListedStream:
        """One stream. Raises ``StreamDoesNotExist``, also for a queue of another type."""
        if name in _NO_SEGMENTS:
            found = next((stream for stream in await self.streams() if stream.name == name), None)
            if found is None:
                raise _no_stream(name)
            return found
        answer = await self._get(f"/api/queues/{self._vhost}/{_in_path(name)}")
        if answer.status == 404:
            raise _no_stream(name)
        fields = Fields(answer.address, self._json(answer))
        if fields.text("type") != "stream":
            raise StreamDoesNotExist(f"{name!r} is a queue, not a stream")
        return stream_of(fields)

    async def super_streams(self) -> list[str]:
        """The names of all super streams."""

        def name_of(fields: Fields) -> str | None:
            return fields.name("name") if fields.values("arguments").get("super-stream") is True else None

        return await self._pages(f"/api/exchanges/{self._vhost}?columns=name,arguments", name_of)

    async def consumers(self) -> list[ListedConsumer]:
        """The subscriptions of the virtual host; for a user without the tag ``monitoring``, those of its own."""
        return await self._list(f"/api/stream/consumers/{self._vhost}", consumer_of)

    async def publishers(self) -> list[ListedPublisher]:
        """The publishers of the virtual host; for a user without the tag ``monitoring``, those of its own."""
        return await self._list(f"/api/stream/publishers/{self._vhost}", publisher_of)

    async def tracking(self, stream: str) -> Tracking:
        """Stored offsets and publishing ids of a stream. Raises ``StreamDoesNotExist``, ``StreamNotAvailable``."""
        if stream in _NO_SEGMENTS:
            raise ManagementUnavailable(f"the management API cannot be asked for a stream of the name {stream!r}")
        answer = await self._of_streams(f"/api/stream/{self._vhost}/{_in_path(stream)}/tracking", but=(503,))
        if answer.status == 503:
            raise StreamNotAvailable(f"stream {stream!r}: {StreamNotAvailable.summary}")
        if answer.status == 404:
            raise _no_stream(stream)
        return tracking_of(Fields(answer.address, self._json(answer)))

    async def nodes(self) -> list[ListedNode]:
        """The nodes of the cluster. Needs the tag ``monitoring``."""
        answer = await self._get(f"/api/nodes?columns={_OF_NODES}")
        return [node_of(fields) for fields in self._objects(answer)]

    async def alarms(self) -> list[Alarm] | None:
        """The alarms that are in effect on any node, as they are now: ``nodes`` tells of them some seconds later.

        None where the broker does not have this check, so that nothing is known.
        """
        answer = await self._get("/api/health/checks/alarms", but=(503,))
        if answer.status == 404:
            return None
        fields = Fields(answer.address, self._json(answer))
        if answer.status == 200:
            return []
        if not fields.has("alarms"):
            self._checked(answer)
        return [alarm_of(Fields(answer.address, item)) for item in fields.items("alarms", MAX_ALARMS)]

    @property
    def address(self) -> ManagementAddress:
        """Where it is asked next: at first that of the node that has answered last."""
        return self._clients[0].address

    async def _list(self, target: str, make: Callable[[Fields], T]) -> list[T]:
        answer = await self._of_streams(target)
        if answer.status == 404:
            raise self._no_vhost()
        return [make(fields) for fields in self._objects(answer)]

    async def _pages(self, target: str, make: Callable[[Fields], T | None]) -> list[T]:
        found: dict[str, T] = {}
        size = values = 0
        for number in range(1, MAX_PAGES + 1):
            answer = await self._get(f"{target}&page={number}&page_size={PAGE_SIZE}", but=(400,) if number > 1 else ())
            if answer.status == 404:
                raise self._no_vhost()
            if answer.status == 400:  # the list has become shorter
                break
            page = Fields(answer.address, self._json(answer))
            size += len(answer.body)
            values += count_values(answer.body)
            for item in page.items("items", PAGE_SIZE):
                fields = Fields(answer.address, item)
                made = make(fields)
                if made is not None:
                    found[fields.name("name")] = made
            if number >= (page.whole("page_count") or 0):
                break
            if size > MAX_LIST or values > MAX_LIST_VALUES or number == MAX_PAGES:
                raise ProtocolError(f"{answer.address} tells of more entries than the {len(found):,} that were read")
        return [found[name] for name in sorted(found)]

    async def _of_streams(self, target: str, *, but: Sequence[int] = ()) -> Answer:
        """Asks what the plugin rabbitmq_stream_management answers. ``but``: see ``_get``."""
        answer = await self._get(target, but=(400, *but))
        if answer.status in (400, 404) and not await self._has_stream_plugin():
            raise ManagementUnavailable(
                f"{answer.address} cannot tell this: the plugin rabbitmq_stream_management is not enabled there",
                hint="on each node: `rabbitmq-plugins enable rabbitmq_stream_management`",
            )
        return answer if answer.status in but else self._checked(answer)

    async def _has_stream_plugin(self) -> bool:
        """Whether the plugin is there: without it, its paths answer as if something were wrong with the request."""
        answer = await self._get("/api/extensions")
        return any(fields.has_script("stream.js") for fields in self._objects(answer, empty=True))

    async def _get(self, target: str, *, but: Sequence[int] = ()) -> Answer:
        """An answer of the first node that can be reached, with status 200 or 404; ``but`` has other ones to return.

        Asks each node once at most. One that cannot be reached goes behind the others, for all requests.
        """
        untried = set(self._clients)
        while True:
            client = next(each for each in self._clients if each in untried)
            untried.remove(client)
            try:
                answer = await self._ask(client, target)
            except (ManagementUnavailable, HostNotFound):
                if client is self._clients[0]:  # else another request has found that out
                    self._clients.append(self._clients.pop(0))
                if not untried:
                    raise
                continue
            return answer if answer.status in but else self._checked(answer)

    async def _ask(self, client: HttpClient, target: str) -> Answer:
        """Asks one node. Where a function gives the password, it is asked again when the one it gave is refused."""
        login = self._login or await self._new_login(client)
        answer = await client.get(target, login)
        if answer.status != 401 or isinstance(self._given(client), Credentials):
            return answer
        if login is self._login:
            self._login = None  # a token that has expired
        return await client.get(target, self._login or await self._new_login(client))

    async def _new_login(self, client: HttpClient) -> Credentials:
        self._login = await self._logins.credentials(self._given(client))
        return self._login

    def _given(self, client: HttpClient) -> Credentials | CredentialsFunction:
        if client.address.credentials is not None:
            return client.address.credentials
        if self._options.mechanism != "PLAIN":
            raise ManagementUnavailable(
                f"the management API takes a user name and a password, and SASL {self._options.mechanism} has none",
                hint="set RSTREAM_MANAGEMENT_URI to https://user:password@HOST:15671",
            )
        return self._options.credentials

    def _checked(self, answer: Answer) -> Answer:
        status = answer.status
        if status == 401:
            raise self._refusal(answer)
        if status == 403:
            raise AccessRefused(f"{answer.address}: {AccessRefused.summary}")
        if 300 <= status < 400:
            elsewhere = harmless((answer.location or "?")[:MAX_REASON])
            raise ManagementUnavailable(
                f"{answer.address} redirects to another address, which is not followed: {elsewhere}",
                hint="if that is the management API, pass it as --management-uri",
            )
        if status >= 500:
            raise ManagementUnavailable(f"{answer.address} cannot answer now (HTTP status {status})")
        is_known = status == 200 or (status == 404 and Fields(answer.address, self._json(answer)).has("error"))
        if not is_known:
            raise ProtocolError(
                f"{answer.address} answers with HTTP status {status}", hint="is this RabbitMQ's management port?"
            )
        return answer

    def _refusal(self, answer: Answer) -> ServerError:
        reason = ""
        try:
            reason = Fields(answer.address, self._json(answer)).text("reason") or ""
        except ProtocolError:
            pass
        where = f"{answer.address}: "
        if "management user" in reason or "monitor user" in reason:
            tag = "monitoring" if "monitor" in reason else "management"
            return AccessRefused(
                f"{where}this user has not the tag {tag!r}, which the request needs",
                hint="`rabbitmqctl set_user_tags USER monitoring`",
            )
        told = f" ({harmless(reason[:MAX_REASON])})" if reason and "Not_Authorized" not in reason else ""
        return AuthenticationFailure(f"{where}{AuthenticationFailure.summary}{told}")

    def _no_vhost(self) -> VirtualHostAccessFailure:
        vhost = self._options.vhost
        return VirtualHostAccessFailure(f"virtual host {vhost!r}: {VirtualHostAccessFailure.summary}")

    def _json(self, answer: Answer) -> Any:
        import orjson

        if count_values(answer.body) > MAX_VALUES:
            raise ProtocolError(f"{answer.address} answers with more than {MAX_VALUES:,} values")
        try:
            return orjson.loads(answer.body)
        except orjson.JSONDecodeError:
            raise ProtocolError(
                f"{answer.address} answers, but not with JSON (HTTP status {answer.status})",
                hint="is this RabbitMQ's management port?",
            ) from None

    def _objects(self, answer: Answer, *, empty: bool = False) -> list[Fields]:
        """The objects of an answer that is a list. ``empty``: empty lists stand among them for empty objects."""
        found = self._json(answer)
        if not isinstance(found, list):
            raise ProtocolError(
                f"{answer.address} answers, but not with a list (HTTP status {answer.status})",
                hint="is this RabbitMQ's management port?",
            )
        return [Fields(answer.address, {} if empty and item == [] else item) for item in found]


def _no_stream(name: str) -> StreamDoesNotExist:
    return StreamDoesNotExist(f"stream {name!r}: {StreamDoesNotExist.summary}")


def _in_path(name: str) -> str:
    """A name as one segment of a path."""
    return quote(name, safe="")


def open_api(
    options: ConnectionOptions,
    address: ManagementAddress | None,
    make_tls: Callable[[], ssl.SSLContext],
) -> ManagementApi:
    """The management API of the brokers of ``options``, or the one at ``address``; it connects with the first request.

    ``make_tls`` makes the context for https, of each client's own. Raises ``ManagementUnavailable`` where there is no
    address that a password may be sent to.
    """
    own = default_addresses(options.endpoints, tls=options.tls is not None) if address is None else (address,)
    hosts = {endpoint.host for endpoint in options.endpoints}
    clients = [
        HttpClient(
            each,
            tls=make_tls() if each.tls else None,
            server_name=options.server_name if each.host in hosts else None,
            connect_timeout=options.connect_timeout,
            request_timeout=options.request_timeout,
        )
        for each in own
    ]
    return ManagementApi(clients, options)
