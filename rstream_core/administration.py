"""The methods of producers and consumers that administer streams: each calls the same method of the client."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TypedDict

from rstream_core.client import Client
from rstream_core.errors import ConfigurationError


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


class _ClientView(ABC):
    """The base of classes that use a client."""

    @property
    @abstractmethod
    def client(self) -> Client:
        """The client in use: for further administration, or to be shared."""

    async def update_password(self, password: str) -> None:
        """See ``Client.update_password``."""
        await self.client.update_password(password)

    async def stream_exists(self, stream: str) -> bool:
        """Returns whether the stream, or partition, exists, with or without a leader at the moment."""
        return await self.client.stream_exists(stream)


class Administration(_ClientView):
    """Creates and deletes streams."""

    async def create_stream(
        self, stream: str, arguments: Mapping[str, object] | None = None, exists_ok: bool = False
    ) -> None:
        """See ``Client.create_stream``."""
        await self.client.create_stream(stream, arguments, exists_ok=exists_ok)

    async def delete_stream(self, stream: str, missing_ok: bool = False) -> None:
        """See ``Client.delete_stream``."""
        await self.client.delete_stream(stream, missing_ok=missing_ok)


class SuperStreamAdministration(_ClientView):
    """Creates and deletes super streams: the object's own one, unless another is named."""

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
        """See ``Client.create_super_stream``. ``n_partitions`` and ``binding_keys`` are other names of the two."""
        created = await self.client.create_super_stream(
            super_stream or self.super_stream,
            **partitioning(n_partitions, binding_keys, partitions, routing_keys),
            arguments=arguments,
            exists_ok=exists_ok,
        )
        self._forget_partitions()
        return created

    async def delete_super_stream(self, super_stream: str | None = None, missing_ok: bool = False) -> None:
        """See ``Client.delete_super_stream``."""
        await self.client.delete_super_stream(super_stream or self.super_stream, missing_ok=missing_ok)
        self._forget_partitions()

    @abstractmethod
    def _forget_partitions(self) -> None:
        """Drops cached partitions, after super streams were created or deleted."""
