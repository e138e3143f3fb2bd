"""Signals of the operating system, heard by as many of a loop as ask; asyncio tells the last one alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from weakref import WeakKeyDictionary

from reactivex.abc import DisposableBase
from reactivex.disposable import Disposable

Action = Callable[[], object]

_heard: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[int, list[Action]]] = WeakKeyDictionary()


def hear(numbers: Collection[int], action: Action) -> DisposableBase:
    """Have something done at signals, until disposed of; the last to go leaves a signal to its default."""
    loop = asyncio.get_running_loop()
    heard = _heard.setdefault(loop, {})

    def tell(number: int) -> None:
        for each in list(heard[number]):
            each()

    for number in numbers:
        actions = heard.setdefault(number, [])
        actions.append(action)
        loop.add_signal_handler(number, tell, number)

    def dispose() -> None:
        for number in numbers:
            heard[number].remove(action)
            if not heard[number]:
                loop.remove_signal_handler(number)

    return Disposable(dispose)
