"""Event compaction on RxPY: each distinct event once per time bucket, enriched, delivered in batches."""

# ruff: noqa: I001 - the imports below are a list of the public names

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # ``as`` exports a name
    from rxcompact import operators as operators
    from rxcompact.acks import Ack as Ack, Chunk as Chunk
    from rxcompact.contracts import Enricher as Enricher, Reducer as Reducer, Sink as Sink, Source as Source
    from rxcompact.enrichers.http import HttpEnricher as HttpEnricher
    from rxcompact.events import (
        Batch as Batch,
        Bounds as Bounds,
        Compacted as Compacted,
        DeadLetter as DeadLetter,
        Outcome as Outcome,
        Published as Published,
        Window as Window,
    )
    from rxcompact.mappers import key_of as key_of, time_of as time_of
    from rxcompact.observers import LogObserver as LogObserver
    from rxcompact.operators.merge import merge as merge
    from rxcompact.orchestrator import Orchestrator as Orchestrator
    from rxcompact.pipeline import Pipeline as Pipeline
    from rxcompact.signals import (
        Account as Account,
        BatchPublished as BatchPublished,
        CallEnded as CallEnded,
        DeadLettered as DeadLettered,
        Failing as Failing,
        Healed as Healed,
        ObserverFailed as ObserverFailed,
        Report as Report,
        RetryScheduled as RetryScheduled,
        Signal as Signal,
        SourceFailed as SourceFailed,
        StateChanged as StateChanged,
        Tick as Tick,
        WindowClosed as WindowClosed,
    )
    from rxcompact.sinks.http import HttpSink as HttpSink
    from rxcompact.sinks.ndjson import NdjsonSink as NdjsonSink
    from rxcompact.sources.http import HttpSource as HttpSource
    from rxcompact.sources.ndjson import NdjsonSource as NdjsonSource
    from rxcompact.sources.python import IterableSource as IterableSource
    from rxcompact.sources.python import ObservableSource as ObservableSource, PushSource as PushSource

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
    "sources.ndjson": "NdjsonSource",
    "sources.python": "IterableSource ObservableSource PushSource",
}
"""What is imported when it is used: a command that needs a part of it begins sooner."""
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names.split()}
if not TYPE_CHECKING:
    __all__ = sorted(["operators", *_MODULE_OF])  # noqa: PLE0605 - a list


def __getattr__(name: str) -> Any:
    if name == "operators":
        return import_module("rxcompact.operators")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    return value
