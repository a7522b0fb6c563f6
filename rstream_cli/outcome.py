"""How a run ended, and the exit code that this is: decided here, and nowhere else.

The exit code of an error is that of ``status_of``. A signal counts for more than a run that is done, or that skipped
something. What a caller must not miss counts for more than a signal: an error, messages that are not confirmed, a
reader of stdout that has left.
"""

from __future__ import annotations

from dataclasses import dataclass

from rstream_cli.exit_status import ExitStatus

_STRONGER_THAN_SIGNALS = (ExitStatus.NOT_CONFIRMED, ExitStatus.STDOUT_CLOSED)


@dataclass(frozen=True, slots=True)
class Ended:
    """Why a run ended."""

    reason: str
    """A few words, for the summary."""
    status: ExitStatus = ExitStatus.OK
    error: BaseException | None = None
    """Reported on stderr, where it is not one that ends without a word."""

    def status_after(self, signal: ExitStatus | None) -> ExitStatus:
        """The exit code. ``signal``: that of the first signal which came; None where none did."""
        if signal is None or self.error is not None or self.status in _STRONGER_THAN_SIGNALS:
            return self.status
        return signal
