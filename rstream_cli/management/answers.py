"""What the management API tells, as values that are checked.

The answers come from a peer that is not trusted: each field is checked here, and a wrong one is a ``ProtocolError``. A
field that is missing is None or empty: versions differ, and numbers come only with the next statistics, 5 s later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from rstream_core.checks import MAX_NAME
from rstream_core.errors import ProtocolError

MAX_TEXT = 4096
"""Characters of a text that is no name: a node, a connection, a value of an argument."""
MAX_VALUES = 1 << 20
"""Values of one answer, and texts of few bytes may be many: each takes up to 250 bytes. Some 30,000 consumers."""
_LARGEST = 2**64 - 1

Value = str | int | float | bool
"""The value of an argument or of a policy."""


@dataclass(frozen=True, slots=True)
class ListedStream:
    """A stream, or a partition of a super stream."""

    name: str
    arguments: Mapping[str, Value]
    """Those it was created with, by their names in the stream protocol, such as ``max-age``."""
    policy: str | None
    """The name of the policy that applies to it."""
    policy_arguments: Mapping[str, Value]
    """What policies say of it, by the same names. Where both say something, retention is the policy's."""
    leader: str | None
    """The name of a node, as replicas are: ``rabbit@host``."""
    replicas: tuple[str, ...]
    online: tuple[str, ...]
    """Those of the replicas that are up."""
    messages: int | None
    """An estimate, some seconds old."""
    segments: int | None
    """Segment files of the leader."""
    state: str | None

    def in_force(self, argument: str) -> Value | None:
        """What holds of an argument: the policy's value, else that of the stream."""
        value = self.policy_arguments.get(argument)
        return self.arguments.get(argument) if value is None else value


@dataclass(frozen=True, slots=True)
class ListedConsumer:
    """A subscription to a stream."""

    stream: str
    name: str | None
    """The reference; None where it has none."""
    is_active: bool
    is_single_active: bool
    super_stream: str | None
    offset: int | None
    """The first offset of the last chunk that was sent to it, some seconds ago. Before that, RabbitMQ 4.3 tells the end
    of the stream at first, and later 0."""
    lag: int | None
    """Messages between that and the end of the stream, as the broker counts them."""
    consumed: int | None
    """Entries that were sent to it: messages, or sub-entries of several."""
    connection: str
    user: str


@dataclass(frozen=True, slots=True)
class ListedPublisher:
    """A publisher of a stream."""

    stream: str
    name: str | None
    published: int | None
    confirmed: int | None
    errored: int | None
    connection: str
    user: str


@dataclass(frozen=True, slots=True)
class Tracking:
    """What a stream has stored by reference."""

    offsets: Mapping[str, int]
    """The stored offset of each consumer's name."""
    sequences: Mapping[str, int]
    """The last publishing id of each publisher's name."""


