"""The nouns that flow: compacted events, windows, outcomes, dead letters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from importlib import import_module
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeAlias, overload

import msgspec
from typing_extensions import TypeVar

from rxcompact.acks import Waiting
from rxcompact.errors import chain_of
from rxcompact.format import message_of
from rxcompact.keys import json_value, stable

K_co = TypeVar("K_co", covariant=True, default=Any)
E_co = TypeVar("E_co", covariant=True, default=Any)
F = TypeVar("F")


def shown_by(function: str) -> Callable[..., Any]:
    """Return a method that calls a function, such as "tables.window_html", of `render`: only who looks loads that."""
    module, _, name = function.partition(".")

    def show(self: Any, *arguments: Any) -> Any:
        return getattr(import_module(f"rxcompact.render.{module}"), name)(self, *arguments)

    return show


Trigger: TypeAlias = Literal["time", "gap", "count", "completed", "drain", "leading"]
"""Why a window closed: its timespan, inactivity, a number of keys, the end of the source, or a drain; "leading" is a
window of keys' first events, which did not wait for that."""


class Bounds(msgspec.Struct, frozen=True, gc=False, repr_omit_defaults=True):
    """When a window was open, and why it closed; shared by all of its events."""

    opened: float
    """POSIX seconds at which the window began, inclusive."""
    closed: float
    """POSIX seconds at which it ended, exclusive."""
    trigger: Trigger
    span: Any = None
    """The context of its span, where the run is traced."""


class Compacted(msgspec.Struct, Generic[K_co, E_co], frozen=True, gc=False, eq=False):
    """One distinct event of a window; also a sequence of its first five fields, as a named tuple is.

    ``count``, ``first_seen`` and ``last_seen`` are None where the caller chose not to keep them. Events that differ in
    nothing but their window are equal.
    """

    # no tuple: the garbage collector would look at each of them again and again, and there are many
    key: K_co
    event: E_co
    count: int | None = None
    """How many events of this window had the key."""
    first_seen: float | None = None
    """POSIX seconds of the key's earliest event: its event time, else its arrival."""
    last_seen: float | None = None
    """POSIX seconds of the key's latest event: its event time, else its arrival."""
    window: Bounds | None = None
    """The window that it is of."""
    size: int = 0
    """Bytes of the JSON that it was decoded from; 0 for an event that is not decoded, or never was JSON."""

    _fields: ClassVar = ("key", "event", "count", "first_seen", "last_seen")

    @property
    def leading(self) -> bool:
        """Whether it is a key's first event, which left before its repeats were counted."""
        return self.window is not None and self.window.trigger == "leading"

    def __iter__(self) -> Iterator[Any]:
        return iter((self.key, self.event, self.count, self.first_seen, self.last_seen))

    def __len__(self) -> int:
        return len(self._fields)

    def __getitem__(self, index: int) -> Any:
        return tuple(self)[index]

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, Compacted) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def replace(self, **changes: Any) -> Compacted[Any, Any]:
        """Return it with other values for some fields."""
        return msgspec.structs.replace(self, **changes)

    _repr_html_ = shown_by("tables.compacted_html")


# which has pandas name the columns of a window's table
Sequence.register(Compacted)  # pyright: ignore[reportAttributeAccessIssue]


class Window(Sequence[Compacted[K_co, E_co]]):
    """A closed bucket: a sequence of `Compacted`, in the order the keys were first received.

    Args:
        bounds: When it was open, and why it closed; `opened`, `closed` and `trigger` are these.
        received: Events received into it; the counts of its `Compacted` sum to this.
        items: Its distinct events; of what is not a tuple they are made each time, and kept once one is indexed.
        acks: Of a durable source, what waits for each of its keys.
        size: Bytes of its events, where they are JSON lines and were counted.
    """

    __slots__ = ("_items", "acks", "bounds", "closed", "opened", "received", "size", "trigger")

    def __init__(
        self,
        bounds: Bounds,
        received: int,
        items: Collection[Compacted[K_co, E_co]],
        *,
        acks: Waiting | None = None,
        size: int = 0,
    ) -> None:
        self.bounds = bounds
        self.opened, self.closed = bounds.opened, bounds.closed
        self.trigger: Trigger = bounds.trigger
        self.received = received
        self.acks, self.size = {} if acks is None else acks, size
        self._items = items

    def having(self, items: Collection[Compacted[Any, F]]) -> Window[Any, F]:
        """Return this window with other items."""
        return Window(self.bounds, self.received, items, acks=self.acks)

    def _read(self) -> tuple[Compacted[K_co, E_co], ...]:
        items = self._items
        if not isinstance(items, tuple):
            items = self._items = tuple(items)
        return items

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Compacted[K_co, E_co]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Compacted[K_co, E_co], ...]: ...
    def __getitem__(self, index: int | slice) -> Compacted[K_co, E_co] | tuple[Compacted[K_co, E_co], ...]:
        return self._read()[index]

    def __iter__(self) -> Iterator[Compacted[K_co, E_co]]:
        return iter(self._items)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Window):
            return NotImplemented
        return (self.bounds, self.received, self._read()) == (other.bounds, other.received, other._read())

    __hash__ = None  # type: ignore[assignment]  # events need not be hashable

    def __reduce__(self) -> tuple[Any, ...]:
        return Window, (self.bounds, self.received, self._read())

    def __repr__(self) -> str:
        return (
            f"Window(opened={self.opened}, closed={self.closed}, trigger={self.trigger!r}, "
            f"received={self.received}, distinct={len(self)})"
        )

    _repr_html_ = shown_by("tables.window_html")


