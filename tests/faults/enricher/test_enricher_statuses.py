"""What an API says: rows E1 to E3, E12 to E14, E16, E17, E19 and E20."""

from __future__ import annotations

from email.utils import formatdate
from time import time
from typing import Any

import pytest
from enriching import ENRICHED, enriched
from wire import answer, errors_logged, peer, says, wire_test

from rxcompact import HttpEnricher
from rxcompact.errors import RateLimitedError, TransientError

FINE = says(answer())


@pytest.mark.parametrize("status", ["500 Oops", "502 Bad Gateway", "503 Busy", "504 Slow", "599 Odd"])
@wire_test
async def test_e1_a_burst_of_5xx_is_asked_again_until_it_is_over(status: str) -> None:
    no = says(answer(b"no", status))
    async with peer(no, no, no, FINE) as api:
        came = await enriched(api.url)
    assert (came.events, came.ends, len(api.heard)) == (ENRICHED, [], 4)


@wire_test
async def test_e1_5xx_without_end_is_asked_until_the_event_is_too_old() -> None:
    async with peer(says(answer(b"no", "503 Busy"))) as api:
        came = await enriched(api.url, max_age=0.4, wait=lambda _: 0.05)
    assert came.ends == [("expired", "enrich", "too old")]
    assert str(came.error) == "HTTP 503"
    assert came.letters[0].attempts == len(api.heard) >= 4
    assert api.times[-1] - api.times[0] < 0.4


@pytest.mark.parametrize("form", ["seconds", "date"])
@wire_test
async def test_e2_retry_after_is_waited_for_as_told(form: str) -> None:
    after = "1" if form == "seconds" else formatdate(time() + 2, usegmt=True)
    async with peer(says(answer(b"", "429 Slow down", f"Retry-After: {after}\r\n")), FINE) as api:
        came = await enriched(api.url)
    assert came.events == ENRICHED
    waited = api.times[1] - api.times[0]
    assert 0.95 <= waited <= 2.3


@pytest.mark.parametrize("after", ["Fri, 01 Jan 2037 00:00:00 GMT", "3600"])
@wire_test
async def test_e2_but_no_longer_than_the_event_lives(after: str) -> None:
    async with peer(says(answer(b"", "429 Slow down", f"Retry-After: {after}\r\n"))) as api:
        came = await enriched(api.url, max_age=0.3)
    assert came.ends == [("expired", "enrich", "too old")]
    assert isinstance(came.error, RateLimitedError)
    assert len(api.heard) == 1


@pytest.mark.parametrize("after", ["Thu, 01 Jan 1970 00:00:00 GMT", "0", "soon", "-1", "1e9", ""])
@wire_test
async def test_e2_a_date_in_the_past_is_now_and_garbage_is_ignored(after: str) -> None:
    async with peer(says(answer(b"", "429 Slow down", f"Retry-After: {after}\r\n")), FINE) as api:
        came = await enriched(api.url)
    assert came.events == ENRICHED
    assert api.times[1] - api.times[0] < 0.5


@wire_test
async def test_e3_404_means_that_there_is_nothing_to_add() -> None:
    async with peer(says(answer(b"who?", "404 Not Found"))) as api:
        came = await enriched(api.url)
    assert (came.events, len(api.heard)) == ([{"id": 0}], 1)


@pytest.mark.parametrize("status", [400, 405, 406, 409, 422, 451])
@wire_test
async def test_e3_what_asking_again_cannot_mend_is_rejected_at_once(status: int) -> None:
    async with peer(says(answer(b"no", f"{status} No"))) as api:
        came = await enriched(api.url)
    assert (came.ends, len(api.heard)) == ([("failed", "enrich", f"HTTP {status}")], 1)


@pytest.mark.parametrize("status", [401, 403])
@wire_test
async def test_e3_wrong_credentials_raise_the_alarm(status: int) -> None:
    # the table would not ask again; but someone may put them right while the event is young, as row K6 has it
    async with peer(says(answer(b"no", f"{status} No")), FINE) as api:
        with errors_logged() as said:
            came = await enriched(api.url, http={"headers": {"Authorization": "Bearer secret"}})
    assert came.events == ENRICHED
    assert said == [f"{api.url} answers HTTP {status}: are the credentials right?"]
    assert all(b"Authorization: Bearer secret" in request for request in api.heard)


