"""Rows S36 to S43 of the fault table: keys and times of events."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from source_support import Service, served, serving

from rxcompact import key_of, time_of

EVENT_TIME = {"time_mapper": "ts", "lateness": 10, "timespan": 10, "max_age": 1e6}


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def lines(*events: Any) -> bytes:
    return b"\n".join(json.dumps(event).encode() for event in events)


@pytest.mark.parametrize("key", ["id", "id.name"])
def test_s36_a_missing_key_is_null_and_counted(key: str) -> None:
    async def test(service: Service) -> None:
        assert (await service.post(lines({}, {"x": 1}, {"id": None}, {"id": {}}, {"id": {"name": "a"}}))).status == 202
        await service.orchestrator.stop()
        nulls = [compacted for compacted in service.out if compacted.key is None]
        assert [compacted.count for compacted in nulls] == [3 if key == "id" else 4]

    served(test, {"key_mapper": key})


def test_s37_keys_of_every_json_type_are_distinct() -> None:
    async def test(service: Service) -> None:
        values = [1, 1.0, True, "1", [1], {"a": 1, "b": 2}, None, False, 0, "", [], {}, [True], 1.5]
        body = lines(*({"id": value} for value in values * 2), {"id": {"b": 2, "a": 1}})
        assert (await service.post(body)).counts == (202, len(values) * 2 + 1, 0)
        await service.orchestrator.stop()
        assert [json.dumps(compacted.event["id"]) for compacted in service.out] == list(map(json.dumps, values))
        assert [compacted.count for compacted in service.out] == [2 + (value == {"a": 1, "b": 2}) for value in values]

    served(test)


@pytest.mark.parametrize("event", [{"id": 1}, {"id": 1, "ts": None}, {"id": 1, "ts": "soon"}, {"id": 1, "ts": [1]}])
def test_s38_an_event_without_a_time_is_rejected_and_reported(event: Any) -> None:
    async def test(service: Service) -> None:
        assert (await service.post(lines(event))).counts == (400, 0, 1)
        answer = await service.post(lines({"id": 2, "ts": time.time()}, event))
        assert answer.counts == (202, 1, 1)
        [(line, reason)] = answer.reasons
        assert line == 2
        assert "timestamp" in reason or "'ts'" in reason
        assert await service.ids() == [2]
        assert service.ends() == [("rejected", "compact", "time")] * 2

    served(test, EVENT_TIME)


@pytest.mark.parametrize("hours", [0, 2, -5])
def test_s39_a_time_without_an_offset_is_in_the_given_timezone(hours: int) -> None:
    async def test(service: Service) -> None:
        now = int(time.time())
        local = (datetime.fromtimestamp(now, UTC) + timedelta(hours=hours)).strftime("%Y-%m-%d %H:%M:%S")
        assert (await service.post(lines({"id": 1, "ts": local}))).counts == (202, 1, 0)
        await service.orchestrator.stop()
        assert [compacted.first_seen for compacted in service.out] == [now]

    zone = time_of("ts", timezone=timezone(timedelta(hours=hours))) if hours else "ts"
    served(test, EVENT_TIME | {"time_mapper": zone})


@pytest.mark.parametrize("ahead", ["9999-12-31T23:59:59Z", 4e10, 99_999_999_999])
def test_s40_a_future_time_is_rejected_and_makes_no_other_event_late(ahead: Any) -> None:
    async def test(service: Service) -> None:
        now = time.time()
        answer = await service.post(
            lines({"id": 1, "ts": now}, {"id": 2, "ts": ahead}, {"id": 3, "ts": now - 1}, {"id": 4, "ts": iso(now)})
        )
        assert answer.counts == (202, 3, 1)
        assert [line for line, _ in answer.reasons] == [2]
        assert sorted(await service.ids()) == [1, 3, 4]
        assert service.ends() == [("rejected", "compact", "future")]

    served(test, EVENT_TIME)


@pytest.mark.parametrize("unit", [1, 10**3, 10**6, 10**9])
def test_s40_epochs_in_other_units_are_recognised(unit: int) -> None:
    async def test(service: Service) -> None:
        now = int(time.time())
        assert (await service.post(lines({"id": 1, "ts": now * unit}, {"id": 2, "ts": str(now * unit)}))).status == 202
        await service.orchestrator.stop()
        assert [compacted.first_seen for compacted in service.out] == [now, now]

    served(test, EVENT_TIME)


def test_s41_an_event_too_old_on_arrival_expires_without_a_call() -> None:
    asked: list[int] = []

    async def enrich(event: Any) -> Any:
        asked.append(event["id"])
        return event

    async def test(service: Service) -> None:
        now = time.time()
        body = lines({"id": 1, "ts": now - 120}, {"id": 2, "ts": now}, {"id": 3, "ts": "2018-03-24T12:00:00Z"})
        assert (await service.post(body)).counts == (202, 3, 0)
        assert await service.ids() == [2]
        assert asked == [2]
        assert service.orchestrator.account.expired == 2
        assert {letter[0] for letter in service.ends()} == {"expired"}

    served(test, {"time_mapper": "ts", "max_age": 60, "enricher": enrich})


@pytest.mark.slow
def test_s42_late_events_equal_the_reference(shared: Path) -> None:
    """zeek_dns is out of order by up to 670 s; posted 700 events at a time."""
    directory = shared / "zeek_dns"
    events = gzip.decompress((directory / "events.ndjson.gz").read_bytes()).splitlines()
    result = json.loads((directory / "reference.json").read_text())["results"][1]
    key, span = result["key"], result["window_s"]

    async def replayed(lateness: float, expected: Any) -> None:
        options = {
            "key_mapper": key_of(key), "time_mapper": result["time_field"], "timespan": span, "lateness": lateness,
            "idle": math.inf, "max_age": 1e12,
        }  # fmt: skip
        async with serving(options) as service:
            for start in range(0, len(events), 700):
                answer = await service.post(b"\n".join(events[start : start + 700]))
                assert answer.status in (202, 400)
            await service.orchestrator.stop()
            account = service.orchestrator.account
            assert account.received == len(events)
            assert (account.published, account.rejected) == (expected["distinct"], expected["late_events"])
            assert sum(compacted.count or 0 for compacted in service.out) == len(events) - expected["late_events"]
            assert {reason for _, _, reason in service.ends()} <= {"late"}

    async def main() -> None:
        for lateness, expected in result["by_lateness_s"].items():
            await replayed(float(lateness), expected)

    assert any(expected["late_events"] > 9000 for expected in result["by_lateness_s"].values())
    asyncio.run(main())


TIMES = {
    "0001-01-01T00:00:00Z": False,
    "0001-01-01T00:00:00": False,
    "0000-00-00T00:00:00Z": False,
    "2018-02-30T00:00:00Z": False,
    "2018-03-24T25:00:00Z": False,
    "2018-03-24T12:00:61Z": False,
    "2018-03-24T24:00:01Z": False,
    "2018-03-24T12:00:00+99:00": False,
    "-1": True,
    -1: True,
    -1.5: True,
    -(10**30): False,
    10**30: False,
    "2016-12-31T23:59:60Z": True,
    "2016-12-31T24:00:00Z": True,
    "2018-03-25T02:30:00+01:00": True,  # an hour that clocks in Berlin skip
    "2018-10-28T02:30:00+02:00": True,  # and one that they repeat
    "1969-12-31T23:59:59Z": True,
    True: False,
}


@pytest.mark.parametrize("stamp", TIMES, ids=str)
def test_s43_an_unusual_time_is_parsed_or_rejected(stamp: Any) -> None:
    async def test(service: Service) -> None:
        good = TIMES[stamp]
        answer = await service.post(lines({"id": 1, "ts": stamp}, {"id": 2, "ts": 0}))
        assert answer.counts == ((202, 2, 0) if good else (202, 1, 1))
        assert sorted(await service.ids()) == ([1, 2] if good else [2])

    served(test, EVENT_TIME | {"max_age": 1e12, "lateness": 1e12})


def test_s43_a_leap_second_and_midnight_are_the_next_second() -> None:
    new_year = 1_483_228_800  # 2017-01-01T00:00:00Z

    async def test(service: Service) -> None:
        stamps = ["2016-12-31T23:59:60Z", "2016-12-31T24:00:00Z", new_year]
        body = lines(*({"id": n, "ts": stamp} for n, stamp in enumerate(stamps)))
        assert (await service.post(body)).counts == (202, 3, 0)
        await service.orchestrator.stop()
        assert {compacted.first_seen for compacted in service.out} == {new_year}

    served(test, EVENT_TIME | {"max_age": 1e12})
