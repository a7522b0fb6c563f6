"""The streams and super streams of a broker: in memory, and as a folder that outlives it.

::

    DATA/lock                       held by the broker that uses the folder
    DATA/super-streams.json         names, partitions, binding keys
    DATA/streams/ID/stream.json     virtual host, name, arguments
    DATA/streams/ID/*.segment       its log

Every change is a rename, so that it is there or not. A super stream is written down before its partitions are made,
and marked before they are deleted; what was cut short is finished when the folder is opened.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rstream_core.broker import refusal
from rstream_core.broker.arguments import Arguments
from rstream_core.broker.groups import Group
from rstream_core.broker.log import Dropped, Log, sync_directory
from rstream_core.broker.refusal import Refused
from rstream_core.broker.writer import Fsync, Writer
from rstream_core.errors import ConfigurationError
from rstream_core.protocol.routing import MAX_PARTITIONS

if TYPE_CHECKING:
    from rstream_core.broker.delivery import BrokerPublisher, BrokerSubscription

logger = logging.getLogger("rstream_core.broker")

DEFAULT_FILTER_SIZE = 16
_FORMAT = 1

Name = tuple[str, str]
"""A virtual host, and a name in it."""


class Stream:
    """A stream, and who uses it."""

    def __init__(self, vhost: str, name: str, arguments: Mapping[str, str], log: Log, streams: Streams) -> None:
        self.vhost = vhost
        self.name = name
        self.given = dict(arguments)
        self.arguments = Arguments.parse(arguments)
        self.log = log
        self.writer = Writer(log, streams.fsync, streams.executor, self._on_written, self.retain)
        self.publishers: set[BrokerPublisher] = set()
        self.subscriptions: set[BrokerSubscription] = set()
        self.groups: dict[str, Group] = {}

    def _on_written(self) -> None:
        for subscription in list(self.subscriptions):
            subscription.pump()
        if not self.publishers and not self.subscriptions:
            self.log.close_unused()

    def remove_publisher(self, publisher: BrokerPublisher) -> None:
        """It is gone, and with the last of its name what is known of that beside the log."""
        self.publishers.discard(publisher)
        reference = publisher.reference
        if reference and all(other.reference != reference for other in self.publishers):
            self.writer.forget(reference)
        self.close_if_unused()

    def retain(self, now: int) -> None:
        """Drops what is too old or too much."""
        age = self.arguments.max_age
        self.log.retain(self.arguments.max_length_bytes, None if age is None else age * 1000, now)

    def close_if_unused(self) -> None:
        """Gives file handles back where nobody publishes or reads."""
        if not self.publishers and not self.subscriptions:
            self.writer.flush()
            self.log.close_unused()


class SuperStream(NamedTuple):
    """Partitions with their binding keys, in their order."""

    partitions: list[tuple[str, str]]
    arguments: dict[str, str]
    is_deleted: bool = False

    def names(self) -> list[str]:
        return [name for name, _ in self.partitions]


class Streams:
    """All streams of one data folder. Made by ``open``."""

    def __init__(self, directory: Path, fsync: Fsync, executor: Executor) -> None:
        self.directory = directory
        self.fsync = fsync
        self.executor = executor
        self.dropped: list[tuple[str, Dropped]] = []
        """What was not whole when the folder was opened, with the stream's name."""
        self._streams: dict[Name, Stream] = {}
        self._super_streams: dict[Name, SuperStream] = {}
        self._lock = -1

    @classmethod
    def open(cls, directory: Path, fsync: Fsync, executor: Executor) -> Streams:
        """Reads and checks all of it. Raises ``ConfigurationError`` where another broker holds the folder."""
        streams = cls(directory, fsync, executor)
        (directory / "streams").mkdir(parents=True, exist_ok=True)
        streams._take_lock()
        try:
            streams._load()
        except BaseException:
            streams._release_lock()
            raise
        return streams

    async def close(self) -> None:
        """Writes what is gathered."""
        for stream in self:
            await stream.writer.close()
            stream.log.close()
        self._release_lock()

    # Streams.

    def __iter__(self) -> Any:
        return iter(list(self._streams.values()))

    def __len__(self) -> int:
        return len(self._streams)

    def get(self, vhost: str, name: str) -> Stream | None:
        return self._streams.get((vhost, name))

    def find(self, vhost: str, name: str) -> Stream:
        """Raises ``Refused`` where there is none."""
        stream = self._streams.get((vhost, name))
        if stream is None:
            raise Refused(refusal.NO_SUCH_STREAM, f"there is no stream {name!r}")
        return stream

    def create(self, vhost: str, name: str, given: Mapping[str, str]) -> Stream:
        """Raises ``Refused``, also where it exists."""
        name = _clean(name)
        arguments = Arguments.parse(given)
        existing = self._streams.get((vhost, name))
        if existing is not None:
            same = existing.arguments == arguments
            raise Refused(refusal.STREAM_EXISTS if same else refusal.PRECONDITION_FAILED, f"{name!r} exists")
        directory = self.directory / "streams" / uuid.uuid4().hex
        unfinished = directory.with_name(f"new-{directory.name}")
        unfinished.mkdir()
        document = {"format": _FORMAT, "vhost": vhost, "name": name, "arguments": dict(given)}
        _write_json(unfinished / "stream.json", document, durable=self.fsync is not Fsync.NEVER)
        self._make_log(unfinished, arguments).close()
        unfinished.rename(directory)
        self._sync(directory.parent)
        return self._open_stream(directory, document)

    def delete(self, vhost: str, name: str) -> Stream:
        """Takes it away; telling those who use it is the caller's. Raises ``Refused``."""
        stream = self.find(vhost, name)
        self._unbind(vhost, name)
        self._remove(stream)
        return stream

    def _remove(self, stream: Stream) -> None:
        stream.writer.retire()
        del self._streams[stream.vhost, stream.name]
        doomed = stream.log.directory.with_name(f"deleted-{stream.log.directory.name}")
        stream.log.directory.rename(doomed)
        self._sync(doomed.parent)
        stream.log.close()
        shutil.rmtree(doomed, ignore_errors=True)

    def _make_log(self, directory: Path, arguments: Arguments) -> Log:
        return Log.create(directory, **self._log_options(arguments))

    def _log_options(self, arguments: Arguments) -> dict[str, Any]:
        return {
            "segment_size": arguments.segment_size,
            "filter_size": arguments.filter_size or DEFAULT_FILTER_SIZE,
            "durable": self.fsync is not Fsync.NEVER,
        }

    # Super streams.

    def create_super_stream(
        self, vhost: str, name: str, partitions: Sequence[str], keys: Sequence[str], given: Mapping[str, str]
    ) -> None:
        """Raises ``Refused``; then nothing of it is there."""
        name = _clean(name)
        names = [_clean(partition) for partition in partitions]
        Arguments.parse(given)
        if len(names) != len(keys) or len(set(names)) < len(names) or len(names) > MAX_PARTITIONS:
            raise Refused(refusal.PRECONDITION_FAILED, "partitions and binding keys do not fit")
        if (vhost, name) in self._super_streams:
            raise Refused(refusal.STREAM_EXISTS, f"the super stream {name!r} exists")
        for partition in names:
            if (vhost, partition) in self._streams:
                raise Refused(refusal.STREAM_EXISTS, f"the stream {partition!r} exists")
        self._super_streams[vhost, name] = SuperStream(list(zip(names, keys, strict=True)), dict(given))
        self._save_super_streams()
        for partition in names:
            self.create(vhost, partition, given)

    def delete_super_stream(self, vhost: str, name: str) -> list[Stream]:
        """Takes it and its partitions away, and returns those. Raises ``Refused``."""
        super_stream = self._find_super_stream(vhost, name)
        self._super_streams[vhost, name] = super_stream._replace(is_deleted=True)
        self._save_super_streams()
        found = [self._streams.get((vhost, partition)) for partition in super_stream.names()]
        streams = [stream for stream in found if stream is not None]
        for stream in streams:
            self._remove(stream)
        del self._super_streams[vhost, name]
        self._save_super_streams()
        return streams

    def partitions(self, vhost: str, name: str) -> list[str]:
        """Raises ``Refused``."""
        return self._find_super_stream(vhost, name).names()

    def route(self, vhost: str, name: str, key: str) -> list[str]:
        """The partitions that are bound to a key. Raises ``Refused``."""
        return [partition for partition, bound in self._find_super_stream(vhost, name).partitions if bound == key]

    def partition_number(self, vhost: str, super_stream: str, partition: str) -> int | None:
        """The position of a partition; None where it is none of this super stream."""
        found = self._super_streams.get((vhost, super_stream))
        names = found.names() if found else []
        return names.index(partition) if partition in names else None

    def _find_super_stream(self, vhost: str, name: str) -> SuperStream:
        found = self._super_streams.get((vhost, name))
        if found is None:
            raise Refused(refusal.NO_SUCH_STREAM, f"there is no super stream {name!r}")
        return found

    def _unbind(self, vhost: str, partition: str) -> None:
        changed = False
        for key, super_stream in list(self._super_streams.items()):
            if key[0] == vhost and partition in super_stream.names():
                left = [binding for binding in super_stream.partitions if binding[0] != partition]
                self._super_streams[key] = super_stream._replace(partitions=left)
                changed = True
        if changed:
            self._save_super_streams()

    # The folder.

    def _load(self) -> None:
        for directory in sorted((self.directory / "streams").iterdir()):
            if directory.name.startswith(("new-", "deleted-")):
                shutil.rmtree(directory, ignore_errors=True)
                continue
            document = _read_json(directory / "stream.json")
            if document is not None:
                self._open_stream(directory, document)
        for entry in _read_json(self.directory / "super-streams.json") or ():
            partitions = [(str(name), str(key)) for name, key in entry["partitions"]]
            found = SuperStream(partitions, entry["arguments"], entry["is_deleted"])
            self._super_streams[entry["vhost"], entry["name"]] = found
        for (vhost, name), super_stream in list(self._super_streams.items()):
            if super_stream.is_deleted:
                self.delete_super_stream(vhost, name)
                continue
            for partition in super_stream.names():
                if (vhost, partition) not in self._streams:
                    self.create(vhost, partition, super_stream.arguments)

    def _open_stream(self, directory: Path, document: Mapping[str, Any]) -> Stream:
        vhost, name, given = document["vhost"], document["name"], document["arguments"]
        log = Log.open(directory, **self._log_options(Arguments.parse(given)))
        self.dropped += [(name, dropped) for dropped in log.dropped]
        stream = Stream(vhost, name, given, log, self)
        self._streams[vhost, name] = stream
        return stream

    def _save_super_streams(self) -> None:
        document = [
            {
                "vhost": vhost,
                "name": name,
                "partitions": found.partitions,
                "arguments": found.arguments,
                "is_deleted": found.is_deleted,
            }
            for (vhost, name), found in self._super_streams.items()
        ]
        _write_json(self.directory / "super-streams.json", document, durable=self.fsync is not Fsync.NEVER)

    def _sync(self, directory: Path) -> None:
        if self.fsync is not Fsync.NEVER:
            sync_directory(directory)

    def _take_lock(self) -> None:
        path = self.directory / "lock"
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._lock, 20, 0).decode(errors="replace").strip()
            self._release_lock()
            raise ConfigurationError(
                f"{self.directory} is in use by another broker" + (f", process {holder}" if holder.isdigit() else ""),
                hint="stop it, or choose another folder",
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def _release_lock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _clean(name: str) -> str:
    """RabbitMQ takes line breaks out of names, and has some that it keeps for itself."""
    cleaned = name.replace("\n", "").replace("\r", "")
    if not cleaned or cleaned.startswith("amq."):
        raise Refused(refusal.PRECONDITION_FAILED, f"{name!r} cannot be the name of a stream")
    return cleaned


def _read_json(path: Path) -> Any:
    """None where there is none, or none that can be read."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        logger.warning("%s cannot be read: %s", path, error)
        return None


def _write_json(path: Path, document: object, *, durable: bool) -> None:
    """All of it, or what was there before."""
    new = path.with_name(path.name + ".new")
    with new.open("w", encoding="utf-8") as file:
        json.dump(document, file, ensure_ascii=True)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    new.replace(path)


def tell_of(dropped: Iterable[tuple[str, Dropped]]) -> list[str]:
    """A line for each."""
    return [
        f"stream {name!r}: {what.file.name}: {what.reason}; "
        f"{what.size:,} bytes from byte {what.position:,} on are dropped"
        for name, what in dropped
    ]
