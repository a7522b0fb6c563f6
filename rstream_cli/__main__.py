"""The console script. ``rstream --version`` is answered here, before Typer and the core are imported.

``run`` is a whole run in an environment, as a test may start it too: it flushes stdout last, where the last chance to
see a closed pipe or a full disk is. ``main`` is that of the process.
"""

from __future__ import annotations

import signal
import sys

TYPE_CHECKING = False  # until main() runs Ctrl-C is a traceback, and importing typing takes the longest
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from rstream_cli.environment import Environment


def main() -> NoReturn:
    """Runs the command line of this process."""
    was_ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as for a shell's background jobs
    if not was_ignored:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # while modules are imported, it ends the process without a word
    from rstream_cli.environment import Environment

    env = Environment.of_process()
    if not was_ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    status = run(sys.argv[1:], env)
    env.signals.leave()
    sys.exit(status)


def run(arguments: Sequence[str], env: Environment) -> int:
    """Runs one command line to its end, the last flush of its streams included; the exit code."""
    from rstream_cli.environment import StdoutError, silence
    from rstream_cli.exit_status import ExitStatus

    status = 0
    try:
        # The same words may be asked about by a shell's completion: see completing.py.
        if list(arguments) in (["--version"], ["-V"]) and not env.variable("_RSTREAM_COMPLETE"):
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
