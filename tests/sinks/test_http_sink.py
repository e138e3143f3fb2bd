"""HttpSink and HttpEnricher: what can be sent, and what answers mean."""

from __future__ import annotations

import hashlib
import hmac
import ssl
from typing import Any

import aiohttp
import msgspec
import pytest
import trustme
from shapes import Got, answering, batch, publish, real_time, recipes

from rxcompact import HttpEnricher, HttpSink, Orchestrator, Pipeline
from rxcompact import operators as rxo
from rxcompact.client import Request, json_body
from rxcompact.errors import ArgumentError, PermanentError, RateLimitedError, TransientError
from rxcompact.events import Batch, Compacted
from rxcompact.operators.verdict import verdict

ABC = batch({"id": "a"}, {"id": "b"}, {"id": "c"})


def event_of(compacted: Compacted) -> Any:
    return compacted.event


# ── W6: what is sent ──────────────────────────────────────────────────────────────────────────────────────────────────


def envelope(events: Batch) -> tuple[bytes, str]:
    return msgspec.json.encode({"records": [each.event for each in events]}), "application/vnd.kafka.json.v2+json"


@pytest.mark.parametrize("gzip", [False, True])
@real_time
async def test_w6_a_body_of_ones_own(gzip: bool) -> None:
    async with answering() as server:
        assert await publish(HttpSink(server.url, body=envelope, gzip=gzip), ABC) is None
    [got] = server.got
    assert got.json == {"records": [{"id": "a"}, {"id": "b"}, {"id": "c"}]}
    assert got.headers["Content-Type"] == "application/vnd.kafka.json.v2+json"
    assert got.headers["Idempotency-Key"] == ABC.idempotency_key
    assert got.headers.get("Content-Encoding") == ("gzip" if gzip else None)


@real_time
async def test_w6_a_body_that_fails_for_one_event_fails_that_event_alone() -> None:
    def body(events: Batch) -> tuple[bytes, str]:
        return "\n".join(each.event["id"] for each in events).encode(), "text/plain"

    async with answering() as server:
        letters: list[Any] = []
        events = [{"id": "a"}, {"no": 1}, {"id": "c"}, {"id": "d"}]
        pipeline = Pipeline(
            events, rxo.compact(0.01, key_mapper=str), rxo.publish(HttpSink(server.url, body=body)), max_age=60
        )
        async with Orchestrator(pipeline) as orchestrator:
            orchestrator.dead_letters.subscribe(letters.append)
            account = (await orchestrator.wait()).account
    assert (account.published, account.failed) == (3, 1)
    assert [(letter.event.event, letter.reason) for letter in letters] == [({"no": 1}, "KeyError")]
    assert sorted(b"\n".join(got.body for got in server.got).split()) == [b"a", b"c", b"d"]


@pytest.mark.parametrize("method", ["PUT", "PATCH", "post"])
@real_time
async def test_w6_a_method(method: str) -> None:
    async with answering() as server:
        await publish(HttpSink(server.url, method=method), ABC)
    assert server.got[0].method == method.upper()


@pytest.mark.parametrize("method", ["", "GET /", "P\nX", "été"])
def test_w6_a_method_that_is_none_is_refused(method: str) -> None:
    with pytest.raises(ArgumentError, match="method"):
        HttpSink("http://x/", method=method)
    with pytest.raises(ArgumentError, match="method"):
        HttpEnricher("http://x/", method=method or " ")


URLS: dict[str, Any] = {
    "template": lambda url: url + "/{id}/_doc?x={n.m}",
    "function": lambda url: lambda each: f"{url}/{each[0].event['id']}/_doc?x={each[0].event['n']['m']}",
}


