"""The source of ``publish``: records of standard input, of files or of options, as blocks of encoded messages.

The unit is what one read has brought: it is framed and encoded as lists, so that no Python code runs for each line.
The position of a message is the number of its record, counted over all files from 1. Bad records are handed out too,
and are done with at once; empty ones that are skipped are not handed out at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rstream_cli.encoding import Encoded, Encoder, encode_bodies_alone
from rstream_cli.input import Input, name_of
from rstream_cli.records.framing_in import DelimiterReader, RecordError, RecordReader
from rstream_core.flow.acks import Account, Acks, Verdict
from rstream_core.flow.block import Block
from rstream_core.flow.stages import Stop
from rstream_core.protocol.amqp_sections import PlainMessages

Framed = tuple[list[bytes] | PlainMessages, int, tuple[int, str] | None]
"""Consecutive records, the number of the first, and the bad record behind them: its number, and what is wrong."""


class Records:
    """See ``flow.run.Source``. A run with one is over when its input is, when it has enough, or at a bad record."""

    def __init__(
        self,
        encoder: Encoder,
        account: Account,
        *,
        inputs: Input | None,
        reader: RecordReader | None,
        sources: Sequence[str],
        inline: Sequence[bytes],
        most: int | None,
        skip_bad: bool,
        ids_are_numbers: bool,
        size: Callable[[Sequence[bytes]], int],
        tell_bad: Callable[[int, str], Stop | None],
        on_cut: Callable[[], None],
    ) -> None:
        """Reads ``inputs``, whose ``sources`` are framed by ``reader``; where these are None, ``inline`` has the
        records. ``most`` messages that are not bad are handed out (None: all). ``tell_bad`` gets the number of a bad
        record and what is wrong with it; it returns a stop unless ``skip_bad``. ``size`` says how many bytes messages
        count. ``on_cut`` is called where a stop has cut the last record off.
        """
        self.end: Stop | None = None
        self.size = 0
        """Bytes of the messages that were handed out, as ``size`` counts them."""
        self.done = 0
        """Bytes of the input that were read and framed."""
        self._encoder = encoder
        self._account = account
        self._acks = Acks(account)
        self._input = inputs
        self._reader = reader
        self._sources = sources
        self._most = most
        self._skip_bad = skip_bad
        self._ids_are_numbers = ids_are_numbers
        self._size_of = size
        self._tell_bad = tell_bad
        self._on_cut = on_cut
        self._framed: Iterator[Framed] = iter(((list(inline), 1, None),) if inputs is None else ())
        self._feeds_plain = encoder is encode_bodies_alone and isinstance(reader, DelimiterReader)
        """Whether records need not be split."""
        self._records: list[bytes] | PlainMessages = []
        """Framed, and not encoded yet."""
        self._number = 1
        """The number of the first of them."""
        self._bad: tuple[int, str] | None = None
        """The bad record behind them."""
        self._source = 0
        """The index of the source that is being read."""
        self._has_begun = False
        """Whether anything of that source was read, and not yet its end."""
        self._records_before = 0
        """The number of records in earlier sources."""

    def name_of(self, number: int) -> str:
        """Returns the name of a record for people: the file, if there are several, and its number in the file. It must
        be one of the last block's."""
        if len(self._sources) < 2:
            return f"record {number}"
        return f"{name_of(self._sources[self._source])}: record {number - self._records_before}"

    # For ``Run``.

    def start(self, wake: Callable[[], None]) -> None:
        if self._input is not None:
            self._input.start(wake)

    def poll(self) -> Block | None:
        while self.end is None:
            if self._most is not None and self._wanted >= self._most:
                self.end = Stop("--count is reached", "count")
            elif self._records:
                block = self._encode()
                if block is not None:
                    return block
            elif self._bad is not None:
                self._take_bad(*self._bad)
            elif not self._frame():
                return None
        return None

    def due(self) -> float | None:
        return None

    async def tick(self) -> None:
        raise AssertionError("nothing is due")

    def stop(self) -> None:
        if self._input is not None:
            self._input.stop()

    # Inside.

    @property
    def _wanted(self) -> int:
        """The number of messages handed out that are not known to be bad."""
        return self._account.read - self._account.by[Verdict.BAD]

    def _frame(self) -> bool:
        """Goes on to the next records, or the end. Returns False if there is neither now."""
        for records, number, bad in self._framed:
            if records or bad is not None:
                self._records, self._number, self._bad = records, number, bad
                return True
        if self._input is None:
            self.end = Stop("all messages are published")
            return True
        block = self._input.take()
        if block is None:
            if self._input.is_over:
                self._finish(self._input)
            return self._input.is_over
        assert self._reader is not None
        if block.source != self._source:
            self._source, self._records_before = block.source, self._reader.count
        self._has_begun = bool(block.data)
        self._framed = _framed(self._reader, block.data, as_plain=self._feeds_plain)
        self.done += len(block.data)
        return True

    def _finish(self, inputs: Input) -> None:
        if inputs.error is not None:
            self.end = Stop(str(inputs.error), "error", inputs.error)
            return
        if inputs.stopped_early and self._has_begun and self._reader is not None and _is_cut(self._reader):
            self._on_cut()
        self.end = Stop("end of input")

    def _encode(self) -> Block | None:
        """Encodes what is framed, as far as there is room. Returns None where no good record is among it."""
        records, first = self._records, self._number
        room = len(records) if self._most is None else self._most - self._wanted
        if isinstance(records, PlainMessages):
            encoded = Encoded(records if room >= len(records) else records[:room])
        else:
            encoded = self._encoder(records, first, room, not self._skip_bad)
        count = len(encoded.messages)
        numbers = _numbers(encoded, first)
        bad = sorted(encoded.bad)
        if bad and not self._skip_bad:
            self._bad, bad = bad[0], []  # told once the records before it are on their way
            self._records = []
        elif count < room:
            self._records = []
        else:
            taken = max([number for number, _ in bad[-1:]] + list(numbers[-1:])) + 1 - first
            self._records, self._number = records[taken:], first + taken
        if bad:
            skipped = [number for number, _ in bad]
            self._acks.hand_out_some(sorted([*numbers, *skipped]))
            self._acks.done(skipped, Verdict.BAD)
            for number, why in bad:
                self._tell_bad(number, why)
        else:
            self._acks.hand_out_some(numbers)
        if not count:
            return None
        if isinstance(encoded.messages, PlainMessages):
            self.size += encoded.messages.body_size
        else:
            is_whole = encoded.numbers is None and encoded.keys is None
            self.size += sum(map(len, records[:count])) if is_whole else self._size_of(encoded.messages)
        return Block(
            self._acks,
            numbers,
            encoded.messages,
            ids=numbers if self._ids_are_numbers else encoded.ids,
            filters=encoded.filters,
            keys=encoded.keys,
        )

    def _take_bad(self, number: int, why: str) -> None:
        self._bad = None
        self._acks.hand_out(number, 1)
        self._acks.done((number,), Verdict.BAD)
        self.end = self._tell_bad(number, why)


