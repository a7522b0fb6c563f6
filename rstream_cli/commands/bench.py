"""``rstream bench``: how fast a broker takes and gives messages, and how long they are on their way."""

from __future__ import annotations

from typing import Annotated

import typer

from rstream_cli.environment import PrettyChoice
from rstream_cli.options.answering import Pretty
from rstream_cli.options.benchmarks import ConsumerOptions, LoadOptions, ProducerOptions
from rstream_cli.options.connecting import ConnectionSettings, connection_options, general_options
from rstream_cli.options.declaring import shared_options
from rstream_cli.typer_support import Command, new_app

app = new_app(
    "Measure how fast a broker takes and gives messages.",
    examples="""
rstream bench both
rstream bench publish --rate 50000/s --runs 5 --save before.json
rstream bench consume --count 5000000
""",
)

_STREAM = typer.Argument(
    metavar="[STREAM]",
    help="The stream, or a super stream (default: one is made, and deleted at the end).",
    show_default=False,
)


@app.command(
    cls=Command,
    epilog="""
rstream bench publish
rstream bench publish --producers 4 --processes 4 --size 1kB --duration 30s
rstream bench publish --rate 20000/s --runs 5 --save before.json
rstream bench publish --superstream 3 --size 100..2000 --compression lz4
""",
)
@connection_options
@shared_options("load", LoadOptions)
@shared_options("producing", ProducerOptions)
def publish(
    stream: Annotated[str | None, _STREAM] = None,
    *,
    producing: ProducerOptions,
    load: LoadOptions,
    connection: ConnectionSettings,
) -> None:
    """Measure publishing.

    Shows the rate of confirmed messages, the time from when a message is handed over (with --rate: was due) until it is
    confirmed, and what that costs. All is measured in processes of their own. Without STREAM, the command makes a
    stream and deletes it at the end; a stream that is given keeps what was published.

    The exit code is 7 where a message failed.
    """
    from rstream_cli.bench.command import run_bench

    run_bench("publish", stream, load, connection, producing=producing)


@app.command(
    cls=Command,
    epilog="""
rstream bench consume
rstream bench consume --count 5000000 --size 1kB --batch-size 50
rstream bench consume events --consumers 2 --processes 2
""",
)
@connection_options
@shared_options("load", LoadOptions)
@shared_options("consuming", ConsumerOptions)
def consume(
    stream: Annotated[str | None, _STREAM] = None,
    *,
    consuming: ConsumerOptions,
    load: LoadOptions,
    connection: ConnectionSettings,
) -> None:
    """Measure consuming.

    Without STREAM, the command makes a stream, publishes --count messages (default: 1,000,000, fewer if they are
    large), reads them, checks that each comes once and in order, and deletes the stream. A stream that is given is read
    from its first message to its end, or for --duration; of its messages only the offsets are checked.

    The exit code is 7 where a message was missing, came twice, or came in the wrong place.
    """
    from rstream_cli.bench.command import run_bench

    run_bench("consume", stream, load, connection, consuming=consuming)


@app.command(
    cls=Command,
    epilog="""
rstream bench both
rstream bench both --rate 50000/s --duration 1m
rstream bench both --producers 2 --consumers 2 --processes 2 --json
rstream bench both --size @message.json --save results.json
""",
)
@connection_options
@shared_options("load", LoadOptions)
@shared_options("consuming", ConsumerOptions)
@shared_options("producing", ProducerOptions)
def both(
    stream: Annotated[str | None, _STREAM] = None,
    *,
    producing: ProducerOptions,
    consuming: ConsumerOptions,
    load: LoadOptions,
    connection: ConnectionSettings,
) -> None:
    """Measure publishing and consuming at the same time.

    Consumers read what the producers publish, and check that each message comes once and in order. The end-to-end
    latency is the time from when a message is handed over (with --rate: was due) until a consumer has it. Without
    --rate, it is mostly the time that messages wait behind others.

    The exit code is 7 where a message failed, was missing, came twice, or came in the wrong place.
    """
    from rstream_cli.bench.command import run_bench

    run_bench("both", stream, load, connection, producing=producing, consuming=consuming)


@app.command(
    cls=Command,
    epilog="""
rstream bench compare before.json after.json
rstream bench compare before.json after.json --fail-if 'confirm.p99>+10%' --fail-if 'publish.rate<100000'
rstream bench compare before.json after.json --json | jq '.figures["publish.rate"].change'
""",
)
@general_options
def compare(
    before: Annotated[str, typer.Argument(metavar="BEFORE", help="A file that --save has written.")],
    after: Annotated[str, typer.Argument(metavar="AFTER", help="Another one.")],
    *,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-if",
            metavar="CONDITION",
            help="End in 10 where this holds: FIGURE>+N% or FIGURE<-N%, a change of the median from BEFORE to AFTER, or"
            " FIGURE>N or FIGURE<N, a value of AFTER. A change holds only where the ranges of the runs do not overlap,"
            " and a value only where all runs of AFTER are beyond it. Repeat the option for more.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    pretty: Pretty = PrettyChoice.AUTO,
    connection: ConnectionSettings,
) -> None:
    """Compare two results of benchmarks, which should be of several runs each.

    Shows of each figure the medians and, below them, the ranges of both files. Where the ranges overlap, there is no
    difference that chance does not explain. Warnings tell what was not the same: machine, versions, options.

    Figures: publish and consume have .rate, .byte_rate, .cpu (µs a message) and .memory; confirm and end_to_end have
    .p50, .p90, .p99, .p99.9 and .max, in microseconds. The exit code is 10 where a --fail-if holds.
    """
    from rstream_cli.bench.compare_command import run_compare

    run_compare(before, after, fail_if or [], connection, json=json, pretty=pretty)