@pytest.mark.parametrize("kind", URLS)
@pytest.mark.parametrize("whole", [True, False])
@real_time
async def test_w6_a_url_of_each_event(kind: str, whole: bool) -> None:
    events = batch({"id": "a/b", "n": {"m": 1}}, {"id": "c", "n": {"m": 2}}, {"id": "d", "n": {"m": 3}})

    def answer(got: Got) -> tuple[int, Any]:
        return (422, "bad row") if got.path.startswith("/c/") else (200, {})

    async with answering(answer) as server:
        sink = HttpSink(URLS[kind](server.url), method="PUT", format="object", to_json=event_of)
        if whole:  # as a function of the caller's hands it over
            wrong = await publish(sink, events)
            assert {position: str(error) for position, error in wrong.items()} == {1: "HTTP 422: bad row"}
        else:
            source = [compacted.event for compacted in events]
            pipeline = Pipeline(source, rxo.compact(0.01, key_mapper="id"), rxo.publish(sink), max_age=60)
            async with Orchestrator(pipeline) as orchestrator:
                account = (await orchestrator.wait()).account
            assert (account.published, account.failed) == (2, 1)
    first = "/a%2Fb/_doc?x=1" if kind == "template" else "/a/b/_doc?x=1"
    assert sorted((got.path, got.json["n"]["m"]) for got in server.got) == [
        (first, 1), ("/c/_doc?x=2", 2), ("/d/_doc?x=3", 3)
    ]  # fmt: skip
    assert len({got.headers["Idempotency-Key"] for got in server.got}) == 3


@real_time
async def test_w6_a_url_of_each_batch() -> None:
    async with answering() as server:
        sink = HttpSink(lambda each: f"{server.url}/{each.idempotency_key}.ndjson", method="PUT", gzip=True)
        assert await publish(sink, ABC) is None
    [got] = server.got
    assert (got.method, got.path) == ("PUT", f"/{ABC.idempotency_key}.ndjson")
    assert [line["key"] for line in got.lines] == [0, 1, 2]


async def test_w6_an_event_without_the_field_of_the_url_fails_alone() -> None:
    sink = HttpSink("http://u:PW@store.invalid/{id}?key=K", format="object")
    wrong = await sink.publish(batch({"no": 1}, {"no": 2}))
    assert wrong is not None
    assert {str(error) for error in wrong.values()} == {
        "the URL at http://store.invalid needs the field 'id', which the event lacks"
    }


@pytest.mark.parametrize(
    ("headers", "sent"),
    [
        ({"content-type": "application/vnd.api+json"}, {"Content-Type": "application/vnd.api+json"}),
        ({"IDEMPOTENCY-KEY": "mine"}, {"Idempotency-Key": "mine"}),
        ({"Accept-Encoding": "identity", "User-Agent": "me"}, {"Accept-Encoding": "identity", "User-Agent": "me"}),
    ],
)
@pytest.mark.parametrize("form", ["mapping", "function", "coroutine function"])
@real_time
async def test_w6_l23_a_given_header_wins(headers: dict[str, str], sent: dict[str, str], form: str) -> None:
    async def later(_: Request) -> dict[str, str]:
        return headers

    given: Any = {"mapping": headers, "function": lambda _: headers, "coroutine function": later}[form]
    async with answering() as server:
        await publish(HttpSink(server.url, headers=given), ABC)
        enricher = HttpEnricher(server.url, headers=given)
        await enricher.enrich({})
        await enricher.aclose()
    for got in server.got:
        assert {name.lower(): value for name, value in sent.items()}.items() <= {
            name.lower(): value for name, value in got.headers.items()
        }.items()
        assert len({name.lower() for name in got.headers}) == len(got.headers)


@real_time
async def test_w6_a_signature_is_of_the_request_as_it_is_sent() -> None:
    def signed(request: Request) -> dict[str, str]:
        text = "\n".join([request.method, request.url, request.headers["Content-Type"]]).encode() + request.body
        return {"X-Signature": hmac.new(b"secret", text, hashlib.sha256).hexdigest()}

    async with answering() as server:
        url = server.url + "/in?a=b%2Fc"
        await publish(HttpSink(url, headers=signed), ABC)
    [got] = server.got
    text = f"POST\n{server.url}{got.path}\napplication/x-ndjson".encode() + got.body
    assert got.headers["X-Signature"] == hmac.new(b"secret", text, hashlib.sha256).hexdigest()


