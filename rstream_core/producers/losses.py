"""Messages that were lost and had no callback: counted, and told by the next call, once.

A ``NotConfirmed`` counts the losses of one outbox, or of several. A call that should have raised it and was cancelled
gives them back, and the call after it tells of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from rstream_core.errors import NotConfirmed


class LossCount:
    """The losses of one outbox of which nobody has been told."""

    __slots__ = ("count", "reason")

    def __init__(self) -> None:
        self.count = 0
        self.reason = ""
        """Why the last of them was lost."""

    def add(self, count: int, reason: str) -> None:
        self.count += count
        self.reason = reason

    def tell(self) -> None:
        """Raises ``NotConfirmed``, and forgets the losses that it counts."""
        count, self.count = self.count, 0
        raise not_confirmed(Losses(count, self.reason, self))


@dataclass(frozen=True, slots=True)
class Losses:
    """What a ``NotConfirmed`` counts, so that those of several outboxes make one error."""

    count: int
    reason: str
    source: LossCount | None = None


_losses: WeakKeyDictionary[NotConfirmed, Losses] = WeakKeyDictionary()
"""Beside the errors and not in them: they leave the process, and users see a ``NotConfirmed`` and nothing else."""


def not_confirmed(losses: Losses) -> NotConfirmed:
    """Returns the error that tells of them."""
    what = "1 earlier message was" if losses.count == 1 else f"{losses.count} earlier messages were"
    error = NotConfirmed(f"{what} not confirmed: {losses.reason}")
    _losses[error] = losses
    return error


def losses_of(error: BaseException) -> Losses | None:
    """Returns the losses that an error counts; None where it counts none."""
    return _losses.get(error) if isinstance(error, NotConfirmed) else None


def raise_together(errors: Sequence[BaseException]) -> None:
    """Raises the errors of several outboxes, if there are any, as one: the first, or a sum of all losses."""
    losses = [found for found in map(losses_of, errors) if found is not None]
    others = [error for error in errors if losses_of(error) is None]
    if not losses:
        for error in others:
            raise error
        return
    if len(errors) == 1:
        raise errors[0]
    reason = losses[0].reason
    if others:
        reason = f"{reason}; and {others[0]}"
    raise not_confirmed(Losses(sum(found.count for found in losses), reason)) from (others[0] if others else None)


def tell_later(errors: Sequence[BaseException]) -> None:
    """Leaves losses that cannot be raised to be told by the next call."""
    for losses in map(losses_of, errors):
        if losses is not None and losses.source is not None:
            losses.source.add(losses.count, losses.reason)
