"""Row S48 of the fault table: posts while the source stops, starts, or cannot listen."""

from __future__ import annotations

import asyncio
import gc
import re
import signal
import socket
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from source_support import HEAD, Service, closed, ndjson, posting, served, status_of, until

from rxcompact import HttpSource
from rxcompact.signals import SourceFailed
from rxcompact.testing.proxy import free_port

QUICK = {"timespan": 0.05, "batch_timespan": 0.01}


def test_s48_while_it_stops_posts_get_503_and_accepted_events_are_published() -> None:
    async def test(service: Service) -> None:
        taken, refused = await posting(service, service.orchestrator.stop)
        assert refused
        assert len(taken) > 100
        assert taken <= set(await service.ids())

    served(test, QUICK)


async def stopped_in_the_middle_of_a_body(service: Service, deadline: float) -> None:
    head = HEAD + b'Content-Length: 9\r\n\r\n{"id"'
    async with service.raw(head) as (reader, writer):
        await asyncio.sleep(0.05)
        stop = asyncio.create_task(service.orchestrator.stop(deadline))
        await asyncio.sleep(0.1)
        writer.write(b":1} ")
        try:
            answer = await asyncio.wait_for(reader.readline(), deadline)
        finally:
            report = await stop
        assert not answer or b" 202 " in answer or b" 503 " in answer
        assert report.account.received == (b" 202 " in answer)
        assert report.seconds < deadline


def test_s48_an_unfinished_body_does_not_delay_a_stop() -> None:
    served(lambda service: stopped_in_the_middle_of_a_body(service, 10))


def test_s48_an_unfinished_body_is_closed_by_a_stop_with_a_short_deadline() -> None:
    try:
        served(lambda service: stopped_in_the_middle_of_a_body(service, 2))
    finally:
        gc.collect()  # an open connection warns now, not in the next test


def test_s48_sigterm_during_a_post_answers_it_and_flushes_the_window() -> None:
    """As a process: it publishes what it accepted, and ends though bodies are unfinished."""

    async def main() -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "rxcompact", "serve", "--listen=127.0.0.1:0", "--key=id", "--timespan=1000",
            "--max-age=2000", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            assert process.stderr
            line = (await asyncio.wait_for(process.stderr.readline(), 60)).decode()
            assert line.startswith("listening on"), line
            url = line.split()[-1]
            port = int(url.split(":")[2].strip("/"))
            async with AsyncExitStack() as stack:
                session = await stack.enter_async_context(aiohttp.ClientSession())
                async with session.post(url, data=ndjson(1, 2, 1)) as answer:
                    assert answer.status == 202
                cut = []
                for _ in range(5):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    stack.callback(writer.transport.abort)
                    writer.write(HEAD + b'Content-Length: 8\r\n\r\n{"id":')
                    cut.append((reader, writer))
                await asyncio.sleep(0.1)
                process.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.1)
                for _, writer in cut[:3]:  # three go on, two stall
                    writer.write(b"3}")
                statuses = {await status_of(reader) for reader, _ in cut[:3]}
                assert statuses <= {202, 503}
                for reader, _ in cut:
                    await closed(reader)
                output, errors = await asyncio.wait_for(process.communicate(), 60)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0
        assert b"Traceback" not in errors
        found = [int(number) for number in re.findall(rb'"event":\{"id":(\d+)\}', output.replace(b" ", b""))]
        assert found == [1, 2, 3] if 202 in statuses else [1, 2]

    asyncio.run(main())


def test_a_restart_loses_no_accepted_event() -> None:
    async def test(service: Service) -> None:
        url = service.source.url

        async def restart() -> None:
            for _ in range(3):
                await service.orchestrator.restart()
                await asyncio.wait_for(service.source.listening(), 60)
                assert service.source.url == url
                await asyncio.sleep(0.05)

        taken, _ = await posting(service, restart)
        assert (await service.post(ndjson(-1))).status == 202
        assert taken | {-1} <= set(await service.ids())
        assert not [each for each in service.signals if isinstance(each, SourceFailed)]

    served(test, QUICK)


