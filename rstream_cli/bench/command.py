"""``rstream bench publish``, ``consume`` and ``both``: options -> the parts of each run -> what was measured.

A stream that the benchmark has made is deleted at its end, however it ends. Where messages failed, or the check found
one missing, doubled or misplaced, the exit code is 7, as for any message that a broker has not stored; 10 is left to
thresholds that a user sets (``bench compare --fail-if``), so that a script can tell a slow broker from one that loses.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from rstream_cli import terminal
from rstream_cli.asking import is_confirmed
from rstream_cli.bench import payload, report, saving
from rstream_cli.bench.plan import Consuming, Part, Publishing
from rstream_cli.bench.plot import plot
from rstream_cli.bench.running import Measured, Running, Surroundings
from rstream_cli.bench.settings import to_json
from rstream_cli.ended import Ended
from rstream_cli.exit_status import CommandError, ExitStatus, first_error
from rstream_cli.kinds import find_streams
from rstream_cli.management.address import is_loopback
from rstream_cli.names import Kind, check_stream_name
from rstream_cli.options.benchmarks import ConsumerOptions, LoadOptions, ProducerOptions
from rstream_cli.options.connecting import ConnectionSettings
from rstream_cli.options.publishing import Compression
from rstream_cli.pretty_json import write_answer
from rstream_cli.render import words
from rstream_cli.render.columns import fitting_stderr
from rstream_cli.runner import CommandContext, run_command, write_stderr
from rstream_cli.runner import report as report_error
from rstream_core import Client, RstreamError
from rstream_core.client import MAX_IN_FLIGHT
from rstream_core.consuming.credits import DEFAULT_CREDIT
from rstream_core.flow.stream_sink import Batching

DURATION = 10.0
"""Seconds that are measured where neither --duration nor --count is given."""
WARM_UP = 1.0
"""Seconds of warm-up of a run that has a duration."""
FILL = 1_000_000
"""Messages that `bench consume` publishes first, where no stream is given."""
SIZE = (100, 100)
MOST_KEPT_BYTES = 4 * 1024**3
"""Bytes that `bench consume` publishes at most where no --count is given."""
DELETE_TIMEOUT = 10.0
"""Seconds for a broker to delete the stream of a run."""
_COMPRESSIONS = {
    Compression.NONE: None,
    Compression.GZIP: "Gzip",
    Compression.SNAPPY: "Snappy",
    Compression.LZ4: "Lz4",
    Compression.ZSTD: "Zstd",
}


@dataclass(frozen=True, slots=True)
class Bench:
    """The checked options of a benchmark."""

    command: str
    """``publish``, ``consume`` or ``both``."""
    stream: str | None
    """The stream or super stream that is given; None: one is made."""
    size: payload.Size
    size_text: str
    load: LoadOptions
    producing: ProducerOptions
    consuming: ConsumerOptions
    warm_up: float
    duration: float | None

    @property
    def batch(self) -> int:
        return self.load.batch_size or Batching().messages

    @property
    def compression(self) -> str | None:
        return _COMPRESSIONS[self.load.compression or Compression.NONE]

    @property
    def fills(self) -> bool:
        """Whether messages are published first, to be consumed."""
        return self.command == "consume" and self.stream is None

    @property
    def fill_count(self) -> int:
        """How many."""
        mean = (self.size.least + self.size.most) // 2 if self.size.body is None else len(self.size.body)
        return self.load.count or min(FILL, max(MOST_KEPT_BYTES // max(mean, 1), 1000))

    def options(self) -> dict[str, Any]:
        """What is saved, and what two results that are compared should have in common."""
        load = self.load
        found: dict[str, Any] = {
            "stream": self.stream,
            "size": self.size_text,
            "batch_size": self.batch,
            "compression": (load.compression or Compression.NONE).value,
            "superstream": load.superstream,
            "processes": load.processes,
            "duration": self.duration,
            "count": self.fill_count if self.fills else load.count,
            "warm_up": self.warm_up,
        }
        if self.command != "consume":
            found |= {
                "producers": self.producing.producers,
                "rate": self.producing.rate,
                "max_in_flight": self.producing.max_in_flight or MAX_IN_FLIGHT,
            }
        if self.command != "publish":
            found |= {"consumers": self.consuming.consumers, "credit": self.consuming.credit or DEFAULT_CREDIT}
        return found


def run_bench(
    command: str,
    stream: str | None,
    load: LoadOptions,
    connection: ConnectionSettings,
    *,
    producing: ProducerOptions | None = None,
    consuming: ConsumerOptions | None = None,
) -> NoReturn:
    """Checks the options, asks where it must, and runs the benchmark. Raises ``typer.Exit``, and ``CommandError``."""
    bench = _checked(command, stream, load, producing or ProducerOptions(), consuming or ConsumerOptions())
    saving.check_place(load.save, "--save")
    saving.check_place(load.plot, "--plot")
    _check_allowed(bench, connection)
    run_command(lambda context: _main(bench, context), connection=connection, graceful=True)


def _checked(
    command: str, stream: str | None, load: LoadOptions, producing: ProducerOptions, consuming: ConsumerOptions
) -> Bench:
    if stream is not None:
        check_stream_name(stream)
        if load.superstream is not None:
            raise CommandError("--superstream makes a super stream, and one is named", hint="leave out one of the two")
    if load.duration is not None and load.count is not None:
        raise CommandError("--duration and --count contradict each other", hint="give one of them")
    if command == "consume" and stream is not None:
        for flag, value in (
            ("--size", load.size),
            ("--batch-size", load.batch_size),
            ("--compression", load.compression),
        ):
            if value is not None:
                raise CommandError(
                    f"{flag} is for messages that are published, and the stream {stream!r} is only read",
                    hint=f"leave out {flag}, or the stream",
                )
    size, text = _size_of(load.size)
    duration = load.duration
    if duration is None and load.count is None and command != "consume":
        duration = DURATION
    warm_up = load.warm_up
    if warm_up is None:
        warm_up = WARM_UP if duration is not None else 0.0
    if load.superstream is not None and consuming.consumers > load.superstream:
        raise CommandError(
            f"--consumers {consuming.consumers}: each takes a partition at least, and there are {load.superstream}"
        )
    return Bench(command, stream, size, text, load, producing, consuming, warm_up, duration)


def _size_of(text: str | None) -> tuple[payload.Size, str]:
    """Returns the sizes of bodies, and how they are shown. Raises ``CommandError``."""
    if text is None:
        return payload.Size(*SIZE), str(SIZE[0])
    if not text.startswith("@"):
        try:
            least, most = payload.parse_sizes(text)
        except ValueError as error:
            raise CommandError(f"--size: {error}") from None
        return payload.Size(least, most), str(least) if least == most else f"{least}..{most}"
    try:
        with open(text[1:], "rb") as file:
            body = file.read(payload.MAX_SIZE + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise CommandError(f"--size: cannot read {text[1:]!r}: {why}") from None
    if len(body) > payload.MAX_SIZE:
        raise CommandError(f"--size: {text[1:]!r} is larger than {payload.MAX_SIZE // 1024 // 1024} MiB")
    return payload.Size(len(body), len(body), body), f"@{len(body)}"


def _check_allowed(bench: Bench, connection: ConnectionSettings) -> None:
    """Asks where the broker is on another machine: a benchmark may take all that it has. Raises ``CommandError``."""
    places = [endpoint for endpoint in connection.options.endpoints if not is_loopback(endpoint.host)]
    if not places or bench.load.yes:
        return
    question = f"Put all the load that this machine can make on the broker at {places[0]}?"
    if not is_confirmed(question, connection.env, action="put load on a broker of another machine"):
        connection.tell("nothing was done")
        import typer

        raise typer.Exit


async def _main(bench: Bench, context: CommandContext) -> ExitStatus:
    connection, env = context.connection, context.env
    is_quiet = connection.quiet

    def tell(line: str) -> None:
        if not is_quiet:
            write_stderr(env, fitting_stderr(terminal.line(line), env) + "\n")

    around = Surroundings(
        env,
        to_json(connection.layers, context.options),
        connection.verbosity,
        connection.wait_for_broker,
        context.interrupt.requested,
        tell,
    )
    session = _Session(bench, context, around)
    error: BaseException | None = None
    try:
        await session.work()
    except (Exception, BaseExceptionGroup) as failure:  # noqa: BLE001 - reported below, behind what was measured
        error = first_error(failure)
    status = session.show()
    if error is not None:
        failed = report_error(error, env=env, color=connection.color, verbosity=connection.verbosity)
        status = status if status is ExitStatus.NOT_CONFIRMED else failed
        return Ended("", status, error).status_after(context.interrupt.status)
    return Ended("", status).status_after(context.interrupt.status)


class _Session:
    """All runs of one command."""

    def __init__(self, bench: Bench, context: CommandContext, around: Surroundings) -> None:
        self._bench = bench
        self._context = context
        self._around = around
        self._lines = report.Lines(bench.command, bench.size.has_times)
        self._document: dict[str, Any] = {}
        self._runs: list[dict[str, Any]] = []

    async def work(self) -> None:
        """Does the runs, one after the other. Raises the error that ended one."""
        bench, around = self._bench, self._around
        async with self._context.connected() as client:
            self._document = saving.document(
                bench.command, bench.options(), await saving.broker_of(self._context.options)
            )
            for line in report.remarks(bench.command, bench.options(), bench.size.has_times):
                around.tell(line)
            for number in range(bench.load.runs):
                if around.stop.is_set():
                    return
                if bench.load.runs > 1:
                    around.tell(f"run {number + 1} of {bench.load.runs}")
                measured = await self._run(client)
                if measured.record:
                    self._runs.append(measured.record)
                if measured.error is not None:
                    raise measured.error

    async def _run(self, client: Client) -> Measured:
        run = random.randrange(payload.RUNS)  # noqa: S311 - tells runs apart
        bench = self._bench
        if bench.stream is not None:
            _, streams = await find_streams(client, [bench.stream], Kind.EITHER)
            return await self._measure(client, run, streams)
        name = f"rstream-bench-{random.getrandbits(40):010x}"
        kind = "stream" if bench.load.superstream is None else "super stream"
        self._around.tell(f"{kind} {name}, which is deleted at the end")
        try:
            if bench.load.superstream is None:
                await client.create_stream(name)
                streams = [name]
            else:
                streams = await client.create_super_stream(name, partitions=bench.load.superstream)
            return await self._measure(client, run, streams)
        finally:
            await self._delete(client, name)

    async def _delete(self, client: Client, name: str) -> None:
        """Deletes the stream of a run, also while the run is being cancelled."""
        try:
            async with asyncio.timeout(DELETE_TIMEOUT):
                if self._bench.load.superstream is None:
                    await client.delete_stream(name, missing_ok=True)
                else:
                    await client.delete_super_stream(name, missing_ok=True)
        except (RstreamError, TimeoutError) as error:
            kind = "stream" if self._bench.load.superstream is None else "superstream"
            why = str(error) or "the broker does not answer"
            self._context.connection.warn(f"{name} was not deleted: {why}; `rstream {kind} delete {name}` does it")

    async def _measure(self, client: Client, run: int, streams: list[str]) -> Measured:
        bench = self._bench
        if bench.command == "consume":
            return await self._consume(client, run, streams)
        parts: list[Part] = [*self._publishing(run, streams)]
        if bench.command == "both":
            parts += self._consuming(run, streams, starts_at_end=True, has_producers=True, size=bench.size)
        return await self._running(parts).measure()

    async def _consume(self, client: Client, run: int, streams: list[str]) -> Measured:
        bench, load = self._bench, self._bench.load
        if not bench.fills:
            until = {}
            if load.duration is None:
                for stream in streams:
                    last = await client.last_offset(stream)
                    if last is None and len(streams) == 1:
                        raise CommandError(f"stream {stream!r} holds no message", status=ExitStatus.PRECONDITION)
                    until[stream] = -1 if last is None else last
            return await self._running(self._consuming(run, streams, until=until, count=load.count)).measure()
        count = bench.fill_count
        self._around.tell(f"publishing {words.messages(count)} to be consumed")
        filling = Publishing(
            run=run,
            warm_up=0.0,
            duration=None,
            streams=streams,
            producers=[0],
            size=bench.size,
            batch=bench.batch,
            counts=[count],
            compression=bench.compression,
        )
        filled = Running([filling], self._around, lambda _: None)
        before = await filled.measure()
        if before.error is not None:
            raise before.error
        if not before.record or before.record["publish"]["confirmed"] < count:
            if not self._around.stop.is_set():
                raise CommandError(
                    "the broker has not confirmed all messages that were to be consumed",
                    status=ExitStatus.NOT_CONFIRMED,
                )
            return Measured()
        parts = self._consuming(run, streams, size=bench.size, expected=filled.confirmed())
        return await self._running(parts).measure()

    def _running(self, parts: Sequence[Part]) -> Running:
        self._lines.begin()

        def show(second: Mapping[str, Any]) -> None:
            for line in self._lines.second(second):
                self._around.tell(line)

        return Running(parts, self._around, show)

    def _publishing(self, run: int, streams: list[str]) -> list[Publishing]:
        bench, producing = self._bench, self._bench.producing
        number, count = producing.producers, bench.load.count
        counts = None if count is None else _shares(count, number)
        part = Publishing(
            run=run,
            warm_up=bench.warm_up,
            duration=bench.duration,
            streams=streams,
            producers=[],
            size=bench.size,
            batch=bench.batch,
            rate=None if producing.rate is None else producing.rate / number,
            max_in_flight=producing.max_in_flight or MAX_IN_FLIGHT,
            compression=bench.compression,
        )
        return [
            replace(
                part, producers=list(some), counts=None if counts is None else [counts[producer] for producer in some]
            )
            for some in _dealt(range(number), bench.load.processes)
        ]

    def _consuming(self, run: int, streams: list[str], **more: Any) -> list[Consuming]:
        bench = self._bench
        number = bench.consuming.consumers
        if len(streams) > 1:
            if number > len(streams):
                raise CommandError(
                    f"--consumers {number}: each takes a partition at least, and there are {len(streams)}"
                )
            each = [list(some) for some in _dealt(streams, number)]
        else:
            each = [list(streams) for _ in range(number)]
        part = Consuming(
            run=run,
            warm_up=bench.warm_up,
            duration=bench.duration,
            consumers=[],
            credit=bench.consuming.credit or DEFAULT_CREDIT,
            **more,
        )
        return [replace(part, consumers=list(some)) for some in _dealt(each, bench.load.processes)]

    def show(self) -> ExitStatus:
        """Shows and writes what was measured, and returns how that ended."""
        if not self._runs:
            return ExitStatus.OK
        bench, env = self._bench, self._context.env
        self._document["runs"] = self._runs
        if bench.load.save is not None:
            saving.write(bench.load.save, json.dumps(self._document, indent=1) + "\n")
        if bench.load.plot is not None:
            saving.write(bench.load.plot, plot(self._document))
        if bench.load.json:
            write_answer(env, [self._document], bench.load.pretty, self._context.connection.color)
        else:
            env.stdout.write(report.table(self._document))
            env.stdout.flush()
        is_good = all(
            not run.get("publish", {}).get("failed") and run.get("check", {"ok": True})["ok"] for run in self._runs
        )
        return ExitStatus.OK if is_good else ExitStatus.NOT_CONFIRMED


def _shares(count: int, number: int) -> list[int]:
    """Divides a count into so many equal numbers, as far as they can be."""
    each, rest = divmod(count, number)
    return [each + (place < rest) for place in range(number)]


def _dealt(things: Sequence[Any], number: int) -> list[Sequence[Any]]:
    """Deals things out to at most so many hands, none of which stays empty."""
    return [things[place::number] for place in range(min(number, len(things)))]
