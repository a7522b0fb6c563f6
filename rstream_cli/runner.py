"""Runs a command's coroutine, reports its error, and ends with the documented exit code.

Every way to end a command passes through here: a status, an error, a signal, a reader that closed stdout. Commands
raise errors; they never print them or call ``sys.exit``. The rules:

- The first SIGINT or SIGTERM sets ``Interrupt.requested`` for commands that drain (``graceful=True``) and cancels
  the others; the second cancels; the third ends the process at once, should even cancelling hang. The same signal
  again within ``SAME_STOP`` is the same one: GNU timeout, and wrappers that forward Ctrl-C, send it twice.
- An interrupted command ends in 130 or 143, but for what ended.py says; one that drains has asked there itself.
- An error is one line on stderr, and a hint where there is one; where JSON was asked for, one object. ``-vv`` adds the
  traceback.
- Nothing may hold the process up at its end: what blocks (a read of stdin, say) is in a daemon thread. So is what
  asyncio gives to its default executor, which it otherwise waits for.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NoReturn

import typer

from rstream_cli import terminal
from rstream_cli.ended import Ended
from rstream_cli.environment import ColorChoice, Environment, ErrorForm, StdoutError, silence
from rstream_cli.exit_status import CommandError, ExitStatus, first_error, kind_of, status_of
from rstream_cli.hints import hint_of
from rstream_cli.options.connecting import ConnectionSettings

if TYPE_CHECKING:
    import asyncio

    from rstream_core.client import Client
    from rstream_core.connecting.recovery import RecoveryListener
    from rstream_core.consuming.gaps import GapListener
    from rstream_core.types import ConnectionOptions

_SIGNALS = {signal.SIGINT: ExitStatus.INTERRUPTED, signal.SIGTERM: ExitStatus.TERMINATED}
SAME_STOP = 0.1
"""Seconds within which the same signal counts once. A program that sends it twice takes a hundredth of this time;
people who press Ctrl-C twice take longer."""

START_HINT = (
    "to start one for a try: rstream broker run; or RabbitMQ: docker run --rm -p 5552:5552"
    " -e RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-rabbitmq_stream advertised_host localhost' rabbitmq:4"
    " sh -c 'rabbitmq-plugins enable --offline rabbitmq_stream && exec docker-entrypoint.sh rabbitmq-server'"
)


class Interrupt:
    """The signals that a running command got, and what they ask for."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """``now`` is a clock in seconds, with any zero."""
        import asyncio

        self.requested: asyncio.Event = asyncio.Event()
        """Set by the first signal: the command must stop reading, drain, and end."""
        self.signal: signal.Signals | None = None
        """The first signal."""
        self.forced = False
        """Whether a second signal came: the main task is being cancelled."""
        self._now = now
        self._last: tuple[signal.Signals, float] | None = None

    @property
    def status(self) -> ExitStatus | None:
        """The exit code of the first signal; None without a signal."""
        return None if self.signal is None else _SIGNALS[self.signal]

    def is_new(self, number: signal.Signals) -> bool:
        """Notes a signal, and returns False if it only repeats the last one (``SAME_STOP``)."""
        now = self._now()
        if self._last is not None and self._last[0] is number and now - self._last[1] < SAME_STOP:
            return False
        self._last = number, now
        return True


@dataclass(frozen=True)
class CommandContext:
    """The environment, options and interrupt that a command's coroutine gets."""

    env: Environment
    connection: ConnectionSettings
    options: ConnectionOptions
    interrupt: Interrupt

    def client(
        self,
        on_recovery: RecoveryListener | None = None,
        on_gap: GapListener | None = None,
        idle_timeout: float = 0.0,
        recover_at_most: float | None = None,
    ) -> Client:
        """Returns a client of the core with the options of the command line.

        ``recover_at_most``: seconds for a recovery, where the options allow more.
        """
        from rstream_core import Client

        recovery = self.connection.recovery
        if recovery is not None and recover_at_most is not None:
            recovery = replace(recovery, seconds=min(recovery.seconds, recover_at_most))
        return Client(
            self.options, recovery=recovery, on_recovery=on_recovery, on_gap=on_gap, idle_timeout=idle_timeout
        )

    def at(self, other: ConnectionSettings | None) -> CommandContext:
        """Returns the same on the other side, whose settings ``run_command`` got too; None: this one."""
        return self if other is None else replace(self, connection=other, options=other.options)

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[Client, None]:
        """A client that is connected, and is closed at the end."""
        async with self.client() as client:
            await self.connect(client)
            yield client

    async def connect(self, client: Client) -> None:
        """Makes a client's first connection, which may take as long as --wait-for-broker says."""
        from rstream_core.errors import RstreamError

        wait = self.connection.wait_for_broker

        def tell(error: RstreamError) -> None:
            self.connection.tell(f"waiting for a broker, {wait:g} s at most: {describe(error)}")

        try:
            await client.start(wait=wait, on_wait=tell)
        except RstreamError as error:
            if wait and error.retriable:
                error.add_note(f"waited {wait:g} s for a broker")
            raise


