"""Rows S1, S3, S8, S10 to S13 of the fault table: lines that are not JSON objects, alone or among good lines."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from source_support import Answer, Service, served, until

from rxcompact.errors import PermanentError

BAD = {
    "s01 cut": b'{"id":1',
    "s01 text": b"hello",
    "s01 single quotes": b"{'id':1}",
    "s01 comma": b'{"id":1,}',
    "s01 comment": b'{"id":1/**/}',
    "s01 no key": b"{1:2}",
    "s01 escape": b'{"id":"\\x"}',
    "s01 control character": b'{"id":"\x01"}',
    "s01 leading zero": b'{"id":01}',
    "s03 invalid UTF-8": b'{"id":"\xff"}',
    "s03 invalid UTF-8 in another field": b'{"id":1,"x":"\xc3("}',
    "s03 overlong": b'{"id":"\xc0\xaf"}',
    "s03 encoded surrogate": b'{"id":"\xed\xa0\x80"}',
    "s03 cut character": b'{"id":"\xe2\x82"}',
    "s08 NaN": b'{"id":NaN}',
    "s08 Infinity": b'{"id":Infinity}',
    "s08 too large": b'{"id":1e999}',
    "s10 nested 100,000 deep": b'{"id":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "s10 nested objects": b'{"id":' * 50_000 + b"1" + b"}" * 50_000,
    "s10 open and never closed": b'{"id":' + b"[" * 100_000,
    "s11 5,000 digits": b'{"id":' + b"9" * 5000 + b"}",
    "s12 lone surrogate": b'{"id":"\\ud800"}',
    "s12 the other half": b'{"id":"\\udc00"}',
    "s12 lone surrogate in another field": b'{"id":1,"x":"\\ud800"}',
    "s12 lone surrogate as a name": b'{"id":1,"\\ud800":1}',
    "s13 list": b"[1]",
    "s13 number": b"1",
    "s13 string": b'"text"',
    "s13 true": b"true",
    "s13 null": b"null",
}
ROWS = [pytest.param(bad, id=name) for name, bad in BAD.items()]
MALFORMED = ("rejected", "compact", "malformed")


def assert_reason(answer: Answer, line: int) -> None:
    """The answer names the line and a short reason."""
    [(number, reason)] = answer.reasons
    assert number == line
    assert reason
    assert len(reason) < 200


@pytest.mark.parametrize("bad", ROWS)
def test_s01_s03_s08_s10_s11_s12_s13_a_bad_line_is_rejected_and_its_neighbours_are_taken(
    bad: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(service: Service) -> None:
        answer = await service.post(b"\n".join([b'{"id":1}', bad, b'{"id":2}', b""]))
        assert answer.counts == (202, 2, 1)
        assert_reason(answer, 2)
        assert await service.ids() == [1, 2]
        account = service.orchestrator.account
        assert (account.received, account.rejected, account.published) == (3, 1, 2)
        assert service.ends() == [MALFORMED]

    with caplog.at_level(logging.WARNING):
        served(test)
    assert caplog.records == []


@pytest.mark.parametrize("number", [b"[-1e400]", b"9" * 5000], ids=["s08 too large", "s11 5,000 digits"])
def test_s08_s11_a_number_beyond_doubles_in_an_unread_field_fails_where_it_is_decoded(number: bytes) -> None:
    async def test(service: Service) -> None:
        answer = await service.post(b'{"id":1}\n{"id":2,"x":' + number + b"}")
        assert answer.counts == (202, 2, 0)
        assert await service.ids() == [1]
        [(outcome, stage, reason)] = service.ends()
        assert outcome in ("rejected", "failed")
        assert (stage, reason) == ("decode", "malformed")

    served(test)


@pytest.mark.parametrize("bad", ROWS)
def test_s01_s03_s08_s10_s11_s12_s13_a_body_of_which_nothing_is_good_is_400_with_the_reason(bad: bytes) -> None:
    async def test(service: Service) -> None:
        answer = await service.post(bad)
        assert answer.status == 400
        assert answer.json.get("error") or answer.json["errors"][0]["reason"]
        assert await service.ids() == []
        assert service.orchestrator.account.published == 0

    served(test)


@pytest.mark.parametrize("bad", ROWS)
def test_s01_s03_s08_s10_s11_s12_s13_strict_it_takes_nothing_of_a_body_with_a_bad_line(bad: bytes) -> None:
    async def test(service: Service) -> None:
        answer = await service.post(b"\n".join([b'{"id":1}', bad, b'{"id":2}']))
        assert answer.counts == (400, 0, 1)
        assert_reason(answer, 2)
        assert service.received == 0
        assert (await service.post(b'{"id":1}\n{"id":2}')).counts == (202, 2, 0)

    served(test, strict=True)


@pytest.mark.parametrize(
    ("bad", "position"),
    [
        (b'{"id":1,}', 8),
        (b'{"id":01}', 7),
        (b'{"id":NaN}', 6),
        (b'{"id":"\xff"}', 7),
        (b'{"id":1,"x":"\xc3("}', 13),
    ],
)
def test_s01_s03_the_reason_has_the_position(bad: bytes, position: int) -> None:
    """Counted from 0, as by Python's json."""

    async def test(service: Service) -> None:
        answer = await service.post(b'{"id":1}\n' + bad)
        [(_, reason)] = answer.reasons
        assert f"byte {position})" in reason

    served(test)


