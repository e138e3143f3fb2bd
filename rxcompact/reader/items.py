"""Takes events out of arrays, wrappers and dead letters, and collects them into chunks with their positions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, TypeAlias

import msgspec
from msgspec import UNSET

from rxcompact.errors import ArgumentError, TooLargeError
from rxcompact.fields import Field, Group, members_decoder, why_malformed
from rxcompact.reader.scan import EVENTS, Objects, are_objects, elements_of, split_array, text_of
from rxcompact.reader.text import PIECE

SHOWN = 200  # bytes kept of a piece that is too long
LONG = 1 << 20
FEW = 512  # wrappers that are looked at in one step
LETTER = b'{"dead_letter":"'  # how a line of a file of dead letters begins
AFTER_LETTERS = LETTER + b"\xff"
MANY = 1_000_000  # events that a dead letter may stand for
LARGE, INNER = 256 << 10, 100_000
"""Bytes of an event that is looked at more closely, and the arrays, objects and members that it may have: to decode
more takes longer than an event loop may be held."""
NO_MARKS = bytes(set(range(256)) - set(b'[{:"'))
WIDEST = 65_536  # values of an array that is an event

Step: TypeAlias = Callable[[bytes], bytes]
Events: TypeAlias = tuple[Sequence[int], Sequence[bytes], memoryview | None]
"""How many each body has, all of these, and their text where they can be decoded at once."""


class Malformed(bytes):
    """A piece of input that is rejected, with a reason, wherever it is decoded."""

    reason: str

    def __new__(cls, content: bytes, reason: str) -> Self:
        # no JSON has a NUL at its end, so no decoder takes the piece for an event
        malformed = super().__new__(cls, content + b"\0")
        malformed.reason = reason
        return malformed

    @property
    def content(self) -> bytes:
        """The piece as it stands in the input."""
        return self[:-1]

    def __getnewargs__(self) -> tuple[bytes, str]:  # type: ignore[override]
        return self.content, self.reason


class Place(NamedTuple):
    """The number of an event in its input, and of its first line, from 1."""

    event: int
    line: int


def locate(text: bytes, piece: bytes, at: int, line: int) -> tuple[int, int]:
    """Return where a piece of a text begins, from a position on, which is on a line, and its line.

    What is not in the text begins at the position. Of a long piece the beginning is looked for alone, which is fast.
    """
    start = text.find((piece.content if isinstance(piece, Malformed) else piece)[:SHOWN], at)
    return (at, line) if start < 0 else (start, line + text.count(b"\n", at, start))


@dataclass(eq=False, repr=False)
class Position:
    """Where the events of a chunk stand, in a file at ``path``; they are counted only when one is asked for.

    Each part of the chunk has its first line, text and events.
    """

    path: str
    before: int = 0
    parts: Iterable[tuple[int, bytes, Sequence[bytes]]] = ()
    text: memoryview | None = None  # of the events, UTF-8, where nothing else is there
    _places: dict[int, list[Place]] | None = None

    def find(self, event: bytes) -> Place | None:
        """Return the place of an event, compared by identity; each place once.

        Equal events may be one object, which is then asked for several times.
        """
        if self._places is None:
            self._places = {}
            number = self.before
            for line, text, events in self.parts:
                at = 0
                for each in events:
                    number += 1
                    at, line = locate(text, each, at, line)  # noqa: PLW2901
                    self._places.setdefault(id(each), []).append(Place(number, line))
                    line += text.count(b"\n", at, at + len(each))  # noqa: PLW2901
                    at += len(each)
        places = self._places.get(id(event))
        return places.pop(0) if places else None

    def origin(self, event: bytes) -> str:
        """Return the path and the line of an event, compared by identity; each line once."""
        place = self.find(event)
        return f"{self.path}:{place.line}" if place else self.path


class _Letter(msgspec.Struct):
    event: msgspec.Raw
    count: int | None = None


_decode_letter = msgspec.json.Decoder(_Letter).decode


def items_path(path: str) -> Sequence[Step]:
    """Return what finds the lists of events in a wrapper object, a step for each list on the way, as JSON.

    The path is as `Field` takes it; ``[]`` may be left out at the end. A step returns `Malformed` for a missing list.

    >>> [step(b'{"data": {"list": [1, 2]}}') for step in items_path("data.list")]
    [b'[1, 2]']
    """
    parts = path.strip().removesuffix("[]").split("[]")
    groups = Field("[]".join(parts), "items").groups
    if not all(groups) or any(members_decoder({whole: (Any, None)}) is None for (whole, _), *_ in groups):
        raise ArgumentError("items", path, "a field, or a path such as 'streams[].values[]'")
    names = ["[]".join(parts[:number]) for number in range(1, len(parts) + 1)]
    return list(map(_step, names, groups))


def _step(path: str, group: Group) -> Step:
    decoders: list[Any] = [members_decoder(dict.fromkeys(level, (msgspec.Raw, UNSET))) for level in group]

    def step(wrapper: bytes) -> bytes:
        found: Any = UNSET
        rest: Any = wrapper
        try:
            for decoder in decoders:  # which decodes no other field
                members = decoder.decode(rest)
                if (found := members.f0) is not UNSET or (rest := getattr(members, "f1", UNSET)) is UNSET:
                    break
        except msgspec.ValidationError:  # not an object
            pass
        except (msgspec.DecodeError, RecursionError) as error:
            return Malformed(wrapper, why_malformed(error, wrapper))
        array = b"" if found is UNSET else bytes(found)
        return array if array.startswith(b"[") else Malformed(wrapper, f"no list {path!r}")

    return step


def lines_of(bodies: Sequence[bytes]) -> Events | None:
    """Return the events of bodies that are lines of objects; None where a `Reader` is needed."""
    block = b"\n".join(bodies)
    if len(block) > LARGE or LETTER in block:
        return None
    events, counts, least = bodies, [1] * len(bodies), None
    if block.count(b"\n") >= len(bodies):
        events = block.split(b"\n")
        counts = [body.count(b"\n") + 1 for body in bodies]
        if not (least := min(events)):
            events = list(filter(None, events)) if all(map(bytes.strip, bodies)) else []
            counts = [sum(map(bool, body.split(b"\n"))) for body in bodies]
    return (counts, events, text_of(block)) if are_objects(events, block, least=least) else None


def _inside(letter: bytes) -> list[bytes]:
    """Return the event inside a dead letter, as often as it was counted."""
    try:
        found = _decode_letter(letter)
    except (msgspec.DecodeError, RecursionError):
        return [letter]
    count = found.count or 1
    if count > MANY:
        return [Malformed(letter, f"a dead letter of {count} events: at most {MANY}")]
    event = bytes(found.event)
    # a line that was never decoded is kept there as text
    return [msgspec.json.decode(event, type=str).encode() if event.startswith(b'"') else event] * max(count, 1)


def _inner(text: bytes) -> int:
    return sum(map(text.count, (b"[", b"{", b":")))


def _is_wide(event: bytes) -> bool:
    """Return whether an event has more than so many arrays, objects and members; each look at it is one of C."""
    if _inner(event) <= INNER:
        return False
    marks = event.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, NO_MARKS)
    marks = marks.replace(b'""', b"")  # what is inside of a text stays so
    # between two texts there is a mark now
    return marks.count(b'"') > 2 * INNER or _inner(b"".join(marks.split(b'"')[::2])) > INNER


def _as_object(array: bytes) -> bytes:
    """Return an array as an object, of which the positions are the names."""
    if array.count(b",") > WIDEST:
        return Malformed(array[:SHOWN], f"an array of more than {WIDEST} values")
    values = elements_of(array)
    return array if values is None else b"{%b}" % b",".join(b'"%d":%b' % each for each in enumerate(values))


class Batch:
    """The events that have been read and not passed on; the line read up to, and the position of the last chunk."""

    def __init__(
        self, path: str, steps: Sequence[Step], max_event: int, max_events: int | None, dead_letters: bool
    ) -> None:
        self.line = 1
        self.position = Position(path)
        self._path = path
        self._steps, self._dead_letters = steps, dead_letters
        self._max_event, self._max_events = max_event, max_events
        self.passed = 0
        self._chunk: list[bytes] = []
        self._parts: list[tuple[int, bytes, Sequence[bytes]]] = []
        self._text: memoryview | None = None  # of the events of the first of these

    def add(
        self, text: bytes, values: Sequence[bytes], *, flat: bool = False, found: Objects | None = None
    ) -> Iterator[list[bytes]]:
        """Add the events of values, which stand in a text in this order, and yield those that are due.

        ``flat``: none of the values is a list of events; ``found``: what is known of them already.
        """
        if values:
            if len(text) > LONG:
                yield []  # it took a while
            if found and not self._steps and found.least > AFTER_LETTERS:  # which is faster than a search
                self._append(self.line, text, values)
            else:
                yield from self._unwrap(self.line, text, values, self._steps, flat=flat or found is not None)
            if found and len(self._parts) == 1 and self._parts[0][2] is values:  # each as it stands there
                self._text = found.text
        # `replace` counts faster than `count`
        self.line += found.newlines if found else len(text) - len(text.replace(b"\n", b""))
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
        text = self._text if len(parts) == 1 and len(chunk) <= EVENTS else None
        self.position = Position(self._path, self.passed, parts, text)
        self._chunk, self._parts, self._text = [], [], None
        self.passed += len(chunk)
        for start in range(0, len(chunk), EVENTS):
            yield chunk if len(chunk) <= EVENTS else chunk[start : start + EVENTS]

    def _unwrap(
        self, line: int, text: bytes, values: Sequence[bytes], steps: Sequence[Step], *, flat: bool, top: bool = True
    ) -> Iterator[list[bytes]]:
        """Add the events in values: in wrappers, and in arrays of them unless ``flat``; ``top``: in no list yet."""
        has_letters = top and min(values, default=b"") <= AFTER_LETTERS and LETTER in text
        has_arrays = not (flat and top) and b"[" in text and any(value[:1] == b"[" for value in values)
        if not (steps or has_letters or has_arrays):
            self._append(line, text, values)
            return
        at = size = 0
        for number, value in enumerate(values, 1):
            at, line = locate(text, value, at, line)
            size += len(value)
            if not number % FEW or size > PIECE // 2 or len(self._chunk) >= EVENTS:
                size = 0
                yield from self.flush() if self._chunk else iter([[]])
            if top and self._dead_letters and value.startswith(LETTER):
                self._append(line, value, _inside(value))
            elif isinstance(value, Malformed):
                self._append(line, b"", [value])
            elif not flat and value[:1] == b"[":
                yield from self._unwrap_list(line, value, steps, top=True)
            elif not steps:
                self._append(line, value, [value if top or value[:1] != b"[" else _as_object(value)])
            elif isinstance(found := steps[0](value), Malformed):
                self._append(line, b"", [found])
            else:
                if len(value) > LONG:
                    yield []  # it took a while
                yield from self._unwrap_list(locate(value, found, 0, line)[1], found, steps[1:], top=False)
            line += text.count(b"\n", at, at + len(value))
            at += len(value)

    def _unwrap_list(self, line: int, array: bytes, steps: Sequence[Step], *, top: bool) -> Iterator[list[bytes]]:
        at = 0
        for stop, elements, _ in split_array(array):
            yield from self._unwrap(line, array[at:stop], elements, steps, flat=True, top=top)
            line += array.count(b"\n", at, stop)
            at = stop
            if len(self._chunk) >= EVENTS:
                yield from self.flush()

    def _checked(self, event: bytes) -> bytes:
        if len(event) > self._max_event:
            return Malformed(event[:SHOWN], f"longer than {self._max_event} bytes")
        if _is_wide(event):
            return Malformed(event[:SHOWN], f"more than {INNER} arrays, objects and members")
        return event

    def _append(self, line: int, text: bytes, events: Sequence[bytes]) -> None:
        if not events:  # of an empty list
            return
        if self._max_events is not None and self.passed + len(self._chunk) + len(events) > self._max_events:
            raise TooLargeError(f"longer than {self._max_events} events (max_events)")
        if len(text) > (most := min(self._max_event, LARGE)) and max(map(len, events)) > most:
            events = [each if len(each) <= most else self._checked(each) for each in events]
        self._chunk += events
        self._parts.append((line, text, events))
