"""Rows S44, S45 of the fault table: no capacity, and repeated bodies."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from source_support import HEAD, Service, ndjson, served, until


def test_s44_without_capacity_new_keys_get_503_and_duplicates_are_taken() -> None:
    async def test(service: Service) -> None:
        for ids, status in (
            ((1, 2), 202), ((3, 4), 503), ((3, 1, 2, 1, 3), 202), ((4,), 503), ((1,), 202), ((3, 2, 1, 3), 202),
            ((1, 4), 503),
        ):  # fmt: skip
            answer = await service.post(ndjson(*ids))
            assert answer.status == status
            assert answer.headers.get("Retry-After") == ("7" if status == 503 else None)
        assert (await service.ask("GET", "readyz")).status == 503
        assert (await service.ask("GET", "healthz")).status == 200
        assert (
            'rxcompact_held_events{pipeline="default",stage="compact",state="open"} 3.0'
            in (await service.ask("GET", "metrics")).text
        )
        assert sorted(await service.ids()) == [1, 2, 3]
        account = service.orchestrator.account
        assert (account.received, account.distinct, account.dropped, account.published) == (12, 3, 0, 3)

    served(test, {"max_in_flight": 3}, retry_after=7)


def test_s44_more_keys_than_max_in_flight_are_413() -> None:
    async def test(service: Service) -> None:
        assert (await service.post(ndjson(1, 2, 3, 4))).status == 413
        assert (await service.post(ndjson(1, 2, 3, 3, 2, 1))).status == 202
        assert (await service.post(ndjson(1, 2, 3, 4))).status == 503  # for now
        assert service.orchestrator.account.dropped == 0

    served(test, {"max_in_flight": 3})


def test_s44_a_retried_post_is_taken_when_there_is_capacity() -> None:
    async def test(service: Service) -> None:
        assert (await service.post(ndjson(1, 2, 3))).status == 202
        assert (await service.post(ndjson(4))).status == 503
        await until(lambda: len(service.out) == 3)
        assert (await service.ask("GET", "readyz")).status == 200
        assert (await service.post(ndjson(4))).status == 202
        assert sorted(await service.ids()) == [1, 2, 3, 4]

    served(test, {"max_in_flight": 3, "timespan": 0.2, "batch_timespan": 0.01})


def test_s44_many_senders_that_retry_all_succeed_and_nothing_is_dropped() -> None:
    async def test(service: Service) -> None:
        refused = 0

        async def sender(start: int) -> None:
            nonlocal refused
            while (status := (await service.post(ndjson(*range(start, start + 10)))).status) != 202:
                assert status == 503
                refused += 1
                await asyncio.sleep(random.uniform(0.01, 0.05))

        async with asyncio.timeout(60):
            await asyncio.gather(*map(sender, range(0, 600, 10)))
        assert refused
        assert sorted(await service.ids()) == list(range(600))
        assert service.orchestrator.account.dropped == 0

    served(test, {"max_in_flight": 50, "timespan": 0.02, "batch_timespan": 0.01})


@pytest.mark.parametrize(
    ("options", "body"),
    [
        ({"count": 2}, ndjson(1, 2, 1, 2, 1, 2)),
        (
            {"time_mapper": "ts", "lateness": 1e6},
            b"\n".join(b'{"id":1,"ts":%d}' % (1.7e9 + 5000 * n) for n in range(4)),
        ),
    ],
    ids=["windows by count", "windows by event time"],
)
def test_s44_accepted_events_are_not_dropped(options: Any, body: bytes) -> None:
    async def test(service: Service) -> None:
        if (await service.post(body)).status == 202:
            assert service.orchestrator.account.dropped == 0

    served(test, {"max_in_flight": 3} | options)


@pytest.mark.parametrize("before", [(), (1, 2, 3)], ids=["empty", "full"])
def test_s44_a_bad_line_among_duplicates_needs_no_capacity(before: tuple[int, ...]) -> None:
    async def test(service: Service) -> None:
        if before:
            assert (await service.post(ndjson(*before))).status == 202
        assert (await service.post(ndjson(1, 1, 1, 1) + b"\nbad")).counts == (202, 4, 1)

    served(test, {"max_in_flight": 3})


async def post_and_lose_the_answer(service: Service, body: bytes) -> None:
    before = service.received
    async with service.raw(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body):
        await until(lambda: service.received > before)


def test_s45_a_repeated_body_within_the_window_changes_only_counts() -> None:
    async def test(service: Service) -> None:
        body = ndjson(1, 2, 3, 2)
        await post_and_lose_the_answer(service, body)
        for _ in range(2):
            assert (await service.post(body)).counts == (202, 4, 0)
        assert await service.ids() == [1, 2, 3]
        assert [compacted.count for compacted in service.out] == [3, 6, 3]
        account = service.orchestrator.account
        assert (account.received, account.duplicates, account.distinct) == (12, 9, 3)

    served(test, {"max_in_flight": 3})  # nor does it need capacity


def test_s45_a_repeated_body_after_the_window_is_published_again() -> None:
    async def test(service: Service) -> None:
        await post_and_lose_the_answer(service, ndjson(1, 2))
        await until(lambda: len(service.out) == 2)
        assert (await service.post(ndjson(1, 2))).status == 202
        assert await service.ids() == [1, 2, 1, 2]
        assert {compacted.count for compacted in service.out} == {1}

    served(test, {"timespan": 0.2, "batch_timespan": 0.01})
