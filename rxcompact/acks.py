"""Reference-counted acknowledgements: of a message, and of the windows that its events went into."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from rxcompact.events import Compacted, DeadLetter, Window


class Ack:
    """Acknowledges a message once: when every event of it is settled.

    A duplicate is settled with the event that survives. An event that is abandoned, at a stop's deadline, never is, so
    the source returns its message to the broker.

    Args:
        on_settled: Called then, on the loop.
    """

    __slots__ = ("_count", "_on_settled")

    def __init__(self, on_settled: Callable[[], object]) -> None:
        self._on_settled = on_settled
        self._count = 0

    def retain(self) -> None:
        """Wait for one more release."""
        self._count += 1

    def release(self) -> None:
        """Wait for one less."""
        self._count -= 1
        if not self._count:
            self._on_settled()


class Chunk(list[Any]):
    """Events that belong together, such as those of one message or one request.

    Args:
        events: The events.
        ack: Settled when all of them are.
        origin: Where they came from, or a function that gives it for one of them.

    Attributes:
        rejected: Dead letters of the events that were rejected at intake; complete when the push returns.
    """

    def __init__(
        self, events: Iterable[Any], ack: Ack | None = None, *, origin: str | Callable[[Any], str | None] | None = None
    ) -> None:
        super().__init__(events)
        self.ack = ack
        self.origin = origin
        self.rejected: list[DeadLetter] = []


Retained: TypeAlias = Sequence[tuple[Ack, Iterable[Hashable]]]
"""Acknowledgements, with the keys of a window that each waits for."""


class PendingAcks:
    """Releases acknowledgements as distinct events are settled."""

    def __init__(self) -> None:
        # a distinct event is known by its key and birth; of two windows that have the same, the first is settled first
        self._windows: dict[tuple[Hashable, float | None], tuple[WindowAcks, ...]] = {}

    def add(self, window: Window[Any, Any]) -> None:
        """Wait for the events of a window that closed."""
        if not window.acks:
            return
        alone = (WindowAcks({compacted.key for compacted in window}),)  # one tuple for all
        for compacted in window:
            identity = (compacted.key, compacted.first_seen)
            self._windows[identity] = self._windows.get(identity, ()) + alone
        for ack, keys in window.acks:
            alone[0].wait(ack, iter(keys))

    def settle(self, events: Collection[Compacted[Any, Any]]) -> None:
        """Release what waited for these events."""
        for compacted in events if self._windows else ():
            identity = (compacted.key, compacted.first_seen)
            acks, *others = self._windows.pop(identity, (None,))
            if others:
                self._windows[identity] = tuple(others)
            if acks is not None:
                acks.settle(compacted.key)


class WindowAcks:
    """The acknowledgements of one window; each waits for one key at a time, so that the cost is per message."""

    __slots__ = ("_outstanding", "_waiting")

    def __init__(self, keys: set[Hashable]) -> None:
        self._outstanding = keys
        self._waiting: dict[Hashable, list[tuple[Ack, Iterator[Hashable]]]] = {}

    def wait(self, ack: Ack, keys: Iterator[Hashable]) -> None:
        """Wait for the first of these keys that is outstanding; release when none is."""
        for key in keys:
            if key in self._outstanding:
                self._waiting.setdefault(key, []).append((ack, keys))
                return
        ack.release()

    def settle(self, key: Hashable) -> None:
        """Go on to the next key, for all that waited for this one."""
        self._outstanding.discard(key)
        for ack, others in self._waiting.pop(key, ()):
            self.wait(ack, others)