@dataclass(frozen=True, slots=True)
class ListedNode:
    """A node of the cluster."""

    name: str
    is_running: bool
    disk_alarm: bool
    memory_alarm: bool
    disk_free: int | None
    """Bytes."""
    disk_free_limit: int | None
    """Bytes."""
    memory_used: int | None
    """Bytes."""
    memory_limit: int | None
    """Bytes, above which there is an alarm."""
    plugins: tuple[str, ...]
    """Those that are enabled; none where the node is down, or the API does not tell."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """A resource of a node that runs out."""

    node: str
    resource: str
    """``disk space`` or ``memory``; later brokers may have others."""


def count_values(data: bytes) -> int:
    """The most values that JSON may hold: none is without a bracket, a brace or a comma, but for the outermost."""
    return data.count(b"[") + data.count(b"{") + data.count(b",") + 1


class Fields:
    """One object of an answer. ``where`` is the address that sent it."""

    def __init__(self, where: object, record: object) -> None:
        self._where = where
        if not isinstance(record, dict):
            raise self.wrong("an object")
        self._record: dict[str, Any] = record

    def wrong(self, what: str) -> ProtocolError:
        """The error for what is not as RabbitMQ has it."""
        return ProtocolError(
            f"{self._where}: the answer is not the management API's: {what} is missing or malformed",
            hint="is this RabbitMQ's management port?",
        )

    def name(self, key: str) -> str:
        """A name of 1 to 255 bytes."""
        text = self.text(key)
        if not text or len(text.encode("utf-8", "surrogatepass")) > MAX_NAME:
            raise self.wrong(key)
        return text

    def text(self, key: str) -> str | None:
        value = self._record.get(key)
        if value is not None and (not isinstance(value, str) or len(value) > MAX_TEXT):
            raise self.wrong(key)
        return value

    def whole(self, key: str) -> int | None:
        """A number from 0 to 2^64 - 1. One below 0, which the broker gives while it counts, is 0."""
        value = self._record.get(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) > _LARGEST:
            raise self.wrong(key)
        return max(value, 0)

    def flag(self, key: str) -> bool:
        value = self._record.get(key, False)
        if not isinstance(value, bool):
            raise self.wrong(key)
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._record.get(key) or []
        if not isinstance(value, list) or not all(isinstance(text, str) and len(text) <= MAX_TEXT for text in value):
            raise self.wrong(key)
        return tuple(value)

    def items(self, key: str, most: int) -> list[object]:
        value = self._record.get(key)
        if not isinstance(value, list) or len(value) > most:
            raise self.wrong(key)
        return value

    def all(self) -> Mapping[str, Any]:
        """The whole object, of which nothing is checked."""
        return self._record

    def has(self, key: str) -> bool:
        return key in self._record

    def has_script(self, name: str) -> bool:
        """Whether an entry of ``/api/extensions`` names a script; there is one or a list of them."""
        scripts = self._record.get("javascript")
        return name in scripts if isinstance(scripts, list) else name == scripts

    def fields(self, key: str) -> Fields:
        """An object in this one; an empty one where it is missing, or an empty list, which Erlang may make of it."""
        value = self._record.get(key)
        return Fields(self._where, {} if value is None or value == [] else value)

    def values(self, key: str) -> Mapping[str, Value]:
        """Arguments, without the ``x-`` in front of queues' ones."""
        found: dict[str, Value] = {}
        for name, value in self.fields(key).all().items():
            is_short = not isinstance(value, str) or len(value) <= MAX_TEXT
            if isinstance(value, str | int | float | bool) and is_short:
                found[name.removeprefix("x-")] = value
        found.pop("queue-type", None)
        return MappingProxyType(found)

    def numbers(self, key: str) -> Mapping[str, int]:
        """Whole numbers by name."""
        inner = self.fields(key)
        found: dict[str, int] = {}
        for name in inner.all():
            value = inner.whole(name)
            if value is None or len(name.encode("utf-8", "surrogatepass")) > MAX_NAME:
                raise self.wrong(key)
            found[name] = value
        return MappingProxyType(found)


def stream_of(fields: Fields) -> ListedStream:
    """One of ``/api/queues``."""
    return ListedStream(
        name=fields.name("name"),
        arguments=fields.values("arguments"),
        policy=fields.text("policy"),
        policy_arguments=fields.values("effective_policy_definition"),
        leader=fields.text("leader") or None,
        replicas=fields.texts("members"),
        online=fields.texts("online"),
        messages=fields.whole("messages"),
        segments=fields.whole("segments"),
        state=fields.text("state"),
    )


def consumer_of(fields: Fields) -> ListedConsumer:
    """One of ``/api/stream/consumers``."""
    properties, connection = fields.fields("properties"), fields.fields("connection_details")
    return ListedConsumer(
        stream=fields.fields("queue").name("name"),
        name=properties.text("name") or None,
        is_active=fields.flag("active"),
        is_single_active=properties.text("single-active-consumer") == "true",
        super_stream=properties.text("super-stream"),
        offset=fields.whole("offset"),
        lag=fields.whole("offset_lag"),
        consumed=fields.whole("consumed"),
        connection=connection.text("name") or "",
        user=connection.text("user") or "",
    )


def publisher_of(fields: Fields) -> ListedPublisher:
    """One of ``/api/stream/publishers``."""
    connection = fields.fields("connection_details")
    return ListedPublisher(
        stream=fields.fields("queue").name("name"),
        name=fields.text("reference") or None,
        published=fields.whole("published"),
        confirmed=fields.whole("confirmed"),
        errored=fields.whole("errored"),
        connection=connection.text("name") or "",
        user=connection.text("user") or "",
    )


def tracking_of(fields: Fields) -> Tracking:
    """What ``/api/stream/VHOST/STREAM/tracking`` answers."""
    return Tracking(offsets=fields.numbers("offsets"), sequences=fields.numbers("writers"))


def node_of(fields: Fields) -> ListedNode:
    """One of ``/api/nodes``."""
    return ListedNode(
        name=fields.name("name"),
        is_running=fields.flag("running"),
        disk_alarm=fields.flag("disk_free_alarm"),
        memory_alarm=fields.flag("mem_alarm"),
        disk_free=fields.whole("disk_free"),
        disk_free_limit=fields.whole("disk_free_limit"),
        memory_used=fields.whole("mem_used"),
        memory_limit=fields.whole("mem_limit"),
        plugins=fields.texts("enabled_plugins"),
    )


def alarm_of(fields: Fields) -> Alarm:
    """One of the alarms that ``/api/health/checks/alarms`` answers."""
    return Alarm(fields.name("node"), fields.name("resource"))
