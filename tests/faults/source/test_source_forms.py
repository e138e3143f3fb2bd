"""Rows S2, S4, S7, S9, S14, S15 of the fault table: the forms of good bodies."""

from __future__ import annotations

import pytest
from source_support import Service, served

FORMS = {
    "object": (b'{"id":1}', [1]),
    "object and newline": (b'{"id":1}\n', [1]),
    "array": (b'[{"id":1},{"id":2}]', [1, 2]),
    "array over lines": (b'[{"id":1},\n {"id":2}\n]\n', [1, 2]),
    "array of one": (b'[{"id":1}]', [1]),
    "NDJSON": (b'{"id":1}\n{"id":2}\n', [1, 2]),
    "NDJSON without a final newline": (b'{"id":1}\n{"id":2}', [1, 2]),
    "NDJSON with CRLF": (b'{"id":1}\r\n{"id":2}\r\n', [1, 2]),
    "NDJSON with empty lines": (b'\n\n{"id":1}\n\n\r\n{"id":2}\n\n', [1, 2]),
    "NDJSON with spaces": (b' {"id":1} \n\t{"id":2}\n', [1, 2]),
    "pretty-printed": (b'{\n  "id": 1,\n  "x": {\n    "y": [\n      {}\n    ]\n  }\n}', [1]),
    "pretty-printed, two": (b'{\n  "id": 1\n}\n{\n  "id": 2\n}\n', [1, 2]),
    "braces in strings": (b'{"id":"}{"}\n{"id":"}\\n{"}', ["}{", "}\n{"]),
    "large integer": (b'{"id":123456789012345678901234567890}', [123456789012345678901234567890]),
}
TYPES = ["application/json", "text/plain; charset=utf-8", "application/x-ndjson", "application/octet-stream"]


async def taken(service: Service, body: bytes, ids: list[object], headers: dict[str, str] | None = None) -> None:
    assert (await service.post(body, headers)).counts == (202, len(ids), 0)
    assert service.received == len(ids)
    assert await service.ids() == ids


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("content_type", TYPES)
def test_s07_s14_a_body_is_sniffed_whatever_its_content_type(form: str, content_type: str) -> None:
    body, ids = FORMS[form]
    served(lambda service: taken(service, body, ids, {"Content-Type": content_type}))


def test_s07_a_body_without_a_content_type_is_taken() -> None:
    async def test(service: Service) -> None:
        async with service.client.post(
            service.source.url, data=b'{"id":1}', skip_auto_headers=["Content-Type"]
        ) as response:
            assert "Content-Type" not in response.request_info.headers
            assert response.status == 202

    served(test)


@pytest.mark.parametrize(
    ("body", "ids"),
    [
        (b'{"id":1}{"id":2}{"id":3}', [1, 2, 3]),
        (b'{"id":1} {"id":2}', [1, 2]),
        (b'{"id":1}{"id":2}\n{"id":3}', [1, 2, 3]),
        (b'{"id":1} {"id":2}\n{"id":3}', [1, 2, 3]),
        (b'{"id":1}\t{"id":2}\r\n\r\n{"id":3} \n', [1, 2, 3]),
        (b'{"id":{"a":1}}{"id":2}', [{"a": 1}, 2]),
    ],
)
def test_s15_concatenated_json_is_split(body: bytes, ids: list[object]) -> None:
    served(lambda service: taken(service, body, ids))


@pytest.mark.parametrize(
    ("body", "ids"),
    [
        (b'{"id":1}{"id":2}\n\n{"id":3}', [1, 2, 3]),
        (b'{"id":{"a":1}\n,"x":1}', [{"a": 1}]),
    ],
)
def test_s14_s15_values_over_several_lines_are_split(body: bytes, ids: list[object]) -> None:
    served(lambda service: taken(service, body, ids))


