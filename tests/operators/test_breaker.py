"""Circuit breakers and rates, in virtual time: promises 6, 13 and 25, rows L27 and W4."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import reactivex as rx
import tenacity
from aiohttp import web
from pipelines import simple_pipeline

from rxcompact import HttpEnricher, HttpSink, Orchestrator
from rxcompact import operators as rxo
from rxcompact.errors import ArgumentError, PermanentError, RateLimitedError, TransientError
from rxcompact.observers.metrics import METRICS
from rxcompact.operators import waiting
from rxcompact.render.snapshot import snapshot_numbers, snapshot_svg
from rxcompact.signals import Failing, Healed
from rxcompact.testing import START, SimulatedApi

DAY = 86_400.0
LATENCY = 0.05


def events(number: int) -> list[Any]:
    return [{"id": n} for n in range(number)]


class Service:
    """An enricher, or a sink, that is down until a moment; it keeps when it was called."""

    def __init__(self, back: float, *, error: Callable[[], BaseException] = TransientError) -> None:
        self.back, self.error = back, error
        self.calls: list[float] = []
        self.answers: list[float] = []
        self.taken: list[Any] = []

    async def __call__(self, given: Any) -> Any:
        loop = asyncio.get_running_loop()
        self.calls.append(loop.time())
        await asyncio.sleep(LATENCY)
        if self.calls[-1] < self.back or loop.time() < self.back:
            raise self.error()
        self.answers.append(loop.time())
        self.taken.append(given)
        return given

    async def publish(self, batch: Any) -> None:
        await self(batch)

    def between(self, start: float, end: float) -> int:
        return sum(start <= at < end for at in self.calls)


class Ran:
    """A run of so many events at once, to its end, and its signals."""

    def __init__(self, source: Any, **options: Any) -> None:
        self.signals: list[tuple[float, Any]] = []
        settings: dict[str, Any] = {"timespan": 1, "key_mapper": "id", "max_age": 30, "sink": lambda _: None}
        self.orchestrator = Orchestrator(simple_pipeline(source=source, **(settings | options)), report=False)
        loop = asyncio.get_running_loop()
        self.orchestrator.signals.subscribe(
            lambda signal: self.signals.append((loop.time(), signal)) if isinstance(signal, Failing | Healed) else None
        )

    async def end(self) -> Any:
        await self.orchestrator.start()
        return (await self.orchestrator.wait()).account


def most_in_a_second(calls: Sequence[float]) -> int:
    return max(sum(at <= each < at + 1 - 1e-6 for each in calls) for at in calls)


# ── an outage ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_dead_api_gets_probes_alone() -> None:
    api = Service(DAY)
    ran = Ran(events(2000), enricher=api)
    account = await ran.end()
    assert account.expired == 2000
    known = LATENCY  # when the first 100 calls had failed
    probes = [at for at in api.calls if at > known]
    assert len(api.calls) - len(probes) == 100
    # a second apart at first, 1.25 later
    assert 22 <= len(probes) <= 29
    peak = most_in_a_second(probes)
    assert peak <= 2
    assert peak <= 1.5 * len(probes) / (30 - known)
    [(at, signal)] = ran.signals
    assert (at, signal.stage, signal.target) == (pytest.approx(known, abs=1e-3), "enrich", "")
    assert isinstance(signal.error, TransientError)
    now = ran.orchestrator.statistics.snapshot()
    assert now.stages["enrich"].failing == ("",)
    assert "enrich is down" in str(now)
    assert "enrich is down" in snapshot_numbers(now)["errors"]  # the dashboard's
    assert "enrich is down" in snapshot_svg(now)
    [metric] = [metric for metric in METRICS if metric.name == "circuit_open"]
    assert dict(metric.read(now)) == {("enrich", ""): 1}
    # the reason is that of those that were called, though most were not
    assert dict(now.dead_letters) == {("expired", "enrich", "too old, transient"): 2000}


@pytest.mark.parametrize("back", [3, 10.3, 20, 24.9])
async def test_full_speed_is_back_within_two_seconds_and_nothing_young_is_lost(back: float) -> None:
    api = Service(back)
    ran = Ran(events(6000), enricher=api)
    account = await ran.end()
    assert account.published == 6000
    # 100 at once, of 50 ms each, are 2,000 a second; the last of them came before its time was up
    answered = sum(back + 2 <= at < back + 2.5 for at in api.answers)
    assert answered >= 0.95 * 1000
    failing, healed = [signal for _, signal in ran.signals]
    assert (failing.target, healed.target, healed.lost) == ("", "", 0)
    assert healed.after == pytest.approx(back, abs=2)
    assert ran.orchestrator.stages["enrich"].failing == ()


async def test_after_an_outage_the_earliest_deadline_is_first() -> None:
    back, called = 20.0, []
    loop = asyncio.get_running_loop()

    async def api(event: Any) -> Any:
        if loop.time() < back:
            raise TransientError
        called.append(event["id"])
        await asyncio.sleep(LATENCY)
        return event

    source: rx.Subject[Any] = rx.Subject()
    ran = Ran(source, enricher=api, max_concurrent=2, timespan=0.1, wait=0.1)
    await ran.orchestrator.start()
    for event in events(100):
        source.on_next(event)
        await asyncio.sleep(0.15)
    await asyncio.sleep(30)
    account = (await ran.orchestrator.stop()).account
    assert account.published == 100
    after = called[6:]  # those before are probes, which are young
    assert after == sorted(after)


async def test_a_probe_has_the_time_for_an_answer_though_events_expire_all_the_while() -> None:
    back = 60.0
    api = Service(back)
    source: rx.Subject[Any] = rx.Subject()
    ran = Ran(source, enricher=api, max_age=5, timespan=0.1)
    await ran.orchestrator.start()
    for second in range(80):
        for n in range(20):
            source.on_next({"id": (second, n)})
            await asyncio.sleep(0.05)
    account = (await ran.orchestrator.stop()).account
    # those born from 5 s before its return, less those that expired before it was known
    assert account.published >= 20 * (80 - (back - 5 + 2))
    assert [type(signal) for _, signal in ran.signals] == [Failing, Healed]
    assert back <= ran.signals[1][0] <= back + 2
    assert account.expired - 5 <= ran.signals[1][1].lost <= account.expired
    assert api.between(1, back) <= 2 * 59


async def test_an_event_whose_probe_failed_in_its_last_tenth_is_young_enough_when_the_api_is_back() -> None:
    api = Service(28.5)  # of 30 s; the last tenth began at 27
    ran = Ran(events(40), enricher=api)
    assert (await ran.end()).published == 40


@pytest.mark.parametrize("error", [TransientError, RuntimeError, TimeoutError])
@pytest.mark.parametrize("back", [DAY, 12.2])
async def test_the_same_for_a_sink(back: float, error: Callable[[], BaseException]) -> None:
    store = Service(back, error=error)
    ran = Ran(events(2000), sink=store, batch_count=10, batch_timespan=0.1)
    account = await ran.end()
    assert (account.published, account.expired) == ((0, 2000) if back == DAY else (2000, 0))
    opened, failing = ran.signals[0]
    assert failing.stage == "publish"
    assert opened < 1
    down = [at for at in store.calls if opened < at < min(back, 30)]
    assert most_in_a_second(down) <= 1
    # ten deliveries at once, of 50 ms each, are 200 a second; some wait, as they were given to
    assert back == DAY or sum(at < back + 2 + 1 for at in store.answers) >= 0.95 * 200


@pytest.mark.parametrize(
    ("timeout", "max_age", "max_concurrent", "own_limit"),
    [
        (10, 30, 100, False),
        (10, 60, 10, False),
        (10, 120, 1, False),
        (10, 5, 100, False),
        (None, 4, 10, False),
        (3600, 10, 3, False),
        (10, 60, 10, True),
        (10, 60, 30, True),
    ],
)
async def test_an_api_that_does_not_answer_is_down(
    timeout: Any, max_age: float, max_concurrent: int, own_limit: bool
) -> None:
    loop, back = asyncio.get_running_loop(), 150.0
    calls: list[float] = []

    async def api(event: Any) -> Any:
        calls.append(loop.time())
        if calls[-1] < back:
            await asyncio.sleep(5 if own_limit else DAY)
            raise OSError("the client has a time limit of its own")
        await asyncio.sleep(LATENCY)
        return event

    source: rx.Subject[Any] = rx.Subject()
    options = {"timeout": timeout, "max_age": max_age, "max_concurrent": max_concurrent}
    ran = Ran(source, enricher=api, **options)
    await ran.orchestrator.start()
    for second in range(170):
        for n in range(20):
            source.on_next({"id": (second, n)})
        await asyncio.sleep(1)
    account = (await ran.orchestrator.stop()).account
    (opened, failing), (healed, _) = ran.signals
    assert isinstance(failing.error, OSError if own_limit else TimeoutError)
    # when three were not answered, one after another where no more are made at once
    silence = min(timeout or DAY, max_age)
    assert opened <= 1 + silence * (1 if max_concurrent >= 3 else 3) + 2
    down = [at for at in calls if opened + 1e-3 < at < back]
    assert most_in_a_second(down) <= 1
    assert back <= healed <= back + silence + 2  # the probe under way is not answered
    assert account.published >= 20 * (170 - back - silence - 3)


@pytest.mark.parametrize("load", [1.2, 2, 10])
async def test_while_more_comes_than_can_be_called_for_calls_are_for_what_has_the_time(load: float) -> None:
    """Earliest deadline first alone calls for what expires in the call: 8 % of the capacity were left at ten times."""
    calls = 0

    async def api(event: Any) -> Any:
        nonlocal calls
        calls += 1
        await asyncio.sleep(1)
        return event

    source: rx.Subject[Any] = rx.Subject()
    ran = Ran(source, enricher=api, timespan=0.1, max_age=10, max_concurrent=10)
    await ran.orchestrator.start()
    for second in range(60):
        for n in range(int(load * 10)):
            source.on_next({"id": (second, n)})
        await asyncio.sleep(1)
    assert ran.orchestrator.account.published >= 0.95 * 10 * 58
    assert calls <= 600
    assert ran.signals == []  # the service answers
    await ran.orchestrator.stop(0)


async def test_batches_that_are_rejected_one_by_one_open_nothing() -> None:
    calls: list[int] = []

    def sink(batch: Any) -> dict[int, BaseException]:
        calls.append(len(batch))
        return {n: TransientError() if n % 2 else PermanentError() for n in range(len(batch))}

    ran = Ran(events(200), sink=sink, batch_count=10, batch_timespan=0, wait=0.1, max_age=2)
    await ran.end()
    assert ran.signals == []


async def test_what_retrying_cannot_mend_opens_nothing() -> None:
    loop, calls = asyncio.get_running_loop(), []

    async def api(event: Any) -> Any:
        calls.append(loop.time())
        raise PermanentError("HTTP 404")

    ran = Ran(events(200), enricher=api)
    assert (await ran.end()).failed == 200
    assert (len(calls), set(calls), ran.signals) == (200, {calls[0]}, [])


async def test_failures_that_are_rarer_than_probes_open_nothing() -> None:
    loop, calls = asyncio.get_running_loop(), []

    async def api(event: Any) -> Any:
        calls.append(loop.time())
        raise TransientError

    ran = Ran(events(1), enricher=api, wait=0.5)
    await ran.end()
    assert ran.signals == []
    assert calls[:50] == [pytest.approx(n / 2) for n in range(50)]  # the wait given is the wait taken


async def test_l27_a_wait_longer_than_the_age_makes_one_call_and_a_last_one() -> None:
    api = Service(DAY)
    ran = Ran(events(1), enricher=api, wait=tenacity.wait_fixed(60), max_age=4)
    await ran.end()
    first, *last = api.calls
    assert len(last) <= 1
    assert all(3.6 <= at - first < 4 for at in last)


async def test_one_service_that_is_down_holds_up_no_other() -> None:
    loop = asyncio.get_running_loop()
    calls: dict[str, list[float]] = {"http://a": [], "http://b": []}

    class Api:
        def target(self, event: Any) -> str:
            return "http://a" if event["id"] % 2 else "http://b"

        async def enrich(self, event: Any) -> Any:
            calls[self.target(event)].append(loop.time())
            await asyncio.sleep(LATENCY)
            if self.target(event) == "http://a":
                raise TransientError
            return event

    ran = Ran(events(1000), enricher=Api())
    account = await ran.end()
    assert (account.published, account.expired) == (500, 500)
    assert max(calls["http://b"]) < 1
    assert len(calls["http://b"]) == 500
    assert [signal.target for _, signal in ran.signals] == ["http://a"]
    assert most_in_a_second([at for at in calls["http://a"] if at > 1]) == 1
    assert ran.orchestrator.stages["enrich"].failing == ("http://a",)


@pytest.mark.parametrize(
    ("url", "target"),
    [("https://cmdb/hosts/{id}", "cmdb:443"), (lambda event: f"http://{event['id']}:81/x", "h:81")],
)
def test_an_http_enricher_names_host_and_port(url: Any, target: str) -> None:
    assert HttpEnricher(url).target({"id": "h"}) == target


async def test_so_many_services_are_kept_and_those_that_are_down_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "TARGETS", 3)

    class Api:
        def target(self, event: Any) -> str:
            return str(event["id"] // 20)

        async def enrich(self, event: Any) -> Any:
            raise TransientError

    ran = Ran(events(200), enricher=Api(), max_concurrent=10)
    await ran.orchestrator.start()
    await asyncio.sleep(5)
    assert len(ran.orchestrator.stages["enrich"].failing) == 3
    await ran.orchestrator.stop(0)


async def test_a_target_that_raises_is_none() -> None:
    class Api:
        def target(self, event: Any) -> str:
            raise KeyError(event["id"])

        async def enrich(self, event: Any) -> Any:
            raise TransientError

    ran = Ran(events(100), enricher=Api())
    await ran.end()
    assert [signal.target for _, signal in ran.signals] == [""]


# ── a drain ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("back", [DAY, 9.9])
async def test_a_drain_sends_one_probe_for_all_that_wait(back: float) -> None:
    api = Service(back)
    source: rx.Subject[Any] = rx.Subject()
    ran = Ran(source, enricher=api)
    await ran.orchestrator.start()
    for event in events(500):
        source.on_next(event)
    await asyncio.sleep(10)
    before, began = len(api.calls), asyncio.get_running_loop().time()
    report = await ran.orchestrator.stop(20)
    took = asyncio.get_running_loop().time() - began
    if back == DAY:
        assert len(api.calls) - before == 1
        assert (report.account.abandoned, report.in_time) == (500, True)
        assert took < 1
    else:
        assert (report.account.published, report.in_time) == (500, True)
    timers: Any = asyncio.get_running_loop()
    assert [timer for timer in timers._scheduled if not timer.cancelled() and "rxcompact" in repr(timer)] == []


# ── rate limits ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("latency", [0.005, 0.2])
@pytest.mark.parametrize("max_concurrent", [10, 100])
async def test_w4_a_rate_limit_holds_for_all_and_few_requests_are_rejected(latency: float, max_concurrent: int) -> None:
    api = SimulatedApi(latency=latency, rate=20)
    ran = Ran(events(300), enricher=api, max_concurrent=max_concurrent, max_age=60)
    assert (await ran.end()).published == 300
    assert len(api.calls) <= 1.3 * 300
    # 20 a second, and a burst of a second's worth before
    took = max(at for at, _ in api.calls) - START
    assert 14 <= took <= 1.1 * 15
    assert ran.signals == []  # it is no outage


async def test_w4_answers_that_take_longer_than_the_rejections_count() -> None:
    """As over HTTP: a hundred requests are sent before the first answer comes."""
    loop = asyncio.get_running_loop()
    sent, free = [], 0.0

    async def api(event: Any) -> Any:
        nonlocal free
        sent.append(loop.time())
        await asyncio.sleep(0.01)
        now = loop.time()
        if now < free - 1:
            raise RateLimitedError(retry_after=1)  # whole seconds
        free = max(now, free) + 1 / 20
        await asyncio.sleep(0.05)
        return event

    ran = Ran(events(300), enricher=api, max_age=60)
    assert (await ran.end()).published == 300
    assert len(sent) <= 1.3 * 300


async def test_a_rate_limit_without_retry_after_is_backed_off_from() -> None:
    loop, calls = asyncio.get_running_loop(), []

    async def api(event: Any) -> Any:
        calls.append(loop.time())
        await asyncio.sleep(LATENCY)
        raise RateLimitedError

    ran = Ran(events(300), enricher=api, max_concurrent=10)
    await ran.end()
    assert len(calls) < 10 + 10 * 30


async def test_a_drain_waits_for_a_rate_limit() -> None:
    api = SimulatedApi(rate=20)
    source: rx.Subject[Any] = rx.Subject()
    ran = Ran(source, enricher=api)
    await ran.orchestrator.start()
    for event in events(200):
        source.on_next(event)
    await asyncio.sleep(2)
    report = await ran.orchestrator.stop(20)
    assert report.account.published >= 195  # of those that were limited in the drain it was the last attempt
    assert len(api.calls) <= 1.3 * 200


# ── rates ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_so_many_calls_a_second_are_made_and_waiting_for_them_is_no_part_of_their_time() -> None:
    api = Service(0)
    ran = Ran(events(50), enricher=api, max_concurrent=2, timeout=0.1, rate=10)
    assert (await ran.end()).published == 50
    # the 50th is 49 tenths of a second after the first
    assert api.calls == [pytest.approx(n / 10, abs=1e-4) for n in range(50)]


async def test_an_event_that_waits_for_the_rate_holds_no_slot_and_expires() -> None:
    api = Service(0)
    ran = Ran(events(50), enricher=api, max_concurrent=1, rate=4, max_age=5)
    account = await ran.end()
    assert (account.published, account.expired) == (20, 30)


async def test_a_sink_has_a_rate_too() -> None:
    store = Service(0)
    ran = Ran(events(100), sink=store, batch_count=10, batch_timespan=0, batch_rate=2)
    assert (await ran.end()).published == 100
    assert store.calls == [pytest.approx(n / 2, abs=1e-4) for n in range(10)]


@pytest.mark.parametrize("rate", [0, -1, float("inf"), float("nan"), "10"])
def test_a_rate_that_is_none_is_rejected(rate: Any) -> None:
    with pytest.raises(ArgumentError, match="rate"):
        rxo.enrich(lambda event: event, rate=rate)
    with pytest.raises(ArgumentError, match="rate"):
        rxo.publish(lambda _: None, rate=rate)


# ── a real server ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_an_api_and_a_store_that_go_away_and_return() -> None:
    """They refuse connections for six seconds; 200 events are born before that, 200 while they are away."""

    async def main() -> None:
        calls: list[float] = []
        loop = asyncio.get_running_loop()

        async def answer(request: web.Request) -> web.Response:
            calls.append(loop.time())
            await request.read()
            return web.json_response({})

        async def start(port: int = 0) -> web.AppRunner:
            app = web.Application()
            app.router.add_route("*", "/{tail:.*}", answer)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
            return runner

        runner = await start()
        port = runner.addresses[0][1]
        url, tried = f"http://127.0.0.1:{port}", []
        http = HttpEnricher(url + "/{id}")

        async def counted(event: Any) -> Any:
            tried.append(loop.time())
            return await http.enrich(event)

        source: rx.Subject[Any] = rx.Subject()
        sink = HttpSink(url)
        ran = Ran(source, enricher=counted, sink=sink, timespan=0.2, batch_timespan=0.2)
        await ran.orchestrator.start()
        for event in events(200):
            source.on_next(event)
        async with asyncio.timeout(60):
            while ran.orchestrator.account.published < 200:
                await asyncio.sleep(0.05)
        await runner.cleanup()
        gone = loop.time()
        for event in events(400)[200:]:
            source.on_next(event)
        await asyncio.sleep(6)
        probes = [at for at in tried if at > gone + 2]  # a window, and the first hundred
        assert 1 <= len(probes) <= 6
        runner = await start(port)
        back = loop.time()
        async with asyncio.timeout(20):
            while ran.orchestrator.account.published < 380:
                await asyncio.sleep(0.05)
        took = loop.time() - back
        assert took < 5, took  # a second for the probe, as much for the batches; and a busy machine
        account = (await ran.orchestrator.stop(20)).account
        assert account.published == 400
        assert [(type(signal), signal.stage) for _, signal in ran.signals][:2] == [
            (Failing, "enrich"),
            (Healed, "enrich"),
        ]
        await http.aclose()
        await runner.cleanup()

    asyncio.run(main())
