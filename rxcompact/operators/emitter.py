"""The hand-over between the thread that adds events, the one that closes windows, and the observers."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable


class SerializedEmitter:
    """Lets one thread work at a time, and emits outside the lock.

    Emissions wait in ``calls``. A slow observer holds up the thread that is calling it and no other: a second thread
    that has something to say leaves it there for the first.
    """

    __slots__ = ("_emitting", "_working", "calls")

    def __init__(self) -> None:
        self.calls: deque[Callable[[], object]] = deque()
        self._working = threading.RLock()
        self._emitting = threading.Lock()

    def do(self, work: Callable[[], object]) -> None:
        """Do some work, which leaves in ``calls`` what is to be told; then tell it."""
        with self._working:
            work()
        if self.calls:
            self.emit()

    def emit(self) -> None:
        """Tell what is to be told; an observer that raises keeps no other call from being made."""
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
