"""``consume --output csv``: messages as rows of CSV, as RFC 4180 has it, so that every byte of a cell comes back.

Rows end in CR LF, and the first one has the names of the columns. A cell with a quotation mark, a comma, CR or LF is
quoted, and quotation marks in it are doubled. A cell has the bytes of the value; what is not UTF-8 stays so. Where
there is no value, or an empty one, the cell is empty.

Columns are made one by one and put together, so that those that need no look into a message cost little.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from rstream_cli.records.envelope import body_bytes
from rstream_cli.records.large_messages import large_body
from rstream_cli.records.paths import Path, parse_path
from rstream_cli.records.values import Where, check_path, values_at
from rstream_cli.rendering import BlockView, Rendered, Renderer
from rstream_cli.terminal import Bodies
from rstream_core import AMQPMessage
from rstream_core.protocol.amqp import bodies_of

DEFAULT_COLUMNS = "stream,offset,timestamp,body"

_NAMES = re.compile(r'((?:"(?:[^"\\]|\\.)*"|[^",])*)(?:,|\Z)')
_QUOTED = re.compile(rb'[",\r\n]')
_BODY: Path = ("body",)
_BODIES = frozenset({"body", "body_base64", "value", "sequence", "body_sections", "sequence_sections"})
_OF_PLACE: tuple[Path, ...] = (("stream",), ("offset",), ("timestamp",))
_EMPTY = AMQPMessage(b"")
_BLOCK = 1 << 20
"""Bytes of a large body that are quoted at a time."""

Column = Sequence[bytes | None]
"""The cells of a column; None where a message has no value there."""


def parse_columns(text: str) -> dict[str, Path]:
    """Returns the paths of columns by their names: ``offset,properties.subject,headers."a,b"``.

    A name is a path without its first dot, or with it. Raises ValueError, and UnknownKeyError for what no envelope has.
    """
    columns: dict[str, Path] = {}
    at = 0
    while at <= len(text):
        found = _NAMES.match(text, at)
        if found is None:
            raise ValueError(f"a quotation mark is left open: {text!r}")
        name = found[1].strip()
        if not name:
            raise ValueError(f"a column has no name: {text!r}")
        if name in columns:
            raise ValueError(f"the column {name!r} is there twice")
        columns[name] = check_path(parse_path(name if name.startswith(".") else f".{name}"))
        at = found.end() if found.end() > found.end(1) else len(text) + 1
    return columns


def quoted(cell: bytes) -> bytes:
    """Returns a cell as it is written."""
    return cell if _QUOTED.search(cell) is None else b'"%b"' % cell.replace(b'"', b'""')


def csv_renderer(columns: dict[str, Path], *, raw: bool, shown: Bodies | None = None) -> Renderer:
    """Returns a renderer of rows, whose ``head`` is the row of names. ``raw``: the stored bytes are the body.

    With ``shown``, cells are made readable for a terminal.
    """
    paths = list(columns.values())
    show: Callable[[bytes], bytes] = (lambda cell: cell) if shown is None else shown.show
    has_large = _BODY in paths and not any(path != _BODY and path[0] in _BODIES for path in paths)
    """Whether a large body need not be decoded for a column."""
    alone = len(paths) == 1
    """Whether an empty cell would be an empty line, in which not everybody sees a row."""

    def written(column: Column) -> list[bytes]:
        return [(quoted(show(cell)) if cell else b'""' if alone else b"") for cell in column]

    def rows(view: BlockView) -> bytes:
        if not view.messages:
            return b""
        written_columns = [written(column) for column in _columns(paths, view, raw=raw)]
        return b"".join([b"%b\r\n" % b",".join(row) for row in zip(*written_columns, strict=True)])

    def fast(view: BlockView) -> Rendered:
        found = _large(view, raw=raw) if shown is None and view.is_large and has_large else None
        if found is None:
            return (rows(view),) if view.is_large and shown is None else rows(view)
        body, message = found
        # All cells but the body first: an error must come before any output.
        row = [written(column)[0] for column in _columns(paths, view._replace(messages=[message]), raw=raw)]
        return _pieces(row, [index for index, path in enumerate(paths) if path == _BODY], body)

    def one(view: BlockView, index: int) -> bytes:
        return rows(view._replace(offsets=[view.offsets[index]], messages=[view.messages[index]]))

    head = b",".join([quoted(show(name.encode())) for name in columns]) + b"\r\n"
    return Renderer(fast, one, head)


def _columns(paths: Sequence[Path], view: BlockView, *, raw: bool) -> list[Column]:
    """Returns the columns at these paths. Raises what is in ``UNSHOWABLE``."""
    others = [path for path in paths if path != _BODY and path not in _OF_PLACE]
    bodies: Column = view.messages if raw else bodies_of(view.messages)  # what is no message is bad for any columns
    if _BODY in paths and None in bodies:
        bodies = [body_bytes(AMQPMessage.from_bytes(data)) for data in view.messages]
    found: dict[Path, Column] = {_BODY: bodies}
    if others:
        decode = AMQPMessage if raw else AMQPMessage.from_bytes
        looked = [values_at(others, Where(decode(data), "", 0, 0)) for data in view.messages]
        found.update(zip(others, zip(*looked, strict=True), strict=True))
    for path in _OF_PLACE:
        if path == ("offset",):
            found[path] = [b"%d" % offset for offset in view.offsets]
        elif path in paths:
            where = Where(_EMPTY, view.stream, 0, view.timestamp_ms)
            found[path] = values_at([path], where) * len(view.messages)
    return [found[path] for path in paths]


def _large(view: BlockView, *, raw: bool) -> tuple[memoryview, bytes] | None:
    """Returns the body of a large message, and the message without it; None if it is no plain body."""
    data = view.messages[0]
    return (memoryview(data), b"") if raw else large_body(data)


def _pieces(row: list[bytes], bodies: Sequence[int], body: memoryview) -> Iterator[bytes | memoryview]:
    """Yields a row in which these cells are a large body."""
    is_plain = _QUOTED.search(body) is None
    for index, cell in enumerate(row):
        if index:
            yield b","
        if index not in bodies:
            yield cell
        elif is_plain:
            yield body
        else:
            yield b'"'
            for start in range(0, len(body), _BLOCK):
                yield bytes(body[start : start + _BLOCK]).replace(b'"', b'""')
            yield b'"'
    yield b"\r\n"