Main = Callable[[CommandContext], Awaitable[ExitStatus]]


def run_command(
    main: Main, *, connection: ConnectionSettings, other: ConnectionSettings | None = None, graceful: bool = False
) -> NoReturn:
    """Runs ``main`` on an event loop to its end and raises ``typer.Exit`` with the exit code.

    ``graceful``: the command watches ``interrupt.requested``, drains, and returns the result of
    ``Ended.status_after``. Otherwise the first signal cancels it. Errors are reported here. ``other``: the settings of
    a second side, for ``CommandContext.at``.
    """
    import asyncio

    with _logging(connection):
        try:
            for side in (connection, other):
                if side is not None:
                    _ = side.options  # may ask for a password, while Ctrl-C raises KeyboardInterrupt
            status = asyncio.run(_supervise(main, connection, graceful))
        except (Exception, BaseExceptionGroup, KeyboardInterrupt, asyncio.CancelledError) as error:  # noqa: BLE001
            # Every error is reported and becomes an exit code.
            status = report(
                error,
                env=connection.env,
                verbosity=connection.verbosity,
                color=connection.color,
                hint=start_hint(error, connection) if other is None else None,
            )
    raise typer.Exit(status)


def report(
    error: BaseException,
    *,
    env: Environment,
    verbosity: int = 0,
    color: ColorChoice = ColorChoice.AUTO,
    hint: str | None = None,
) -> ExitStatus:
    """Prints an error to stderr, and returns the exit code. ``hint`` replaces the error's own hint.

    Prints nothing for a closed stdout or an interrupt.
    """
    error = first_error(error)
    status = status_of(error)
    if isinstance(error, BrokenPipeError | StdoutError):
        silence(env.stdout)  # flushing the rest of its buffer must not fail again
    if isinstance(error, BrokenPipeError):
        return status
    if isinstance(error, KeyboardInterrupt):
        return status
    if verbosity > 1:
        write_stderr(env, terminal.traceback_of(error))
    message = describe(error)
    hint = hint or hint_of(error)
    if env.error_form is ErrorForm.TEXT:
        _write_lines(env, message, hint, color)
    else:
        _write_object(env, {"code": int(status), "kind": kind_of(error), "message": message, "hint": hint})
    return status


def _write_lines(env: Environment, message: str, hint: str | None, color: ColorChoice) -> None:
    """``error: …`` and ``hint: …``, a line each."""
    red, cyan, plain = ("\x1b[1;31m", "\x1b[36m", "\x1b[0m") if env.use_color(color) else ("", "", "")
    lines = f"{red}error:{plain} {terminal.line(message)}\n"
    if hint:
        lines += f"{cyan}hint:{plain} {terminal.line(hint)}\n"
    write_stderr(env, lines)


def _write_object(env: Environment, error: dict[str, int | str | None]) -> None:
    """One line of JSON; its texts are what people would read."""
    shown = {key: terminal.line(value) if isinstance(value, str) else value for key, value in error.items()}
    if env.error_form is ErrorForm.EVENT:
        shown = {"event": "error", **shown}
    try:
        terminal.write_json(env.stderr, terminal.json_line(shown), is_tty=env.stderr_is_tty)
    except (OSError, ValueError):
        silence(env.stderr)


def write_stderr(env: Environment, text: str) -> None:
    """Writes to stderr. Ignores errors: without stderr, only the exit code can tell."""
    try:
        env.stderr.write(text)
        env.stderr.flush()
    except (OSError, ValueError):
        silence(env.stderr)


def describe(error: BaseException) -> str:
    """Returns the text of an error, with its notes."""
    from rstream_core.errors import RstreamError

    if isinstance(error, OSError) and error.strerror and not isinstance(error, RstreamError | StdoutError):
        named = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        return named + error.strerror
    if isinstance(error, RstreamError | CommandError | ValueError | OSError):
        return "; ".join([str(error) or type(error).__name__, *getattr(error, "__notes__", ())])
    return f"internal error: {type(error).__name__}: {error}"


