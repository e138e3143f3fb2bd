"""Where events come from: each gives chunks of them, as an observable."""

from rxcompact.sources.http import HttpSource
from rxcompact.sources.iterable import IterableSource
from rxcompact.sources.ndjson import NdjsonSource
from rxcompact.sources.observable import ObservableSource

__all__ = ["HttpSource", "IterableSource", "NdjsonSource", "ObservableSource"]
