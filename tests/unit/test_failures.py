"""Failures that repeat are counted for a while, then told, then the next one is told in full."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from rstream_core.callbacks import MAX_KINDS, TELL_INTERVAL, Failures


class Clock:
    """Stands in for the timers of the loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.timers: list[tuple[float, Callable[[], None]]] = []
        loop = asyncio.get_running_loop()
        real = loop.call_later

        def call_later(delay: float, callback: Callable[..., Any], *args: Any, **how: Any) -> asyncio.TimerHandle:
            if delay == TELL_INTERVAL:
                self.timers.append((delay, callback))
            return real(delay, callback, *args, **how)

        monkeypatch.setattr(loop, "call_later", call_later)

    def ring(self) -> None:
        _, callback = self.timers.pop()
        callback()


async def test_an_interval(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock(monkeypatch)
    failures = Failures("it")

    def told() -> list[str]:
        messages = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return messages

    for number in range(5):
        failures.tell(LookupError(), "failed for %d", number)
    assert told() == ["failed for 0"]
    clock.ring()
    assert told() == ["it failed 4 more times"]
    assert clock.timers == []
    failures.tell(LookupError(), "failed for %d", 5)
    assert told() == ["failed for 5"]
    clock.ring()
    assert told() == []
    failures.sum_up()
    assert told() == []


async def test_a_kind_is_a_type_and_a_place(caplog: pytest.LogCaptureFixture) -> None:
    failures = Failures("it")

    def here() -> None:
        raise LookupError

    def there() -> None:
        raise LookupError

    for fail in (here, there, here, there):
        try:
            fail()
        except LookupError as error:
            failures.tell(error, "%s failed", fail.__name__)
    failures.sum_up()
    assert caplog.messages == ["here failed", "there failed", "it failed 2 more times"]


async def test_types_without_number(caplog: pytest.LogCaptureFixture) -> None:
    failures = Failures("it")
    for number in range(50):
        failures.tell(type(f"Error{number}", (Exception,), {})(), "failed for %d", number)
    failures.sum_up()
    assert len(caplog.records) == MAX_KINDS + 1
    assert caplog.messages[-1] == f"it failed {50 - MAX_KINDS} more times"
