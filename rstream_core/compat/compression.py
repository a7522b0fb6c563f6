"""The codecs of sub-entries as objects, which the published client has for no compression and for gzip.

The core compresses and decompresses by itself, with all five codecs. These objects are for programs that call them; a
codec that a program registers is kept, and the core does not call it.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from rstream_core.compat.differences import differs
from rstream_core.errors import ChunkError
from rstream_core.protocol.amqp import encode_message
from rstream_core.protocol.chunk import join_sub_batch
from rstream_core.protocol.compression import compress, decompress
from rstream_core.types import CompressionType

__all__ = [
    "CompressionHelper",
    "CompressionType",
    "GzipCompressionCodec",
    "ICompressionCodec",
    "NoneCompressionCodec",
    "StreamCompressionCodecs",
]


class ICompressionCodec(ABC):
    """One sub-entry: ``compress`` makes it of messages, and the other methods tell of the one that was made last."""

    @abstractmethod
    def compress(self, messages: Sequence[Any]) -> None: ...

    @abstractmethod
    def uncompress(self, compressed_data: bytes, uncompressed_data_size: int) -> bytes: ...

    @abstractmethod
    def compressed_size(self) -> int: ...

    @abstractmethod
    def uncompressed_size(self) -> int: ...

    @abstractmethod
    def messages_count(self) -> int: ...

    @abstractmethod
    def compression_type(self) -> int: ...

    @abstractmethod
    def data(self) -> bytes: ...


class _Codec(ICompressionCodec):
    """A codec of the core as such an object."""

    kind: ClassVar[CompressionType]

    def __init__(self) -> None:
        self._uncompressed_size = self._count = 0
        self._data = b""

    def compress(self, messages: Sequence[Any]) -> None:
        encoded = list(map(encode_message, messages))
        joined = join_sub_batch(encoded)
        self._data = compress(self.kind, joined)
        self._count, self._uncompressed_size = len(encoded), len(joined)

    def uncompress(self, compressed_data: bytes, uncompressed_data_size: int) -> bytes:
        """Raises ``ValueError`` where the data is damaged, or has another size."""
        try:
            return decompress(self.kind, compressed_data, uncompressed_data_size)
        except ChunkError as error:
            raise ValueError(str(error)) from error

    def compressed_size(self) -> int:
        return len(self._data)

    def uncompressed_size(self) -> int:
        return self._uncompressed_size

    def messages_count(self) -> int:
        return self._count

    def compression_type(self) -> int:
        return self.kind.value

    def data(self) -> bytes:
        return self._data


class NoneCompressionCodec(_Codec):
    kind = CompressionType.No


class GzipCompressionCodec(_Codec):
    kind = CompressionType.Gzip


class _SnappyCodec(_Codec):
    kind = CompressionType.Snappy


class _Lz4Codec(_Codec):
    kind = CompressionType.Lz4


class _ZstdCodec(_Codec):
    kind = CompressionType.Zstd


class StreamCompressionCodecs:
    """The codecs by their types."""

    available_compress_codecs: ClassVar[dict[CompressionType, ICompressionCodec]] = {
        codec.kind: codec()
        for codec in (NoneCompressionCodec, GzipCompressionCodec, _SnappyCodec, _Lz4Codec, _ZstdCodec)
    }

    @staticmethod
    def register_codec(compression_type: CompressionType, codec: ICompressionCodec) -> None:
        """Keeps it for ``get_compression_codec``. Producers and consumers go on with their own."""
        StreamCompressionCodecs.available_compress_codecs[compression_type] = codec
        differs(
            "register_codec",
            f"rstream has a codec for {compression_type.name} of its own, and does not call the registered one",
        )

    @staticmethod
    def get_compression_codec(compression_type: CompressionType) -> ICompressionCodec:
        """A copy of the codec."""
        return copy.copy(StreamCompressionCodecs.available_compress_codecs[compression_type])


class CompressionHelper:
    """Compresses and decompresses in one call."""

    @staticmethod
    def compress(messages: Sequence[Any], compression_type: CompressionType) -> ICompressionCodec:
        codec = StreamCompressionCodecs.get_compression_codec(compression_type)
        codec.compress(messages)
        return codec

    @staticmethod
    def uncompress(data: bytes, compression_type: CompressionType, uncompressed_data_size: int) -> bytes:
        return StreamCompressionCodecs.get_compression_codec(compression_type).uncompress(data, uncompressed_data_size)
