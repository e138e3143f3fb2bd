"""Bodies of Elasticsearch's bulk API: actions, each with an event behind it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import MappingProxyType
from typing import Any

from rxcompact.errors import DecodeError
from rxcompact.fields import decode
from rxcompact.sources.body import Counts, Part, RequestError, in_slices

TAKEN = ("create", "index")
NOT_TAKEN = {"type": "illegal_argument_exception", "reason": "only create and index have an event"}


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
