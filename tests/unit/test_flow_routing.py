"""The stages that choose lanes, and those that leave messages out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from rstream_core import RouteNotFound
from rstream_core.flow import routing
from rstream_core.flow.acks import Account, Acks, Verdict
from rstream_core.flow.block import Block
from rstream_core.flow.refusing import Bad, LeaveOutBad, LeaveOutKnown
from rstream_core.flow.routing import NO_LANE, RouteByBinding, RouteByHash
from rstream_core.flow.stages import Step, Stop
from rstream_core.protocol.routing import (
    partition_index,
    partition_indexes,
    python_partition_index,
    python_partition_indexes,
)

PARTITIONS = ["p-a", "p-b"]


def block(keys: Sequence[bytes], ids: Sequence[int] | None = None, lanes: Sequence[int] | None = None) -> Block:
    messages = [b"m%d" % place for place in range(len(keys))]
    return Block(Acks(Account()), range(10, 10 + len(keys)), messages, keys=keys, ids=ids, lanes=lanes)


class Broker:
    """Answers with the bindings of keys, and notes what it is asked."""

    def __init__(self, **bindings: list[str]) -> None:
        self.bindings = bindings
        self.asked: list[str] = []

    async def ask(self, key: str) -> Sequence[str]:
        self.asked.append(key)
        await asyncio.sleep(0)
        if key not in self.bindings:
            raise RouteNotFound(f"no partition for {key}")
        return self.bindings[key]


def keys_of(step: Step) -> tuple[list[bytes], list[int]]:
    assert step.out is not None
    return list(step.out.keys or ()), list(step.out.lanes or ())


async def through(stage: RouteByBinding, offered: Block) -> Step:
    waiting = stage.prepare(offered)
    if waiting is not None:
        await waiting
    return stage(offered)


def test_lanes_by_hash_are_those_of_single_keys() -> None:
    keys = [b"%d" % number for number in range(50)]
    for one, many in ((partition_index, partition_indexes), (python_partition_index, python_partition_indexes)):
        assert RouteByHash(many, 7)(block(keys)).out is not None
        assert keys_of(RouteByHash(many, 7)(block(keys))) == (keys, [one(key, 7) for key in keys])


async def test_each_key_is_asked_for_once() -> None:
    broker = Broker(a=["p-a"], b=["p-b"])
    stage = RouteByBinding(broker.ask, PARTITIONS, stops_at_bad=True)
    assert keys_of(await through(stage, block([b"b", b"a", b"b"]))) == ([b"b", b"a", b"b"], [1, 0, 1])
    offered = block([b"a", b"b"])
    assert stage.prepare(offered) is None
    assert keys_of(stage(offered)) == ([b"a", b"b"], [0, 1])
    assert broker.asked == ["b", "a"]


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (b"x", "no partition for x"),
        (b"\xff", r"the routing key b'\xff' is not UTF-8"),
        (b"k" * 40_000, "its routing key takes at most 32767 bytes, not 40000"),
        (b"both", "routing key 'both' is bound to 2 partitions; one is needed"),
        (b"new", "routing key 'new' is bound to 'p-c', which was no partition when the run began"),
    ],
    ids=["none", "bytes", "long", "both", "new"],
)
async def test_a_key_without_one_lane_is_bad(key: bytes, words: str) -> None:
    broker = Broker(a=["p-a"], both=PARTITIONS, new=["p-c"])
    stage = RouteByBinding(broker.ask, PARTITIONS, stops_at_bad=False)
    step = await through(stage, block([b"a", key, b"a", key]))
    assert keys_of(step)[1] == [0, NO_LANE, 0, NO_LANE]
    assert step.out is not None
    (first, second) = stage.find_bad(step.out)
    assert (first.place, second.place) == (1, 3)
    assert first.reason.startswith(words)


async def test_what_is_bad_is_asked_for_again() -> None:
    """Somebody may bind it."""
    broker = Broker()
    stage = RouteByBinding(broker.ask, PARTITIONS, stops_at_bad=False)
    await through(stage, block([b"a"]))
    broker.bindings["a"] = ["p-a"]
    step = await through(stage, block([b"a"]))
    assert keys_of(step) == ([b"a"], [0])
    assert step.out is not None
    assert stage.find_bad(step.out) == ()


async def test_nothing_is_asked_behind_the_key_with_which_a_run_ends() -> None:
    broker = Broker(a=["p-a"], b=["p-b"])
    stage = RouteByBinding(broker.ask, PARTITIONS, stops_at_bad=True)
    step = await through(stage, block([b"a", b"x", b"b"]))
    assert broker.asked == ["a", "x"]
    assert step.out is not None
    assert [bad.place for bad in stage.find_bad(step.out)] == [1]


async def test_a_block_that_is_not_prepared_has_no_lanes() -> None:
    """Such as one for which the broker did not answer before the run was over."""
    stage = RouteByBinding(Broker(a=["p-a"]).ask, PARTITIONS, stops_at_bad=False)
    await through(stage, block([b"a"]))
    step = stage(block([b"a", b"b"]))
    assert step.out is not None
    assert (step.out.lanes, stage.find_bad(step.out)) == (None, ())


async def test_the_keys_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "MAX_KNOWN_KEYS", 2)
    broker = Broker(a=["p-a"], b=["p-b"], c=["p-a"])
    stage = RouteByBinding(broker.ask, PARTITIONS, stops_at_bad=False)
    for keys in ([b"a", b"b"], [b"b", b"a"], [b"c", b"a"], [b"a"], [b"b"]):
        step = await through(stage, block(keys))
        assert keys_of(step) == (keys, [PARTITIONS.index(broker.bindings[key.decode()][0]) for key in keys])
    assert broker.asked == ["a", "b", "c", "a", "b"]


# What is left out.


def find(*places: int, why: str = "bad") -> Sequence[Bad]:
    return [Bad(place, why) for place in places]


def test_bad_messages_are_left_out_and_told_in_their_order() -> None:
    told: list[Bad] = []

    def tell(offered: Block, bad: Sequence[Bad]) -> None:
        assert offered.count == 5
        told.extend(bad)

    stage = LeaveOutBad(tell, lambda _: find(3, 4, why="large"), lambda _: find(1, 3, why="no key"))
    step = stage(block([b"a", b"b", b"c", b"d", b"e"]))
    assert told == [Bad(1, "no key"), Bad(3, "large"), Bad(4, "large")]
    assert step.out is not None
    assert (step.out.messages, step.dropped, step.rest, step.stop) == (
        [b"m0", b"m2"],
        (([11, 13, 14], Verdict.BAD),),
        None,
        None,
    )


def test_a_run_that_ends_at_a_bad_message_has_what_is_before_it() -> None:
    stop = Stop("bad", "bad message")
    stage = LeaveOutBad(lambda block, bad: stop, lambda _: find(3), lambda _: find(1))
    step = stage(block([b"a", b"b", b"c", b"d"]))
    assert step.out is not None
    assert step.rest is not None
    assert (step.out.positions, step.dropped, step.rest.positions, step.stop) == (
        range(10, 11),
        (([11], Verdict.BAD),),
        range(12, 14),
        stop,
    )


@pytest.mark.parametrize("stop", [None, Stop("bad", "bad message")])
def test_nothing_but_a_bad_message(stop: Stop | None) -> None:
    assert LeaveOutBad(lambda block, bad: stop, lambda _: find(0))(block([b"a"])) == Step(
        None, (([10], Verdict.BAD),), None, stop
    )


def test_known_ids_are_left_out() -> None:
    told: list[Block] = []
    stage = LeaveOutKnown([7], told.append)
    offered = block([b""] * 4, ids=[5, 7, 8, 20])
    step = stage(offered)
    assert step.out is not None
    assert (step.out.ids, step.dropped) == ([8, 20], ((range(10, 12), Verdict.KNOWN),))
    assert [list(one.messages) for one in told] == [[b"m0", b"m1"]]
    assert stage(step.out).out is step.out
    assert LeaveOutKnown([20], told.append)(offered).out is None
    assert LeaveOutKnown([20], told.append)(block([b""])).dropped == ()


def test_each_lane_knows_ids_of_its_own() -> None:
    stage = LeaveOutKnown([0, 7], lambda _: None)
    step = stage(block([b""] * 4, ids=[5, 6, 7, 8], lanes=[0, 1, 1, 1]))
    assert step.out is not None
    assert (list(step.out.ids or ()), list(step.out.lanes or ()), step.dropped) == (
        [5, 8],
        [0, 1],
        (([11, 12], Verdict.KNOWN),),
    )