def test_a_body_of_which_a_restart_takes_a_part_is_no_success() -> None:
    async def test(service: Service) -> None:
        post = asyncio.ensure_future(service.post(ndjson(*range(5000))))
        while not service.received:
            await asyncio.sleep(0)
        part = service.received
        await service.orchestrator.restart()
        assert 0 < part < 5000
        assert (await post).status == 503
        await asyncio.wait_for(service.source.listening(), 60)
        assert (await service.post(ndjson(*range(5000)))).status == 202  # as its sender does
        assert sorted(await service.ids()) == list(range(5000))

    served(test, {"timespan": 1000})


def test_a_window_survives_a_restart_of_the_source() -> None:
    async def test(service: Service) -> None:
        await service.post(ndjson(1))
        await service.orchestrator.restart()
        await asyncio.wait_for(service.source.listening(), 60)
        await service.post(ndjson(1, 2))
        assert await service.ids() == [1, 2]
        assert [compacted.count for compacted in service.out] == [2, 1]

    served(test)


def test_a_stop_closes_the_port_and_a_start_opens_the_same_one() -> None:
    async def test(service: Service) -> None:
        url = service.source.url
        await service.orchestrator.stop()
        with pytest.raises(aiohttp.ClientConnectorError):
            await service.post(ndjson(1))
        await service.orchestrator.start()
        await asyncio.wait_for(service.source.listening(), 60)
        assert service.source.url == url
        assert (await service.post(ndjson(1))).status == 202

    served(test)


def test_a_port_in_use_is_retried_until_it_is_free() -> None:
    async def main() -> None:
        blocker = socket.socket()
        blocker.bind(("127.0.0.1", 0))
        blocker.listen()
        async with aiohttp.ClientSession() as client:
            service = Service(client, HttpSource(port=blocker.getsockname()[1]))
            await service.orchestrator.start()
            try:
                failures = lambda: [each for each in service.signals if isinstance(each, SourceFailed)]
                await until(lambda: len(failures()) >= 2)
                assert [each.failures for each in failures()[:2]] == [1, 2]
                assert isinstance(failures()[0].error, OSError)
                assert service.orchestrator.state == "running"
                blocker.close()
                await asyncio.wait_for(service.source.listening(), 60)
                assert (await service.post(ndjson(1))).status == 202
                assert await service.ids() == [1]
            finally:
                blocker.close()
                await service.orchestrator.stop()
            assert service.faults == []

    asyncio.run(main())


def test_a_restart_while_it_starts_to_listen_is_safe() -> None:
    async def main() -> list[int]:
        deaf: list[int] = []
        for turns in range(8):
            async with aiohttp.ClientSession() as client:
                service = Service(client, HttpSource(port=free_port()))
                await service.orchestrator.start()
                for _ in range(turns):
                    await asyncio.sleep(0)
                await service.orchestrator.restart()
                try:
                    await asyncio.wait_for(service.source.listening(), 10)
                except TimeoutError:
                    deaf.append(turns)
                await service.orchestrator.stop()
        return deaf

    deaf = asyncio.run(main())
    gc.collect()  # an open socket warns now, not in the next test
    assert deaf == []


def test_a_stop_leaves_no_socket_open() -> None:
    def sockets() -> set[Path]:
        return {fd.readlink() for fd in Path("/proc/self/fd").iterdir() if fd.is_socket()}

    async def test(service: Service) -> None:
        async with AsyncExitStack() as stack:
            for _ in range(10):
                await stack.enter_async_context(service.raw(HEAD))
            await service.post(ndjson(1))
            await service.orchestrator.stop()

    before = sockets()
    served(test)
    gc.collect()
    assert sockets() <= before


def test_the_url_of_an_ipv6_address_has_brackets() -> None:
    assert HttpSource(host="::1", port=1234).url == "http://[::1]:1234/"
