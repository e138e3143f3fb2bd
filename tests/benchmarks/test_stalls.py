"""No input holds the event loop for more than 50 ms: the worst of each kind that fits the limits (promise 26).

python tests/benchmarks/test_stalls.py     prints the table: entry, worst turn of the loop, worst pause of the collector

What is measured is the processor time of the loop's thread in one turn, so that no other process counts.
"""

from __future__ import annotations

import asyncio
import bz2
import gc
import gzip
import lzma
import random
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias

import pytest

if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q", "-s", "-n", "0", "-m", "bench", *sys.argv[1:]]))

import reactivex as rx
from pipelines import simple_pipeline

from rxcompact import HttpEnricher, HttpSink, HttpSource, NdjsonSink, NdjsonSource, Orchestrator, PushSource
from rxcompact.brokers.source import BrokerSource
from rxcompact.brokers.unacked import UnackedMessages
from rxcompact.errors import TransientError
from rxcompact.events import Compacted, DeadLetter
from rxcompact.observers.metrics import exposition
from rxcompact.testing import VirtualLoop

LIMIT = 0.05
"""Seconds that a turn of the loop may take, less the pauses of the garbage collector, which are in the table."""
MARGIN = 2
"""What runs beside it on a shared machine takes the cache, and may double a turn."""
HELD = 100_000
MIB = 1 << 20
PRIME = (1 << 61) - 1
SEED = 16

Work: TypeAlias = Callable[["Watch"], Coroutine[Any, Any, object]]
ENTRIES: dict[str, tuple[Work, type[asyncio.AbstractEventLoop]]] = {}


def entry(name: str, kind: type[asyncio.AbstractEventLoop] = VirtualLoop) -> Callable[[Work], None]:
    def add(work: Work) -> None:
        assert name not in ENTRIES
        ENTRIES[name] = work, kind

    return add


class Watch:
    """Measures each turn of a loop, while it is ``on``."""

    def __init__(self) -> None:
        self.on = True
        self.worst = self.pause = 0.0
        self.longest_pause = 0.0
        self.shown: dict[str, float] = {}  # what took how long
        self.collected = 0.0  # in this turn
        self.turns = 0
        self._began = 0.0

    def loop(self, kind: type[Any]) -> Any:
        watch = self

        class Watched(kind):  # type: ignore[misc]
            def _run_once(self) -> None:
                began, watch.collected = time.thread_time(), 0.0
                super()._run_once()
                took = time.thread_time() - began
                if watch.on:
                    watch.turns += 1
                    if took - watch.collected > watch.worst - watch.pause:
                        watch.worst, watch.pause = took, watch.collected
                    watch.longest_pause = max(watch.longest_pause, watch.collected)

        return Watched()

    def collecting(self, phase: str, _: object) -> None:
        if phase == "start":
            self._began = time.thread_time()
        elif threading.current_thread() is threading.main_thread():
            self.collected += time.thread_time() - self._began


def watched(work: Callable[[Watch], Coroutine[Any, Any, object]], kind: type[Any]) -> Watch:
    watch = Watch()
    gc.collect()
    gc.freeze()  # what the tests made
    gc.callbacks.append(watch.collecting)
    try:
        with asyncio.Runner(loop_factory=lambda: watch.loop(kind)) as runner:
            runner.run(work(watch))
    finally:
        gc.callbacks.remove(watch.collecting)
        gc.unfreeze()
    return watch


# ── entries ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def request(url: str, body: bytes | None, headers: dict[str, str]) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=100) as response:
            response.read()
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


async def posts(watch: Watch, body: bytes, headers: dict[str, str] | None = None, **options: Any) -> int:
    """Post a body from another thread, and close the window that it made."""
    pipeline = {"key_mapper": "id", "timespan": 1000, "max_age": 2000, "sink": lambda _: None} | options.pop(
        "pipeline", {}
    )
    source = HttpSource(**({"port": 0} | options))
    async with Orchestrator(simple_pipeline(source=source, **pipeline), report=False):
        await source.listening()
        return await asyncio.to_thread(request, source.url, body, headers or {})


def zipped(body: bytes) -> tuple[bytes, dict[str, str]]:
    return gzip.compress(body, 1), {"Content-Encoding": "gzip"}


