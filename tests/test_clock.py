"""Schedulers outside asyncio: one timer thread, forks, what a finished stream leaves behind; closed loops."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
import weakref
from typing import Any

import pytest
import reactivex as rx
from reactivex.scheduler import (
    EventLoopScheduler,
    ImmediateScheduler,
    NewThreadScheduler,
    ThreadPoolScheduler,
    TimeoutScheduler,
)

from rxcompact import operators as rxo
from rxcompact.clock import Clock, LoopScheduler, TimerThread, default_scheduler


class Event:
    pass


def test_finished_streams_hold_no_events_and_no_threads() -> None:
    held: list[weakref.ref[Event]] = []
    threads = threading.active_count()
    for _ in range(100):
        event = Event()
        held.append(weakref.ref(event))
        rx.of(event).pipe(rxo.compact(3600, key_mapper=id)).run()
        del event
    deadline = time.monotonic() + 30
    while any(ref() is not None for ref in held) and time.monotonic() < deadline:  # threads may be on their way out
        threading.Event().wait(0.001)
        gc.collect()
    assert [ref for ref in held if ref() is not None] == []
    assert threading.active_count() <= threads + 1


def test_a_disposed_timer_holds_nothing_though_it_is_not_due() -> None:
    thread = TimerThread()
    event = Event()
    held = weakref.ref(event)
    kept = thread.schedule_relative(3600, lambda *_: None)
    thread.schedule_relative(3600, lambda *_, __=event: None).dispose()  # type: ignore[misc]
    del event
    gc.collect()
    assert held() is None
    kept.dispose()
    assert len(thread._queue) == 0
    thread.dispose()


def test_disposed_timers_leave_the_queue_and_the_others_stay_in_order() -> None:
    thread = TimerThread()
    timers = [thread.schedule_relative(3600 + n, lambda *_: None, n) for n in range(20, 0, -1)]
    for timer in timers[1::2]:
        timer.dispose()
    timers[0].dispose()
    queued = [thread._queue.dequeue().state for _ in range(len(thread._queue))]
    thread.dispose()
    assert [state for state in queued if state is not None] == list(range(2, 20, 2))


@pytest.mark.parametrize("make", [NewThreadScheduler, ThreadPoolScheduler, TimeoutScheduler, ImmediateScheduler])
def test_schedulers_that_start_a_thread_a_timer_or_sleep_are_given_none(make: Any) -> None:
    assert default_scheduler(make()) is default_scheduler()


def test_other_schedulers_keep_their_timers() -> None:
    scheduler = EventLoopScheduler()
    assert default_scheduler(scheduler) is scheduler
    scheduler.dispose()


FORK = """
import os, threading
import reactivex as rx
from rxcompact import operators as rxo

def subscribed():
    closed, source, windows = threading.Event(), rx.Subject(), []
    source.pipe(rxo.compact(0.05, key_mapper=str)).subscribe(lambda w: (windows.append(w), closed.set()))
    return source, closed

before, before_closed = subscribed()
pid = os.fork()
before.on_next("b")
after, after_closed = subscribed()
after.on_next("a")
closed = before_closed.wait(20) and after_closed.wait(20)
if pid == 0:
    os._exit(0 if closed else 1)
print(closed, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_windows_close_in_a_forked_child() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], capture_output=True, text=True, check=True)
    assert done.stdout == "True 0\n"


def test_disposing_on_a_closed_loop_raises_nothing() -> None:
    loop = asyncio.new_event_loop()

    async def subscribed() -> Any:
        source: rx.Subject[str] = rx.Subject()
        subscription = source.pipe(rxo.compact(3600, key_mapper=str, dead_letters=lambda _: None)).subscribe()
        source.on_next("a")
        return subscription

    subscription = loop.run_until_complete(subscribed())
    elsewhere = LoopScheduler(loop).schedule_relative(3600, lambda *_: None)
    loop.close()
    subscription.dispose()
    elsewhere.dispose()


def test_the_clocks_of_a_scheduler_without_a_loop() -> None:
    clock = Clock(EventLoopScheduler())
    assert clock.call_soon is None
    assert clock.wall() - clock.monotonic() == pytest.approx(clock.wall() - clock.monotonic(), abs=0.01)
