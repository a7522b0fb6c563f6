"""Measures what a message costs where every message is touched: ``python -m benchmarks.seam``.

Two ways are measured, each in two forms of the messages (docs/architecture.md). No broker, no socket and no stage is
part of it:

- out: a block of lines -> a Publish frame. By messages: each line is encoded, and the messages are joined. By bodies:
  the frame is made of the lines.
- in: the entries of a chunk -> lines for stdout. By messages: the entries are split, and a body is taken out of each.
  By bodies: the bodies are found in the entries.

With the compiled twin, bodies are not split on the way, as long as nobody asks for a single one. Which twin is used
is printed first; RSTREAM_PURE_PYTHON=1 measures the other one.

The forms take turns, and the figures are the least CPU time of all turns, in nanoseconds a message: the machine only
ever adds to it. Where the messages are not plain (a header each), there are no bodies, and the second figure says what
it costs to look for them.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rstream_cli.records.framing_out import DelimiterWriter
from rstream_cli.rendering import BlockView, bodies_renderer
from rstream_core import AMQPMessage
from rstream_core.protocol import chunk as chunks
from rstream_core.protocol.amqp_sections import PlainMessages, encode_bodies, most_of
from rstream_core.protocol.wire import CHOICE, lines_of
from rstream_core.publishing.columns import FRAME_TARGET, Columns, LineColumns, PlainColumns, columns_of

LIMIT, MOST = 1024 * 1024, 25_000
"""What a publisher usually has: bytes of a frame, and messages of a batch."""
TURNS = 200


class Case(NamedTuple):
    """Messages that are measured."""

    name: str
    messages: int
    least: int
    """Bytes of the shortest body."""
    most: int
    is_plain: bool = True


CASES = (
    Case("1000 of 100 bytes", 1000, 100, 100),
    Case("1000 of 60 to 140", 1000, 60, 140),
    Case("50 of 60 to 140", 50, 60, 140),
    Case("1000 of 10 to 20", 1000, 10, 20),
    Case("1000 of 200 to 300", 1000, 200, 300),
    Case("80 of 300 to 1500", 80, 300, 1500),
    Case("1000 with a header", 1000, 60, 140, is_plain=False),
)


def ways(case: Case) -> Mapping[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Returns what is measured: by messages, and by bodies. Checks that both give the same."""
    chance = random.Random(1)
    sizes = [chance.randint(case.least, case.most) for _ in range(case.messages)]
    bodies = [bytes(chance.choices(range(32, 127), k=size)) for size in sizes]
    messages = encode_bodies(bodies)
    if not case.is_plain:
        messages = [AMQPMessage(body, application_properties={"n": 1}).encode() for body in bodies]
    data = b"\n".join([*bodies, b""])
    ids = range(1_000_000, 1_000_000 + case.messages)
    chunk = chunks.build_chunk(messages, first_offset=0, timestamp=0)
    header = chunks.parse_header(chunk)
    render = bodies_renderer(DelimiterWriter(), raw=False)

    def frames(columns: Columns | LineColumns) -> list[bytes]:
        columns.check(LIMIT)
        return [columns.frame(1, ids, low, high) for low, high, _ in columns.parts(FRAME_TARGET, MOST)]

    def lines() -> list[bytes]:
        found = data.split(b"\n")
        found.pop()
        return found

    def out_by_messages() -> list[bytes]:
        encoded = encode_bodies(lines())
        most_of(encoded)
        return frames(Columns(encoded))

    def out_by_bodies() -> list[bytes]:
        plain = lines_of(data, 0, len(data), b"\n") or PlainMessages(lines())
        most_of(plain)
        columns = columns_of(plain, None)
        assert isinstance(columns, PlainColumns | LineColumns)
        return frames(columns)

    def rendered(found: Sequence[bytes] | chunks.ChunkReader) -> object:
        assert not isinstance(found, chunks.ChunkReader)
        return render(BlockView("s", range(case.messages), 0, found), refuse)

    def in_by_messages() -> object:
        return rendered(chunks.open_entries(chunk, chunks.HEADER.size, header))

    def in_by_bodies() -> object:
        return rendered(chunks.open_plain(chunk, chunks.HEADER.size, header))

    found = {"in": (in_by_messages, in_by_bodies)}
    if case.is_plain:
        found["out"] = (out_by_messages, out_by_bodies)
    for by_messages, by_bodies in found.values():
        if by_messages() != by_bodies():
            raise RuntimeError("the two forms differ")
    return found


def refuse(place: int, why: str) -> None:
    raise RuntimeError(f"message {place} {why}")


def measured(functions: Sequence[Callable[[], object]], turns: int) -> list[int]:
    """Returns the least CPU time of each function, in nanoseconds."""
    least = [2**62] * len(functions)
    for _ in range(turns):
        for at, function in enumerate(functions):
            begin = time.thread_time_ns()
            function()
            least[at] = min(least[at], time.thread_time_ns() - begin)
    return least


def main() -> None:
    parser = argparse.ArgumentParser(description="Nanoseconds of CPU a message, by messages and by bodies.")
    parser.add_argument("--turns", type=int, default=TURNS)
    turns = parser.parse_args().turns
    print(f"the seam: {CHOICE}")
    for case in CASES:
        for way, functions in ways(case).items():
            by_messages, by_bodies = (time / case.messages for time in measured(functions, turns))
            ratio = by_bodies / by_messages
            print(f"{way:>3}  {case.name:<20} {by_messages:7.0f} {by_bodies:7.0f}  {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
