"""``--pace``: messages come with the gaps in time that they had. The clock is virtual: hours take no time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from rstream_cli.parsing import parse_pace
from rstream_core.flow.acks import Account, Acks, Verdict
from rstream_core.flow.block import Block
from rstream_core.flow.gate import Admission, Pace
from rstream_core.flow.run import Run
from rstream_core.flow.stages import Count, Stop

HOUR = 3_600_000
START = 1_795_428_000_000


class _Selector(selectors.SelectSelector):
    """Waits for nothing, and notes how long it would have."""

    waited = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout:
            self.waited += timeout
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    """Time passes where something is waited for."""

    def __init__(self) -> None:
        self.selector = _Selector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.waited


def in_virtual_time(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(main())


class _Source:
    def __init__(self, blocks: list[Block]) -> None:
        self.blocks = blocks
        self.end: Stop | None = None

    def start(self, wake: Callable[[], None]) -> None:
        pass

    def poll(self) -> Block | None:
        if self.end is None and not self.blocks:
            self.end = Stop("all is read", "until")
        return self.blocks.pop(0) if self.end is None else None

    def due(self) -> float | None:
        return None

    async def tick(self) -> None:
        raise AssertionError

    def stop(self) -> None:
        self.end = self.end or Stop("stopped")


class _Sink:
    """Notes when each message has come, in seconds."""

    failed: Stop | None = None

    def __init__(self) -> None:
        self.came: list[tuple[int, float]] = []

    def start(self, wake: Callable[[], None]) -> None:
        pass

    def push(self, block: Block) -> Awaitable[None] | None:
        now = asyncio.get_running_loop().time()
        self.came += [(position, round(now, 6)) for position in block.positions]
        block.done()
        return None

    def due(self) -> float | None:
        return None

    def tick(self) -> Awaitable[None] | None:
        raise AssertionError

    async def drain(self) -> None:
        pass


def blocks(account: Account, *times: int) -> list[Block]:
    """A block of two messages at each of these times, in milliseconds after the first one."""
    acks, found = Acks(account), []
    for place, time in enumerate(times):
        acks.hand_out(2 * place, 2)
        found.append(Block(acks, range(2 * place, 2 * place + 2), [b"a", b"b"], "s", START + time))
    return found


@pytest.mark.parametrize(
    ("speed", "expected"),
    [
        (1.0, [0, 0, 0.25, 0.25, 7200, 7200]),
        (10.0, [0, 0, 0.025, 0.025, 720, 720]),
        (0.5, [0, 0, 0.5, 0.5, 14400, 14400]),
    ],
)
def test_messages_come_with_their_gaps(speed: float, expected: list[float]) -> None:
    told: list[float] = []

    async def main() -> None:
        account, sink = Account(), _Sink()
        run = Run(_Source(blocks(account, 0, 250, 2 * HOUR)), (), sink, account, gate=Pace(speed, told.append))
        assert (await run.work()).kind == "until"
        assert sink.came == list(enumerate(expected))
        assert account.by[Verdict.DONE] == 6

    in_virtual_time(main)
    assert [round(seconds, 6) for seconds in told] == [expected[2], expected[4] - expected[2]]


def test_delays_do_not_add_up() -> None:
    """Who comes late for one message waits less for the next one, and who is late goes at once."""
    gate, (first, second, third, fourth) = Pace(), blocks(Account(), 0, 1000, 2000, 3000)
    assert gate.admit(first, 50.0) == Admission(first, None, 50.0)
    assert gate.admit(second, 50.9) == Admission(None, second, 51.0)
    assert gate.admit(second, 51.7) == Admission(second, None, 51.7)
    assert gate.admit(third, 51.7) == Admission(None, third, 52.0)
    assert gate.admit(third, 60.0) == Admission(third, None, 60.0)
    assert gate.admit(fourth, 60.0) == Admission(fourth, None, 60.0)


def test_a_time_that_goes_back_and_a_missing_one_wait_for_nothing() -> None:
    gate, (first, second) = Pace(), blocks(Account(), 5000, 0)
    gate.admit(first, 1.0)
    assert gate.admit(second, 1.0).now is second
    second.timestamp = None
    assert gate.admit(second, 1.0).now is second


def test_a_wait_is_told_of_once() -> None:
    told: list[float] = []
    gate, (first, second) = Pace(2.0, told.append), blocks(Account(), 0, 60_000)
    gate.admit(first, 0.0)
    for now in (0.0, 10.0, 20.0):
        assert gate.admit(second, now).now is None
    assert told == [30.0]


def test_a_stop_ends_a_wait_of_hours_and_leaves_the_message_open() -> None:
    """What is held was not written: it stays open, so that no stored offset passes it, and comes again."""

    async def main() -> None:
        account, sink = Account(), _Sink()
        run = Run(_Source(blocks(account, 0, 2 * HOUR, 3 * HOUR)), (), sink, account, gate=Pace(), gate_gives_back=True)
        asyncio.get_running_loop().call_later(60.0, run.stop, Stop("SIGINT", "signal"))
        assert await run.work() == Stop("SIGINT", "signal")
        assert sink.came == [(0, 0.0), (1, 0.0)]
        assert asyncio.get_running_loop().time() == pytest.approx(60.0)
        assert [list(block.positions) for block in run.behind] == [[2, 3]]

    in_virtual_time(main)


def test_a_number_of_messages_is_reached_when_the_last_one_is_due() -> None:
    async def main() -> None:
        account, sink, count = Account(), _Sink(), Count(3, "enough")
        source = _Source(blocks(account, 0, HOUR, 2 * HOUR))
        run = Run(source, (count,), sink, account, gate=Pace(), gate_gives_back=True, ends=(count.end,))
        assert await run.work() == Stop("enough", "count")
        assert sink.came == [(0, 0.0), (1, 0.0), (2, 3600.0)]

    in_virtual_time(main)


@pytest.mark.parametrize(
    ("text", "pace"), [("original", 1.0), (" Original ", 1.0), ("10x", 10.0), ("0.5X", 0.5), ("0.001x", 0.001)]
)
def test_a_pace_is_read(text: str, pace: float) -> None:
    assert parse_pace(text) == pace


@pytest.mark.parametrize(
    "text", ["", "x", "10", "0x", "-1x", "1e3x", "infx", "nanx", "0.0001x", "1000001x", "1.x", "٣x"]
)
def test_a_bad_pace(text: str) -> None:
    with pytest.raises(ValueError, match="pace"):
        parse_pace(text)


def test_a_number_alone_gets_advice() -> None:
    with pytest.raises(ValueError, match=r"give 10x\Z"):
        parse_pace("10")
