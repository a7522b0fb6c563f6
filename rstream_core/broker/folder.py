"""A broker's data folder: its lock, and the small JSON files that describe what is in it.

Every change of a file is a rename, so that it is there or not. A file has a checksum since format 2; what an earlier
version wrote has none, and is taken. What cannot be read is put aside under another name, and told of.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from rstream_core.broker.disk import name_aside, sync_directory
from rstream_core.broker.refusal import Refused
from rstream_core.errors import ConfigurationError
from rstream_core.hints import Hint

logger = logging.getLogger("rstream_core.broker")

_FORMAT = 2
T = TypeVar("T")


class Folder:
    """One data folder."""

    def __init__(self, path: Path, *, durable: bool) -> None:
        self.path = path
        self.durable = durable
        """Whether to sync what is written, so that it survives a crash of the machine."""
        self.dropped: list[str] = []
        """Damage that was found, as lines of text."""
        self._locks: list[int] = []
        """File handles that hold them."""

    def tell(self, line: str) -> None:
        """Tells of damage: in the log, and in ``dropped``."""
        self.dropped.append(line)
        logger.warning("%s", line)

    def read(self, path: Path, parse: Callable[[Any], T]) -> T | None:
        """Reads a JSON file. Returns what ``parse`` makes of it, or None where there is none.

        A file that cannot be read, or of which ``parse`` raises ``ValueError`` or ``Refused``, is renamed to
        ``.damaged`` and reported; the result is None, too. Raises ``OSError`` where it cannot be renamed.
        """
        try:
            return parse(checked(json.loads(path.read_bytes())))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, RecursionError, Refused) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or error
        aside = name_aside(path)
        path.rename(aside)
        self.tell(f"{path.relative_to(self.path)}: {why}; it is kept as {aside.name}")
        return None

    def write(self, path: Path, content: dict[str, Any]) -> None:
        """All of it, or what was there before. Raises ``OSError``."""
        document = {"format": _FORMAT, **content}
        document["checksum"] = _checksum(document)
        new = path.with_name(path.name + ".new")
        with new.open("w", encoding="utf-8") as file:
            json.dump(document, file, ensure_ascii=True)
            file.flush()
            if self.durable:
                os.fsync(file.fileno())
        new.replace(path)
        self.sync_names(path.parent)

    def sync_names(self, directory: Path) -> None:
        """Syncs the file names of a directory, where the folder is durable."""
        if self.durable:
            sync_directory(directory)

    def lock(self) -> None:
        """The folder's own, as anybody may remove a file from it, and that of the file, which earlier versions look at.

        Raises ``ConfigurationError`` where another broker uses the folder, and ``OSError`` where there are no locks.
        """
        path = self.path / "lock"
        exclusive = fcntl.LOCK_EX | fcntl.LOCK_NB
        try:
            self._locks.append(os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
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
                f"data folder {self.path} is in use by another broker"
                + (f", process {holder}" if holder.isdigit() else ""),
                hint=Hint.FOLDER_IS_USED,
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)

    def unlock(self) -> None:
        while self._locks:
            os.close(self._locks.pop())


def checked(document: Any) -> Any:
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


def _checksum(document: dict[str, Any]) -> str:
    """Of what it says, not of how it is written: no matter in which order, and with which spaces."""
    return f"{zlib.crc32(json.dumps(document, sort_keys=True).encode()):08x}"


def are_texts(values: Iterable[Any]) -> bool:
    """Whether all values of a document are text."""
    return all(isinstance(value, str) for value in values)