@real_time
async def test_w6_a_token_that_expires_is_fetched_again() -> None:
    valid = "1"

    def store(got: Got) -> tuple[int, Any]:
        nonlocal valid
        if got.path == "/token":
            return 200, {"access_token": valid}
        ok = got.headers["Authorization"] == f"Bearer {valid}"
        valid = "2" if len(server.got) == 2 else valid  # the first one expires
        return (200, {}) if ok else (401, "expired")

    async with answering(store) as server:
        tokens = HttpEnricher(server.url + "/token", method="POST")

        async def oauth2(_: Request) -> dict[str, str]:
            return {"Authorization": f"Bearer {(await tokens.lookup({}))['access_token']}"}

        sink = HttpSink(server.url + "/in", headers=oauth2)
        assert [await sink.publish(ABC), await sink.publish(ABC)] == [None, None]
        await sink.aclose()
        await tokens.aclose()
    assert [got.headers.get("Authorization") for got in server.got] == [None, "Bearer 1", None, "Bearer 2"]


@real_time
async def test_w6_mutual_tls(tmp_path: Any) -> None:
    authority = trustme.CA()
    serving, asking = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(serving)
    authority.configure_trust(serving)
    serving.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(asking)
    async with answering(tls=serving) as server:
        # without a certificate; since Python 3.12 the peer is gone before TLS is over
        assert isinstance(await publish(HttpSink(server.url, ssl=asking), ABC), aiohttp.ClientConnectionError)
        authority.issue_cert("client").configure_cert(asking)
        assert await publish(HttpSink(server.url, ssl=asking), ABC) is None
        enricher = HttpEnricher(server.url, ssl=asking)
        assert await enricher.lookup({}) == {}
        await enricher.aclose()


@real_time
async def test_w12_lines_are_text() -> None:
    async with answering((204, b"")) as server:
        sink = HttpSink(server.url, format="lines", to_json=lambda c: f'cpu,host={c.event["id"]} n={c.count}i "x"')
        assert await publish(sink, ABC) is None
    assert server.got[0].body == b'cpu,host=a n=2i "x"\ncpu,host=b n=2i "x"\ncpu,host=c n=2i "x"\n'
    assert server.got[0].headers["Content-Type"] == "text/plain; charset=utf-8"
    with pytest.raises(ArgumentError, match="to_json"):
        HttpSink("http://x/", format="lines")


# ── W3: what answers mean ─────────────────────────────────────────────────────────────────────────────────────────────

SLACK, TRANSIENT, PERMANENT, LIMITED = {"ok": False}, TransientError, PermanentError, RateLimitedError
WHOLE: dict[str, tuple[int, Any, type[Exception], str]] = {
    "slack": (200, {"ok": False, "error": "channel_not_found"}, PERMANENT, "channel_not_found"),
    "slack, limited": (200, {"ok": False, "error": "ratelimited"}, LIMITED, "ratelimited"),
    "slack, denied": (200, {"ok": False, "error": "invalid_auth"}, TRANSIENT, "invalid_auth"),
    "slack, down": (200, {"ok": False, "error": "internal_error"}, TRANSIENT, "internal_error"),
    "ok is false": (200, {"ok": False, "status": 200, "error": "no"}, PERMANENT, "no"),
    "slack, bare": (200, {"ok": False}, PERMANENT, "the store did not take it"),
    "datasette": (200, {"ok": False, "errors": ["no such column"]}, PERMANENT, '["no such column"]'),
    "telegram": (200, {"ok": False, "error_code": 429, "description": "Too Many"}, LIMITED, "HTTP 429: Too Many"),
    "login page": (200, "<!DOCTYPE html><title>Log in</title>", TRANSIENT, "answer is an HTML page"),
    "html": (200, "\n<HTML lang=en><body>", TRANSIENT, "answer is an HTML page"),
    "xhtml": (200, '<?xml version="1.0"?>\n<!-- x -->\n<!doctype html>', TRANSIENT, "answer is an HTML page"),
    "webdis": (200, {"XADD": [False, "ERR wrong number of arguments"]}, PERMANENT, "ERR wrong number of arguments"),
    "graphql": (200, {"errors": [{"message": "no field"}], "data": None}, PERMANENT, "no field"),
    "json-rpc": (200, {"jsonrpc": "2.0", "id": 1, "error": {"code": -32600, "message": "no"}}, PERMANENT, "-32600"),
    "kafka v3": (200, {"error_code": 40403, "message": "Topic not found"}, PERMANENT, "HTTP 404: Topic not found"),
    "opentelemetry": (
        200,
        {"partialSuccess": {"rejectedLogRecords": "2", "errorMessage": "too long"}}, PERMANENT, "2 rejected: too long",
    ),
    "207 unknown": (207, {"done": True}, TypeError, "verdict="),
    "207 text": (207, "", TypeError, "verdict="),
    "too few results": (207, [{"status": 201}], TRANSIENT, "results for 1 events, not 3"),
}  # fmt: skip


