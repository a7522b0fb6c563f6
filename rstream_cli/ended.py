"""How a run ended, and its exit code after a signal.

The run itself says why it ended, and with which code; that of an error comes from ``status_of``. A signal takes
precedence over a run that has finished, or that skipped records. An error, messages that are not confirmed, and a
closed stdout take precedence over a signal.
"""

from __future__ import annotations

from dataclasses import dataclass

from rstream_cli.exit_status import ExitStatus

_STRONGER_THAN_SIGNALS = (ExitStatus.NOT_CONFIRMED, ExitStatus.STDOUT_CLOSED)


UNTIL_REACHED = "--until is reached"
NOTHING_TO_READ = "there is nothing to read"


@dataclass(frozen=True, slots=True)
class Ended:
    """The reason why a run ended."""

    reason: str
    """A few words, for the summary."""
    status: ExitStatus = ExitStatus.OK
    error: BaseException | None = None
    """The error to report on stderr; ``runner.report`` prints nothing for some."""

    def status_after(self, signal: ExitStatus | None) -> ExitStatus:
        """Returns the exit code. ``signal`` is the exit code of the first signal; None without a signal."""
        if signal is None or self.error is not None or self.status in _STRONGER_THAN_SIGNALS:
            return self.status
        return signal
