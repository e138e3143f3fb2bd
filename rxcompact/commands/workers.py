"""Several processes that run one command, each started again when it dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from rxcompact.commands.common import SIGNALLED, WORKER, note, stop_signals

USAGE = 2
"""The exit code of a worker that would end at once again."""
PAUSE = 1.0
"""Seconds until a worker that died is started again."""


def worker() -> int:
    """Return the number of this process, from 0; 0 too where it is the only one."""
    return int(os.environ.get(WORKER, "0"))


class Workers:
    """Runs a function in processes until each has ended by itself, or a signal has stopped them all.

    Args:
        number: How many.
        run: Returns the exit code.
    """

    def __init__(self, number: int, run: Callable[[], int]) -> None:
        self._number, self._run = number, run
        self._processes: dict[int, BaseProcess] = {}
        self._stopping = False
        self._signals = stop_signals()

    def run(self) -> int:
        """Return the exit code of wrong usage, else the highest, when all have ended."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        for each in self._signals:
            signal.signal(each, self._stop)
        for number in range(self._number):
            self._start(number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._signals)
        codes: list[int] = []
        while self._processes:
            ended = wait([process.sentinel for process in self._processes.values()])
            for number, process in list(self._processes.items()):
                if process.sentinel in ended:
                    process.join()
                    codes += self._restart(number, process.exitcode or 0)
        return USAGE if USAGE in codes else max(codes)

    def _start(self, number: int) -> None:
        process = multiprocessing.get_context("fork").Process(target=self._work, args=(number,))
        process.start()
        self._processes[number] = process

    def _work(self, number: int) -> None:
        os.environ[WORKER] = str(number)
        for each in self._signals:
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._signals)
        sys.exit(self._run())

    def _stop(self, number: int, _: Any = None) -> None:
        self._stopping = True
        for process in self._processes.values():
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, number)

    def _restart(self, number: int, code: int) -> list[int]:
        """Start a worker again, unless it ended by itself; then return its exit code."""
        del self._processes[number]
        if code == USAGE:
            self._stop(signal.SIGTERM)
        if not self._stopping and code:
            note(f"rxcompact: worker {number} ended with {code}, and is started again", "ERROR")
            time.sleep(PAUSE)
        if self._stopping or not code:
            return [code if code >= 0 else SIGNALLED - code]
        signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        self._start(number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._signals)
        return []