def lines(number: int, line: bytes = b'{"id":%d}') -> bytes:
    return b"\n".join(line % n for n in range(number))


def filled(piece: bytes, size: int = 16 * MIB - 100) -> bytes:
    return piece * (size // len(piece))


BODIES: dict[str, tuple[bytes, dict[str, Any]]] = {
    "body: 100,000 events": (lines(HELD), {}),
    "body: bad lines": (b"x\n" * HELD, {}),
    "body: more lines than max_events": (filled(b'{"id":1}\n'), {}),
    "body: blank lines": (filled(b"\n") + b'{"id":1}', {}),
    "body: carriage returns": (filled(b"\r\n") + b'{"id":1}', {}),
    "body: one line without an end": (filled(b'{"id":'), {}),
    "body: strings of backslashes": (b'{"id":"' + filled(b"\\\\"), {}),
    "body: surrogates": (b'{"id":"' + filled(b"\\ud800") + b'"}', {}),
    "body: open brackets": (filled(b"["), {}),
    "body: open braces, a line each": (filled(b'{"a":\n'), {}),
    "body: a value over many lines, then damage": (b'{"a":[' + filled(b"1,\n") + b"x", {}),
    "body: values on one line": (filled(b'{"id":1}', 800_000), {}),
    "array: numbers": (b"[" + b",".join([b"1"] * HELD) + b"]", {}),
    "array: of arrays": (b"[" + b",".join([b"[]"] * HELD) + b"]", {}),
    "array: elements of 12 levels": (b"[" + b",".join([b"[" * 11 + b"]" * 11] * HELD) + b"]", {}),
    "array: elements of 14 levels": (b"[" + b",".join([b"[" * 14 + b"]" * 14] * HELD) + b"]", {}),
    "array: cut short": (b"[" + b",".join([b'{"id":1}'] * HELD), {}),
    "line: 2 MiB of text": (b'{"id":1,"x":"%s"}' % filled(b"y", 2 * MIB - 20), {}),
    "line: 2 MiB of numbers": (b'{"id":1,"x":[%s1]}' % filled(b"1,", 2 * MIB - 20), {}),
    "line: 2 MiB of arrays": (b'{"id":1,"x":[%s1]}' % filled(b"[],", 2 * MIB - 20), {}),
    "line: 2 MiB of objects": (b'{"id":1,"x":[%s1]}' % filled(b"{},", 2 * MIB - 20), {}),
    "line: 2 MiB of members": (
        b'{"id":1%s}' % b"".join(b',"%x":1' % n for n in range(180_000)),
        {},
    ),
    "lines: 7 of 2 MiB of arrays": (
        b"\n".join(b'{"id":%d,"x":[%s1]}' % (n, filled(b"[],", 2 * MIB - 30)) for n in range(7)),
        {},
    ),
    "line: 15 MiB": (b'{"id":1,"x":"%s"}' % filled(b"y", 15 * MIB), {}),
    "wrapper: lists of nothing": (filled(b'{"a":[]}', 4 * MIB), {"items": "a"}),
    "wrapper: lists in lists": (
        b'{"a":[' + b",".join([b'{"b":[{"id":1},{"id":2}]}'] * 50_000) + b"]}",
        {"items": "a[].b[]"},
    ),
    "wrapper: 15 MiB of lists of nothing": (b'{"a":[' + filled(b'{"b":[]},') + b'{"b":[]}]}', {"items": "a[].b[]"}),
    "wrapper: values of arrays": (
        b'{"a":[' + b",".join([b"[1,2,3]"] * HELD) + b"]}",
        {"items": "a", "pipeline": {"key_mapper": "0"}},
    ),
    "wrapper: one wide array": (
        b'{"a":[[' + filled(b"1,", 120_000) + b"1]]}",
        {"items": "a", "pipeline": {"key_mapper": "0"}},
    ),
    "wrapper: many wide arrays": (
        b'{"a":[' + b",".join([b"[" + filled(b"1,", 130_000) + b"1]"] * 100) + b"]}",
        {"items": "a", "pipeline": {"key_mapper": "0"}},
    ),
    "dead letters: counted 90,000 times": (b'{"dead_letter":"failed","count":90000,"event":{"id":1}}', {}),
    "dead letters: many": (filled(b'{"dead_letter":"failed","count":1,"event":"{\\"id\\":1}"}\n', 5 * MIB), {}),
    "key: integers that Python hashes alike": (b"\n".join(b'{"id":%d}' % (k * PRIME + 1) for k in range(HELD)), {}),
    "key: long texts": (b"\n".join(b'{"id":"%s%d"}' % (b"k" * 65_000, n) for n in range(250)), {}),
    "key: objects": (
        b"\n".join(b'{"id":{%s}}' % b",".join(b'"%x":%d' % (k, n) for k in range(6000)) for n in range(200)),
        {},
    ),
    "key: an object of 2 MiB": (b'{"id":{%s}}' % b",".join(b'"%x":1' % n for n in range(180_000)), {}),
    "key: an array of 2 MiB": (b'{"id":[%s1]}' % filled(b"[],", 2 * MIB - 30), {}),
    "key: whole events": (
        b"\n".join(b'{"id":1,"x":[%s%d]}' % (filled(b"[],", 60_000), n) for n in range(200)),
        {"pipeline": {"key_mapper": ()}},
    ),
    "key: a deep path": (
        b"\n".join([b'{"a":' * 50 + b"1" + b"}" * 50] * 30_000),
        {"pipeline": {"key_mapper": ".".join("a" * 50)}},
    ),
    "key: through lists": (
        b"\n".join([b'{"a":[%s1]}' % filled(b'{"b":[{"c":1}]},', 100_000)] * 150),
        {"pipeline": {"key_mapper": "a[].b[].c"}},
    ),
    "number: of 2 MiB of digits": (b'{"id":%s}' % filled(b"7", 2 * MIB - 30), {}),
    "number: of 4,000 digits": (b"\n".join(b'{"id":%d%s}' % (n + 1, b"7" * 4000) for n in range(4000)), {}),
    "number: exponents": (b"\n".join([b'{"id":1e999}', b'{"id":-1.5e-999}'] * 50_000), {}),
    "time: 40 KB": (
        b"\n".join([b'{"id":1,"ts":"000000.%s."}' % (b"0" * 40_000)] * 400),
        {"pipeline": {"time_mapper": "ts"}},
    ),
    "time: of no form": (
        b"\n".join([b'{"id":1,"ts":"%s"}' % (b"1" * 60 + b"x")] * HELD),
        {"pipeline": {"time_mapper": "ts"}},
    ),
    "time: one second each, 3,600 open windows": (
        b"\n".join(b'{"id":1,"ts":%d}' % (1_500_000_000 + n) for n in range(90_000)),
        {"pipeline": {"time_mapper": "ts", "lateness": 3600, "timespan": 1, "max_age": 2e9}},
    ),
    "bulk": (b'{"index":{"_index":"a","_id":"b"}}\n{"id":1}\n' * 90_000, {"path": "/_bulk"}),
    "strict": (lines(HELD), {"strict": True}),
}


def add_body(name: str, body: bytes, options: dict[str, Any]) -> None:
    entry(name, asyncio.SelectorEventLoop)(lambda watch: posts(watch, *zipped(body), **options))


for each, (body, options) in BODIES.items():
    add_body(each, body, options)


# ── files and messages ────────────────────────────────────────────────────────────────────────────────────────────────


def compressed(name: str, text: bytes) -> bytes:
    if name == "zstd":
        return bytes(pytest.importorskip("backports.zstd").compress(text))
    if name == "gzip":
        return gzip.compress(text, 1)
    return bz2.compress(text, 1) if name == "bz2" else lzma.compress(text, preset=0)


class Messages(BrokerSource):
    """A broker in memory."""

    def __init__(self, *bodies: bytes, **options: Any) -> None:
        super().__init__(UnackedMessages(1000, 30.0), **options)
        self._bodies = list(bodies)

    async def _bind(self) -> None: ...

    async def _fetch(self, number: int) -> Any:
        bodies, self._bodies = self._bodies[:number], self._bodies[number:]
        if not bodies:
            return asyncio.Event().wait()
        names = [b"%d" % (len(self._bodies) + n) for n in range(len(bodies))]
        self._take(names, names, bodies)
        return None

    async def _send(self, kind: bytes, replies: Sequence[bytes]) -> None: ...

    async def _measure(self) -> dict[str, int]:
        return {}

    def _describe(self, part: Any, identity: Any) -> str:
        return str(identity)

    async def _disconnect(self) -> None: ...


async def pulled(source: Any, **options: Any) -> None:
    """Have a source read all that it has, and close the window."""
    pipeline = {"key_mapper": "id", "timespan": 10, "max_age": 2000, "sink": lambda _: None} | options
    async with Orchestrator(simple_pipeline(source=source, **pipeline), report=False):
        await asyncio.sleep(30)


async def read(text: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(text)
        file.flush()
        await pulled(NdjsonSource(file.name))


def add_file(name: str, kind: str, text: bytes) -> None:
    entry(f"{kind}: {name}")(lambda watch: read(compressed(kind, text)))


def add_messages(name: str, *bodies: bytes, **options: Any) -> None:
    entry(name)(lambda watch: pulled(Messages(*bodies), **options))


def add_compressed(kind: str) -> None:
    add_file("64 MiB of blank lines", kind, b"\n" * (64 * MIB) + b'{"id":1}')
    add_file("400,000 bad lines", kind, b"x\n" * 400_000)
    entry(f"{kind}: a message of 16 MiB")(lambda watch: pulled(Messages(compressed(kind, filled(b'{"id":1}\n')))))


for kind in ("gzip", "bz2", "xz", "zstd"):
    add_compressed(kind)
add_messages("message: one event of 2 MiB of members", b'{"id":1%s}' % b"".join(b',"%x":1' % n for n in range(99_000)))
add_messages(
    "message: 500 of 500 KB of arrays", *(b'{"id":%d,"x":[%s1]}' % (n, filled(b"[],", 280_000)) for n in range(100))
)
add_messages("message: 20,000 of bad JSON", *([b"x"] * 20_000))
add_messages("message: 50,000 events each its own", *(b'{"id":%d}' % n for n in range(50_000)))
add_messages("message: 100,000 events", lines(HELD))
add_messages("message: 500 with long numbers", *(b'{"id":%d%s}' % (n + 1, b"7" * 4000) for n in range(500)))


# ── what is held ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def down(_: Any) -> Any:
    raise TransientError("down")


async def hangs(_: Any) -> Any:
    await asyncio.Event().wait()


async def held(watch: Watch, then: Callable[[Orchestrator], Awaitable[object]], **options: Any) -> None:
    """Have 100,000 distinct events held, and watch what comes then."""
    pipeline = {"key_mapper": "id", "timespan": 10, "max_age": 1000, "sink": lambda _: None} | options
    source = PushSource()
    watch.on = False
    orchestrator = Orchestrator(simple_pipeline(source=source, **pipeline), report=False)
    await orchestrator.start()
    for start in range(0, HELD, 1000):
        assert source.push([{"id": n, "text": f"event {n}"} for n in range(start, start + 1000)])
        await asyncio.sleep(0)
    assert orchestrator.account.in_flight == HELD
    watch.on = True
    await then(orchestrator)
    watch.on = False
    await orchestrator.stop(0)
    account = orchestrator.account
    assert account.in_flight == 0
    assert (
        account.distinct == account.published + account.expired + account.failed + account.dropped + account.abandoned
    )


def pause(seconds: float) -> Callable[[Orchestrator], Awaitable[object]]:
    return lambda _: asyncio.sleep(seconds)


def after(seconds: float, then: Callable[[Orchestrator], object]) -> Callable[[Orchestrator], Awaitable[object]]:
    """Wait, then look at it in a turn of its own."""

    async def wait(orchestrator: Orchestrator) -> None:
        await asyncio.sleep(seconds)
        await asyncio.sleep(0)
        result = then(orchestrator)
        if hasattr(result, "__await__"):
            await result

    return wait


def add_held(name: str, then: Callable[[Orchestrator], Awaitable[object]], **options: Any) -> None:
    entry(name)(lambda watch: held(watch, then, **options))


WAITING = {"enricher": down, "wait": 400.0}  # all failed once, and wait to be tried again
add_held("held: a window closes, to publish", pause(50))
add_held("held: a window closes, to enrich", pause(50), enricher=lambda event: event)
add_held("held: a window closes, to enrich, in order", pause(50), enricher=lambda event: event, ordered=True)
add_held("held: a window closes, to enrich in batches", pause(50), enricher=lambda events: events, batch=50)
add_held("held: a window closes, the API hangs", pause(50), enricher=hangs)
add_held("held: all are tried again", pause(450), **WAITING)
add_held("held: all expire in the queue", pause(1100), enricher=hangs, timeout=None)
add_held("held: all expire while they wait", pause(1100), enricher=down, wait=5000.0)
add_held("held: all expire in batches", pause(1100), sink=hangs, batch_timeout=None)
add_held("drain: an open window", lambda each: each.stop(), enricher=lambda event: event)
add_held("drain: all wait to be tried again", after(300, lambda each: each.stop()), **WAITING)
add_held("drain: all are abandoned", after(300, lambda each: each.stop(0)), enricher=hangs)
add_held("drain: all are abandoned, in batches", after(300, lambda each: each.stop(0)), sink=hangs)
SHOWN: dict[str, Callable[[Orchestrator], object]] = {
    "account": lambda each: each.account,
    "stages": lambda each: each.stages,
    "repr": repr,
    "HTML": lambda each: each._repr_mimebundle_(),
    "metrics": lambda each: exposition(each.statistics.snapshot()),
}


def add_shown(where: str, seconds: float, **options: Any) -> None:
    async def show(watch: Watch, orchestrator: Orchestrator) -> None:
        watch.on = False
        await asyncio.sleep(seconds)
        for what, function in SHOWN.items():
            function(Orchestrator(orchestrator.pipeline))  # what it imports
            gc.collect()
            began = time.thread_time()
            function(orchestrator)
            watch.shown[what] = time.thread_time() - began

    entry(f"display: 100,000 {where}")(lambda watch: held(watch, partial(show, watch), **options))


add_shown("in an open window", 1)
add_shown("by event times", 1, time_mapper=lambda event: event["id"] / HELD + 1_700_000_000)
add_shown("that wait to be tried again", 300, **WAITING)
add_shown("in the queue", 300, enricher=hangs, timeout=None)


# ── the rest ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@entry("eviction: 100,000 keys more than can be held")
async def evict(_: Watch) -> None:
    source: rx.Subject[Any] = rx.Subject()
    options: dict[str, Any] = {"timespan": 10, "max_age": 100, "sink": lambda _: None, "max_in_flight": 1000}
    async with Orchestrator(simple_pipeline(source=source, key_mapper="id", **options), report=False) as orchestrator:
        for start in range(0, HELD, 1000):
            for n in range(start, start + 1000):
                source.on_next({"id": n})
            await asyncio.sleep(0)
        assert orchestrator.account.dropped == HELD - 1000
        await orchestrator.stop(0)


@entry("dead letters: 100,000, to a file")
async def letters(_: Watch) -> None:
    source = PushSource()
    with tempfile.NamedTemporaryFile() as file:
        pipeline = simple_pipeline(source=source, key_mapper="id", timespan=10, max_age=100, sink=lambda _: None)
        async with Orchestrator(pipeline.having(dead_letters=NdjsonSink(file.name))) as orchestrator:
            for _each in range(HELD // 500):
                assert source.push([b"x" * 100] * 500)
                await asyncio.sleep(0.01)
        assert orchestrator.account.rejected == HELD


async def attempted(work: Callable[[], Coroutine[Any, Any, object]]) -> None:
    with suppress(Exception):
        await work()


TEXT = "\u00e4" * MIB  # 2 MiB


@entry("URL: a field of 2 MiB", asyncio.SelectorEventLoop)
async def fill(_: Watch) -> None:
    enricher = HttpEnricher("http://127.0.0.1:1/{host}")
    await attempted(lambda: enricher.enrich({"host": TEXT}))
    await enricher.aclose()


@entry("sink: 500 events of 100 KB", asyncio.SelectorEventLoop)
async def post_batches(_: Watch) -> None:
    source = Messages(*(b'{"id":%d,"x":"%s"}' % (n, b"y" * 100_000) for n in range(500)))
    sink = HttpSink("http://127.0.0.1:1/", gzip=True)
    pipeline = simple_pipeline(source=source, key_mapper="id", timespan=1, max_age=4, sink=sink)
    async with Orchestrator(pipeline, report=False, deadline=0) as orchestrator:
        await asyncio.sleep(3)
        assert orchestrator.account.distinct == 500


@entry("display: an event of 2 MiB")
async def show_event(_: Watch) -> None:
    event = Compacted("a", {"text": TEXT, "list": list(range(100_000))})
    for each in (event, DeadLetter("failed", event, "enrich", "why", ValueError(TEXT))):
        each._repr_html_()
        await asyncio.sleep(0)


def add_head(name: str, head: bytes, **options: Any) -> None:
    @entry(f"header: {name}", asyncio.SelectorEventLoop)
    async def send(_: Watch) -> None:
        source = HttpSource(port=0, **options)
        pipeline = simple_pipeline(source=source, key_mapper="id", timespan=10, max_age=100, sink=lambda _: None)
        async with Orchestrator(pipeline, report=False):
            await source.listening()
            reader, writer = await asyncio.open_connection("127.0.0.1", source.port)
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\n" + head)
            writer.write_eof()
            with suppress(ConnectionError):
                await reader.read()
            writer.close()


add_head("8 KB of one", b"Content-Type: text/" + b"x" * 8000 + b"\r\nContent-Length: 0\r\n\r\n")
add_head("30,000 lines", b"a: b\r\n" * 30_000 + b"\r\n")
add_head("a charset", b"Content-Type: text/plain;" + b" a=b;" * 1500 + b"\r\nContent-Length: 0\r\n\r\n")
add_head("credentials", b"Authorization: Basic " + b"=" * 8000 + b"\r\nContent-Length: 0\r\n\r\n", token="a")
add_head("16 MiB without an end", b"a" * (16 * MIB))
add_head("a million small chunks", b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n\n\r\n" * 1_000_000 + b"0\r\n\r\n")

PIECES = [
    b'{"id":',
    b'{"a":[',
    b"[",
    b"{",
    b"}",
    b"]",
    b",",
    b":",
    b'"',
    b"\\",
    b"\\u",
    b"\\ud800",
    b"1",
    b"-1e9",
    b"null",
]
PIECES += [
    b"\n",
    b"\r\n",
    b" ",
    b'{"id":1}',
    b'[{"id":2}]',
    b"\xff",
    b"\xc3",
    b'"x":"',
    b"9" * 4000,
    b"[]," * 1000,
    b"{}" * 500,
]


def generated(dice: random.Random) -> bytes:
    """Return pieces of JSON in disorder, each often: what is worst of it shows at size."""
    found = [b'{"id":1}\n'] if dice.random() < 0.5 else []
    size = 0
    while size < 8 * MIB and len(found) < 60:
        piece = b"".join(dice.choices(PIECES, k=dice.randint(1, 4)))
        found.append(piece * min(int(10 ** dice.uniform(0, 6)), MIB * 4 // len(piece)))
        size += len(found[-1])
    return b"".join(found)[: 16 * MIB]


for number in range(20):
    add_body(f"generated: body {number}", generated(random.Random(SEED + number)), {})


# ── the table ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ENTRIES)
def test_no_input_holds_the_loop(name: str, table: dict[str, Watch]) -> None:
    watches = [watched(*ENTRIES[name])]
    # the work is the same each time: what is more than the least is the machine's
    while watches[-1].worst - watches[-1].pause >= LIMIT and len(watches) < 3:
        watches.append(watched(*ENTRIES[name]))
    table[name] = watch = min(watches, key=lambda each: each.worst - each.pause)
    assert watch.turns or watch.shown
    assert watch.worst - watch.pause < MARGIN * LIMIT


@pytest.fixture(scope="module")
def table() -> Iterator[dict[str, Watch]]:
    found: dict[str, Watch] = {}
    yield found
    print(f"\n{'entry':60} {'worst turn, ms':>18} {'collector in it':>18} {'longest pause':>18} {'turns':>8}")
    for name, watch in found.items():
        for what, took in watch.shown.items():
            print(f"{f'{name}: {what}':60} {1000 * took:18.1f}")
        if watch.shown:
            continue
        seconds = watch.worst, watch.pause, watch.longest_pause
        print(f"{name:60} {' '.join(f'{1000 * each:18.1f}' for each in seconds)} {watch.turns:8}")
