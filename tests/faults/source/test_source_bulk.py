"""Elasticsearch's bulk API at the source: row I17 of FIELD.md, with what its clients do."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from source_support import GZIP, Answer, Service, served

TYPE = {"Content-Type": "application/vnd.elasticsearch+x-ndjson; compatible-with=8"}


def bulk(*actions: tuple[str, Any, Any]) -> bytes:
    """A body as clients write it: the action, then the document, if there is one."""
    lines = [json.dumps(each) for name, about, event in actions for each in ({name: about}, event) if each is not None]
    return ("\n".join(lines) + "\n").encode()


class Client:
    """What a client of Elasticsearch does with an answer: it sends again what got 429 or 503, and drops other items."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.failed: list[tuple[str, int, str]] = []

    async def send(self, *actions: tuple[str, Any, Any]) -> Answer:
        answer = await self.service.ask("POST", data=bulk(*actions), headers=TYPE)
        assert answer.headers["X-Elastic-Product"] == "Elasticsearch"
        assert answer.headers["Content-Type"].startswith("application/json")
        assert isinstance(answer.json["took"], int)
        assert len(answer.json["items"]) == len(actions)
        for (name, about, _), item in zip(actions, answer.json["items"], strict=True):
            [(answered, result)] = item.items()
            assert answered == name
            assert {each: result.get(each) for each in about} == about
            if not 200 <= result["status"] < 300:
                self.failed.append((name, result["status"], result["error"]["reason"]))
        assert answer.json["errors"] is bool(self.failed)
        return answer


@pytest.mark.parametrize("path", ["/_bulk", "/logs/_bulk"])
def test_i17_documents_are_events_and_the_answer_is_elasticsearchs(path: str) -> None:
    async def test(service: Service) -> None:
        client = Client(service)
        answer = await client.send(
            ("create", {"_index": "logs"}, {"id": "a"}),
            ("index", {"_index": "logs", "_id": "7"}, {"id": "b"}),
            ("index", {}, {"id": "a", "n": 2}),
        )
        assert (answer.status, client.failed) == (200, [])
        assert answer.json["items"][1] == {"index": {"_index": "logs", "_id": "7", "status": 201, "result": "created"}}
        assert await service.ids() == ["a", "b"]
        assert [compacted.count for compacted in service.out] == [2, 1]
        assert service.received == 3

    served(test, path=path)


def test_i17_update_and_delete_are_answered_with_400_and_change_nothing() -> None:
    async def test(service: Service) -> None:
        client = Client(service)
        answer = await client.send(
            ("update", {"_id": "1"}, {"doc": {"id": "x"}}),
            ("delete", {"_id": "2"}, None),
            ("create", {"_id": "3"}, {"id": "a"}),
            ("delete", {"_id": "4"}, None),
        )
        assert answer.status == 200
        reason = "only create and index have an event"
        assert client.failed == [("update", 400, reason), ("delete", 400, reason), ("delete", 400, reason)]
        assert await service.ids() == ["a"]

    served(test, path="/_bulk")


def test_i17_a_document_that_is_rejected_fails_its_item_alone() -> None:
    async def test(service: Service) -> None:
        body = bulk(("index", {}, {"id": "a"})) + b'{"index":{}}\n{"id":\n' + bulk(("index", {}, 5), ("create", {}, {}))
        answer = await service.ask("POST", data=body, headers=TYPE)
        results = [next(iter(item.values())) for item in answer.json["items"]]
        assert [result["status"] for result in results] == [201, 400, 400, 201]
        assert [result["error"]["reason"] for result in results[1:3]] == [
            "Input data was truncated",
            "not a JSON object but int",
        ]
        assert service.ends() == [("rejected", "compact", "malformed")] * 2
        await service.orchestrator.stop()
        assert [compacted.event for compacted in service.out] == [{"id": "a"}, {}]

    served(test, path="/_bulk")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"id":"a"}\n{"id":"b"}\n', "line 1 is no action of a bulk body"),
        (b'{"index":{}}\n{"id":"a"}\nx\n{"id":"b"}\n', "line 3 is no action of a bulk body"),
        (b'{"index":{}}\n', "the last action, index, has no document"),
        (b'{"index":5}\n{}\n', "line 1 is no action of a bulk body"),
        (b'{"index":{},"create":{}}\n{}\n', "line 1 is no action of a bulk body"),
        (b"", "empty body"),
    ],
)
def test_i17_what_is_no_bulk_body_is_400_and_nothing_of_it_is_taken(body: bytes, why: str) -> None:
    async def test(service: Service) -> None:
        answer = await service.ask("POST", data=body, headers=TYPE)
        assert (answer.status, answer.json) == (400, {"status": 400, "error": why})
        assert service.received == 0

    served(test, path="/_bulk")


def test_i17_a_large_body_in_gzip() -> None:
    async def test(service: Service) -> None:
        body = bulk(*(("create", {"_index": "logs"}, {"id": n % 100, "text": "}{" * 20}) for n in range(20_000)))
        answer = await service.ask("POST", data=gzip.compress(body), headers=TYPE | GZIP)
        assert (answer.status, answer.json["errors"], len(answer.json["items"])) == (200, False, 20_000)
        assert len(await service.ids()) == 100
        assert sum(compacted.count for compacted in service.out) == 20_000

    served(test, path="/_bulk", max_events=20_000)


def test_i17_a_dead_letter_is_a_document_as_any_other() -> None:
    async def test(service: Service) -> None:
        client = Client(service)
        letter = {"dead_letter": "failed", "event": {"id": "a"}, "count": 3, "id": "letter"}
        await client.send(("index", {}, letter), ("index", {}, {"id": "b"}))
        assert await service.ids() == ["letter", "b"]

    served(test, path="/_bulk")
