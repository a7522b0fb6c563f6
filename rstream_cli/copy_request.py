"""The checked options of a run of ``copy``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rstream_cli.options.consuming import OnGap
from rstream_cli.options.copying import CopyOptions
from rstream_cli.parsing import Start, Until

if TYPE_CHECKING:
    from rstream_cli.copy_values import ValueAt
    from rstream_cli.filtering import BrokerFilter
    from rstream_core import CompressionType
    from rstream_core.flow.stages import Chooser


@dataclass(frozen=True, slots=True)
class CopyRequest:
    """The checked options of a run."""

    source: str
    target: str
    start: Start | None
    """None: the first message."""
    until: Until | None
    """None: with ``follow`` not at all, else at the end."""
    options: CopyOptions
    filter: BrokerFilter | None
    choosers: tuple[Chooser, ...]
    keys: ValueAt | None
    filters: ValueAt | None
    pace: float | None
    compression: CompressionType | None

    @property
    def fails_on_gap(self) -> bool:
        """Whether a gap ends the run."""
        return self.options.on_gap is OnGap.FAIL

    @property
    def selection(self) -> str:
        """All that decides which messages are copied, in words that always mean the same."""
        given = self.options
        said = {
            "codec": given.codec.value if self.choosers or self.keys is not None else None,
            "grep": given.grep,
            "grep_not": given.grep_not,
            "match": given.match,
            "filter_from": given.filter_from,
        }
        return "\n".join(f"{name} {value!r}" for name, value in said.items() if value)
