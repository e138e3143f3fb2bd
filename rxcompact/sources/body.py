"""Reads the body of a request in steps, and counts what becomes of its events."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from gzip import BadGzipFile
from http import HTTPStatus
from itertools import chain
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec
from aiohttp import HttpVersion, HttpVersion11, StreamReader, web
from aiohttp.helpers import parse_content_type

from rxcompact.clock import INFINITY
from rxcompact.errors import DecodeError, TooLargeError
from rxcompact.fields import decode, map_each
from rxcompact.reader.items import Position, Step, lines_of
from rxcompact.reader.reader import Reader
from rxcompact.reader.scan import WHITE, slice_of
from rxcompact.reader.text import PIECE, is_gzip

STEP = 256  # events of a body that are worked on at once
LIVE = 1.0  # seconds after which a body of chunks is taken as it comes
OVERHEAD = 112  # bytes that an event takes besides its own
COPIES = 2.5  # of a body: its text, its events, and what the allocator adds
READ = 48 << 10  # of the system's buffer of a connection, which may be twice that, and is read at once
LONGEST = 1000  # characters of a Content-Type
SHOWN = 10  # rejected events that an answer lists
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
PAYLOAD = b"&payload="
UTF_8 = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
CLOSE = {"Connection": "close"}  # the rest of the body is not read
_form = re.compile(rb"[\w.%+*-]+=")
TAKEN = ("create", "index")  # of the actions of a bulk body
NOT_TAKEN = {"type": "illegal_argument_exception", "reason": "only create and index have an event"}


class Answer(web.StreamResponse):
    """JSON that answers a post, written at once: aiohttp takes longer for its headers than we for an event.

    That of an error has the status in it, as in Elasticsearch.
    """

    def __init__(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status=status, headers=headers)
        if status >= 400:  # noqa: PLR2004
            body = {"status": status, **body}  # rsyslog takes JSON without it for success
        self._json = msgspec.json.encode(body)

    async def prepare(self, request: web.BaseRequest) -> None:
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        head = _head(self._status, request.version, self._keep_alive, int(time.time()))
        for name, value in self._headers.items():
            head += f"{name}: {value}\r\n".encode()
        text = b"" if request.method == "HEAD" else self._json
        await request.writer.write_eof(b"%sContent-Length: %d\r\n\r\n%s" % (head, len(self._json), text))

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: it is written."""


@lru_cache(maxsize=16)
def _head(status: int, version: HttpVersion, keep_alive: bool, second: int) -> bytes:
    connection = ("" if version >= HttpVersion11 else "keep-alive") if keep_alive else "close"
    headers = {"Content-Type": JSON, "Date": formatdate(second, usegmt=True), "Connection": connection}
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{k}: {v}" for k, v in headers.items() if v), ""]
    return "\r\n".join(lines).encode()