@pytest.mark.parametrize("case", WHOLE)
@real_time
async def test_w3_a_success_that_is_none_publishes_nothing(case: str) -> None:
    status, content, kind, text = WHOLE[case]
    async with answering((status, content)) as server:
        error = await publish(HttpSink(server.url), ABC)
    assert isinstance(error, kind)
    assert text in str(error)


GOOD: dict[str, Any] = {
    "empty": b"", "slack's hook": "ok", "json": {"status": "success"}, "echo": [{"ok": False, "error": "x"}] * 3,
    "an event, echoed": {"host": "a", "status": 500, "ok": False},
    "bulk": {"errors": False, "items": [{"index": {}}] * 3},
    "kinesis": {"FailedRecordCount": 0, "Records": [{"SequenceNumber": "1"}] * 3},
    "kafka": {"offsets": [{"partition": 0, "offset": n, "error_code": None, "error": None} for n in range(3)]},
    "bigquery": {"kind": "bigquery#tableDataInsertAllResponse"}, "webdis": {"XADD": "1-0"}, "number": "1",
    "splunk": {"text": "Success", "code": 0}, "loki": b"", "graphql": {"data": {"add": 3}},
    "opentelemetry": {"partialSuccess": {}}, "sqs": {"Successful": [{"Id": "0"}], "Failed": []},
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD)
@real_time
async def test_w3_a_success_is_one(case: str) -> None:
    async with answering((200, GOOD[case])) as server:
        assert await publish(HttpSink(server.url), ABC) is None


PARTS: dict[str, tuple[int, Any, dict[int, tuple[str, str]]]] = {
    "elasticsearch": (
        200,
        {"errors": True, "items": [
            {"index": {"status": 201}},
            {"create": {"status": 429, "error": {"type": "es_rejected_execution_exception", "reason": "queue"}}},
            {"index": {"status": 400, "error": {"type": "mapper_parsing_exception", "reason": "failed to parse [n]"}}},
        ]},
        {1: ("rate limited", "es_rejected"), 2: ("permanent", "failed to parse [n]")},
    ),
    "kinesis": (
        200,
        {"FailedRecordCount": 2, "Records": [
            {"SequenceNumber": "1", "ShardId": "0"},
            {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "Rate exceeded"},
            {"ErrorCode": "InternalFailure", "ErrorMessage": "Internal service failure."},
        ]},
        {1: ("rate limited", "Rate exceeded"), 2: ("transient", "Internal service failure.")},
    ),
    "firehose": (
        200,
        {"FailedPutCount": 1, "RequestResponses": [
            {"RecordId": "1"},
            {"ErrorCode": "ServiceUnavailableException", "ErrorMessage": "Slow down."},
            {"RecordId": "2"},
        ]},
        {1: ("transient", "Slow down.")},
    ),
    "eventbridge": (
        200,
        {"FailedEntryCount": 1, "Entries": [{"EventId": "1"}, {"EventId": "2"}, {"ErrorCode": "MalformedDetail"}]},
        {2: ("permanent", "MalformedDetail")},
    ),
    "sqs": (
        200,
        {"Successful": [{"Id": "1"}], "Failed": [
            {"Id": "0", "SenderFault": True, "Code": "InvalidMessageContents", "Message": "bad"},
            {"Id": "2", "SenderFault": False, "Code": "InternalError"},
        ]},
        {0: ("permanent", "InvalidMessageContents: bad"), 2: ("transient", "InternalError")},
    ),
    "bigquery": (
        200,
        {"insertErrors": [
            {"index": 0, "errors": [{"reason": "stopped", "message": ""}]},
            {"index": 1, "errors": [{"reason": "invalid", "location": "n", "message": "no such field: n."}]},
        ]},
        {0: ("transient", "stopped"), 1: ("permanent", "no such field: n.")},
    ),
    "kafka": (
        200,
        {"offsets": [
            {"partition": 0, "offset": 1, "error_code": None, "error": None},
            {"partition": None, "offset": None, "error_code": 1, "error": "too large"},
            {"partition": None, "offset": None, "error_code": 2, "error": "no leader"},
        ]},
        {1: ("permanent", "too large"), 2: ("transient", "no leader")},
    ),
    "207, success is false": (207, [{"status": 200, "success": False, "message": "no"}, {"status": 200}, {}],
                              {0: ("permanent", "no")}),
    "207, a list": (207, [{"status": 201}, {"status": 503}, {"code": 422, "message": "bad"}],
                    {1: ("transient", "HTTP 503"), 2: ("permanent", "HTTP 422: bad")}),
    "207, wrapped": (207, {"took": 1, "results": [{"success": True}, {"success": False, "reason": "no"}, {"ok": True}]},
                     {1: ("permanent", "no")}),
}  # fmt: skip


