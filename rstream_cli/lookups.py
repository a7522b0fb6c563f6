"""Name lookups of asyncio in threads that nobody waits for at the end.

asyncio looks names up in its default executor, whose threads the loop waits for while it closes: a name server that
does not answer would hold the process up long after the connect timeout has told why it ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class LookupExecutor(ThreadPoolExecutor):
    """Runs each call in a daemon thread of its own; for the few calls that lookups are."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - it is told to whoever waits
                future.set_exception(error)
            else:
                future.set_result(result)

        threading.Thread(target=run, name="rstream-lookup", daemon=True).start()
        return future
