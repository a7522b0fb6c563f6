"""The options of benchmarks: of the load, of its producers, and of its consumers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from rstream_cli.environment import PrettyChoice
from rstream_cli.options.answering import Pretty
from rstream_cli.options.declaring import duration
from rstream_cli.options.publishing import Compression
from rstream_cli.parsing import parse_rate

LOAD = "Load"
MEASURING = "Measuring"
RESULT = "Result"


def parse_message_rate(text: str) -> float:
    """Returns messages a second. Raises ``ValueError``."""
    rate = parse_rate(text)
    if rate.messages_per_second is None:
        raise ValueError(f"not a number of messages: {text!r}; give N/s")
    return rate.messages_per_second


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerOptions:
    """The options of producers."""

    producers: Annotated[
        int, typer.Option(min=1, max=4096, metavar="N", help="Publish with N producers.", rich_help_panel=LOAD)
    ] = 1
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="RATE",
            parser=parse_message_rate,
            help="Publish N messages a second, all producers together: 5000/s. Without it, they publish as fast as the"
            " broker confirms. With it, a message's latency counts from when it was due, also if it was sent late.",
            rich_help_panel=LOAD,
        ),
    ] = None
    max_in_flight: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Let each producer have at most N unconfirmed messages (default: 50000). Without --rate, fewer mean"
            " shorter latencies.",
            rich_help_panel=LOAD,
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerOptions:
    """The options of consumers."""

    consumers: Annotated[
        int,
        typer.Option(
            min=1,
            max=1000,
            metavar="N",
            help="Consume with N consumers. Each gets all messages; of a super stream, they share out the partitions.",
            rich_help_panel=LOAD,
        ),
    ] = 1
    credit: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            metavar="N",
            help="Let the broker send N chunks ahead to each consumer (default: 10).",
            rich_help_panel=LOAD,
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """The options of every load."""

    size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Publish bodies of this size: 100 (bytes, the default), 1kB, a range 100..2000, or @FILE: the contents"
            " of the file. Below 16 bytes, there is no end-to-end latency; the least is 8.",
            rich_help_panel=LOAD,
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            metavar="N",
            help="Publish up to N messages in one go (default: 1000).",
            rich_help_panel=LOAD,
        ),
    ] = None
    compression: Annotated[
        Compression | None,
        typer.Option(help="Publish each batch as one sub-entry, compressed like this.", rich_help_panel=LOAD),
    ] = None
    superstream: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1000,
            metavar="N",
            help="Make a super stream with N partitions instead of a stream. A message goes to one by the hash of its"
            " number.",
            rich_help_panel=LOAD,
        ),
    ] = None
    processes: Annotated[
        int,
        typer.Option(
            min=1,
            max=256,
            metavar="N",
            help="Share out the producers to N processes, and the consumers to N others.",
            rich_help_panel=LOAD,
        ),
    ] = 1
    duration: Annotated[
        float | None,
        duration(
            "--duration", False, "Measure for this long (default: 10s, unless --count is given).", panel=MEASURING
        ),
    ] = None
    count: Annotated[
        int | None,
        typer.Option(
            "--count",
            "-n",
            min=1,
            metavar="N",
            help="Publish N messages, all producers together, or consume N.",
            rich_help_panel=MEASURING,
        ),
    ] = None
    warm_up: Annotated[
        float | None,
        duration(
            "--warm-up",
            False,
            "Leave this long out of rates and latencies, at the beginning (default: 1s, with --count 0).",
            panel=MEASURING,
            zero=True,
        ),
    ] = None
    runs: Annotated[
        int,
        typer.Option(
            min=1,
            max=1000,
            metavar="N",
            help="Do it N times, each with a new stream if none is given, and show the medians and their ranges.",
            rich_help_panel=MEASURING,
        ),
    ] = 1
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object: what --save writes.", rich_help_panel=RESULT)
    ] = False
    pretty: Pretty = PrettyChoice.AUTO
    save: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Write all results to this file, as JSON, for `rstream bench compare`. It is replaced.",
            rich_help_panel=RESULT,
        ),
    ] = None
    plot: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.svg",
            help="Write a plot to this file, as SVG: rates over time, and latencies by percentile. It is replaced.",
            rich_help_panel=RESULT,
        ),
    ] = None
    yes: Annotated[
        bool,
        typer.Option(
            "--yes",
            "-y",
            help="Do not ask. Required for a broker on another machine where there is no terminal to ask on.",
            rich_help_panel=RESULT,
        ),
    ] = False
