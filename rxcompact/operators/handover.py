"""The hand-over between the thread that adds events, the one that closes windows, and the observers."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable


class HandOver:
    """Lets closings in between two additions, without a lock per event, and emits outside any lock.

    One thread adds at a time, as Rx asks of observers; a timer may want to close on another. A lock would cost more
    than the compaction of an event, so each side says what it does before it looks at the other: ``adding`` is set
    before ``asked`` is read, a closing goes into ``asked`` before ``adding`` is read. At least one of the two sees
    the other, and one that may does the closing.

    Emissions wait in ``calls``. A slow observer holds up the thread that is calling it and no other: a second thread
    that has something to say leaves it there for the first.
    """

    __slots__ = ("_closing", "_emitting", "adding", "asked", "calls")

    def __init__(self) -> None:
        self.adding = False
        self.asked: deque[Callable[[], None]] = deque()
        self.calls: deque[Callable[[], object]] = deque()
        self._closing = threading.Lock()
        self._emitting = threading.Lock()

    def ask(self, closing: Callable[[], None]) -> None:
        """Have a closing done, now or by the thread that is adding."""
        self.asked.append(closing)
        if not self.adding:
            self.settle()

    def close(self) -> None:
        """Do the closings asked for; only when nothing is being added."""
        with self._closing:
            while self.asked:
                self.asked[0]()
                self.asked.popleft()  # not before it is done: until then additions wait at the lock

    def settle(self) -> None:
        """Do what was asked, then emit; an observer that raises keeps no other call from being made."""
        if self.asked:
            self.close()
        failed: Exception | None = None
        while self.calls and self._emitting.acquire(blocking=False):
            try:
                while self.calls:
                    try:
                        self.calls.popleft()()
                    except Exception as error:  # noqa: BLE001 - raised below, when all calls are made
                        failed = failed or error
            finally:
                self._emitting.release()
        if failed is not None:
            raise failed
