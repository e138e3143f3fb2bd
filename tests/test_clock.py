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
import reactivex.operators
from reactivex.scheduler import (
    EventLoopScheduler,
    ImmediateScheduler,
    NewThreadScheduler,
    ThreadPoolScheduler,
    TimeoutScheduler,
)

from rxcompact import operators as rxo
from rxcompact.clock import Clock, LoopScheduler, TimerThread, WallClock, default_scheduler


class Event:
    pass


def finish(how: str, event: Event) -> None:
    """Run a stream to its end, with a window that would be open for an hour."""
    compact = rxo.compact(3600, key_mapper=id)
    match how:
        case "completed":
            rx.of(event).pipe(compact).run()
        case "failed":
            rx.concat(rx.of(event), rx.throw(OSError())).pipe(compact).subscribe(bool, lambda _: None)
        case "disposed of":
            letters = rxo.compact(3600, key_mapper=id, dead_letters=lambda _: None)
            rx.concat(rx.of(event), rx.never()).pipe(letters).subscribe(bool).dispose()
        case "taken from":
            rx.of(event, event).pipe(rxo.compact(3600, key_mapper=id, count=1), rx.operators.take(1)).run()
        case "of event time":
            late = rxo.compact(3600, key_mapper=id, time_mapper=lambda _: time.time(), lateness=60)
            rx.of(event).pipe(late).run()


@pytest.mark.parametrize("how", ["completed", "failed", "disposed of", "taken from", "of event time"])
def test_l18_finished_streams_hold_no_events_and_no_threads(how: str) -> None:
    held: list[weakref.ref[Event]] = []
    threads = threading.active_count()
    for _ in range(100):
        event = Event()
        held.append(weakref.ref(event))
        finish(how, event)
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
import os, sys, threading
import reactivex as rx
import reactivex.operators
from rxcompact import operators as rxo

def subscribed(**options):
    closed, source, windows = threading.Event(), rx.Subject(), []
    compact = rxo.compact(0.05, key_mapper=str, **options)
    source.pipe(compact).subscribe(lambda w: (windows.append(w), closed.set()))
    return source, closed

def fork(then):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if then() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

def works(*subscriptions):
    for source, _ in subscriptions:
        source.on_next("a")
    return all(closed.wait(20) for _, closed in subscriptions)

def in_a_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]

before = subscribed()
match sys.argv[1]:
    case "before": good = fork(lambda: works(before))
    case "after": good = fork(lambda: works(subscribed()))
    case "both, with counts": good = fork(lambda: works(before, subscribed(count=2)))
    case "a grandchild": good = fork(lambda: fork(lambda: works(before, subscribed())))
    case "a thread forks": good = in_a_thread(lambda: fork(lambda: works(before, subscribed())))
print(good, works(before, subscribed()))
"""


@pytest.mark.parametrize("how", ["before", "after", "both, with counts", "a grandchild", "a thread forks"])
def test_l14_windows_close_in_a_forked_child(how: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORK, how]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True True\n"


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


class Clocks:
    """A system's wall clock and a monotonic one, by hand."""

    def __init__(self) -> None:
        self.now, self.ahead = 100.0, 5000.0
        self.wall = WallClock(lambda: self.now + self.ahead, lambda: self.now)

    def step(self, seconds: float, after: float) -> float:
        self.now += after
        self.ahead += seconds
        return self.wall.follow()


def test_a_wall_clock_follows_steps_and_not_what_is_less_than_a_second() -> None:
    clocks = Clocks()
    clocks.ahead += 3600
    assert clocks.wall() == 5100.0  # not read again
    assert clocks.wall.follow() == 3600.0
    assert clocks.wall() == 8700.0
    assert clocks.wall.follow() == 0.0
    assert clocks.step(-0.9, after=10) == 0.0
    assert clocks.wall() == 8710.0
    assert clocks.step(-0.2, after=0) == pytest.approx(-1.1)  # by now
    assert clocks.wall() == pytest.approx(8708.9)


@pytest.mark.parametrize("step", [3600.0, -3600.0])
def test_a_step_of_the_wall_clock_changes_no_age_of_what_was_received_before(step: float) -> None:
    clocks = Clocks()
    born = clocks.wall()
    clocks.step(step, after=10)
    assert clocks.wall.instant(born) == 100.0
    later = clocks.wall()
    clocks.step(step, after=10)
    clocks.now += 10
    assert clocks.wall.instant(born) == 100.0
    assert clocks.wall.instant(later) == 110.0
    assert clocks.wall.instant(clocks.wall() - 3.0) == 127.0
    assert clocks.wall.instant(clocks.wall() + 50.0) == 130.0  # nothing is younger than now


def test_a_time_before_the_start_is_by_the_clock_as_it_is_now() -> None:
    clocks = Clocks()
    assert clocks.wall.instant(5040.0) == 40.0
    clocks.step(-3600.0, after=10)
    assert clocks.wall.instant(1400.0) == 0.0


@pytest.mark.parametrize("step", [-3600, 3600])
def test_a_timer_is_due_when_it_was_though_the_wall_clock_is_set_meanwhile(step: float) -> None:
    thread = TimerThread()
    fired: list[float] = []
    done = threading.Event()
    began = time.monotonic()
    for after in (60.0, 0.2):
        thread.schedule_relative(after, lambda *_: (fired.append(time.monotonic() - began), done.set()))  # type: ignore[func-returns-value]
    thread.wall._system = lambda: time.time() + step
    assert thread.wall.follow() == pytest.approx(step, abs=1)
    thread.schedule_relative(0.0, lambda *_: None)  # which wakes the thread
    assert done.wait(20)
    threading.Event().wait(0.1)
    thread.dispose()
    assert len(fired) == 1
    assert 0.2 <= fired[0] < 10


def test_what_an_observer_raises_on_the_timer_thread_ends_no_others_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    class OddError(BaseException):
        pass

    reported: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, *_: reported.append(kind))
    closed = threading.Event()

    def observe(window: Any) -> None:
        if window[0].key == "odd":
            raise OddError
        closed.set()

    for key, timespan in (("odd", 0.01), ("other", 0.2)):
        source: rx.Subject[str] = rx.Subject()
        source.pipe(rxo.compact(timespan, key_mapper=str)).subscribe(observe)
        source.on_next(key)
    assert closed.wait(20)
    assert reported == [OddError]
