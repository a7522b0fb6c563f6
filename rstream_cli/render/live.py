"""``--stats live``: the display that redraws itself. It imports Rich, and is imported late.

When the display ends, it is removed, and one line of summary takes its place. The layout flows: each piece of the
display is as wide as its text, and pieces move to the next line at the end of the terminal, so that 40 columns show the
same pieces as 200.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.live import Live
from rich.text import Text

from rstream_cli import terminal
from rstream_cli.environment import Environment
from rstream_cli.render import columns, words
from rstream_cli.render.columns import FREE, fitting_stderr
from rstream_cli.render.screen import fit, new_console, start_live
from rstream_cli.render.stats import Part, Progress, Snapshot

_GAP = "   "
MOST_ROWS = 10
"""Streams that have a row of their own; the others share one."""
_FREE_LINES = 4
"""Lines of the terminal beside the display and the rows of streams: its head, the rest, the prompt, and a note."""
_NARROWEST = 7
"""Columns of a column of the table, at least: rows do not move with each digit."""
_TITLES = {"publish": "publishing to", "consume": "consuming from", "copy": "copying", "diff": "comparing"}
_STATES = {"active": "green", "waiting": "dim", "done": "dim"}
"""The states of a stream, in the order in which rows are shown."""


class LiveView:
    """Draws snapshots over each other. For one thread at a time."""

    def __init__(self, env: Environment, *, color: bool) -> None:
        self._env = env
        self._stream = env.stderr
        self._color = color
        self._console = new_console(env, self._stream, color=color)
        self._live: Live | None = None

    def update(self, snapshot: Snapshot) -> None:
        """Draws a snapshot."""
        width, height = fit(self._console, self._env, self._stream)
        if self._live is None:
            self._live = start_live(self._console, transient=True)
        self._live.update(Text("\n").join(layout(snapshot, max(width - FREE, 10), height)), refresh=True)

    def note(self, line: str) -> None:
        """Writes a line above the display, which stays."""
        self._console.print(line)

    def close(self, *, erase: bool = True) -> None:
        """Removes the display, and shows the cursor."""
        live = self._live
        if live is None:
            return
        self._live = None
        if erase:
            live.stop()
        else:
            self._console.show_cursor()
            # The old console would redraw the display around every line.
            self._console = new_console(self._env, self._stream, color=self._color)

    def finish(self, snapshot: Snapshot, reason: str, status: int, error: str | None) -> None:
        """Writes the summary."""
        self._stream.write(fitting_stderr(terminal.line(words.summary(snapshot, reason)), self._env) + "\n")
        self._stream.flush()


def layout(snapshot: Snapshot, width: int, height: int = 24) -> list[Text]:
    """Returns the lines of the display, none wider than ``width``, and fewer than ``height``."""
    lines = [_title(snapshot, width), _rates(snapshot, width), *flow(_pieces(snapshot), width)]
    if snapshot.progress is not None:
        lines.append(_bar(snapshot.progress, snapshot.eta, width))
    lines += table(snapshot, width, min(height - len(lines) - _FREE_LINES, MOST_ROWS))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
        line.no_wrap = True
    return lines


def flow(pieces: Iterable[Text], width: int) -> list[Text]:
    """Returns lines filled with the pieces, in order."""
    lines: list[Text] = []
    for piece in pieces:
        if lines and lines[-1].cell_len + len(_GAP) + piece.cell_len <= width:
            lines[-1].append(_GAP).append_text(piece)
        else:
            lines.append(piece.copy())
    return lines


def table(snapshot: Snapshot, width: int, most: int) -> list[Text]:
    """Returns a row for each stream, below a head; where they are more than ``most``, the rest shares a last row.

    Active ones come first; else the order stays, so that rows keep their places.
    """
    if not snapshot.parts or most < 1:
        return []
    order = {state: place for place, state in enumerate(_STATES)}
    parts = sorted(snapshot.parts, key=lambda part: order.get(part.state, 0))
    has_states = any(part.state for part in parts)
    publishes = snapshot.verb != "consume"
    heads = ("done", "in flight", "msg/s") if publishes else ("offset", "msg/s")
    rows = [("partition", "state" if has_states else "", *heads)]
    rows += [(terminal.name(part.stream), part.state, *_figures(part, publishes=publishes)) for part in parts[:most]]
    widths = [max(columns.width(cell) for cell in column) for column in zip(*rows, strict=True)]
    gaps = 2 * (len(heads) + has_states)
    widths = [widths[0], widths[1], *(max(taken, _NARROWEST) for taken in widths[2:])]
    widths[0] = min(widths[0], max(width - sum(widths[1:]) - gaps, _NARROWEST))
    lines = [_row(row, widths) for row in rows]
    lines[0].stylize("dim")
    if len(parts) > most:
        lines.append(_rest(parts[most:]))
    return lines


def _figures(part: Part, *, publishes: bool) -> tuple[str, ...]:
    if publishes:
        return words.count(part.messages), words.count(part.in_flight), words.count(part.rate)
    return "-" if part.offset is None else words.count(part.offset), words.count(part.rate)


def _row(cells: Sequence[str], widths: Sequence[int]) -> Text:
    """A row: the name, whose end is kept where it is too wide, the state, if there are states, and figures."""
    name, state, *figures = cells
    row = Text(columns.padded(columns.tail(name, widths[0]), widths[0]))
    if widths[1]:
        row.append("  ").append(columns.padded(state, widths[1]), _STATES.get(state, ""))
    for figure, wide in zip(figures, widths[2:], strict=True):
        row.append("  ").append(columns.padded(figure, wide, right=True))
    return row


def _rest(parts: Sequence[Part]) -> Text:
    """``90 more: 3 active, 87 waiting, 1,234 msg/s``."""
    states = [(state, sum(part.state == state for part in parts)) for state in _STATES]
    figures = [f"{words.count(number)} {state}" for state, number in states if number]
    figures.append(f"{words.count(sum(part.rate for part in parts))} msg/s")
    return Text(f"{words.count(len(parts))} more: {', '.join(figures)}", style="dim")


def _title(snapshot: Snapshot, width: int) -> Text:
    elapsed = words.clock(snapshot.elapsed)
    title = Text.assemble((f"{_TITLES[snapshot.verb]} ", "dim"), (terminal.line(snapshot.stream), "bold"))
    if snapshot.target:
        title.append(" to ", "dim").append(terminal.line(snapshot.target), "bold")
    if trouble := words.trouble(snapshot):
        title.append(f"  {trouble}", "bold yellow")
    title.truncate(max(width - len(elapsed) - 1, 1), overflow="ellipsis")
    title.append(" " * max(width - title.cell_len - len(elapsed), 1)).append(elapsed, "dim")
    return title


def _rates(snapshot: Snapshot, width: int) -> Text:
    rate = f"{words.count(snapshot.rate)} msg/s"
    byte_rate = f"{words.size(snapshot.byte_rate)}/s"
    room = min(width - len(rate) - len(byte_rate) - 2, 60)
    # The columns keep their places while the sparkline grows to the left.
    spark = words.sparkline(snapshot.history, room).rjust(room) if room > 0 else ""
    return Text.assemble((rate, "bold green"), " ", (spark, "cyan"), " ", (byte_rate, "bold green"))


def _pieces(snapshot: Snapshot) -> list[Text]:
    counts = snapshot.counts
    pieces: list[Text] = []
    if snapshot.verb == "publish":
        failed = counts["failed"] or 0
        pieces += [
            _piece("published", words.count(counts["published"] or 0)),
            _piece("confirmed", words.count(counts["confirmed"] or 0)),
            _piece("failed", words.count(failed), "bold red" if failed else ""),
            _piece("in flight", words.count(counts["in_flight"] or 0)),
        ]
        if counts["not_published"]:
            pieces.append(_piece("not published", words.count(counts["not_published"]), "bold red"))
    elif snapshot.verb == "copy":
        pieces += _pieces_of_copy(counts)
    elif snapshot.verb == "diff":
        pieces.append(_piece("compared", words.count(snapshot.messages)))
        pieces.append(_piece("equal", words.count(counts["equal"] or 0)))
        pieces += [_piece(name, words.count(number), "bold red") for name, number in words.differing(counts)]
    else:
        pieces.append(_piece("consumed", words.count(snapshot.messages)))
        if counts["last_offset"] is not None:
            pieces.append(_piece("offset", words.count(counts["last_offset"])))
        if counts["stored_offset"] is not None:
            pieces.append(_piece("stored", words.count(counts["stored_offset"])))
        for name in ("bad", "gone"):
            if counts[name]:
                pieces.append(_piece(name, words.count(counts[name] or 0), "bold red"))
    pieces.append(_piece("total", words.size(snapshot.bytes)))
    if snapshot.verb not in ("consume", "diff"):  # those confirm nothing
        pieces.append(_piece("p50", words.latency(snapshot.p50)))
        pieces.append(_piece("p99", words.latency(snapshot.p99)))
    return pieces


def _pieces_of_copy(counts: Mapping[str, int | None]) -> list[Text]:
    """Of both sides: what is read, what is written, and what lies between."""
    names = ["read", *(name for name in ("left_out", "already_there") if counts[name]), "written", "confirmed"]
    pieces = [_piece(name.replace("_", " "), words.count(counts[name] or 0)) for name in (*names, "in_flight")]
    wrong = [name for name in ("failed", "gone") if counts[name]]
    pieces += [_piece(name, words.count(counts[name] or 0), "bold red") for name in wrong]
    if counts["lag"] is not None:
        pieces.append(_piece("lag", words.count(counts["lag"])))
    return pieces


def _piece(label: str, value: str, style: str = "") -> Text:
    return Text.assemble((f"{label} ", "dim"), (value, style))


def _bar(progress: Progress, eta: float | None, width: int) -> Text:
    words_behind = f" {progress.share:4.0%} ETA {words.clock(eta)}"
    cells = max(width - len(words_behind), 4)
    full = int(progress.share * cells)
    return Text.assemble(("━" * full, "green"), ("─" * (cells - full), "dim"), words_behind)
