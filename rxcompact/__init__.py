"""Event compaction on RxPY: each distinct event once per time bucket, enriched, delivered in batches."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rxcompact import operators
    from rxcompact.acks import Ack, Chunk
    from rxcompact.contracts import Enricher, Reducer, Sink, Source
    from rxcompact.enrichers.http import HttpEnricher
    from rxcompact.events import Batch, Bounds, Compacted, DeadLetter, Outcome, Published, Window
    from rxcompact.mappers import key_of, time_of
    from rxcompact.observers import LogObserver
    from rxcompact.operators.merge import merge
    from rxcompact.orchestrator import Orchestrator
    from rxcompact.pipeline import Pipeline
    from rxcompact.signals import (
        Account,
        BatchPublished,
        CallEnded,
        DeadLettered,
        Failing,
        Healed,
        ObserverFailed,
        Report,
        RetryScheduled,
        Signal,
        SourceFailed,
        StateChanged,
        Tick,
        WindowClosed,
    )
    from rxcompact.sinks.http import HttpSink
    from rxcompact.sinks.ndjson import NdjsonSink
    from rxcompact.sources.http import HttpSource
    from rxcompact.sources.iterable import IterableSource
    from rxcompact.sources.ndjson import NdjsonSource
    from rxcompact.sources.push import ObservableSource, PushSource

__version__ = "0.2.0"

_MODULES = {
    "acks": "Ack Chunk",
    "contracts": "Enricher Reducer Sink Source",
    "enrichers.http": "HttpEnricher",
    "events": "Batch Bounds Compacted DeadLetter Outcome Published Window",
    "mappers": "key_of time_of",
    "observers": "LogObserver",
    "operators.merge": "merge",
    "orchestrator": "Orchestrator",
    "pipeline": "Pipeline",
    "signals": "Account BatchPublished CallEnded DeadLettered Failing Healed ObserverFailed Report RetryScheduled "
    "Signal SourceFailed StateChanged Tick WindowClosed",
    "sinks.http": "HttpSink",
    "sinks.ndjson": "NdjsonSink",
    "sources.http": "HttpSource",
    "sources.iterable": "IterableSource",
    "sources.ndjson": "NdjsonSource",
    "sources.push": "ObservableSource PushSource",
}
"""What is imported when it is used: a command that needs a part of it begins sooner."""
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name == "operators":
        return import_module("rxcompact.operators")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    return value


__all__ = [
    "Account",
    "Ack",
    "Batch",
    "BatchPublished",
    "Bounds",
    "CallEnded",
    "Chunk",
    "Compacted",
    "DeadLetter",
    "DeadLettered",
    "Enricher",
    "Failing",
    "Healed",
    "HttpEnricher",
    "HttpSink",
    "HttpSource",
    "IterableSource",
    "LogObserver",
    "NdjsonSink",
    "NdjsonSource",
    "ObservableSource",
    "ObserverFailed",
    "Orchestrator",
    "Outcome",
    "Pipeline",
    "Published",
    "PushSource",
    "Reducer",
    "Report",
    "RetryScheduled",
    "Signal",
    "Sink",
    "Source",
    "SourceFailed",
    "StateChanged",
    "Tick",
    "Window",
    "WindowClosed",
    "key_of",
    "merge",
    "operators",
    "time_of",
]
