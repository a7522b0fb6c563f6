"""The console script. It answers ``rstream --version`` and a shell's TAB itself, without importing Typer and the core.

``run`` is a whole run in an environment, which a test may also start. It flushes stdout at the end, the last chance to
notice a closed pipe or a full disk. ``main`` is the run of the process.
"""

from __future__ import annotations

import signal
import sys

TYPE_CHECKING = False  # importing typing is slow, and until main() runs Ctrl-C prints a traceback
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from rstream_cli.environment import Environment

COMPLETE_VARIABLE = "_RSTREAM_COMPLETE"
"""Set by the shells' completion scripts, to the shell's name."""


def main() -> NoReturn:
    """Runs the command line of this process."""
    was_ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as for a shell's background jobs
    if not was_ignored:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # while modules are imported, SIGINT ends the process silently
    from rstream_cli.environment import Environment

    env = Environment.of_process()
    if not was_ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    status = run(sys.argv[1:], env)
    env.signals.leave()
    sys.exit(status)


def run(arguments: Sequence[str], env: Environment) -> int:
    """Runs one command line, flushes its streams, and returns the exit code."""
    from rstream_cli.environment import StdoutError, silence
    from rstream_cli.exit_status import ExitStatus

    status = 0
    try:
        if shell := env.variable(COMPLETE_VARIABLE):
            from rstream_cli.completing import complete

            status = int(complete(shell, arguments, env))
        elif list(arguments) in (["--version"], ["-V"]):
            from rstream_cli.version import print_version

            print_version(env.stdout)
        else:
            from rstream_cli.app import run as run_command_line

            status = int(run_command_line(arguments, env))
        env.stdout.flush()
    except KeyboardInterrupt:  # while modules are imported
        status = ExitStatus.INTERRUPTED
    except (BrokenPipeError, StdoutError) as error:
        silence(env.stdout)
        if isinstance(error, StdoutError):
            _tell(error, env)
        status = status or (ExitStatus.INTERNAL if isinstance(error, StdoutError) else ExitStatus.STDOUT_CLOSED)
    try:
        env.stderr.flush()
    except OSError:
        silence(env.stderr)
    return status


def _tell(error: OSError, env: Environment) -> None:
    try:
        env.stderr.write(f"error: {error}\n")
    except OSError:
        pass


if __name__ == "__main__":
    main()
