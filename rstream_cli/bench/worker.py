"""One process of a benchmark: ``python -m rstream_cli.bench.worker``, started by ``workers``.

It gets a line of JSON on stdin: connection settings, and its part of the run. It answers with lines of JSON on stdout:
``ready`` once it is connected; then it waits for ``go``, which names the time to begin; ``second`` each second;
``done`` with what was measured, or ``error``; ``lost``, ``recovered`` and ``given_up`` where a connection is lost, and
what became of it. Further lines on stdin tell it to ``stop``, or what consumers may
``expect``. Where stdin ends, the program that has started it is gone, and it ends at once.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from contextlib import suppress
from typing import Any

from rstream_cli.bench import plan
from rstream_cli.bench.consume_load import ConsumeLoad
from rstream_cli.bench.publish_load import PublishLoad
from rstream_cli.bench.settings import from_json
from rstream_cli.environment import ColorChoice, Environment
from rstream_cli.exit_status import kind_of, status_of
from rstream_cli.hints import hint_of
from rstream_cli.lookups import LookupExecutor
from rstream_cli.options.connecting import ConnectionSettings
from rstream_cli.passwords import PasswordSources
from rstream_cli.runner import configure_logging, describe
from rstream_core import Client
from rstream_core.connecting.recovery import RecoveryEvent


def tell(event: dict[str, Any]) -> None:
    """Writes a line to stdout. Ends the process where nobody reads it any more."""
    data = memoryview(json.dumps(event, separators=(",", ":")).encode() + b"\n")
    try:
        while data:
            data = data[os.write(1, data) :]
    except OSError:
        os._exit(1)


async def main(told: dict[str, Any], env: Environment) -> None:
    """Does one part of a run."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(LookupExecutor())
    orders = asyncio.StreamReader(limit=plan.MAX_LINE)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin.buffer)
    options, recovery, wait = from_json(told["settings"], PasswordSources.of(env))

    def on_recovery(event: RecoveryEvent) -> None:
        place = f"{event.what} of {event.stream}"
        tell({"event": event.state.name.lower(), "place": place, "message": describe(event.error)})

    async with Client(options, recovery=recovery, on_recovery=on_recovery) as client:
        await client.start(wait=wait)
        load = _load_of(plan.from_json(told["part"]), client)
        await load.open()
        gc.collect()
        gc.freeze()  # what stays for the whole run is not looked through again
        tell({"event": "ready"})
        order = await _order(orders)
        if order["do"] == "go":
            following = asyncio.create_task(_follow(orders, load))
            try:
                await load.run(order["at"])
            finally:
                following.cancel()
            tell({"event": "done", **load.result(), "error": None if load.error is None else as_json(load.error)})


def _load_of(part: plan.Part, client: Client) -> PublishLoad | ConsumeLoad:
    if isinstance(part, plan.Publishing):
        return PublishLoad(part, client, tell)
    assert isinstance(part, plan.Consuming)
    return ConsumeLoad(part, client, tell)


async def _follow(orders: asyncio.StreamReader, load: PublishLoad | ConsumeLoad) -> None:
    while True:
        order = await _order(orders)
        if order["do"] == "stop":
            load.stop()
        elif isinstance(load, ConsumeLoad):
            load.expect(order["confirmed"])


async def _order(orders: asyncio.StreamReader) -> dict[str, Any]:
    """Returns the next order. Ends the process where there can be none."""
    line = await orders.readline()
    if not line.endswith(b"\n"):
        os._exit(1)
    order: dict[str, Any] = json.loads(line)
    return order


def as_json(error: BaseException) -> dict[str, Any]:
    """Returns an error as the program tells of it."""
    return {
        "status": int(status_of(error)),
        "kind": kind_of(error),
        "message": describe(error),
        "hint": hint_of(error),
    }


def run() -> None:
    """Runs the process to its end."""
    env = Environment.of_process()
    told = json.loads(sys.stdin.buffer.readline(plan.MAX_LINE))
    configure_logging(ConnectionSettings(env=env, verbosity=told["verbosity"], color=ColorChoice.NEVER))
    try:
        asyncio.run(main(told, env))
    except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - the program that started this reports it
        tell({"event": "error", **as_json(error)})
    sys.stdout = sys.stderr  # nothing else is written there
    with suppress(OSError):
        env.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    run()
