"""Tables, for a terminal or for a page."""

from __future__ import annotations

from collections.abc import Sequence

Row = Sequence[str]


def table(rows: Sequence[Row], *, is_markdown: bool, left: int = 1) -> str:
    """The first row has the heads. The first ``left`` columns stand to the left, the others to the right."""
    if is_markdown:
        marks = ["---" if at < left else "---:" for at in range(len(rows[0]))]
        lines = [f"| {' | '.join(row)} |" for row in (rows[0], marks, *rows[1:])]
        return "\n".join(lines)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"
