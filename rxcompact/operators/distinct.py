"""distinct: hashed, and forgetful on request."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import CompositeDisposable

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
