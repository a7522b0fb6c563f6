"""Stages that choose the lane of each message by its routing key: the index of a partition in the sink."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import repeat

from rstream_core.checks import check_text
from rstream_core.errors import ConfigurationError, RouteNotFound
from rstream_core.flow.block import Block
from rstream_core.flow.refusing import Bad
from rstream_core.flow.stages import Step

MAX_KNOWN_KEYS = 10_000
"""How many routing keys have their lanes kept, beside those of the present block: a bound on memory."""
NO_LANE = -1


class RouteByHash:
    """The stage for keys whose hash says the lane."""

    def __init__(self, lanes_of: Callable[[Sequence[bytes], int], Sequence[int]], lanes: int) -> None:
        """``lanes_of`` returns the lane of each of some keys, among so many: see ``protocol.routing``."""
        self._lanes_of = lanes_of
        self._lanes = lanes

    def __call__(self, block: Block) -> Step:
        assert block.keys is not None
        return Step(replace(block, lanes=self._lanes_of(block.keys, self._lanes)))


class RouteByBinding:
    """The stage for keys whose lane the broker knows, by the bindings of a super stream.

    ``prepare`` asks it, for ``Run``, and the stage takes the answers. A message is bad unless its key is bound to
    exactly one partition: it has ``NO_LANE``, and ``find_bad`` says why. A block that is not prepared goes through
    without lanes.
    """

    def __init__(
        self,
        ask: Callable[[str], Awaitable[Sequence[str]]],
        partitions: Sequence[str],
        *,
        stops_at_bad: bool,
    ) -> None:
        """``ask`` returns the partitions of a key, and raises ``RouteNotFound`` for none; ``partitions`` are those of
        the lanes. ``stops_at_bad``: whether the run ends at a bad message, so that nothing has to be asked behind the
        first bad key."""
        self._ask = ask
        self._lane_of = {partition: lane for lane, partition in enumerate(partitions)}
        self._stops_at_bad = stops_at_bad
        self._lanes: dict[bytes, int] = {}
        self._bad: dict[bytes, str] = {}
        """What is wrong with keys of the present block."""
        self._prepared: Block | None = None

    def prepare(self, block: Block) -> Awaitable[None] | None:
        """Returns what to wait for before the stage gets this block; None where all of its keys are known. The wait
        raises what ``ask`` raises, and may be cancelled."""
        assert block.keys is not None
        self._bad = {}
        unknown = [key for key in dict.fromkeys(block.keys) if key not in self._lanes]
        if not unknown:
            self._prepared = block
            return None
        if len(self._lanes) >= MAX_KNOWN_KEYS:
            self._lanes.clear()
            unknown = list(dict.fromkeys(block.keys))
        return self._find(block, unknown)

    async def _find(self, block: Block, keys: Sequence[bytes]) -> None:
        for key in keys:
            found = await self._find_lane(key)
            if isinstance(found, int):
                self._lanes[key] = found
                continue
            self._bad[key] = found
            if self._stops_at_bad:
                break
        self._prepared = block

    async def _find_lane(self, key: bytes) -> int | str:
        """Returns the lane of a routing key, or a text that says what is wrong with the key."""
        try:
            text = key.decode()
            check_text("its routing key", text)
            routes = await self._ask(text)
        except UnicodeDecodeError:
            return f"the routing key {key!r} is not UTF-8"
        except (RouteNotFound, ConfigurationError) as error:  # the latter: too long a key
            return str(error)
        if len(routes) > 1:
            return f"routing key {text!r} is bound to {len(routes)} partitions; one is needed"
        lane = self._lane_of.get(routes[0])
        if lane is None:
            return f"routing key {text!r} is bound to {routes[0]!r}, which was no partition when the run began"
        return lane

    def __call__(self, block: Block) -> Step:
        if block is not self._prepared:
            return Step(block)
        assert block.keys is not None
        return Step(replace(block, lanes=list(map(self._lanes.get, block.keys, repeat(NO_LANE)))))

    def find_bad(self, block: Block) -> Sequence[Bad]:
        """Returns the messages of a block from this stage that have no lane, for ``LeaveOutBad``."""
        if not self._bad or block.lanes is None:
            return ()
        assert block.keys is not None
        return [Bad(place, self._bad[key]) for place, key in enumerate(block.keys) if key in self._bad]
