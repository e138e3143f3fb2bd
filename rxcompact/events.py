"""The nouns that flow: compacted events, windows, outcomes, dead letters."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias, overload

import msgspec
from msgspec.structs import astuple, replace

from rxcompact.acks import Retained
from rxcompact.render import compacted_html, dead_letter_html, window_html

Trigger: TypeAlias = Literal["time", "count", "completed", "drain"]
"""Why a window closed: its timespan, its count, the end of the source, or a drain."""


class Compacted(msgspec.Struct, frozen=True, gc=False):
    """One distinct event of a window; used as a named tuple is.

    ``count``, ``first_seen`` and ``last_seen`` are None where the caller chose not to keep them.
    """

    # no tuple: the garbage collector would look at each of them again and again, and there are many
    key: Hashable
    event: Any
    count: int | None = None
    """How many events of this window had the key."""
    first_seen: float | None = None
    """POSIX seconds of the key's earliest event: its event time, else its arrival."""
    last_seen: float | None = None
    """POSIX seconds of the key's latest event: its event time, else its arrival."""

    _fields: ClassVar = ("key", "event", "count", "first_seen", "last_seen")

    def __iter__(self) -> Iterator[Any]:
        return iter(astuple(self))

    def __len__(self) -> int:
        return len(self._fields)

    def __getitem__(self, index: int) -> Any:
        return astuple(self)[index]

    def replace(self, **changes: Any) -> Compacted:
        """Return it with other values for some fields."""
        return replace(self, **changes)

    def having(self, event: Any) -> Compacted:
        """Return it with another event; less than half of what `replace` takes."""
        return Compacted(self.key, event, self.count, self.first_seen, self.last_seen)

    def _repr_html_(self) -> str:
        return compacted_html(self)


# which has pandas name the columns of a window's table
Sequence.register(Compacted)  # pyright: ignore[reportAttributeAccessIssue]

NO_ACKS: Retained = ()
Columns: TypeAlias = tuple[Collection[Hashable], Iterable[Any], Iterable[Any], Iterable[Any], Iterable[Any]]


class Window(Sequence[Compacted]):
    """A closed bucket: a sequence of `Compacted`, in the order the keys were first received.

    Args:
        opened: POSIX seconds at which the window began, inclusive.
        closed: POSIX seconds at which it ended, exclusive.
        trigger: Why it closed.
        received: Events received into it; the counts of its `Compacted` sum to this.
        columns: Five columns, one for each field of `Compacted`; read once, when an item is asked for. The first, of
            keys, tells how many there are.
        acks: Acks of a durable source that wait for what is in it.
    """

    __slots__ = ("_columns", "_items", "_size", "acks", "closed", "opened", "received", "trigger")

    def __init__(
        self,
        opened: float,
        closed: float,
        trigger: Trigger,
        received: int,
        columns: Columns,
        *,
        acks: Retained = NO_ACKS,
    ) -> None:
        self.opened = opened
        self.closed = closed
        self.trigger: Trigger = trigger
        self.received = received
        self.acks = acks
        self._size = len(columns[0])
        self._columns: Columns | None = columns
        self._items: tuple[Compacted, ...] = ()

    def _read(self) -> tuple[Compacted, ...]:
        columns = self._columns
        if columns is not None:
            self._items = tuple(map(Compacted, *columns))
            self._columns = None
        return self._items

    def __len__(self) -> int:
        return self._size

    @classmethod
    def of(cls, opened: float, closed: float, trigger: Trigger, received: int, items: Sequence[Compacted]) -> Window:
        """Return a window of these items."""
        window = cls(opened, closed, trigger, received, ((), (), (), (), ()))
        window._size, window._columns, window._items = len(items), None, tuple(items)
        return window

    def having(self, items: Sequence[Compacted]) -> Window:
        """Return this window with other items."""
        window = Window.of(self.opened, self.closed, self.trigger, self.received, items)
        window.acks = self.acks
        return window

    @overload
    def __getitem__(self, index: int) -> Compacted: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Compacted, ...]: ...
    def __getitem__(self, index: int | slice) -> Compacted | tuple[Compacted, ...]:
        return self._read()[index]

    def __iter__(self) -> Iterator[Compacted]:
        return iter(self._read())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Window):
            return NotImplemented
        return (
            (self.opened, self.closed, self.trigger, self.received)
            == (other.opened, other.closed, other.trigger, other.received)
        ) and self._read() == other._read()

    __hash__ = None  # type: ignore[assignment]  # events need not be hashable

    def __reduce__(self) -> tuple[Any, ...]:
        return Window.of, (self.opened, self.closed, self.trigger, self.received, self._read())

    def __repr__(self) -> str:
        return (
            f"Window(opened={self.opened}, closed={self.closed}, trigger={self.trigger!r}, "
            f"received={self.received}, distinct={len(self)})"
        )

    def _repr_html_(self) -> str:
        return window_html(self)


