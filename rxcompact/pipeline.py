"""The description of a pipeline: a source, and the operators that its events pass."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any, TypeAlias, get_args

from loguru import logger
from reactivex import Observable
from reactivex.abc import ObserverBase

from rxcompact.clock import Seconds, count, seconds
from rxcompact.contracts import Overflow, RawSource, Reducer, Sink, Source
from rxcompact.errors import ArgumentError
from rxcompact.events import Batch, shown_by
from rxcompact.frames import rows
from rxcompact.operators.compact import Compact
from rxcompact.operators.enrich import Enrich
from rxcompact.operators.operator import Operator, PooledOperator
from rxcompact.operators.publish import Publish, delivery
from rxcompact.sources.python import Events, IterableSource, ObservableSource

Step: TypeAlias = Callable[[Observable[Any]], Observable[Any]]
"""An operator."""
EVENTS_SHARE = 3 / 4  # of max_bytes, for events: the rest is for bodies, which may bring no new key


class Pipeline:
    """A source, a reducer, any number of `enrich`, and `publish`; an immutable description that an `Orchestrator` runs.

    ::

        Pipeline(
            HttpSource(port=8080),
            rxo.compact(10, key_mapper=("host", "alert")),
            rxo.enrich(HttpEnricher("http://cmdb:9000/hosts/{host}")),
            rxo.publish(HttpSink("http://store:9200/_bulk")),
            max_age=60,
        )

    Args:
        source: A `Source`; or an Observable of events, an iterable or an async iterable of them, a function that gives
            one (and is called again after a failure), a data frame or an Arrow table, whose rows are the events.
        operators: First `compact`, or another `Reducer`, or any operator from chunks of events to windows; then
            `enrich`, as often as there are APIs; last `publish`.
        max_age: Seconds after its birth (its ``first_seen``) at which an event that was not published expires.
        max_in_flight: Distinct events that are held in all. When they are, a source that can wait is made to.
        max_bytes: Bytes of JSON that are held in all, those of unfinished request bodies too. New keys have to wait
            from three quarters of it on, so that duplicates can still be read. Events that a source emits as objects
            count nothing. What a raw source pushes beyond it all the same is rejected.
        overflow: What becomes of a new key that comes all the same, as in `compact`.
        name: Of the pipeline, in metrics, traces and signals: where a process runs several.
        dead_letters: A sink for what was rejected, expired, failed, was dropped or abandoned, as in `publish`: the
            ``event`` of each `Compacted` is a `DeadLetter`. A message is acknowledged only when it took them.

    Raises:
        ArgumentError: for an argument out of range, operators that make no pipeline, and options that the pipeline
            hands down: ``flushes``, ``dead_letters``, ``scheduler``, ``max_keys``.
    """

    def __init__(
        self,
        source: Source | Observable[Any] | Events | Callable[[], Events] | Any,
        *operators: Reducer | Step,
        max_age: Seconds,
        max_in_flight: int = 100_000,
        max_bytes: int = 256 << 20,
        overflow: Overflow = "drop_oldest",
        name: str = "default",
        dead_letters: Sink | Callable[[Batch], Any] | ObserverBase[Any] | None = None,
    ) -> None:
        if overflow not in get_args(Overflow):
            raise ArgumentError("overflow", overflow, f"of {get_args(Overflow)}")
        self.source = as_source(source)
        self.max_age = seconds("max_age", max_age)
        self.max_in_flight = count("max_in_flight", max_in_flight)
        self.max_bytes = count("max_bytes", max_bytes)
        self.overflow: Overflow = overflow
        self.name = name
        self.dead_letters = dead_letters
        if dead_letters is not None:
            delivery(dead_letters)  # or it is refused
        steps: Any = operators if len(operators) > 1 else (None, None)
        reducer, *enrichments, publication = steps
        self.enrichments: tuple[Enrich, ...] = tuple(
            each.having(stage=f"enrich-{number}" if number > 1 else "enrich")
            for number, each in enumerate(enrichments, 1)
            if isinstance(each, Enrich)
        )
        is_reducer = (isinstance(reducer, Reducer) or callable(reducer)) and not isinstance(reducer, PooledOperator)
        if not is_reducer or len(self.enrichments) < len(enrichments) or not isinstance(publication, Publish):
            expected = "compact first (or another reducer), publish last, enrich between; filter in the source"
            raise ArgumentError("operators", operators, expected)
        self.publication = publication
        for operator in (reducer, *self.calls):
            if isinstance(operator, Operator):
                operator.check()
        if isinstance(reducer, Compact) and reducer.count is None and reducer.trailing:
            self._check_ages(reducer)
        self.reducer: Any = reducer

    def _check_ages(self, compact: Compact) -> None:
        """Refuse windows that are longer than events may live; where ages come from events, warn."""
        longest = compact.timespan + (compact.lateness or 0.0)
        if longest < self.max_age:
            return
        if compact.time_mapper is None:
            raise ArgumentError("max_age", self.max_age, f"above the timespan of compact, {longest:g} s")
        logger.warning("max_age {:g} s is not above timespan and lateness {:g} s: events expire", self.max_age, longest)

    @property
    def calls(self) -> tuple[Enrich | Publish, ...]:
        """The operators behind the reducer, which call enrichers and the sink."""
        return (*self.enrichments, self.publication)

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of the stages, in the order events pass them."""
        decode = ("decode",) if self.raw else ()
        return ("source", "compact", *decode, *(operator.stage for operator in self.calls))

    @property
    def raw(self) -> bool:
        """Whether the source's events are JSON lines, which are decoded after compaction."""
        return isinstance(self.source, RawSource) and self.source.raw

    def having(self, *, dead_letters: Sink | Callable[[Batch], Any] | ObserverBase[Any]) -> Pipeline:
        """Return this pipeline with another sink for dead letters."""
        changed = copy(self)
        vars(changed)["dead_letters"] = dead_letters
        return changed

    def __setattr__(self, name: str, value: object) -> None:
        if hasattr(self, "reducer"):
            raise AttributeError(f"a pipeline does not change: {name}")
        super().__setattr__(name, value)

    __repr__ = shown_by("tables.pipeline_text")
    _repr_html_ = shown_by("tables.pipeline_html")


def as_source(source: Any) -> Source:
    """Return a source as it is, and of an observable, an iterable or a frame what makes chunks of its events."""
    if isinstance(source, Observable):
        return ObservableSource(source)
    if isinstance(source, Source):
        return source
    return IterableSource(source if (frame := rows(source)) is None else frame)
