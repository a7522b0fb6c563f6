"""The layer of every module, and a diagram of the layers that is drawn from the imports themselves.

tests/unit/test_layers.py holds the modules to the table; scripts/generate.py writes the diagram.
"""

from __future__ import annotations

import ast
import functools
import textwrap
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent

LAYERS = """
rstream_core: addresses hints listening log_limit text tokens version
rstream_core: errors
rstream_core: checks
rstream_core: http_server
rstream_core: types
rstream_core: uri
rstream_core.protocol: . amqp_types wire_source
rstream_core.protocol: amqp_codec framing routing sub_batch wire_choice
rstream_core: refused_twin
rstream_core.protocol: amqp_sections primitives
rstream_core.protocol: amqp_fields commands compression
rstream_core.protocol: wire_python
rstream_core.protocol: wire
rstream_core.protocol: placed
rstream_core.protocol: amqp chunk session
rstream_core.protocol: delivered
rstream_core.dump: . buffer frames layout
rstream_core.dump: manifest
rstream_core.dump: reading
rstream_core.broker: bloom disk groups holes refusal
rstream_core.broker: checks publishing statistics tracking
rstream_core.broker: folder segment session
rstream_core.broker: ports scan
rstream_core.broker: clients confirms log names
rstream_core.broker: arguments gathering
rstream_core.broker: writer
rstream_core.broker: stream
rstream_core.broker: super_streams
rstream_core.broker: streams
rstream_core.broker: listing
rstream_core.broker: delivery faults
rstream_core.broker: commands
rstream_core.broker: connection management
rstream_core.broker: server
rstream_core.broker: embedded
rstream_core.broker: .
rstream_core: callbacks loops timeslice
rstream_core: arguments
rstream_core.connecting: . recovery transport
rstream_core.connecting: attempts renewal
rstream_core.connecting: logins
rstream_core.connecting: connection
rstream_core.connecting: nodes
rstream_core.connecting: locator
rstream_core.connecting: pool
rstream_core.connecting: attachment
rstream_core.flow: . acks
rstream_core.flow: block
rstream_core.publishing: . confirm_timer in_flight
rstream_core.publishing: columns registered_publisher
rstream_core.publishing: outgoing
rstream_core.publishing: numbering
rstream_core.publishing: publisher
rstream_core.consuming: . credits gaps progress single_active
rstream_core.consuming: offsets
rstream_core.consuming: offset_questions
rstream_core.consuming: arrivals gap_finder start turn_taking
rstream_core.consuming: intake
rstream_core.consuming: subscription
rstream_core.consuming: subscriptions
rstream_core.flow: access gate lane read_plan stages
rstream_core.flow: hand_over refusing run stream_reading
rstream_core.flow: ends fitting routing stores
rstream_core.flow: opening stream_sink
rstream_core.flow: stream_source
rstream_core.diffing: . alignment sections
rstream_core.diffing: difference inputs
rstream_core.diffing: comparison
rstream_core.flow: blocks
rstream_core.diffing: diff
rstream_core.flow: workers
rstream_core.copying: . names
rstream_core.copying: plan resuming
rstream_core.copying: access stages
rstream_core.copying: mark
rstream_core.copying: looking
rstream_core.copying: stream_copy
rstream_core.copying: copy
rstream_core.copying: call
rstream_core: streams
rstream_core: publisher_opener subscription_opener
rstream_core: client
rstream_core: facade
rstream_core: administration
rstream_core.producers: . losses room
rstream_core.producers: outbox_jobs
rstream_core.producers: filter_extraction job_queue
rstream_core.producers: outbox
rstream_core.producers: outboxes
rstream_core.producers: producer
rstream_core.producers: superstream
rstream_core.consumers: . processed_offsets
rstream_core.consumers: subscribers
rstream_core.consumers: delivering iteration
rstream_core.consumers: subscriber_iteration
rstream_core.consumers: consumer
rstream_core.consumers: superstream_consumer
rstream_core.compat: amqp constants differences exceptions recovery restarting utils
rstream_core.compat: compression losses superstream
rstream_core.compat: connecting
rstream_core.compat: consumer producer
rstream_core.compat: superstream_consumer superstream_producer
rstream_core.compat: .
rstream_core: .
rstream_pytest: .
rstream_cli: . completable completion_scripts version environment lookups output whole_files
rstream_cli: completion_table
rstream_cli: terminal
rstream_cli: pretty_json
rstream_cli.management: . errors
rstream_cli.management: address answers
rstream_cli.management: http_client
rstream_cli.management: api
rstream_cli.records: . framing_in framing_out paths
rstream_cli.records: tagged_values
rstream_cli.records: envelope
rstream_cli.records: body_envelopes
rstream_cli.records: large_messages
rstream_cli: exit_status
rstream_cli: hints
rstream_cli: ended error_form mistakes
rstream_cli: asking input names parsing typer_support
rstream_cli.bench: . histogram payload saving
rstream_cli.bench: check plan results
rstream_cli.bench: load
rstream_cli.bench: consume_load publish_load
rstream_cli: formats
rstream_cli.records: template values
rstream_cli.render: . columns screen stats
rstream_cli: lags
rstream_cli.render: words
rstream_cli.bench: metrics
rstream_cli.bench: compare plot report
rstream_cli.render: json_lines lag_table line live prometheus
rstream_cli.render: lag_live
rstream_cli.render: display
rstream_cli: passwords setting_values trusted_files
rstream_cli: connection_settings contexts project
rstream_cli.bench: settings
rstream_cli: effective
rstream_cli.options: . answering declaring messages routing
rstream_cli.options: connecting publishing selecting
rstream_cli.options: consuming
rstream_cli.options: benchmarks copying other_side showing
rstream_cli: dump_sources runner stream_facts stream_names
rstream_cli: completing dump_survey
rstream_cli.bench: compare_command worker
rstream_cli.bench: workers
rstream_cli.bench: running
rstream_cli.render: facts
rstream_cli.render: dump_facts status
rstream_cli: diagnosis displayed_run kinds outages rendering
rstream_cli: lag_exporter lag_survey management_diagnosis
rstream_cli.bench: command
rstream_cli: filtering grepping lag_run matching
rstream_cli.endpoints: . stdout
rstream_cli: copy_values
rstream_cli: dump_file dump_manifest
rstream_cli: dump_target
rstream_cli.records: csv_out
rstream_cli: outputs
rstream_cli: consume_plan copy_request diff_report dump_options encoding publish_report
rstream_cli.records: csv_in
rstream_cli: inputs publish_plan selecting
rstream_cli: consume_report copy_report publish_ending publish_stages
rstream_cli: consume_sink
rstream_cli: idle_note
rstream_cli.endpoints: dump_records publishers records
rstream_cli: consume_run copy_run diff_run publish_run
rstream_cli: consume_command copy_command publish_command
rstream_cli.commands: . bench broker completion consume context copy diff doctor dump lag offset_list offset_reset
rstream_cli.commands: offset publish sac_consume stream_list version
rstream_cli.commands: stream
rstream_cli.commands: superstream_consume superstream_publish
rstream_cli.commands: superstream
rstream_cli: app
rstream_cli: __main__
"""
"""From the bottom, a line a layer: a package and its modules, "." for the package itself.

A module imports from the layers before its own. So there is no circle.
"""