@pytest.mark.parametrize("kind", ["Content-Type: text/plain\r\n", "Content-Type: text/html\r\n", ""])
@wire_test
async def test_e12_json_is_json_whatever_it_calls_itself(kind: str) -> None:
    async with peer(says(answer(b'{"a":1}', headers=kind))) as api:
        came = await enriched(api.url)
    assert came.events == [{"id": 0, "enrichment": {"a": 1}}]


@pytest.mark.parametrize(
    "body",
    [b"<html>busy</html>", b"", b'{"a":NaN}', b'{"a":"\xff"}', b'{"a":1e999}', b"{}{}"],
    ids=["E12 HTML", "E13 empty", "E16 NaN", "E16 UTF-8", "E16 1e999", "E16 two"],
)
@wire_test
async def test_e12_e13_e16_an_answer_that_is_no_json_is_a_failure_and_asked_again(body: bytes) -> None:
    async with peer(says(answer(body)), FINE) as api:
        came = await enriched(api.url)
    assert (came.events, len(api.heard)) == (ENRICHED, 2)


@wire_test
async def test_e14_204_means_that_there_is_nothing_to_add() -> None:
    async with peer(says(b"HTTP/1.1 204 No Content\r\n\r\n")) as api:
        came = await enriched(api.url)
    assert (came.events, len(api.heard)) == ([{"id": 0}], 1)


@wire_test
async def test_e16_an_array_where_an_object_is_to_be_merged_is_a_failure_of_that_event() -> None:
    def merge(event: Any, found: Any) -> Any:
        return {**event, **found}

    async with peer(says(answer(b"[1]")), FINE) as api:
        came = await enriched(api.url, count=2, http={"merge": merge}, max_concurrent=1)
    assert [letter.outcome for letter in came.letters] == ["failed"]
    assert "no JSON object but list" in str(came.error)
    assert came.events == [{"id": 1}]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@wire_test
async def test_e17_a_redirect_to_another_origin_is_not_followed(status: int) -> None:
    async with peer(FINE) as elsewhere:
        moved = says(answer(b"", f"{status} Moved", f"Location: {elsewhere.url}/\r\n"))
        async with peer(moved) as api:
            came = await enriched(api.url, http={"headers": {"Authorization": "Bearer secret"}})
        assert came.ends == [("failed", "enrich", f"HTTP {status}")]
        assert (len(api.heard), elsewhere.connections) == (1, 0)


@wire_test
async def test_e17_a_redirect_to_itself_is_no_loop() -> None:
    async with peer(says(answer(b"", "302 Found", "Location: /0\r\n"))) as api:
        came = await enriched(api.url)
    assert (came.ends, len(api.heard)) == ([("failed", "enrich", "HTTP 302")], 1)


@wire_test
async def test_e19_a_status_of_no_known_class_is_a_failure() -> None:
    async with peer(says(answer(b"", "600 What")), FINE) as api:
        came = await enriched(api.url)
    assert (came.events, len(api.heard)) == (ENRICHED, 2)


@wire_test
async def test_e19_an_interim_answer_is_no_answer() -> None:
    async with peer(says(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + answer(b'{"a":1}'))) as api:
        came = await enriched(api.url)
    assert (came.events, len(api.heard)) == ([{"id": 0, "enrichment": {"a": 1}}], 1)


@wire_test
async def test_e20_a_body_that_says_no_may_be_checked_by_a_function() -> None:
    async with peer(says(answer(b'{"ok":false}')), says(answer(b'{"ok":true,"a":1}'))) as api:
        http = HttpEnricher(api.url + "/{id}")

        async def checked(event: Any) -> Any:
            found = await http.lookup(event)
            if not found["ok"]:
                raise TransientError("the API says no")
            return event | {"a": found["a"]}

        came = await enriched(api.url, enricher=checked)
        await http.aclose()
    assert (came.events, len(api.heard)) == ([{"id": 0, "a": 1}], 2)