@pytest.mark.parametrize("case", PARTS)
@real_time
async def test_w3_only_what_an_answer_names_has_failed(case: str) -> None:
    status, content, expected = PARTS[case]
    async with answering((status, content)) as server:
        wrong = await publish(HttpSink(server.url), ABC)
    assert {position: verdict(error) for position, error in wrong.items()} == {
        n: each[0] for n, each in expected.items()
    }
    for position, (_, words) in expected.items():
        assert words in str(wrong[position])


@real_time
async def test_w3_a_verdict_of_ones_own() -> None:
    def refused(events: Any, status: int, answer: Any) -> dict[int, Exception]:
        assert (len(events), status) == (2, 202)  # less the one that has no JSON form
        return {n: PermanentError(answer["why"]) for n, each in enumerate(events) if each.event["id"] in answer["no"]}

    async with answering((202, {"no": ["c"], "why": "closed"})) as server:
        events = batch({"id": "a"}, {"id": "b", "x": object()}, {"id": "c"})
        wrong = await publish(HttpSink(server.url, verdict=refused), events)
    assert {n: type(error) for n, error in wrong.items()} == {1: PermanentError, 2: PermanentError}
    assert str(wrong[2]) == "closed"


@real_time
async def test_w3_results_at_a_path() -> None:
    content = {"data": {"rows": [{"error": "no"}, {"id": 1}, {"status": 409}]}}
    async with answering((200, content)) as server:
        wrong = await publish(HttpSink(server.url, verdict=recipes()["verdict"]), ABC)
    assert {n: str(error) for n, error in wrong.items()} == {0: "no", 2: "HTTP 409"}


@real_time
async def test_w3_the_words_of_a_store_are_short_and_without_control_characters() -> None:
    words = "a\x1b[31m\n" + "b" * 1000
    async with answering((200, {"ok": False, "error": words})) as server:
        error = await publish(HttpSink(server.url), ABC)
    assert str(error) == ("a [31m " + "b" * 1000)[:200]


# ── the enricher: W6, W10, W11 ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("errors", [False, True])
@real_time
async def test_w6_graphql(errors: bool) -> None:
    content = {"data": {"host": {"owner": "ops"}}} | ({"errors": [{"message": "no such host"}]} if errors else {})
    async with answering((200, content)) as server:
        query = "query($name: String!) { host(name: $name) { owner } }"
        enricher = HttpEnricher(
            server.url + "/graphql",
            body=lambda event: json_body({"query": query, "variables": {"name": event["host"]}}),
            parse=recipes()["data_of"],
            merge=lambda event, data: event | data["host"],
        )
        try:
            if errors:
                with pytest.raises(PermanentError, match="no such host"):
                    await enricher.enrich({"host": "db1"})
            else:
                assert await enricher.enrich({"host": "db1"}) == {"host": "db1", "owner": "ops"}
        finally:
            await enricher.aclose()
    [got] = server.got
    assert (got.method, got.headers["Content-Type"]) == ("POST", "application/json")
    assert got.json["variables"] == {"name": "db1"}