Stage: TypeAlias = str
"""Where an event was settled: "compact", "decode", "enrich" (a second one is "enrich-2", …), "publish"."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that was rejected at intake, or any outcome but published."""

    outcome: Literal["rejected", "expired", "failed", "dropped", "abandoned"]
    event: Any
    """The event as received when it was rejected, else its `Compacted`."""
    stage: Stage
    reason: str
    """A word or two for a counter: "late", "key", "too old", "HTTP 404", …"""
    error: BaseException | None = None
    """The last error, if there was one."""
    attempts: int = 0
    age: float | None = None
    """Seconds since birth, where a birth is known."""
    origin: str | None = None
    """Where it came from: file and line, URL of the post, stream and sequence; of a distinct event its source."""

    def to_json(self) -> dict[str, Any]:
        """Return what a JSON encoder takes: the event with its key and count, and why it was not published.

        ``errors`` is the chain of errors, the last first. A command that reads dead letters takes the event out again.
        """
        from rxcompact.fields import json_value  # noqa: PLC0415 - keys of JSON, which stand above the events

        if isinstance(self.event, Compacted):
            event, key, count = self.event.event, json_value(self.event.key), self.event.count
            times = {"first_seen": self.event.first_seen, "last_seen": self.event.last_seen}
        else:
            event, key, count, times = self.event, None, 1, {}
        if isinstance(event, bytes):
            event = event.decode("utf-8", "replace")
        return {
            "dead_letter": self.outcome,
            "stage": self.stage,
            "reason": self.reason,
            "errors": [f"{type(error).__name__}: {error}" for error in chain_of(self.error)],
            "attempts": self.attempts,
            "age": self.age,
            "origin": self.origin,
            "key": key,
            "count": count,
            **times,
            "event": event,
        }

    def _repr_html_(self) -> str:
        return dead_letter_html(self)


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes, the last first."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        yield error
        seen.append(error)
        error = error.__cause__


class Batch(tuple[Compacted, ...]):  # noqa: SLOT001 - its key is kept, once computed
    """What a sink is given at once."""

    @classmethod
    def of(cls, events: Iterable[Compacted]) -> Batch:
        """Return these events; a batch as it is, with the key that it may have computed."""
        return events if isinstance(events, Batch) else cls(events)

    @cached_property
    def idempotency_key(self) -> str:
        """A key that is the same whenever the same events are delivered again.

        Derived from each event's key, count and times. A batch that is tried again without the events that expired
        meanwhile is another batch and has another key.
        """
        digest = blake2b(digest_size=16)
        for compacted in self:
            content = (compacted.key, compacted.count, compacted.first_seen, compacted.last_seen)
            digest.update(_stable(content).encode("utf-8", "backslashreplace"))
        return digest.hexdigest()


def _stable(value: object) -> str:
    """Return what is the same in every process for values that are the same; the order of a set is not."""
    if isinstance(value, frozenset):
        return "{" + ",".join(sorted(map(_stable, value))) + "}"
    if isinstance(value, tuple):
        return "(" + ",".join(map(_stable, value)) + ",)"
    return repr(value)


@dataclass(frozen=True, slots=True)
class Published:
    """A distinct event that a sink took."""

    event: Compacted
    attempts: int
    """Deliveries that were tried, this one included."""
    age: float | None
    """Seconds since birth when the sink took it."""

    @property
    def outcome(self) -> Literal["published"]:
        return "published"


class Delivered(NamedTuple):
    """A batch that a sink took."""

    batch: Batch
    attempts: int
    """Deliveries that were tried, this one included."""
    at: float
    """POSIX seconds."""

    def outcomes(self) -> Iterator[Published]:
        """Yield the outcome of each event."""
        for compacted in self.batch:
            age = None if compacted.first_seen is None else self.at - compacted.first_seen
            yield Published(compacted, self.attempts, age)


Outcome: TypeAlias = Published | DeadLetter
"""What became of a distinct event."""
