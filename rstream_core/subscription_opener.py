"""Opens subscriptions on the right node, for one client.

A subscription goes to a replica, or to the leader where there is none or where it is wanted. While a stream has no
leader, opening waits a moment.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial

from rstream_core.checks import check_flag, check_name, check_subscription_properties, check_texts, check_whole
from rstream_core.connecting.locator import Locator
from rstream_core.connecting.pool import ConnectionPool
from rstream_core.connecting.recovery import Recoveries
from rstream_core.consuming.gaps import Gap, GapListener
from rstream_core.consuming.offset_questions import OffsetQuestions
from rstream_core.consuming.offsets import in_words
from rstream_core.consuming.subscription import SingleActiveConsumer, Subscription
from rstream_core.errors import ConfigurationError, ConnectionFailed, RstreamError
from rstream_core.protocol import commands as c
from rstream_core.streams import require
from rstream_core.types import ConsumerOffsetSpecification, Endpoint

logger = logging.getLogger("rstream_core")

MAX_INITIAL_CREDIT = 0xFFFF
CREDIT_TO_RELY_ON = 200
"""Chunks ahead that every broker grants. RabbitMQ 4.3.6 grants more (seen), in a Subscribe and in a Credit; a proposal
for later versions has a limit, ``stream.max_credit_chunks``, of 200 by default, and answers 17 beyond it."""


class SubscriptionOpener:
    """Opens subscriptions, and has the questions about offsets that some of them ask."""

    def __init__(
        self, locator: Locator, pool: ConnectionPool, recoveries: Recoveries, on_gap: GapListener | None
    ) -> None:
        self._locator = locator
        self._pool = pool
        self._recoveries = recoveries
        self._on_gap = on_gap
        self._is_credit_warned_of = False
        self.offsets = OffsetQuestions(locator, pool, self._at_leader)

    async def open(
        self,
        stream: str,
        spec: ConsumerOffsetSpecification,
        *,
        credit: int,
        properties: Mapping[str, str],
        single_active: SingleActiveConsumer | None,
        at_leader: bool,
        fail_on_gap: bool,
    ) -> Subscription:
        """See ``Client.subscribe``. ``properties`` and ``single_active`` are those of ``subscription_properties``."""
        self._check_credit(credit)
        if single_active is not None:  # came with the same version
            await require(self._locator, c.Key.PARTITIONS, "3.11", "a single active consumer")
        if any(key.startswith("filter.") for key in properties):
            # An older broker would ignore the filter, and send all chunks.
            await require(self._locator, c.Key.PUBLISH, "3.13", "filtering", version=2)
        subscription = Subscription(
            stream,
            spec,
            self._pool,
            self._locator,
            self._recoveries,
            credit=credit,
            properties=properties,
            position=partial(self.offsets.position, stream),
            single_active=single_active,
            at_leader=at_leader,
            on_gap=self.tell_gap,
            fail_on_gap=fail_on_gap,
        )

        async def subscribe() -> None:
            if at_leader:
                nodes = [await self._locator.leader_now(stream)]
            else:
                nodes = await self._locator.readers_now(stream)

            async def open_at(node: Endpoint) -> None:
                await subscription.open(node)
                place = "leader" if node == nodes[-1] else "replica"
                start = in_words(spec) if single_active is None else f"in turns as {single_active.name!r}"
                logger.info("reading stream %r at %s (%s), %s", stream, node, place, start)

            await first_that_serves(nodes, open_at)

        await self._locator.when_elected(subscribe)
        return subscription

    async def _at_leader(self, stream: str, spec: ConsumerOffsetSpecification) -> Subscription:
        """Subscribes with one credit and without recovery: after a lost connection the caller starts anew."""
        subscription = Subscription(
            stream,
            spec,
            self._pool,
            self._locator,
            Recoveries(None),
            credit=1,
            properties={},
            position=partial(self.offsets.position, stream),
        )
        await subscription.open(await self._locator.leader_now(stream))
        return subscription

    def _check_credit(self, credit: int) -> None:
        check_whole("credit", credit, 1, MAX_INITIAL_CREDIT)
        if credit > CREDIT_TO_RELY_ON and not self._is_credit_warned_of:
            self._is_credit_warned_of = True
            logger.warning(
                "a credit of %d: RabbitMQ 4.3 grants it, later versions may refuse more than %d chunks"
                " (stream.max_credit_chunks)",
                *(credit, CREDIT_TO_RELY_ON),
            )

    def tell_gap(self, gap: Gap) -> None:
        """Tells the application of a gap; without a listener, the log."""
        if self._on_gap is None:
            logger.warning("%s", gap)
            return
        logger.info("%s", gap)
        self._on_gap(gap)


def subscription_properties(
    properties: Mapping[str, str] | None,
    filter_values: Sequence[str],
    match_unfiltered: bool,
    single_active: SingleActiveConsumer | None,
) -> tuple[dict[str, str], SingleActiveConsumer | None]:
    """Returns the properties of a Subscribe, and the single active consumer, which may be given in properties alone.

    Raises ``TypeError`` or ``ConfigurationError`` for what cannot be.
    """
    told = check_subscription_properties(properties or {})
    check_flag("match_unfiltered", match_unfiltered)
    check_texts("filter_values", filter_values)
    if single_active is None and told.get("single-active-consumer") == "true":
        if not told.get("name"):
            raise ConfigurationError("a single active consumer needs a name")
        single_active = SingleActiveConsumer(told["name"], told.get("super-stream"))
    if single_active is not None:
        check_name("the name of a single active consumer", single_active.name)
        if single_active.super_stream is not None:
            check_name("super_stream", single_active.super_stream)
        told |= single_active.properties()
    told |= {f"filter.{number}": value for number, value in enumerate(filter_values)}
    if match_unfiltered:
        told["match-unfiltered"] = "true"
    return told, single_active


async def first_that_serves(nodes: Iterable[Endpoint], use: Callable[[Endpoint], Awaitable[None]]) -> None:
    """Calls ``use`` with one node after the other until it succeeds. Raises the first error where all fail.

    An error that would be the same on every node is raised at once.
    """
    first: RstreamError | None = None
    for node in nodes:
        try:
            return await use(node)
        except RstreamError as error:
            if not error.retriable and not isinstance(error, ConnectionFailed):
                raise
            first = first or error
    assert first is not None
    raise first
