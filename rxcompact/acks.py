"""Reference-counted acknowledgements: of a message, and of the windows that its events went into."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

from msgspec.structs import replace

if TYPE_CHECKING:
    from rxcompact.events import Bounds, Compacted, DeadLetter, Window


class Ack:
    """Acknowledges a message once: when every event of it is settled.

    A duplicate is settled with the event that survives. An event that is abandoned, at a stop's deadline, never is, so
    the source returns its message to the broker.

    Args:
        on_settled: Called then, on the loop.
        spans: Span contexts of what it acknowledges, which the spans of its windows link to.
    """

    __slots__ = ("_count", "_on_settled", "spans")

    def __init__(self, on_settled: Callable[[], object], spans: Sequence[Any] = ()) -> None:
        self._on_settled = on_settled
        self.spans = spans
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
    """Events that belong together, such as those of one request, or of messages that came together.

    Args:
        events: The events.
        ack: Settled when all of them are.
        acks: Or several, in the order of the events, and how many events each is of.
        origin: Where they came from, or a function that gives it for one of them.
        text: The events as they stand in the input, UTF-8, where nothing else is there: they are decoded at once.

    Attributes:
        rejected: Dead letters of the events that were rejected at intake; complete when the push returns.
    """

    def __init__(
        self,
        events: Iterable[Any],
        ack: Ack | None = None,
        *,
        acks: Sequence[tuple[Ack, int]] = (),
        origin: str | Callable[[Any], str | None] | None = None,
        text: memoryview | None = None,
    ) -> None:
        super().__init__(events)
        self.text = text
        self.acks = acks if ack is None else ((ack, len(self)),)
        self.origin = origin
        self.rejected: list[DeadLetter] = []
        self._by_event: dict[int, list[Ack]] = {}

    def acks_of(self, event: Any) -> Sequence[Ack]:
        """Return what an event is acknowledged by; of one that is not in it, or twice, whatever it may be."""
        if len(self.acks) > 1 and not self._by_event:
            acks = chain.from_iterable([ack] * number for ack, number in self.acks)
            for each, ack in zip(map(id, self), acks, strict=True):
                self._by_event.setdefault(each, []).append(ack)
        return self._by_event.get(id(event)) or [ack for ack, _ in self.acks]

    def waiting(self, keys: Sequence[Any], events: Sequence[Any]) -> Iterator[tuple[Ack, Sequence[Any]]]:
        """Yield its acknowledgements, with those of the keys, of some of its events, that each waits for."""
        if len(self.acks) > 1 and len(keys) < len(self):
            for key, event in zip(keys, events, strict=True):
                yield from ((ack, (key,)) for ack in self.acks_of(event))
            return
        at = 0
        for ack, number in self.acks:
            yield ack, keys if len(self.acks) == 1 else keys[at : at + number]
            at += number


Retained: TypeAlias = Sequence[tuple[Ack, Iterable[Hashable]]]
"""Acknowledgements, with the keys of a window that each waits for."""


class PendingAcks:
    """Releases acknowledgements as distinct events are settled."""

    def __init__(self) -> None:
        self._windows: dict[int, WindowAcks] = {}  # by the identity of the bounds that a window's events have

    def add(self, window: Window[Any, Any]) -> Window[Any, Any]:
        """Wait for the events of a window that closed; return it, with events that know its bounds."""
        if not window.acks:
            return window
        if any(compacted.window is None or id(compacted.window) in self._windows for compacted in window):
            # of a reducer that made them anew, or had several windows share their bounds
            own = replace(window.bounds)
            window = window.having([compacted.replace(window=own) for compacted in window])
        bounds = {id(compacted.window): compacted.window for compacted in window}
        acks = WindowAcks(bounds, {compacted.key for compacted in window}, window.acks)
        self._windows.update(dict.fromkeys(bounds, acks))
        return window

    def settle(self, events: Collection[Compacted[Any, Any]]) -> None:
        """Release what waited for these events."""
        settled = defaultdict[int, list[Hashable]](list)
        for compacted in events if self._windows else ():
            settled[id(compacted.window)].append(compacted.key)
        for window, keys in settled.items():
            acks = self._windows.get(window)
            if acks is not None and acks.settle(keys):
                for bounds in acks.bounds:
                    del self._windows[bounds]


class WindowAcks:
    """The acknowledgements of one window; each waits for one key at a time, so that the cost is per message."""

    __slots__ = ("_outstanding", "_waiting", "bounds")

    def __init__(self, bounds: Mapping[int, Bounds | None], outstanding: set[Hashable], acks: Retained) -> None:
        self.bounds = bounds  # so that their identities are no others'
        self._outstanding = outstanding
        self._waiting = defaultdict[Hashable, list[tuple[Ack, Iterator[Hashable]]]](list)
        for ack, keys in acks:
            self._wait(ack, filter(outstanding.__contains__, keys))

    def _wait(self, ack: Ack, outstanding: Iterator[Hashable]) -> None:
        for key in outstanding:
            self._waiting[key].append((ack, outstanding))
            return
        ack.release()

    def settle(self, keys: Sequence[Hashable]) -> bool:
        """Go on to the next key, for all that waited for one of these; return whether they were the last."""
        self._outstanding.difference_update(keys)  # all at once: what waits for several of them is looked at once
        for key in keys:
            for ack, outstanding in self._waiting.pop(key, ()):
                self._wait(ack, outstanding)
        return not self._outstanding
