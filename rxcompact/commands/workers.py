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

from rxcompact.commands.common import SIGNALLED, note, stop_signals

USAGE = 2  # the exit code of a worker that would end at once again
PAUSE = 1.0  # seconds until a worker that died is started again
WORKER = "RXCOMPACT_WORKER"


def worker() -> int:
    """Return the number of this process, from 0; 0 too where it is the only one."""
    return int(os.environ.get(WORKER, "0"))


class Workers:
    """Runs a function in several processes until each has ended by itself, or a signal has stopped them all."""

    def __init__(self, number: int, run: Callable[[], int]) -> None:
        self._run, self._signals, self._stopping = run, stop_signals(), 0  # the signal, once there was one
        self._processes: dict[int, BaseProcess] = {}
        for each in self._signals:
            signal.signal(each, self._stop)
        for n in range(number):
            self._start(n)

    def _start(self, number: int) -> None:
        # signals wait meanwhile: a process that was just forked has the handlers of this one
        signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        if not self._stopping:
            self._processes[number] = multiprocessing.get_context("fork").Process(target=self._work, args=(number,))
            self._processes[number].start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._signals)

    def _work(self, number: int) -> None:
        os.environ[WORKER] = str(number)
        for each in self._signals:
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._signals)
        sys.exit(self._run())

    def _stop(self, number: int, _: Any = None) -> None:
        self._stopping = number
        for process in self._processes.values():
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, number)

    def wait(self) -> int:
        """Return the exit code of wrong usage, else the highest, when all have ended."""
        codes = [0]
        while self._processes:
            wait([process.sentinel for process in self._processes.values()])
            for number, process in list(self._processes.items()):
                code = process.exitcode
                if code is not None and self._is_over(number, code) and code != -self._stopping:  # it had not begun
                    codes.append(code if code >= 0 else SIGNALLED - code)
        return USAGE if USAGE in codes else max(codes)

    def _is_over(self, number: int, code: int) -> bool:
        """Start a worker again, unless it ended by itself or all are to end."""
        del self._processes[number]
        if code == USAGE:
            self._stop(signal.SIGTERM)
        if code and not self._stopping:
            note(f"rxcompact: worker {number} ended with {code}, and is started again", "ERROR")
            time.sleep(PAUSE)
            self._start(number)
        return number not in self._processes
