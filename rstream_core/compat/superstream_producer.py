"""``SuperStreamProducer``, as programs of the published client know it, over the core's."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Unpack

from rstream_core.checks import check_callable
from rstream_core.compat.connecting import Connecting
from rstream_core.compat.producer import OnConfirm, Producer, as_key
from rstream_core.compat.restarting import Restartable
from rstream_core.compat.superstream import CreatesSuperStream, SuperStreamCreationOption
from rstream_core.producers.filter_extraction import FilterValueExtractor
from rstream_core.producers.outbox_jobs import Message
from rstream_core.producers.superstream import RoutingExtractor, RoutingFunction
from rstream_core.producers.superstream import SuperStreamProducer as CoreProducer
from rstream_core.types import RouteType as CoreRouteType

__all__ = ["RouteType", "SuperStreamProducer"]


class RouteType(enum.Enum):
    """How the partition of a routing key is found."""

    Hash = 0
    """By the published client's own hash, which is another than that of the Java, Go and Rust clients."""
    Key = 1
    """By the bindings of the super stream."""


_ROUTES = {RouteType.Hash: CoreRouteType.PythonHash, RouteType.Key: CoreRouteType.Key}


class ProducerArguments(Connecting, total=False):
    """The keyword arguments of ``Producer``."""

    max_publishers_by_connection: int
    default_batch_publishing_delay: float | None
    default_context_switch_value: int
    filter_value_extractor: FilterValueExtractor | None


class SuperStreamProducer(Restartable, CreatesSuperStream, CoreProducer):
    """Publishes to a super stream. See the core's class of this name; what is here adapts its arguments.

    ``routing`` may be one of the core's route types, or a function, too. With ``super_stream_creation_option``,
    ``start`` creates the super stream where it is not there. After ``close()`` it may be started again.
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int | str = 5552,
        *,
        super_stream: str,
        super_stream_creation_option: SuperStreamCreationOption | None = None,
        routing_extractor: RoutingExtractor | None = None,
        routing: RouteType | CoreRouteType | RoutingFunction = RouteType.Hash,
        **arguments: Unpack[ProducerArguments],
    ) -> None:
        self._creation = super_stream_creation_option
        self._arguments = arguments
        route = _ROUTES[routing] if isinstance(routing, RouteType) else routing
        extractor = routing_extractor
        if extractor is not None and route is CoreRouteType.Key:
            check_callable("routing_extractor", extractor)
            extractor = as_key(extractor)

        def begin() -> None:
            CoreProducer.__init__(
                self, host, port, super_stream=super_stream, routing=route, routing_extractor=extractor
            )

        self._begin = begin
        begin()

    if TYPE_CHECKING:

        async def send(
            self,
            message: Message,
            on_publish_confirm: OnConfirm | None = None,  # type: ignore[override]
            *,
            publisher_name: str | None = None,
        ) -> None:
            """See the core's method, which this is; the callback gets what that of ``Producer`` gets."""

    def _make_producer(self, *where: Any, **_: Any) -> Producer:
        return Producer(*where, **self._arguments)

    async def start(self, *, wait: float = 0.0) -> None:
        """Connects, logs in, and creates the super stream where that was asked for.

        The partitions are asked for with the first message: so the super stream may be created until then.
        """
        await self._begin_again()
        await self._producer.start(wait=wait)
        await self._create()
