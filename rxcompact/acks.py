"""Acknowledgements: of a message, when every event of it is settled, in whatever windows they were."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

if TYPE_CHECKING:
    from rxcompact.events import Bounds, Compacted, DeadLetter, Window


class Ack(msgspec.Struct, eq=False, gc=False):
    """Acknowledges a message once: when every event of it is settled.

    A duplicate is settled with the event that survives. An event that is abandoned, at a stop's deadline, never is, so
    the source returns its message to the broker.

    Args:
        on_settled: Called with a list of the messages that are settled, on the loop.
        message: What it is called with for this one.
        span: A span context, which the spans of its windows link to.
        left: Events that are not settled; a `Chunk` counts its own.
    """

    # not looked at by the garbage collector: there is one for each message
    on_settled: Callable[[list[Any]], object]
    message: Any = None
    span: Any = None
    left: int = 0


def retain(acks: Iterable[Ack]) -> None:
    """Have each wait for one more release."""
    for ack in acks:
        ack.left += 1


def release(acks: Iterable[Ack]) -> None:
    """Have each wait for one less."""
    settled = defaultdict[Any, list[Any]](list)
    for ack in acks:
        ack.left -= 1
        if not ack.left:
            settled[ack.on_settled].append(ack.message)
    for on_settled, messages in settled.items():
        on_settled(messages)


class Chunk(list[Any]):
    """Events that belong together, such as those of one request, or of messages that came together.

    Args:
        events: The events.
        ack: Settled when all of them are.
        acks: Or one for each event; all that a message has are counted in `Ack.left`.
        origin: Where they came from, or a function that gives it for one of them, or for its message, if it has an ack.
        text: The events as they stand in the input, UTF-8, where nothing else is there: they are decoded at once.

    Attributes:
        rejected: Dead letters of the events that were rejected at intake; complete when the push returns.
    """

    def __init__(
        self,
        events: Iterable[Any],
        ack: Ack | None = None,
        *,
        acks: Sequence[Ack] = (),
        origin: str | Callable[[Any], str | None] | None = None,
        text: memoryview | None = None,
    ) -> None:
        super().__init__(events)
        self.text = text
        self.acks = acks
        if ack is not None:
            self.acks = [ack] * max(1, len(self))  # without events it is settled when it was pushed
            ack.left += len(self.acks)
        self.origin = origin
        self.rejected: list[DeadLetter] = []
        self._by_event: dict[int, list[Ack]] = {}

    def origin_of(self, event: Any) -> str | None:
        """Return where an event came from, if that is known."""
        if not callable(self.origin):
            return self.origin
        if not self.acks:
            return self.origin(event)
        acks = self.acks_of(event)
        return self.origin(acks[0].message) if len(acks) == 1 or acks is not self.acks else None

    def acks_of(self, event: Any) -> Sequence[Ack]:
        """Return what an event is acknowledged by; of one that is not in it, or twice, whatever it may be."""
        if not self._by_event:
            for each, ack in zip(map(id, self), self.acks, strict=False):
                self._by_event.setdefault(each, []).append(ack)
        return self._by_event.get(id(event)) or self.acks


Waiting: TypeAlias = dict[Hashable, list[Ack]]
"""What is acknowledged when each key of a window is settled, once for each of its events."""


class PendingAcks:
    """Releases acknowledgements as distinct events are settled."""

    def __init__(self) -> None:
        # by the identity of the bounds that a window's events have, which are kept so that it is no others'
        self._windows: dict[int, tuple[Waiting, Mapping[int, Bounds | None]]] = {}
        self.clear = self._windows.clear

    def add(self, window: Window[Any, Any]) -> Window[Any, Any]:
        """Wait for the events of a window that closed; return it, with events that know its bounds."""
        waiting = window.acks
        if not waiting:
            return window
        if any(compacted.window is None or id(compacted.window) in self._windows for compacted in window):
            # of a reducer that made them anew, or had several windows share their bounds
            own = msgspec.structs.replace(window.bounds)
            window = window.having([compacted.replace(window=own) for compacted in window])
        bounds = {id(compacted.window): compacted.window for compacted in window}
        gone = [waiting.pop(key) for key in waiting.keys() - {compacted.key for compacted in window}]
        if waiting:
            self._windows.update(dict.fromkeys(bounds, (waiting, bounds)))
        release(chain.from_iterable(gone))
        return window

    def settle(self, events: Collection[Compacted[Any, Any]]) -> None:
        """Release what waited for these events."""
        settled = defaultdict[int, list[Hashable]](list)
        for compacted in events if self._windows else ():
            settled[id(compacted.window)].append(compacted.key)
        for window, keys in settled.items():
            if window in self._windows:
                waiting, bounds = self._windows[window]
                acks = [waiting.pop(key, ()) for key in keys]
                if not waiting:
                    for each in bounds:
                        del self._windows[each]
                release(chain.from_iterable(acks))
