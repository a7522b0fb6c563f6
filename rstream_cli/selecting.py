"""The options that choose among messages: a table.

Each has a module with a function ``choosers``, which gives what decides about a message; all of them must want it. A
new one is an option in ``SelectOptions``, a module like matching.py, and a line here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from rstream_cli.exit_status import CommandError
from rstream_cli.names import check_option
from rstream_cli.options.selecting import SelectOptions

if TYPE_CHECKING:
    from rstream_cli.filtering import BrokerFilter
    from rstream_core.flow.stages import Chooser

SELECTS: Mapping[str, str] = {
    "rstream_cli.grepping": "grep grep_not",
    "rstream_cli.matching": "match",
    "rstream_cli.filtering": "filter_from",
}
"""The modules, in the order in which they are asked, with their fields of ``SelectOptions``."""


def choosers_of(options: SelectOptions, *, raw: bool) -> Sequence[Chooser]:
    """Returns what the options ask for. Raises CommandError. ``raw``: stored bytes are bodies, not AMQP 1.0."""
    found: list[Chooser] = []
    for module, fields in SELECTS.items():
        if any(getattr(options, field) for field in fields.split()):  # else it need not be imported
            found += import_module(module).choosers(options, raw=raw)
    return found


def broker_filter(options: SelectOptions) -> BrokerFilter | None:
    """Returns what the broker is asked for; None for everything. Raises CommandError."""
    values = tuple(options.filter_values or ())
    for value in values:
        check_option("--filter", value)
    if not values:
        for said, flag in ((options.filter_from, "--filter-from"), (options.match_unfiltered, "--match-unfiltered")):
            if said:
                raise CommandError(f"{flag} needs --filter", hint="pass --filter VALUE, once for each value")
        return None
    from rstream_cli.filtering import BrokerFilter

    return BrokerFilter(values, options.match_unfiltered)
