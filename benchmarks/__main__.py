"""Brings up a broker, measures ``goals``, ``peers`` or ``brokers`` on it, prints tables, and takes it down.

Exits with 0 whatever the numbers are, and with 1 where something did not run or a count was wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import brokers, goals
from benchmarks.broker import embedded_broker, running_broker
from benchmarks.goals import Counts, Setting
from benchmarks.peers import axes, clients
from benchmarks.programs import Failed, Target
from benchmarks.rounds import note
from benchmarks.seed_venv import REQUIREMENT, seed_python
from benchmarks.tables import minutes, table
from scripts._builds import BuildError

MESSAGES, QUICK_MESSAGES = 10_000_000, 2_000_000
PEERS_MESSAGES, PEERS_QUICK_MESSAGES = 1_000_000, 200_000
ROUNDS, PEERS_QUICK_ROUNDS = 5, 2
FEWEST = 1000


def main() -> int:
    given = parse_arguments()
    try:
        faults = given.run(given)
    except (Failed, BuildError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"error: {' '.join(map(str, error.cmd))} ended with {error.returncode}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return 1 if faults else 0


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition("\n\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--quick", action="store_true", help="fewer messages: a look, not a measurement")
    common.add_argument("--messages", type=int, metavar="N", help="of the fast contenders; others in proportion")
    common.add_argument("--rounds", type=int, metavar="N", help=f"of each contender; {ROUNDS} by default")
    common.add_argument("--json", type=Path, metavar="FILE", help="write every number there, too")
    common.add_argument("--markdown", action="store_true", help="print tables for a page")
    without = argparse.ArgumentParser(add_help=False)
    left_out = f"leave out some of {','.join(clients.NAMES)}"
    without.add_argument("--without", type=names_of(clients.NAMES), default=[], metavar="NAMES", help=left_out)

    command = commands.add_parser("goals", parents=[common, without], help="what is aimed at, and what is reached")
    command.add_argument(
        "--only", type=names_of(goals.GROUPS), metavar="GROUPS", help=f"some of {','.join(goals.GROUPS)}"
    )
    command.add_argument("--pure", action="store_true", help="without the compiled part of this project")
    command.set_defaults(run=run_goals, defaults=(MESSAGES, QUICK_MESSAGES, ROUNDS))

    command = commands.add_parser("peers", parents=[common, without], help="the other clients, by one axis at a time")
    command.add_argument(
        "--axis",
        action="append",
        type=axes.parse_axis,
        metavar="NAME[=VALUES]",
        help=f"one of {', '.join(axes.AXES)}, and some values: size=100,1000; may be repeated (default: all)",
    )
    command.set_defaults(run=run_peers, defaults=(PEERS_MESSAGES, PEERS_QUICK_MESSAGES, PEERS_QUICK_ROUNDS))

    command = commands.add_parser("brokers", parents=[common], help="the embedded broker beside RabbitMQ")
    command.set_defaults(run=run_brokers, defaults=(PEERS_MESSAGES, PEERS_QUICK_MESSAGES, ROUNDS))

    given = parser.parse_args(arguments)
    messages, quick_messages, quick_rounds = given.defaults
    if given.messages is None:
        given.messages = quick_messages if given.quick else messages
    if given.rounds is None:
        given.rounds = quick_rounds if given.quick else ROUNDS
    if given.messages < FEWEST or given.rounds < 1:
        parser.error(f"--messages is at least {FEWEST}, and --rounds at least 1")
    if given.json:
        try:  # before it takes its time
            given.json.open("a").close()
        except OSError as error:
            parser.error(f"--json {given.json}: {error.strerror}")
    return given


def names_of(known: Sequence[str] | Any) -> Callable[[str], list[str]]:
    """Parses some of those names, with commas between them. They keep the order of ``known``."""

    def parse(text: str) -> list[str]:
        asked = set(text.split(","))
        if unknown := asked - set(known):
            raise argparse.ArgumentTypeError(
                f"no such name: {', '.join(sorted(unknown))}; there are {', '.join(known)}"
            )
        return [name for name in known if name in asked]

    return parse


def run_goals(given: argparse.Namespace) -> list[str]:
    """Returns what failed; so do the others."""
    names = given.only or list(goals.GROUPS)
    expected = goals.expected_seconds(names, given.messages, given.rounds)
    peers = clients.build(given.without) if {"publish", "consume", "latency"} & set(names) else []
    published = published_python(given) if "callback" in names else None
    note(f"this takes about {minutes(expected)} on two cores that do nothing else")
    began = time.monotonic()
    with running_broker() as broker, tempfile.TemporaryDirectory(prefix="rstream-bench-") as folder:
        target = Target(broker.uri, goals.SIZE, given.pure)
        setting = Setting(target, Path(folder), Counts.of(given.messages), given.rounds, peers, published)
        words = setting_words(given, broker.description, [peer.title for peer in peers], published)
        if given.pure:
            words += "; without the compiled part"
        found, faults = goals.measure(setting, names)
    rows = goals.rows(found, names, given.pure)
    save(given, words, {"goals": goals.as_json(found, given.pure)})
    tell(given, words, [("", table(rows, is_markdown=given.markdown))], began)
    return faults


def run_peers(given: argparse.Namespace) -> list[str]:
    points = axes.points(given.axis or [], given.messages, given.quick)
    peers = clients.build(given.without)
    published = published_python(given)
    expected = axes.expected_seconds(points, given.rounds)
    note(f"this takes about {minutes(expected)} on two cores that do nothing else")
    began = time.monotonic()
    with running_broker() as broker, tempfile.TemporaryDirectory(prefix="rstream-bench-") as folder:
        words = setting_words(given, broker.description, [peer.title for peer in peers], published)
        measured, faults = axes.measure(broker.uri, Path(folder), points, given.rounds, peers, published)
    tables = [(title, table(rows, is_markdown=given.markdown, left=2)) for title, rows in axes.tables(measured)]
    save(given, words, {"points": axes.as_json(measured)})
    tell(given, words, tables, began)
    return faults


def run_brokers(given: argparse.Namespace) -> list[str]:
    began = time.monotonic()
    with running_broker() as broker, embedded_broker() as embedded:
        words = setting_words(given, broker.description, [], None)
        rows = brokers.measure(
            Target(broker.uri, goals.SIZE), Target(embedded.uri, goals.SIZE), given.messages, given.rounds
        )
    save(given, words, {"rows": rows})
    tell(given, words, [("", table(rows, is_markdown=given.markdown))], began)
    return []


def published_python(given: argparse.Namespace) -> Path | None:
    return None if clients.PUBLISHED in given.without else seed_python()


def setting_words(given: argparse.Namespace, broker: str, peers: Sequence[str], published: Path | None) -> str:
    """What a reader must know beside the numbers."""
    beside = [*peers, *([REQUIREMENT] if published else [])]
    return (
        f"{broker}, Python {platform.python_version()}, {os.cpu_count()} processors shared with it,"
        f" load {os.getloadavg()[0]:.1f} before the start; {given.messages:,} messages,"
        f" medians of {given.rounds} rounds" + (f"; beside {', '.join(beside)}" if beside else "")
    )


def tell(given: argparse.Namespace, words: str, tables: Sequence[tuple[str, str]], began: float) -> None:
    print(f"\n{words}\n" if not given.markdown else words)
    for title, text in tables:
        if title:
            print(f"\n### {title}\n" if given.markdown else f"\n{title}\n")
        elif given.markdown:
            print()
        print(text)
    sys.stdout.flush()
    note(f"it took {minutes(time.monotonic() - began)}")


def save(given: argparse.Namespace, words: str, document: dict[str, Any]) -> None:
    if given.json:
        given.json.write_text(json.dumps({"setting": words, **document}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