def _numbers(encoded: Encoded, first: int) -> Sequence[int]:
    """Returns the numbers of the encoded records; ``first`` is that of the first record."""
    count, numbers = len(encoded.messages), encoded.numbers
    if numbers is None:
        return range(first, first + count)
    if count and numbers[-1] - numbers[0] + 1 == count:
        return range(numbers[0], numbers[-1] + 1)
    return numbers


def _framed(reader: RecordReader, data: bytes, *, as_plain: bool = False) -> Iterator[Framed]:
    """Yields the records that a block completes; b"" is the end of a file. ``as_plain``: as plain messages, if that can
    be had without splitting the block."""
    if as_plain and data and isinstance(reader, DelimiterReader):
        messages = reader.feed_plain(data)
        if messages is not None:
            yield messages, reader.count + 1 - len(messages), None
            return
    step: Callable[[], list[bytes]] = (lambda: reader.feed(data)) if data else reader.finish
    while True:
        try:
            records = step()
        except RecordError as error:
            yield error.before, error.number - len(error.before), (error.number, error.message)
            step = (lambda: reader.feed(b"")) if data else reader.finish
        else:
            yield records, reader.count + 1 - len(records), None
            return


def _is_cut(reader: RecordReader) -> bool:
    """Whether a record has begun and not ended; it may be empty, as a cell of CSV."""
    try:
        return bool(reader.finish())
    except RecordError:
        return True
