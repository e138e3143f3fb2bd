"""The four contracts, and the description of a pipeline that groups them."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Collection, Hashable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any, get_args
from weakref import ref

from reactivex import Observable
from reactivex.abc import ObserverBase

from rxcompact.clock import Seconds, seconds
from rxcompact.contracts import Enricher, Overflow, Reducer, Sink, Source, StageContext
from rxcompact.errors import ArgumentError
from rxcompact.events import Batch, Window
from rxcompact.fields import JsonKey, JsonTime
from rxcompact.operators import compact, enrich, publish
from rxcompact.operators.bucket import FIELDS, Field, Keep
from rxcompact.operators.options import Mapper
from rxcompact.operators.retry import Predicate, Wait, full_jitter, transient
from rxcompact.render import pipeline_html, pipeline_text
from rxcompact.sinks.function import FunctionSink
from rxcompact.sources.iterable import IterableSource
from rxcompact.sources.observable import ObservableSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Compaction:
    """The reducer of a pipeline: `compact` with these options."""

    timespan: Seconds
    key_mapper: Mapper | str
    count: int | None = None
    keep: Keep = "first"
    fields: Collection[Field] = FIELDS
    time_mapper: Mapper | str | None = None
    lateness: Seconds | None = None

    def __post_init__(self) -> None:
        self._operator()  # which refuses what is out of range, now and not when it is run

    def reduce(self, chunks: Observable[list[Any]], context: StageContext, /) -> Observable[Window]:
        """Return the windows."""
        return chunks.pipe(
            self._operator(
                max_keys=context.max_keys,
                overflow=context.overflow,
                flushes=context.flushes,
                dead_letters=context.dead_letters,
                probe=context.register,
                scheduler=context.scheduler,
            )
        )

    def _operator(self, **context: Any) -> Callable[[Observable[Any]], Observable[Window]]:
        return compact(
            self.timespan,
            key_mapper=self.key_mapper,
            count=self.count,
            keep=self.keep,
            fields=self.fields,
            time_mapper=self.time_mapper,
            lateness=self.lateness,
            chunked=True,
            **context,
        )


class Pipeline:
    """Source → compact → enrich → publish; an immutable description that an `Orchestrator` runs.

    Args:
        source: A `Source`; or an Observable of events, an iterable or an async iterable of them.
        key_mapper: Gives an event's key; or a field's name.
        timespan: Length of a window, seconds.
        sink: A `Sink`; or a function, a coroutine function, or an Observer.
        max_age: Seconds after its birth (its ``first_seen``) at which an event that was not published expires.
        enricher: An `Enricher`; or a function or coroutine function of an event. None leaves events as they are.
        count, keep, fields, time_mapper, lateness: As in `compact`.
        reducer: Takes the place of `compact` and its options.
        max_concurrent, timeout, ordered, cache: As in `enrich`.
        batch_count, batch_timespan, batch_timeout: ``count``, ``timespan`` and ``timeout`` of `publish`.
        wait, retry: As in `enrich`, for both calls.
        max_in_flight: Distinct events that are held in all. When they are, a source that can wait is made to.
        overflow: What becomes of a new key that comes all the same, as in `compact`.

    Raises:
        ArgumentError: for an argument out of range.
    """

    __slots__ = ("_options", "_runs", "enricher", "max_age", "max_in_flight", "overflow", "reducer", "sink", "source")

    def __init__(
        self,
        *,
        source: Source | Observable[Any] | Iterable[Any] | AsyncIterable[Any],
        sink: Sink | Callable[[Batch], Any] | ObserverBase[Any],
        max_age: Seconds,
        key_mapper: Mapper | str | None = None,
        timespan: Seconds | None = None,
        enricher: Enricher | Callable[[Any], Any] | None = None,
        reducer: Reducer | None = None,
        count: int | None = None,
        keep: Keep = "first",
        fields: Collection[Field] = FIELDS,
        time_mapper: Mapper | str | None = None,
        lateness: Seconds | None = None,
        max_concurrent: int = 100,
        timeout: Seconds | None = 10.0,
        ordered: bool = False,
        cache: MutableMapping[Hashable, Any] | None = None,
        batch_count: int = 500,
        batch_timespan: Seconds = 1.0,
        batch_timeout: Seconds | None = 30.0,
        wait: Wait = full_jitter,
        retry: Predicate = transient,
        max_in_flight: int = 100_000,
        overflow: Overflow = "drop_oldest",
    ) -> None:
        if max_in_flight < 1:
            raise ArgumentError("max_in_flight", max_in_flight, "at least 1")
        if overflow not in get_args(Overflow):
            raise ArgumentError("overflow", overflow, f"of {get_args(Overflow)}")
        self._runs: list[ref[Any]] = []
        self.source = _source(source)
        self.sink = _sink(sink)
        self.enricher, merge = _mapper(enricher)
        self.max_age = seconds("max_age", max_age)
        self.max_in_flight = max_in_flight
        self.overflow: Overflow = overflow
        if reducer is None:
            if key_mapper is None or timespan is None:
                raise ArgumentError("key_mapper, timespan", (key_mapper, timespan), "given where reducer is not")
            if "first_seen" not in fields:
                raise ArgumentError("fields", fields, 'with "first_seen", from which an age is counted')
            raw = getattr(self.source, "raw", False)
            reducer = Compaction(
                timespan=timespan,
                key_mapper=JsonKey(key_mapper) if raw and isinstance(key_mapper, str) else key_mapper,
                count=count,
                keep=keep,
                fields=fields,
                time_mapper=JsonTime(time_mapper) if raw and isinstance(time_mapper, str) else time_mapper,
                lateness=lateness,
            )
        self.reducer = reducer
        self._options: dict[str, dict[str, Any]] = {
            "enrich": {
                "max_concurrent": max_concurrent,
                "timeout": timeout,
                "merge": merge,
                "ordered": ordered,
                "cache": cache,
            },
            "publish": {"count": batch_count, "timespan": batch_timespan, "timeout": batch_timeout},
            "retry": {"wait": wait, "retry": retry, "max_age": self.max_age},
        }
        # they too refuse what is out of range now, and not when they are run
        enrich(self.enricher or dict, **self.options("enrich"))
        publish(self.sink.publish, **self.options("publish"))

    def __setattr__(self, name: str, value: object) -> None:
        if hasattr(self, "_options"):
            raise AttributeError(f"a pipeline does not change: {name}")
        super().__setattr__(name, value)

    def run_by(self, orchestrator: Any) -> None:
        """Show the numbers of this orchestrator from now on, as long as there is one."""
        self._runs[:] = [ref(orchestrator)]

    def __repr__(self) -> str:
        return pipeline_text(self)

    def _repr_html_(self) -> str:
        return pipeline_html(self, self._runs[0]() if self._runs else None)

    def options(self, stage: str) -> dict[str, Any]:
        """Return the options of an operator."""
        return self._options[stage] | self._options["retry"]


def _mapper(enricher: Any) -> tuple[Callable[[Any], Any] | None, Callable[[Any, Any], Any] | None]:
    """Return what is asked, and what puts the answer into the event where that is another's business."""
    if hasattr(enricher, "lookup") and hasattr(enricher, "merge"):
        return enricher.lookup, enricher.merge
    if enricher is not None and not callable(enricher) and not isinstance(enricher, Enricher):
        raise ArgumentError("enricher", enricher, "an Enricher, a function or a coroutine function")
    return (enricher.enrich if isinstance(enricher, Enricher) else enricher), None


def _sink(sink: Any) -> Sink:
    # a Subject has a method of that name too, with another meaning
    if isinstance(sink, Sink) and not isinstance(sink, ObserverBase):
        return sink
    if callable(sink) or isinstance(sink, ObserverBase):
        return FunctionSink(sink)
    raise ArgumentError("sink", sink, "a Sink, a function, a coroutine function or an Observer")


def _source(source: Any) -> Source:
    if isinstance(source, Observable):
        return ObservableSource(source)
    if isinstance(source, Source):
        return source
    if isinstance(source, Iterable | AsyncIterable):
        return IterableSource(source)
    raise ArgumentError("source", source, "a Source, an Observable, an iterable or an async iterable")