class RequestError(Exception):
    """A request that is answered with an error. An HTTPException is kept with its frames, and so with the body."""

    def __init__(self, status: int, why: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(why)
        self.status, self.headers = status, headers

    def response(self) -> Answer:
        return Answer(self.status, {"error": str(self)}, self.headers)


class Part(NamedTuple):
    """Some events of a body, and where they stand."""

    events: list[bytes]
    position: Position


async def read_parts(
    request: web.BaseRequest,
    hold: Callable[[int], None],
    live: Callable[[Part], Awaitable[None]] | None = None,
    *,
    body_timeout: float,
    items: Sequence[Step],
    max_body: int,
    max_event: int,
    max_events: int,
    **options: Any,
) -> list[Part]:
    """Read the events of a body, with the options of `Reader`; raise RequestError for one that cannot be read.

    ``hold`` is called with the number of bytes that are in memory, ``live`` with the parts of a body that goes on for
    more than a second, as they come: none is returned. The loop has its turn after each few milliseconds.
    """
    compression = _compression(request.headers.get("Content-Type", ""), request.headers.get("Content-Encoding"))
    first = request.content.read_nowait()
    is_whole = request.content.is_eof() and len(first) <= min(max_body, max_event)
    lines = lines_of([first.rstrip(WHITE)]) if is_whole and not items and compression is None else None
    if lines is not None and len(events := list(lines[1])) <= max_events:
        hold(2 * READ + int(COPIES * len(first)) + OVERHEAD * len(events))
        return [Part(events, Position("", 0, [(1, first, events)]))]
    hold(2 * READ)
    # a line or element that is too long is looked at up to its end, to go on behind it; four times that is enough
    options |= {"max_event": max_event, "max_line": max_body if items else min(max_body, 4 * max_event)}
    reader = Reader(compression=compression, items=items, max_body=max_body, max_events=max_events, **options)
    body = Body(request.content, first, body_timeout, reader, hold, live)
    try:
        parts = await body.read(max_body if request.content_type == FORM else None)
    except TooLargeError as error:
        raise RequestError(413, f"the body is {error}", CLOSE) from None
    except (DecodeError, BadGzipFile, EOFError) as error:
        raise RequestError(400, str(error)) from None
    if reader.blank:
        raise RequestError(400, "empty body")
    return parts


@dataclass(eq=False)
class Body:
    """A body that may take so many seconds; no timer runs while a block of it is there."""

    content: StreamReader
    first: bytes
    seconds: float
    reader: Reader
    hold: Callable[[int], None]
    live: Callable[[Part], Awaitable[None]] | None

    def __post_init__(self) -> None:
        self._time = asyncio.get_running_loop().time
        self._until = self._time() + self.seconds
        self._held = 2 * READ

    async def _block(self, patience: float) -> bytes | None:
        """Return a block, an empty one at the end, None for so long a silence; raise RequestError when it is late."""
        block, self.first = self.first or self.content.read_nowait(), b""
        if block or self.content.is_eof():
            return block
        with suppress(TimeoutError):
            async with asyncio.timeout_at(min(self._until, self._time() + patience)):
                return await self.content.readany()
        if self._time() >= self._until:
            raise RequestError(408, f"the body took longer than {self.seconds:g} s (body_timeout)", CLOSE)
        return None

    async def _blocks(self) -> AsyncGenerator[bytes | None, None]:
        block = None
        while block != b"":
            block = await self._block(INFINITY if self.live is None else LIVE)
            yield block

    async def _payload(self, max_body: int) -> AsyncGenerator[bytes | None, None]:
        """Yield the field ``payload`` of a form, and at the end an empty block; curl calls anything a form."""
        form = bytearray(b"&")
        while block := await self._block(INFINITY):
            self._held += len(block)
            self.hold(self._held)
            form += block
            if len(form) - 1 > max_body:
                raise TooLargeError(f"longer than {max_body} bytes (max_body)")
        _, field, rest = form.partition(PAYLOAD)
        if not field:
            why = "a form without the field 'payload': send JSON, with Content-Type: application/json"
            raise RequestError(415, why)
        payload = rest.partition(b"&")[0].replace(b"+", b" ")
        at = 0
        while at < len(payload):  # decoding all of a large one at once would take seconds
            cut = payload.rfind(b"%", at + PIECE - 2, at + PIECE)
            end = at + PIECE if cut < 0 else cut
            yield unquote_to_bytes(bytes(payload[at:end]))
            await asyncio.sleep(0)
            at = end
        yield b""

    async def read(self, max_form: int | None) -> list[Part]:
        """Return what it has; of a form of at most so many bytes what is in its ``payload``."""
        reader, live, parts, held = self.reader, self.live, list[Part](), 0
        self.first = await self._block(INFINITY) or b""
        is_form = max_form is not None and _form.match(self.first) is not None
        live_at = INFINITY if live is None else self._time() + LIVE
        # one that is left for the event loop to close keeps what was read for a turn, in which others are read
        async with aclosing(self._payload(max_form or 0) if is_form else self._blocks()) as blocks:
            async for block in blocks:
                chunks = () if block is None else reader.feed(block) if block else reader.end()
                # what was read before is passed on, though no event may be complete with this block
                for chunk in chunks if live is None else chain(chunks, [[]]):
                    held += OVERHEAD * len(chunk)
                    self.hold(self._held + held + int(COPIES * reader.size))  # the text is kept, for places in it
                    if parts or self._time() >= live_at:
                        await asyncio.sleep(0)
                    parts.append(Part(chunk, reader.position))
                    if live is not None and self._time() >= live_at:
                        for part in parts:
                            await live(part)
                            if part.events:
                                self._until = self._time() + self.seconds  # what passed meanwhile is our time
                        reader.forget()
                        parts, held = [], reader.buffered
                        self.hold(self._held + held)
                self.hold(self._held + held + int(COPIES * reader.size))  # with an event that is not complete
        return parts


@lru_cache(maxsize=64)
def _compression(content_type: str, encoding: str | None) -> str | None:
    """Return the compression that the head of a request names; raise RequestError for what is no JSON by its head."""
    if len(content_type) > LONGEST:  # to parse it would take long
        raise RequestError(415, f"a Content-Type of more than {LONGEST} characters", CLOSE)
    try:
        compression = "gzip" if is_gzip(encoding) else None
    except ValueError as error:
        raise RequestError(415, f"{error}: gzip or none", CLOSE) from None
    kind, options = parse_content_type(content_type)
    charset = options.get("charset", "utf-8").lower().replace("_", "-")
    if charset not in UTF_8:
        raise RequestError(415, f"charset {charset[:40]!r}: utf-8 only", CLOSE)
    if kind.startswith("multipart/"):
        raise RequestError(415, "a multipart form: send the events themselves as the body (curl --data-binary @FILE)")
    return compression


class Counts:
    """What becomes of the events of a body, for the answer."""

    status: int | None = None
    headers: Mapping[str, str] | None = None

    def __init__(self) -> None:
        self.accepted = 0
        self.rejected = 0
        self._errors: list[dict[str, Any]] = []

    def add(self, part: Part, rejected: Iterable[tuple[Any, BaseException | None]]) -> None:
        """Count the events of a part; the answer has place and reason of the first that are rejected."""
        self.accepted += len(part.events)
        for event, error in rejected:
            self.accepted -= 1
            self.rejected += 1
            self.reject(part, event, error)

    def reject(self, part: Part, event: Any, error: BaseException | None) -> None:
        if len(self._errors) < SHOWN:
            place = part.position.find(event)
            self._errors.append({**(place._asdict() if place else {}), "reason": str(error)})

    def body(self) -> dict[str, Any]:
        counts = {"accepted": self.accepted, "rejected": self.rejected}
        return {**counts, "errors": self._errors} if self.rejected else counts

    def response(self, status: int) -> Answer:
        return Answer(status, self.body(), self.headers)


async def in_slices(parts: Iterable[Part]) -> AsyncIterator[Part]:
    """Yield the events of a body, few at once: the loop has its turn before a slice of bad ones takes 50 ms."""
    is_first = True
    for events, position in parts:
        start = 0
        while start < len(events):
            if not is_first:
                await asyncio.sleep(0)
            is_first = False
            some = events[start : start + STEP]
            some = some[: slice_of(some, STEP)]
            yield Part(some, position)
            start += len(some)


async def count_malformed(parts: Iterable[Part]) -> Counts:
    """Count the events that are JSON objects, and those that are not."""
    counts = Counts()
    async for part in in_slices(parts):
        _, errors = map_each(decode, part.events, DecodeError)
        counts.add(part, ((part.events[at], error) for at, error in errors.items()))
    return counts


class BulkCounts(Counts):
    """What becomes of the actions of a body, answered as Elasticsearch does: an item each, in their order.

    The documents of ``index`` and ``create`` are events; ``update`` and ``delete`` change nothing and get status 400.
    """

    status = 200
    headers = MappingProxyType({"X-Elastic-Product": "Elasticsearch"})  # its clients look for it

    def __init__(self) -> None:
        super().__init__()
        self._began = time.monotonic()
        self._items: list[dict[str, Any]] = []
        self._results: dict[int, dict[str, Any]] = {}  # by the identity of the event

    async def events_of(self, parts: Iterable[Part]) -> list[Part]:
        """Return the events alone. The loop has its turn between slices of them.

        Raises:
            RequestError: for a line that is no action, or an action without a document.
        """
        found: list[Part] = []
        name, result = "", dict[str, Any]()  # of the action whose document is next
        async for part in in_slices(parts):
            events: list[bytes] = []
            for line in part.events:
                if name:
                    if name in TAKEN:
                        events.append(line)
                        self._results[id(line)] = result
                    name = ""
                else:
                    name, result = self._action(line, part)
                    name = "" if name == "delete" else name
            found.append(Part(events, part.position))
        if name:
            raise RequestError(400, f"the last action, {name}, has no document")
        return found

    def _action(self, line: bytes, part: Part) -> tuple[str, dict[str, Any]]:
        try:
            [(name, about)] = decode(line).items()
            result: dict[str, Any] = {each: about[each] for each in ("_index", "_id") if each in about}
        except (DecodeError, ValueError, TypeError):
            name, result = "", {}
        if name not in (*TAKEN, "update", "delete"):
            place = part.position.find(line)
            raise RequestError(400, f"line {place.line if place else '?'} is no action of a bulk body")
        result |= {"status": 201, "result": "created"} if name in TAKEN else {"status": 400, "error": NOT_TAKEN}
        self.rejected += name not in TAKEN
        self._items.append({name: result})
        return name, result

    def reject(self, part: Part, event: Any, error: BaseException | None) -> None:
        del part
        result = self._results[id(event)]
        result |= {"status": 400, "error": {"type": "document_parsing_exception", "reason": str(error)}}
        del result["result"]

    def body(self) -> dict[str, Any]:
        took = int(1000 * (time.monotonic() - self._began))
        return {"took": took, "errors": self.rejected > 0, "items": self._items}
