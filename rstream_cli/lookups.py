"""Runs asyncio's name lookups in daemon threads, for which the end of the process does not wait.

asyncio looks up names in its default executor, and waits for its threads when the loop closes. A name server that does
not answer would hold the process up long after the connect timeout.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class LookupExecutor(ThreadPoolExecutor):
    """Runs each call in a daemon thread of its own. Only for a few calls, such as lookups."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - raised by the future
                future.set_exception(error)
            else:
                future.set_result(result)

        threading.Thread(target=run, name="rstream-lookup", daemon=True).start()
        return future