@contextmanager
def _logging(connection: ConnectionSettings) -> Iterator[None]:
    """Configures logging for the run. Inside another program, restores the previous configuration at the end.

    In a process of its own, the configuration stays, for messages that asyncio may log at the very end.
    """
    import logging

    loggers = [logging.getLogger(name) for name in ("rstream_core", "rstream_cli", "asyncio")]
    before = [(logger, logger.level, logger.handlers[:], logger.propagate) for logger in loggers]
    raising = logging.raiseExceptions
    configure_logging(connection)
    try:
        yield
    finally:
        if not connection.env.owns_process:
            for logger, level, handlers, propagate in before:
                logger.setLevel(level)
                logger.handlers[:] = handlers
                logger.propagate = propagate
            logging.raiseExceptions = raising


def configure_logging(connection: ConnectionSettings) -> None:
    """Sets the log level: warnings by default, with ``-v`` also information, with ``-vv`` also debugging.

    A record is one line, followed by its traceback, if any.
    """
    import logging

    class Lines(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            record.message = record.getMessage()
            if self.usesTime():
                record.asctime = self.formatTime(record, self.datefmt)
            text = terminal.line(self.formatMessage(record))
            error = record.exc_info[1] if record.exc_info else None
            return text if error is None else f"{text}\n{terminal.traceback_of(error).removesuffix(chr(10))}"

    verbosity = connection.verbosity
    handler = logging.StreamHandler(connection.env.stderr)
    form = "%(asctime)s.%(msecs)03d %(levelname)s %(message)s" if verbosity else "%(message)s"
    handler.setFormatter(Lines(form, "%H:%M:%S"))
    own = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbosity, 2)]
    for name, level in (("rstream_core", own), ("rstream_cli", own), ("asyncio", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.handlers[:] = [handler]
        logger.propagate = False
    logging.raiseExceptions = False  # a closed stderr must not make the run fail


def tell_warnings(tell: Callable[[str], None]) -> None:
    """Calls ``tell`` with each warning of the core: for ``rstream broker`` without ``-v``.

    Repeats the same warning only after a minute: on a full disk every message causes it.
    """
    import logging

    from rstream_core.log_limit import LogLimit

    limit = LogLimit()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            line = record.getMessage()
            if limit.lets_through(line, time.monotonic()):
                tell(line)

    logger = logging.getLogger("rstream_core")
    logger.handlers[:] = [Handler(logging.WARNING)]
    logger.propagate = False


async def _supervise(main: Main, connection: ConnectionSettings, graceful: bool) -> ExitStatus:
    import asyncio

    from rstream_cli.lookups import LookupExecutor

    interrupt = Interrupt()
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    loop.set_default_executor(LookupExecutor())

    def on_signal(number: signal.Signals) -> None:
        if not interrupt.is_new(number):
            return
        if interrupt.signal is None:
            interrupt.signal = number
            interrupt.requested.set()
            if graceful:
                return
        elif interrupt.forced or not graceful:
            connection.env.signals.end_at_once(_SIGNALS[interrupt.signal])
        interrupt.forced = graceful
        task.cancel()

    def after_the_run(number: signal.Signals) -> None:
        """Ends the process at once, unless the signal only repeats the last one: that must not hide the exit code."""
        if interrupt.is_new(number):
            connection.env.signals.end_at_once(_SIGNALS[number])

    try:
        with connection.env.signals.handled(_SIGNALS, on_signal, after_the_run):
            context = CommandContext(connection.env, connection, connection.options, interrupt)
            status = await main(context)
    except asyncio.CancelledError:
        if interrupt.status is None:
            raise
        status = interrupt.status
    except Exception:
        if interrupt.status is None or graceful:
            raise
        status = interrupt.status  # an error after the cancellation
    return status if graceful else Ended("", status).status_after(interrupt.status)


def start_hint(error: BaseException, connection: ConnectionSettings) -> str | None:
    """Returns the hint on how to start a broker, if the default address refuses the connection; otherwise None."""
    from rstream_core.errors import ConnectionFailed

    if type(first_error(error)) is not ConnectionFailed or connection.gives_address or connection.options.tls:
        return None
    return START_HINT if "refuses" in str(error) else None
