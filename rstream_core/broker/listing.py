"""What the management API tells of a broker, as RabbitMQ 4.3 words it: values of JSON, and nothing of HTTP.

Only what clients of streams ask for. A list comes whole, or in the pages that RabbitMQ divides it into.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from rstream_core.broker.stream import Stream
from rstream_core.broker.streams import Streams

NODE = "rstream@localhost"
"""The name of the one node."""
MAX_PAGE_SIZE = 500

Record = dict[str, Any]
T = TypeVar("T")


class BadRequest(Exception):
    """What was asked for cannot be; the message is the reason."""


class Missing(Exception):
    """What was asked for does not exist."""


class Question(NamedTuple):
    """A request: the segments of its path behind ``/api``, unescaped, and its query."""

    path: Sequence[str]
    query: Mapping[str, str]


def answer(question: Question, streams: Streams, vhosts: Iterable[str]) -> Any:
    """Answers a question. Raises ``Missing`` or ``BadRequest``."""
    match question.path:
        case ["nodes"]:
            return _chosen([_node(streams)], question.query)
        case ["health", "checks", "alarms"]:
            return {"status": "ok"}
        case ["extensions"]:
            return [{"javascript": ["stream.js"]}]
        case ["queues", vhost]:
            return _listed(question.query, _sorted(streams, vhost, vhosts), stream_record)
        case ["queues", vhost, name]:
            return stream_record(_find(streams, vhost, name))
        case ["exchanges", vhost]:
            _check_vhost(vhost, vhosts)
            found = sorted(name for (of, name), _ in streams.super_streams.items() if of == vhost)
            return _listed(question.query, found, lambda name: _exchange(vhost, name))
        case ["stream", "consumers", vhost]:
            return [record for stream in _sorted(streams, vhost, vhosts) for record in _consumers(stream)]
        case ["stream", "publishers", vhost]:
            return [record for stream in _sorted(streams, vhost, vhosts) for record in _publishers(stream)]
        case ["stream", "publishers", vhost, name]:
            return _publishers(_find(streams, vhost, name))
        case ["stream", vhost, name, "tracking"]:
            return _tracking(_find(streams, vhost, name))
    raise Missing


def stream_record(stream: Stream) -> Record:
    """One of ``/api/queues``."""
    log = stream.log
    first = log.first_chunk_id
    return {
        "name": stream.name,
        "vhost": stream.vhost,
        "type": "stream",
        "arguments": {"x-queue-type": "stream", **_queue_arguments(stream)},
        "policy": None,
        "effective_policy_definition": {},
        "leader": NODE,
        "node": NODE,
        "members": [NODE],
        "online": [NODE],
        "messages": 0 if first is None else log.committed - first,
        "segments": len(log.segments),
        "consumers": len(stream.subscriptions),
        "state": "running",
        "durable": True,
    }


def _queue_arguments(stream: Stream) -> Record:
    """The arguments of a stream as a queue has them: numbers as numbers, those that are not known left out."""
    known = stream.arguments
    found = {
        "x-max-age": None if known.max_age is None else stream.given["max-age"],
        "x-max-length-bytes": known.max_length_bytes,
        "x-stream-max-segment-size-bytes": known.max_segment_size,
        "x-stream-filter-size-bytes": known.filter_size,
        "x-initial-cluster-size": known.initial_cluster_size,
        "x-queue-leader-locator": known.leader_locator,
    }
    return {key: value for key, value in found.items() if value is not None}


def _consumers(stream: Stream) -> list[Record]:
    found = []
    for subscription in sorted(stream.subscriptions, key=lambda one: (one.connection.peer, one.id)):
        group = subscription.group
        is_active = group is None or (group.active is subscription and not group.is_stepping_down)
        found.append(
            {
                "queue": {"name": stream.name, "vhost": stream.vhost},
                "connection_details": _connection(subscription),
                "subscription_id": subscription.id,
                "credits": subscription.credit,
                "active": is_active,
                "activity_status": "up" if group is None else "single_active" if is_active else "waiting",
                "offset": subscription.offset,
                "offset_lag": max(stream.log.committed - 1 - subscription.offset, 0),
                "consumed": subscription.consumed,
                "properties": dict(subscription.properties),
            }
        )
    return found


def _publishers(stream: Stream) -> list[Record]:
    return [
        {
            "queue": {"name": stream.name, "vhost": stream.vhost},
            "connection_details": _connection(publisher),
            "publisher_id": publisher.id,
            "reference": publisher.reference,
            "published": publisher.confirmed + publisher.errored,
            "confirmed": publisher.confirmed,
            "errored": publisher.errored,
        }
        for publisher in sorted(stream.publishers, key=lambda one: (one.connection.peer, one.id))
    ]


def _connection(user: Any) -> Record:
    connection = user.connection
    host, _, port = connection.peer.rpartition(":")
    own = connection.transport.get_extra_info("sockname")
    name = f"{connection.peer} -> {own[0]}:{own[1]}" if own else connection.peer
    username = connection.session.username
    return {"name": name, "node": NODE, "peer_host": host, "peer_port": int(port), "user": username}


def _tracking(stream: Stream) -> Record:
    tracking = stream.log.tracking
    return {
        "offsets": dict(tracking.offsets),
        "writers": {name: sequence for name, (_, sequence) in tracking.sequences.items()},
    }


def _exchange(vhost: str, name: str) -> Record:
    return {"name": name, "vhost": vhost, "type": "direct", "durable": True, "arguments": {"x-super-stream": True}}


def _node(streams: Streams) -> Record:
    free = shutil.disk_usage(streams.folder.path).free
    return {
        "name": NODE,
        "running": True,
        "disk_free": free,
        "disk_free_limit": 0,
        "disk_free_alarm": False,
        "mem_alarm": False,
        "enabled_plugins": ["rabbitmq_management", "rabbitmq_stream", "rabbitmq_stream_management"],
    }


def _check_vhost(vhost: str, vhosts: Iterable[str]) -> None:
    if vhost not in vhosts:
        raise Missing


def _sorted(streams: Streams, vhost: str, vhosts: Iterable[str]) -> list[Stream]:
    _check_vhost(vhost, vhosts)
    return sorted((stream for stream in streams if stream.vhost == vhost), key=lambda stream: stream.name)


def _find(streams: Streams, vhost: str, name: str) -> Stream:
    stream = streams.get(vhost, name)
    if stream is None:
        raise Missing
    return stream


def _listed(query: Mapping[str, str], found: Sequence[T], record: Callable[[T], Record]) -> Any:
    """A list, or where the query asks for it, a page of it."""
    if "page" not in query and "page_size" not in query:
        return _chosen(list(map(record, found)), query)
    page, size = _whole(query.get("page", "1")), _whole(query.get("page_size", "100"))
    if not (page and size and size <= MAX_PAGE_SIZE):
        raise BadRequest(f"Invalid pagination parameters: page number {page}, page size {size}")
    pages = max(-(-len(found) // size), 1)
    if page > pages:
        raise BadRequest(f"Page out of range, page: {page} page size: {size}, len: {len(found)}")
    items = [record(each) for each in found[(page - 1) * size : page * size]]
    return {
        "items": _chosen(items, query),
        "item_count": len(items),
        "filtered_count": len(found),
        "total_count": len(found),
        "page": page,
        "page_count": pages,
        "page_size": size,
    }


def _whole(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _chosen(records: list[Record], query: Mapping[str, str]) -> list[Record]:
    """The columns that the query names, or all."""
    if "columns" not in query:
        return records
    columns = query["columns"].split(",")
    return [{key: record[key] for key in columns if key in record} for record in records]
