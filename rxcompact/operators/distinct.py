"""distinct: hashed, and forgetful on request."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import reactivex as rx
from reactivex import Observable
from reactivex import operators as ops

from rxcompact.mappers import key_of

T = TypeVar("T")


def distinct(
    key_mapper: str | Sequence[str] | Callable[[T], Hashable] | None = None, flushes: Observable[Any] | None = None
) -> Callable[[Observable[T]], Observable[T]]:
    """Pass on each key's first item.

    ::

        source   --a-b-a---b-a--|
        flushes  -----------f---|
                 distinct(flushes=flushes)
        result   --a-b-------a--|

    Args:
        key_mapper: A field's name, a tuple of names, or a function of the item, see `key_of`. By default the item
            is its own key.
        flushes: On each of its items all keys are forgotten.

    Shape:
        `Observable[T]` to `Observable[T]`, in order. Holds every key since the last flush: without flushes it grows
        with the keys.

    Cost:
        One set look-up an item; RxPY's own `distinct` scans a list.

    Errors:
        When the key mapper raises, or its key cannot be hashed, the stream ends with `KeyMapperError`; when ``flushes``
        fails, with its error.

    Source:
        https://rxjs.dev/api/operators/distinct
    """
    mapper: Callable[[Any], Hashable] = (lambda item: item) if key_mapper is None else key_of(key_mapper)

    def subscribe(source: Observable[T]) -> Observable[T]:
        seen: set[Hashable] = set()

        def is_new(item: T) -> bool:
            held = len(seen)
            seen.add(mapper(item))
            return len(seen) > held

        forget = ops.do_action(lambda _: seen.clear())
        forgotten = (rx.never() if flushes is None else flushes).pipe(forget, ops.ignore_elements())
        return source.pipe(ops.take_until(forgotten), ops.filter(is_new))

    return lambda source: rx.defer(lambda _: subscribe(source))
