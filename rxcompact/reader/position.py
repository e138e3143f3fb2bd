"""Where events stand in their input, and what is rejected before it is an event."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

SHOWN = 200  # bytes kept of a piece that is too long


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


class Position:
    """Where the events of a chunk stand, in a file at ``path``; they are counted only when one is asked for.

    Each part of the chunk has its first line, text and events.
    """

    def __init__(self, path: str, before: int = 0, parts: Iterable[tuple[int, bytes, Sequence[bytes]]] = ()) -> None:
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