class DeadLetter(msgspec.Struct, frozen=True):
    """An event that was rejected at intake, or any outcome but published."""

    outcome: Literal["rejected", "expired", "failed", "dropped", "abandoned"]
    event: Any
    """The event as received when it was rejected, else its `Compacted`."""
    stage: str
    """Where it was settled: "compact", "decode", "enrich" (a second one is "enrich-2", …), "publish"."""
    reason: str
    """A word or two for a counter: "late", "key", "too old", "HTTP 404", …"""
    error: BaseException | None = None
    """The last error, if there was one."""
    attempts: int = 0
    age: float | None = None
    """Seconds since birth, where a birth is known."""
    origin: str | None = None
    """Where it came from: file and line, URL of the post, stream and sequence; of a distinct event its source."""

    @property
    def size(self) -> int:
        """Bytes of the event as JSON, where they are known."""
        event = self.event
        if isinstance(event, Compacted):
            if event.size:
                return event.size
            event = event.event
        return len(event) if isinstance(event, bytes) else 0

    def to_json(self) -> dict[str, Any]:
        """Return what a JSON encoder takes: the event with its key and count, and why it was not published.

        ``errors`` is the chain of errors, the last first. A command that reads dead letters takes the event out again.
        """
        event, found = self.event, dict[str, Any](key=None, count=1)
        if isinstance(event, Compacted):
            times = {"first_seen": event.first_seen, "last_seen": event.last_seen}
            event, found = event.event, {"key": json_value(event.key), "count": event.count, **times}
        return {
            "dead_letter": self.outcome,
            "stage": self.stage,
            "reason": self.reason,
            "errors": [f"{type(error).__name__}: {message_of(error)}" for error in chain_of(self.error)],
            "attempts": self.attempts,
            "age": self.age,
            "origin": self.origin,
            **found,
            "event": _readable(event) if isinstance(event, bytes) else event,
        }

    _repr_html_ = shown_by("tables.dead_letter_html")


def _readable(line: bytes) -> Any:
    """Return a JSON line as the object that it is, else as text."""
    try:
        return msgspec.json.decode(line, type=dict)
    except (msgspec.DecodeError, RecursionError):
        return line.rstrip(b"\0").decode("utf-8", "replace")


class Batch(tuple[Compacted, ...]):  # noqa: SLOT001 - its key is kept, once computed
    """What a sink is given at once."""

    @cached_property
    def idempotency_key(self) -> str:
        """A key that is the same whenever the same events are delivered again.

        Derived from each event's key, count and times. A batch that is tried again without the events that expired
        meanwhile is another batch and has another key.
        """
        from hashlib import blake2b  # noqa: PLC0415 - OpenSSL takes long to import

        digest = blake2b(digest_size=16)
        for compacted in self:
            times = (None if at is None else float(at) for at in (compacted.first_seen, compacted.last_seen))
            # one repeat in the instant of the first event has its count and times
            edge = ("leading",) if compacted.leading else ()
            digest.update(stable((compacted.key, compacted.count, *times, *edge)).encode("utf-8", "backslashreplace"))
        return digest.hexdigest()


class Published(msgspec.Struct, frozen=True):
    """A distinct event that a sink took."""

    event: Compacted
    attempts: int
    """Deliveries that were tried, this one included."""
    age: float | None
    """Seconds since birth when the sink took it."""
    outcome: ClassVar[Literal["published"]] = "published"


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
