"""distinct and distinct_within: hashed, and within a time bounded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import CompositeDisposable

from rxcompact.clock import Clock, Seconds, default_scheduler, seconds
from rxcompact.errors import ArgumentError
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
        When the key mapper raises, the stream ends with `KeyMapperError`; when a key is unhashable, with `TypeError`;
        when ``flushes`` fails, with its error.

    Source:
        https://rxjs.dev/api/operators/distinct
    """
    mapper = None if key_mapper is None else key_of(key_mapper)

    def operator(source: Observable[T]) -> Observable[T]:
        def subscribe(observer: ObserverBase[T], scheduler: SchedulerBase | None = None) -> DisposableBase:
            seen: set[Hashable] = set()

            def on_next(item: T) -> None:
                try:
                    key = mapper(item) if mapper else item
                    if key in seen:
                        return
                    seen.add(key)
                except Exception as error:  # noqa: BLE001 - the caller's function may raise anything
                    observer.on_error(error)
                else:
                    observer.on_next(item)

            subscription = CompositeDisposable()
            if flushes is not None:
                flush = flushes.subscribe(lambda _: seen.clear(), observer.on_error, scheduler=scheduler)
                subscription.add(flush)
            subscription.add(source.subscribe(on_next, observer.on_error, observer.on_completed, scheduler=scheduler))
            return subscription

        return Observable(subscribe)

    return operator


class Release(NamedTuple, Generic[T]):
    """An item that `distinct_within` let through."""

    item: T
    suppressed: int
    """How many of its key were held back since the last release."""


def distinct_within(
    duration: Seconds,
    *,
    key_mapper: str | Sequence[str] | Callable[[T], Hashable],
    max_keys: int,
    scheduler: SchedulerBase | None = None,
) -> Callable[[Observable[T]], Observable[Release[T]]]:
    """Hold back repeats of a key for a time, counted from its last release.

    ::

        source   --a-a-a-a-a-a-a-a--|
                 distinct_within(…)
        result   --a0------a3------a3--|      the number: how many were held back

    The time is not extended by repeats, so that a problem that goes on shows again.

    Args:
        duration: How long to hold a key back, seconds.
        key_mapper: A field's name, a tuple of names, or a function of the item, see `key_of`.
        max_keys: Remember at most this many keys; beyond it the key released longest ago is forgotten, and with it
            how many were held back: it shows again early rather than memory growing.
        scheduler: Its monotonic clock; no timers are used.

    Shape:
        `Observable[T]` to `Observable[Release[T]]`, in order. Holds ``max_keys`` keys and no items.

    Cost:
        O(1) an item.

    Errors:
        When the key mapper raises, the stream ends with `KeyMapperError`; when a key is unhashable, with `TypeError`.

    Raises:
        ArgumentError: for an argument out of range.
    """
    within = seconds("duration", duration)
    if max_keys < 1:
        raise ArgumentError("max_keys", max_keys, "at least 1")
    mapper = key_of(key_mapper)

    def operator(source: Observable[T]) -> Observable[Release[T]]:
        def subscribe(observer: ObserverBase[Release[T]], scheduler_: SchedulerBase | None = None) -> DisposableBase:
            now = Clock(scheduler or scheduler_ or default_scheduler()).monotonic
            released: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()  # oldest release first

            def suppressed(item: T) -> int | None:
                key, instant = mapper(item), now()
                at, held_back = released.get(key, (float("-inf"), 0))
                if instant - at < within:
                    released[key] = at, held_back + 1
                    return None
                released[key] = instant, 0
                released.move_to_end(key)
                if len(released) > max_keys:
                    released.popitem(last=False)
                return held_back

            def on_next(item: T) -> None:
                try:
                    held_back = suppressed(item)
                except Exception as error:  # noqa: BLE001 - the caller's function may raise anything
                    observer.on_error(error)
                    return
                if held_back is not None:
                    observer.on_next(Release(item, held_back))

            return source.subscribe(on_next, observer.on_error, observer.on_completed, scheduler=scheduler_)

        return Observable(subscribe)

    return operator
