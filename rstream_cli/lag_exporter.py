"""``rstream lag --listen``: serves lags as metrics over HTTP, and asks for them when they are scraped.

Whoever scrapes while the broker is asked waits for the same answer, and an answer serves for ``--interval``: many
scrapes are no load on the broker. Where nothing could be asked, a scrape gets 503, which Prometheus takes for a failed
scrape (``up`` is 0), so that lags go stale and are not shown as they were; where one partition could not, the others
are there, and ``rstream_lag_up`` of that one is 0. So Prometheus advises the authors of exporters. The reason names
hosts, so only a client on this machine gets it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine
from http import HTTPStatus
from typing import Any, NoReturn

from rstream_cli.exit_status import CommandError
from rstream_cli.lags import Lags
from rstream_cli.render import prometheus
from rstream_core.errors import RstreamError
from rstream_core.http_server import Answer, HttpServer, Request
from rstream_core.listening import listen
from rstream_core.types import Endpoint

logger = logging.getLogger("rstream_cli")

SCRAPE_TIMEOUT = 9.0
"""Seconds that a scrape waits: Prometheus leaves after 10, and would not learn why."""
REFRESH_TIMEOUT = 60.0
"""Seconds for asking for all lags; the first time may take long, where many chunks are to be read."""
_NO_REASON = "nothing could be asked; rstream lag says why on its stderr, and to clients on its own machine"
_PAGE = b"""<!doctype html>
<title>rstream lag</title>
<p>How far consumers are behind: <a href="/metrics">metrics</a>.
"""


class LagExporter:
    """Answers scrapes. Must be closed."""

    def __init__(
        self,
        refresh: Callable[[], Awaitable[Lags]],
        interval: float,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        """``interval``: seconds for which lags are taken for the present ones.

        ``tell`` is called when asking fails, and when it succeeds again.
        """
        self._refresh = refresh
        self._interval = interval
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._refreshing: asyncio.Task[bytes | str] | None = None
        """The last refresh, which may go on. Its result are the metrics, or the reason why it failed."""
        self._refreshed_at = 0.0
        """When it ended, by the loop's clock."""
        self._has_failed = False
        self._is_fault_logged = False
        """Whether an exception that nobody expects was logged, since the last refresh that succeeded."""

    def respond(self, request: Request) -> Answer | Coroutine[Any, Any, Answer]:
        """Answers a request: ``/metrics``, and a page at ``/``."""
        match request.target.partition("?")[0]:
            case "/metrics":
                return self._answer_scrape(is_local=request.is_local)
            case "/":
                return Answer(HTTPStatus.OK, _PAGE, "text/html; charset=utf-8")
        return refuse(HTTPStatus.NOT_FOUND)

    async def _answer_scrape(self, *, is_local: bool) -> Answer:
        try:
            async with asyncio.timeout(SCRAPE_TIMEOUT):
                found = await self.metrics()
        except TimeoutError:
            found = f"no answer within {SCRAPE_TIMEOUT:g} s"
        if isinstance(found, bytes):
            return Answer(HTTPStatus.OK, found, prometheus.CONTENT_TYPE)
        text = prometheus.failure(found if is_local else _NO_REASON)
        return Answer(HTTPStatus.SERVICE_UNAVAILABLE, text.encode(), prometheus.CONTENT_TYPE)

    async def metrics(self) -> bytes | str:
        """The lags now, as metrics, or the reason why they cannot be had. A cancelled call cancels no refresh."""
        task = self._refreshing
        if task is None or (task.done() and self._loop.time() - self._refreshed_at >= self._interval):
            self._refreshing = task = self._loop.create_task(self._refresh_metrics())
        return await asyncio.shield(task)

    async def _refresh_metrics(self) -> bytes | str:
        found: bytes | str
        try:
            async with asyncio.timeout(REFRESH_TIMEOUT):
                found = prometheus.exposition(await self._refresh()).encode()
        except (RstreamError, CommandError, TimeoutError) as error:
            found = str(error) or f"no answer within {REFRESH_TIMEOUT:g} s"
        except Exception as error:  # a fault of the program, which each scrape would meet again
            found = f"{type(error).__name__}: {error}"
            if not self._is_fault_logged:
                self._is_fault_logged = True
                logger.exception("asking for lags")
        finally:
            self._refreshed_at = self._loop.time()
        has_failed = isinstance(found, str)
        if not has_failed:
            self._is_fault_logged = False
        if has_failed is not self._has_failed:
            self._has_failed = has_failed
            self._tell(f"not refreshed: {found}" if isinstance(found, str) else "refreshed again")
        return found

    async def close(self) -> None:
        """Ends a refresh that goes on."""
        if self._refreshing is not None and not self._refreshing.done():
            self._refreshing.cancel()
            await asyncio.wait({self._refreshing})


def refuse(status: HTTPStatus) -> Answer:
    """The answer to a request that gets nothing else."""
    fields = ("allow: GET, HEAD",) if status is HTTPStatus.METHOD_NOT_ALLOWED else ()
    return Answer(status, f"{status.value} {status.phrase}\n".encode(), "text/plain; charset=utf-8", fields)


async def serve(exporter: LagExporter, host: str, port: int, listening: Callable[[str], None]) -> NoReturn:
    """Serves until it is cancelled. ``port`` 0 means a free one. Calls ``listening`` with the address of the metrics.

    Raises CommandError where it cannot listen there.
    """
    http = HttpServer(exporter.respond, refuse, [host], has_logins=False)
    loop = asyncio.get_running_loop()
    try:
        server = await listen(http.connection, host, port, reuse_address=True)
    except socket.gaierror as error:
        raise CommandError(f"--listen: cannot listen on {host!r}: {error.strerror}") from None
    except UnicodeError:  # a label of a name may have 63 bytes, and not be empty
        raise CommandError(f"--listen: cannot listen on {host!r}: it is not a host name") from None
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise CommandError(f"--listen: cannot listen on {host}:{port}: {why}") from None
    try:
        listening(f"http://{Endpoint(host, server.sockets[0].getsockname()[1])}/metrics")
        while True:
            await loop.create_future()  # until a signal cancels it
    finally:
        server.close()
        http.close()
        await exporter.close()
