"""The streams and super streams of a broker: in memory, and as a folder that outlives it.

::

    DATA/lock                       the process that uses the folder, and has a lock on both
    DATA/super-streams.json         names, partitions, binding keys
    DATA/streams/ID/stream.json     virtual host, name, arguments
    DATA/streams/ID/*.segment       its log

Both kinds of JSON have a checksum since format 2; what an earlier version wrote has none, and is taken.

Every change is a rename, so that it is there or not. A super stream is written down before its partitions are made,
and marked before they are deleted; what was cut short is finished when the folder is opened. What cannot be read then
is put aside under another name, and told of.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import logging
import os
import shutil
import uuid
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rstream_core.broker import refusal
from rstream_core.broker.arguments import Arguments
from rstream_core.broker.groups import Group
from rstream_core.broker.log import Log, name_aside, sync_directory, sync_folder
from rstream_core.broker.ports import StreamPublisher, StreamSubscription
from rstream_core.broker.refusal import Refused
from rstream_core.broker.writer import Fsync, Totals, Writer
from rstream_core.errors import ConfigurationError
from rstream_core.hints import Hint
from rstream_core.protocol.routing import MAX_PARTITIONS

logger = logging.getLogger("rstream_core.broker")

DEFAULT_FILTER_SIZE = 16
_FORMAT = 2

Name = tuple[str, str]
"""A virtual host, and the name of a stream or super stream in it."""
T = TypeVar("T")


class Stream:
    """A stream, with its publishers, subscriptions, and groups of single active consumers."""

    def __init__(self, vhost: str, name: str, arguments: Mapping[str, str], log: Log, streams: Streams) -> None:
        self.vhost = vhost
        self.name = name
        self.given = dict(arguments)
        self.arguments = Arguments.parse(arguments)
        self.log = log
        self.writer = Writer(log, streams.fsync, streams.executor, self._on_written, self.retain, streams.totals)
        self.publishers: set[StreamPublisher] = set()
        self.subscriptions: set[StreamSubscription] = set()
        self.groups: dict[str, Group] = {}

    def _on_written(self) -> None:
        for subscription in list(self.subscriptions):
            subscription.pump()
        if not self.publishers and not self.subscriptions and not self.writer.has_unsynced:
            self.log.close_unused()

    def remove_publisher(self, publisher: StreamPublisher) -> None:
        """Removes a publisher that has gone. After the last one of a name, the writer forgets the name."""
        self.publishers.discard(publisher)
        reference = publisher.reference
        if reference and all(other.reference != reference for other in self.publishers):
            self.writer.forget(reference)
        self.close_if_unused()

    def drop_users(self) -> None:
        """Drops all publishers and subscriptions, and tells their clients that the stream is not available."""
        self.writer.flush()
        self.groups.clear()  # so that no other group member becomes active
        for subscription in self.subscriptions:
            subscription.group = None
        connections = {publisher.connection for publisher in self.publishers}
        connections |= {subscription.connection for subscription in self.subscriptions}
        for connection in connections:
            connection.drop_stream(self.name)

    def retain(self, now: int) -> None:
        """Drops what is too old or too much. The newest segment, which remembers what is in it, is on disk."""
        age = self.arguments.max_age
        try:
            self.log.retain(self.arguments.max_length_bytes, None if age is None else age * 1000, now)
        except OSError as error:
            logger.error("cannot drop what stream %r holds too much: %s", self.name, error)  # noqa: TRY400

    def close_if_unused(self) -> None:
        """Closes the file handles if the stream has no publishers and subscriptions."""
        if not self.publishers and not self.subscriptions:
            self.writer.flush()
            if not self.writer.has_unsynced:
                self.log.close_unused()


class Description(NamedTuple):
    """The content of ``stream.json``."""

    vhost: str
    name: str
    arguments: dict[str, str]


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
        self.dropped: list[str] = []
        """Damage that was found when the folder was opened, as lines of text."""
        self.totals = Totals()
        self._streams: dict[Name, Stream] = {}
        self._super_streams: dict[Name, SuperStream] = {}
        self._locks: list[int] = []
        """File handles that hold them."""

    @classmethod
    def open(cls, directory: Path, fsync: Fsync, executor: Executor) -> Streams:
        """Opens a folder and checks its contents. Raises ``ConfigurationError`` where another broker uses it."""
        streams = cls(directory, fsync, executor)
        (directory / "streams").mkdir(parents=True, exist_ok=True)
        try:
            streams._take_lock()
            streams._load()
        except BaseException:
            streams._release_lock()
            raise
        return streams

    def close(self) -> None:
        """Closes all logs and releases the lock. Close the writers first."""
        for stream in self:
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
        """Returns a stream. Raises ``Refused`` where there is none."""
        stream = self._streams.get((vhost, name))
        if stream is None:
            raise Refused(refusal.NO_SUCH_STREAM, f"there is no stream {name!r}")
        return stream

    def create(self, vhost: str, name: str, given: Mapping[str, str]) -> Stream:
        """Creates a stream. Raises ``Refused``, also where it exists, or ``OSError``."""
        name = _clean(name)
        arguments = Arguments.parse(given)
        existing = self._streams.get((vhost, name))
        if existing is not None:
            same = existing.arguments == arguments
            raise Refused(refusal.STREAM_EXISTS if same else refusal.PRECONDITION_FAILED, f"{name!r} exists")
        description = Description(vhost, name, dict(given))
        directory = self.directory / "streams" / uuid.uuid4().hex
        unfinished = directory.with_name(f"new-{directory.name}")
        try:
            unfinished.mkdir()
            self._write(unfinished / "stream.json", description._asdict())
            self._make_log(unfinished, arguments).close()
            unfinished.rename(directory)
            self._sync(directory.parent)
            return self._open_stream(directory, description)
        except OSError:
            for left in (unfinished, directory):
                shutil.rmtree(left, ignore_errors=True)
            raise

    def delete(self, vhost: str, name: str) -> None:
        """Deletes a stream. Raises ``Refused`` where there is none, or ``OSError``."""
        stream = self.find(vhost, name)
        self._unbind(vhost, name)
        self._remove(stream)

    def _remove(self, stream: Stream) -> None:
        stream.writer.flush()
        doomed = stream.log.directory.with_name(f"deleted-{stream.log.directory.name}")
        stream.log.directory.rename(doomed)
        stream.writer.retire()
        del self._streams[stream.vhost, stream.name]
        self._sync(doomed.parent)
        stream.log.close()
        shutil.rmtree(doomed, ignore_errors=True)
        stream.drop_users()

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
        """Creates a super stream and its partitions. Raises ``Refused`` or ``OSError``.

        After an ``OSError`` it removes again all that it has made, except partitions that cannot be deleted.
        """
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
        before = self._super_streams
        new = SuperStream(list(zip(names, keys, strict=True)), dict(given))
        self._set_super_streams({**before, (vhost, name): new})
        try:
            for partition in names:
                self.create(vhost, partition, given)
        except OSError:
            self._super_streams = before  # the file is written below, or with the next change
            for partition in names:
                if (stream := self.get(vhost, partition)) is not None:
                    with contextlib.suppress(OSError):
                        self._remove(stream)
            with contextlib.suppress(OSError):
                self._set_super_streams(before)
            raise

    def delete_super_stream(self, vhost: str, name: str) -> None:
        """Deletes a super stream and its partitions. Raises ``Refused`` where there is none, or ``OSError``."""
        super_stream = self._find_super_stream(vhost, name)
        self._set_super_streams({**self._super_streams, (vhost, name): super_stream._replace(is_deleted=True)})
        for partition in super_stream.names():
            if (stream := self.get(vhost, partition)) is not None:
                self._remove(stream)
        self._set_super_streams({key: found for key, found in self._super_streams.items() if key != (vhost, name)})

    def partitions(self, vhost: str, name: str) -> list[str]:
        """Returns the partitions of a super stream. Raises ``Refused`` where there is none."""
        return self._find_super_stream(vhost, name).names()

    def route(self, vhost: str, name: str, key: str) -> list[str]:
        """Returns the partitions that are bound to a key. Raises ``Refused`` where there is no such super stream."""
        return [partition for partition, bound in self._find_super_stream(vhost, name).partitions if bound == key]

    def partition_number(self, vhost: str, super_stream: str, partition: str) -> int | None:
        """Returns the position of a partition; None where it is not a partition of this super stream."""
        found = self._super_streams.get((vhost, super_stream))
        names = found.names() if found else []
        return names.index(partition) if partition in names else None

    def _find_super_stream(self, vhost: str, name: str) -> SuperStream:
        found = self._super_streams.get((vhost, name))
        if found is None:
            raise Refused(refusal.NO_SUCH_STREAM, f"there is no super stream {name!r}")
        return found

    def _unbind(self, vhost: str, partition: str) -> None:
        changed = {
            key: found._replace(partitions=[binding for binding in found.partitions if binding[0] != partition])
            for key, found in self._super_streams.items()
            if key[0] == vhost and partition in found.names()
        }
        if changed:
            self._set_super_streams({**self._super_streams, **changed})

    def _set_super_streams(self, changed: dict[Name, SuperStream]) -> None:
        """Changes the super streams in the file, and then in memory. If it raises ``OSError``, nothing has changed."""
        document = [
            {"vhost": vhost, "name": name, **super_stream._asdict()} for (vhost, name), super_stream in changed.items()
        ]
        self._write(self.directory / "super-streams.json", {"super_streams": document})
        self._super_streams = changed

    # The folder.

    def _load(self) -> None:
        for directory in sorted((self.directory / "streams").iterdir()):
            if directory.name.startswith(("new-", "deleted-")):
                shutil.rmtree(directory, ignore_errors=True)
                continue
            if directory.suffix == ".damaged":
                continue
            description = self._read(directory / "stream.json", self._parse_stream)
            if description is not None:
                try:
                    self._open_stream(directory, description)
                except OSError as error:
                    self._leave_out(directory, description.name, error)
            elif any(directory.glob("*")) and not any(directory.glob("stream.json*.damaged")):
                self._tell(f"{directory.relative_to(self.directory)} is no stream of this broker's, and left alone")
        self._sync(self.directory / "streams")
        self._super_streams = self._read(self.directory / "super-streams.json", _parse_super_streams) or {}
        for (vhost, name), super_stream in list(self._super_streams.items()):
            try:
                self._finish(vhost, name, super_stream)
            except OSError as error:
                self._tell(f"super stream {name!r} cannot be finished: {error.strerror or error}")

    def _finish(self, vhost: str, name: str, super_stream: SuperStream) -> None:
        """Finishes an interrupted deletion or creation of a super stream."""
        if super_stream.is_deleted:
            self.delete_super_stream(vhost, name)
            return
        for partition in super_stream.names():
            if (vhost, partition) not in self._streams:
                self.create(vhost, partition, super_stream.arguments)

    def _leave_out(self, directory: Path, name: str, error: OSError) -> None:
        """Renames the folder of a stream that cannot be opened to ``.damaged``, so that the others can be used."""
        kept = directory
        with contextlib.suppress(OSError):
            kept = directory.rename(name_aside(directory))
        why = error.strerror or error
        self._tell(f"stream {name!r} cannot be opened: {why}; it is kept as {kept.relative_to(self.directory)}")

    def _open_stream(self, directory: Path, description: Description) -> Stream:
        vhost, name, given = description
        log = Log.open(directory, **self._log_options(Arguments.parse(given)))
        if self.fsync is Fsync.ALWAYS:  # the last broker may have been killed before a sync, or did not sync
            sync_folder(directory)
        for line in log.missing:
            self._tell(f"stream {name!r}: {line}")
        for what in log.dropped:
            where = f"{what.size:,} bytes from byte {what.position:,} on"
            if not what.size:
                rest = "nothing was in it"
            elif what.is_kept:
                rest = f"{where} are not read, but kept as .damaged files beside it"
            else:
                rest = f"{where} are removed: unless the machine went down, nothing of them was confirmed"
            self._tell(f"stream {name!r}: {what.file.name}: {what.reason}; {rest}")
        stream = Stream(vhost, name, given, log, self)
        self._streams[vhost, name] = stream
        return stream

    def _parse_stream(self, document: Any) -> Description:
        """Checks the content of ``stream.json``. Raises ``ValueError`` or ``Refused``."""
        match document:
            case {"vhost": str(vhost), "name": str(name), "arguments": dict(given)} if _is_text(given.values()):
                Arguments.parse(given)
                if (vhost, name) in self._streams:
                    raise ValueError(f"there is another stream {name!r}")
                return Description(vhost, name, given)
        raise ValueError("it does not describe a stream")

    def _read(self, path: Path, parse: Callable[[Any], T]) -> T | None:
        """Reads and parses a JSON file; returns None where there is none.

        A file that cannot be read or parsed is renamed to ``.damaged`` and reported; the result is None, too.
        """
        try:
            return parse(_checked(json.loads(path.read_bytes())))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, RecursionError, Refused) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or error
        aside = name_aside(path)
        path.rename(aside)
        self._tell(f"{path.relative_to(self.directory)}: {why}; it is kept as {aside.name}")
        return None

    def _tell(self, line: str) -> None:
        self.dropped.append(line)
        logger.warning("%s", line)

    def _write(self, path: Path, content: dict[str, Any]) -> None:
        """All of it, or what was there before. Raises ``OSError``."""
        document = {"format": _FORMAT, **content}
        document["checksum"] = _checksum(document)
        new = path.with_name(path.name + ".new")
        with new.open("w", encoding="utf-8") as file:
            json.dump(document, file, ensure_ascii=True)
            file.flush()
            if self.fsync is not Fsync.NEVER:
                os.fsync(file.fileno())
        new.replace(path)
        self._sync(path.parent)

    def _sync(self, directory: Path) -> None:
        if self.fsync is not Fsync.NEVER:
            sync_directory(directory)

    def _take_lock(self) -> None:
        """The folder's own, as anybody may remove a file from it, and that of the file, which earlier versions look at.

        Raises ``OSError`` where there are no locks.
        """
        path = self.directory / "lock"
        exclusive = fcntl.LOCK_EX | fcntl.LOCK_NB
        try:
            self._locks.append(os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            try:
                fcntl.flock(self._locks[-1], exclusive)
            except BlockingIOError:
                raise
            except OSError:
                logger.debug("no lock on a folder here: that of the file must do")  # as over some networks
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._locks.append(lock)
            fcntl.flock(lock, exclusive)
        except BlockingIOError:
            holder = ""
            with contextlib.suppress(OSError):
                holder = path.read_bytes()[:20].decode(errors="replace").strip()
            raise ConfigurationError(
                f"data folder {self.directory} is in use by another broker"
                + (f", process {holder}" if holder.isdigit() else ""),
                hint=Hint.FOLDER_IS_USED,
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)

    def _release_lock(self) -> None:
        while self._locks:
            os.close(self._locks.pop())


def _clean(name: str) -> str:
    """Returns a name without line breaks, as in RabbitMQ. Raises ``Refused`` for an empty or a reserved name."""
    cleaned = name.replace("\n", "").replace("\r", "")
    if not cleaned or cleaned.startswith("amq."):
        raise Refused(refusal.PRECONDITION_FAILED, f"{name!r} cannot be the name of a stream")
    return cleaned


def _checksum(document: dict[str, Any]) -> str:
    """Of what it says, not of how it is written: no matter in which order, and with which spaces."""
    return f"{zlib.crc32(json.dumps(document, sort_keys=True).encode()):08x}"


def _checked(document: Any) -> Any:
    """What was written, where that can be known. Raises ``ValueError`` where it is something else."""
    if isinstance(document, dict):
        written_as = document.get("format", 1)
        if written_as not in (1, _FORMAT):
            raise ValueError(f"it has format {written_as!r}, which this version does not know")
        if written_as == _FORMAT or "checksum" in document:
            checksum = document.pop("checksum", None)
            if checksum != _checksum(document):
                raise ValueError("its checksum does not match")
    return document


def _parse_super_streams(document: Any) -> dict[Name, SuperStream]:
    """Raises ``ValueError`` or ``Refused``."""
    match document:
        case {"super_streams": list(found)} | list(found):  # format 1 is the list alone
            return dict(map(_parse_super_stream, found))
    raise ValueError("it is no list of super streams")


def _parse_super_stream(entry: Any) -> tuple[Name, SuperStream]:
    match entry:
        case {
            "vhost": str(vhost),
            "name": str(name),
            "partitions": list(partitions),
            "arguments": dict(given),
            "is_deleted": bool(is_deleted),
        } if _is_text(given.values()) and all(isinstance(pair, list) and len(pair) == 2 for pair in partitions):
            Arguments.parse(given)
            if _is_text(itertools.chain(*partitions)):
                bindings = [(_clean(partition), key) for partition, key in partitions]
                return (vhost, name), SuperStream(bindings, given, is_deleted)
    raise ValueError("it does not describe super streams")


def _is_text(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)
