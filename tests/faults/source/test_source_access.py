"""Rows S34, S35 of the fault table: credentials, paths, probes and metrics."""

from __future__ import annotations

import base64
import hmac
from typing import Any

import pytest
from source_support import HEAD, Service, served, status_of


def test_s34_wrong_methods_are_405_and_wrong_paths_404() -> None:
    async def test(service: Service) -> None:
        for method in ("GET", "DELETE", "PATCH"):
            answer = await service.ask(method)
            assert (answer.status, answer.headers["Allow"]) == (405, "POST,PUT")
        base = service.source.url.removesuffix("events")
        for path in ("", "other", "events/more"):
            async with service.client.post(base + path, data=b'{"id":1}') as response:
                assert response.status == 404
        assert service.received == 0
        await service.still_serves()

    served(test, path="/events")


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


BASIC = {"basic": ("user", "pässword:with:colons")}
BOTH = BASIC | {"token": "secret"}


@pytest.mark.parametrize(
    ("options", "given", "status"),
    [
        ({"token": "secret"}, "Bearer secret", 202),
        ({"token": "secret"}, "Bearer wrong", 401),
        ({"token": "secret"}, "Bearer secre", 401),
        ({"token": "secret"}, "Bearer secrets", 401),
        ({"token": "secret"}, "secret", 401),
        ({"token": "secret"}, "Bearer sécret", 401),
        ({"token": "secret"}, "Basic c2VjcmV0", 401),
        ({"token": "secret"}, "", 401),
        ({"token": "secret"}, None, 401),
        (BASIC, basic("user", "pässword:with:colons"), 202),
        (BASIC, basic("user", "password"), 401),
        (BASIC, basic("other", "pässword:with:colons"), 401),
        (BASIC, "Basic !", 401),
        (BASIC, None, 401),
        (BOTH, "Bearer secret", 202),
        (BOTH, basic("user", "pässword:with:colons"), 202),
        (BOTH, "Bearer pässword:with:colons", 401),
        ({}, "Bearer whatever", 202),
    ],
)
def test_s35_credentials_are_right_wrong_or_missing(options: Any, given: str | None, status: int) -> None:
    async def test(service: Service) -> None:
        answer = await service.post(b'{"id":1}', {"Authorization": given} if given is not None else None)
        assert answer.status == status
        assert ("WWW-Authenticate" in answer.headers) == (status == 401)
        assert service.received == (status == 202)

    served(test, **options)


def test_s35_without_credentials_the_body_is_not_read() -> None:
    async def test(service: Service) -> None:
        async with service.raw(HEAD + b"Content-Length: 1000000\r\n\r\n{") as (reader, _):
            assert await status_of(reader) == 401
        for path in ("healthz", "readyz"):
            assert (await service.ask("GET", path)).status == 200

    served(test, token="secret")


def test_s35_credentials_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time cannot be measured here; but `hmac.compare_digest` is called, and for all credentials."""
    compared: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def seen(given: bytes, wanted: bytes) -> bool:
        compared.append((given, wanted))
        return compare(given, wanted)

    monkeypatch.setattr(hmac, "compare_digest", seen)

    async def test(service: Service) -> None:
        assert (await service.post(b'{"id":1}', {"Authorization": "Bearer secret"})).status == 202

    served(test, **BOTH)
    assert [given for given, _ in compared] == [b"Bearer secret"] * 2
    assert {wanted.split()[0] for _, wanted in compared} == {b"Bearer", b"Basic"}


def test_metrics_have_the_account() -> None:
    async def test(service: Service) -> None:
        await service.post(b'{"id":1}\n{"id":1}\n{"id":2}\nbad')
        answer = await service.ask("GET", "metrics")
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain")
        samples = dict(line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#"))
        expected = {
            f'received_events_total{{pipeline="default",source="{service.source.url}"}}': 4,
            f'received_bytes_total{{pipeline="default",source="{service.source.url}"}}': 27,
            'duplicate_events_total{pipeline="default"}': 1,
            'rejected_events_total{pipeline="default",reason="malformed"}': 1,
            'events_total{outcome="published",pipeline="default",reason="",stage="publish"}': 0,
            'held_events{pipeline="default",stage="compact",state="open"}': 2,
        }
        assert {name: float(samples[f"rxcompact_{name}"]) for name in expected} == expected

    served(test)
