"""Chooses the twin of the seam, once: the compiled one where it is there and may be used, else the one in Python.

``_wire`` is compiled from ``_wire.c`` when the package is built, if the machine can. One that was made from another
source than this version's is refused, as it might give other bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Final, NamedTuple, Protocol, cast

from rstream_core.protocol.wire_source import SOURCE

PURE_PYTHON: Final = "RSTREAM_PURE_PYTHON"
"""The environment variable that chooses the twin in Python, unless it is empty or 0. It is also read by the build."""


class Compiled(Protocol):
    """The compiled functions. Each returns None where the twin in Python is to be asked."""

    SOURCE: str

    def confirmed_ids(self, data: bytes, /) -> Sequence[int]: ...
    def count_byte(self, data: bytes, byte: bytes, /) -> int | None: ...
    def crc32(self, data: bytes, start: int, end: int, /) -> int | None: ...
    def cut_entries(
        self, data: bytes, start: int, end: int, limit: int, most: int, /
    ) -> list[tuple[int, int, int]] | None: ...
    def cut_lines(
        self, data: bytes, start: int, end: int, delimiter: bytes, limit: int, most: int, /
    ) -> list[tuple[int, int, int]] | None: ...
    def join_entries(self, messages: Sequence[bytes], /) -> bytes | None: ...
    def join_plain(self, bodies: Sequence[bytes], /) -> bytes | None: ...
    def measure_lines(
        self, data: bytes, start: int, end: int, delimiter: bytes, /
    ) -> tuple[int, int, int, int] | None: ...
    def measure_plain(self, data: bytes, start: int, end: int, count: int, /) -> tuple[int, int] | None: ...
    def plain_bodies(self, data: bytes, start: int, end: int, count: int, /) -> list[bytes] | None: ...
    def plain_json(
        self, data: bytes, start: int, end: int, count: int, first: int, head: bytes, middle: bytes, /
    ) -> bytes | None: ...
    def plain_lines(self, data: bytes, start: int, end: int, count: int, delimiter: bytes, /) -> bytes | None: ...
    def publish_entries(
        self, publisher_id: int, ids: Sequence[int], data: bytes, start: int, end: int, /
    ) -> bytes | None: ...
    def publish_frame(
        self, publisher_id: int, ids: Sequence[int], messages: Sequence[bytes], filters: Sequence[bytes] | None, /
    ) -> bytes | None: ...
    def publish_lines(
        self, publisher_id: int, ids: Sequence[int], data: bytes, start: int, end: int, delimiter: bytes, size: int, /
    ) -> bytes | None: ...
    def publish_plain(self, publisher_id: int, ids: Sequence[int], bodies: Sequence[bytes], /) -> bytes | None: ...
    def split(self, data: bytes, start: int, end: int, count: int, /) -> list[bytes] | None: ...
    def survey(
        self, data: bytes, start: int, end: int, count: int, /
    ) -> list[tuple[int, int, int, int, int]] | None: ...


class Choice(NamedTuple):
    """Which twin is used, and why."""

    compiled: Compiled | None
    """None: the one in Python."""
    reason: str
    """Why it is not the compiled one, as the rest of a sentence; "" where it is."""
    is_refused: bool = False
    """Whether a compiled one is there that does not fit this version, or does not load."""

    def __str__(self) -> str:
        return "compiled" if self.compiled is not None else f"pure Python: {self.reason}"


def choose(environ: Mapping[str, str], load: Callable[[], Any], source: str) -> Choice:
    """Returns the choice. ``load`` imports the compiled one, whose ``SOURCE`` must be ``source``."""
    if environ.get(PURE_PYTHON, "") not in {"", "0"}:
        return Choice(None, f"{PURE_PYTHON} is set")
    try:
        compiled = load()
    except ModuleNotFoundError:
        return Choice(None, "the compiled part was not built when this was installed")
    except ImportError as error:
        return Choice(None, f"the compiled part cannot be loaded: {error}", is_refused=True)
    if source != compiled.SOURCE:
        return Choice(None, "the compiled part was made from another source; install this again", is_refused=True)
    return Choice(cast("Compiled", compiled), "")


def load_compiled() -> Any:
    """Imports the compiled twin. Raises ``ImportError``, and ``ModuleNotFoundError`` where none was built."""
    return import_module("rstream_core.protocol._wire")


CHOICE: Final = choose(os.environ, load_compiled, SOURCE)
