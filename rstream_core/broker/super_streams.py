"""The super streams of a broker: names, partitions and binding keys, in memory and in ``super-streams.json``."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any, NamedTuple

from rstream_core.broker import refusal
from rstream_core.broker.arguments import Arguments
from rstream_core.broker.folder import Folder, are_texts
from rstream_core.broker.refusal import Refused
from rstream_core.broker.stream import clean_name

Name = tuple[str, str]
"""A virtual host, and the name of a stream or super stream in it."""


class SuperStream(NamedTuple):
    """Partitions with their binding keys, in their order."""

    partitions: list[tuple[str, str]]
    arguments: dict[str, str]
    is_deleted: bool = False
    """Whether its deletion has begun."""

    def names(self) -> list[str]:
        return [name for name, _ in self.partitions]


class SuperStreams:
    """The super streams of one folder. A change is in the file before it is in memory.

    If a change raises ``OSError``, nothing has changed.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._path = folder.path / "super-streams.json"
        self._found: dict[Name, SuperStream] = {}

    def load(self) -> None:
        """Reads the file. What cannot be read is put aside, and there are no super streams then."""
        self._found = self._folder.read(self._path, _parse) or {}

    def items(self) -> list[tuple[Name, SuperStream]]:
        return list(self._found.items())

    def exists(self, vhost: str, name: str) -> bool:
        return (vhost, name) in self._found

    def find(self, vhost: str, name: str) -> SuperStream:
        """Returns a super stream. Raises ``Refused`` where there is none."""
        found = self._found.get((vhost, name))
        if found is None:
            raise Refused(refusal.NO_SUCH_STREAM, f"there is no super stream {name!r}")
        return found

    def partitions(self, vhost: str, name: str) -> list[str]:
        """Returns the partitions of a super stream. Raises ``Refused`` where there is none."""
        return self.find(vhost, name).names()

    def route(self, vhost: str, name: str, key: str) -> list[str]:
        """Returns the partitions that are bound to a key. Raises ``Refused`` where there is no such super stream."""
        return [partition for partition, bound in self.find(vhost, name).partitions if bound == key]

    def partition_number(self, vhost: str, super_stream: str, partition: str) -> int | None:
        """Returns the position of a partition; None where it is not a partition of this super stream."""
        found = self._found.get((vhost, super_stream))
        names = found.names() if found else []
        return names.index(partition) if partition in names else None

    def put(self, vhost: str, name: str, super_stream: SuperStream) -> None:
        """Adds a super stream, or changes it."""
        self._change({**self._found, (vhost, name): super_stream})

    def remove(self, vhost: str, name: str) -> None:
        """Removes a super stream; its partitions are streams of their own."""
        self._change(self._without(vhost, name))

    def take_back(self, vhost: str, name: str) -> None:
        """Removes a super stream that could not be made. If the file cannot be written, the next change writes it."""
        self._found = self._without(vhost, name)
        with contextlib.suppress(OSError):
            self._change(self._found)

    def unbind(self, vhost: str, partition: str) -> None:
        """Removes a stream from all super streams that have it as a partition."""
        changed = {
            key: found._replace(partitions=[binding for binding in found.partitions if binding[0] != partition])
            for key, found in self._found.items()
            if key[0] == vhost and partition in found.names()
        }
        if changed:
            self._change({**self._found, **changed})

    def _without(self, vhost: str, name: str) -> dict[Name, SuperStream]:
        return {key: found for key, found in self._found.items() if key != (vhost, name)}

    def _change(self, changed: dict[Name, SuperStream]) -> None:
        document = [
            {"vhost": vhost, "name": name, **super_stream._asdict()} for (vhost, name), super_stream in changed.items()
        ]
        self._folder.write(self._path, {"super_streams": document})
        self._found = changed


def _parse(document: Any) -> dict[Name, SuperStream]:
    """Raises ``ValueError`` or ``Refused``."""
    match document:
        case {"super_streams": list(found)} | list(found):  # format 1 is the list alone
            return dict(map(_parse_one, found))
    raise ValueError("it is no list of super streams")


def _parse_one(entry: Any) -> tuple[Name, SuperStream]:
    match entry:
        case {
            "vhost": str(vhost),
            "name": str(name),
            "partitions": list(partitions),
            "arguments": dict(given),
            "is_deleted": bool(is_deleted),
        } if are_texts(given.values()) and all(isinstance(pair, list) and len(pair) == 2 for pair in partitions):
            Arguments.parse(given)
            if are_texts(itertools.chain(*partitions)):
                bindings = [(clean_name(partition), key) for partition, key in partitions]
                return (vhost, name), SuperStream(bindings, given, is_deleted)
    raise ValueError("it does not describe super streams")
