"""Where events stand in their input, and what is rejected before it is an event."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Self

from rxcompact.errors import DecodeError
from rxcompact.fields import decode

SHOWN = 200
"""Bytes kept of a piece that is too long."""


class Malformed(bytes):
    """A piece of input that is rejected, with a reason, wherever it is decoded.

    Args:
        content: The piece.
        reason: For the dead letter.
    """

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


def too_long(piece: bytes, limit: int) -> Malformed:
    """Return the rejection of a piece that is longer than a limit."""
    return Malformed(piece[:SHOWN], f"longer than {limit} bytes")


def find(text: bytes, piece: bytes, at: int) -> int:
    """Return where a piece of a text stands, from a position on; -1 where it does not."""
    # its beginning will do, and searching for a long one takes long
    return text.find(piece[:-1][:SHOWN] if isinstance(piece, Malformed) else piece[:SHOWN], at)


def undecodable(events: Iterable[bytes]) -> Iterator[tuple[bytes, DecodeError]]:
    """Yield the events that are not JSON objects, and why."""
    for event in events:
        try:
            decode(event)
        except DecodeError as error:
            yield event, error


class Place(NamedTuple):
    """Where an event stands."""

    event: int
    """Its number in the input, from 1."""
    line: int
    """The number of its first line, from 1."""


class Position:
    """Where the events of a chunk stand; they are counted only when one is asked for.

    Args:
        path: The file, or empty.
        before: Events before them.
        parts: First line, text and events of each part of the input, in order.
    """

    def __init__(
        self, path: str = "", before: int = 0, parts: Iterable[tuple[int, bytes, Sequence[bytes]]] = ()
    ) -> None:
        self.path = path
        self._before = before
        self._parts = parts
        self._places: dict[int, list[Place]] | None = None

    def find(self, event: bytes) -> Place | None:
        """Return the place of an event, compared by identity; each place once.

        Equal events may be one object, which is then asked for several times.
        """
        if self._places is None:
            self._places = {}
            number = self._before
            for line, text, events in self._parts:
                start = at = 0
                for each in events:
                    number += 1
                    found = find(text, each, at)
                    if found >= 0:
                        line += text.count(b"\n", start, found)  # noqa: PLW2901
                        start, at = found, found + len(each)
                    self._places.setdefault(id(each), []).append(Place(number, line))
        places = self._places.get(id(event))
        return places.pop(0) if places else None

    def number(self, event: bytes) -> int | None:
        """Return the number of the line of an event, compared by identity; each number once."""
        place = self.find(event)
        return place and place.line
