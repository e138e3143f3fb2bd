"""Takes lists of events out of wrapper objects: ``{"Records": [...]}``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from msgspec import UNSET

from rxcompact.errors import ArgumentError
from rxcompact.reader.position import Malformed
from rxcompact.reader.scan import split_array


class ItemsPath:
    """The path to the lists of events in a wrapper object.

    Args:
        path: A field, or a dotted path; ``[]`` behind a list on the way:
            ``"resourceLogs[].scopeLogs[].logRecords[]"``. At the end it may be left out.

    Raises:
        ArgumentError: for a path that leads nowhere.

    >>> list(ItemsPath("data.list").lists(b'{"data": {"list": [1, 2]}}'))
    [b'[1, 2]']
    """

    def __init__(self, path: str) -> None:
        self._steps: list[tuple[str, Callable[[bytes], bytes | None]]] = []
        passed = ""
        for part in path.strip().removesuffix("[]").split("[]"):
            name = part.removeprefix(".") if passed else part
            if not all(name.split(".")) or "[" in name or not name.isprintable() or set(name) & {'"', "\\"}:
                raise ArgumentError("items", path, "a field, or a path such as 'streams[].values[]'")
            passed += part
            self._steps.append((passed, _field(name)))
            passed += "[]"

    def lists(self, wrapper: bytes) -> Iterator[bytes]:
        """Yield the lists of events, as JSON; `Malformed` in place of one that is missing."""
        yield from self._walk(wrapper, 0)

    def _walk(self, value: bytes, step: int) -> Iterator[bytes]:
        path, field = self._steps[step]
        try:
            found = field(value)
        except msgspec.ValidationError:  # not an object
            found = None
        except (msgspec.DecodeError, RecursionError) as error:
            yield Malformed(value, "nested too deeply" if isinstance(error, RecursionError) else str(error))
            return
        if found is None or not found.startswith(b"["):
            yield Malformed(value, f"no list {path!r}")
        elif step + 1 == len(self._steps):
            yield found
        else:
            for _, elements, _ in split_array(found):
                for element in elements:
                    yield from self._walk(element, step + 1)


def _field(name: str) -> Callable[[bytes], bytes | None]:
    """Return what looks up a field: by the whole name, else at the first dot the rest in the field before it."""
    head, dot, rest = name.partition(".")
    names = {"whole": name, "head": head} if dot else {"whole": name}
    # all other fields are skipped, not decoded
    struct = msgspec.defstruct("Wrapper", [(each, msgspec.Raw, UNSET) for each in names], rename=names, gc=False)
    decode: Callable[[bytes], Any] = msgspec.json.Decoder(struct).decode
    inner = _field(rest) if dot else None

    def look_up(value: bytes) -> bytes | None:
        found: Any = decode(value)
        if found.whole is not UNSET:
            return bytes(found.whole)
        return inner(bytes(found.head)) if inner is not None and found.head is not UNSET else None

    return look_up
