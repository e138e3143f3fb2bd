"""Which receipts wait for which distinct events."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable, Iterator

from rxcompact.events import Compacted, Window
from rxcompact.receipts import Receipt


class Ledger:
    """Settles receipts as events meet their ends.

    A receipt waits for one key at a time: when that has met its end, for the next one that has not.
    """

    def __init__(self) -> None:
        # a distinct event is known by its key and birth; where two are the same, either end is word of both
        self._open: defaultdict[tuple[Hashable, float | None], deque[_Page]] = defaultdict(deque)

    def enter(self, window: Window) -> None:
        """Wait for what is in a window that has closed."""
        if not window.claims:
            return
        page = _Page({compacted.key for compacted in window})
        for compacted in window:
            self._open[compacted.key, compacted.first_seen].append(page)
        for receipt, keys in window.claims:
            page.wait(receipt, iter(keys))

    def settle(self, *ended: Compacted) -> None:
        """Take note of ends."""
        if not self._open:
            return
        for compacted in ended:
            identity = (compacted.key, compacted.first_seen)
            pages = self._open.get(identity)
            if pages is None:
                continue
            page = pages.popleft()
            if not pages:
                del self._open[identity]
            page.settle(compacted.key)


class _Page:
    """The receipts of one window."""

    __slots__ = ("_outstanding", "_waiting")

    def __init__(self, keys: set[Hashable]) -> None:
        self._outstanding = keys
        self._waiting: dict[Hashable, list[tuple[Receipt, Iterator[Hashable]]]] = {}

    def wait(self, receipt: Receipt, keys: Iterator[Hashable]) -> None:
        for key in keys:
            if key in self._outstanding:
                self._waiting.setdefault(key, []).append((receipt, keys))
                return
        receipt.release()

    def settle(self, key: Hashable) -> None:
        self._outstanding.discard(key)
        for receipt, keys in self._waiting.pop(key, ()):
            self.wait(receipt, keys)
