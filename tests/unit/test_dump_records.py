"""Files of a dump become blocks; what is left out of them, and the name under which they are restored."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from rstream_cli.endpoints.dump_records import DumpRecords
from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.input import Input
from rstream_core.flow.acks import Account
from rstream_core.protocol.chunk import SEGMENT_HEAD, build_chunk
from tests import dumps
from tests.cli.conftest import run_here


async def records(*files: Path, skip: bool = False, block_size: int = 1 << 16) -> tuple[DumpRecords, list[str]]:
    """The source of these files, which is open, and what it tells of damage."""
    told = list[str]()
    names = list(map(str, files))
    source = DumpRecords(
        Account(),
        inputs=Input(names, os.dup(0), block_size=block_size),
        sources=names,
        most=None,
        skip_damaged=skip,
        tell_damage=told.append,
    )
    await source.open()
    return source, told


async def ended(source: DumpRecords) -> list[int]:
    """The offsets of all that comes."""
    found, arrived = list[int](), asyncio.Event()
    source.start(arrived.set)
    while source.end is None:
        arrived.clear()
        block = source.poll()
        if block is not None:
            found += block.positions
        elif source.end is None:
            await asyncio.wait_for(arrived.wait(), 10)
    return found


@pytest.mark.parametrize("skip", [False, True])
async def test_a_segment_that_is_cut_off_before_another_one_is_damage(tmp_path: Path, skip: bool) -> None:
    """What is missing lies between messages: publishing ids only grow, so it could not be restored later."""
    first = SEGMENT_HEAD + build_chunk([b"a"], first_offset=0, timestamp=1)
    cut_off = build_chunk([b"b", b"c"], first_offset=1, timestamp=1)[:-1]
    files = tmp_path / "1.segment", tmp_path / "2.segment"
    files[0].write_bytes(first + cut_off)
    files[1].write_bytes(SEGMENT_HEAD + build_chunk([b"d"], first_offset=3, timestamp=1))
    source, told = await records(*files, skip=skip)
    assert await ended(source) == ([0, 3] if skip else [0])
    assert source.end is not None
    if skip:
        assert (source.end.error, source.is_partial) == (None, True)
        assert f"{files[0]}: byte {len(first)}: the file was cut off" in told[0]
        assert "offsets 1 to 2 are missing" in told[1]
        return
    error = source.end.error
    assert isinstance(error, CommandError)
    assert (error.status, f"byte {len(first)}: the file was cut off" in str(error)) == (ExitStatus.BAD_RECORD, True)


async def test_a_dump_without_its_manifest_has_the_same_name_in_whatever_pieces_it_is_read(tmp_path: Path) -> None:
    chunk = bytearray(build_chunk([b"a"], first_offset=0, timestamp=1))
    chunk[44] = 255  # the bytes of a Bloom filter, which brokers do not deliver
    head = dumps.head(dumps.manifest())
    file = tmp_path / "d"
    file.write_bytes(head[:-1] + b"?" + dumps.record_of(bytes(chunk)))
    names = {(await records(file, skip=True, block_size=size))[0].name for size in (50, len(head), 1 << 16)}
    assert len(names) == 1


def test_a_dump_that_was_gone_on_with_and_is_cut_off_has_not_ended_in_order(tmp_path: Path) -> None:
    file = tmp_path / "d"
    file.write_bytes(dumps.head(dumps.manifest()) + dumps.chunk([b"a"], 0) + dumps.end_mark() + b"\xc5RSD")
    done = run_here("dump", "info", str(file), "--json")
    assert (done.status, json.loads(done.output)["ended"]) == (0, False)


async def test_segments_without_a_message_are_not_said_to_be_no_dump(tmp_path: Path) -> None:
    file = tmp_path / "0.segment"
    file.write_bytes(SEGMENT_HEAD)
    with pytest.raises(CommandError, match="no segment holds a message"):
        await records(file)
