"""The console script. ``rstream --version`` is answered here, before Typer and the core are imported.

Ends the process: flushes stdout first, where the last chance to see a closed pipe or a full disk is.
"""

from __future__ import annotations

import signal
import sys

TYPE_CHECKING = False  # until main() runs Ctrl-C is a traceback, and importing typing takes the longest
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Runs the command line of this process."""
    was_ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as for a shell's background jobs
    if not was_ignored:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # while modules are imported, it ends the process without a word
    from rstream_cli.environment import Environment, StdoutError, silence
    from rstream_cli.exit_status import ExitStatus

    env = Environment.of_process()
    if not was_ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    arguments = sys.argv[1:]
    status = 0
    try:
        if arguments in (["--version"], ["-V"]):
            from rstream_cli.version import print_version

            print_version(sys.stdout)
        else:
            from rstream_cli.app import run

            status = int(run(arguments, env))
        sys.stdout.flush()
    except KeyboardInterrupt:  # while modules are imported
        status = ExitStatus.INTERRUPTED
    except (BrokenPipeError, StdoutError) as error:
        silence(1)
        if isinstance(error, StdoutError):
            _tell(error)
        status = status or (ExitStatus.INTERNAL if isinstance(error, StdoutError) else ExitStatus.STDOUT_CLOSED)
    try:
        sys.stderr.flush()
    except OSError:
        silence(2)
    sys.exit(status)


def _tell(error: OSError) -> None:
    try:
        sys.stderr.write(f"error: {error}\n")
    except OSError:
        pass


if __name__ == "__main__":
    main()