@pytest.mark.parametrize("body", [b'{"id":1}\n{"id":2}', b'[{"id":1},{"id":2}]', b' \n[{"id":1},{"id":2}]'])
def test_s04_a_byte_order_mark_is_ignored(body: bytes) -> None:
    served(lambda service: taken(service, b"\xef\xbb\xbf" + body, [1, 2]))


@pytest.mark.parametrize("body", [b'{"id":0,"id":1}', b'[{"id":0,"id":1}]', b'{"id":0,"x":{"id":7},"id":1}'])
def test_s09_the_last_of_duplicate_members_counts(body: bytes) -> None:
    served(lambda service: taken(service, body, [1]))


@pytest.mark.parametrize("body", [b"", b" \r\n", b"\xef\xbb\xbf"])
def test_s02_an_empty_body_is_400(body: bytes) -> None:
    async def test(service: Service) -> None:
        answer = await service.post(body)
        assert (answer.status, answer.json["error"]) == (400, "empty body")
        assert service.received == 0

    served(test)


@pytest.mark.parametrize("body", [b"[]", b"[ ]\n"])
def test_s02_an_empty_array_is_no_events(body: bytes) -> None:
    served(lambda service: taken(service, body, []))


@pytest.mark.parametrize(
    ("items", "body", "ids"),
    [
        ("alerts", b'{"version":"4","alerts":[{"id":1},{"id":2}]}\n', [1, 2]),
        ("alerts", b'{\n "alerts": [\n {"id":1}\n]}', [1]),
        ("alerts", b'{"alerts":[]}', []),
        ("alerts", b'[{"alerts":[{"id":1}]},{"alerts":[{"id":2}]}]', [1, 2]),
        ("alerts", b'{"alerts":[{"id":1}]}\n{"alerts":[{"id":2},{"id":3}]}', [1, 2, 3]),
        ("logEvents", b'{"logEvents":[{"id":1}]}{"logEvents":[{"id":2}]}', [1, 2]),
        ("data.list", b'{"data":{"list":[{"id":1}]}}', [1]),
        ("data.list", b'{"data.list":[{"id":1}],"data":{"list":[{"id":2}]}}', [1]),
        ("a.b.c/d.e", b'{"a":{"b.c/d":{"e":[]},"b":{"c/d.e":[{"id":1}]}}}', [1]),
        ("r[].s[].l[]", b'{"r":[{"s":[{"l":[{"id":1}]},{"l":[{"id":2},{"id":3}]}]},{"s":[]}]}', [1, 2, 3]),
    ],
)
def test_i02_i03_the_list_may_be_inside_an_object(items: str, body: bytes, ids: list[object]) -> None:
    served(lambda service: taken(service, body, ids), items=items)


@pytest.mark.parametrize(
    ("items", "body", "reasons"),
    [
        ("alerts", b'[{"id":1}]', ["no list 'alerts'"]),
        ("alerts", b'{"id":1}', ["no list 'alerts'"]),
        ("alerts", b'{"alerts":null}', ["no list 'alerts'"]),
        ("alerts", b'{"id":1,"alerts":"none"}', ["no list 'alerts'"]),
        ("alerts", b'{"id":1}\n{"id":2}', ["no list 'alerts'"] * 2),
        ("data.list", b'{"id":1,"data":null}', ["no list 'data.list'"]),
        ("r[].s[]", b'{"r":[{"t":1},{"s":{}}]}', ["no list 'r[].s'"] * 2),
        ("alerts", b'{"alerts":[1,"x"]}', ["not a JSON object but int", "not a JSON object but str"]),
    ],
)
def test_i03_an_object_without_the_list_is_rejected(items: str, body: bytes, reasons: list[str]) -> None:
    async def test(service: Service) -> None:
        answer = await service.post(body)
        assert answer.counts == (400, 0, len(reasons))
        assert [reason for _, reason in answer.reasons] == reasons
        assert await service.ids() == []

    served(test, items=items)
