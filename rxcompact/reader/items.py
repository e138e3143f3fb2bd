"""Takes lists of events out of wrapper objects: ``{"Records": [...]}``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from msgspec import UNSET

from rxcompact.errors import ArgumentError
from rxcompact.fields import Field, Group
from rxcompact.reader.position import Malformed
from rxcompact.reader.scan import split_array


class ItemsPath:
    """The path to the lists of events in a wrapper object.

    Args:
        path: A name as `Field` takes it; ``[]`` behind a list on the way:
            ``"resourceLogs[].scopeLogs[].logRecords[]"``. At the end it may be left out.

    Raises:
        ArgumentError: for a name that cannot be one.

    >>> list(ItemsPath("data.list").lists(b'{"data": {"list": [1, 2]}}'))
    [b'[1, 2]']
    """

    def __init__(self, path: str) -> None:
        parts = path.strip().removesuffix("[]").split("[]")
        groups = Field("[]".join(parts), "items").groups
        if not all(groups) or any(not whole.isprintable() or set(whole) & {'"', "\\"} for (whole, _), *_ in groups):
            raise ArgumentError("items", path, "a field, or a path such as 'streams[].values[]'")
        paths = ["[]".join(parts[: number + 1]) for number in range(len(parts))]
        self._steps = list(zip(paths, map(_field, groups), strict=True))

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


def _field(group: Group) -> Callable[[bytes], bytes | None]:
    """Return what looks up a field, and decodes no other."""
    (whole, head), *rest = group
    names = {"whole": whole, "head": head} if rest else {"whole": whole}
    struct = msgspec.defstruct("Wrapper", [(each, msgspec.Raw, UNSET) for each in names], rename=names, gc=False)
    decode: Callable[[bytes], Any] = msgspec.json.Decoder(struct).decode
    inner = _field(tuple(rest)) if rest else None

    def look_up(value: bytes) -> bytes | None:
        found: Any = decode(value)
        if found.whole is not UNSET:
            return bytes(found.whole)
        return inner(bytes(found.head)) if inner is not None and found.head is not UNSET else None

    return look_up
