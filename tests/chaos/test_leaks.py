"""An hour of windows leaves nothing behind, nor does a stop."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import reactivex as rx
from aiohttp import web
from pipelines import simple_pipeline

from rxcompact import HttpEnricher, HttpSink, HttpSource, Orchestrator
from rxcompact.errors import TransientError
from rxcompact.testing import run

OURS = ("rxcompact", "reactivex")


def parts(root: Any) -> Iterator[Any]:
    """Everything of ours that is to be reached from an object, and the containers in it."""
    seen: set[int] = set()
    left = [root]
    while left:
        thing = left.pop()
        if id(thing) in seen or isinstance(
            thing, type | types.GenericAlias | types.ModuleType | asyncio.AbstractEventLoop
        ):
            continue
        seen.add(id(thing))
        yield thing
        if isinstance(thing, types.FunctionType):
            left += [cell.cell_contents for cell in thing.__closure__ or ()]
        elif (
            isinstance(thing, types.MethodType | dict | list | tuple | set)
            or hasattr(thing, "appendleft")
            or type(thing).__module__.startswith(OURS)
        ):
            left += gc.get_referents(thing)


def sizes(root: Any) -> Counter[str]:
    """How many items the containers hold in all, by their type."""
    found: Counter[str] = Counter()
    for part in parts(root):
        if hasattr(part, "__len__") and not isinstance(part, str | bytes | rx.Observable):
            found[type(part).__name__] += len(part)
        found["objects"] += 1
    return found


@pytest.mark.parametrize(("lateness", "ordered"), [(None, False), (2.0, True)])
def test_memory_is_flat_over_an_hour_of_windows(lateness: float | None, ordered: bool) -> None:
    """The API fails now and then, events expire, observers come and go, the source dies and is restarted."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        events: rx.Subject[Any] = rx.Subject()
        calls = 0

        async def api(event: Any) -> Any:
            nonlocal calls
            calls += 1
            await asyncio.sleep(0.01)
            if calls % 7 == 0 or loop.time() % 100 < 20:
                raise TransientError("now and then")
            return event | {"n": calls}

        def sink(batch: Any) -> Any:
            return {0: TransientError("the first")} if calls % 11 == 0 else None

        orchestrator = Orchestrator(
            simple_pipeline(
                source=events, key_mapper="id", time_mapper="ts", timespan=5, lateness=lateness, enricher=api,
                sink=sink, max_age=15, ordered=ordered, max_concurrent=5, max_in_flight=60,
            )
        )  # fmt: skip
        seen: list[tuple[Counter[str], int, int, int]] = []
        await orchestrator.start()
        for second in range(3601):
            for key in (second, second, -second - 1):  # every key is new
                events.on_next({"id": key, "ts": loop.wall()})
            if second % 10 == 0:
                orchestrator.outcomes.subscribe(lambda _: None).dispose()
                orchestrator.signals.subscribe(lambda _: 1 / 0)  # is detached soon
                await orchestrator.restart()
            await asyncio.sleep(1)
            if second in (600, 3600):  # at the same place of every cycle
                gc.collect()
                memory = sys.getallocatedblocks()
                timers = len(loop._scheduled) + len(loop._ready)
                seen.append((sizes(orchestrator), memory, timers, len(asyncio.all_tasks())))
        account = orchestrator.account
        assert account.published > 3000
        assert account.expired > 100
        assert account.received > 10_000
        (early, early_memory, early_timers, early_tasks), (late, late_memory, late_timers, late_tasks) = seen
        grown = {name: (early[name], late[name]) for name in late if late[name] > early[name] * 1.5 + 150}
        assert grown == {}
        assert late_memory < early_memory + 2000, (early_memory, late_memory)
        assert late_timers <= early_timers + 120
        assert late_tasks <= early_tasks + 1
        await orchestrator.stop()

    run(main)


def test_the_measure_shows_a_leak() -> None:
    """What the test above looks at is really reached."""
    left_by_a_stop()


def test_a_stopped_run_frees_what_it_abandoned() -> None:
    # of 500 events; statistics have a histogram and the last 50 dead letters
    assert left_by_a_stop() < 900


