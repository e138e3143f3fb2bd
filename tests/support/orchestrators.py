"""An orchestrator of a simple pipeline, and a source that a test pushes by hand."""

from __future__ import annotations

from typing import Any

import reactivex as rx
from pipelines import simple_pipeline
from reactivex.disposable import Disposable

from rxcompact import Orchestrator


def orchestrated(source: Any, sink: Any = None, **options: Any) -> tuple[Orchestrator, list[Any]]:
    """Return an orchestrator, and the list that its batches are published to."""
    out: list[Any] = []
    settings = {"key_mapper": "id", "timespan": 10, "max_age": 60, "batch_timespan": 1} | options
    return Orchestrator(simple_pipeline(source=source, sink=sink or out.extend, **settings)), out


def events(*keys: Any) -> list[dict[str, Any]]:
    return [{"id": key} for key in keys]


class ManualSource:
    """A source that emits what a test pushes, while it is subscribed to; it counts its subscriptions."""

    def __init__(self) -> None:
        self.streams = 0
        self.observer: Any = None
        self.demand: Any = None

    def stream(self, demand: Any) -> Any:
        def subscribe(observer: Any, _: Any = None) -> Any:
            self.observer = observer
            return Disposable(lambda: setattr(self, "observer", None))

        self.streams += 1
        self.demand = demand
        return rx.Observable(subscribe)

    def push(self, chunk: Any) -> None:
        self.observer.on_next(chunk)

    def die(self) -> None:
        self.observer.on_error(OSError("died"))
