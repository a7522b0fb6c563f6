"""The source of ``publish --input dump``: chunks of a dump, or of a broker's segments, as blocks of their messages.

The unit is the chunk. Its messages are not decoded; the position of a message is its offset, and its publishing id the
offset + 1, so that a restore that was ended anywhere is finished by running it again. ``open`` reads up to the
manifest, which says what is to be restored, and must be awaited before the run.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence

from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.input import Input, name_of
from rstream_cli.publish_plan import PublishPlan
from rstream_core.dump.manifest import Manifest
from rstream_core.dump.reading import DumpedChunk, DumpReader
from rstream_core.errors import ChunkError, DumpError
from rstream_core.flow.acks import Account, Acks
from rstream_core.flow.block import Block
from rstream_core.flow.stages import Stop
from rstream_core.protocol.amqp_sections import size_of
from rstream_core.protocol.chunk import HEADER, open_placed

TellDamage = Callable[[str], None]
"""Called with what is damaged, or cut off, and left out: a line for people."""


class DumpRecords:
    """See ``flow.run.Source``. A run with one is over when its input is, or at the first damage."""

    def __init__(
        self,
        account: Account,
        *,
        inputs: Input,
        sources: Sequence[str],
        most: int | None,
        skip_damaged: bool,
        tell_damage: TellDamage,
    ) -> None:
        """Reads ``inputs``, which has these ``sources``. ``most`` messages are handed out (None: all).
        ``skip_damaged``: goes on behind damage; otherwise it ends the run. What is cut off at the end never does."""
        self.end: Stop | None = None
        self.size = 0
        """Bytes of the messages that were handed out."""
        self.done = 0
        """Bytes of the input that were read."""
        self.is_partial = False
        """Whether anything of the input was left out: damaged, or cut off."""
        self._account = account
        self._input = inputs
        self._sources = sources
        self._most = most
        self._skip_damaged = skip_damaged
        self._tell_damage = tell_damage
        self._reader = DumpReader()
        self._first: DumpedChunk | None = None
        """The first chunk, until it is handed out."""
        self._acks: dict[int, Acks] = {}
        """By the index of the stream in the manifest."""
        self._source = 0
        """The index of the source that is being read."""
        self._wake: Callable[[], None] = lambda: None
        self._is_open = False
        self._has_segments = False
        """Whether a file was one of a broker's."""

    # Before the run.

    async def open(self) -> Manifest | None:
        """Reads up to the manifest, and returns it; segments have none, and are read up to their first chunk.

        Waits as long as the input has nothing; may be cancelled. Raises ``CommandError`` for what is no dump, or has no
        chunk.
        """
        arrived = asyncio.Event()
        self._wake = arrived.set
        self._input.start(self._woken)
        while True:
            arrived.clear()
            if self._reader.manifest is None and self._first is None and self.end is None:
                self._first = self._next()
            if self._reader.manifest is not None or self._first is not None:
                self._is_open = True
                return self._reader.manifest
            if self.end is not None:
                if isinstance(self.end.error, CommandError):
                    raise self.end.error
                what = "no dump: it ends before its manifest does"
                if self._has_segments:
                    what = "no segment holds a message"
                text = f"{name_of(self._sources[0])}: {what}"
                raise CommandError(text, status=ExitStatus.BAD_RECORD)
            await arrived.wait()

    @property
    def name(self) -> str:
        """The name under which it is restored: another one for each dump, and the same for each restore of it."""
        manifest = self._reader.manifest
        if manifest is not None:
            return f"restore-{manifest.id}"
        assert self._first is not None
        bloom_size = self._first.header.bloom_size if self._reader.is_segment else 0  # dumps do not have the bits
        begin = self._first.begin - HEADER.size - bloom_size
        header = self._first.data[begin : begin + HEADER.size]
        return f"restore-{hashlib.sha256(header).hexdigest()[:32]}"

    def name_of(self, number: int) -> str:
        """Returns the name of a message for people."""
        return f"the message at offset {number}"

    # For ``Run``.

    def start(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def poll(self) -> Block | None:
        while self.end is None:
            if self._most is not None and self._account.read >= self._most:
                self.end = Stop("--count is reached", "count")
                break
            chunk, self._first = self._first, None
            chunk = chunk or self._next()
            if chunk is None:
                return None
            block = self._block(chunk)
            if block is not None:
                return block
        return None

    def due(self) -> float | None:
        return None

    async def tick(self) -> None:
        raise AssertionError("nothing is due")

    def stop(self) -> None:
        self._input.stop()

    # Inside.

    def _woken(self) -> None:
        self._wake()

    def _next(self) -> DumpedChunk | None:
        """Returns the next chunk; None where it has not come yet, where ``end`` is set, and once, at the manifest,
        while this is opened."""
        while self.end is None:
            try:
                item = self._reader.read()
            except DumpError as error:
                self._take_damage(error)
                continue
            if isinstance(item, DumpedChunk):
                return item
            if isinstance(item, Manifest) and not self._is_open:
                return None
            if item is None and not self._feed():
                return None
        return None

    def _feed(self) -> bool:
        """Takes what was read of the input. Returns whether that is anything."""
        read = self._input.take()
        if read is None:
            if self._input.is_over and self.end is None:
                error = self._input.error
                self.end = Stop("end of input") if error is None else Stop(str(error), "error", error)
            return False
        self._source = read.source
        self.done += len(read.data)
        if read.data:
            self._reader.feed(read.data)
        else:
            self._finish_file()
        return True

    def _finish_file(self) -> None:
        whole = self._reader.whole
        self._has_segments |= self._reader.is_segment
        cut_off = self._reader.finish()
        if not cut_off or self._input.stopped_early:
            return
        text = f"the file was cut off, or not written to its end: its last {cut_off} bytes are no whole record"
        if self._source == len(self._sources) - 1:
            self._leave_out(f"byte {whole}: {text}")
        else:  # what is missing lies between messages, as where something is damaged
            self._take_damage(DumpError(text, position=whole, may_go_on=True))

    def _take_damage(self, error: DumpError) -> None:
        where = "" if error.position is None else f"byte {error.position}: "
        text = f"{where}{error}"
        if self._skip_damaged and error.may_go_on:
            self._leave_out(text)
            return
        problem = CommandError(f"{name_of(self._sources[self._source])}: {text}", status=ExitStatus.BAD_RECORD)
        problem.hint = error.hint
        if error.may_go_on:
            problem.hint = "--on-error skip goes on behind it"
        self.end = Stop(str(problem), "bad message", problem)

    def _leave_out(self, text: str) -> None:
        self.is_partial = True
        self._tell_damage(f"{name_of(self._sources[self._source])}: {text}")

    def _block(self, chunk: DumpedChunk) -> Block | None:
        """Returns the wanted messages of a chunk; None where it cannot be read. Sub-entries go on whole."""
        try:
            messages = open_placed(chunk.data, chunk.begin, chunk.header, verify_crc=False)
            low = chunk.first - chunk.header.first_offset
            high = chunk.end - chunk.header.first_offset
            if self._most is not None:
                high = min(high, low + self._most - self._account.read)
            messages = messages[low:high]
        except ChunkError as error:
            self._take_damage(DumpError(f"damaged: {error}", position=chunk.position, may_go_on=True))
            return None
        acks = self._acks.setdefault(chunk.stream, Acks(self._account))
        acks.hand_out(chunk.first, high - low)
        self.size += size_of(messages)
        return Block(
            acks,
            range(chunk.first, chunk.first + high - low),
            messages,
            timestamp=chunk.header.timestamp,
            ids=range(chunk.first + 1, chunk.first + 1 + high - low),
            lane=chunk.stream,
        )


def dump_of(plan: PublishPlan, account: Account, inputs: Input, tell_damage: TellDamage) -> DumpRecords:
    """Returns the source of a plan."""
    return DumpRecords(
        account,
        inputs=inputs,
        sources=plan.sources,
        most=plan.count,
        skip_damaged=plan.skip_bad,
        tell_damage=tell_damage,
    )
