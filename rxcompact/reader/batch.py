"""Collects events into chunks, out of arrays, wrapper objects and dead letters, and keeps where they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from rxcompact.errors import TooLargeError
from rxcompact.reader.decompress import MIB
from rxcompact.reader.items import ItemsPath
from rxcompact.reader.position import SHOWN, Malformed, Position, locate
from rxcompact.reader.scan import EVENTS, elements_of, split_array

FEW = 512
"""Wrappers that are looked at in one step."""
LETTER = b'{"dead_letter":"'
"""How a line of a file of dead letters begins."""
AFTER_LETTERS = LETTER + b"\xff"
MANY = 1_000_000
"""Events that a dead letter may stand for."""
WIDEST = 65_536
"""Values of an array that is an event."""


class _Letter(msgspec.Struct):
    event: msgspec.Raw
    count: int | None = None


_decode_letter = msgspec.json.Decoder(_Letter).decode


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
        self._steps = () if items is None else (ItemsPath(items) if isinstance(items, str) else items).steps
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
            # comparing values is faster than a search
            if flat and not self._steps and (min(values) > AFTER_LETTERS or LETTER not in text):
                self._append(self.line, text, values)
            else:
                yield from self._unwrap(self.line, text, values, self._steps, flat=flat)
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

    def _unwrap(
        self,
        line: int,
        text: bytes,
        values: Sequence[bytes],
        steps: Sequence[Callable[[bytes], bytes]],
        *,
        flat: bool = True,
        top: bool = True,
    ) -> Iterator[list[bytes]]:
        """Add the events in values: in wrappers, and in arrays of them unless ``flat``."""
        at = 0
        for number, value in enumerate(values, 1):
            at, line = locate(text, value, at, line)
            if not number % FEW:
                yield from self.flush() if self._chunk else iter([[]])
            if isinstance(value, Malformed):
                self._append(line, b"", [value])
            elif top and value.startswith(LETTER):
                self._append(line, value, _inside(value))
            elif not flat and value[:1] == b"[":
                yield from self._unwrap_list(line, value, steps)
            elif steps:
                found = steps[0](value)
                if isinstance(found, Malformed):
                    self._append(line, b"", [found])
                else:
                    yield from self._unwrap_list(locate(value, found, 0, line)[1], found, steps[1:], top=False)
            else:
                self._append(line, value, [value if top or value[:1] != b"[" else _as_object(value)])

    def _unwrap_list(
        self, line: int, array: bytes, steps: Sequence[Callable[[bytes], bytes]], *, top: bool = True
    ) -> Iterator[list[bytes]]:
        at = 0
        for stop, elements, _ in split_array(array):
            part = array[at:stop]
            arrays = not top and b"[" in part and any(element[:1] == b"[" for element in elements)
            if steps or arrays or (top and LETTER in part):
                yield from self._unwrap(line, part, elements, steps, top=top)
            else:
                self._append(line, part, elements)
            line += part.count(b"\n")
            at = stop
            if len(self._chunk) >= EVENTS:
                yield from self.flush()

    def _append(self, line: int, text: bytes, events: Sequence[bytes]) -> None:
        longest = self._max_event
        if len(text) > longest:
            why = f"longer than {longest} bytes"
            events = [event if len(event) <= longest else Malformed(event[:SHOWN], why) for event in events]
        self._chunk += events
        self._parts.append((line, text, events))
        if self._max_events is not None and self.events + len(self._chunk) > self._max_events:
            raise TooLargeError(f"longer than {self._max_events} events (max_events)")


def _inside(letter: bytes) -> list[bytes]:
    """Return the event inside a dead letter, as often as it was counted."""
    try:
        found = _decode_letter(letter)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return [letter]
    count = found.count or 1
    if count > MANY:
        return [Malformed(letter, f"a dead letter of {count} events: at most {MANY}")]
    event = bytes(found.event)
    # a line that was never decoded is kept there as text
    return [msgspec.json.decode(event, type=str).encode() if event.startswith(b'"') else event] * max(count, 1)


def _as_object(array: bytes) -> bytes:
    """Return an array as an object, of which the positions are the names."""
    if array.count(b",") > WIDEST:
        return Malformed(array[:SHOWN], f"an array of more than {WIDEST} values")
    values = elements_of(array)
    return array if values is None else b"{%b}" % b",".join(b'"%d":%b' % each for each in enumerate(values))
