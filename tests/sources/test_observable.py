"""ObservableSource: what any thread pushes arrives on the loop, in order, in few chunks, before the end."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
import reactivex as rx
from reactivex.subject import Subject

from rxcompact.errors import LoopError
from rxcompact.sources.python import ObservableSource


class Listener:
    def __init__(self) -> None:
        self.chunks: list[list[Any]] = []
        self.ends: list[object] = []
        self.threads: set[int] = set()
        self.ended = asyncio.Event()

    def next(self, chunk: list[Any]) -> None:
        assert chunk
        assert not self.ends
        self.threads.add(threading.get_ident())
        self.chunks.append(chunk)

    def end(self, error: object = "completed") -> None:
        self.ends.append(error)
        self.ended.set()

    @property
    def events(self) -> list[Any]:
        return [event for chunk in self.chunks for event in chunk]

    def listen(self, source: ObservableSource) -> Any:
        return source.stream().subscribe(self.next, self.end, self.end)


def test_what_is_pushed_in_one_turn_is_one_chunk() -> None:
    async def run() -> None:
        events: Subject[int] = Subject()
        listener = Listener()
        listener.listen(ObservableSource(events))
        for start in (0, 10):
            for number in range(start, start + 10):
                events.on_next(number)
            assert listener.events == list(range(start))  # not on the producer's time
            await asyncio.sleep(0)
        assert listener.chunks == [list(range(10)), list(range(10, 20))]

    asyncio.run(run())


def test_an_observable_that_ends_at_once() -> None:
    async def run() -> None:
        listener = Listener()
        listener.listen(ObservableSource(rx.of(1, 2, 3)))
        async with asyncio.timeout(60):
            await listener.ended.wait()
        await asyncio.sleep(0)
        assert (listener.events, listener.ends) == ([1, 2, 3], ["completed"])

    asyncio.run(run())


@pytest.mark.parametrize("failing", [False, True])
def test_from_other_threads_nothing_is_lost_and_each_ones_order_kept(failing: bool) -> None:
    count, threads = 20_000, 4
    error = ZeroDivisionError()

    async def run() -> Listener:
        # a Subject's lock makes pushes of several threads one after the other
        events: Subject[tuple[int, int]] = Subject()
        listener = Listener()
        listener.listen(ObservableSource(events))

        def push(thread: int) -> None:
            for number in range(count):
                events.on_next((thread, number))

        def work() -> None:
            workers = [threading.Thread(target=push, args=(thread,)) for thread in range(threads)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            events.on_error(error) if failing else events.on_completed()

        boss = threading.Thread(target=work)
        boss.start()
        async with asyncio.timeout(60):
            await listener.ended.wait()
        boss.join()
        return listener

    listener = asyncio.run(run())
    for thread in range(threads):
        assert [number for of, number in listener.events if of == thread] == list(range(count))
    assert listener.ends == [error if failing else "completed"]
    assert listener.threads == {threading.get_ident()}


def test_an_idle_loop_is_woken() -> None:
    async def run() -> None:
        events: Subject[int] = Subject()
        listener = Listener()
        listener.listen(ObservableSource(events))
        await asyncio.sleep(0)
        pusher = threading.Timer(0.05, lambda: (events.on_next(1), events.on_completed()))
        pusher.start()
        async with asyncio.timeout(60):  # nothing else is on the loop
            await listener.ended.wait()
        pusher.join()
        assert listener.events == [1]

    asyncio.run(run())


def test_disposal_leaves_the_observable() -> None:
    async def run() -> None:
        events: Subject[int] = Subject()
        listener = Listener()
        subscription = listener.listen(ObservableSource(events))
        events.on_next(1)
        await asyncio.sleep(0)
        subscription.dispose()
        assert not events.observers
        events.on_next(2)
        await asyncio.sleep(0)
        assert listener.events == [1]

    asyncio.run(run())


def test_without_a_running_loop_it_is_a_loop_error() -> None:
    with pytest.raises(LoopError, match="loop"):
        ObservableSource(rx.of(1)).stream().run()
