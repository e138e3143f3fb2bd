"""Row S47 of the fault table: strings that could be injected into logs, formats, URLs and headers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from loguru import logger
from source_support import Service, served

from rxcompact import HttpEnricher
from rxcompact.observers import LogObserver

STRINGS = [
    "undefined", "null", "NaN", "\\", "\\\\", "'", '"', "`", "$(true)", "${jndi:ldap://127.0.0.1/a}", "%s%n%x", "%00",
    "{}", "{0}", "{event}", "{self.__class__}", "{{", "}", "<red>", "</red>", "<script>alert(1)</script>",
    "1;DROP TABLE users", "' OR 1=1 -- ", "../../etc/passwd", "/", "//evil.example/", "?", "#", "&a=b", ";", ":", "@",
    "a b", " ", "+", "a\nb", "a\r\nb", "a\r\nX-Injected: yes\r\n\r\nGET /other HTTP/1.1\r\n\r\n", "\x00",
    "\x00\x01\x1f",
    "\x1b[31mred\x1b[0m", "\x7f", "\x85", "\u2028\u2029", "\u202etxt.exe", "\ufeff", "\ufffe\uffff", "\u200b",
    "e\u0301", "\u00e9", "\U0001f600", "\U0001f468\u200d\U0001f469", "ﷺ", "Ω≈ç√", "田中さん", "الكل",
    "z\u0351\u036b\u0343",
    "İ", "ß", "x" * 5000,
]  # fmt: skip


def body(strings: list[str]) -> bytes:
    return b"\n".join(json.dumps({"id": text, text: text}).encode() for text in strings)


def test_s47_hostile_strings_pass_unchanged_as_keys_names_and_values() -> None:
    async def test(service: Service) -> None:
        for number, form in enumerate((body(STRINGS), b"[" + body(STRINGS).replace(b"\n", b",") + b"]")):
            headers = {"X-Hostile": "".join(filter(str.isprintable, "".join(STRINGS)))[:4000]}
            assert (await service.post(form, headers)).counts == (202, len(STRINGS), 0), number
        await service.orchestrator.stop()
        assert [(compacted.key, compacted.event) for compacted in service.out] == [
            (text, {"id": text, text: text}) for text in STRINGS
        ]
        assert {compacted.count for compacted in service.out} == {2}

    served(test)


@pytest.mark.parametrize("serialize", [False, True])
def test_s47_a_log_has_one_line_for_each_and_no_injection(serialize: bool) -> None:
    messages: list[str] = []

    def fail(event: Any) -> Any:
        raise ValueError(event["id"])

    async def test(service: Service) -> None:
        service.orchestrator.attach(LogObserver())
        assert (await service.post(body(STRINGS))).status == 202
        bad = [b'{"id":' + json.dumps(text, ensure_ascii=False).encode() for text in STRINGS]
        await service.post(b"\n".join(bad))
        await service.orchestrator.stop()
        assert service.orchestrator.account.published == 0

    sink = logger.add(messages.append, format="{message}", level="DEBUG", serialize=serialize)
    try:
        served(test, {"enricher": fail, "retry": lambda _: False})
    finally:
        logger.remove(sink)
    letters = [message for message in messages if "dead lettered" in message]
    assert len(letters) == 2 * len(STRINGS)
    for message in letters:
        assert message.removesuffix("\n").isprintable(), message


class Api:
    """Stores the raw bytes of each request."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []

    @asynccontextmanager
    async def up(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()
        writer.close()


def test_s47_values_in_a_url_are_percent_encoded() -> None:
    api = Api()

    async def main() -> None:
        async with api.up() as url:
            enricher = HttpEnricher(url + "/hosts/{id}/alerts?only={id}&limit=1", max_concurrent=10)
            try:
                for text in STRINGS:
                    await enricher.enrich({"id": text})
            finally:
                await enricher.aclose()

    asyncio.run(main())
    assert len(api.heads) == len(STRINGS)
    for text, head in zip(STRINGS, api.heads, strict=True):
        request, *headers = head.split(b"\r\n")
        method, target, version = request.split(b" ")
        assert (method, version) == (b"GET", b"HTTP/1.1")
        path, _, query = target.partition(b"?")
        assert target.isascii()
        empty, hosts, name, alerts = path.split(b"/")
        assert (empty, hosts, alerts) == (b"", b"hosts", b"alerts")
        assert unquote_to_bytes(name) == text.encode()
        only, limit = query.split(b"&")
        assert unquote_to_bytes(only.removeprefix(b"only=").replace(b"+", b" ")) == text.encode()
        assert limit == b"limit=1"
        assert not [line for line in headers if line.startswith(b"X-")]
