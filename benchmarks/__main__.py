"""``make bench``: brings up a broker, runs every contender in turns, prints rates and ratios.

Exits with 0 whatever the numbers are, and with 1 where something did not run or a count was wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.broker import embedded_broker, running_broker
from benchmarks.programs import Failed, Result, Target, same_content, write_lines
from benchmarks.report import BARE, PUBLISHED, Contender, Group, print_table
from benchmarks.seed_venv import REQUIREMENT, seed_python

GROUPS = ("publish", "send", "consume", "broker", "memory")
SIZE = 100
MEMORY_LIMIT_MB = 100
TURNS = 3
MESSAGES, QUICK_MESSAGES = 1_000_000, 200_000


class Benchmarks:
    """All that is measured, on one broker. ``messages`` is for the fast ones; slow ones get a part of it."""

    def __init__(self, target: Target, directory: Path, messages: int, turns: int, published: Path | None) -> None:
        self._target = target
        self._directory = directory
        self._messages = messages
        self._turns = turns
        self._published = published
        self._lines: dict[int, Path] = {}

    def publish(self) -> Group:
        """Until everything is confirmed."""
        count = self._messages
        lines = self._file(count)
        contenders = [
            Contender(BARE, partial(self._fresh, "bare_socket", "publish", count)),
            Contender("core, Publisher.publish", partial(self._fresh, "core", "publish", count), BARE, 0.5),
            Contender("core, Producer.send_batch", partial(self._fresh, "core", "send_batch", count), BARE),
            Contender("rstream publish < file", partial(self._publish_file, lines, count), BARE, 0.5),
        ]
        if self._published:
            slow = partial(self._fresh, "published_client", "send_batch", count // 5, self._published)
            contenders.append(Contender(f"{PUBLISHED}, send_batch", slow, BARE))
        return self._take_turns(Group("publish", contenders))

    def send(self) -> Group:
        """One message at a time, until everything is confirmed."""
        reference = f"{PUBLISHED}, send"
        contenders = [
            Contender("core, Producer.send", partial(self._fresh, "core", "send", self._messages // 2), reference, 3)
        ]
        if self._published:
            slow = partial(self._fresh, "published_client", "send", self._messages // 5, self._published)
            contenders.append(Contender(reference, slow))
        return self._take_turns(Group("send", contenders))

    def consume(self) -> Group:
        """A stream that is there already."""
        count = 2 * self._messages
        reference = f"{PUBLISHED}, callback"
        copy = self._directory / "consumed"
        with self._target.new_stream("consume") as stream:
            self._note("filling a stream to consume")
            self._check(self._target.worker("bare_socket", "publish", stream, count), count)
            read = partial(self._read, stream)
            contenders = [
                Contender(BARE, partial(read, "bare_socket", "consume", count), reference),
                Contender("core, chunks and bodies", partial(read, "core", "consume", count), reference, 5),
                Contender("core, callback", partial(read, "core", "callback", count // 2), reference, 5),
                Contender("rstream consume > /dev/null", partial(self._consume_to, stream, None, count), reference, 5),
                Contender("rstream consume | cat > file", partial(self._consume_to, stream, copy, count), reference),
            ]
            if self._published:
                slow = partial(read, "published_client", "callback", self._messages // 5, self._published)
                contenders.append(Contender(reference, slow))
            group = self._take_turns(Group("consume", contenders))
        copy.unlink()
        return group

    def broker(self, embedded: Target) -> Group:
        """The embedded broker beside RabbitMQ, at their limits."""
        count = self._messages
        with self._target.new_stream("drain") as theirs, embedded.new_stream("drain") as own:
            self._note("filling a stream in each broker to drain")
            for target, stream in ((self._target, theirs), (embedded, own)):
                self._check(target.worker("bare_socket", "publish", stream, count), count)
            contenders = [
                Contender("RabbitMQ, publish", partial(self._fresh_at, self._target, count)),
                Contender("embedded, publish", partial(self._fresh_at, embedded, count), "RabbitMQ, publish", 0.25),
                Contender("RabbitMQ, drain", partial(self._drain, self._target, theirs, count)),
                Contender("embedded, drain", partial(self._drain, embedded, own, count), "RabbitMQ, drain", 0.5),
            ]
            return self._take_turns(Group("bare socket, by broker", contenders))

    def memory(self) -> list[tuple[str, int, Result]]:
        """Pipes of two lengths, in and out; what comes out is compared with what went in."""
        peaks: list[tuple[str, int, Result]] = []
        copy = self._directory / "copy"
        for count in (self._messages // 5, 2 * self._messages):
            lines = self._file(count)
            with self._target.new_stream("memory") as stream:
                self._note(f"{count:,} lines through pipes")
                published = self._check(self._target.publish_file(stream, lines, through_pipe=True), count)
                self._count(stream, count)
                consumed = self._consume_to(stream, copy, count)
            peaks += [("cat file | rstream publish", count, published), ("rstream consume | cat", count, consumed)]
        copy.unlink()
        return sorted(peaks, key=lambda peak: peak[0])

    def _take_turns(self, group: Group) -> Group:
        for turn in range(self._turns):
            # There and back again: nobody always comes after the same one.
            for contender in group.contenders if turn % 2 == 0 else reversed(group.contenders):
                result = contender.run()
                contender.results.append(result)
                self._note(f"{group.title} {turn + 1}/{self._turns}  {contender.label}: {result.rate:,.0f}/s")
        return group

    def _fresh(self, module: str, task: str, count: int, python: Path | None = None) -> Result:
        """Publishes to a stream of its own, and counts what arrived."""
        with self._target.new_stream("publish") as stream:
            result = self._check(self._target.worker(module, task, stream, count, python), count)
            self._count(stream, count)
        return result

    def _fresh_at(self, target: Target, count: int) -> Result:
        with target.new_stream("publish") as stream:
            return self._check(target.worker("bare_socket", "publish", stream, count), count)

    def _drain(self, target: Target, stream: str, count: int) -> Result:
        return self._check(target.worker("bare_socket", "consume", stream, count), count)

    def _publish_file(self, lines: Path, count: int) -> Result:
        with self._target.new_stream("publish") as stream:
            result = self._check(self._target.publish_file(stream, lines), count)
            self._count(stream, count)
        return result

    def _read(self, stream: str, module: str, task: str, count: int, python: Path | None = None) -> Result:
        result = self._target.worker(module, task, stream, count, python)
        if result.messages < count:
            raise Failed(f"{module} {task}: {result.messages:,} messages instead of {count:,}")
        return result

    def _consume_to(self, stream: str, file: Path | None, count: int) -> Result:
        result = self._check(self._target.consume_to(stream, file), count)
        if file is not None and not same_content(file, self._file(count)):
            raise Failed("what was consumed is not what was published")
        return result

    def _check(self, result: Result, count: int) -> Result:
        if result.messages != count:
            raise Failed(f"{result.messages:,} messages instead of {count:,}")
        return result

    def _count(self, stream: str, count: int) -> None:
        held = self._target.admin("count", stream)
        if held != count:
            raise Failed(f"the stream holds {held:,} messages instead of {count:,}")

    def _file(self, count: int) -> Path:
        if count not in self._lines:
            self._lines[count] = self._directory / f"lines-{count}"
            write_lines(self._lines[count], self._target.size, count)
        return self._lines[count]

    def _note(self, line: str) -> None:
        print(f"  {line}", file=sys.stderr, flush=True)


def print_memory(peaks: list[tuple[str, int, Result]]) -> None:
    rows = [("memory", "lines", "peak MB", "target", "")]
    for label, count, result in peaks:
        assert result.peak_mb is not None
        passed = "pass" if result.peak_mb < MEMORY_LIMIT_MB else "MISS"
        rows.append(("  " + label, f"{count:,}", f"{result.peak_mb:.1f}", f"< {MEMORY_LIMIT_MB}", passed))
    print_table(rows)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_MESSAGES:,} messages: a look, not a measurement")
    parser.add_argument("--messages", type=int, metavar="N", help=f"for the fast contenders; {MESSAGES:,} by default")
    parser.add_argument("--turns", type=int, default=TURNS, metavar="N", help=f"of each contender; {TURNS} by default")
    parser.add_argument("--only", metavar="GROUPS", help=f"some of {','.join(GROUPS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there too")
    given = parser.parse_args()
    given.only = given.only.split(",") if given.only else list(GROUPS)
    if unknown := set(given.only) - set(GROUPS):
        parser.error(f"--only: no such group: {', '.join(sorted(unknown))}")
    if given.messages is None:
        given.messages = QUICK_MESSAGES if given.quick else MESSAGES
    if given.messages < 10_000 or given.turns < 1:
        parser.error("--messages is at least 10000, and --turns at least 1")
    return given


def measure(given: argparse.Namespace) -> None:
    published = seed_python() if {"publish", "send", "consume"} & set(given.only) else None
    load = os.getloadavg()[0]
    with (
        running_broker() as broker,
        embedded_broker() as embedded,
        tempfile.TemporaryDirectory(prefix="rstream-bench-") as directory,
    ):
        setting = (
            f"{broker.description}, Python {platform.python_version()}, {os.cpu_count()} CPUs shared with it,"
            f" load {load:.1f} before the start\n{SIZE}-byte bodies; medians of {given.turns} turns;"
            f" published client: {REQUIREMENT if published else 'not installed'}"
        )
        benchmarks = Benchmarks(Target(broker.uri, SIZE), Path(directory), given.messages, given.turns, published)
        groups: dict[str, Callable[[], Group]] = {
            "publish": benchmarks.publish,
            "send": benchmarks.send,
            "consume": benchmarks.consume,
            "broker": partial(benchmarks.broker, Target(embedded.uri, SIZE)),
        }
        measured = [run() for name, run in groups.items() if name in given.only]
        peaks = benchmarks.memory() if "memory" in given.only else []
    print(f"\n{setting}\n")
    if measured:
        print_table([row for group in measured for row in group.rows()])
    if peaks:
        print()
        print_memory(peaks)
    if given.json:
        document: dict[str, Any] = {
            "setting": setting,
            "groups": [group.as_json() for group in measured],
            "memory": [{"label": label, "lines": count, **result._asdict()} for label, count, result in peaks],
        }
        given.json.write_text(json.dumps(document, indent=2) + "\n")


def main() -> int:
    given = parse_arguments()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        measure(given)
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"error: {' '.join(map(str, error.cmd))} ended with {error.returncode}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _terminate(_number: int, _frame: object) -> NoReturn:
    raise SystemExit(143)


if __name__ == "__main__":
    sys.exit(main())
