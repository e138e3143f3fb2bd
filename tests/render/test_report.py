"""Reports of losses and failures in the log, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import reactivex as rx
import tenacity
from loguru import logger
from pipelines import simple_pipeline

from rxcompact import Orchestrator, key_of
from rxcompact.errors import NoRoomError, PermanentError, TransientError
from rxcompact.observers import ReportObserver


class Log:
    """What was logged, with the seconds at which it was."""

    def __init__(self) -> None:
        self.lines: list[tuple[float, str, str]] = []
        self.extras: list[dict[str, Any]] = []

    def write(self, message: Any) -> None:
        record = message.record
        if record["name"] == "rxcompact.observers.log":
            self.lines.append((asyncio.get_running_loop().time(), record["level"].name, record["message"]))
            self.extras.append(record["extra"])

    def at(self, level: str) -> list[tuple[float, str]]:
        return [(time, message) for time, name, message in self.lines if name == level]


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    handler = logger.add(log.write, level="DEBUG")
    yield log
    logger.remove(handler)


def reported(source: Any, **options: Any) -> Orchestrator:
    settings: dict[str, Any] = {
        "timespan": 1,
        "max_age": 6,
        "batch_timespan": 0,
        "sink": lambda _: None,
        "key_mapper": "id",
    }
    settings["wait"] = tenacity.wait_fixed(0.5)
    return Orchestrator(simple_pipeline(source=source, **(settings | options)))


async def push(events: rx.Subject[Any], seconds: int, each: int = 10) -> None:
    for second in range(seconds):
        for number in range(each):
            events.on_next({"id": f"{second} {number}"})
        await asyncio.sleep(1)


async def test_a_run_without_losses_logs_nothing(log: Log) -> None:
    orchestrator = reported([{"id": key} for key in range(100)])
    await orchestrator.start()
    await orchestrator.wait()
    assert log.lines == []


async def test_an_outage_is_reported_within_a_second_once_a_minute_and_when_it_is_over(log: Log) -> None:
    down = False

    def sink(batch: Any) -> None:
        if down:
            raise OSError("disk full")

    events: rx.Subject[Any] = rx.Subject()
    async with reported(events, sink=sink, max_age=6) as orchestrator:
        await push(events, 10)
        assert log.lines == []
        down = True  # at 10 s, when a window closes: its batch fails, and is reported a second later
        await push(events, 150)
        down = False  # at 160 s
        await push(events, 10)
        expired = orchestrator.account.expired
        assert expired > 0
    failing = [(at, text) for at, text in log.at("WARNING") if "failed" in text]
    assert [round(at) for at, _ in failing] == [11, 71, 131]
    assert all("publish: " in text and "last error: OSError: disk full; oldest event" in text for _, text in failing)
    lost = [(at, text) for at, text in log.at("WARNING") if "expired" in text]
    assert [round(at - lost[0][0]) for at, _ in lost] == [0, 60, 120]
    assert 9 + 6 <= lost[0][0] <= 9 + 6 + 1  # the first window that failed began at 9 s
    assert "expired at publish (too old, OSError); last error: OSError: disk full" in lost[0][1]
    recovered = [(at, text) for at, text in log.at("INFO") if "works again" in text]
    ((at, text),) = recovered
    assert 160 < at <= 163
    assert text.startswith("publish works again after 2")
    assert text.endswith(f"; {expired:,} events lost meanwhile")
    assert len(log.lines) == len(failing) + len(lost) + len(recovered) + 1  # and the account at the end


async def test_a_line_names_the_host_and_port_of_the_service(log: Log) -> None:
    class Api:
        down = True

        def target(self, event: Any) -> str:
            return f"cmdb{event['id'][0]}:9000"

        async def __call__(self, event: Any) -> Any:
            if self.down:
                raise TransientError("no answer")
            return event

    api, events = Api(), rx.Subject[Any]()
    async with reported(events, enricher=api):
        await push(events, 3)
        api.down = False
        await push(events, 10)
    names = [f"cmdb{second}:9000" for second in range(3)]
    warned = [text.partition(": ")[0] for _, text in log.at("WARNING") if "calls failed" in text]
    assert warned == [f"enrich {name}" for name in names]
    assert [extra["target"] for extra in log.extras if extra["event"] == "failing"] == names
    ((_, text),) = [line for line in log.at("INFO") if "works again" in line[1]]
    assert text.startswith(f"enrich {', '.join(names)} works again after ")


async def test_a_stage_that_failed_and_holds_nothing_is_not_looked_at_until_events_come(log: Log) -> None:
    down = True

    async def lookup(event: Any) -> Any:
        if down:
            raise TransientError("down")
        return event

    events: rx.Subject[Any] = rx.Subject()
    orchestrator = Orchestrator(reported(events, enricher=lookup).pipeline, report=False)
    report = ReportObserver()
    orchestrator.attach(report)
    async with orchestrator:
        await push(events, 2)
        await asyncio.sleep(100)
        assert orchestrator.account.expired == 20
        assert report._timer is None
        down = False
        await push(events, 2)
        await asyncio.sleep(5)
        ((_, text),) = [line for line in log.at("INFO") if "works again" in line[1]]
        assert text.startswith("enrich works again after")
        assert report._timer is None


async def test_a_call_that_fails_now_and_then_is_not_reported(log: Log) -> None:
    calls = 0

    async def lookup(event: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 50 == 0:
            raise TransientError("a hiccup")
        return event

    events: rx.Subject[Any] = rx.Subject()
    async with reported(events, enricher=lookup):
        await push(events, 60, each=100)
    assert calls > 6000
    assert log.lines == []


async def test_lost_events_are_reported_with_the_text_of_the_last_error(log: Log) -> None:
    async def lookup(event: Any) -> Any:
        raise PermanentError("no such host: see http://user:hunter2@cmdb/hosts?key=hunter2")

    events = [*({"id": key, "body": "hunter2"} for key in range(37)), {"no": "hunter2"}]
    orchestrator = reported(events, enricher=lookup, key_mapper=key_of("id", missing="reject"))
    await orchestrator.start()
    await orchestrator.wait()
    texts = sorted(text for _, text in log.at("WARNING"))
    assert texts[1] == (
        "37 events failed at enrich (permanent); last error: PermanentError: no such host: see http://cmdb/hosts?…"
    )
    assert texts[0].startswith("1 event rejected at intake (key); last error: KeyMapperError")
    ((_, ended),) = log.at("INFO")
    assert ended.startswith("stopped after ") and ended.endswith(", 38 events lost")
    assert "hunter2" not in str(log.lines) + str(log.extras)
    (extra,) = [extra for extra in log.extras if extra.get("reason") == "permanent"]
    assert extra == {
        "event": "lost", "outcome": "failed", "stage": "enrich", "reason": "permanent", "count": 37,
        "error": "PermanentError",
    }  # fmt: skip


async def test_what_the_period_holds_back_is_reported_later(log: Log) -> None:
    async def lookup(event: Any) -> Any:
        raise ValueError("bad")

    events: rx.Subject[Any] = rx.Subject()
    async with reported(events, enricher=lookup):
        await push(events, 10)
        await asyncio.sleep(100)
    counts = [(round(at), text.split()[0]) for at, text in log.at("WARNING")]
    assert counts == [(2, "10"), (62, "90")]


async def test_a_source_that_dies_and_comes_back(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    class Source:
        subscriptions = 0

        def stream(self, demand: Any) -> rx.Observable[Any]:
            self.subscriptions += 1
            if self.subscriptions <= 5:
                return rx.throw(ConnectionError("broker gone"))
            return rx.concat(rx.of([{"id": 1}]), rx.never())

    monkeypatch.setattr("rxcompact.supervisor.backoff", lambda _: 2.0)
    orchestrator = Orchestrator(
        simple_pipeline(source=Source(), key_mapper="id", timespan=1, max_age=60, sink=lambda _: None)
    )
    async with orchestrator:
        await asyncio.sleep(100)
    (warning,) = log.at("WARNING")
    assert warning == (pytest.approx(1), "source failed 1 time; last error: ConnectionError: broker gone")
    (recovered,) = log.at("INFO")
    assert recovered[1].startswith("source works again after 1")
    assert 10 < recovered[0] < 25


async def test_an_observer_that_raises(log: Log) -> None:
    def raises(_: Any) -> None:
        raise RuntimeError("oops")

    orchestrator = reported([{"id": 1}])
    orchestrator.attach(raises)
    await orchestrator.start()
    await orchestrator.wait()
    first, last = (text for _, text in log.at("WARNING"))
    assert "raised an error: RuntimeError: oops" in first
    assert "raised 3 times in a row and is detached: RuntimeError: oops" in last


async def test_a_second_run_reports_anew(log: Log) -> None:
    async def lookup(event: Any) -> Any:
        raise ValueError("bad")

    orchestrator = reported([{"id": 1}], enricher=lookup)
    for _ in range(2):
        await orchestrator.start()
        await orchestrator.wait()
    assert [text.split()[0] for _, text in log.at("WARNING")] == ["1", "1"]


async def test_a_source_that_is_given_up(log: Log) -> None:
    async def source() -> AsyncIterator[Any]:
        yield {"id": 1}
        raise OSError("cable pulled")

    orchestrator = reported(source())
    await orchestrator.start()
    with pytest.raises(OSError, match="cable"):
        await orchestrator.wait()
    assert [text for _, text in log.at("WARNING")] == [
        "source failed 1 time, given up; last error: OSError: cable pulled"
    ]


async def test_a_run_that_fails(log: Log) -> None:
    events: rx.Subject[Any] = rx.Subject()
    orchestrator = reported(events, max_in_flight=1, overflow="error")
    await orchestrator.start()
    for key in range(3):
        events.on_next({"id": key})
    with pytest.raises(NoRoomError):
        await orchestrator.wait()
    (text,) = (text for _, text in log.at("WARNING") if "the run failed" in text)
    assert text.startswith("the run failed: NoRoomError: no room for a new key")
