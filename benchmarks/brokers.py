"""The embedded broker beside RabbitMQ, each at its limit: a bare socket publishes to it, and drains it."""

from __future__ import annotations

from functools import partial

from benchmarks.goals import checked, drained, fill
from benchmarks.programs import Result, Target
from benchmarks.rounds import Contender, ratio, take_turns
from benchmarks.tables import Row


def publish(target: Target, count: int) -> Result:
    with target.new_streams("brokers") as (stream,):
        return checked(target, target.worker("bare_socket", "publish", stream, count), count, stream)


def measure(rabbitmq: Target, embedded: Target, count: int, rounds: int) -> list[Row]:
    """The table, with its heads."""
    named = {"RabbitMQ": rabbitmq, "embedded": embedded}
    publishing = [Contender(f"{name}, publish", partial(publish, target, count)) for name, target in named.items()]
    with rabbitmq.new_streams("drain") as (theirs,), embedded.new_streams("drain") as (own,):
        for target, stream in ((rabbitmq, theirs), (embedded, own)):
            fill(target, stream, count)
        draining = [
            Contender(f"{name}, drain", partial(drained, target, stream, count))
            for (name, target), stream in zip(named.items(), (theirs, own), strict=True)
        ]
        take_turns("brokers", [*publishing, *draining], rounds)
    rows: list[Row] = [("", "messages/s", "of RabbitMQ's")]
    for group in (publishing, draining):
        rows += [(each.label, f"{each.rate:,.0f}", f"{ratio(each, group[0]):.2f} x") for each in group]
    return rows
