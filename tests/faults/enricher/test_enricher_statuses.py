"""Statuses and answers of an API: rows E1 to E3, E12 to E14, E16, E17, E19 and E20."""

from __future__ import annotations

import re
from email.utils import formatdate
from time import time
from typing import Any

import pytest
from enriching import ENRICHED, enriched
from wire import answer, errors_logged, peer, responds, wire_test

from rxcompact import HttpEnricher
from rxcompact.errors import RateLimitedError, TransientError

FINE = responds(answer())


@pytest.mark.parametrize("status", ["500 Oops", "502 Bad Gateway", "503 Busy", "504 Slow", "599 Odd"])
@wire_test
async def test_e1_a_burst_of_5xx_is_retried(status: str) -> None:
    no = responds(answer(b"no", status))
    async with peer(no, no, no, FINE) as api:
        came = await enriched(api.url)
    assert (came.events, came.ends, len(api.requests)) == (ENRICHED, [], 4)


@wire_test
async def test_e1_constant_5xx_is_retried_until_the_event_is_too_old() -> None:
    async with peer(responds(answer(b"no", "503 Busy"))) as api:
        came = await enriched(api.url, max_age=2.0, wait=lambda _: 0.2)
    assert came.ends == [("expired", "enrich", "too old, HTTP 503")]
    assert str(came.error) == "HTTP 503: no"
    assert len(api.requests) >= 4
    assert came.letters[0].attempts - len(api.requests) in (0, 1)  # the last may have been cancelled before it was sent
    assert api.times[-1] - api.times[0] < 2.0


@pytest.mark.parametrize("form", ["seconds", "date"])
@wire_test
async def test_e2_retry_after_is_waited_for(form: str) -> None:
    after = "1" if form == "seconds" else formatdate(time() + 2, usegmt=True)
    async with peer(responds(answer(b"", "429 Slow down", f"Retry-After: {after}\r\n")), FINE) as api:
        came = await enriched(api.url)
    assert came.events == ENRICHED
    waited = api.times[1] - api.times[0]
    assert 0.95 <= waited <= 2.3


@pytest.mark.parametrize("after", ["Fri, 01 Jan 2037 00:00:00 GMT", "3600"])
@wire_test
async def test_e2_retry_after_beyond_the_age_expires_the_event(after: str) -> None:
    async with peer(responds(answer(b"", "429 Slow down", f"Retry-After: {after}\r\n"))) as api:
        came = await enriched(api.url, max_age=2.0)
    assert came.ends == [("expired", "enrich", "too old, HTTP 429")]
    assert isinstance(came.error, RateLimitedError)
    assert len(api.requests) == 1


@pytest.mark.parametrize("after", ["Thu, 01 Jan 1970 00:00:00 GMT", "0", "soon", "-1", "1e9", ""])
@wire_test
async def test_e2_retry_after_in_the_past_or_malformed_is_ignored(after: str) -> None:
    async with peer(responds(answer(b"", "429 Slow down", f"Retry-After: {after}\r\n")), FINE) as api:
        came = await enriched(api.url)
    assert came.events == ENRICHED
    assert api.times[1] - api.times[0] < 0.5


@wire_test
async def test_e3_404_adds_nothing() -> None:
    async with peer(responds(answer(b"who?", "404 Not Found"))) as api:
        came = await enriched(api.url)
    assert (came.events, len(api.requests)) == ([{"id": 0}], 1)


@pytest.mark.parametrize("status", [400, 405, 406, 409, 422, 451])
@wire_test
async def test_e3_other_4xx_fail_at_once(status: int) -> None:
    async with peer(responds(answer(b"no", f"{status} No"))) as api:
        came = await enriched(api.url)
    assert (came.ends, len(api.requests)) == ([("failed", "enrich", f"HTTP {status}")], 1)


@pytest.mark.parametrize("status", [401, 403])
@wire_test
async def test_e3_denied_credentials_are_logged_and_retried(status: int) -> None:
    # the table would not ask again; but someone may put them right while the event is young, as row K6 has it
    async with peer(responds(answer(b"no", f"{status} No")), FINE) as api:
        with errors_logged() as errors:
            came = await enriched(api.url, http={"headers": {"Authorization": "Bearer secret"}})
    assert came.events == ENRICHED
    assert errors == [f"{api.url} answers HTTP {status}: are the credentials right?"]
    assert all(b"Authorization: Bearer secret" in request for request in api.requests)


@pytest.mark.parametrize("kind", ["Content-Type: text/plain\r\n", "Content-Type: text/html\r\n", ""])
@wire_test
async def test_e12_json_is_decoded_whatever_its_content_type(kind: str) -> None:
    async with peer(responds(answer(b'{"a":1}', headers=kind))) as api:
        came = await enriched(api.url)
    assert came.events == [{"id": 0, "enrichment": {"a": 1}}]