def test_s13_equal_bad_lines_are_each_reported() -> None:
    async def test(service: Service) -> None:
        assert [line for line, _ in (await service.post(b"x\nx\nx")).reasons] == [1, 2, 3]

    served(test)


def test_s13_the_line_of_a_bad_element_is_right_though_its_text_occurs_before_the_list() -> None:
    async def test(service: Service) -> None:
        answer = await service.post(b'{"version":4,\n"alerts":[\n{"id":1},\n4]}')
        assert [line for line, _ in answer.reasons] == [4]
        answer = await service.post(b'{"version":4,\n"alerts":[\n4]}')
        assert [line for line, _ in answer.reasons] == [3]

    served(test, items="alerts")


def test_s01_an_answer_reports_some_bad_lines_and_counts_all() -> None:
    async def test(service: Service) -> None:
        answer = await service.post(b"\n".join([b'{"id":1}', *[b"bad"] * 50]))
        assert answer.counts == (202, 1, 50)
        assert 1 < len(answer.reasons) < 50

    served(test)


def test_s01_a_bad_line_has_its_number_in_the_body() -> None:
    async def test(service: Service) -> None:
        assert (await service.post(b'{"id":1}\n\n\nbad')).reasons[0][0] == 4

    served(test)


@pytest.mark.parametrize("body", [b'[{"id":1},null,{"id":2}]', b'[{"id":1},{"id":"\xff"},{"id":2}]'])
def test_s03_s13_only_the_bad_elements_of_an_array_are_rejected(body: bytes) -> None:
    async def test(service: Service) -> None:
        assert (await service.post(body)).counts == (202, 2, 1)
        assert await service.ids() == [1, 2]

    served(test)


@pytest.mark.parametrize("body", [rb'[{"id":1},{"id":"\ud800"},{"id":2}]', rb'[{"id":1},{"id":"\udc00"},{"id":2}]'])
def test_s12_only_the_elements_of_an_array_with_surrogates_are_rejected(body: bytes) -> None:
    async def test(service: Service) -> None:
        assert (await service.post(body)).counts == (202, 2, 1)
        assert await service.ids() == [1, 2]

    served(test)


@pytest.mark.parametrize("body", [b'[{"id":1}', b'[{"id":1},]', b'[{"id":1} {"id":2}]', b'[{"id":1}] x', b"["])
def test_s01_a_malformed_array_is_400(body: bytes) -> None:
    async def test(service: Service) -> None:
        answer = await service.post(body)
        assert answer.status == 400
        assert answer.json["error"]
        assert service.received == 0

    served(test)


@pytest.mark.parametrize("field", ["id", "x"])
def test_s12_every_accepted_event_can_be_encoded(field: str) -> None:
    """The sink encodes a batch at once: an event that cannot be encoded would fail the others."""

    async def test(service: Service) -> None:
        values = [b'"plain"', rb'"\ud800"', rb'"\ud83d\ude00"']
        body = b"\n".join(b'{"n":%d,"%s":%s}' % (n, field.encode(), value) for n, value in enumerate(values))
        assert (await service.post(body)).counts == (202, 2, 1)
        await service.orchestrator.stop()
        assert [compacted.event[field] for compacted in service.out] == ["plain", "\U0001f600"]
        assert all(json.dumps(compacted.event, ensure_ascii=False).encode() for compacted in service.out)

    served(test, {"key_mapper": "n"})


def test_the_origin_of_a_dead_letter_is_the_url_of_the_posts() -> None:
    def enrich(event: Any) -> Any:
        raise PermanentError(event["id"])

    async def test(service: Service) -> None:
        assert (await service.post(b'{"id":1}\noops')).counts == (202, 1, 1)
        await until(lambda: len(service.letters) == 2)
        url = service.source.url
        assert [(each.outcome, each.origin) for each in service.letters] == [("rejected", url), ("failed", url)]

    served(test, {"enricher": enrich, "timespan": 0.1})
