"""The checks of ``doctor`` that the management API answers: alarms, nodes, plugins, and the replicas of a stream.

The stream port tells nothing of them: publishers wait while a disk alarm lasts, and a replica that is offline is missed
only when another one is. Where the API cannot be asked, or the user has no right to ask, a finding says so and is no
failure.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Iterator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from rstream_cli import terminal
from rstream_cli.diagnosis import FAIL, OK, SKIPPED, Finding
from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.hints import hint_of
from rstream_cli.render import words
from rstream_cli.runner import describe
from rstream_cli.stream_facts import listens
from rstream_core import ConfigurationError, RstreamError

if TYPE_CHECKING:
    from rstream_cli.management.answers import Alarm, ListedNode, ListedStream
    from rstream_cli.management.api import ManagementApi
    from rstream_cli.options.connecting import ConnectionSettings

STREAM_PLUGIN, LISTING_PLUGIN = "rabbitmq_stream", "rabbitmq_stream_management"
MAX_SHOWN = 8
"""Failures of one check, and names in one finding."""


async def management_findings(connection: ConnectionSettings, stream: str | None) -> AsyncGenerator[Finding, None]:
    """Yields what the API tells of the cluster and, if one is given, of a stream. Raises ``ConfigurationError`` alone.

    A caller that stops early must close the generator.
    """
    try:
        if connection.management_address() is None and not await listens(connection):
            connection.management().close()  # raises where a password may not be sent there
            yield Finding(
                "management",
                SKIPPED,
                "the management API does not answer at its default address",
                "it would tell of alarms, nodes and replicas: pass --management-uri",
            )
            return
        with connection.management() as api:
            async with aclosing(_findings(api, stream)) as found:
                async for finding in found:
                    yield finding
    except ConfigurationError:
        raise
    except RstreamError as error:
        yield _skipped("management", error)


async def _findings(api: ManagementApi, stream: str | None) -> AsyncGenerator[Finding, None]:
    alarms = await api.alarms()
    yield Finding("management", OK, f"{api.address} answers")
    nodes: list[ListedNode] | None = None
    problem: RstreamError | None = None
    try:
        nodes = await api.nodes()
    except RstreamError as error:
        problem = error
    for finding in _bounded(alarm_findings(alarms, nodes or ())):
        yield finding
    if nodes is not None:
        for finding in (*_bounded(node_findings(nodes)), *_bounded(plugin_findings(nodes))):
            yield finding
    elif problem is not None:
        yield _skipped("nodes", problem)
    if stream is None:
        return
    try:
        listed = await api.stream(stream)
    except RstreamError as error:
        yield _skipped("replicas", error)
    else:
        yield replicas_finding(listed, nodes or ())


def alarm_findings(alarms: Sequence[Alarm] | None, nodes: Sequence[ListedNode]) -> Iterator[Finding]:
    """A failure for each alarm, with the figures of its node where they are known. ``alarms``: None if not known."""
    if alarms is None:
        yield Finding(
            "alarms",
            SKIPPED,
            "the management API does not have this check",
            "`rabbitmq-diagnostics alarms` shows them",
        )
        return
    if not alarms:
        yield Finding("alarms", OK, "none")
    known = {node.name: node for node in nodes}
    for alarm in alarms:
        node, name = known.get(alarm.node), terminal.name(alarm.node)
        if alarm.resource == "disk space":
            figures = "" if node is None else _of(node.disk_free, "free", node.disk_free_limit)
            yield _failure(
                "alarms",
                f"disk alarm on {name}{figures}: publishers are blocked on all nodes",
                "free space on its disk; the limit is disk_free_limit in rabbitmq.conf",
            )
        elif alarm.resource == "memory":
            figures = "" if node is None else _of(node.memory_used, "used", node.memory_limit)
            yield _failure(
                "alarms",
                f"memory alarm on {name}{figures}: AMQP publishers are blocked, those of streams are not",
                "give the node more memory, or less to do; the limit is vm_memory_high_watermark in rabbitmq.conf",
            )
        else:
            yield _failure(
                "alarms",
                f"alarm on {name}: {terminal.name(alarm.resource)}",
                "`rabbitmq-diagnostics alarms` shows it",
            )


def _of(amount: int | None, what: str, limit: int | None) -> str:
    """``, 48.0 MB free and a limit of 50.0 MB``; nothing where either is not known."""
    if amount is None or limit is None:
        return ""
    return f", {words.size(amount)} {what} and a limit of {words.size(limit)}"


def node_findings(nodes: Sequence[ListedNode]) -> Iterator[Finding]:
    """A failure for each node that is down."""
    if not nodes:
        yield Finding("nodes", SKIPPED, "the management API names none")
        return
    down = [node for node in nodes if not node.is_running]
    if not down:
        yield Finding("nodes", OK, f"{len(nodes)} of {len(nodes)} are up: {_names(node.name for node in nodes)}")
    for node in down:
        yield _failure(
            "nodes",
            f"{terminal.name(node.name)} is down",
            "start it, or `rabbitmqctl forget_cluster_node` if it is gone for good; streams miss its replicas",
        )


def plugin_findings(nodes: Sequence[ListedNode]) -> Iterator[Finding]:
    """Where a node that is up lacks one of the two plugins for streams. Nothing, where no node tells its plugins."""
    telling = [node for node in nodes if node.is_running and node.plugins]
    if not telling:
        return
    lacking = {
        plugin: [node.name for node in telling if plugin not in node.plugins]
        for plugin in (STREAM_PLUGIN, LISTING_PLUGIN)
    }
    if lacking[STREAM_PLUGIN]:
        yield _failure(
            "plugins",
            f"{STREAM_PLUGIN} is off on {_names(lacking[STREAM_PLUGIN])}: stream clients cannot connect there",
            f"there: `rabbitmq-plugins enable {STREAM_PLUGIN}`",
        )
    if lacking[LISTING_PLUGIN]:
        yield Finding(
            "plugins",
            OK,
            f"{LISTING_PLUGIN} is off on {_names(lacking[LISTING_PLUGIN])}: consumers and stored offsets cannot be"
            " listed",
            f"there: `rabbitmq-plugins enable {LISTING_PLUGIN}`",
        )
    if not any(lacking.values()):
        yield Finding("plugins", OK, f"{STREAM_PLUGIN} and {LISTING_PLUGIN}")


def replicas_finding(stream: ListedStream, nodes: Sequence[ListedNode]) -> Finding:
    """Whether all replicas of a stream are online, and enough of them."""
    down = {node.name for node in nodes if not node.is_running}  # what the stream itself tells may be older
    offline = [name for name in stream.replicas if name not in stream.online or name in down]
    total = len(stream.replicas)
    if not total:
        return Finding(
            "replicas",
            SKIPPED,
            "the management API does not name the members of this stream",
            "`rabbitmq-streams stream_status STREAM` shows them",
        )
    has_majority = 2 * (total - len(offline)) > total
    if not offline and stream.leader is not None and stream.state != "minority":
        return Finding("replicas", OK, f"{total} of {total} online")
    detail = f"{len(offline)} of {total} offline: {_names(offline)}" if offline else f"{total} of {total} online"
    if not has_majority or stream.state == "minority":
        return _failure(
            "replicas",
            f"{detail}; without a majority there is no leader, and nothing is confirmed",
            "start the nodes: more than half of the replicas must be online",
        )
    if stream.leader is None or stream.leader in offline:
        return _failure(
            "replicas",
            f"{detail}; the stream has no leader",
            "one is elected within seconds; if not, `rabbitmq-streams restart_stream STREAM` elects one",
        )
    return _failure(
        "replicas",
        detail,
        "start the node; `rabbitmq-streams delete_replica` and `add_replica` move a replica to another one",
    )


def _bounded(findings: Iterator[Finding]) -> Iterator[Finding]:
    """The first of them, and how many are left out."""
    left = 0
    for number, finding in enumerate(findings):
        if number < MAX_SHOWN:
            yield finding
        else:
            left += 1
            last = finding
    if left:
        yield Finding(last.check, FAIL, f"and {words.count(left)} more", error=last.error)


def _names(names: Collection[str] | Iterator[str]) -> str:
    found = [terminal.name(name) for name in names]
    more = f" and {words.count(len(found) - MAX_SHOWN)} more" if len(found) > MAX_SHOWN else ""
    return ", ".join(found[:MAX_SHOWN]) + more


def _failure(check: str, detail: str, hint: str) -> Finding:
    """A check that does not hold: the exit code is that of a broker that cannot be used."""
    return Finding(check, FAIL, detail, hint, CommandError(detail, hint=hint, status=ExitStatus.CONNECTION))


def _skipped(check: str, error: RstreamError) -> Finding:
    """A check that the API cannot answer, which is no failure."""
    return Finding(check, SKIPPED, describe(error), hint_of(error))
