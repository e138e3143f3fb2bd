"""Collects events into chunks, out of lists and wrapper objects, and keeps where they stand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rxcompact.errors import TooLargeError
from rxcompact.reader.decompress import MIB
from rxcompact.reader.items import ItemsPath
from rxcompact.reader.position import SHOWN, Malformed, Position, find, too_long
from rxcompact.reader.scan import EVENTS, split_array

FEW = 512
"""Lists in a wrapper that are looked at in one step."""


class Batch:
    """The events that have been read and not passed on.

    Args:
        path: The file, for positions.
        items: The path to the lists of events in each value.
        max_event: Bytes of the longest event; a longer one is rejected.
        max_events: Events of the input at most.

    Attributes:
        line: The number of the line that has been read up to.
        events: How many have been passed on.
        position: Where the chunk that was passed on last stands.
    """

    def __init__(self, path: str, items: str | ItemsPath | None, max_event: int, max_events: int | None) -> None:
        self.line = 1
        self.events = 0
        self.position = Position(path)
        self._path = path
        self._items = ItemsPath(items) if isinstance(items, str) else items
        self._max_event = max_event
        self._max_events = max_events
        self._chunk: list[bytes] = []
        self._parts: list[tuple[int, bytes, Sequence[bytes]]] = []

    def add(self, text: bytes, values: Sequence[bytes], *, flat: bool = False) -> Iterator[list[bytes]]:
        """Add the events of values, and yield those that are due.

        Args:
            text: All that has been read with them.
            values: Stand in it in this order.
            flat: None of them is a list of events.

        Raises:
            TooLargeError: when there are more than ``max_events``.
        """
        if values:
            if len(text) > MIB:
                yield []  # it took a while
            flat = flat or b"[" not in text or all(value[:1] != b"[" for value in values)
            if flat and self._items is None:
                self._append(self.line, text, values)
            else:
                yield from self._unwrap(self.line, text, values, flat=flat)
        # `replace` counts faster than `count`
        self.line += len(text) - len(text.replace(b"\n", b""))
        if len(self._chunk) >= EVENTS:
            yield from self.flush()

    def reject(self, piece: bytes, reason: str) -> None:
        """Add an event that is rejected for a reason."""
        self._append(self.line, b"", [Malformed(piece[:SHOWN], reason)])
        self.line += piece.count(b"\n")

    def flush(self) -> Iterator[list[bytes]]:
        """Yield all events."""
        chunk, parts = self._chunk, self._parts
        if not chunk:
            return
        self._chunk, self._parts = [], []
        self.position = Position(self._path, self.events, parts)
        self.events += len(chunk)
        for start in range(0, len(chunk), EVENTS):
            yield chunk if len(chunk) <= EVENTS else chunk[start : start + EVENTS]

    def _unwrap(self, line: int, text: bytes, values: Sequence[bytes], *, flat: bool) -> Iterator[list[bytes]]:
        at = 0
        for value in values:
            start = find(text, value, at)
            line += text.count(b"\n", at, start)
            at = start
            if isinstance(value, Malformed):
                self._append(line, b"", [value])
            elif not flat and value[:1] == b"[":
                yield from self._unwrap_list(line, value, wrappers=self._items is not None)
            elif self._items is None:
                self._append(line, value, [value])
            else:
                inside, passed = line, 0
                for number, found in enumerate(self._items.lists(value), 1):
                    if not number % FEW:
                        yield from self.flush() if self._chunk else iter([[]])
                    if isinstance(found, Malformed):
                        self._append(inside, b"", [found])
                        continue
                    position = find(value, found, passed)
                    inside += value.count(b"\n", passed, position)
                    passed = position
                    yield from self._unwrap_list(inside, found, wrappers=False)

    def _unwrap_list(self, line: int, text: bytes, *, wrappers: bool) -> Iterator[list[bytes]]:
        at = 0
        for stop, elements, _ in split_array(text):
            part = text[at:stop]
            if wrappers:
                yield from self._unwrap(line, part, elements, flat=True)
            else:
                self._append(line, part, elements)
            line += part.count(b"\n")
            at = stop
            if len(self._chunk) >= EVENTS:
                yield from self.flush()

    def _append(self, line: int, text: bytes, events: Sequence[bytes]) -> None:
        if not events:
            return
        longest = self._max_event
        if len(text) > longest:
            events = [event if len(event) <= longest else too_long(event, longest) for event in events]
        self._chunk += events
        self._parts.append((line, text, events))
        if self._max_events is not None and self.events + len(self._chunk) > self._max_events:
            raise TooLargeError(f"longer than {self._max_events} events (max_events)")