def modules() -> dict[str, Path]:
    found = {}
    for package in ("rstream_core", "rstream_pytest", "rstream_cli"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def layers() -> dict[str, int]:
    """The layer of each module, from the bottom."""
    found: dict[str, int] = {}
    for number, line in enumerate(LAYERS.strip().splitlines()):
        package, _, names = line.partition(": ")
        for name in names.split():
            module = package if name == "." else f"{package}.{name}"
            assert module not in found, f"{module} has two layers"
            found[module] = number
    return found


LAYER_OF = layers()


@functools.cache
def imports(source: str) -> tuple[str, ...]:
    """The modules that a source imports, wherever it does, or names in a string, to import them when they are needed.

    ``from package import module`` is the module's import. The name of a logger is none.
    """
    return tuple(_imports(ast.parse(source)))


def _imports(tree: ast.Module) -> Iterator[str]:
    loggers: set[ast.expr] = set()
    for node in ast.walk(tree):  # a call is met before its arguments
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "getLogger":
            loggers |= set(node.args)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are banned"
            assert node.module is not None
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from names & MODULES.keys()
            if not names <= MODULES.keys():
                yield node.module
        elif isinstance(node, ast.Constant) and node not in loggers and node.value in MODULES and "." in node.value:
            yield node.value


class Band(NamedTuple):
    """Modules of one package that import nothing but each other and what lies below them."""

    package: str
    rows: list[list[str]]
    """From the top. No module imports another one of its row."""


def bands(imported_by: Mapping[str, Set[str]], package_of: Mapping[str, str]) -> list[Band]:
    """Divides modules into bands, from the bottom. ``imported_by`` has the modules that each module imports.

    Of the packages that could be next it takes one that is then complete, else the one with the most modules: so there
    are few bands. Raises ``ValueError`` where the imports have a circle.
    """
    left: dict[str, set[str]] = {}
    for module, package in package_of.items():
        left.setdefault(package, set()).add(module)
    placed: set[str] = set()
    found = []
    while left:
        ready = {package: _closed(modules, placed, imported_by) for package, modules in left.items()}
        package = max(ready, key=lambda name: (ready[name] == left[name], len(ready[name]), name))
        modules = ready[package]
        if not modules:
            raise ValueError(f"a circle among {', '.join(sorted(set().union(*left.values())))}")
        found.append(Band(package, _rows(modules, imported_by)))
        placed |= modules
        left[package] -= modules
        if not left[package]:
            del left[package]
    return found


def _closed(modules: Set[str], placed: Set[str], imported_by: Mapping[str, Set[str]]) -> set[str]:
    """The modules of a package that import only each other and what is placed."""
    closed = set(modules)
    while outside := {module for module in closed if not imported_by[module] <= placed | closed}:
        closed -= outside
    return closed


def _rows(modules: Set[str], imported_by: Mapping[str, Set[str]]) -> list[list[str]]:
    rows: list[list[str]] = []
    below: set[str] = set()
    while rest := modules - below:
        row = sorted(module for module in rest if not imported_by[module] & rest)
        if not row:
            raise ValueError(f"a circle among {', '.join(sorted(rest))}")
        rows.insert(0, row)
        below.update(row)
    return rows


def diagram() -> str:
    """All modules, from the top: each band with its package, and its rows."""
    imported_by = {
        module: {name for name in imports(path.read_text(encoding="utf-8")) if name in MODULES} - {module}
        for module, path in MODULES.items()
    }
    package_of = {
        module: module if path.name == "__init__.py" else module.rpartition(".")[0] for module, path in MODULES.items()
    }
    width = 2 + max(map(len, package_of.values()))
    lines = []
    for package, rows in reversed(bands(imported_by, package_of)):
        margin = package.ljust(width)
        for row in rows:
            names = "  ".join(name.removeprefix(f"{package}.") if name != package else "." for name in row)
            lines += textwrap.wrap(names, 100, initial_indent=margin, subsequent_indent=" " * width)
            margin = " " * width
    return "\n".join(lines) + "\n"
