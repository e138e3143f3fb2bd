"""Which receipts wait for which distinct events."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence

from rxcompact.events import Compacted, Window
from rxcompact.receipts import Receipt


class Ledger:
    """Settles receipts as events meet their ends.

    A receipt waits for one key at a time: when that has met its end, for the next one that has not.
    """

    def __init__(self) -> None:
        # a distinct event is known by its key and birth; where two are the same, either end is word of both
        self._open: dict[tuple[Hashable, float | None], tuple[_Page, ...]] = {}

    def enter(self, window: Window) -> None:
        """Wait for what is in a window that has closed."""
        if not window.claims:
            return
        page = _Page({compacted.key for compacted in window})
        alone = (page,)  # one for all
        for compacted in window:
            identity = (compacted.key, compacted.first_seen)
            self._open[identity] = self._open.get(identity, ()) + alone
        for receipt, keys in window.claims:
            page.wait(receipt, iter(keys))

    def settle(self, *ended: Compacted) -> None:
        """Take note of ends."""
        if not self._open:
            return
        settled: defaultdict[_Page, list[Hashable]] = defaultdict(list)
        for compacted in ended:
            identity = (compacted.key, compacted.first_seen)
            page, *others = self._open.pop(identity, (None,))
            if page is not None:
                settled[page].append(compacted.key)
            if others:
                self._open[identity] = tuple(others)
        for page, keys in settled.items():
            page.settle(keys)


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

    def settle(self, keys: Sequence[Hashable]) -> None:
        self._outstanding.difference_update(keys)
        for key in keys:
            for receipt, others in self._waiting.pop(key, ()):
                self.wait(receipt, others)
