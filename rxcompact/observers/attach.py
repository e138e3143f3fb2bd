"""Attaches an observer of whatever shape."""

from __future__ import annotations

from typing import Any

from reactivex.abc import DisposableBase, ObserverBase
from reactivex.disposable import CompositeDisposable

METHODS = {
    "on_signal": "signals",
    "on_window": "windows",
    "on_outcome": "outcomes",
    "on_dead_letter": "dead_letters",
    "on_state": "states",
}
"""The methods an observer may have, and the observable that each is told of."""


def attach(observed: Any, observer: Any) -> DisposableBase:
    """Have an observer told of what happens; dispose of what is returned to detach it.

    Args:
        observed: An orchestrator, or what else has observables of these names.
        observer: A function of a signal; an RxPY Observer of signals; or an object with some of the methods
            ``on_signal``, ``on_window``, ``on_outcome``, ``on_dead_letter``, ``on_state``.

    Raises:
        TypeError: for one that is none of these.
    """
    methods: dict[str, Any] = {name: getattr(observer, name, None) for name in METHODS}
    if any(map(callable, methods.values())) and not isinstance(observer, ObserverBase):
        return CompositeDisposable(
            [getattr(observed, METHODS[name]).subscribe(method) for name, method in methods.items() if callable(method)]
        )
    if not (callable(observer) or isinstance(observer, ObserverBase)):
        raise TypeError(f"an observer is a function, an Observer, or has one of {', '.join(METHODS)}: got {observer!r}")
    subscription: DisposableBase = observed.signals.subscribe(observer)
    return subscription