@pytest.mark.parametrize(
    "body",
    [b"", b'{"a":NaN}', b'{"a":"\xff"}', b'{"a":1e999}', b"{}{}"],
    ids=["E13 empty", "E16 NaN", "E16 UTF-8", "E16 1e999", "E16 two"],
)
@wire_test
async def test_e13_e16_an_answer_of_malformed_json_is_retried(body: bytes) -> None:
    async with peer(responds(answer(body)), FINE) as api:
        came = await enriched(api.url)
    assert (came.events, len(api.requests)) == (ENRICHED, 2)


@pytest.mark.parametrize(
    ("body", "kind", "named"),
    [
        (b"<a/>", "text/xml", "text/xml"),
        (b"a,b\n1,2\n", "text/csv; charset=utf-8", "text/csv"),
        (b"<!DOCTYPE html><p>busy", "text/html", "text/html"),
        (b"\n<html>busy</html>", "", "HTML"),
    ],
)
@wire_test
async def test_e12_w10_an_answer_that_is_not_json_fails_at_once(body: bytes, kind: str, named: str) -> None:
    async with peer(responds(answer(body, headers=f"Content-Type: {kind}\r\n" if kind else ""))) as api:
        came = await enriched(api.url, count=3)
    assert len(api.requests) == 3
    assert came.events == []
    assert {str(letter.error) for letter in came.letters} == {f"answer is {named}, not JSON"}


@wire_test
async def test_w5_the_beginning_of_a_failed_answer_is_in_the_error() -> None:
    body = b"no such\r\nhost\x1b[31m" + b"x" * 5000
    async with peer(responds(answer(body, "400 Bad"))) as api:
        came = await enriched(api.url)
    [letter] = came.letters
    assert letter.reason == "HTTP 400"
    assert str(letter.error) == "HTTP 400: no such host [31m" + "x" * 183
    assert str(letter.error).isprintable()


@wire_test
async def test_h7_no_error_has_credentials_of_the_url() -> None:
    async with peer(responds(b"nothing\r\n\r\n")) as api:  # not HTTP, for which aiohttp's text has the URL
        url = api.url.replace("//", "//user:PASSWORD@") + "/{id}?key=SECRET"
        came = await enriched(url, http={"merge": dict}, retry=lambda _: False)
    [letter] = came.letters
    assert "not HTTP" in str(came.error)
    assert not {"PASSWORD", "SECRET"} & set(re.findall(r"[A-Z]+", f"{letter!r} {came.error!r} {letter._repr_html_()}"))


@wire_test
async def test_e14_204_adds_nothing() -> None:
    async with peer(responds(b"HTTP/1.1 204 No Content\r\n\r\n")) as api:
        came = await enriched(api.url)
    assert (came.events, len(api.requests)) == ([{"id": 0}], 1)


@wire_test
async def test_e16_an_array_is_passed_to_merge() -> None:
    def merge(event: Any, found: Any) -> Any:
        return {**event, "all": found}

    async with peer(responds(answer(b"[1]"))) as api:
        came = await enriched(api.url, http={"merge": merge})
    assert came.events == [{"id": 0, "all": [1]}]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@wire_test
async def test_e17_a_redirect_to_another_origin_is_not_followed(status: int) -> None:
    async with peer(FINE) as elsewhere:
        moved = responds(answer(b"", f"{status} Moved", f"Location: {elsewhere.url}/\r\n"))
        async with peer(moved) as api:
            came = await enriched(api.url, http={"headers": {"Authorization": "Bearer secret"}})
        assert came.ends == [("failed", "enrich", f"HTTP {status}")]
        assert (len(api.requests), elsewhere.connections) == (1, 0)


@wire_test
async def test_e17_a_redirect_to_itself_is_not_followed() -> None:
    async with peer(responds(answer(b"", "302 Found", "Location: /0\r\n"))) as api:
        came = await enriched(api.url)
    assert (came.ends, len(api.requests)) == ([("failed", "enrich", "HTTP 302")], 1)


@wire_test
async def test_e19_an_unknown_status_is_retried() -> None:
    async with peer(responds(answer(b"", "600 What")), FINE) as api:
        came = await enriched(api.url)
    assert (came.events, len(api.requests)) == (ENRICHED, 2)


@wire_test
async def test_e19_an_interim_answer_is_skipped() -> None:
    async with peer(responds(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + answer(b'{"a":1}'))) as api:
        came = await enriched(api.url)
    assert (came.events, len(api.requests)) == ([{"id": 0, "enrichment": {"a": 1}}], 1)


@wire_test
async def test_e20_a_merge_function_can_reject_an_answer() -> None:
    async with peer(responds(answer(b'{"ok":false}')), responds(answer(b'{"ok":true,"a":1}'))) as api:
        http = HttpEnricher(api.url + "/{id}")

        async def checked(event: Any) -> Any:
            found = await http.lookup(event)
            if not found["ok"]:
                raise TransientError("not ok")
            return event | {"a": found["a"]}

        came = await enriched(api.url, enricher=checked)
        await http.aclose()
    assert (came.events, len(api.requests)) == ([{"id": 0, "a": 1}], 2)
