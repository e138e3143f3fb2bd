"""Splits JSON in every shape into events: files, standard input, request bodies, messages."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TypeAlias

import msgspec

from rxcompact.errors import DecodeError
from rxcompact.reader.batch import Batch
from rxcompact.reader.decompress import MIB
from rxcompact.reader.items import ItemsPath
from rxcompact.reader.position import Position
from rxcompact.reader.scan import (
    EVENTS,
    SLICE,
    MalformedError,
    Unit,
    are_objects,
    damage_of_array,
    decode_values,
    malformed_line,
    read_unit,
    skip_space,
    split_array,
    split_lines,
)
from rxcompact.reader.text import TextDecoder

Events: TypeAlias = Iterator[list[bytes]]
Steps: TypeAlias = Generator[list[bytes], None, int]
"""Yields events and returns how far the text has been read."""


class Reader:
    """Splits an input that is fed block by block into events, each as raw JSON.

    Reads objects, arrays, lines of them (NDJSON), and values one behind the other, pretty-printed or not. gzip, bzip2,
    xz, zstd, UTF-16 and UTF-32 are recognised by their first bytes. An event that is malformed is passed on all the
    same, to be rejected with its reason where it is decoded; a line that is malformed is one event. An array need not
    fit into memory: its elements are passed on as they come.

    Args:
        items: The path to the lists of events in each object of the input: ``"Records"``,
            ``"resourceLogs[].scopeLogs[].logRecords[]"``. An object without such a list is rejected.
        path: The file, for positions and errors.
        compression: What the input must be, where that is known: ``"gzip"``, ``"bzip2"``, ``"xz"``, ``"zstd"``.
        max_line: Bytes of the longest line, element or wrapper that is held. A longer one is rejected.
        max_event: Bytes of the longest event; ``max_line`` by default. A longer one is rejected.
        max_events: Events of the input at most.
        max_body: Bytes of the input at most, decompressed.

    Attributes:
        blank: Whether there has been nothing but white space.

    Cost:
        Each chunk takes a few milliseconds at most and has at most 2,048 events, so that an event loop may be given its
        turns between them. Memory is that of a few blocks, and of one value of ``max_line`` bytes.
    """

    def __init__(
        self,
        *,
        items: str | ItemsPath | None = None,
        path: str = "",
        compression: str | None = None,
        max_line: int = 16 * MIB,
        max_event: int | None = None,
        max_events: int | None = None,
        max_body: int | None = None,
    ) -> None:
        self.blank = True
        self._path = path
        self._max_line = max_line
        self._decoder = TextDecoder(compression, max_body)
        self._batch = Batch(path, items, max_line if max_event is None else max_event, max_events)
        # text that has not been read
        self._text: list[bytes] = []
        self._size = 0
        self._wanted = 0  # bytes from which on it is worth another look
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
    def events(self) -> int:
        """How many events have been passed on."""
        return self._batch.events

    def feed(self, block: bytes) -> Events:
        """Yield the events that are complete with this block.

        Raises:
            DecodeError: when it cannot be read on: an input that is an array and is malformed, an unknown format.
            TooLargeError: when it has more events or bytes than it may have.
            OSError: for damaged compression, or something else behind it.
        """
        yield from self._read(self._decoder.feed(block))

    def end(self) -> Events:
        """Yield what is left at the end of the input.

        Raises:
            DecodeError: when the input is an array and cut short.
            EOFError: when its compression is cut short.
        """
        yield from self._read(self._decoder.end())
        yield from self._split(b"", final=True)

    def _read(self, texts: Iterator[bytes]) -> Events:
        while True:
            try:
                text = next(texts, None)
            except (DecodeError, OSError, EOFError) as error:
                before = f"{self._path}: " if self._path else ""
                after = f" after line {self._batch.line - 1}" if self._batch.line > 1 else ""
                raise type(error)(f"{before}{error}{after}") from None
            if text is None:
                return
            yield from self._split(text)

    def _split(self, text: bytes, *, final: bool = False) -> Events:
        if self._in_rejected_line:
            newline = text.find(b"\n")
            if newline < 0:
                return
            self._in_rejected_line = False
            text = text[newline:]
        self._text.append(text)
        self._size += len(text)
        if not final and not self._worth_a_look(text):
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
        rest = buffer[at:]
        self._alone = max(0, self._alone - at)
        if len(rest) > self._max_line:
            self._reject_rest(rest, f"longer than {self._max_line} bytes")
            rest = b""
        yield from self._batch.flush()
        self._text, self._size = [rest], len(rest)
        self._wanted = 0 if len(rest) < SLICE // 2 else min(len(rest) * 3 // 2, self._max_line + 1)

    def _worth_a_look(self, text: bytes) -> bool:
        """Return whether a value may be complete; looking at a long one with each block would take long."""
        if self._in_array or self._in_value:
            return self._size >= self._wanted
        return b"\n" in text or (self._is_long(self._size) and self._size >= self._wanted)

    def _is_long(self, size: int) -> bool:
        """Return whether a line of that size is read before its end has come."""
        return size > min(SLICE, self._max_line)

    # ── lines, and values between them ────────────────────────────────────────────────────────────────────────────

    def _read_lines(self, buffer: bytes, at: int, *, final: bool) -> Steps:
        stop = len(buffer) if final else buffer.rfind(b"\n", at) + 1
        cut = stop <= at
        if cut:
            if not self._is_long(len(buffer) - at):
                return at
            stop = len(buffer)
        text = buffer[at:stop]
        self._alone -= at
        # a line goes on in the next one only if that begins with something else than a brace or bracket
        marks = (b"}{",) if cut else (b"\n{", b"\n[")
        last = max(text.rfind(mark, max(0, len(text) - SLICE)) for mark in marks) + 1
        read = 0
        for end in (last, len(text)):
            if self._alone > read or (cut and end == len(text)):
                break  # the end of the line is still to come
            if part := text[read:end]:
                if end == last and not cut and are_objects(lines := split_lines(part), part):
                    self._begin(array=False)
                    yield from self._batch.add(part, lines, flat=True)
                else:
                    try:
                        values = list(map(bytes, decode_values(part)))
                    except (msgspec.DecodeError, RecursionError):
                        break
                    if values or not self.blank:
                        self._begin(array=False)
                    yield from self._batch.add(part, values)
                read = end
        if read < len(text):
            read = yield from self._read_values(text, read, cut=cut, final=final)
        self._alone += at
        return at + read

    def _begin(self, *, array: bool) -> None:
        self.blank = False
        self._is_array = self._is_array and array

    def _read_values(self, text: bytes, at: int, *, cut: bool, final: bool) -> Steps:
        """Read values one by one; a line with anything malformed on it is one malformed event.

        A value may go on over several lines. If it turns out malformed its first line is rejected, and each of the
        lines up to the damage is read alone: no byte is looked at more than a few times.
        """
        done = at
        values: list[bytes] = []
        unit = Unit(values, at, "complete")
        while at < len(text) and unit.kind == "complete":
            try:
                alone = at < self._alone
                unit = read_unit(text, at, alone=alone, cut=cut)
                if unit.kind == "open" and (final or alone):
                    raise MalformedError("cut short", at if alone else len(text))  # noqa: TRY301
            except MalformedError as error:
                if self._is_array and not self.blank:
                    raise self._error(text[done : error.position], str(error)) from None
                if cut:
                    yield from self._batch.add(text[done:at], values)
                    self._reject_rest(text[at:], str(error))
                    return len(text)
                self._alone = max(self._alone, error.position)
                unit = malformed_line(text, at, str(error))
            if unit.kind == "array":
                self._in_array = True
                self._begin(array=not values and not unit.values)
            # of a long line what is complete is passed on before its end has come
            if unit.kind != "open" or cut:
                at = unit.end
                values += unit.values
            if unit.kind == "complete" and (values or not self.blank):
                self._begin(array=False)
            if len(values) >= EVENTS or at - done >= SLICE:
                yield from self._batch.add(text[done:at], values)
                done, values = at, []
        self._in_value = unit.kind == "open" and not cut
        yield from self._batch.add(text[done:at], values)
        return at

    # ── elements of an array ──────────────────────────────────────────────────────────────────────────────────────

    def _read_array(self, buffer: bytes, at: int, *, final: bool) -> Steps:
        try:
            for stop, elements, closed in split_array(buffer, at):
                yield from self._batch.add(buffer[at:stop], elements, flat=True)
                at = stop
                self._in_array = not closed
            damage = damage_of_array(buffer, at) if self._in_array and final else None
        except MalformedError as error:
            damage = error
        if damage is None:
            return at
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
            raise self._error(text[: skip_space(text, 1)], f"an element is {reason}")
        self._begin(array=False)
        self._in_array = False
        self._batch.reject(text, reason)
        self._in_rejected_line = not text.endswith(b"\n")

    def _error(self, before: bytes, reason: str) -> DecodeError:
        line = self._batch.line + before.count(b"\n")
        return DecodeError(f"{self._path}:{line}: {reason}" if self._path else f"{reason} (line {line})")
