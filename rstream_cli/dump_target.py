"""What ``consume --output dump`` writes, and where to: a manifest, chunks as they were delivered, and an end mark.

With ``--output-file``, a run goes on where the file ends. Then the last chunk of the file is asked for again, to see
that it is the same stream: one that was made anew under its name has other chunks at the same offsets.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping

from rstream_cli.dump_file import DumpFile
from rstream_cli.endpoints.stdout import GATHERED
from rstream_cli.exit_status import CommandError, ExitStatus
from rstream_cli.rendering import BlockView, Rendered, Renderer
from rstream_core import Client
from rstream_core.dump import frames
from rstream_core.dump.layout import END, MAGIC, MANIFEST, chunk_head, record
from rstream_core.dump.manifest import Manifest
from rstream_core.flow.acks import Verdict
from rstream_core.flow.block import Block
from rstream_core.flow.stages import Step, Stop
from rstream_core.protocol.delivered import DeliveredMessages

_ANOTHER = "name another --output-file"


class DumpTarget(Renderer):
    """Renders chunks as the records of a dump. ``begin`` comes before the first, ``end_mark`` after the last."""

    def __init__(self, file: DumpFile | None, *, compress: bool, offset: str | None, selection: Mapping[str, object]):
        """``file``: None for stdout. ``offset``: what the user asked for, if it was said. ``selection``: that and all
        else that decides which messages are in the dump, as its manifest tells it."""
        super().__init__(self._render, self._refuse)
        self.file = file
        self.is_compressed = compress if file is None or file.manifest is None else file.is_compressed
        self.offset = offset
        self.selection = selection
        self._streams: dict[str, int] = {}
        """The index of each stream in the manifest."""
        self._messages = 0

    def close(self) -> None:
        """Closes the file."""
        if self.file is not None:
            self.file.close()

    @property
    def name(self) -> str:
        """Where it is written to, for people."""
        return "stdout" if self.file is None else self.file.path

    async def begin(self, client: Client, manifest: Manifest) -> tuple[bytes, Mapping[str, int]]:
        """Returns what is to be written before the first chunk, and the offsets at which some of the streams start.

        Raises ``CommandError`` where the file is of another source, or of a stream that was made anew; and the core's
        errors.
        """
        self._streams = {stream.name: index for index, stream in enumerate(manifest.streams)}
        head = MAGIC + record(MANIFEST, manifest.encoded())
        if self.file is None:
            return head, {}
        starts: dict[str, int] = {}
        there = self.file.manifest
        if there is not None:
            self._check_same(there, manifest)
            head = b""
            for name, index in self._streams.items():
                last = self.file.last.get(index)
                if last is None:
                    self._check_start(there, name)
                    continue
                newest = await client.last_offset(name)
                if newest is None or newest < last.end - 1:
                    raise self._made_anew(name)
                oldest = (await client.stats(name)).first_offset
                if oldest is not None and oldest >= last.end:  # retention took what could be known again
                    del self.file.last[index]
                    starts[name] = last.end
                else:
                    starts[name] = last.end - 1
        self.file.begin()
        return head, starts

    def know_again(self, block: Block) -> Step | Block:
        """The stage that leaves out what the file has: the last message of its last chunk, which was asked for again.

        Ends the run where that is not of the same chunk.
        """
        index = self._streams[block.stream]
        last = None if self.file is None else self.file.last.pop(index, None)
        if last is None or block.positions[0] >= last.end:
            return block
        messages = block.messages
        assert isinstance(messages, DeliveredMessages)
        if messages.raw_header != last.header:
            error = self._made_anew(block.stream)
            return Step(None, rest=block, stop=Stop(str(error), "error", error))
        known, rest = block.split(last.end - block.positions[0])
        return Step(rest if rest.count else None, ((known.positions, Verdict.KNOWN),))

    @property
    def enough(self) -> int:
        """Bytes that are gathered before they are written, while there are more chunks."""
        return frames.FRAME_DATA if self.is_compressed else GATHERED

    @property
    def pack(self) -> Callable[[bytes], bytes] | None:
        """What makes the bytes that are written of those of the plain dump; None for a plain one."""
        return _packed if self.is_compressed else None

    def end_mark(self, reason: str) -> bytes:
        """Returns what a run writes at its end."""
        return record(END, json.dumps({"reason": reason, "messages": self._messages}).encode())

    async def sync(self) -> None:
        """Returns once the file is on the disk. Raises ``OSError``."""
        if self.file is not None:
            await asyncio.to_thread(self.file.sync)

    def _render(self, view: BlockView) -> Rendered:
        messages = view.messages
        assert isinstance(messages, DeliveredMessages)
        first = view.offsets[0]
        index = self._streams[view.stream]
        self._messages += len(messages)
        end = first + len(messages)
        head = chunk_head(index, first, end, messages.raw_header, messages.header.data_length)
        return b"".join((head, messages.entries))

    @staticmethod
    def _refuse(view: BlockView, index: int) -> bytes:
        raise AssertionError("chunks are written whole")

    def _check_same(self, there: Manifest, ours: Manifest) -> None:
        assert self.file is not None
        path = self.file.path
        if there.source() != ours.source():
            raise _refused(f"{path} is a dump of {_source(there)}, not of {_source(ours)}", _ANOTHER)
        begun, wanted = dict(there.selection), dict(ours.selection)
        before = begun.pop("offset", None)
        if begun != {key: value for key, value in wanted.items() if key != "offset"}:
            raise _refused(f"{path} was begun with another --filter", "give the same one, or another --output-file")
        if self.offset is not None and self.offset != before:
            text = f"{path} was begun with --offset {before}, not {self.offset}"
            raise _refused(text, "without --offset, it goes on where it ends")

    def _check_start(self, there: Manifest, stream: str) -> None:
        """Raises ``CommandError`` where a stream that has no chunk in the file would start elsewhere than it was to."""
        assert self.file is not None
        before = there.selection.get("offset")
        if before == "first":
            return
        text = f"{self.file.path} was begun with --offset {before}, and has no message of stream {stream!r} yet"
        if _moves(before):
            raise _refused(f"{text}: that is another offset now, and what lies between would be missing", _ANOTHER)
        if self.offset is None:
            raise _refused(text, f"pass --offset {before} again")

    def _made_anew(self, stream: str) -> CommandError:
        assert self.file is not None
        text = f"{self.file.path} holds other chunks than stream {stream!r}, which was made anew, or is another one"
        return _refused(text, _ANOTHER)


def _moves(offset: object) -> bool:
    """Whether a start means another offset whenever it is asked for: ``next``, ``last``, ``-10``, ``-1h``."""
    words = str(offset).strip().lower()
    return words in ("next", "last") or words.startswith("-")


def _refused(text: str, hint: str) -> CommandError:
    return CommandError(f"--output-file: {text}", hint=hint, status=ExitStatus.PRECONDITION)


def _packed(data: bytes) -> bytes:
    size = frames.FRAME_DATA
    return b"".join([frames.pack(data[at : at + size]) for at in range(0, len(data), size)])


def _source(manifest: Manifest) -> str:
    name = manifest.super_stream
    what = f"stream {manifest.streams[0].name!r}" if name is None else f"super stream {name!r}"
    return f"{what} in virtual host {manifest.vhost!r} of cluster {manifest.cluster!r}"
