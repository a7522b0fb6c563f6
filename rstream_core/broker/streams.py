"""The streams of a broker: in memory, and as a folder that outlives it.

::

    DATA/lock                       the process that uses the folder, and has a lock on both
    DATA/super-streams.json         names, partitions, binding keys
    DATA/streams/ID/stream.json     virtual host, name, arguments
    DATA/streams/ID/*.segment       its log

Every change is a rename, so that it is there or not. A super stream is written down before its partitions are made,
and marked before they are deleted; what was cut short is finished when the folder is opened.
"""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from rstream_core.broker import refusal
from rstream_core.broker.arguments import Arguments
from rstream_core.broker.disk import name_aside, sync_folder
from rstream_core.broker.folder import Folder, are_texts
from rstream_core.broker.log import Log
from rstream_core.broker.refusal import Refused
from rstream_core.broker.stream import Description, Stream, clean_name
from rstream_core.broker.super_streams import Name, SuperStream, SuperStreams
from rstream_core.broker.writer import Fsync, Totals
from rstream_core.protocol.routing import MAX_PARTITIONS

DEFAULT_FILTER_SIZE = 16


class Streams:
    """All streams of one data folder. Made by ``open``."""

    def __init__(self, directory: Path, fsync: Fsync, executor: Executor) -> None:
        self.folder = Folder(directory, durable=fsync is not Fsync.NEVER)
        self.super_streams = SuperStreams(self.folder)
        self.totals = Totals()
        self._fsync = fsync
        self._executor = executor
        self._directory = directory / "streams"
        self._streams: dict[Name, Stream] = {}

    @classmethod
    def open(cls, directory: Path, fsync: Fsync, executor: Executor) -> Streams:
        """Opens a folder and checks its contents. Raises ``ConfigurationError`` where another broker uses it."""
        streams = cls(directory, fsync, executor)
        streams._directory.mkdir(parents=True, exist_ok=True)
        try:
            streams.folder.lock()
            streams._load()
        except BaseException:
            streams.folder.unlock()
            raise
        return streams

    def close(self) -> None:
        """Closes all logs and releases the lock. Close the writers first."""
        for stream in self:
            stream.log.close()
        self.folder.unlock()

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
        name = clean_name(name)
        arguments = Arguments.parse(given)
        existing = self._streams.get((vhost, name))
        if existing is not None:
            same = existing.arguments == arguments
            raise Refused(refusal.STREAM_EXISTS if same else refusal.PRECONDITION_FAILED, f"{name!r} exists")
        description = Description(vhost, name, dict(given))
        directory = self._directory / uuid.uuid4().hex
        unfinished = directory.with_name(f"new-{directory.name}")
        try:
            unfinished.mkdir()
            self.folder.write(unfinished / "stream.json", description._asdict())
            self._make_log(unfinished, arguments).close()
            unfinished.rename(directory)
            self.folder.sync_names(directory.parent)
            return self._open_stream(directory, description)
        except OSError:
            for left in (unfinished, directory):
                shutil.rmtree(left, ignore_errors=True)
            raise

    def delete(self, vhost: str, name: str) -> None:
        """Deletes a stream. Raises ``Refused`` where there is none, or ``OSError``."""
        stream = self.find(vhost, name)
        self.super_streams.unbind(vhost, name)
        self._remove(stream)

    def _remove(self, stream: Stream) -> None:
        stream.writer.flush()
        doomed = stream.log.directory.with_name(f"deleted-{stream.log.directory.name}")
        stream.log.directory.rename(doomed)
        stream.writer.retire()
        del self._streams[stream.vhost, stream.name]
        self.folder.sync_names(doomed.parent)
        stream.log.close()
        shutil.rmtree(doomed, ignore_errors=True)
        stream.drop_users()

    def _make_log(self, directory: Path, arguments: Arguments) -> Log:
        return Log.create(directory, **self._log_options(arguments))

    def _log_options(self, arguments: Arguments) -> dict[str, Any]:
        return {
            "segment_size": arguments.segment_size,
            "filter_size": arguments.filter_size or DEFAULT_FILTER_SIZE,
            "durable": self.folder.durable,
        }

    # Super streams.

    def create_super_stream(
        self, vhost: str, name: str, partitions: Sequence[str], keys: Sequence[str], given: Mapping[str, str]
    ) -> None:
        """Creates a super stream and its partitions. Raises ``Refused`` or ``OSError``.

        After an ``OSError`` it removes again all that it has made, except partitions that cannot be deleted.
        """
        name = clean_name(name)
        names = [clean_name(partition) for partition in partitions]
        Arguments.parse(given)
        if len(names) != len(keys) or len(set(names)) < len(names) or len(names) > MAX_PARTITIONS:
            raise Refused(refusal.PRECONDITION_FAILED, "partitions and binding keys do not fit")
        if self.super_streams.exists(vhost, name):
            raise Refused(refusal.STREAM_EXISTS, f"the super stream {name!r} exists")
        for partition in names:
            if (vhost, partition) in self._streams:
                raise Refused(refusal.STREAM_EXISTS, f"the stream {partition!r} exists")
        self.super_streams.put(vhost, name, SuperStream(list(zip(names, keys, strict=True)), dict(given)))
        try:
            for partition in names:
                self.create(vhost, partition, given)
        except OSError:
            for partition in names:
                if (stream := self.get(vhost, partition)) is not None:
                    with contextlib.suppress(OSError):
                        self._remove(stream)
            self.super_streams.take_back(vhost, name)
            raise

    def delete_super_stream(self, vhost: str, name: str) -> None:
        """Deletes a super stream and its partitions. Raises ``Refused`` where there is none, or ``OSError``."""
        super_stream = self.super_streams.find(vhost, name)
        self.super_streams.put(vhost, name, super_stream._replace(is_deleted=True))
        for partition in super_stream.names():
            if (stream := self.get(vhost, partition)) is not None:
                self._remove(stream)
        self.super_streams.remove(vhost, name)

    # The folder.

    def _load(self) -> None:
        for directory in sorted(self._directory.iterdir()):
            if directory.name.startswith(("new-", "deleted-")):
                shutil.rmtree(directory, ignore_errors=True)
                continue
            if directory.suffix == ".damaged":
                continue
            description = self.folder.read(directory / "stream.json", self._parse_stream)
            if description is not None:
                try:
                    self._open_stream(directory, description)
                except OSError as error:
                    self._leave_out(directory, description.name, error)
            elif any(directory.glob("*")) and not any(directory.glob("stream.json*.damaged")):
                self.folder.tell(
                    f"{directory.relative_to(self.folder.path)} is no stream of this broker's, and left alone"
                )
        self.folder.sync_names(self._directory)
        self.super_streams.load()
        for (vhost, name), super_stream in self.super_streams.items():
            try:
                self._finish(vhost, name, super_stream)
            except OSError as error:
                self.folder.tell(f"super stream {name!r} cannot be finished: {error.strerror or error}")

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
        self.folder.tell(f"stream {name!r} cannot be opened: {why}; it is kept as {kept.relative_to(self.folder.path)}")

    def _open_stream(self, directory: Path, description: Description) -> Stream:
        name = description.name
        log = Log.open(directory, **self._log_options(Arguments.parse(description.arguments)))
        if self._fsync is Fsync.ALWAYS:  # the last broker may have been killed before a sync, or did not sync
            sync_folder(directory)
        for line in log.missing:
            self.folder.tell(f"stream {name!r}: {line}")
        for what in log.dropped:
            where = f"{what.size:,} bytes from byte {what.position:,} on"
            if not what.size:
                rest = "nothing was in it"
            elif what.is_kept:
                rest = f"{where} are not read, but kept as .damaged files beside it"
            else:
                rest = f"{where} are removed: unless the machine went down, nothing of them was confirmed"
            self.folder.tell(f"stream {name!r}: {what.file.name}: {what.reason}; {rest}")
        stream = Stream(description, log, self._fsync, self._executor, self.totals)
        self._streams[description.vhost, name] = stream
        return stream

    def _parse_stream(self, document: Any) -> Description:
        """Checks the content of ``stream.json``. Raises ``ValueError`` or ``Refused``."""
        match document:
            case {"vhost": str(vhost), "name": str(name), "arguments": dict(given)} if are_texts(given.values()):
                Arguments.parse(given)
                if (vhost, name) in self._streams:
                    raise ValueError(f"there is another stream {name!r}")
                return Description(vhost, name, given)
        raise ValueError("it does not describe a stream")
