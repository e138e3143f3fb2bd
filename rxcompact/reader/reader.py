"""Splits JSON in every shape into events: files, standard input, request bodies, messages."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from functools import cache
from typing import Any, TypeAlias

from rxcompact.errors import DecodeError
from rxcompact.reader import scan
from rxcompact.reader.items import Batch, Malformed, Position, Step
from rxcompact.reader.scan import EVENTS, MalformedError
from rxcompact.reader.text import MIB, PIECE, TextDecoder

NEWLINE = ord("\n")
SLOWER = 3  # values could be read in the time that a malformed one takes longer
TAIL = 16  # bytes at the end of a text that may be half a number, escape or literal
Chunks: TypeAlias = Iterator[list[bytes]]
Steps: TypeAlias = Generator[list[bytes], None, int]
"""Yields events and returns how far the text has been read."""


class Reader:
    """Splits an input that is fed block by block into events, each as raw JSON.

    Reads objects, arrays, lines of them (NDJSON), and values one behind the other, pretty-printed or not. gzip, bzip2,
    xz, zstd, UTF-16 and UTF-32 are recognised by their first bytes. An event that is malformed is passed on all the
    same, to be rejected with its reason where it is decoded; a line that is malformed is one event. An array need not
    fit into memory: its elements are passed on as they come. Of a dead letter, written by a command, the event inside
    is read, as often as it was counted.

    ``path`` is for positions and errors. An object without a list at ``items`` is rejected; an item that is an array is
    an event with the fields ``0``, ``1`` and so on. A line, element or wrapper of more than ``max_line`` bytes is
    rejected and not held, and so is an event of more than ``max_event``.

    Raises DecodeError for an input that cannot be read on: an array that is malformed or cut short, an unknown format;
    TooLargeError; OSError and EOFError for damaged compression. Each chunk takes a few milliseconds at most and has at
    most 1,024 events, so that an event loop may be given its turns between them.
    """

    def __init__(
        self,
        *,
        items: Sequence[Step] = (),
        path: str = "",
        compression: str | None = None,
        max_line: int = 16 * MIB,
        max_event: int | None = None,
        max_events: int | None = None,
        max_body: int | None = None,
        dead_letters: bool = True,
    ) -> None:
        self.blank = True  # whether there has been nothing but white space
        self._path, self._max_line = path, max_line
        self._decoder = TextDecoder(compression, max_body)
        self._batch = Batch(path, items, max_line if max_event is None else max_event, max_events, dead_letters)
        # text that has not been read, and the size from which on it is worth another look
        self._text: list[bytes] = []
        self._last: Any = None
        self.buffered = 0  # its bytes: of an event whose end has not come
        self._longest = min(PIECE, max_line)  # of a line that is read only when its end has come
        self._wanted = self._longest + 1
        # what it begins in the middle of
        self._in_array = False
        self._in_value = False  # over several lines
        self._alone = 0  # lines that begin before this byte are read alone: no value goes on to the next one
        self._in_rejected_line = False
        # the input began with an array, and the line on which that ends is not over; so far as is known
        self._is_array = True

    @property
    def position(self) -> Position:
        """Where the events of the latest chunk stand."""
        return self._batch.position

    @property
    def size(self) -> int:
        """Bytes of the input so far, decompressed."""
        return self._decoder.size

    def forget(self) -> None:
        """Count bytes and events from here on: an input without an end is passed on as it comes."""
        self._decoder.size = self._batch.passed = 0

    def feed(self, block: bytes) -> Chunks:
        """Yield the events that are complete with this block."""
        yield from self._read(self._decoder.feed(block))

    def end(self) -> Chunks:
        """Yield what is left at the end of the input."""
        yield from self._read(self._decoder.end())
        yield from self._split(b"", final=True)

    def _read(self, texts: Iterator[bytes]) -> Chunks:
        later = False
        while True:
            try:
                text = next(texts, None)
            except (DecodeError, OSError, EOFError) as error:
                before = f"{self._path}: " if self._path else ""
                after = f" after line {self._batch.line - 1}" if self._batch.line > 1 else ""
                raise type(error)(f"{before}{error}{after}") from None
            if text is None:
                return
            if later:
                yield []  # a small block may hold many pieces, and few events
            later = True
            yield from self._split(text)

    def _split(self, text: bytes, *, final: bool = False) -> Chunks:
        if self._in_rejected_line:
            newline = text.find(b"\n")
            if newline < 0:
                return
            self._in_rejected_line = False
            text = text[newline:]
        self._text.append(text)
        self.buffered += len(text)
        # looking at a long value with each block would take long
        over = b"\n" in text and not self._in_array and not self._in_value
        if not final and not over and self.buffered < self._wanted:
            return
        buffer = b"".join(self._text)
        at = 0
        while at < len(buffer):
            in_array = self._in_array
            self._in_value = False
            try:
                at = yield from (self._read_array if in_array else self._read_lines)(buffer, at, final=final)
            except DecodeError:
                yield from self._batch.flush()  # what stands before the damage
                raise
            if self._in_array == in_array:
                break
        self._last = None
        rest = buffer[at:]
        self._alone = max(0, self._alone - at)
        if len(rest) > self._max_line:
            self._reject_rest(rest, f"longer than {self._max_line} bytes")
            rest = b""
        yield from self._batch.flush()
        self._text, self.buffered = [rest], len(rest)
        least = 0 if self._in_array or self._in_value else self._longest + 1
        self._wanted = least if len(rest) < PIECE // 2 else max(least, min(len(rest) * 3 // 2, self._max_line + 1))

    def _read_lines(self, buffer: bytes, at: int, *, final: bool) -> Steps:
        # once a block, and not on the line of an array, so far as is known
        usual = at == self._alone == 0 and len(buffer) <= 2 * PIECE and (self.blank or not self._is_array)
        if usual and (found := scan.objects_of(buffer)) is not None:
            self._begin(array=False)
            yield from self._batch.add(buffer, found.lines, found=found)
            at = buffer.rfind(b"\n") + 1
            if not final or at == len(buffer):
                return at
        # where a mark stands last is looked for once, however many values a block has
        last_of = self._last = self._last or cache(buffer.rfind)
        stop = len(buffer) if final else last_of(b"\n") + 1
        cut = stop <= at
        if cut:
            if len(buffer) - at <= self._longest:
                return at
            stop = len(buffer)
        text = buffer[:stop]
        # a line goes on in the next one only if that begins with something else than a brace or bracket
        marks = (b"}{",) if cut else (b"\n{", b"\n[")
        last = max(last_of(mark, max(0, stop - PIECE), stop) for mark in marks) + 1
        while self._alone <= at < last:
            end = max(text.rfind(mark, at, at + 2 * PIECE) for mark in marks) + 1  # of small values it may have many
            end = last if end <= at else end
            if (values := scan.pieces_of(text[at:end])) is None:
                break
            if values or not self.blank:
                self._begin(array=False)
            yield from self._batch.add(text[at:end], values)
            at = end
        return (yield from self._read_values(text, at, cut=cut, final=final))

    def _read_values(self, text: bytes, at: int, *, cut: bool, final: bool) -> Steps:
        """Read values one by one, of whole lines or of one that is ``cut``; a malformed line is one malformed event.

        A value may go on over several lines. If it turns out malformed its first line is rejected, and each of the
        lines up to the damage is read alone: no byte is looked at more than a few times.
        """
        done = line = at
        malformed = 0
        values: list[bytes] = []
        here: list[bytes] = []  # those of the line
        while at < len(text) or here:
            at = scan.skip_space(text, at, scan.BLANK)
            over = at == len(text) or text[at] == NEWLINE
            opens_array = not over and text[at] == scan.BRACKET and line >= self._alone
            if over or opens_array or len(here) >= EVENTS:  # of so long a line a part
                values += here
                here = []
                at = min(at + over, len(text))
                at = line = max(at, text.rfind(b"\n", at, scan.skip_space(text, at)) + 1)  # blank lines are skipped
                if opens_array:
                    self._in_array = True
                    self._begin(array=not values)
                    break
                if values or not self.blank:
                    self._begin(array=False)
                if len(values) + SLOWER * malformed >= EVENTS or at - done >= PIECE:
                    yield from self._batch.add(text[done:at], values)
                    yield from self._batch.flush()
                    done, malformed, values = at, 0, []
                continue
            try:
                end = self._end_of_value(text, at, alone=line < self._alone, cut=cut, final=final)
            except MalformedError as error:
                if self._is_array and not self.blank:
                    raise self._error(text[done : error.position], str(error)) from None
                if cut:
                    yield from self._batch.add(text[done:line], values)
                    self._reject_rest(text[line:], str(error))
                    return len(text)
                self._alone = max(self._alone, error.position)
                malformed += 1
                newline = text.find(b"\n", line)
                at = len(text) if newline < 0 else newline
                bad = text[line:at].strip(scan.WHITE)
                here = [Malformed(bad, str(error)) if bad.startswith(b"[") else bad]
                continue
            if end is None:
                self._in_value = not cut
                # of a long line what is complete is passed on before its end has come
                values += here if cut else ()
                line = at if cut else line
                break
            here.append(text[at:end].rstrip(scan.WHITE))
            at += len(here[-1])
        yield from self._batch.add(text[done:line], values)
        return line

    @staticmethod
    def _end_of_value(text: bytes, at: int, *, alone: bool, cut: bool, final: bool) -> int | None:
        """Return where the value at a position ends; None where that is still to come."""
        newline = text.find(b"\n", at)
        try:
            end = scan.end_of_value(text, at, len(text) if newline < 0 else newline)
            if end is None and newline >= 0 and not alone:
                end = scan.end_of_value(text, at, len(text))
        except MalformedError as error:
            if cut and error.position >= len(text) - TAIL:
                return None
            raise
        if end is None and (final or alone) and not cut:
            raise MalformedError("cut short", at if alone else len(text))
        return None if cut and end == len(text) and text[at] not in b'{["' else end

    def _begin(self, *, array: bool) -> None:
        self.blank = False
        self._is_array = self._is_array and array

    def _read_array(self, buffer: bytes, at: int, *, final: bool) -> Steps:
        try:
            for stop, elements, closed in scan.split_array(buffer, at):
                yield from self._batch.add(buffer[at:stop], elements, flat=True)
                at = stop
                self._in_array = not closed
            if not (self._in_array and final):
                return at
            scan.end_of_value(buffer, scan.skip_space(buffer, at + 1), len(buffer))  # raises what is wrong with it
            damage = MalformedError("the array is cut short", len(buffer))
        except MalformedError as error:
            damage = error
        if self._is_array:
            raise self._error(buffer[at : damage.position], str(damage))
        # as with a value: its line is rejected, and those up to the damage are read alone
        self._alone = damage.position
        newline = buffer.find(b"\n", at)
        if newline < 0:
            self._reject_rest(buffer[at:], str(damage))
            return len(buffer)
        self._in_array = False
        self._batch.reject(buffer[at:newline], str(damage))
        return newline

    def _reject_rest(self, text: bytes, reason: str) -> None:
        """Reject text, and all that follows on the same line."""
        if self._in_array and self._is_array:
            raise self._error(text[: scan.skip_space(text, 1)], f"an element is {reason}")
        self._begin(array=False)
        self._in_array = False
        self._batch.reject(text, reason)
        self._in_rejected_line = not text.endswith(b"\n")

    def _error(self, before: bytes, reason: str) -> DecodeError:
        line = self._batch.line + before.count(b"\n")
        return DecodeError(f"{self._path}:{line}: {reason}" if self._path else f"{reason} (line {line})")
