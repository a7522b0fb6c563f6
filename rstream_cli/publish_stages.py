"""The stages and the gate of a run of ``publish``, and what its messages count in bytes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from rstream_cli.publish_plan import PublishPlan
from rstream_core import Publisher, RouteType
from rstream_core.flow.block import Block
from rstream_core.flow.fitting import TooLarge
from rstream_core.flow.gate import Rate
from rstream_core.flow.refusing import LeaveOutBad, LeaveOutKnown, TellBad
from rstream_core.flow.routing import RouteByBinding, RouteByHash
from rstream_core.flow.stages import Stage
from rstream_core.protocol.amqp import bodies_of
from rstream_core.protocol.routing import partition_indexes, python_partition_indexes

if TYPE_CHECKING:
    from rstream_core import Router

Sizes = Callable[[Sequence[bytes]], list[int]]
Prepare = Callable[[Block], Awaitable[None] | None]


def sizes_for(plan: PublishPlan) -> Sizes:
    """Returns the function that says how many bytes each of some messages counts: those of its body."""
    return _sizes_of_messages if plan.raw else _sizes_of_bodies


def _sizes_of_messages(messages: Sequence[bytes]) -> list[int]:
    return list(map(len, messages))


def _sizes_of_bodies(messages: Sequence[bytes]) -> list[int]:
    return [0 if body is None else len(body) for body in bodies_of(messages)]


def gate_for(plan: PublishPlan) -> Rate | None:
    """Returns the gate of ``--rate``; None without it."""
    rate = plan.rate
    if rate is None:
        return None
    if rate.bytes_per_second is not None:
        return Rate(rate.bytes_per_second, sizes_for(plan))
    return Rate(rate.messages_per_second or 1.0)


def stages_for(
    plan: PublishPlan,
    publishers: Sequence[Publisher],
    router: Router | None,
    tell_bad: TellBad,
    tell_known: Callable[[Block], None],
) -> tuple[list[Stage], Prepare | None]:
    """Returns the stages, and what prepares a block for them. What is bad is left out before what is known.

    ``router``: of a super stream, whose partitions ``publishers`` has in the same order.
    """
    too_large = TooLarge(lambda: min(publisher.max_message_size for publisher in publishers), plan.sub_entries)
    stages: list[Stage] = [LeaveOutBad(tell_bad, too_large)]
    prepare: Prepare | None = None
    if router is not None and plan.routing is RouteType.Key:
        by_binding = RouteByBinding(router.by_binding, router.partitions, stops_at_bad=not plan.skip_bad)
        prepare = by_binding.prepare
        stages = [by_binding, LeaveOutBad(tell_bad, too_large, by_binding.find_bad)]
    elif plan.routing is not None:
        lanes_of = partition_indexes if plan.routing is RouteType.Hash else python_partition_indexes
        stages.append(RouteByHash(lanes_of, len(publishers)))
    known = [publisher.known_publishing_id for publisher in publishers]
    if plan.has_ids and any(known):
        stages.append(LeaveOutKnown(known, tell_known))
    return stages, prepare
