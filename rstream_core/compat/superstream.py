"""What is the same for a producer and a consumer of a super stream: it can be created with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rstream_core.administration import OfOneSuperStream
from rstream_core.compat.differences import differs
from rstream_core.errors import PreconditionFailed, StreamDoesNotExist

__all__ = ["SuperStreamCreationOption"]


@dataclass
class SuperStreamCreationOption:
    """A number of partitions, or one for each binding key, with ``n_partitions`` 0 then."""

    n_partitions: int
    binding_keys: list[str] | None = None
    arguments: Mapping[str, object] | None = None


class CreatesSuperStream(OfOneSuperStream):
    """Creates its super stream when it starts, if it was told how."""

    _creation: SuperStreamCreationOption | None

    async def create_super_stream(
        self,
        super_stream: str | None = None,
        n_partitions: int | None = None,
        binding_keys: Sequence[str] | None = None,
        arguments: Mapping[str, object] | None = None,
        exists_ok: bool = False,
        *,
        partitions: int | None = None,
        routing_keys: Sequence[str] | None = None,
    ) -> list[str]:
        """See the core's method. With ``exists_ok``, one with other partitions will do: returns those, and warns."""
        name = super_stream or self.super_stream
        try:
            return await super().create_super_stream(
                name,
                n_partitions,
                binding_keys,
                arguments,
                exists_ok,
                partitions=partitions,
                routing_keys=routing_keys,
            )
        except PreconditionFailed as error:
            if not exists_ok:
                raise
            try:
                found = await self._client.partitions(name)
            except StreamDoesNotExist:  # it was refused for another reason
                raise error from None
            differs(f"super stream {name}", f"super stream {name!r} has other partitions than asked for: {len(found)}")
            return found

    async def _create(self) -> None:
        """As the option says; a super stream that is there will do."""
        given = self._creation
        if given is not None:
            await self.create_super_stream(
                self.super_stream, given.n_partitions, given.binding_keys, given.arguments, exists_ok=True
            )
