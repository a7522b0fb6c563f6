"""The methods of producers and consumers that administer streams: each calls the same method of the client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from rstream_core.errors import ConfigurationError
from rstream_core.facade import Facade


class Partitioning(TypedDict):
    """The part of ``Client.create_super_stream``'s arguments that says which partitions there are to be."""

    partitions: int | None
    routing_keys: Sequence[str] | None


def partitioning(
    n_partitions: int | None,
    binding_keys: Sequence[str] | None,
    partitions: int | None,
    routing_keys: Sequence[str] | None,
) -> Partitioning:
    """What was given, under either name; 0 ``n_partitions`` beside keys are none. Raises ``ConfigurationError``."""
    if binding_keys is not None and n_partitions == 0:
        n_partitions = None
    if (n_partitions is not None and partitions is not None) or (binding_keys is not None and routing_keys is not None):
        raise ConfigurationError(
            "pass partitions or n_partitions, which are the same; so are routing_keys and binding_keys"
        )
    return {
        "partitions": n_partitions if partitions is None else partitions,
        "routing_keys": binding_keys if routing_keys is None else routing_keys,
    }


class Administration(Facade):
    """The methods that concern streams as well as partitions."""

    async def update_password(self, password: str) -> None:
        """See ``Client.update_password``."""
        await self._client.update_password(password)

    async def stream_exists(self, stream: str) -> bool:
        """Returns whether the stream, or partition, exists, with or without a leader at the moment."""
        return await self._client.stream_exists(stream)


class StreamAdministration(Administration):
    """Creates and deletes streams."""

    async def create_stream(
        self, stream: str, arguments: Mapping[str, object] | None = None, exists_ok: bool = False
    ) -> None:
        """See ``Client.create_stream``."""
        await self._client.create_stream(stream, arguments, exists_ok=exists_ok)

    async def delete_stream(self, stream: str, missing_ok: bool = False) -> None:
        """See ``Client.delete_stream``."""
        await self._client.delete_stream(stream, missing_ok=missing_ok)


class SuperStreamAdministration(Administration):
    """Creates and deletes super streams."""

    async def create_super_stream(
        self,
        super_stream: str,
        n_partitions: int | None = None,
        binding_keys: Sequence[str] | None = None,
        arguments: Mapping[str, object] | None = None,
        exists_ok: bool = False,
        *,
        partitions: int | None = None,
        routing_keys: Sequence[str] | None = None,
    ) -> list[str]:
        """See ``Client.create_super_stream``. ``n_partitions`` and ``binding_keys`` are other names of the two."""
        created = await self._client.create_super_stream(
            super_stream,
            **partitioning(n_partitions, binding_keys, partitions, routing_keys),
            arguments=arguments,
            exists_ok=exists_ok,
        )
        self._forget_partitions()
        return created

    async def delete_super_stream(self, super_stream: str, missing_ok: bool = False) -> None:
        """See ``Client.delete_super_stream``."""
        await self._client.delete_super_stream(super_stream, missing_ok=missing_ok)
        self._forget_partitions()

    def _forget_partitions(self) -> None:
        """Drops cached partitions, after super streams were created or deleted."""


class OfOneSuperStream(SuperStreamAdministration):
    """Administers, unless another is named, the super stream that it is for."""

    super_stream: str

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
        """As of the base class. Without a name: its own super stream."""
        return await super().create_super_stream(
            super_stream or self.super_stream,
            n_partitions,
            binding_keys,
            arguments,
            exists_ok,
            partitions=partitions,
            routing_keys=routing_keys,
        )

    async def delete_super_stream(self, super_stream: str | None = None, missing_ok: bool = False) -> None:
        """As of the base class. Without a name: its own super stream."""
        await super().delete_super_stream(super_stream or self.super_stream, missing_ok)
