"""Starts the processes that make the load, and talks to them: see ``worker`` for what they say.

They are no part of the terminal's foreground job, so Ctrl-C reaches this program alone, which then tells them to stop.
One that dies, or says nothing for long, ends the run with an error; none is left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from rstream_cli.bench import plan
from rstream_cli.environment import Environment
from rstream_cli.exit_status import CommandError, ExitStatus

READY_TIMEOUT = 120.0
"""Seconds for a process to start and to connect; ``--wait-for-broker`` comes on top."""
SILENCE_TIMEOUT = plan.DRAIN_TIMEOUT + plan.SETTLE_TIMEOUT + 40.0
"""Seconds after which a process that says nothing is given up. While it works, it reports every second."""
_GRACE = 1.0
"""Seconds in which a process that is no longer needed ends by itself."""
_MODULE = "rstream_cli.bench.worker"
_PACKAGES = Path(__file__).resolve().parents[2]
"""Where the process finds this program, however it was started."""


class WorkerError(CommandError):
    """A process of the benchmark has failed: with an error of its own, or without saying why."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        super().__init__(told["message"], hint=told["hint"], status=ExitStatus(told["status"]))


class Worker:
    """One process."""

    def __init__(self, process: asyncio.subprocess.Process, part: plan.Part) -> None:
        self._process = process
        self.part = part

    @classmethod
    async def start(
        cls, part: plan.Part, settings: Mapping[str, Any], env: Environment, verbosity: int, stderr: int | None
    ) -> Self:
        """Starts a process, and tells it what to do. Raises ``CommandError`` where it cannot be started."""
        path = os.pathsep.join(filter(None, (str(_PACKAGES), env.variable("PYTHONPATH"))))
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # the folder in which the user is has no modules for it
                "-m",
                _MODULE,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL if stderr is None else stderr,
                env={**env.variables, "PYTHONPATH": path},
                limit=plan.MAX_LINE,
                start_new_session=True,
            )
        except OSError as error:
            raise CommandError(
                f"cannot start a process for the load: {error.strerror}", status=ExitStatus.INTERNAL
            ) from None
        worker = cls(process, part)
        worker.order({"settings": settings, "part": plan.to_json(part), "verbosity": verbosity})
        return worker

    def order(self, order: Mapping[str, Any]) -> None:
        """Sends a line. One that has ended does not read it."""
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(OSError):
            stdin.write(json.dumps(order).encode() + b"\n")

    async def event(self, timeout: float = SILENCE_TIMEOUT) -> dict[str, Any]:
        """Waits for the next event. Raises ``WorkerError`` for an ``error``, and where there is none in time."""
        stdout = self._process.stdout
        assert stdout is not None
        try:
            async with asyncio.timeout(timeout):
                line = await stdout.readline()
        except TimeoutError:
            raise _failed(f"has said nothing for {timeout:g} s") from None
        if not line.endswith(b"\n"):
            raise _failed(await self._how_it_ended())
        event: dict[str, Any] = json.loads(line)
        if event["event"] == "error":
            raise WorkerError(event)
        return event

    async def _how_it_ended(self) -> str:
        try:
            async with asyncio.timeout(5.0):
                code = await self._process.wait()
        except TimeoutError:
            return "has closed its output"
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    async def end(self) -> None:
        """Ends the process, if it still runs: it ends by itself where its stdin does, and is killed if it does not.

        Never raises. ``Process.kill`` would ask for the exit code, which asyncio waits for in a thread, and warns where
        somebody was quicker.
        """
        process, stdin = self._process, self._process.stdin
        assert stdin is not None
        stdin.close()
        if not await self._has_ended(_GRACE):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            await self._has_ended(5.0)
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1.0):
                await stdin.wait_closed()

    async def _has_ended(self, timeout: float) -> bool:
        try:
            async with asyncio.timeout(timeout):
                await self._process.wait()
        except TimeoutError:
            return False
        return True


def _failed(how: str) -> WorkerError:
    return WorkerError(
        {
            "message": f"a process of the benchmark {how}",
            "hint": None,
            "status": ExitStatus.INTERNAL,
        }
    )