def left_by_a_stop() -> int:
    async def main() -> int:
        events: rx.Subject[Any] = rx.Subject()
        sleepy = simple_pipeline(
            source=events, key_mapper="id", timespan=10, max_age=1000, sink=lambda _: asyncio.sleep(5000), batch_count=1
        )
        orchestrator = Orchestrator(sleepy)
        await orchestrator.start()
        await asyncio.sleep(0)
        before = sizes(orchestrator)["objects"]
        for n in range(500):
            events.on_next({"id": n})
        await asyncio.sleep(1)
        in_a_window = sizes(orchestrator)["objects"]
        await asyncio.sleep(15)
        in_a_queue = sizes(orchestrator)["objects"]
        await orchestrator.stop()
        assert in_a_window > before + 500
        assert in_a_queue > before + 500
        return sizes(orchestrator)["objects"] - before

    return run(main)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_stop_leaves_no_task_timer_socket_or_thread() -> None:
    """Of a whole service over real sockets, started and stopped again and again, in the middle of its work."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        asked = 0

        async def api(_: web.Request) -> web.Response:
            nonlocal asked
            asked += 1
            await asyncio.sleep(0 if asked % 5 else 30)
            return web.json_response({}, status=503 if asked % 3 == 0 else 200)

        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", api)
        world = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await world.setup()
        await web.TCPSite(world, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{world.addresses[0][1]}"

        async def one_life() -> None:
            source = HttpSource(port=0)
            pipeline = simple_pipeline(
                source=source, key_mapper=lambda line: bytes(line), timespan=0.05, max_age=60, batch_timespan=0.01,
                enricher=HttpEnricher(url + "/{id}"), sink=HttpSink(url + "/store"),
            )  # fmt: skip
            orchestrator = Orchestrator(pipeline)
            await orchestrator.start()
            await source.listening()
            async with asyncio.timeout(10):
                host, _, port = source.url.removeprefix("http://").rstrip("/").partition(":")
                reader, writer = await asyncio.open_connection(host, int(port))
                body = b"\n".join(b'{"id":%d}' % n for n in range(40))
                writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                assert (await reader.readline()).split()[1] == b"202"
                await asyncio.sleep(0.1)
                await orchestrator.restart()
                await source.listening()
                began = loop.time()
                report = await orchestrator.stop(0.4)
                assert loop.time() - began < 1
                assert report.account.received == 40
                assert report.account.in_flight == 0
                writer.close()
                await writer.wait_closed()

        await one_life()  # what is made once, such as aiohttp's resolver
        await asyncio.sleep(0.2)
        before = descriptors(), set(threading.enumerate()), asyncio.all_tasks()
        for _ in range(3):
            await one_life()
        async with asyncio.timeout(5):
            while descriptors() > before[0]:  # the API's ends of connections that were cut
                await asyncio.sleep(0.02)
        assert set(threading.enumerate()) <= before[1]
        names = {task.get_name() for task in asyncio.all_tasks() - before[2] if "web_protocol" not in repr(task)}
        assert names == set()
        timers = [timer for timer in loop._scheduled if not timer.cancelled() and "rxcompact" in repr(timer)]
        assert timers == []
        await world.cleanup()

    asyncio.run(main())


@pytest.mark.parametrize("state", ["running", "restarting", "draining"])
def test_a_running_orchestrator_that_is_collected_warns(state: str) -> None:
    async def main(stop: bool) -> None:
        orchestrator = Orchestrator(
            simple_pipeline(source=rx.Subject(), key_mapper="id", timespan=1, max_age=2, sink=lambda _: None)
        )
        await orchestrator.start()
        if state == "restarting":
            await orchestrator.restart()
        elif state == "draining":
            drain = asyncio.create_task(orchestrator.stop(5))
            await asyncio.sleep(0)
            drain.cancel()
        if stop:
            await orchestrator.stop()

    with pytest.warns(ResourceWarning, match="was never stopped"):
        asyncio.run(main(stop=False))
        gc.collect()
    asyncio.run(main(stop=True))  # warnings are errors here
    gc.collect()
