"""Listens for connections, at one port for all addresses of a host."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("rstream_core")

_ATTEMPTS = 10
"""Free ports that are tried until one is free at all addresses."""


async def listen(factory: Callable[[], asyncio.BaseProtocol], host: str, port: int, **options: Any) -> asyncio.Server:
    """Listens at all addresses of ``host``, as ``loop.create_server`` does, whose ``options`` and errors it has.

    ``port`` 0 means a free one, and the same at all addresses: a name such as localhost has one in IPv4 and one in
    IPv6, for which the system alone would choose two ports, of which a user would learn one.
    """
    loop = asyncio.get_running_loop()
    for _ in range(_ATTEMPTS):
        server = await loop.create_server(factory, host, port, **options)
        ports = list(dict.fromkeys(sock.getsockname()[1] for sock in server.sockets))
        if len(ports) == 1:
            return server
        server.close()
        try:
            return await loop.create_server(factory, host, ports[0], **options)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            logger.debug("port %d is in use at another address of %r", ports[0], host)
    raise OSError(errno.EADDRINUSE, f"found no port that is free at all addresses of {host!r}")
