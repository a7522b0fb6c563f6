"""``rstream copy``, killed at random moments, while its source is written and the target's broker is killed, too.

The long form is a part of ``scripts/soak``: ``make soak PARTS=copy``. RSTREAM_COPY_MESSAGES and RSTREAM_COPY_KILLS say
how long it is.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.brokers import IS_SOAK, broker_at
from tests.cli.conftest import RSTREAM, environment, run_rstream
from tests.cli.killable import Killable, embedded, made_killable
from tests.cli.process import ended, running
from tests.conftest import OwnRabbitMQ

MESSAGES = int(os.environ.get("RSTREAM_COPY_MESSAGES", "1000000"))
KILLS = int(os.environ.get("RSTREAM_COPY_KILLS", "20"))
BROKER_KILLS = 3
KEYS = 97


class Way(NamedTuple):
    """A kind of copy."""

    publish: tuple[str, ...] = ("publish", "s")
    copy: tuple[str, ...] = ("copy", "s", "s")
    partitions: tuple[int, int] | None = None
    """Of the source, and of the target, where they are super streams."""
    to_embedded: bool = False


WAYS = {
    "plain": Way(),
    **{
        codec: Way(("publish", "s", "--method", "sub-entry", "--compression", codec))
        for codec in ("none", "gzip", "snappy", "lz4", "zstd")
    },
    "six-onto-six": Way(("superstream", "publish", "p", "--key-delimiter", "|"), ("copy", "p", "p"), (6, 6)),
    "six-onto-four": Way(
        ("superstream", "publish", "p", "--key-delimiter", "|"), ("copy", "p", "p", "--key-from", ".k"), (6, 4)
    ),
    "embedded": Way(to_embedded=True),
}


class Two(NamedTuple):
    """The brokers of the source and of the target."""

    source: Killable
    target: Killable


@pytest.fixture
def two(request: pytest.FixtureRequest, tmp_path: Path, own_rabbitmq: OwnRabbitMQ) -> Iterator[Two]:
    source = made_killable(own_rabbitmq())
    if request.param:
        with embedded(tmp_path / "broker") as target:
            yield Two(source, target)
    else:
        yield Two(source, made_killable(own_rabbitmq()))


def lines(way: Way, first: int, last: int) -> bytes:
    if way.partitions is None:
        return b"".join(b"%d\n" % number for number in range(first, last))
    return b"".join(b'%d|{"k":"%d","n":%d}\n' % (n % KEYS, n % KEYS, n) for n in range(first, last))


def streams(way: Way, place: int) -> Sequence[str]:
    return ["s"] if way.partitions is None else [f"p-{number}" for number in range(way.partitions[place])]


def content(uri: str, names: Sequence[str]) -> list[bytes]:
    found = []
    for name in names:
        words = [str(RSTREAM), "consume", name, "-o", "first", "--until", "end", "--recover-for", "60s"]
        done = subprocess.run(
            words, env=environment({"RSTREAM_URI": uri}), capture_output=True, timeout=300, check=True
        )
        found.append(done.stdout)
    return found


def by_key(partitions: Sequence[bytes]) -> dict[str, list[int]]:
    """The numbers of each key, in the order in which they are stored."""
    found: dict[str, list[int]] = {}
    for line in itertools.chain.from_iterable(partition.splitlines() for partition in partitions):
        message = json.loads(line)
        found.setdefault(message["k"], []).append(message["n"])
    return found


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.rabbitmq
@pytest.mark.skipif(not IS_SOAK, reason="takes minutes: make soak PARTS=copy")
@pytest.mark.parametrize(
    ("way", "two"), [(way, way.to_embedded) for way in WAYS.values()], ids=list(WAYS), indirect=["two"]
)
def test_nothing_is_lost_doubled_or_moved(two: Two, way: Way, tmp_path: Path) -> None:
    if way.partitions is not None:
        for broker, partitions in zip(two, way.partitions, strict=True):
            words = ("superstream", "create", "p", "--partitions", str(partitions), "--uri", broker.uri)
            assert run_rstream(*words).returncode == 0
    at = broker_at(two.target.uri)
    env = {"RSTREAM_URI": two.source.uri, "RSTREAM_TO_PASSWORD": at.password}
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(lines(way, 0, MESSAGES // 2))
    second.write_bytes(lines(way, MESSAGES // 2, MESSAGES))
    with first.open("rb") as given, running(*way.publish, env=env, stdin=given) as publishing:
        assert ended(publishing, timeout=300) == (0, "")
    to = f"rabbitmq-stream://{at.username}@{at.host}:{at.port}"
    copy = (*way.copy, "--to-uri", to, "--recover-for", "120s", "--wait-for-broker", "60s")
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    broker_kills = set(chance.sample(range(KILLS), min(BROKER_KILLS, KILLS)))
    with second.open("rb") as given, running(*way.publish, "--rate", _rate(), env=env, stdin=given) as publishing:
        for kill in range(KILLS):
            with running(*copy, env=env) as copying:
                time.sleep(chance.uniform(0.3, 3.0))  # a random moment is what is wanted
                if kill in broker_kills:
                    two.target.kill()
                    two.target.start()
                copying.kill()
        assert ended(publishing, timeout=600)[0] == 0
    with running(*copy, env=env) as copying:
        status, errors = ended(copying, timeout=600)
        assert status == 0, errors
    source, target = content(two.source.uri, streams(way, 0)), content(two.target.uri, streams(way, 1))
    if way.partitions is None or way.partitions[0] == way.partitions[1]:
        assert source == target
        assert sum(part.count(b"\n") for part in target) == MESSAGES
    else:
        assert by_key(source) == by_key(target)
        assert all(numbers == sorted(set(numbers)) for numbers in by_key(target).values())
        assert sum(map(len, by_key(target).values())) == MESSAGES


def _rate() -> str:
    """So that the source is written while the copies are killed."""
    return f"{max(MESSAGES // 2 // (2 * KILLS), 1)}/s"
