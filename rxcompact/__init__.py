"""Event compaction on RxPY: each distinct event once per time bucket, enriched, delivered in batches."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rxcompact import operators
from rxcompact.acks import Ack, Chunk
from rxcompact.contracts import Enricher, Reducer, Sink, Source
from rxcompact.events import Batch, Bounds, Compacted, DeadLetter, Outcome, Published, Window
from rxcompact.mappers import key_of, time_of
from rxcompact.observers import LogObserver
from rxcompact.orchestrator import Orchestrator
from rxcompact.pipeline import Pipeline
from rxcompact.signals import Account, Report
from rxcompact.sinks.ndjson import NdjsonSink
from rxcompact.sources.iterable import IterableSource
from rxcompact.sources.ndjson import NdjsonSource
from rxcompact.sources.observable import ObservableSource
from rxcompact.sources.push import PushSource

if TYPE_CHECKING:
    from rxcompact.enrichers.http import HttpEnricher
    from rxcompact.sinks.http import HttpSink
    from rxcompact.sources.http import HttpSource

__version__ = "0.2.0.dev0"
_ON_DEMAND = {"HttpEnricher": "enrichers.http", "HttpSink": "sinks.http", "HttpSource": "sources.http"}
"""What imports aiohttp, which takes longer than all the rest."""


def __getattr__(name: str) -> Any:
    if name not in _ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ON_DEMAND[name]}"), name)


__all__ = [
    "Account",
    "Ack",
    "Batch",
    "Bounds",
    "Chunk",
    "Compacted",
    "DeadLetter",
    "Enricher",
    "HttpEnricher",
    "HttpSink",
    "HttpSource",
    "IterableSource",
    "LogObserver",
    "NdjsonSink",
    "NdjsonSource",
    "ObservableSource",
    "Orchestrator",
    "Outcome",
    "Pipeline",
    "Published",
    "PushSource",
    "Reducer",
    "Report",
    "Sink",
    "Source",
    "Window",
    "key_of",
    "operators",
    "time_of",
]