@pytest.mark.parametrize(
    ("content", "kind", "parse", "found"),
    [
        (b"owner,team\nops,db", "text/csv", lambda body: body.decode().split("\n")[1].split(","), ["ops", "db"]),
        (b"<owner>ops</owner>", "text/xml", lambda body: body[7:10].decode(), "ops"),
        (b"<html>ops</html>", "text/html", lambda body: body[6:9].decode(), "ops"),
        (b"", "text/plain", lambda body: body.decode() or None, None),
    ],
)
@real_time
async def test_w10_an_answer_of_any_form_is_parsed(content: bytes, kind: str, parse: Any, found: Any) -> None:
    async with answering((200, content), kind=kind) as server:
        enricher = HttpEnricher(server.url, parse=parse)
        assert await enricher.enrich({"id": 1}) == ({"id": 1} if found is None else {"id": 1, "enrichment": found})
        await enricher.aclose()


BULK: dict[str, tuple[dict[str, Any], Any]] = {
    "in order": ({}, lambda ids: [{"owner": f"o-{each}"} for each in ids]),
    "by id": ({"match": "id"}, lambda ids: {each: {"owner": f"o-{each}"} for each in ids}),
    "objects in any order": (
        {"match": ("id", "host.name")},
        lambda ids: [{"host": {"name": each}, "owner": f"o-{each}"} for each in reversed(ids)],
    ),
}


@pytest.mark.parametrize("form", BULK)
@pytest.mark.parametrize("how", ["template", "body"])
@real_time
async def test_w6_w11_a_list_of_answers_for_a_list_of_ids(form: str, how: str) -> None:
    options, answers = BULK[form]

    def ids_of(got: Got) -> list[str]:
        return got.json["ids"] if how == "body" else got.path.partition("=")[2].split(",")

    async with answering(lambda got: (200, answers(ids_of(got)))) as server:
        out: list[Any] = []
        if how == "body":
            options = options | {"body": lambda events: json_body({"ids": [event["id"] for event in events]})}
        url = server.url + ("/hosts" if how == "body" else "/hosts?ids={id}")
        enricher = HttpEnricher(url, merge=lambda event, answer: event | {"owner": answer["owner"]}, **options)
        pipeline = Pipeline(
            [{"id": f"h{n}"} for n in range(7)],
            rxo.compact(0.01, key_mapper="id"),
            rxo.enrich(enricher, batch=3),
            rxo.publish(out.extend),
            max_age=60,
        )
        async with Orchestrator(pipeline) as orchestrator:
            await orchestrator.wait()
    assert sorted((c.event["id"], c.event["owner"]) for c in out) == [(f"h{n}", f"o-h{n}") for n in range(7)]
    assert sorted(len(ids_of(got)) for got in server.got) == [1, 3, 3]


@pytest.mark.parametrize("content", [(404, b""), (204, b"")])
@real_time
async def test_w11_nothing_found_for_a_list_adds_nothing(content: Any) -> None:
    async with answering(content) as server:
        enricher = HttpEnricher(server.url + "/{id}", match="id")
        assert await enricher.lookup([{"id": 1}, {"id": 2}]) == [None, None]
        await enricher.aclose()


@real_time
async def test_w11_an_id_that_the_answer_lacks_adds_nothing() -> None:
    async with answering((200, [{"id": "2", "x": 1}])) as server:
        enricher = HttpEnricher(server.url + "/?ids={id}", match="id")
        assert await enricher.lookup([{"id": 1}, {"id": 2}]) == [None, {"id": "2", "x": 1}]
        await enricher.aclose()
    assert server.got[0].path == "/?ids=1,2"
